//! Reads and commits at a fixed rate, while checkpoints come and go: what a checkpoint does to others.
//!
//! Two threads work on records that are in memory, one reading, one writing and committing. Each
//! operation is due at a fixed time, whether those before it are done or not, and what counts is the
//! time from there to its end: a stall delays everybody behind it, as it would with users. (Where a
//! thread is early it sleeps, and what it oversleeps is the kernel's and not counted.) The load is so low that
//! a store that keeps up is idle most of the time, and checkpoints come by themselves.
//!
//! An operation belongs to a checkpoint if one was under way when it began or when it ended.

use std::thread;
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};

use super::{Evidence, Workload};
use crate::error::{Error, Result};
use crate::measure::latency::{Latencies, LatencySummary};
use crate::measure::meter::Meter;
use crate::record::mix;
use crate::spec::Plan;
use crate::store::Store;

/// Records that are read and written: 8 MiB with the default values.
const HOT: usize = 64 << 10;
const READS_PER_S: u32 = 2000;
const COMMITS_PER_S: u32 = 250;
/// Records of a transaction: so many leaves become dirty.
const BATCH: usize = 8;

/// What one thread saw of its operations and of checkpoints.
#[derive(Clone, Debug, Default)]
pub struct Phases {
    /// Reads while no checkpoint ran, and while one did.
    reads: [Latencies; 2],
    commits: [Latencies; 2],
    /// When checkpoints were seen to run, in nanoseconds since the beginning of the window.
    spans: Vec<(u64, u64)>,
}

/// What a row says of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CheckpointPhases {
    /// Reads while no checkpoint ran.
    pub reads_without: LatencySummary,
    /// Reads while one did.
    pub reads_during: LatencySummary,
    /// Transactions while no checkpoint ran.
    pub commits_without: LatencySummary,
    /// Transactions while one did.
    pub commits_during: LatencySummary,
    /// When checkpoints ran: milliseconds since the beginning of the window, from and to.
    pub spans_ms: Vec<(f64, f64)>,
}

impl CheckpointPhases {
    /// How many times as long p99.9 of reads, and of transactions, is during a checkpoint; `None`
    /// where there were too few of either kind for that.
    pub fn ratios(&self) -> [Option<f64>; 2] {
        /// Of fewer, the longest would be the p99.9.
        const ENOUGH: u64 = 100;
        let ratio = |without: &LatencySummary, during: &LatencySummary| {
            (without.count.min(during.count) >= ENOUGH)
                .then(|| during.p999_ns as f64 / without.p999_ns.max(1) as f64)
        };
        [
            ratio(&self.reads_without, &self.reads_during),
            ratio(&self.commits_without, &self.commits_during),
        ]
    }
}

impl Phases {
    /// Adds what the other thread saw; one of them watches the checkpoints.
    pub fn add(&mut self, other: &Phases) {
        for during in 0..2 {
            self.reads[during].add(&other.reads[during]);
            self.commits[during].add(&other.commits[during]);
        }
        self.spans.extend(&other.spans);
    }

    /// In numbers; `None` if nothing was seen, as in other workloads.
    pub fn summary(&self) -> Option<CheckpointPhases> {
        let phases = CheckpointPhases {
            reads_without: self.reads[0].summary(),
            reads_during: self.reads[1].summary(),
            commits_without: self.commits[0].summary(),
            commits_during: self.commits[1].summary(),
            spans_ms: self
                .spans
                .iter()
                .map(|&(from, to)| (from as f64 / 1e6, to as f64 / 1e6))
                .collect(),
        };
        (phases != CheckpointPhases::default()).then_some(phases)
    }

    fn note_running(&mut self, is_running: bool, was_running: bool, now: Duration) {
        let now = now.as_nanos() as u64;
        match (self.spans.last_mut(), was_running, is_running) {
            (Some(span), true, _) => span.1 = now,
            (_, _, true) => self.spans.push((now, now)),
            _ => {}
        }
    }
}

/// One of the two threads: the first reads, the second commits.
pub struct Steady {
    random: SmallRng,
    reads: bool,
    keys: Vec<(u64, u64)>,
    phases: Phases,
    was_running: bool,
}

