//! The trait that the tree, the engine and both real pagers meet in.

use std::ops::{Deref, DerefMut};

use crate::error::Result;
use crate::page::{Geometry, PageId, PageRef};

/// A file of fixed-size pages, reached through guards.
///
/// A pager turns page numbers into bytes. It allocates nothing, orders nothing and knows no keys:
/// *which* pages are free, live or part of a commit is its caller's business.
///
/// # The life of a page number
///
/// ```text
///              create             seal
///   Free ─────────────▶ Private ─────────▶ Sealed
///    ▲    (zeros)          │ ▲ write          │
///    └─────────────────────┴─┴────────────────┘
///                  discard
/// ```
///
/// A *private* page is written by its one writer. A *sealed* page never changes again; it becomes
/// durable by [`flush`](Pager::flush). A *free* page cannot be read. A page of which a pager has
/// heard nothing since it was opened is whatever the caller knows it to be: it may be read (then it
/// is sealed) or created.
///
/// # Contract
///
/// The tree and the engine rely on these clauses and on nothing else.
/// [`conformance`](mod@crate::conformance) has a test named after each one, and every pager runs them all.
///
/// 1. *Stable.* What a read guard exposes neither moves nor changes while the guard lives. (The
///    checksum word lies outside what guards expose; a pager fills it in when it writes the page out.)
/// 2. *Exclusive.* Only a private page is written, and while it is, nobody else holds a guard of it:
///    `write` and `seal` of a page with a live guard, and `read` of one with a live write guard, are
///    refused with [`Error::Guarded`](crate::Error::Guarded). `create` is refused likewise while any
///    guard from before the number's `discard` lives. A created page is zeros beyond its number and
///    stamp, whatever it held before. A page under a write guard is not written back by the pager
///    (a kernel that writes a shared mapping back may do so: clause 4). What does not fit the page's
///    state is refused with [`Error::WrongState`](crate::Error::WrongState) and changes nothing:
///    `create` of a page that is private, or sealed as far as the pager knows (discard it first);
///    `write` of a sealed page, and `seal` of one that is not private; `flush` of a private page; a
///    reference with another stamp than the page has; a number outside the file.
/// 3. *Read your writes.* `read` sees what was last written through a guard that was dropped,
///    flushed or not, evicted in between or not.
/// 4. *Unordered.* Any private or sealed page may reach storage at any moment, half-changed, in any
///    order. Order comes from `flush` alone.
/// 5. *Durable.* After `flush` returns `Ok`, its pages survive power loss, and so does the file's
///    length. After any failed write, sync or growth no later one succeeds: each returns
///    [`Error::Poisoned`](crate::Error::Poisoned) with the first failure. Reads go on.
/// 6. *Verified.* Every page from storage is verified before it is believed: its checksum and number
///    at least once since it was brought in or mapped, its stamp at every read. What fails is
///    [`Error::Corrupt`](crate::Error::Corrupt) naming the page; so is a page that is free or lies
///    past the end, because only a damaged file refers to one. What was read through a guard counts
///    only once [`PageGuard::confirm`] has said so.
/// 7. *One life at a time.* At most one write of a page is in flight; `create` waits for, or
///    supersedes, all I/O of the number's former life.
/// 8. *Bounded.* The pager holds no more memory than it was given. Where all of it is in use at
///    once, the answer is [`Error::NoFreeFrame`](crate::Error::NoFreeFrame), never a hang. A guard
///    keeps its own page in memory and nobody else's, and may be dropped on any thread.
pub trait Pager: Send + Sync {
    /// A page that is being read.
    type Ref<'p>: PageGuard
    where
        Self: 'p;
    /// A private page that is being written; `..12` of it, the page's own reference, is filled in.
    type Mut<'p>: DerefMut<Target = [u8]>
    where
        Self: 'p;

    /// The page size and the checksum seed this pager was opened with.
    fn geometry(&self) -> Geometry;

    /// Pages that the file has room for now. Numbers from here on need [`grow`](Pager::grow) first.
    fn page_count(&self) -> u64;

    /// Makes room for at least `page_count` pages. Space is allocated, so that a full disk is an
    /// error here and not a signal later. The new length is durable with the next flush.
    fn grow(&self, page_count: u64) -> Result<()>;

    /// The page that `at` refers to, for reading (clauses 1, 3, 6). Blocks for at most one read of
    /// the page.
    fn read(&self, at: PageRef) -> Result<Self::Ref<'_>>;

    /// Begins a page's life as private, all zeros but for `at` in its header (clauses 2, 7).
    fn create(&self, at: PageRef) -> Result<Self::Mut<'_>>;

    /// A private page, for writing again (clause 2).
    fn write(&self, at: PageRef) -> Result<Self::Mut<'_>>;

    /// Ends the time in which these private pages may be written. Their bytes are now final. All of
    /// the pages are sealed, or on an error none.
    fn seal(&self, pages: &[PageRef]) -> Result<()>;

    /// Ends these pages' lives, private or sealed: they cannot be read from now on, need not be
    /// written, and their memory is free as soon as no guard exposes it. No-op for a free page. A
    /// page with a live write guard is refused with [`Error::Guarded`](crate::Error::Guarded); the
    /// others are discarded all the same.
    /// Dearer than it looks (`membarrier`), so pass many pages at once.
    fn discard(&self, pages: &[PageId]) -> Result<()>;

