//! One record overwritten in each durable transaction: what a sync costs, and what sharing it brings.
//!
//! The records are the first few thousand in the order of the keys, which are neighbours in the file
//! and so in memory whatever the limit. Each thread has its own of them, so that it knows what it
//! wrote last.

use std::time::Instant;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::{Evidence, Workload};
use crate::error::{Error, Result};
use crate::measure::meter::Meter;
use crate::record::mix;
use crate::spec::Plan;
use crate::store::Store;

/// Records that are overwritten, by all threads together: half a megabyte with the default values.
const HOT: usize = 4096;

/// One record per transaction.
pub struct Single {
    random: SmallRng,
    thread: u32,
    threads: u32,
    /// The keys of this thread, each with the generation that was committed last; 0 as loaded.
    keys: Vec<(u64, u64)>,
}

impl Single {
    pub fn new(plan: &Plan, thread: u32) -> Self {
        let stream = u64::from(plan.repetition) << 32 | u64::from(thread);
        Single {
            random: SmallRng::seed_from_u64(mix(plan.seed) ^ stream),
            thread,
            threads: plan.threads,
            keys: Vec::new(),
        }
    }

    /// Reads the hot records, which also brings them into memory, and takes this thread's of them.
    fn choose_keys(&mut self, store: &Store) -> Result<()> {
        let snapshot = store.snapshot()?;
        let mut scan = snapshot.reader()?.scan_from(0);
        for index in 0..HOT {
            let Some(key) = scan.next_key()? else {
                break;
            };
            if index % self.threads.max(1) as usize == self.thread as usize {
                self.keys.push((key, 0));
            }
        }
        if self.keys.is_empty() {
            let why = "there must be one at least for each thread that commits";
            return Err(Error::bad_option("records", why));
        }
        Ok(())
    }
}

impl Workload for Single {
    fn run(&mut self, store: &Store, meter: &mut Meter<'_>) -> Result<()> {
        self.choose_keys(store)?;
        while meter.at_boundary()? {
            let index = self.random.random_range(0..self.keys.len());
            let (key, generation) = &mut self.keys[index];
            let commit = meter.time(1, || {
                let mut txn = store.transaction()?;
                if !txn.put(*key, *generation + 1)? {
                    let what = "a write said that it was not there before".to_owned();
                    return Err(Error::WrongData { key: *key, what });
                }
                let from = Instant::now();
                txn.commit()?;
                Ok(from.elapsed())
            })?;
            *generation += 1;
            meter.committed(commit);
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
}
