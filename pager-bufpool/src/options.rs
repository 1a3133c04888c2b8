//! What can be chosen when a pool is opened, and how a budget becomes frames.

use std::path::PathBuf;

use bifolio_pager::{Error, Geometry, Result};

use crate::frames::{HUGE_PAGE, SPARE};
use crate::trace::BUFFER_BYTES;

/// How a pool is to be opened. `..Default::default()` for what you do not care about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolOptions {
    /// Bytes of memory that the pool may hold: frames, tables and I/O buffers together. Frames of 64 MiB
    /// and more are rounded down to whole huge pages of 2 MiB. See [`PoolOptions::budget_for`] for what
    /// a number of frames takes. Default: 64 MiB.
    pub budget_bytes: u64,
    /// Which page goes when a frame is needed. Default: S3-FIFO.
    pub policy: Policy,
    /// How the file is read and written. Default: io_uring where it is to be had, else `pread`.
    pub io: IoBackend,
    /// Whether to pass by the kernel's page cache. Default: where the file system can.
    pub direct: Direct,
    /// Refuse everything that would change the file. Default: no.
    pub read_only: bool,
    /// Record every access to a page in this file, for [`Trace::read`](crate::trace::Trace::read);
    /// what was there is lost. Finished when the pool is dropped. Costs 64 KiB of the budget, 8 bytes
    /// of the file and a lock for each access. Default: no.
    pub trace: Option<PathBuf>,
    /// The most bytes that the file may grow to. Costs 24 bytes of the budget for each 16,384 pages
    /// of it. Default: 1 TiB.
    pub max_bytes: u64,
}

impl Default for PoolOptions {
    fn default() -> Self {
        PoolOptions {
            budget_bytes: 64 << 20,
            policy: Policy::default(),
            io: IoBackend::default(),
            direct: Direct::default(),
            read_only: false,
            trace: None,
            max_bytes: 1 << 40,
        }
    }
}

/// Which page goes when a frame is needed.
///
/// Under all of them, the use for which a page was brought in does not count as one, and inner pages
/// of a tree stay before all others, up to a quarter of the frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Policy {
    /// A hand goes round the frames and takes the first that was not used since it last came by. A
    /// page that is read once and not again goes at the first pass, so a scan does little harm.
    Clock,
    /// The one not used for longest, exactly: the textbook's baseline. Every hit takes a lock, and a
    /// scan drives everything else out.
    Lru,
    /// Any: the baseline that knows nothing of the past.
    Random,
    /// A queue with a hand that looks at new pages soon and at old ones seldom (SIEVE, NSDI 2024).
    Sieve,
    /// New pages pass through a queue of a quarter of the frames, and stay longer only if they come
    /// back after that (2Q, VLDB 1994).
    TwoQ,
    /// New pages pass through a queue of a tenth of the frames, and stay longer if they are used again
    /// in it, or come back after it (S3-FIFO, SOSP 2023). A scan passes through the tenth, and what was
    /// in use stays: `docs/EVICTION.md` has the measurements that made it the default.
    #[default]
    S3Fifo,
}

impl Policy {
    /// All of them.
    pub const ALL: [Policy; 6] = [
        Policy::Clock,
        Policy::Lru,
        Policy::Random,
        Policy::Sieve,
        Policy::TwoQ,
        Policy::S3Fifo,
    ];

    /// The name that a command line has for it: lower case, no spaces.
    pub const fn name(self) -> &'static str {
        match self {
            Policy::Clock => "clock",
            Policy::Lru => "lru",
            Policy::Random => "random",
            Policy::Sieve => "sieve",
            Policy::TwoQ => "2q",
            Policy::S3Fifo => "s3fifo",
        }
    }

    /// The policy of this name, if there is one.
    pub fn from_name(name: &str) -> Option<Policy> {
        Policy::ALL.into_iter().find(|policy| policy.name() == name)
    }
}

impl std::fmt::Display for Policy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