    /// Makes these sealed pages durable, and everything sealed that was written back before
    /// (clause 5). One sync, whatever the number of pages.
    fn flush(&self, pages: &[PageRef]) -> Result<Flushed>;

    /// Writes a meta slot and makes it durable. `after` proves that what the meta refers to is.
    ///
    /// # Panics
    /// If `meta` is not [`META_LEN`] bytes.
    fn write_meta(&self, after: Flushed, slot: MetaSlot, meta: &[u8]) -> Result<()>;

    /// Hint: these live pages will be read soon. Starts I/O for all of them and does not wait.
    fn prefetch(&self, _pages: &[PageRef]) {}

    /// How many pages a long scan should have asked for beyond the one that it reads, where they are
    /// neighbours in the file; a few dozen reads under way do where they are not. Small enough that
    /// what is brought in is still there when one scan comes to it.
    fn read_ahead_most(&self) -> usize {
        64
    }

    /// Hint: these sealed pages will be flushed soon. Starts writing them and promises nothing.
    fn write_back(&self, _pages: &[PageRef]) {}

    /// Hint: how the pages will be read from now on.
    fn advise(&self, _access: Access) {}

    /// What has happened since the pager was opened.
    fn counters(&self) -> Counters;

    /// What really runs, for a person: `"pool, io_uring, O_DIRECT, 2048 frames, CLOCK"`.
    fn effective_backend(&self) -> String;
}

/// The bytes of a page while they are read: all of it but the checksum.
pub trait PageGuard: Deref<Target = [u8]> + Send {
    /// Whether what was read through this guard until now was the page.
    ///
    /// A buffer pool knows before it hands the guard out. A memory map cannot: the kernel may drop
    /// a page that was verified and fail to bring it back, and the reader then meets zeros. So
    /// copy or use what you read, then ask, and only then believe it (clause 6).
    fn confirm(&self) -> Result<()>;
}

/// How pages will be read; a hint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// The pager's own default.
    Normal,
    /// Point reads: what lies beside a page is not wanted.
    Random,
    /// Long scans in page order: read ahead.
    Sequential,
}

/// One of the two places for the file's meta, at bytes 0 and 65,536 whatever the page size, so that
/// each can be found without the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MetaSlot {
    /// At byte 0.
    A,
    /// At byte 65,536.
    B,
}

/// Bytes of a meta slot that are written.
pub const META_LEN: usize = 4096;

/// Bytes at the beginning of a file that hold no pages: the two meta slots and the room they may
/// grow into. Page numbers start at `META_AREA_LEN / page_size`.
pub const META_AREA_LEN: u64 = 2 * 65536;

impl MetaSlot {
    /// The byte of the file at which the slot begins.
    pub const fn offset(self) -> u64 {
        match self {
            MetaSlot::A => 0,
            MetaSlot::B => 65536,
        }
    }

    /// The slot that is not this one.
    pub const fn other(self) -> Self {
        match self {
            MetaSlot::A => MetaSlot::B,
            MetaSlot::B => MetaSlot::A,
        }
    }
}

/// Proof that a flush succeeded: a meta that refers to flushed pages cannot be written without one.
#[must_use = "a flush is followed by the meta that depends on it"]
#[derive(Debug)]
pub struct Flushed(());

impl Flushed {
    /// For pagers, at the end of a successful [`Pager::flush`].
    pub fn proven() -> Self {
        Flushed(())
    }
}

/// What a pager did since it was opened. The same fields for every pager; `None` where a pager
/// cannot know, as a map does not see the kernel's reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Calls of `read` that found the page in memory.
    pub hits: Option<u64>,
    /// Pages read from storage, prefetched ones included.
    pub pages_read: Option<u64>,
    /// Pages asked for by `prefetch`.
    pub pages_prefetched: Option<u64>,
    /// Pages written to storage, by flush, write-back or steal.
    pub pages_written: Option<u64>,
    /// Calls to the device that wrote them: fewer than pages where neighbours were merged.
    pub write_calls: Option<u64>,
    /// Pages written while still private, because memory was short.
    pub pages_stolen: Option<u64>,
    /// Times that somebody could go on only after a page was written, because memory was short.
    pub waits_for_write: Option<u64>,
    /// Pages dropped from memory to make room.
    pub evictions: Option<u64>,
    /// Pages whose checksum was verified.
    pub pages_verified: Option<u64>,
    /// Pages that began a life.
    pub pages_created: Option<u64>,
    /// Pages created over old content that was not in memory, without reading that first.
    pub overwrites_unread: Option<u64>,
    /// Calls of `msync` or `fdatasync`.
    pub syncs: Option<u64>,
    /// Frames the pager may fill.
    pub frames: Option<u64>,
    /// Frames filled now.
    pub frames_used: Option<u64>,
    /// Frames whose content is newer than storage.
    pub frames_dirty: Option<u64>,
    /// Bytes of memory for frames, tables and buffers that the pager holds privately.
    pub memory_bytes: Option<u64>,
}

/// A page number below the meta area is never a page: what refers to one is damaged.
pub fn first_page(geometry: Geometry) -> PageId {
    PageId::new(META_AREA_LEN / geometry.page_size.bytes() as u64)
}
