//! The engine, as the benchmark sees it. The only file that names it.

use std::path::Path;

use bifolio::{
    Advice as EngineAdvice, CheckpointCounters as EngineCheckpointCounters, Counters, Database,
    Direct, Durability, IoBackend, LogCounters as EngineLogCounters, MmapConfig, Options,
    PagerChoice, Policy, PoolConfig, PoolSize, Range, ReadTxn, RecoveryReport, SyncMethod, Table,
    WriteBatch, WriteStyle, WriteTxn,
};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::record::{KEY_LEN, Records, decode_key};
use crate::spec::{Advice, PagerSpec, PoolIo};

/// The one table that everything is in.
const TABLE: &str = "records";

/// An open database.
pub struct Store {
    db: Database,
    records: Records,
}

/// What the pager counted: the engine's own counters, with the units that rows have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PagerCounters {
    /// Reads of a page that found it in memory.
    pub pager_hits: Option<u64>,
    /// Pages read from storage by the pager.
    pub pager_pages_read: Option<u64>,
    /// Pages that the tree asked for ahead of need.
    pub pager_pages_prefetched: Option<u64>,
    /// Pages written to storage by the pager.
    pub pager_pages_written: Option<u64>,
    /// Calls that wrote them.
    pub pager_write_calls: Option<u64>,
    /// Pages written while still private, because memory was short.
    pub pager_pages_stolen: Option<u64>,
    /// Times that somebody had to wait for a write, because memory was short.
    pub pager_waits_for_write: Option<u64>,
    /// Pages dropped from memory to make room.
    pub pager_evictions: Option<u64>,
    /// Pages whose checksum was verified.
    pub pager_pages_verified: Option<u64>,
    /// Pages that began a life.
    pub pager_pages_created: Option<u64>,
    /// Syncs of file or map.
    pub pager_syncs: Option<u64>,
    /// Frames that the pool may fill; not a difference.
    pub pager_frames: Option<u64>,
    /// Frames filled at the end; not a difference.
    pub pager_frames_used: Option<u64>,
    /// Memory that the pager holds privately at the end; not a difference.
    pub pager_memory_bytes: Option<u64>,
}

impl PagerCounters {
    /// What happened from `earlier` on; levels, which are not sums, as they are now.
    pub fn since(&self, earlier: &PagerCounters) -> PagerCounters {
        let less = |now: Option<u64>, then: Option<u64>| Some(now?.saturating_sub(then?));
        PagerCounters {
            pager_hits: less(self.pager_hits, earlier.pager_hits),
            pager_pages_read: less(self.pager_pages_read, earlier.pager_pages_read),
            pager_pages_prefetched: less(
                self.pager_pages_prefetched,
                earlier.pager_pages_prefetched,
            ),
            pager_pages_written: less(self.pager_pages_written, earlier.pager_pages_written),
            pager_write_calls: less(self.pager_write_calls, earlier.pager_write_calls),
            pager_pages_stolen: less(self.pager_pages_stolen, earlier.pager_pages_stolen),
            pager_waits_for_write: less(self.pager_waits_for_write, earlier.pager_waits_for_write),
            pager_evictions: less(self.pager_evictions, earlier.pager_evictions),
            pager_pages_verified: less(self.pager_pages_verified, earlier.pager_pages_verified),
            pager_pages_created: less(self.pager_pages_created, earlier.pager_pages_created),
            pager_syncs: less(self.pager_syncs, earlier.pager_syncs),
            ..*self
        }
    }
}

impl From<Counters> for PagerCounters {
    fn from(counters: Counters) -> Self {
        PagerCounters {
            pager_hits: counters.hits,
            pager_pages_read: counters.pages_read,
            pager_pages_prefetched: counters.pages_prefetched,
            pager_pages_written: counters.pages_written,
            pager_write_calls: counters.write_calls,
            pager_pages_stolen: counters.pages_stolen,
            pager_waits_for_write: counters.waits_for_write,
            pager_evictions: counters.evictions,
            pager_pages_verified: counters.pages_verified,
            pager_pages_created: counters.pages_created,
            pager_syncs: counters.syncs,
            pager_frames: counters.frames,
            pager_frames_used: counters.frames_used,
            pager_memory_bytes: counters.memory_bytes,
        }
    }
}

