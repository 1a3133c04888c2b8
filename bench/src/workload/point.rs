//! Random point reads: one key at a time, or many in one call.

use super::{Chooser, Workload};
use crate::error::Result;
use crate::measure::meter::Meter;
use crate::record::{KEY_LEN, Records};
use crate::store::{Reader, Store};

/// Keys of one `get_many`.
const BATCH: usize = 64;

/// One `get` at a time.
pub struct Single {
    chooser: Chooser,
    records: Records,
}

impl Single {
    pub fn new(chooser: Chooser, records: Records) -> Self {
        Single { chooser, records }
    }
}

impl Workload for Single {
    fn run(&mut self, store: &Store, meter: &mut Meter<'_>) -> Result<()> {
        let snapshot = store.snapshot()?;
        let reader = snapshot.reader()?;
        while meter.at_boundary()? {
            if meter.is_warming() {
                // Fills memory with the pages that single reads would bring, sooner.
                read_batch(&mut self.chooser, &self.records, &reader, meter)?;
                continue;
            }
            let key = self.records.key(self.chooser.next());
            meter.time(1, || reader.get(key))?;
            meter.checked(1);
        }
        Ok(())
    }
}

/// `get_many`, 64 keys a call.
pub struct Batch {
    chooser: Chooser,
    records: Records,
}

impl Batch {
    pub fn new(chooser: Chooser, records: Records) -> Self {
        Batch { chooser, records }
    }
}

impl Workload for Batch {
    fn run(&mut self, store: &Store, meter: &mut Meter<'_>) -> Result<()> {
        let snapshot = store.snapshot()?;
        let reader = snapshot.reader()?;
        while meter.at_boundary()? {
            read_batch(&mut self.chooser, &self.records, &reader, meter)?;
        }
        Ok(())
    }
}

fn read_batch(
    chooser: &mut Chooser,
    records: &Records,
    reader: &Reader<'_>,
    meter: &mut Meter<'_>,
) -> Result<()> {
    let keys: [[u8; KEY_LEN]; BATCH] =
        std::array::from_fn(|_| records.key(chooser.next()).to_be_bytes());
    meter.time(BATCH as u64, || reader.get_many(&keys))?;
    meter.checked(BATCH as u64);
    Ok(())
}
