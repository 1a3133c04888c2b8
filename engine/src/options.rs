//! How a database is opened: which pager, how much memory, which page size.

use std::path::Path;

use bifolio_pager::PageSize;
pub use bifolio_pager_bufpool::{Direct, IoBackend, Policy};
pub use bifolio_pager_mmap::Advice;

use crate::database::Database;
use crate::error::{Error, Result};

/// How to open a database.
///
/// ```no_run
/// use bifolio::{Options, PagerChoice, PoolConfig, PoolSize};
///
/// let pool = PoolConfig { size: PoolSize::Bytes(256 << 20), ..PoolConfig::default() };
/// let db = Options::new().pager(PagerChoice::Pool(pool)).create("my.bifolio")?;
/// # Ok::<(), bifolio::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Options {
    pub(crate) pager: PagerChoice,
    pub(crate) page_size: Option<usize>,
    pub(crate) read_only: bool,
    pub(crate) max_bytes: u64,
}

/// Which of the pagers brings pages into memory. The file is the same under each.
#[derive(Clone, Debug)]
pub enum PagerChoice {
    /// A shared memory map; the kernel's page cache decides what stays in memory.
    Mmap(MmapConfig),
    /// A buffer pool of a fixed size, with its own eviction and write-back.
    Pool(PoolConfig),
    /// No file at all: everything is gone when the database is dropped. For tests and caches.
    Memory,
}

/// The choices of the mmap pager.
#[derive(Clone, Debug, Default)]
pub struct MmapConfig {
    /// What the kernel is told of the coming accesses.
    pub advice: Advice,
}

/// The choices of the buffer pool.
#[derive(Clone, Debug, Default)]
pub struct PoolConfig {
    /// Memory that the pool may hold, frames and tables together.
    pub size: PoolSize,
    /// Which page leaves when another one needs its frame.
    pub policy: Policy,
    /// How pages are read and written.
    pub io: IoBackend,
    /// Whether the kernel's page cache is bypassed.
    pub direct: Direct,
}

/// How much memory a buffer pool gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PoolSize {
    /// From the smallest memory limit that holds for this process: the limits of its control group
    /// and of all groups above, less what the process holds already and a reserve. Where there is
    /// no limit, a quarter of the machine's available memory. See [`crate::memory_limit_bytes`].
    #[default]
    Auto,
    /// This many bytes.
    Bytes(u64),
}

impl Default for PagerChoice {
    /// The buffer pool: its memory is bounded, and a failed read is an error.
    fn default() -> Self {
        PagerChoice::Pool(PoolConfig::default())
    }
}

impl Default for Options {
    fn default() -> Self {
        Options {
            pager: PagerChoice::default(),
            page_size: None,
            read_only: false,
            max_bytes: 1 << 40,
        }
    }
}

impl Options {
    /// The defaults: a buffer pool of automatic size, 4 KiB pages, reading and writing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Which pager, with its choices.
    pub fn pager(mut self, pager: PagerChoice) -> Self {
        self.pager = pager;
        self
    }

    /// Bytes in a page: 4096 (the default), 8192, 16384, 32768 or 65536. Fixed when the file is
    /// created; opening a file of another page size than asked for is an error.
    pub fn page_size(mut self, bytes: usize) -> Self {
        self.page_size = Some(bytes);
        self
    }

    /// Opens for reading only: several such openers may share a database, and none changes it.
    pub fn read_only(mut self, read_only: bool) -> Self {
        self.read_only = read_only;
        self
    }

    /// The size in bytes that the file may grow to (1 TiB; less where `ulimit -f` says so). A file
    /// that is larger already is opened and does not grow. Costs address space, not memory.
    pub fn max_bytes(mut self, bytes: u64) -> Self {
        self.max_bytes = bytes;
        self
    }

    /// Opens the database at `path`, making an empty one if there is none.
    ///
    /// A new file is written under another name, synced and renamed, so a crash leaves either no
    /// database or an empty one, and options that cannot be used leave none.
    ///
    /// # Errors
    /// As [`Options::open`]; and [`Error::ReadOnly`] if there is nothing to open for reading.
    pub fn create(&self, path: impl AsRef<Path>) -> Result<Database> {
        Database::create_with(path.as_ref(), self)
    }

    /// Opens the database at `path`, which must exist. Takes constant time after a clean close.
    ///
    /// # Errors
    /// [`Error::File`], [`Error::NotADatabase`], [`Error::NewerFormat`], [`Error::OtherPageSize`],
    /// [`Error::Truncated`], [`Error::DamagedMeta`], [`Error::InUse`] (after a quarter of a second),
    /// [`Error::BadOption`], or a pager's word on what cannot be had here. The file is unchanged.
    pub fn open(&self, path: impl AsRef<Path>) -> Result<Database> {
        Database::open_with(path.as_ref(), self)
    }

    /// An empty database without a file; the pager chosen does not matter.
    ///
    /// # Errors
    /// [`Error::BadOption`] for a page size that there is not.
    pub fn in_memory(&self) -> Result<Database> {
        Database::in_memory_with(self)
    }

    pub(crate) fn chosen_page_size(&self) -> Result<Option<PageSize>> {
        self.page_size
            .map(|bytes| {
                PageSize::new(bytes).ok_or_else(|| {
                    Error::BadOption(format!(
                        "a page of {bytes} bytes; it has 4096, 8192, 16384, 32768 or 65536"
                    ))
                })
            })
            .transpose()
    }
}