/// What the redo log counted; all 0 where nothing was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogCounters {
    /// Commits that entered the log.
    pub log_commits: u64,
    /// Groups of commits, each made durable by one sync.
    pub log_groups: u64,
    /// The most commits in one group since the database was opened; not a difference.
    pub log_largest_group: u64,
    /// Bytes of the commits' records.
    pub log_record_bytes: u64,
    /// Bytes written to the log: records, frames and padding.
    pub log_bytes_written: u64,
    /// Segments made new, which costs filling them with zeros.
    pub log_segments_created: u64,
    /// Segments used again.
    pub log_segments_recycled: u64,
}

impl LogCounters {
    /// What happened from `earlier` on; the largest group as it is now.
    pub fn since(&self, earlier: &LogCounters) -> LogCounters {
        LogCounters {
            log_commits: self.log_commits - earlier.log_commits,
            log_groups: self.log_groups - earlier.log_groups,
            log_largest_group: self.log_largest_group,
            log_record_bytes: self.log_record_bytes - earlier.log_record_bytes,
            log_bytes_written: self.log_bytes_written - earlier.log_bytes_written,
            log_segments_created: self.log_segments_created - earlier.log_segments_created,
            log_segments_recycled: self.log_segments_recycled - earlier.log_segments_recycled,
        }
    }
}

impl From<EngineLogCounters> for LogCounters {
    fn from(counters: EngineLogCounters) -> Self {
        LogCounters {
            log_commits: counters.commits,
            log_groups: counters.groups,
            log_largest_group: counters.largest_group,
            log_record_bytes: counters.record_bytes,
            log_bytes_written: counters.bytes_written,
            log_segments_created: counters.segments_created,
            log_segments_recycled: counters.segments_recycled,
        }
    }
}

/// What checkpoints did; all 0 where nothing was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointCounters {
    /// Checkpoints that were completed.
    pub checkpoints: u64,
    /// Pages that they made durable.
    pub checkpoint_pages: u64,
    /// Time that they took, pauses included.
    pub checkpoint_ns: u64,
    /// Committed pages that were replaced before a checkpoint came.
    pub pages_died_unwritten: u64,
    /// Write transactions that waited for a checkpoint before they could begin.
    pub checkpoint_waits: u64,
    /// How long they waited.
    pub checkpoint_wait_ns: u64,
}

impl CheckpointCounters {
    /// What happened from `earlier` on.
    pub fn since(&self, earlier: &CheckpointCounters) -> CheckpointCounters {
        CheckpointCounters {
            checkpoints: self.checkpoints - earlier.checkpoints,
            checkpoint_pages: self.checkpoint_pages - earlier.checkpoint_pages,
            checkpoint_ns: self.checkpoint_ns - earlier.checkpoint_ns,
            pages_died_unwritten: self.pages_died_unwritten - earlier.pages_died_unwritten,
            checkpoint_waits: self.checkpoint_waits - earlier.checkpoint_waits,
            checkpoint_wait_ns: self.checkpoint_wait_ns - earlier.checkpoint_wait_ns,
        }
    }
}

impl From<EngineCheckpointCounters> for CheckpointCounters {
    fn from(counters: EngineCheckpointCounters) -> Self {
        CheckpointCounters {
            checkpoints: counters.completed,
            checkpoint_pages: counters.pages_written,
            checkpoint_ns: counters.time.as_nanos() as u64,
            pages_died_unwritten: counters.pages_died_unwritten,
            checkpoint_waits: counters.writer_waits,
            checkpoint_wait_ns: counters.writer_wait_time.as_nanos() as u64,
        }
    }
}

fn failed<E: std::error::Error + Send + Sync + 'static>(
    action: &'static str,
) -> impl Fn(E) -> Error {
    move |source| Error::Store {
        action,
        source: Box::new(source),
    }
}

/// A pager, and what it is given.
#[derive(Clone, Copy, Debug)]
pub struct Backend<'b> {
    /// Which.
    pub pager: PagerSpec,
    /// Memory of a pool, or of a map that keeps to a budget; by itself if `None`.
    pub budget_bytes: Option<u64>,
    /// Where a pool records its accesses to pages.
    pub trace: Option<&'b Path>,
}

