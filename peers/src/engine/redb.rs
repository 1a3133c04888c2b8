//! redb.
//!
//! Keys are `[u8; 8]`, whose fixed width redb makes use of. Its cache gets half of a memory limit,
//! since it reads through the page cache. Without durability it commits with `Durability::None`.

use std::path::Path;

use redb::{Database, Durability, ReadOnlyTable, ReadableDatabase, TableDefinition};

use super::{Engine, Key, Reader, Setup, Value, cache_bytes};
use crate::Result;

const TABLE: TableDefinition<'_, Key, &[u8]> = TableDefinition::new("records");

/// An open database.
pub struct Redb {
    db: Database,
    durable: bool,
    cache_bytes: u64,
}

/// A table in a read transaction.
pub struct Snapshot(ReadOnlyTable<Key, &'static [u8]>);

impl Redb {
    fn write(
        &self,
        durability: Durability,
        records: &mut dyn Iterator<Item = (Key, Value)>,
    ) -> Result<()> {
        let mut txn = self.db.begin_write()?;
        txn.set_durability(durability)?;
        let mut table = txn.open_table(TABLE)?;
        for (key, value) in records {
            table.insert(key, &value[..])?;
        }
        drop(table);
        Ok(txn.commit()?)
    }
}

impl Engine for Redb {
    type Reader<'r> = Snapshot;

    fn open(dir: &Path, setup: &Setup) -> Result<Self> {
        let cache_bytes = cache_bytes(setup);
        let db = Database::builder()
            .set_cache_size(cache_bytes as usize)
            .create(dir.join("redb"))?;
        Ok(Redb {
            db,
            durable: setup.durable,
            cache_bytes,
        })
    }

    fn describe(&self) -> String {
        format!("redb, cache of {} MiB", self.cache_bytes >> 20)
    }

    fn read<T>(&self, work: impl for<'r> FnOnce(&mut Snapshot) -> Result<T>) -> Result<T> {
        work(&mut Snapshot(self.db.begin_read()?.open_table(TABLE)?))
    }

    fn put(&self, records: &[(Key, Value)]) -> Result<()> {
        let durability = if self.durable {
            Durability::Immediate
        } else {
            Durability::None
        };
        self.write(durability, &mut records.iter().copied())
    }

    fn load_sorted(&self, records: &mut dyn Iterator<Item = (Key, Value)>) -> Result<()> {
        self.write(Durability::Immediate, records)
    }

    fn sync(&self) -> Result<()> {
        self.write(Durability::Immediate, &mut std::iter::empty())
    }

    fn close(self) -> Result<()> {
        Ok(self.db.close()?)
    }
}

impl Reader for Snapshot {
    fn get(&mut self, key: &Key, look: impl FnOnce(&[u8])) -> Result<bool> {
        Ok(self.0.get(key)?.map(|value| look(value.value())).is_some())
    }

    fn scan(
        &mut self,
        from: &Key,
        expected: usize,
        mut visit: impl FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<()> {
        for entry in self.0.range::<&Key>(from..)?.take(expected) {
            let (key, value) = entry?;
            if !visit(&key.value(), value.value()) {
                break;
            }
        }
        Ok(())
    }
}
