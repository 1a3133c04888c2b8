//! The database: opening, closing, and where transactions come from.
//!
//! What an open database is made of is in `core.rs`.

use std::fmt;
use std::fs::File;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use bifolio_pager::sync::thread::{self, JoinHandle};
use bifolio_pager::{Counters, Geometry, MemPager, MetaSlot, PageSize, Pager};
use bifolio_pager_bufpool::{BufPool, PoolOptions};
use bifolio_pager_mmap::{MmapOptions, MmapPager};

use crate::core::{AnyPager, Core, Keeping, with_pager};
use crate::error::{Error, Result};
use crate::file::{self, Access, Opened};
use crate::limits;
use crate::lock::Lock;
use crate::log::{LogCounters, SyncMethod};
use crate::memory::MemoryReport;
use crate::meta::Meta;
use crate::options::{LogPlace, Options, PagerChoice, PoolSize};
use crate::overlay::Overlay;
use crate::pace::{Background, CheckpointCounters, Pace};
use crate::read::ReadTxn;
use crate::recovery::{self, Progress, RecoveryReport};
use crate::stats::Stats;
use crate::write::WriteTxn;

/// An open database. Cheap to clone; all clones are the same database.
///
/// One thread at a time may write, any number may read, and no reader waits for the writer.
///
/// Dropping the last handle marks the file as cleanly closed; [`Database::close`] does the same and
/// says whether it worked.
#[derive(Clone)]
pub struct Database {
    pub(crate) open: Arc<Open>,
}

/// An open database: its core, and the threads that checkpoint it and sync its log.
pub(crate) struct Open {
    core: Arc<Core>,
    threads: Vec<JoinHandle<()>>,
    recovered: OnceLock<RecoveryReport>,
    /// On the file, if there is one. Given up last.
    lock: OnceLock<Lock>,
}

impl Deref for Open {
    type Target = Core;

    fn deref(&self) -> &Core {
        &self.core
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Database");
        shown.field("path", &self.open.path);
        if !self.open.is_in_child() {
            shown.field("pager", &self.effective_backend());
            shown.field("version", &self.open.current().version);
        }
        shown.finish_non_exhaustive()
    }
}

impl Open {
    #[cfg(any(test, feature = "testkit"))]
    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.core
    }

    fn spawn(&mut self, name: &str, work: impl FnOnce() + Send + 'static) -> Result<()> {
        let spawned = thread::Builder::new().name(name.to_owned()).spawn(work);
        let spawned = spawned.map_err(|error| {
            let error = Error::file("start a thread for", self.core.path.as_path(), error);
            // Closing must not declare clean what may have to be recovered.
            self.core.poison(&error);
            error
        });
        self.threads.push(spawned?);
        Ok(())
    }

    /// Stops the threads, then closes the core.
    fn close(&mut self) -> Result<()> {
        self.core.bell.stop();
        self.core.syncer.stop();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                let panicked = Error::BadOption("a background thread panicked".to_owned());
                return Err(self.core.poison(&panicked));
            }
        }
        self.core.refuse_if_failed()?;
        self.core.close()
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if self.is_in_child() {
            // All of it is the parent's: what would be closed, unlocked or joined here is not ours, or
            // is not here at all. The memory goes with the process.
            std::mem::forget(Arc::clone(&self.core));
            std::mem::forget(std::mem::take(&mut self.threads));
            std::mem::forget(self.lock.take());
            return;
        }
        // Whoever wants to know calls `Database::close`. A file that stays marked as open is still
        // whole: its log has what it lacks. After a failure nothing is written.
        let _ = self.close();
    }
}

impl Database {
    /// Opens the database at `path`, or makes an empty one, with the default [`Options`].
    ///
    /// # Errors
    /// As [`Options::create`].
    pub fn create(path: impl AsRef<Path>) -> Result<Self> {
        Options::new().create(path)
    }