/// The engine's options for this.
fn options(backend: Backend<'_>) -> Options {
    let Backend {
        pager,
        budget_bytes,
        trace,
    } = backend;
    let choice = match pager {
        PagerSpec::Mmap {
            advice,
            pwrite,
            budget,
        } => {
            let advice = match advice {
                Advice::Random => EngineAdvice::Random,
                Advice::Normal => EngineAdvice::Normal,
                Advice::Sequential => EngineAdvice::Sequential,
            };
            PagerChoice::Mmap(MmapConfig {
                advice,
                write_style: match pwrite {
                    true => WriteStyle::Pwrite,
                    false => WriteStyle::Mapping,
                },
                memory_bytes: budget_bytes.filter(|_| budget),
            })
        }
        PagerSpec::Pool { io, policy, direct } => PagerChoice::Pool(PoolConfig {
            size: budget_bytes.map_or(PoolSize::Auto, PoolSize::Bytes),
            policy,
            io: match io {
                PoolIo::Pread => IoBackend::Pread,
                PoolIo::Uring => IoBackend::IoUring,
            },
            direct: if direct { Direct::On } else { Direct::Off },
            trace: trace.map(Path::to_path_buf),
        }),
    };
    Options::new().pager(choice)
}

impl Store {
    /// Opens the database at `path`.
    ///
    /// # Errors
    /// [`Error::Store`] with what the engine says, for instance that io_uring cannot be had.
    pub fn open(
        path: &Path,
        backend: Backend<'_>,
        read_only: bool,
        records: Records,
    ) -> Result<Store> {
        let options = options(backend).read_only(read_only);
        let db = options.open(path).map_err(failed("open the database"))?;
        Ok(Store { db, records })
    }

    /// Opens the database at `path` for writing, with a checkpoint after `log_bytes` of redo log.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_to_write(
        path: &Path,
        backend: Backend<'_>,
        log_bytes: u64,
        records: Records,
    ) -> Result<Store> {
        let options = options(backend).log_bytes(log_bytes);
        let db = options.open(path).map_err(failed("open the database"))?;
        Ok(Store { db, records })
    }

    /// Makes a database at `path` with `count` records, loaded in the order of their keys, and
    /// closes it. `progress` hears how many records are in. A load that fits into `pool_bytes` is
    /// several times faster than one whose pages must leave memory before the commit.
    ///
    /// # Errors
    /// [`Error::Store`] with what the engine says.
    pub fn build(
        path: &Path,
        page_size: u64,
        records: Records,
        count: u64,
        pool_bytes: u64,
        mut progress: impl FnMut(u64),
    ) -> Result<()> {
        let pager = PagerSpec::Pool {
            io: PoolIo::Pread,
            policy: Policy::default(),
            direct: true,
        };
        let backend = Backend {
            pager,
            budget_bytes: Some(pool_bytes),
            trace: None,
        };
        let options = options(backend).page_size(page_size as usize);
        let db = options
            .create(path)
            .map_err(failed("create the database"))?;
        let mut keys: Vec<u64> = (0..count).map(|index| records.key(index)).collect();
        keys.sort_unstable();
        let mut value = vec![0; records.value_len()];
        let entries = keys.iter().zip(0u64..).map(|(&key, done)| {
            if done % 65_536 == 0 {
                progress(done);
            }
            records.fill(key, 0, &mut value);
            (key.to_be_bytes(), value.clone())
        });
        let mut txn = db.write().map_err(failed("begin a transaction"))?;
        let mut table = txn.table(TABLE).map_err(failed("make a table"))?;
        table
            .bulk_load(entries)
            .map_err(failed("load the records"))?;
        txn.commit().map_err(failed("commit the load"))?;
        db.close().map_err(failed("close the database"))
    }

    /// A snapshot to read from.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn snapshot(&self) -> Result<Snapshot> {
        let txn = self.db.read().map_err(failed("take a snapshot"))?;
        Ok(Snapshot {
            txn,
            records: self.records,
        })
    }

    /// The write transaction.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn transaction(&self) -> Result<Transaction> {
        let txn = self.db.write().map_err(failed("begin a transaction"))?;
        Ok(Transaction {
            txn,
            records: self.records,
            value: vec![0; self.records.value_len()],
        })
    }

    /// Writes these keys in `generation`, in one durable transaction that knows them all beforehand.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn apply(&self, keys: &[u64], generation: u64) -> Result<()> {
        let mut batch = WriteBatch::new();
        let mut value = vec![0; self.records.value_len()];
        for &key in keys {
            self.records.fill(key, generation, &mut value);
            batch.insert(TABLE, key.to_be_bytes(), &value);
        }
        let applied = self.db.apply(&batch);
        applied.map(|_| ()).map_err(failed("apply a batch"))
    }

    /// What the pager counted since the database was opened.
    pub fn counters(&self) -> PagerCounters {
        self.db.counters().into()
    }

    /// What the redo log counted since the database was opened.
    pub fn log_counters(&self) -> LogCounters {
        self.db.log_counters().map(Into::into).unwrap_or_default()
    }

    /// How the log makes commits durable on this device, as its probe chose.
    pub fn log_sync_method(&self) -> Option<String> {
        let method = self.db.log_sync_method()?;
        Some(match method {
            SyncMethod::Dsync => "O_DSYNC".to_owned(),
            SyncMethod::Fdatasync | SyncMethod::Auto => "fdatasync".to_owned(),
        })
    }

    /// Whether a checkpoint is under way.
    pub fn checkpoint_is_running(&self) -> bool {
        let counters = self.db.checkpoint_counters();
        counters.begun > counters.completed
    }

    /// What checkpoints did since the database was opened.
    pub fn checkpoint_counters(&self) -> CheckpointCounters {
        self.db.checkpoint_counters().into()
    }

    /// Bytes of redo log that opening would have to replay now.
    pub fn log_bytes(&self) -> u64 {
        self.db.checkpoint_counters().log_bytes
    }

    /// What opening has replayed; `None` if the database was closed.
    pub fn replayed(&self) -> Option<RecoveryReport> {
        self.db.recovery_report()
    }

    /// What really runs, in the engine's words.
    pub fn effective_backend(&self) -> String {
        self.db.effective_backend()
    }

    /// Closes the database.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn close(self) -> Result<()> {
        self.db.close().map_err(failed("close the database"))
    }
}

