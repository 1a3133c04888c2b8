//! How a database is opened: which pager, how much memory, which page size.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bifolio_pager::PageSize;
pub use bifolio_pager_bufpool::{Direct, IoBackend, Policy};
pub use bifolio_pager_mmap::{Advice, WriteStyle};

use crate::database::Database;
use crate::error::{Error, Result};
use crate::file;
use crate::log::{self, DirectIo, Disk, History, Log, LogMark, RealDisk};
use crate::pace::Background;
use crate::recovery::RecoveryProgress;

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
    pub(crate) log_bytes: u64,
    pub(crate) sync_interval: Duration,
    pub(crate) checkpoint_interval: Duration,
    pub(crate) dirty_bytes: Option<u64>,
    pub(crate) allow_network: bool,
    pub(crate) recovery_memory_bytes: u64,
    pub(crate) on_recovery: Option<OnRecovery>,
}

/// Who is told how far recovery is.
#[derive(Clone)]
pub(crate) struct OnRecovery(pub Arc<dyn Fn(&RecoveryProgress) + Send + Sync>);

impl fmt::Debug for OnRecovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnRecovery")
    }
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
    /// How changed pages get into the file.
    pub write_style: WriteStyle,
    /// How much of the file shall be in memory at most: a soft bound, kept by a thread that gives
    /// back what was not used for longest. Default: what the kernel leaves us.
    pub memory_bytes: Option<u64>,
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
    /// Record every access to a page in this file, to be replayed through other policies
    /// (`bifolio-bench simulate`); what was there is lost. Finished when the database is closed.
    pub trace: Option<PathBuf>,
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
            log_bytes: 64 << 20,
            sync_interval: Duration::from_millis(100),
            checkpoint_interval: Duration::from_secs(30),
            dirty_bytes: None,
            allow_network: false,
            recovery_memory_bytes: 64 << 20,
            on_recovery: None,
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

    /// Opens for reading only: several such openers may share a database, and none changes it, its
    /// log, or what lies beside it.
    ///
    /// Where the database was not closed, its log is replayed in memory, for this opener alone: see
    /// [`Options::recovery_memory_bytes`].
    pub fn read_only(mut self, read_only: bool) -> Self {
        self.read_only = read_only;
        self
    }

    /// The size in bytes that the file may grow to (1 TiB; less where `ulimit -f` says so). A file
    /// that is larger already is opened and does not grow. Costs address space, not memory.
    ///
    /// A transaction that does not fit fails with [`PagerError::Full`](crate::PagerError::Full) and
    /// takes nothing with it: drop it, and the database goes on. What was replaced since the last
    /// checkpoint is free after the next one, which is made before the next transaction begins, so the
    /// same transaction may fit then. A few pages are kept back for the allocation map, so that
    /// a checkpoint never fails for this. (A full *disk* is another thing: an allocation that the
    /// operating system refuses is a failed write, after which the database must be reopened.)
    pub fn max_bytes(mut self, bytes: u64) -> Self {
        self.max_bytes = bytes;
        self
    }

    /// Bytes of redo log after which a checkpoint begins in the background (64 MiB). Write
    /// transactions wait when the log is twice as long, so that recovery after a crash reads little
    /// more than that: less than three times this number. On disk the log takes up to five times
    /// this number, because its files are used again and the next ones are ready ahead of need.
    pub fn log_bytes(mut self, bytes: u64) -> Self {
        self.log_bytes = bytes;
        self
    }

    /// How long a commit of [`Durability::Interval`](crate::Durability::Interval) may wait for its
    /// sync (100 ms).
    pub fn sync_interval(mut self, interval: Duration) -> Self {
        self.sync_interval = interval;
        self
    }

    /// Opens files on network file systems too (`false`). Set it only if no other machine opens the
    /// file: two that do will damage it. A commit is then as durable as the server's syncs are.
    pub fn allow_network_file_system(mut self, allow: bool) -> Self {
        self.allow_network = allow;
        self
    }

    /// How much memory opening for reading only may take, beside the pager's, for the pages that
    /// replaying the log of a database that was not closed changes (64 MiB). They are kept until
    /// it is closed. Where they take more, opening fails with [`Error::NeedsRecovery`].
    pub fn recovery_memory_bytes(mut self, bytes: u64) -> Self {
        self.recovery_memory_bytes = bytes;
        self
    }

    /// Calls `tell` while opening replays the log of a database that was not closed, if that takes
    /// long: first after about 100 ms, then about every 100 ms, on the thread that opens, and not
    /// after a failure. A panic of `tell` passes through `open` and changes nothing on storage.
    pub fn on_recovery(mut self, tell: impl Fn(&RecoveryProgress) + Send + Sync + 'static) -> Self {
        self.on_recovery = Some(OnRecovery(Arc::new(tell)));
        self
    }

    /// Bytes of committed pages that no checkpoint has written yet after which one begins in the
    /// background: 256 MiB with a memory map, and with a pool of a given size a quarter of it, but
    /// 64 MiB at the least. Write transactions wait at twice as many. A single transaction may have more.
    pub fn dirty_bytes(mut self, bytes: u64) -> Self {
        self.dirty_bytes = Some(bytes);
        self
    }

    /// How long a commit may remain without a checkpoint, however little is written (30 s).
    pub fn checkpoint_interval(mut self, interval: Duration) -> Self {
        self.checkpoint_interval = interval;
        self
    }

    pub(crate) fn background(&self) -> Background {
        /// Of pages in a map, or in a pool that takes its size from the machine.
        const DIRTY_BYTES: u64 = 256 << 20;
        /// A small pool writes dirty pages early (no harm: nothing refers to them yet) and has more
        /// of them than memory.
        const DIRTY_BYTES_MIN: u64 = 64 << 20;
        let by_default = match &self.pager {
            PagerChoice::Pool(PoolConfig {
                size: PoolSize::Bytes(bytes),
                ..
            }) => (bytes / 4).max(DIRTY_BYTES_MIN),
            _ => DIRTY_BYTES,
        };
        Background {
            sync_interval: self.sync_interval,
            checkpoint_interval: self.checkpoint_interval,
            dirty_bytes: self.dirty_bytes.unwrap_or(by_default),
        }
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
    /// [`Error::Truncated`], [`Error::DamagedMeta`], [`Error::InUse`] (if in another process, after a
    /// quarter of a second), [`Error::NetworkFileSystem`], [`Error::NeedsRecovery`],
    /// [`Error::Log`], [`Error::BadOption`], or a pager's word on what cannot be had here. The file is unchanged.
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

/// Where the redo log of a database lies, and how it is kept.
pub(crate) struct LogPlace {
    pub disk: Arc<dyn Disk>,
    /// What the names of the log's files begin with.
    pub prefix: OsString,
    pub options: log::Options,
    /// Bytes after which a checkpoint is due.
    pub limit_bytes: u64,
}

impl LogPlace {
    /// Beside the database at `path`, or, if that is a link, beside what it leads to: whichever way
    /// a database is opened, it has one log.
    pub fn beside(path: &Path, limit_bytes: u64) -> Result<Self> {
        let (disk, path) = directory_of(path)?;
        // A write past `ulimit -f` would not only fail but kill the process.
        let largest = file::size_limit().min(16 << 20);
        let wanted = (limit_bytes / 4)
            .next_power_of_two()
            .clamp(1 << 16, 16 << 20);
        let segment_bytes = if wanted <= largest {
            wanted
        } else {
            (1 << largest.max(1).ilog2()).max(1 << 12)
        };
        Ok(LogPlace {
            disk: Arc::new(disk),
            prefix: path.file_name().unwrap_or_default().to_owned(),
            options: log::Options {
                segment_bytes,
                ..log::Options::default()
            },
            limit_bytes,
        })
    }

    /// The same place, of which nothing is changed.
    pub fn to_read(path: &Path) -> Result<Self> {
        let (directory, path) = directory_of(path)?;
        let disk = directory.for_reading();
        Ok(LogPlace {
            disk: Arc::new(disk),
            prefix: path.file_name().unwrap_or_default().to_owned(),
            options: log::Options::default(),
            limit_bytes: 0,
        })
    }

    /// A new log. What an earlier one left is removed: the meta says that it is not needed.
    pub fn create(&self, file_id: [u8; 16]) -> Result<Log> {
        self.remove()?;
        Ok(Log::create(
            Arc::clone(&self.disk),
            &self.prefix,
            file_id,
            self.options,
        )?)
    }

    /// What a crash left in the log from `mark` on. Changes nothing.
    pub fn history(&self, file_id: [u8; 16], mark: &LogMark) -> Result<History> {
        let disk = Arc::clone(&self.disk);
        Ok(History::read(disk, &self.prefix, file_id, mark)?)
    }

    /// The names of the log's files, as they are now.
    pub fn files(&self) -> Result<Vec<OsString>> {
        Ok(Log::files(&*self.disk, &self.prefix)?)
    }

    pub fn remove(&self) -> Result<()> {
        Ok(Log::remove_all(&*self.disk, &self.prefix)?)
    }
}

/// The directory that the log of the database at `path` lies in, and the path without links.
fn directory_of(path: &Path) -> Result<(RealDisk, PathBuf)> {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let disk = RealDisk::open(directory, DirectIo::Auto)
        .map_err(|error| Error::file("open the directory of", &path, error))?;
    Ok((disk, path))
}
