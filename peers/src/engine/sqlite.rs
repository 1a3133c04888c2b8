//! SQLite, through `rusqlite`, with the library compiled in.
//!
//! One table `WITHOUT ROWID` of a blob key and a blob value, in WAL mode; durable means
//! `synchronous=FULL`. Every reader has a connection of its own, as SQLite wants it, and they share
//! the memory for caches: half of a limit. `sqlite-mmap` reads through a map (`mmap_size`) and keeps
//! small caches.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rusqlite::{Connection, OpenFlags};

use super::{Engine, Key, Reader, Setup, Value, Variant, cache_bytes};
use crate::Result;

const GET: &str = "SELECT v FROM records WHERE k = ?1";
const SCAN: &str = "SELECT k, v FROM records WHERE k >= ?1 ORDER BY k LIMIT ?2";
const PUT: &str = "INSERT INTO records (k, v) VALUES (?1, ?2) \
                   ON CONFLICT (k) DO UPDATE SET v = excluded.v";

/// A database, with the connections that nobody uses at the moment.
pub struct Sqlite {
    path: PathBuf,
    setup: Setup,
    idle: Mutex<Vec<Connection>>,
}

/// A connection with a read transaction.
pub struct Snapshot<'r>(&'r Connection);

impl Sqlite {
    fn connect(&self) -> Result<Connection> {
        let idle = self
            .idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop();
        if let Some(connection) = idle {
            return Ok(connection);
        }
        let flags = OpenFlags::default() | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&self.path, flags)?;
        let connections = self.setup.threads.max(1) + 1;
        let (mmap_bytes, cache_bytes) = match self.setup.variant {
            Variant::Mmap => (1u64 << 40, 2 << 20),
            _ => (0, cache_bytes(&self.setup) / connections),
        };
        let synchronous = if self.setup.durable { "FULL" } else { "OFF" };
        connection.execute_batch(&format!(
            "PRAGMA page_size = 4096; PRAGMA journal_mode = WAL; \
             PRAGMA synchronous = {synchronous}; PRAGMA cache_size = -{}; \
             PRAGMA mmap_size = {mmap_bytes}; PRAGMA busy_timeout = 10000; \
             CREATE TABLE IF NOT EXISTS records (k BLOB PRIMARY KEY, v BLOB) WITHOUT ROWID;",
            cache_bytes >> 10,
        ))?;
        Ok(connection)
    }

    fn with<T>(&self, work: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        let connection = self.connect()?;
        let done = work(&connection)?;
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.push(connection);
        Ok(done)
    }

    fn write(&self, records: &mut dyn Iterator<Item = (Key, Value)>) -> Result<()> {
        self.with(|connection| {
            connection.execute_batch("BEGIN IMMEDIATE")?;
            let mut put = connection.prepare_cached(PUT)?;
            for (key, value) in records {
                put.execute((&key, &value))?;
            }
            Ok(connection.execute_batch("COMMIT")?)
        })
    }
}

impl Engine for Sqlite {
    type Reader<'r> = Snapshot<'r>;

    fn open(dir: &Path, setup: &Setup) -> Result<Self> {
        let sqlite = Sqlite {
            path: dir.join("sqlite.db"),
            setup: *setup,
            idle: Mutex::default(),
        };
        sqlite.with(|_| Ok(()))?;
        Ok(sqlite)
    }

    fn describe(&self) -> String {
        format!("SQLite {}, {:?}", rusqlite::version(), self.setup.variant)
    }

    fn read<T>(&self, work: impl for<'r> FnOnce(&mut Snapshot<'r>) -> Result<T>) -> Result<T> {
        self.with(|connection| {
            connection.execute_batch("BEGIN")?;
            let done = work(&mut Snapshot(connection))?;
            connection.execute_batch("COMMIT")?;
            Ok(done)
        })
    }

    fn put(&self, records: &[(Key, Value)]) -> Result<()> {
        self.write(&mut records.iter().copied())
    }

    fn load_sorted(&self, records: &mut dyn Iterator<Item = (Key, Value)>) -> Result<()> {
        self.write(records)?;
        self.sync()
    }

    fn sync(&self) -> Result<()> {
        self.with(|connection| {
            Ok(connection
                .execute_batch("PRAGMA synchronous = FULL; PRAGMA wal_checkpoint(TRUNCATE);")?)
        })
    }

    fn close(self) -> Result<()> {
        let idle = self
            .idle
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        for connection in idle {
            connection.close().map_err(|(_, error)| error)?;
        }
        Ok(())
    }
}

impl Reader for Snapshot<'_> {
    fn get(&mut self, key: &Key, look: impl FnOnce(&[u8])) -> Result<bool> {
        let mut get = self.0.prepare_cached(GET)?;
        let mut rows = get.query((key,))?;
        let Some(row) = rows.next()? else {
            return Ok(false);
        };
        look(row.get_ref(0)?.as_blob()?);
        Ok(true)
    }

    fn scan(
        &mut self,
        from: &Key,
        expected: usize,
        mut visit: impl FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<()> {
        let mut scan = self.0.prepare_cached(SCAN)?;
        let limit = i64::try_from(expected).unwrap_or(-1);
        let mut rows = scan.query((from, limit))?;
        while let Some(row) = rows.next()? {
            if !visit(row.get_ref(0)?.as_blob()?, row.get_ref(1)?.as_blob()?) {
                break;
            }
        }
        Ok(())
    }
}