    /// Opens the database at `path`, which must exist, with the default [`Options`].
    ///
    /// # Errors
    /// As [`Options::open`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Options::new().open(path)
    }

    /// An empty database without a file, gone when it is dropped.
    ///
    /// # Errors
    /// None with the default options.
    pub fn in_memory() -> Result<Self> {
        Options::new().in_memory()
    }

    /// A snapshot of what is committed: later commits do not change it, and do not wait for it.
    ///
    /// What the snapshot reaches is kept in the file until it is dropped, so hold it for as long
    /// as you need it and no longer. Costs about a lock and a reference count.
    ///
    /// # Errors
    /// [`Error::Forked`] in a child of the process that opened the database. There this, and whatever
    /// else reads or writes here, fails, and dropping does nothing.
    pub fn read(&self) -> Result<ReadTxn> {
        self.open.refuse_in_child()?;
        Ok(ReadTxn::new(Arc::clone(&self.open), self.open.current()))
    }

    /// As [`Database::read`], but of what survives a loss of power: a commit that others see already
    /// and that is not synced yet is not in it.
    ///
    /// # Errors
    /// As [`Database::read`].
    pub fn read_durable(&self) -> Result<ReadTxn> {
        self.open.refuse_in_child()?;
        Ok(ReadTxn::new(Arc::clone(&self.open), self.open.durable()))
    }

    /// Begins the one write transaction, waiting until the one before is done.
    ///
    /// Dropping it takes back everything it did.
    ///
    /// # Errors
    /// [`Error::WouldDeadlock`] if this thread holds the transaction; [`Error::ReadOnly`]; [`Error::Poisoned`] after a failed commit; and what the pager says when
    /// the first write transaction since opening marks the file as open.
    pub fn write(&self) -> Result<WriteTxn> {
        WriteTxn::begin(Arc::clone(&self.open))
    }

    /// Makes everything committed durable by its pages, so that opening after a crash has nothing to
    /// replay. Happens by itself in the background; this waits for it, and for the write transaction
    /// to end.
    ///
    /// # Errors
    /// [`Error::WouldDeadlock`] if this thread holds it; [`Error::ReadOnly`]; [`Error::Poisoned`].
    pub fn checkpoint(&self) -> Result<()> {
        self.open.refuse_in_child()?;
        if self.open.read_only {
            return Err(Error::ReadOnly);
        }
        self.open.checkpoint(Pace::Urgent)
    }

    /// What recovery found when the database was opened; `None` if there was nothing to recover.
    pub fn recovery_report(&self) -> Option<RecoveryReport> {
        self.open.recovered.get().copied()
    }

    /// What the redo log counted since the database was opened; `None` while there is no log, which
    /// is so until the first write transaction.
    pub fn log_counters(&self) -> Option<LogCounters> {
        self.open.log.get().map(|log| log.counters())
    }

    /// What checkpoints did since the database was opened, and what is there for the next one.
    pub fn checkpoint_counters(&self) -> CheckpointCounters {
        self.open.checkpoint_counters()
    }

    /// How the log makes commits durable on this device, as a short measurement chose when the log was
    /// opened; `None` while there is no log, which is so until the first write transaction.
    pub fn log_sync_method(&self) -> Option<SyncMethod> {
        self.open.log.get().map(|log| log.sync_method())
    }

    /// Gives the buffer pool another size while it runs, in bytes: at most the one that it was opened
    /// with. What no longer fits is evicted, and written out if need be, before this returns.
    ///
    /// # Errors
    /// [`Error::BadOption`] under another pager, for more than the pool was opened with, and for too little
    /// to work in; the pager's error where guards that are held do not fit. The pool then stays as it was.
    pub fn resize_pool(&self, bytes: u64) -> Result<()> {
        match &self.open.pager {
            AnyPager::Pool(pool) => Ok(pool.resize(bytes)?),
            _ => Err(Error::BadOption(
                "only a buffer pool has a size to change".to_owned(),
            )),
        }
    }

    /// What the pager counted since the database was opened.
    pub fn counters(&self) -> Counters {
        with_pager!(&self.open.pager, pager => pager.counters())
    }

    /// The state of the database and everything that it counts, in one struct. Costs a few locks.
    ///
    /// # Errors
    /// [`Error::Forked`].
    pub fn stats(&self) -> Result<Stats> {
        let pager = self.open.pager()?;
        let (page_bytes, file_pages) =
            with_pager!(pager, pager => (pager.geometry().page_size.bytes(), pager.page_count()));
        Ok(Stats {
            backend: self.effective_backend(),
            page_bytes: page_bytes as u64,
            file_pages,
            version: self.open.current().version,
            durable_version: self.open.durable().version,
            checkpointed_version: self.open.checkpointed().version,
            failure: self.open.failure().map(str::to_owned),
            pager: self.counters(),
            log: self.log_counters(),
            checkpoints: self.checkpoint_counters(),
            recovery: self.recovery_report(),
        })
    }

    /// Where the memory of this database is: pinned, cached, or nowhere. For a person to look at, or
    /// to log now and then: it asks the kernel about every page of the file (some 20 ns each).
    ///
    /// # Errors
    /// When the system does not say; a database in memory has none.
    pub fn memory_report(&self) -> Result<MemoryReport> {
        self.open.refuse_in_child()?;
        let counters = self.counters();
        let page_bytes = self.page_size() as u64;
        let Some(lock) = self.open.lock.get() else {
            return Ok(MemoryReport {
                pinned_bytes: counters.memory_bytes.unwrap_or(0),
                ..MemoryReport::of_process()
            });
        };
        let names = match &self.open.keeping {
            Keeping::Log(place) => place.files()?,
            _ => Vec::new(),
        };
        let path = self.path().canonicalize();
        let path = path.unwrap_or_else(|_| self.path().to_owned());
        let logs: Vec<_> = names.iter().map(|name| path.with_file_name(name)).collect();
        MemoryReport::of((lock.file(), &path), &logs, page_bytes, &counters)
    }

    /// What really runs, in words: the pager, its I/O, its size.
    pub fn effective_backend(&self) -> String {
        with_pager!(&self.open.pager, pager => pager.effective_backend())
    }

    /// Bytes in a page of this file.
    pub fn page_size(&self) -> usize {
        self.open.geometry().page_size.bytes()
    }

    /// The file; empty for a database in memory.
    pub fn path(&self) -> &Path {
        &self.open.path
    }

    /// Closes the database if this is the last handle (snapshots and transactions are handles too),
    /// marking the file as cleanly closed. Otherwise the last one to go does so.
    ///
    /// # Errors
    /// When the mark could not be written: everything committed is safe all the same, and the next
    /// opening takes a little longer.
    pub fn close(self) -> Result<()> {
        self.open.refuse_in_child()?;
        Arc::into_inner(self.open).map_or(Ok(()), |mut open| open.close())
    }

    pub(crate) fn create_with(path: &Path, options: &Options) -> Result<Self> {
        let page_size = options.chosen_page_size()?.unwrap_or_default();
        if !path
            .try_exists()
            .map_err(|error| Error::file("look for", path, error))?
        {
            if options.read_only {
                return Err(Error::ReadOnly);
            }
            let unnamed = file::Unnamed::write(path, page_size)?;
            let db = Self::on(path, unnamed.open(access(options))?, options)?;
            if unnamed.name(path)? {
                return Ok(db);
            }
        }
        Self::open_with(path, options)
    }

    pub(crate) fn open_with(path: &Path, options: &Options) -> Result<Self> {
        let opened = file::open(path, access(options))?;
        Self::on(path, opened, options)
    }

    /// The database in an opened file, under the pager that is asked for.
    fn on(path: &Path, opened: Opened, options: &Options) -> Result<Self> {
        let asked = options.chosen_page_size()?;
        let found = opened.meta.page_size;
        if let Some(asked) = asked.filter(|&asked| asked != found) {
            return Err(Error::OtherPageSize {
                path: path.to_owned(),
                found: found.bytes(),
                asked: asked.bytes(),
            });
        }
        let Opened {
            file,
            lock,
            meta,
            slot,
            len,
        } = opened;
        // What a read-only opener has to replay stays in memory.
        let in_memory = meta
            .log
            .filter(|_| options.read_only && !meta.clean)
            .is_some();
        let pager = match (open_pager(file, meta.geometry(), len, options)?, in_memory) {
            (AnyPager::Mmap(pager), true) => {
                AnyPager::OverMmap(Overlay::new(pager, options.recovery_memory_bytes))
            }
            (AnyPager::Pool(pager), true) => {
                AnyPager::OverPool(Overlay::new(pager, options.recovery_memory_bytes))
            }
            (pager, _) => pager,
        };
        let keeping = if options.read_only {
            Keeping::Nothing
        } else {
            Keeping::Log(LogPlace::beside(path, options.log_bytes)?)
        };
        let database = Self::assemble(
            path.to_owned(),
            pager,
            keeping,
            (meta, slot),
            options.read_only,
            Some(options.background()),
        )?;
        let lock = database.open.lock.get_or_init(|| lock);
        let progress = Progress::new(options.on_recovery.clone());
        let recovered = if in_memory {
            let place = LogPlace::to_read(path)?;
            let replay = || recovery::recover_in_memory(&database.open, &place, progress);
            recovery::or_nothing(&database.open, replay)
        } else {
            let recover = || recovery::recover(&database.open, progress);
            recovery::or_nothing(&database.open, recover)
        };
        if let Some(report) = recovered? {
            let _ = database.open.recovered.set(report);
        }
        lock.opened();
        Ok(database)
    }

    pub(crate) fn in_memory_with(options: &Options) -> Result<Self> {
        let page_size = options.chosen_page_size()?.unwrap_or(PageSize::DEFAULT);
        let (meta, _) = file::first_metas(page_size);
        let pager = AnyPager::Memory(MemPager::volatile(meta.geometry()));
        let newest = (meta, MetaSlot::A);
        Self::assemble(PathBuf::new(), pager, Keeping::Nothing, newest, false, None)
    }

    /// An open database; checkpointed in the background if it has a log and an interval.
    pub(crate) fn assemble(
        path: PathBuf,
        pager: AnyPager,
        keeping: Keeping,
        newest: (Meta, MetaSlot),
        read_only: bool,
        background: Option<Background>,
    ) -> Result<Self> {
        let logs = matches!(keeping, Keeping::Log(_));
        let core = Arc::new(Core::new(
            path, pager, keeping, read_only, newest, background,
        )?);
        let mut open = Open {
            core: Arc::clone(&core),
            threads: Vec::new(),
            recovered: OnceLock::new(),
            lock: OnceLock::new(),
        };
        if let Some(background) = background.filter(|_| logs) {
            let checkpoints = background.checkpoint_interval;
            let syncs = background.sync_interval;
            let on = Arc::clone(&core);
            open.spawn("bifolio-checkpoint", move || {
                on.run_checkpoints(checkpoints)
            })?;
            open.spawn("bifolio-sync", move || core.run_syncs(syncs))?;
        }
        Ok(Database {
            open: Arc::new(open),
        })
    }
}

