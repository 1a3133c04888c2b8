//! Bifolio itself, under either pager, with its defaults.
//!
//! Under a memory limit the pool sizes itself (`PoolSize::Auto`), and bypasses the page cache; with
//! plenty of memory it has twice the data. Without durability a commit is of `Durability::Checkpoint`.

use std::path::Path;

use ::bifolio::{
    Database, Durability, MmapConfig, Options, PagerChoice, PoolConfig, PoolSize, Table,
};

use super::{Engine, Key, Reader, Setup, Value, Variant, cache_bytes};
use crate::Result;

const TABLE: &str = "records";

/// An open database.
pub struct Bifolio {
    db: Database,
    durability: Durability,
}

/// The table in a snapshot.
pub struct Snapshot<'r>(Table<'r>);

impl Engine for Bifolio {
    type Reader<'r> = Snapshot<'r>;

    fn open(dir: &Path, setup: &Setup) -> Result<Self> {
        let pager = match setup.variant {
            Variant::Mmap => PagerChoice::Mmap(MmapConfig::default()),
            _ => PagerChoice::Pool(PoolConfig {
                size: match setup.limit_bytes {
                    Some(_) => PoolSize::Auto,
                    None => PoolSize::Bytes(cache_bytes(setup)),
                },
                ..PoolConfig::default()
            }),
        };
        let db = Options::new().pager(pager).create(dir.join("bifolio"))?;
        let durability = if setup.durable {
            Durability::Sync
        } else {
            Durability::Checkpoint
        };
        Ok(Bifolio { db, durability })
    }

    fn describe(&self) -> String {
        self.db.effective_backend()
    }

    fn read<T>(&self, work: impl for<'r> FnOnce(&mut Snapshot<'r>) -> Result<T>) -> Result<T> {
        let txn = self.db.read()?;
        work(&mut Snapshot(txn.table(TABLE)?))
    }

    fn put(&self, records: &[(Key, Value)]) -> Result<()> {
        let mut txn = self.db.write()?;
        let mut table = txn.table(TABLE)?;
        for (key, value) in records {
            table.insert(key, value)?;
        }
        txn.commit_with(self.durability)?;
        Ok(())
    }

    fn load_sorted(&self, records: &mut dyn Iterator<Item = (Key, Value)>) -> Result<()> {
        let mut txn = self.db.write()?;
        txn.table(TABLE)?.bulk_load(records)?;
        txn.commit()?;
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        Ok(self.db.checkpoint()?)
    }

    fn close(self) -> Result<()> {
        Ok(self.db.close()?)
    }
}

impl Reader for Snapshot<'_> {
    fn get(&mut self, key: &Key, look: impl FnOnce(&[u8])) -> Result<bool> {
        Ok(self.0.get_with(key, look)?.is_some())
    }

    fn get_many(&mut self, keys: &[Key], mut look: impl FnMut(usize, &[u8])) -> Result<()> {
        self.0.get_many(keys, |index, value| {
            if let Some(value) = value {
                look(index, value);
            }
        })?;
        Ok(())
    }

    fn scan(
        &mut self,
        from: &Key,
        expected: usize,
        mut visit: impl FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<()> {
        let mut range = self.0.range::<&Key>(from..).expect(expected as u64);
        for _ in 0..expected {
            match range.next_entry()? {
                Some((key, value)) if visit(key, value) => {}
                _ => break,
            }
        }
        Ok(())
    }
}
