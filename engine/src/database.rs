//! The database: one file, one pager, the committed version, and the one writer.
//!
//! A *version* is one committed state: the root of the catalogue and the root of the allocation map.
//! Readers hold a version and need no lock, because nothing that it reaches is ever modified.
//!
//! Invariants:
//! 1. `current` is the newest version whose commit is durable. Readers take it and nothing else.
//! 2. Every version that a reader may still hold is `current` or stands in [`Writer::older`], so
//!    the writer knows what must not be reused.
//! 3. There is one [`Writer`]. Whoever has taken it out of its place is the write transaction.
//! 4. After a failed commit nothing is written any more: `failed` holds the first failure.
//!
//! The pager is chosen at run time, so every operation begins with one `match` on [`AnyPager`];
//! below it everything is compiled for the pager it runs on.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use bifolio_btree::Root;
use bifolio_pager::{
    Counters, Geometry, MemPager, MetaSlot, PageSize, Pager, Result as PagerResult, Version,
};
use bifolio_pager_bufpool::{BufPool, PoolOptions};
use bifolio_pager_mmap::{MmapOptions, MmapPager};
use parking_lot::{Condvar, Mutex, RwLock};

use crate::error::{Error, Result};
use crate::file::{self, Opened};
use crate::limits;
use crate::meta::Meta;
use crate::options::{Options, PagerChoice, PoolSize};
use crate::read::ReadTxn;
use crate::space::{MapRoot, Space};
use crate::write::WriteTxn;

/// An open database. Cheap to clone; all clones are the same database.
///
/// One thread at a time may write, any number may read, and no reader waits for the writer.
///
/// Dropping the last handle marks the file as cleanly closed; [`Database::close`] does the same and
/// says whether it worked.
#[derive(Clone)]
pub struct Database {
    pub(crate) inner: Arc<Inner>,
}

/// The pager that runs, one of three.
#[expect(clippy::large_enum_variant, reason = "there is one for each database")]
pub(crate) enum AnyPager {
    Mmap(MmapPager),
    Pool(BufPool),
    Memory(MemPager),
    /// A modelled disk that fails and loses power when a test says so.
    #[cfg(test)]
    Modelled(bifolio_pager::Faulty<MemPager>),
}

/// Runs one expression on the pager that the database has, compiled for each.
macro_rules! with_pager {
    ($any:expr, $pager:ident => $body:expr) => {
        match $any {
            $crate::database::AnyPager::Mmap($pager) => $body,
            $crate::database::AnyPager::Pool($pager) => $body,
            $crate::database::AnyPager::Memory($pager) => $body,
            #[cfg(test)]
            $crate::database::AnyPager::Modelled($pager) => $body,
        }
    };
}
pub(crate) use with_pager;

/// One committed state of the database.
pub(crate) struct Committed {
    pub version: Version,
    pub catalogue: Root,
    pub map: MapRoot,
}

/// What only the write transaction touches.
pub(crate) struct Writer {
    /// The newest durable meta, and the slot it is in.
    pub meta: Meta,
    pub slot: MetaSlot,
    /// The next transaction's version: never used before, in this process or any other.
    pub next_version: Version,
    pub space: Space,
    /// Versions before the current one that readers held when it was last looked at.
    pub older: Vec<Arc<Committed>>,
    /// Whether a meta says that the file is open: then closing has to take that back.
    pub marked_open: bool,
}

pub(crate) struct Inner {
    pub path: PathBuf,
    pub pager: AnyPager,
    pub read_only: bool,
    current: RwLock<Arc<Committed>>,
    writer: Mutex<Option<Box<Writer>>>,
    writer_is_back: Condvar,
    failed: OnceLock<Arc<str>>,
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
    /// None today; a result so that reading can refuse later without breaking callers.
    pub fn read(&self) -> Result<ReadTxn> {
        Ok(ReadTxn::new(Arc::clone(&self.inner), self.inner.current()))
    }

    /// Begins the one write transaction, waiting until the one before is done.
    ///
    /// Dropping it takes back everything it did. A thread that holds the transaction and asks for
    /// another waits for ever.
    ///
    /// # Errors
    /// [`Error::ReadOnly`]; [`Error::Poisoned`] after a failed commit; and what the pager says when
    /// the first write transaction since opening marks the file as open.
    pub fn write(&self) -> Result<WriteTxn> {
        WriteTxn::begin(Arc::clone(&self.inner))
    }

    /// What the pager counted since the database was opened.
    pub fn counters(&self) -> Counters {
        with_pager!(&self.inner.pager, pager => pager.counters())
    }

    /// What really runs, in words: the pager, its I/O, its size.
    pub fn effective_backend(&self) -> String {
        with_pager!(&self.inner.pager, pager => pager.effective_backend())
    }

    /// Bytes in a page of this file.
    pub fn page_size(&self) -> usize {
        self.inner.geometry().page_size.bytes()
    }

