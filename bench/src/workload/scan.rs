//! Scans in key order: short ones from anywhere, and the whole table.

use super::{Chooser, Workload};
use crate::error::{Error, Result};
use crate::measure::meter::Meter;
use crate::record::Records;
use crate::store::{Scan, Store};

/// Records of a short scan, and of one stretch of the full one.
const STRETCH: u64 = 100;

/// 100 records from a random key on.
pub struct Short {
    chooser: Chooser,
    records: Records,
}

impl Short {
    pub fn new(chooser: Chooser, records: Records) -> Self {
        Short { chooser, records }
    }
}

impl Workload for Short {
    fn run(&mut self, store: &Store, meter: &mut Meter<'_>) -> Result<()> {
        let snapshot = store.snapshot()?;
        let reader = snapshot.reader()?;
        while meter.at_boundary()? {
            let start = self.records.key(self.chooser.next());
            let read = meter.time(1, || {
                let mut scan = reader.scan_from(start);
                expect_first(start, scan.next_key()?)?;
                let mut read = 1;
                while read < STRETCH && scan.next_key()?.is_some() {
                    read += 1;
                }
                Ok(read)
            })?;
            meter.checked(read);
        }
        Ok(())
    }
}

fn expect_first(start: u64, found: Option<u64>) -> Result<()> {
    match found {
        Some(key) if key == start => Ok(()),
        found => {
            let what = format!("a scan from it began with {found:x?}");
            Err(Error::WrongData { key: start, what })
        }
    }
}

/// All records in order, again and again. A pass that comes to the end is checked for being whole.
pub struct Full {
    count: u64,
    /// The sum of all keys, which a whole pass must find.
    key_sum: u64,
}

impl Full {
    pub fn new(count: u64, records: Records) -> Self {
        let key_sum = (0..count).fold(0u64, |sum, index| sum.wrapping_add(records.key(index)));
        Full { count, key_sum }
    }
}

/// How far a pass has come.
struct Pass<'s> {
    scan: Scan<'s>,
    count: u64,
    key_sum: u64,
}

impl Pass<'_> {
    /// Reads up to 100 records; fewer at the end only.
    fn stretch(&mut self) -> Result<u64> {
        let mut read = 0;
        while read < STRETCH {
            let Some(key) = self.scan.next_key()? else {
                break;
            };
            self.key_sum = self.key_sum.wrapping_add(key);
            read += 1;
        }
        self.count += read;
        Ok(read)
    }
}

impl Workload for Full {
    fn run(&mut self, store: &Store, meter: &mut Meter<'_>) -> Result<()> {
        let snapshot = store.snapshot()?;
        let reader = snapshot.reader()?;
        let begin = || Pass {
            scan: reader.scan_from(0),
            count: 0,
            key_sum: 0,
        };
        let mut pass = begin();
        while meter.at_boundary()? {
            let read = meter.time(STRETCH, || pass.stretch())?;
            meter.checked(read);
            if read < STRETCH {
                self.expect_whole(&pass)?;
                pass = begin();
            }
        }
        Ok(())
    }
}

impl Full {
    fn expect_whole(&self, pass: &Pass<'_>) -> Result<()> {
        if (pass.count, pass.key_sum) == (self.count, self.key_sum) {
            return Ok(());
        }
        let what = format!(
            "a full scan found {} records with key sum {:#x}, not {} with {:#x}",
            pass.count, pass.key_sum, self.count, self.key_sum
        );
        Err(Error::WrongData { key: 0, what })
    }
}