/// How the file is read and written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum IoBackend {
    /// io_uring where it is to be had, else `pread`.
    #[default]
    Auto,
    /// One system call for each read: `pread`, `pwritev`. What is to be read ahead is read by a few
    /// threads, which are started when there is first something to read ahead.
    Pread,
    /// io_uring: many reads at once from one thread. A single read that its thread waits for goes by
    /// `pread`, which is cheaper.
    IoUring,
}

/// Whether to pass by the kernel's page cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Direct {
    /// `O_DIRECT` where the file system can, else through the page cache.
    #[default]
    Auto,
    /// `O_DIRECT`, or an error.
    On,
    /// Through the page cache.
    Off,
}

/// The fewest frames a pool works with.
pub const LEAST_FRAMES: usize = 8;

/// Pages in one chunk of the page table, and what a chunk costs; see `bifolio_pager::table`.
const CHUNK_PAGES: u64 = 1 << 14;
const CHUNK_BYTES: u64 = CHUNK_PAGES * 8;
const CHUNK_POINTER_BYTES: u64 = size_of::<std::sync::OnceLock<Box<[u64]>>>() as u64;

/// Frames of fewer bytes are not rounded down to whole huge pages.
const LEAST_HUGE_BYTES: usize = 32 * HUGE_PAGE;

/// Where the bytes of a budget go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budget {
    bytes: u64,
    /// What does not depend on the number of frames, the page table apart.
    fixed_bytes: u64,
    page_bytes: usize,
    /// What a frame takes: its page, and its part of the lists.
    frame_bytes: u64,
    /// The page table's directory.
    directory_bytes: u64,
}

impl PoolOptions {
    /// A budget that gives a pool of these options `frames` frames, or as many more as fill the last huge
    /// page, for a file that stays below 16,384 pages. Larger files take 128 KiB more for each further 16,384 pages. In it are
    /// [`LEAST_FRAMES`] frames more, which stay untouched until a write fails, and are for readers then.
    pub fn budget_for(&self, geometry: Geometry, frames: usize) -> u64 {
        let budget = self.budget(geometry);
        let whole = budget.in_whole_huge_pages(frames);
        if whole == frames {
            return budget.least_bytes(frames);
        }
        budget.least_bytes(whole + HUGE_PAGE / geometry.page_size.bytes())
    }

    pub(crate) fn budget(&self, geometry: Geometry) -> Budget {
        let page_bytes = geometry.page_size.bytes();
        let frame_bytes = page_bytes
            + crate::frames::Frames::OVERHEAD_BYTES
            + crate::policy::overhead_bytes(self.policy);
        Budget {
            bytes: self.budget_bytes,
            fixed_bytes: (crate::pool::FIXED_BYTES
                + crate::io::overhead_bytes(self.io)
                + self.trace.as_ref().map_or(0, |_| BUFFER_BYTES)) as u64,
            page_bytes,
            frame_bytes: frame_bytes as u64,
            directory_bytes: (self.max_bytes / page_bytes as u64).div_ceil(CHUNK_PAGES)
                * CHUNK_POINTER_BYTES,
        }
    }
}

impl Budget {
    fn least_bytes(&self, frames: usize) -> u64 {
        let frames_bytes = (frames + SPARE) as u64 * self.frame_bytes;
        self.fixed_bytes + self.directory_bytes + CHUNK_BYTES + frames_bytes
    }

    /// Refuses a budget that is too small to work in.
    ///
    /// # Errors
    /// [`Error::BadOption`], which says what would be enough.
    pub(crate) fn check(&self) -> Result<()> {
        let least = self.least_bytes(LEAST_FRAMES);
        if self.bytes >= least {
            return Ok(());
        }
        Err(Error::BadOption(format!(
            "a budget of {} bytes is too small to work in: at least {least} bytes are needed, for \
             {LEAST_FRAMES} frames, the tables and the I/O buffers",
            self.bytes
        )))
    }

