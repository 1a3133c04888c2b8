//! fjall, a log-structured store.
//!
//! Its block cache gets a quarter of a memory limit and each write buffer a sixteenth, since it reads
//! through the page cache too. Durable means `PersistMode::SyncData` with each batch. Sorted
//! loads go through its ingestion; after a load in random order the compactions that are due are
//! waited for, as [`Engine::sync`] does for every engine.

use std::path::Path;
use std::thread;
use std::time::Duration;

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode, Readable, Snapshot as Nonce};

use super::{Engine, Key, Reader, Setup, Value, cache_bytes};
use crate::Result;

/// An open database.
pub struct Fjall {
    db: Database,
    table: Keyspace,
    durable: bool,
    cache_bytes: u64,
}

/// A snapshot of the table.
pub struct Snapshot<'r> {
    nonce: Nonce,
    table: &'r Keyspace,
}

impl Engine for Fjall {
    type Reader<'r> = Snapshot<'r>;

    fn open(dir: &Path, setup: &Setup) -> Result<Self> {
        let mut cache_bytes = cache_bytes(setup);
        let builder = Database::builder(dir.join("fjall"));
        if setup.limit_bytes.is_some() {
            cache_bytes /= 2;
        }
        let db = builder.cache_size(cache_bytes).open()?;
        let table = db.keyspace("records", || {
            let options = KeyspaceCreateOptions::default();
            match setup.limit_bytes {
                Some(_) => options.max_memtable_size(cache_bytes / 4),
                None => options,
            }
        })?;
        Ok(Fjall {
            db,
            table,
            durable: setup.durable,
            cache_bytes,
        })
    }

    fn describe(&self) -> String {
        format!("fjall, cache of {} MiB", self.cache_bytes >> 20)
    }

    fn read<T>(&self, work: impl for<'r> FnOnce(&mut Snapshot<'r>) -> Result<T>) -> Result<T> {
        work(&mut Snapshot {
            nonce: self.db.snapshot(),
            table: &self.table,
        })
    }

    fn put(&self, records: &[(Key, Value)]) -> Result<()> {
        let mode = self.durable.then_some(PersistMode::SyncData);
        let mut batch = self.db.batch().durability(mode);
        for (key, value) in records {
            batch.insert(&self.table, key.as_slice(), value.as_slice());
        }
        Ok(batch.commit()?)
    }

    fn load_sorted(&self, records: &mut dyn Iterator<Item = (Key, Value)>) -> Result<()> {
        let mut ingestion = self.table.start_ingestion()?;
        for (key, value) in records {
            ingestion.write(key.as_slice(), value.as_slice())?;
        }
        Ok(ingestion.finish()?)
    }

    fn sync(&self) -> Result<()> {
        self.db.persist(PersistMode::SyncAll)?;
        self.table.rotate_memtable_and_wait()?;
        while self.db.outstanding_flushes() > 0 || self.db.active_compactions() > 0 {
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    fn close(self) -> Result<()> {
        Ok(self.db.persist(PersistMode::SyncAll)?)
    }
}

impl Reader for Snapshot<'_> {
    fn get(&mut self, key: &Key, look: impl FnOnce(&[u8])) -> Result<bool> {
        let found = self.nonce.get(self.table, key)?;
        Ok(found.map(|value| look(&value)).is_some())
    }

    fn scan(
        &mut self,
        from: &Key,
        expected: usize,
        mut visit: impl FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<()> {
        for entry in self
            .nonce
            .range::<&Key, _>(self.table, from..)
            .take(expected)
        {
            let (key, value) = entry.into_inner()?;
            if !visit(&key, &value) {
                break;
            }
        }
        Ok(())
    }
}
