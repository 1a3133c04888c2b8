//! The file: its length, its syncs, its meta slots, and what becomes of a failure.
//!
//! Invariants:
//! 1. Once a write, a sync or a growth has failed, none is tried again: all results come here, and the
//!    first bad one is kept ([`Disk::writable`]). A second `fsync` that returns 0 proves nothing.
//! 2. A write is noted as unsynced before its page is called clean, so that whoever finds the page
//!    clean and then syncs has it durable.
//! 3. The file is at least `page_count` pages long, unless another process cut it: that is found at
//!    the next sync.

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use bifolio_pager::defect::{Defect, planted};
use bifolio_pager::witness::{Operation, witnessed};
use bifolio_pager::{Error, Geometry, META_LEN, MetaSlot, PageId, PageSize, Result};
use memmap2::MmapMut;
use parking_lot::Mutex;
use rustix::fs::{FallocateFlags, OFlags};
use rustix::io::Errno;

use crate::io::Io;
use crate::options::{Direct, PoolOptions};

pub(crate) struct Disk {
    pub(crate) file: Arc<File>,
    pub(crate) io: Box<dyn Io>,
    direct: bool,
    read_only: bool,
    max_bytes: u64,
    page_size: PageSize,
    page_count: AtomicU64,
    growing: Mutex<()>,
    /// Something was written, or the length changed, since the last sync.
    unsynced: AtomicBool,
    /// Held for the whole of a sync, so that nobody returns before a sync that covers him.
    syncing: Mutex<()>,
    /// A page-aligned place for a meta on its way out.
    meta: Mutex<MmapMut>,
    poison: OnceLock<Arc<str>>,
}

impl Disk {
    /// Takes the file over, with `O_DIRECT` if that is asked for and to be had.
    pub(crate) fn open(file: File, geometry: Geometry, options: &PoolOptions) -> Result<Self> {
        let len = file
            .metadata()
            .map_err(|error| Error::io("fstat", error))?
            .len();
        if len > options.max_bytes {
            return Err(Error::BadOption(format!(
                "the file has {len} bytes, more than max_bytes, {}",
                options.max_bytes
            )));
        }
        let mut buffer =
            MmapMut::map_anon(META_LEN).map_err(|error| Error::io("mapping a buffer", error))?;
        let direct = go_direct(&file, options.direct, len, &mut buffer)?;
        let file = Arc::new(file);
        Ok(Disk {
            io: crate::io::open(options.io, &file, direct)?,
            file,
            direct,
            read_only: options.read_only,
            max_bytes: options.max_bytes,
            page_size: geometry.page_size,
            page_count: AtomicU64::new(len / geometry.page_size.bytes() as u64),
            growing: Mutex::new(()),
            unsynced: AtomicBool::new(false),
            syncing: Mutex::new(()),
            meta: Mutex::new(buffer),
            poison: OnceLock::new(),
        })
    }

    pub(crate) fn is_direct(&self) -> bool {
        self.direct
    }

    pub(crate) fn page_count(&self) -> u64 {
        self.page_count.load(Ordering::Acquire)
    }

    /// Whether the file may be written: it was opened for that, and nothing has failed.
    pub(crate) fn writable(&self) -> Result<()> {
        if self.read_only {
            return Err(Error::ReadOnly);
        }
        match self.poison.get() {
            None => Ok(()),
            Some(first) => Err(Error::Poisoned {
                first: Arc::clone(first),
            }),
        }
    }

    /// Whether something has failed, so that nothing is written any more.
    pub(crate) fn is_poisoned(&self) -> bool {
        self.poison.get().is_some()
    }

    /// Keeps the first failure, and returns the error for the one who met this one.
    pub(crate) fn poison(&self, operation: String, source: io::Error) -> Error {
        let error = Error::io(operation, source);
        let _ = self.poison.set(error.to_string().into());
        error
    }

    /// Fills `image` with the page as it is stored, unverified.
    pub(crate) fn read_page(&self, id: PageId, image: &mut [u8]) -> Result<()> {
        self.io
            .read(self.page_size.offset(id), image)
            .map_err(|error| read_error(id, error))
    }