/// What a snapshot of the store shows. Every value is checked before it counts as read.
pub struct Snapshot {
    txn: ReadTxn,
    records: Records,
}

impl Snapshot {
    /// The records.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn reader(&self) -> Result<Reader<'_>> {
        let table = self.txn.table(TABLE).map_err(failed("open the table"))?;
        Ok(Reader {
            table,
            records: self.records,
        })
    }
}

/// The records of a snapshot.
pub struct Reader<'s> {
    table: Table<'s>,
    records: Records,
}

impl<'s> Reader<'s> {
    /// How many there are.
    pub fn len(&self) -> u64 {
        self.table.len()
    }

    /// Looks up a key that must be there, checks its value and returns the generation.
    ///
    /// # Errors
    /// [`Error::WrongData`] if it is missing or wrong; [`Error::Store`].
    pub fn get(&self, key: u64) -> Result<u64> {
        let records = &self.records;
        let found = self
            .table
            .get_with(key.to_be_bytes(), |value| records.check(key, value))
            .map_err(failed("look up a key"))?;
        found.unwrap_or_else(|| Err(missing(key)))
    }

    /// Looks up `keys`, all of which must be there, in one call, and checks every value.
    ///
    /// # Errors
    /// As [`Reader::get`], and [`Error::WrongData`] if a key is answered other than once.
    pub fn get_many(&self, keys: &[[u8; KEY_LEN]]) -> Result<()> {
        let mut first_error = None;
        let mut answered = 0;
        self.table
            .get_many(keys, |index, value| {
                answered += 1;
                let key = u64::from_be_bytes(keys[index]);
                let checked = match value {
                    Some(value) => self.records.check(key, value).map(|_| ()),
                    None => Err(missing(key)),
                };
                if let Err(error) = checked {
                    first_error.get_or_insert(error);
                }
            })
            .map_err(failed("look up many keys"))?;
        match first_error {
            Some(error) => Err(error),
            None if answered == keys.len() => Ok(()),
            None => Err(Error::WrongData {
                key: keys.first().copied().map_or(0, u64::from_be_bytes),
                what: format!("{answered} answers for {} keys", keys.len()),
            }),
        }
    }

    /// The records from `key` on, in order.
    pub fn scan_from(&self, key: u64) -> Scan<'s> {
        let range = self.table.range(key.to_be_bytes()..);
        Scan {
            range,
            records: self.records,
            last: None,
        }
    }
}

/// A scan: each record is checked, and so is the order.
pub struct Scan<'s> {
    range: Range<'s>,
    records: Records,
    last: Option<u64>,
}