    /// The file; empty for a database in memory.
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// Closes the database if this is the last handle (snapshots and transactions are handles too),
    /// marking the file as cleanly closed. Otherwise the last one to go does so.
    ///
    /// # Errors
    /// When the mark could not be written: everything committed is safe all the same, and the next
    /// opening takes a little longer.
    pub fn close(self) -> Result<()> {
        Arc::into_inner(self.inner).map_or(Ok(()), |mut inner| inner.mark_closed())
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
            let db = Self::on(path, unnamed.open()?, options)?;
            if unnamed.name(path)? {
                return Ok(db);
            }
        }
        Self::open_with(path, options)
    }

    pub(crate) fn open_with(path: &Path, options: &Options) -> Result<Self> {
        let opened = file::open(path, options.read_only)?;
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
            meta,
            slot,
            len,
        } = opened;
        let max_bytes = options.max_bytes.min(file::size_limit()).max(len);
        let pager = match &options.pager {
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
                };
                AnyPager::Mmap(MmapPager::open(file, meta.geometry(), options)?)
            }
            PagerChoice::Pool(config) => {
                let options = PoolOptions {
                    budget_bytes: pool_bytes(config.size)?,
                    policy: config.policy,
                    io: config.io,
                    direct: config.direct,
                    read_only: options.read_only,
                    max_bytes,
                };
                AnyPager::Pool(BufPool::open(file, meta.geometry(), options)?)
            }
        };
        Self::assemble(path.to_owned(), pager, meta, slot, options.read_only)
    }

    pub(crate) fn in_memory_with(options: &Options) -> Result<Self> {
        let page_size = options.chosen_page_size()?.unwrap_or(PageSize::DEFAULT);
        let (meta, _) = file::first_metas(page_size);
        let pager = AnyPager::Memory(MemPager::volatile(meta.geometry()));
        Self::assemble(PathBuf::new(), pager, meta, MetaSlot::A, false)
    }

    pub(crate) fn assemble(
        path: PathBuf,
        pager: AnyPager,
        meta: Meta,
        slot: MetaSlot,
        read_only: bool,
    ) -> Result<Self> {
        let current = Committed {
            version: meta.version,
            catalogue: meta.catalogue,
            map: meta.map,
        };
        let writer = Writer {
            meta,
            slot,
            next_version: meta.floor,
            space: Space::open(meta.geometry(), meta.map)?,
            older: Vec::new(),
            marked_open: false,
        };
        Ok(Database {
            inner: Arc::new(Inner {
                path,
                pager,
                read_only,
                current: RwLock::new(Arc::new(current)),
                writer: Mutex::new(Some(Box::new(writer))),
                writer_is_back: Condvar::new(),
                failed: OnceLock::new(),
            }),
        })
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database")
            .field("path", &self.inner.path)
            .field("pager", &self.effective_backend())
            .field("version", &self.inner.current().version)
            .finish_non_exhaustive()
    }
}

impl Inner {
    pub fn geometry(&self) -> Geometry {
        with_pager!(&self.pager, pager => pager.geometry())
    }

    pub fn current(&self) -> Arc<Committed> {
        Arc::clone(&self.current.read())
    }

    /// Makes `committed` what readers get from now on, and keeps the one before for those that
    /// still read it.
    pub fn publish(&self, writer: &mut Writer, committed: Committed) {
        let before = std::mem::replace(&mut *self.current.write(), Arc::new(committed));
        writer.older.push(before);
    }

    /// Takes the writer, waiting until it is there.
    pub fn take_writer(&self) -> Result<Box<Writer>> {
        let mut place = self.writer.lock();
        loop {
            self.refuse_if_failed()?;
            if let Some(writer) = place.take() {
                return Ok(writer);
            }
            self.writer_is_back.wait(&mut place);
        }
    }

    pub fn give_writer_back(&self, writer: Box<Writer>) {
        let before = self.writer.lock().replace(writer);
        assert!(before.is_none(), "there is one writer");
        self.writer_is_back.notify_one();
    }

    /// From now on nothing is written (invariant 4). Returns what callers are told.
    pub fn poison(&self, failure: &Error) -> Error {
        let first = self.failed.get_or_init(|| match failure {
            Error::Poisoned { first } => Arc::clone(first),
            failure => failure.to_string().into(),
        });
        // With the place locked, nobody is between looking at `failed` and beginning to wait.
        let _place = self.writer.lock();
        self.writer_is_back.notify_all();
        Error::Poisoned {
            first: Arc::clone(first),
        }
    }

    pub fn refuse_if_failed(&self) -> Result<()> {
        match self.failed.get() {
            Some(first) => Err(Error::Poisoned {
                first: Arc::clone(first),
            }),
            None => Ok(()),
        }
    }

    /// Writes `meta` over the older slot and makes it durable, after everything flushed before.
    pub fn write_meta<P: Pager>(
        pager: &P,
        writer: &mut Writer,
        after: bifolio_pager::Flushed,
        meta: Meta,
    ) -> PagerResult<()> {
        let slot = writer.slot.other();
        pager.write_meta(after, slot, &meta.encode_slot())?;
        writer.meta = meta;
        writer.slot = slot;
        Ok(())
    }

    fn mark_closed(&mut self) -> Result<()> {
        let Some(mut writer) = self.writer.get_mut().take() else {
            return Ok(());
        };
        if !writer.marked_open || self.failed.get().is_some() {
            return Ok(()); // nothing to take back; and after a failure nothing is written
        }
        let closed = Meta {
            clean: true,
            boot: file::boot().unwrap_or(0),
            floor: writer.next_version,
            ..writer.meta.successor(writer.next_version)
        };
        with_pager!(&self.pager, pager => {
            let after = pager.flush(&[])?;
            Self::write_meta(pager, &mut writer, after, closed)?;
        });
        Ok(())
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Whoever wants to know calls `close`. A file that stays marked as open is still whole.
        let _ = self.mark_closed();
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