    /// Writes the runs, in any order; one result for each.
    pub(crate) fn write(&self, runs: &mut [crate::io::Run<'_>]) -> Vec<io::Result<()>> {
        let count = runs.len();
        let written = witnessed(&self.file, || Operation::Write, || Ok(self.io.write(runs)));
        written.unwrap_or_else(|error| {
            if planted(Defect::PoolIgnoresWriteError) {
                return (0..count).map(|_| Ok(())).collect();
            }
            let same = |_| Err(io::Error::from(error.kind()));
            (0..count).map(same).collect()
        })
    }

    /// Notes that something was written (invariant 2).
    pub(crate) fn wrote(&self) {
        self.unsynced
            .store(!planted(Defect::PoolForgetsWrites), Ordering::Release);
    }

    /// Makes all that was written durable; whether a sync was needed.
    pub(crate) fn sync(&self) -> Result<bool> {
        let _syncing = self.syncing.lock();
        self.writable()?;
        if !self.unsynced.swap(false, Ordering::AcqRel) {
            return Ok(false);
        }
        let expected = self.page_count() * self.page_size.bytes() as u64;
        let sync = || Ok(rustix::fs::fdatasync(&self.file)?);
        if !planted(Defect::PoolSkipsSync) {
            let synced = witnessed(&self.file, || Operation::SyncAll, sync);
            if !planted(Defect::PoolIgnoresSyncError) {
                synced.map_err(|error| self.poison("fdatasync".into(), error))?;
            }
        }
        self.check_length(expected)?;
        Ok(true)
    }

    /// A file that another process cut loses pages, and no sync says so.
    fn check_length(&self, expected: u64) -> Result<()> {
        let stat = rustix::fs::fstat(&self.file)
            .map_err(|errno| self.poison("fstat after fdatasync".into(), errno.into()))?;
        let len = stat.st_size as u64;
        if len >= expected {
            return Ok(());
        }
        let cut = io::Error::other(format!("the file was cut to {len} bytes from {expected}"));
        Err(self.poison("fdatasync".into(), cut))
    }

    /// Makes room for at least `page_count` pages; whether there was less before.
    pub(crate) fn grow(&self, page_count: u64) -> Result<bool> {
        let _growing = self.growing.lock();
        self.writable()?;
        let old = self.page_count();
        if page_count <= old {
            return Ok(false);
        }
        let bytes = page_count.checked_mul(self.page_size.bytes() as u64);
        let Some(bytes) = bytes.filter(|&bytes| bytes <= self.max_bytes) else {
            return Err(Error::Full {
                limit_bytes: self.max_bytes,
            });
        };
        let from = old * self.page_size.bytes() as u64;
        let growth = || Operation::Allocate { len: bytes };
        let grown = witnessed(&self.file, growth, || allocate(&self.file, from, bytes));
        grown.map_err(|error| {
            self.poison(
                format!("growing the file from {from} to {bytes} bytes"),
                error,
            )
        })?;
        self.wrote();
        self.page_count.store(page_count, Ordering::Release);
        Ok(true)
    }

    /// Writes a meta slot and makes it durable.
    pub(crate) fn write_meta(&self, slot: MetaSlot, meta: &[u8]) -> Result<()> {
        assert_eq!(meta.len(), META_LEN, "a meta fills its slot");
        let mut buffer = self.meta.lock();
        self.writable()?;
        buffer.copy_from_slice(meta);
        let mut run = crate::io::Run {
            offset: slot.offset(),
            parts: vec![io::IoSlice::new(&buffer)],
        };
        self.write(std::slice::from_mut(&mut run))
            .pop()
            .expect("one run, one result")
            .map_err(|error| self.poison(format!("writing meta {slot:?}"), error))?;
        self.wrote();
        self.sync().map(drop)
    }
}

/// What a page that could not be read is to the caller.
pub(crate) fn read_error(id: PageId, error: io::Error) -> Error {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        Error::corrupt(id, "the file ends before the page does")
    } else {
        Error::io(format!("reading page {id}"), error)
    }
}

/// Space for bytes `from .. to`. Where the file system cannot allocate ahead, only the length.
fn allocate(file: &File, from: u64, to: u64) -> io::Result<()> {
    let allocated = rustix::io::retry_on_intr(|| {
        rustix::fs::fallocate(file, FallocateFlags::empty(), from, to - from)
    });
    match allocated {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(rustix::fs::ftruncate(file, to)?),
        other => Ok(other?),
    }
}

fn go_direct(file: &File, wish: Direct, len: u64, buffer: &mut MmapMut) -> Result<bool> {
    let refused = |why: String| match wish {
        Direct::On => Err(Error::Unavailable {
            what: "O_DIRECT",
            why,
        }),
        Direct::Auto | Direct::Off => Ok(false),
    };
    let flags = rustix::fs::fcntl_getfl(file).map_err(|errno| Error::io("fcntl", errno))?;
    if wish == Direct::Off {
        // The file may come with the flag set.
        let buffered = flags - OFlags::DIRECT;
        rustix::fs::fcntl_setfl(file, buffered).map_err(|errno| Error::io("fcntl", errno))?;
        return Ok(false);
    }
    if let Err(errno) = rustix::fs::fcntl_setfl(file, flags | OFlags::DIRECT) {
        return refused(format!("the file system refuses it: {errno}"));
    }
    // Some accept the flag and refuse the transfer, where a device's blocks are too large.
    if len >= META_LEN as u64
        && let Err(errno) = rustix::io::pread(file, &mut buffer[..], 0)
    {
        rustix::fs::fcntl_setfl(file, flags).map_err(|errno| Error::io("fcntl", errno))?;
        return refused(format!(
            "a read of {META_LEN} aligned bytes failed: {errno}"
        ));
    }
    Ok(true)
}