/// The pager that is asked for, on a file of `len` bytes.
pub(crate) fn open_pager(
    file: File,
    geometry: Geometry,
    len: u64,
    options: &Options,
) -> Result<AnyPager> {
    let max_bytes = options.max_bytes.min(file::size_limit()).max(len);
    Ok(match &options.pager {
        PagerChoice::Memory => {
            return Err(Error::BadOption(
                "the memory pager has no file to open".to_owned(),
            ));
        }
        PagerChoice::Mmap(config) => {
            let options = MmapOptions {
                read_only: options.read_only,
                max_bytes,
                advice: config.advice,
                write_style: config.write_style,
                memory_bytes: config.memory_bytes,
                ..MmapOptions::default()
            };
            AnyPager::Mmap(MmapPager::open(file, geometry, options)?)
        }
        PagerChoice::Pool(config) => {
            let options = PoolOptions {
                budget_bytes: pool_bytes(config.size)?,
                policy: config.policy,
                io: config.io,
                direct: config.direct,
                trace: config.trace.clone(),
                read_only: options.read_only,
                max_bytes,
            };
            AnyPager::Pool(BufPool::open(file, geometry, options)?)
        }
    })
}

fn access(options: &Options) -> Access {
    Access {
        read_only: options.read_only,
        allow_network: options.allow_network,
    }
}

fn pool_bytes(size: PoolSize) -> Result<u64> {
    let bytes = match size {
        PoolSize::Auto => return Ok(limits::automatic_pool_bytes()),
        PoolSize::Bytes(bytes) => bytes,
    };
    match limits::memory_limit_bytes().or_else(limits::physical_bytes) {
        Some(limit) if bytes > limit => Err(Error::BadOption(format!(
            "a pool of {bytes} bytes; this process may use {limit} in all, and needs some itself"
        ))),
        _ => Ok(bytes),
    }
}
