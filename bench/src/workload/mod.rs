//! The workloads: what is done to the store, and how it is known to have been right.
//!
//! A workload runs on one thread, by its [`Meter`], until the meter says that it is over. While the
//! meter is warming it may do anything that brings into memory what its own operations would; from
//! then on it does only them. It checks everything it reads. What it wrote it reports as
//! [`Evidence`], which is checked after the process that wrote it has ended, through the *other*
//! pager and without a memory limit.

mod commit;
mod point;
mod scan;
pub mod steady;
mod write;

use std::fmt;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use rand_distr::{Distribution, Zipf};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::measure::meter::Meter;
use crate::record::{Records, mix};
use crate::spec::{Plan, WorkloadKind};
use crate::store::Store;

/// Operations on a store, chosen at random from a seed.
pub trait Workload: Send {
    /// Works until `meter` says that it is over.
    ///
    /// # Errors
    /// [`Error::WrongData`] for anything read that was not written; whatever the store says.
    fn run(&mut self, store: &Store, meter: &mut Meter<'_>) -> Result<()>;

    /// What it changed.
    fn evidence(&self) -> Evidence {
        Evidence::default()
    }

    /// What it saw of checkpoints, if it looked.
    fn phases(&self) -> steady::Phases {
        steady::Phases::default()
    }
}

/// What a writing workload claims to have committed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// Records that were not there before.
    pub records_added: u64,
    /// Keys, with the generation that was written last.
    pub written: Vec<(u64, u64)>,
}

impl Evidence {
    /// Adds what another thread wrote; threads write no key in common.
    pub fn add(&mut self, other: Evidence) {
        self.records_added += other.records_added;
        self.written.extend(other.written);
    }
}

/// The workload of this plan for thread `thread`.
///
/// # Errors
/// [`Error::BadOption`] if the plan has no records to choose from.
pub fn build(plan: &Plan, thread: u32) -> Result<Box<dyn Workload>> {
    if plan.records == 0 {
        return Err(Error::bad_option("records", "there must be one at least"));
    }
    let records = Records::new(plan.seed, plan.value_bytes as usize);
    let chooser = |popularity| Chooser::new(plan, thread, popularity);
    Ok(match plan.workload {
        WorkloadKind::PointUniform => {
            Box::new(point::Single::new(chooser(Popularity::Uniform)?, records))
        }
        WorkloadKind::PointZipf => {
            Box::new(point::Single::new(chooser(Popularity::Zipf)?, records))
        }
        WorkloadKind::PointBatch => {
            Box::new(point::Batch::new(chooser(Popularity::Uniform)?, records))
        }
        WorkloadKind::ScanShort => {
            Box::new(scan::Short::new(chooser(Popularity::Uniform)?, records))
        }
        WorkloadKind::ScanFull => Box::new(scan::Full::new(plan.records, records)),
        WorkloadKind::UpdateRandom => Box::new(write::Update::new(
            chooser(Popularity::Uniform)?,
            records,
            write::Style::OneByOne,
        )),
        WorkloadKind::UpdateBatch => Box::new(write::Update::new(
            chooser(Popularity::Uniform)?,
            records,
            write::Style::Batched,
        )),
        WorkloadKind::InsertRandom => Box::new(write::Insert::new(plan.records, records)),
        WorkloadKind::CommitOne | WorkloadKind::CommitEight => {
            Box::new(commit::Single::new(plan, thread))
        }
        WorkloadKind::Checkpoint => Box::new(steady::Steady::new(plan, thread)),
        WorkloadKind::Recovery => {
            let why = "opens the store itself, so it is no work on one that is open";
            return Err(Error::bad_option("workload", why));
        }
    })
}

/// How often a record is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Popularity {
    /// Each as often as any other.
    Uniform,
    /// The n-th most popular with a share that falls as n^-0.99. Popular records lie all over the
    /// file, because their numbers are scrambled into keys.
    Zipf,
}

/// The exponent of the zipfian choice, as YCSB has it.
const ZIPF_EXPONENT: f64 = 0.99;

/// Chooses records at random.
struct Chooser {
    random: SmallRng,
    records: u64,
    zipf: Option<Zipf<f64>>,
}

impl Chooser {
    fn new(plan: &Plan, thread: u32, popularity: Popularity) -> Result<Self> {
        let zipf = match popularity {
            Popularity::Uniform => None,
            Popularity::Zipf => Some(
                Zipf::new(plan.records as f64, ZIPF_EXPONENT)
                    .map_err(|error| Error::bad_option("records", error.to_string()))?,
            ),
        };
        // Each repetition chooses otherwise; each pager of a repetition chooses the same.
        let stream = u64::from(plan.repetition) << 32 | u64::from(thread);
        let random = SmallRng::seed_from_u64(mix(plan.seed) ^ stream);
        Ok(Chooser {
            random,
            records: plan.records,
            zipf,
        })
    }

    /// The number of a record.
    fn next(&mut self) -> u64 {
        match &self.zipf {
            None => self.random.random_range(0..self.records),
            // The rank is from 1 to the number of records, as a whole `f64`.
            Some(zipf) => (zipf.sample(&mut self.random) as u64).clamp(1, self.records) - 1,
        }
    }
}

impl fmt::Debug for Chooser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chooser")
            .field("records", &self.records)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::tests::plan;

    #[test]
    fn a_uniform_choice_reaches_every_record_and_none_beyond() {
        let mut plan = plan();
        plan.records = 10;
        let mut chooser = Chooser::new(&plan, 0, Popularity::Uniform).unwrap();
        let mut seen = [0; 10];
        (0..1000).for_each(|_| seen[chooser.next() as usize] += 1);
        assert!(seen.iter().all(|&times| times > 50), "{seen:?}");
    }

    #[test]
    fn a_zipfian_choice_prefers_the_first_records_and_stays_in_range() {
        let mut plan = plan();
        plan.records = 1000;
        let mut chooser = Chooser::new(&plan, 0, Popularity::Zipf).unwrap();
        let chosen: Vec<u64> = (0..10_000).map(|_| chooser.next()).collect();
        assert!(chosen.iter().all(|&index| index < 1000));
        let first = chosen.iter().filter(|&&index| index == 0).count();
        assert!(
            (1000..1700).contains(&first),
            "the first has about 13 %: {first}"
        );
    }

    #[test]
    fn every_pager_gets_the_same_choices_and_every_repetition_others() {
        let chosen = |repetition| {
            let plan = Plan {
                repetition,
                records: 1 << 40,
                ..plan()
            };
            let mut chooser = Chooser::new(&plan, 0, Popularity::Uniform).unwrap();
            [chooser.next(), chooser.next()]
        };
        assert_eq!(chosen(1), chosen(1));
        assert_ne!(chosen(1), chosen(2));
    }

    #[test]
    fn no_records_is_an_error() {
        for workload in WorkloadKind::ALL {
            assert!(
                build(
                    &Plan {
                        records: 0,
                        workload,
                        ..plan()
                    },
                    0
                )
                .is_err()
            );
        }
    }
}