impl Scan<'_> {
    /// The next record's key, after a check of its value; `None` at the end.
    ///
    /// # Errors
    /// [`Error::WrongData`] if the value is wrong or keys do not rise; [`Error::Store`].
    pub fn next_key(&mut self) -> Result<Option<u64>> {
        let next = self
            .range
            .next_entry()
            .map_err(failed("read on in a scan"))?;
        let Some((key, value)) = next else {
            return Ok(None);
        };
        let key = decode_key(key)?;
        if let Some(last) = self.last
            && last >= key
        {
            let what = format!("a scan returned it after {last:#018x}");
            return Err(Error::WrongData { key, what });
        }
        self.records.check(key, value)?;
        self.last = Some(key);
        Ok(Some(key))
    }
}

/// A write transaction.
pub struct Transaction {
    txn: WriteTxn,
    records: Records,
    value: Vec<u8>,
}

impl Transaction {
    /// Writes `key` in `generation`, and says whether it was there before.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn put(&mut self, key: u64, generation: u64) -> Result<bool> {
        self.records.fill(key, generation, &mut self.value);
        let mut table = self.txn.table(TABLE).map_err(failed("open the table"))?;
        table
            .insert(key.to_be_bytes(), &self.value)
            .map_err(failed("write a record"))
    }

    /// Applies everything, durable when the next [`Transaction::commit`] is.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn commit_later(self) -> Result<()> {
        let committed = self.txn.commit_with(Durability::Checkpoint);
        committed.map(|_| ()).map_err(failed("commit"))
    }

    /// Makes everything durable by the redo log, sharing the sync with threads that commit at once.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn commit(self) -> Result<()> {
        self.txn.commit().map(|_| ()).map_err(failed("commit"))
    }
}

fn missing(key: u64) -> Error {
    Error::WrongData {
        key,
        what: "it was written and is not there".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COUNT: u64 = 5000;

    fn records() -> Records {
        Records::new(1, 120)
    }

    fn built(dir: &tempfile::TempDir) -> std::path::PathBuf {
        let path = dir.path().join("store.bifolio");
        Store::build(&path, 4096, records(), COUNT, 4 << 20, |_| {}).unwrap();
        path
    }

    fn open(path: &Path, pager: &str, read_only: bool, records: Records) -> Store {
        Store::open(
            path,
            Backend {
                pager: pager.parse().unwrap(),
                budget_bytes: Some(4 << 20),
                trace: None,
            },
            read_only,
            records,
        )
        .unwrap()
    }

    #[test]
    fn every_pager_reads_what_was_built_and_what_another_one_wrote() {
        let dir = tempfile::tempdir().unwrap();
        let path = built(&dir);
        let names = [
            "mmap-random",
            "pool-pread-buffered",
            "mmap-sequential",
            "pool-pread-lru-buffered",
        ];
        for (generation, name) in (1..).zip(names) {
            let store = open(&path, name, false, records());
            let mut txn = store.transaction().unwrap();
            assert!(txn.put(records().key(7), generation).unwrap());
            assert!(!txn.put(records().key(COUNT + generation), 0).unwrap());
            txn.commit().unwrap();
            store.close().unwrap();
            for name in names {
                let store = open(&path, name, true, records());
                let snapshot = store.snapshot().unwrap();
                let reader = snapshot.reader().unwrap();
                assert_eq!(reader.len(), COUNT + generation, "{name}");
                assert_eq!(reader.get(records().key(7)).unwrap(), generation, "{name}");
                let keys: Vec<_> = (0..64)
                    .map(|index| records().key(index).to_be_bytes())
                    .collect();
                reader.get_many(&keys).unwrap();
                let mut scan = reader.scan_from(0);
                let mut scanned = 0;
                while scan.next_key().unwrap().is_some() {
                    scanned += 1;
                }
                assert_eq!(scanned, COUNT + generation, "{name}");
            }
        }
    }

    #[test]
    fn data_that_nobody_wrote_is_wrong_data_however_it_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = built(&dir);
        let store = open(&path, "mmap-random", true, Records::new(1, 64));
        let snapshot = store.snapshot().unwrap();
        let reader = snapshot.reader().unwrap();
        let key = records().key(0);
        let is_wrong = |error| matches!(error, Error::WrongData { .. });
        assert!(is_wrong(reader.get(key).unwrap_err()), "of another length");
        assert!(is_wrong(reader.get_many(&[key.to_be_bytes()]).unwrap_err()));
        assert!(is_wrong(reader.scan_from(key).next_key().unwrap_err()));
        let absent = records().key(COUNT);
        assert!(is_wrong(reader.get(absent).unwrap_err()), "not there");
        assert!(is_wrong(
            reader.get_many(&[absent.to_be_bytes()]).unwrap_err()
        ));
    }
}
