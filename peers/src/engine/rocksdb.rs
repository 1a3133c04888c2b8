//! RocksDB. Only with the feature of that name.
//!
//! Its block cache, which index and filter blocks are charged to as well, gets a quarter of a memory
//! limit and its write buffers an eighth; it reads past the page cache then, and through it
//! otherwise. Ten bits of Bloom filter for each key, no compression, `multi_get` for many keys at
//! once. Durable means a synced write-ahead log.

use std::path::Path;

use rocksdb::{
    BlockBasedOptions, Cache, DB, Direction, IteratorMode, Options, SnapshotWithThreadMode,
    WriteBatch, WriteOptions,
};

use super::{Engine, Key, Reader, Setup, Value, cache_bytes};
use crate::Result;

/// An open database.
pub struct RocksDb {
    db: DB,
    durable: bool,
    cache_bytes: u64,
}

/// A snapshot.
pub struct Snapshot<'r>(SnapshotWithThreadMode<'r, DB>);

impl RocksDb {
    fn write(&self, records: &mut dyn Iterator<Item = (Key, Value)>, sync: bool) -> Result<()> {
        let mut batch = WriteBatch::default();
        records.for_each(|(key, value)| batch.put(key, value));
        let mut options = WriteOptions::default();
        options.set_sync(sync);
        Ok(self.db.write_opt(&batch, &options)?)
    }
}

impl Engine for RocksDb {
    type Reader<'r> = Snapshot<'r>;

    fn open(dir: &Path, setup: &Setup) -> Result<Self> {
        let mut cache_bytes = cache_bytes(setup);
        let mut options = Options::default();
        options.create_if_missing(true);
        options.set_compression_type(rocksdb::DBCompressionType::None);
        if setup.limit_bytes.is_some() {
            cache_bytes /= 2;
            options.set_db_write_buffer_size(cache_bytes as usize / 2);
            options.set_use_direct_reads(true);
            options.set_use_direct_io_for_flush_and_compaction(true);
        }
        let mut table = BlockBasedOptions::default();
        table.set_block_cache(&Cache::new_lru_cache(cache_bytes as usize));
        table.set_cache_index_and_filter_blocks(true);
        table.set_bloom_filter(10.0, false);
        options.set_block_based_table_factory(&table);
        Ok(RocksDb {
            db: DB::open(&options, dir.join("rocksdb"))?,
            durable: setup.durable,
            cache_bytes,
        })
    }

    fn describe(&self) -> String {
        format!("RocksDB, cache of {} MiB", self.cache_bytes >> 20)
    }

    fn read<T>(&self, work: impl for<'r> FnOnce(&mut Snapshot<'r>) -> Result<T>) -> Result<T> {
        work(&mut Snapshot(self.db.snapshot()))
    }

    fn put(&self, records: &[(Key, Value)]) -> Result<()> {
        self.write(&mut records.iter().copied(), self.durable)
    }

    fn load_sorted(&self, records: &mut dyn Iterator<Item = (Key, Value)>) -> Result<()> {
        let mut records = records.peekable();
        while records.peek().is_some() {
            self.write(&mut records.by_ref().take(10_000), false)?;
        }
        self.sync()
    }

    fn sync(&self) -> Result<()> {
        Ok(self.db.flush()?)
    }

    fn close(self) -> Result<()> {
        Ok(())
    }
}

impl Reader for Snapshot<'_> {
    fn get(&mut self, key: &Key, look: impl FnOnce(&[u8])) -> Result<bool> {
        Ok(self.0.get_pinned(key)?.map(|value| look(&value)).is_some())
    }

    fn get_many(&mut self, keys: &[Key], mut look: impl FnMut(usize, &[u8])) -> Result<()> {
        for (index, found) in self.0.multi_get(keys).into_iter().enumerate() {
            if let Some(value) = found? {
                look(index, &value);
            }
        }
        Ok(())
    }

    fn scan(
        &mut self,
        from: &Key,
        expected: usize,
        mut visit: impl FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<()> {
        let from = IteratorMode::From(from, Direction::Forward);
        for entry in self.0.iterator(from).take(expected) {
            let (key, value) = entry?;
            if !visit(&key, &value) {
                break;
            }
        }
        Ok(())
    }
}
