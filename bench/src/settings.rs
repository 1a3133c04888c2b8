//! What a comparison was asked to do, and the memory that it can have for it.

use std::path::PathBuf;
use std::time::Duration;

use crate::cgroup::{self, Group, Located};
use crate::environment::available_memory_bytes;
use crate::error::{Error, Result};
use crate::spec::{PagerSpec, WorkloadKind};
use crate::units::MIB;

/// Frames that the smallest pool has, so that a tree's path and a few batches fit.
const POOL_FRAMES_MIN: u64 = 256;

/// What is compared with what, and how.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Memory of each run; `None` for no limit.
    pub limit_bytes: Option<u64>,
    /// Go on without a limit where none can be made.
    pub limit_is_optional: bool,
    /// Bytes of keys and values for each byte of memory.
    pub ratio: f64,
    /// Memory of the pool; `None` for the limit less the reserve.
    pub pool_bytes: Option<u64>,
    /// Memory left to the process beside the pool.
    pub reserve_bytes: u64,
    /// The pagers.
    pub pagers: Vec<PagerSpec>,
    /// The workloads.
    pub workloads: Vec<WorkloadKind>,
    /// The page sizes.
    pub page_sizes: Vec<u64>,
    /// Threads of reading workloads; writing ones have their own number.
    pub threads: u32,
    /// The window's length.
    pub measure: Duration,
    /// The longest warm-up.
    pub warmup_max: Duration,
    /// Repetitions of the whole set.
    pub repetitions: u32,
    /// Leave out repetitions that would not end within this time from the start.
    pub time_budget: Option<Duration>,
    /// What keys, values and choices are drawn from.
    pub seed: u64,
    /// Bytes of a value.
    pub value_bytes: u64,
    /// Below which directory database files live.
    pub dir: PathBuf,
    /// Where results go; `None` for a new directory named after the time.
    pub out: Option<PathBuf>,
    /// Record the accesses to pages that pools are asked for.
    pub trace: bool,
    /// Only say what would be done.
    pub dry_run: bool,
}

/// How memory is limited, decided before anything runs.
pub struct Limit {
    /// Where groups can be made; `None` if memory is not limited.
    pub located: Option<Located>,
    /// The limit, or the memory that is free without one.
    pub memory_bytes: u64,
    /// What the interface is called in the rows.
    pub mechanism: String,
    /// Memory of the pool.
    pub pool_bytes: u64,
}

impl Settings {
    /// Decides how memory is limited, and makes a group once to see that it can be had.
    ///
    /// # Errors
    /// [`Error::LimitTooSmall`], [`Error::LimitAbove`], [`Error::NoLimit`].
    pub fn limit(&self) -> Result<Limit> {
        if let Some(limit) = self.limit_bytes {
            // Whatever the machine, a pool that does not fit is refused first.
            let pool_bytes = self.pool_within(limit)?;
            match try_limit(limit) {
                Ok((located, mechanism)) => {
                    let located = Some(located);
                    return Ok(Limit {
                        located,
                        memory_bytes: limit,
                        mechanism,
                        pool_bytes,
                    });
                }
                Err(error @ Error::NoLimit { .. }) if self.limit_is_optional => {
                    eprintln!("note: {error}\ngoing on WITHOUT a limit: rates mean nothing");
                    let mechanism = "none".to_owned();
                    return Ok(Limit {
                        located: None,
                        memory_bytes: limit,
                        mechanism,
                        pool_bytes,
                    });
                }
                Err(error) => return Err(error),
            }
        }
        let memory_bytes = available_memory_bytes()
            .ok_or_else(|| Error::bad_option("--no-limit", "the machine's memory is not known"))?;
        // Whole-machine pressure: leave an eighth to everybody else, and the reserve.
        let pool_bytes = self.pool_within(memory_bytes - memory_bytes / 8)?;
        Ok(Limit {
            located: None,
            memory_bytes,
            mechanism: "none".to_owned(),
            pool_bytes,
        })
    }

    /// The pool's memory within `memory` bytes.
    fn pool_within(&self, memory: u64) -> Result<u64> {
        let largest_page = self.page_sizes.iter().copied().max().unwrap_or(4096);
        let smallest = POOL_FRAMES_MIN * largest_page;
        let room = memory.saturating_sub(self.reserve_bytes);
        let pool = self.pool_bytes.unwrap_or(room);
        if pool > room || pool < smallest {
            return Err(Error::LimitTooSmall {
                limit_mib: memory / MIB,
                pool_mib: pool.max(smallest) / MIB,
                reserve_mib: self.reserve_bytes / MIB,
            });
        }
        Ok(pool)
    }

    /// Runs of the whole comparison.
    pub fn runs(&self) -> u64 {
        let per_repetition = self.page_sizes.len() * self.workloads.len() * self.pagers.len();
        per_repetition as u64 * u64::from(self.repetitions)
    }
}

fn try_limit(limit: u64) -> Result<(Located, String)> {
    let located = cgroup::locate()?;
    cgroup::remove_leftovers(&located);
    if let Some(allowed) = cgroup::ancestor_limit_bytes(&located)
        && allowed < limit
    {
        return Err(Error::LimitAbove {
            allowed_mib: allowed / MIB,
        });
    }
    let group = Group::create(&located, 0, limit)?;
    let mechanism = group.path().mechanism().to_owned();
    Ok((located, mechanism))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(limit_mib: u64, pool_mib: Option<u64>) -> Settings {
        Settings {
            limit_bytes: Some(limit_mib * MIB),
            limit_is_optional: false,
            ratio: 4.0,
            pool_bytes: pool_mib.map(|mib| mib * MIB),
            reserve_bytes: 16 * MIB,
            pagers: vec![],
            workloads: vec![],
            page_sizes: vec![4096],
            threads: 1,
            measure: Duration::from_secs(1),
            warmup_max: Duration::from_secs(1),
            repetitions: 1,
            time_budget: None,
            seed: 1,
            value_bytes: 120,
            dir: PathBuf::new(),
            out: None,
            trace: false,
            dry_run: true,
        }
    }

    #[test]
    fn the_pool_gets_the_limit_less_the_reserve() {
        assert_eq!(settings(64, None).pool_within(64 * MIB).unwrap(), 48 * MIB);
        assert_eq!(
            settings(64, Some(20)).pool_within(64 * MIB).unwrap(),
            20 * MIB
        );
    }

    #[test]
    fn a_limit_smaller_than_the_pool_is_refused_before_anything_runs() {
        for (limit, pool) in [(64, Some(49)), (64, Some(1000)), (16, None), (8, None)] {
            match settings(limit, pool).limit() {
                Err(Error::LimitTooSmall { .. }) => {}
                other => panic!("{limit} {pool:?}: {:?}", other.err()),
            }
        }
    }

    #[test]
    fn pages_that_are_larger_need_a_larger_pool() {
        let settings = Settings {
            page_sizes: vec![4096, 65_536],
            ..settings(24, None)
        };
        let refused = settings.pool_within(24 * MIB);
        assert!(
            matches!(refused, Err(Error::LimitTooSmall { pool_mib: 16, .. })),
            "{refused:?}"
        );
    }
}
