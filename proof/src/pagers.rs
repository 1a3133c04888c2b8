//! The pagers that a layer runs on, by name.

use bifolio::{Direct, IoBackend, MmapConfig, Options, PagerChoice, Policy, PoolConfig, PoolSize};
use clap::ValueEnum;

/// Memory of a pool: little, so that pages are evicted and written back early.
const POOL_BYTES: u64 = 4 << 20;
/// Address space of a file: cases are small, and many run at a time.
const MAX_BYTES: u64 = 1 << 30;

/// A pager and how it does I/O.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Pager {
    /// The memory map.
    Mmap,
    /// The buffer pool, reading with `pread`.
    Pread,
    /// The buffer pool on io_uring.
    Uring,
    /// Each case the one that its seed says.
    Any,
}

impl Pager {
    const EACH: [Pager; 3] = [Pager::Mmap, Pager::Pread, Pager::Uring];

    /// The pager of a case.
    pub fn of_case(self, draw: u64) -> Pager {
        match self {
            Pager::Any => Self::EACH[(draw % 3) as usize],
            chosen => chosen,
        }
    }

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Pager::Mmap => "mmap",
            Pager::Pread => "pread",
            Pager::Uring => "uring",
            Pager::Any => "any",
        }
    }

    /// What it takes to open a database with it.
    ///
    /// # Panics
    /// If it is `Any`, which is none.
    pub fn options(self) -> Options {
        let pool = |io| {
            PagerChoice::Pool(PoolConfig {
                size: PoolSize::Bytes(POOL_BYTES),
                policy: Policy::Clock,
                io,
                direct: Direct::Auto,
                ..PoolConfig::default()
            })
        };
        let choice = match self {
            Pager::Mmap => PagerChoice::Mmap(MmapConfig::default()),
            Pager::Pread => pool(IoBackend::Pread),
            Pager::Uring => pool(IoBackend::IoUring),
            Pager::Any => panic!("a case has one pager"),
        };
        Options::new().pager(choice).max_bytes(MAX_BYTES)
    }
}