impl Steady {
    pub fn new(plan: &Plan, thread: u32) -> Self {
        let stream = u64::from(plan.repetition) << 32 | u64::from(thread);
        Steady {
            random: SmallRng::seed_from_u64(mix(plan.seed) ^ stream),
            reads: thread == 0,
            keys: Vec::new(),
            phases: Phases::default(),
            was_running: false,
        }
    }

    /// Reads the hot records, which also brings them into memory.
    fn choose_keys(&mut self, store: &Store) -> Result<()> {
        let snapshot = store.snapshot()?;
        let mut scan = snapshot.reader()?.scan_from(0);
        while self.keys.len() < HOT
            && let Some(key) = scan.next_key()?
        {
            self.keys.push((key, 0));
        }
        if self.keys.is_empty() {
            return Err(Error::bad_option("records", "there must be one at least"));
        }
        Ok(())
    }

    fn index(&mut self) -> usize {
        self.random.random_range(0..self.keys.len())
    }

    fn read(&mut self, store: &Store) -> Result<()> {
        let index = self.index();
        let (key, _) = self.keys[index];
        store.snapshot()?.reader()?.get(key)?;
        Ok(())
    }

    fn commit(&mut self, store: &Store) -> Result<()> {
        let chosen = [(); BATCH].map(|()| self.index());
        let mut txn = store.transaction()?;
        for index in chosen {
            let (key, generation) = self.keys[index];
            txn.put(key, generation + 1)?;
            self.keys[index].1 = generation + 1;
        }
        txn.commit()
    }
}

impl Workload for Steady {
    fn run(&mut self, store: &Store, meter: &mut Meter<'_>) -> Result<()> {
        self.choose_keys(store)?;
        let per_s = if self.reads {
            READS_PER_S
        } else {
            COMMITS_PER_S
        };
        let period = Duration::from_secs(1) / per_s;
        let mut due = Instant::now();
        let mut warming = true;
        while meter.at_boundary()? {
            if std::mem::replace(&mut warming, meter.is_warming()) && !warming {
                (self.phases, self.was_running) = (Phases::default(), false);
            }
            due += period;
            let mut from = due;
            let early = due.saturating_duration_since(Instant::now());
            if !early.is_zero() {
                thread::sleep(early);
                from = Instant::now();
            }
            let before = store.checkpoint_is_running();
            let took = meter.time_from(from, || {
                if self.reads {
                    self.read(store)
                } else {
                    self.commit(store)
                }
            })?;
            let after = store.checkpoint_is_running();
            let during = usize::from(before || after);
            if self.reads {
                meter.checked(1);
                self.phases.reads[during].record(took);
                self.phases
                    .note_running(after, self.was_running, meter.since_window_began());
                self.was_running = after;
            } else {
                meter.committed(took);
                self.phases.commits[during].record(took);
            }
        }
        Ok(())
    }

    fn evidence(&self) -> Evidence {
        let written = self.keys.iter().filter(|(_, generation)| *generation > 0);
        Evidence {
            records_added: 0,
            written: written.copied().collect(),
        }
    }

    fn phases(&self) -> Phases {
        self.phases.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_lasts_from_the_first_to_the_last_look_that_saw_it_running() {
        let mut phases = Phases::default();
        let mut was = false;
        for (ms, is) in [(1, false), (2, true), (3, true), (4, false), (9, true)] {
            phases.note_running(is, was, Duration::from_millis(ms));
            was = is;
        }
        let spans = phases.summary().unwrap().spans_ms;
        assert_eq!(spans, [(2.0, 4.0), (9.0, 9.0)]);
    }

    #[test]
    fn a_ratio_needs_enough_of_both_kinds() {
        let mut phases = Phases::default();
        assert_eq!(phases.summary(), None);
        for _ in 0..200 {
            phases.reads[0].record(Duration::from_micros(10));
            phases.reads[1].record(Duration::from_micros(30));
            phases.commits[0].record(Duration::from_micros(10));
        }
        let [reads, commits] = phases.summary().unwrap().ratios();
        assert!((reads.unwrap() - 3.0).abs() < 0.1, "{reads:?}");
        assert_eq!(commits, None);
    }
}