    /// Frames that the budget allows beside the spare ones and the page table of a file of `page_count`
    /// pages.
    ///
    /// The table of a file more than some 250 times the budget would leave no frames; there the
    /// frames keep half of the budget, and what the table takes beyond the rest is over budget.
    pub(crate) fn frames(&self, page_count: u64) -> usize {
        let spare = self.bytes - (self.least_bytes(0)).min(self.bytes);
        let chunks = page_count.div_ceil(CHUNK_PAGES).max(1) - 1;
        let beside_table = spare.saturating_sub(chunks * CHUNK_BYTES) / self.frame_bytes;
        let frames = beside_table.max(spare / 2 / self.frame_bytes);
        let frames = frames.min(u32::MAX as u64) as usize;
        self.in_whole_huge_pages(frames).max(LEAST_FRAMES)
    }

    /// At most `frames` frames: with the spare ones whole huge pages, where they are so many that less
    /// than one in thirty goes. A rest would be in small pages, of which each costs a place in the TLB.
    fn in_whole_huge_pages(&self, frames: usize) -> usize {
        let bytes = (frames + SPARE) * self.page_bytes;
        if bytes < LEAST_HUGE_BYTES {
            return frames;
        }
        bytes / HUGE_PAGE * HUGE_PAGE / self.page_bytes - SPARE
    }

    /// The same, with other bytes to spend.
    pub(crate) fn with_bytes(self, bytes: u64) -> Self {
        Budget { bytes, ..self }
    }

    /// Bytes held when `frames` frames are in use and the page table holds `table_bytes`.
    pub(crate) fn held_bytes(&self, frames: usize, table_bytes: usize) -> u64 {
        self.fixed_bytes + frames as u64 * self.frame_bytes + table_bytes as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bifolio_pager::PageSize;

    fn geometry() -> Geometry {
        Geometry {
            page_size: PageSize::DEFAULT,
            seed: 1,
        }
    }

    fn with(budget_bytes: u64) -> Budget {
        let options = PoolOptions {
            budget_bytes,
            ..PoolOptions::default()
        };
        options.budget(geometry())
    }

    #[test]
    fn a_budget_for_some_frames_gives_exactly_those() {
        let options = PoolOptions::default();
        for frames in [8, 9, 100, 12_345] {
            let budget = with(options.budget_for(geometry(), frames));
            budget.check().unwrap();
            assert_eq!(budget.frames(16_384), frames);
        }
    }

    #[test]
    fn many_frames_are_whole_huge_pages_and_never_fewer_than_were_asked_for() {
        let options = PoolOptions::default();
        let in_huge = HUGE_PAGE / geometry().page_size.bytes();
        for asked in [20_000, 40 * in_huge - SPARE, 40 * in_huge - SPARE + 1] {
            let frames = with(options.budget_for(geometry(), asked)).frames(16_384);
            assert_eq!((frames + SPARE) % in_huge, 0, "{frames} frames");
            assert!(
                (asked..asked + in_huge).contains(&frames),
                "{frames} of {asked}"
            );
        }
        for bytes in [100 << 20, 333 << 20, 1 << 30] {
            let budget = with(bytes);
            let frames = budget.frames(16_384);
            assert_eq!((frames + SPARE) % in_huge, 0, "{frames} frames");
            assert!(budget.least_bytes(frames) <= bytes);
            assert!(budget.least_bytes(frames + in_huge) > bytes, "room is left");
        }
    }

    #[test]
    fn a_budget_too_small_to_work_in_is_refused_with_what_would_do() {
        let least = PoolOptions::default().budget_for(geometry(), LEAST_FRAMES);
        let error = with(least - 1).check().unwrap_err();
        assert!(error.to_string().contains(&least.to_string()), "{error}");
        assert!(with(0).check().is_err());
    }

    #[test]
    fn frames_and_the_table_of_the_whole_file_fit_the_budget() {
        let budget = with(64 << 20);
        for page_count in [0_u64, 1 << 14, (1 << 14) + 1, 1 << 18, 1 << 21] {
            let table = budget.directory_bytes + page_count.div_ceil(1 << 14) * CHUNK_BYTES;
            let held = budget.held_bytes(budget.frames(page_count), table as usize);
            assert!(held <= 64 << 20, "{page_count} pages: {held}");
        }
    }

    #[test]
    fn a_huge_file_leaves_half_of_the_budget_to_frames() {
        assert!(with(64 << 20).frames(1 << 28) >= 7_000);
    }
}
