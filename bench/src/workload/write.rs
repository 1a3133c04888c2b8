//! Random writes in durable transactions: overwrites, and new records.
//!
//! A transaction has 1000 records, and is durable by the redo log when its commit returns. One whose
//! time is up earlier is committed with what it has, so that a pager that needs seconds for 1000 cold
//! pages still ends its window with a commit. A batch is one call, and always whole.

use std::collections::HashMap;
use std::time::Instant;

use super::{Chooser, Evidence, Workload};
use crate::error::{Error, Result};
use crate::measure::meter::Meter;
use crate::record::Records;
use crate::store::Store;

/// Records of a transaction.
const BATCH: u64 = 1000;
/// Transactions at the end of a run whose records are read back.
const REMEMBERED: usize = 4;

/// How the records of a transaction are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// By a call for each, in a transaction that is open meanwhile.
    OneByOne,
    /// By one call, which knows them all beforehand.
    Batched,
}

/// Overwrites of random records.
pub struct Update {
    style: Style,
    chooser: Chooser,
    records: Records,
    /// The generation of the next transaction; as loaded it is 0.
    generation: u64,
    remembered: Remembered,
}

impl Update {
    pub fn new(chooser: Chooser, records: Records, style: Style) -> Self {
        Update {
            style,
            chooser,
            records,
            generation: 1,
            remembered: Remembered::default(),
        }
    }
}

impl Workload for Update {
    fn run(&mut self, store: &Store, meter: &mut Meter<'_>) -> Result<()> {
        while meter.at_boundary()? {
            let (chooser, records, generation) =
                (&mut self.chooser, &self.records, self.generation);
            let mut next_key = || records.key(chooser.next());
            let written = match self.style {
                Style::OneByOne => transaction(store, meter, generation, true, next_key)?,
                Style::Batched => {
                    let keys: Vec<u64> = (0..BATCH).map(|_| next_key()).collect();
                    batch(store, meter, generation, &keys)?;
                    keys
                }
            };
            self.remembered.push(generation, written);
            self.generation += 1;
        }
        Ok(())
    }

    fn evidence(&self) -> Evidence {
        Evidence {
            records_added: 0,
            written: self.remembered.newest(),
        }
    }
}

/// New records, whose keys fall anywhere among the old ones.
pub struct Insert {
    records: Records,
    first_index: u64,
    next_index: u64,
    remembered: Remembered,
}

impl Insert {
    pub fn new(count: u64, records: Records) -> Self {
        Insert {
            records,
            first_index: count,
            next_index: count,
            remembered: Remembered::default(),
        }
    }
}

impl Workload for Insert {
    fn run(&mut self, store: &Store, meter: &mut Meter<'_>) -> Result<()> {
        while meter.at_boundary()? {
            let (records, next_index) = (&self.records, &mut self.next_index);
            let written = transaction(store, meter, 0, false, || {
                *next_index += 1;
                records.key(*next_index - 1)
            })?;
            self.remembered.push(0, written);
        }
        Ok(())
    }

    fn evidence(&self) -> Evidence {
        let records_added = self.next_index - self.first_index;
        Evidence {
            records_added,
            written: self.remembered.newest(),
        }
    }
}

/// Writes and commits one transaction, and returns its keys.
fn transaction(
    store: &Store,
    meter: &mut Meter<'_>,
    generation: u64,
    expect_old: bool,
    mut next_key: impl FnMut() -> u64,
) -> Result<Vec<u64>> {
    let mut txn = store.transaction()?;
    let mut keys = Vec::with_capacity(BATCH as usize);
    while (keys.len() as u64) < BATCH && (keys.is_empty() || !meter.phase_is_over()) {
        let key = next_key();
        let had_old = meter.time(1, || txn.put(key, generation))?;
        if had_old != expect_old {
            let what = format!("a write said that it was there before: {had_old}");
            return Err(Error::WrongData { key, what });
        }
        keys.push(key);
    }
    meter.time_commit(|| txn.commit())?;
    Ok(keys)
}

/// Collects and applies one batch, which is its own commit.
fn batch(store: &Store, meter: &mut Meter<'_>, generation: u64, keys: &[u64]) -> Result<()> {
    let took = meter.time(keys.len() as u64, || {
        let from = Instant::now();
        store.apply(keys, generation)?;
        Ok(from.elapsed())
    })?;
    meter.committed(took);
    Ok(())
}

/// The last transactions.
#[derive(Default)]
struct Remembered {
    newest_last: Vec<(u64, Vec<u64>)>,
}

impl Remembered {
    fn push(&mut self, generation: u64, keys: Vec<u64>) {
        if self.newest_last.len() == REMEMBERED {
            self.newest_last.remove(0);
        }
        self.newest_last.push((generation, keys));
    }

    /// Every key in them with the generation that was written last.
    fn newest(&self) -> Vec<(u64, u64)> {
        let written = self.newest_last.iter();
        let all = written.flat_map(|(generation, keys)| keys.iter().map(|&key| (key, *generation)));
        let newest: HashMap<u64, u64> = all.collect();
        let mut newest: Vec<_> = newest.into_iter().collect();
        newest.sort_unstable();
        newest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_written_twice_is_remembered_with_its_last_generation() {
        let mut remembered = Remembered::default();
        remembered.push(1, vec![10, 20]);
        remembered.push(2, vec![20, 30]);
        assert_eq!(remembered.newest(), [(10, 1), (20, 2), (30, 2)]);
    }

    #[test]
    fn only_the_last_transactions_are_remembered() {
        let mut remembered = Remembered::default();
        (1..=REMEMBERED as u64 + 2).for_each(|n| remembered.push(n, vec![n]));
        let generations: Vec<u64> = remembered.newest().into_iter().map(|(_, g)| g).collect();
        assert_eq!(generations, [3, 4, 5, 6]);
    }
}
