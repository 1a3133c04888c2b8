//! What this program asks of an engine, and the engines.
//!
//! Each is used as its documentation says one should, with its fastest way to do what is asked: a
//! bulk load may use a call for sorted data, a look-up may lend the value where it lies. An engine
//! that has no way to look up many keys at once looks them up one after the other.

mod bifolio;
mod fjall;
mod lmdb;
mod redb;
#[cfg(feature = "rocksdb")]
mod rocksdb;
mod sqlite;

use std::path::Path;

use crate::Result;

pub use self::bifolio::Bifolio;
pub use self::fjall::Fjall;
pub use self::lmdb::Lmdb;
pub use self::redb::Redb;
#[cfg(feature = "rocksdb")]
pub use self::rocksdb::RocksDb;
pub use self::sqlite::Sqlite;

/// A key: the big-endian bytes of a number, so that byte order is number order.
pub type Key = [u8; 8];
/// Bytes of a value.
pub const VALUE_LEN: usize = 120;
/// A value.
pub type Value = [u8; VALUE_LEN];

/// How a database is opened.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// Which of the engine's ways to run.
    pub variant: Variant,
    /// The limit that the process runs under; `None` where memory is plenty.
    pub limit_bytes: Option<u64>,
    /// What the data takes, roughly: where memory is plenty a cache has twice that.
    pub data_bytes: u64,
    /// Threads that will read.
    pub threads: u64,
    /// Whether a commit is durable when it returns. Otherwise nothing is synced before [`Engine::sync`].
    pub durable: bool,
}

/// The way of running an engine that a name of [`ENGINES`] stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// As its documentation recommends.
    Plain,
    /// LMDB with `MDB_NORDAHEAD`.
    NoReadAhead,
    /// LMDB with `MDB_WRITEMAP`, written through the map; Bifolio's and SQLite's memory map.
    Mmap,
}

/// A database of one engine, with one table.
pub trait Engine: Sized + Sync {
    /// A snapshot.
    type Reader<'r>: Reader
    where
        Self: 'r;

    /// Opens the database in the directory `dir`, making an empty one if there is none.
    fn open(dir: &Path, setup: &Setup) -> Result<Self>;

    /// What really runs, in words.
    fn describe(&self) -> String;

    /// Shows a snapshot to `work`.
    fn read<T>(&self, work: impl for<'r> FnOnce(&mut Self::Reader<'r>) -> Result<T>) -> Result<T>;

    /// Writes these records in one transaction.
    fn put(&self, records: &[(Key, Value)]) -> Result<()>;

    /// Fills an empty database with records in the order of their keys, as fast as it can, durably.
    fn load_sorted(&self, records: &mut dyn Iterator<Item = (Key, Value)>) -> Result<()>;

    /// Makes everything durable that was put.
    fn sync(&self) -> Result<()>;

    /// Closes the database.
    fn close(self) -> Result<()>;
}

/// A snapshot of a database.
pub trait Reader {
    /// Shows the value of `key` to `look`, if there is one, and says whether there is.
    fn get(&mut self, key: &Key, look: impl FnOnce(&[u8])) -> Result<bool>;

    /// Shows the values of all of `keys` to `look`, with their places in `keys`, in any order.
    fn get_many(&mut self, keys: &[Key], mut look: impl FnMut(usize, &[u8])) -> Result<()> {
        for (index, key) in keys.iter().enumerate() {
            self.get(key, |value| look(index, value))?;
        }
        Ok(())
    }

    /// Shows the records from `from` on in order, at most `expected` of them, until `visit` says no.
    fn scan(
        &mut self,
        from: &Key,
        expected: usize,
        visit: impl FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<()>;
}

/// The memory that an engine's own cache gets: half of the limit, since the page cache needs some
/// too; or twice the data.
fn cache_bytes(setup: &Setup) -> u64 {
    match setup.limit_bytes {
        Some(limit) => limit / 2,
        None => (setup.data_bytes * 2).max(256 << 20),
    }
}
