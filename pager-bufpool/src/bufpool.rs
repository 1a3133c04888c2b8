//! The pool as its users see it: the core, and the thread that works beside it.

use std::fs::File;
use std::sync::Arc;

use bifolio_pager::{
    Access, Counters, Flushed, Geometry, MetaSlot, PageId, PageRef, Pager, Result,
};

use crate::background::Background;
use crate::guard::{Mut, Ref};
use crate::options::PoolOptions;
use crate::pool::Core;

/// A buffer pool over one file.
///
/// A page that is in memory and sealed is read without a lock and without a write to shared memory;
/// a page that is not costs one read of the file, however many threads ask for it at once. Pools of 256
/// frames and more have a thread that writes pages out before their frames are needed. The pool writes
/// nothing more once it is dropped.
///
/// Clause 8, on memory: frames, tables and buffers together stay within the budget, the table of
/// page states included, until that takes more than half of it (a file of some 250 times the budget).
/// What the table takes beyond is over budget, and shown by [`Counters::memory_bytes`].
pub struct BufPool {
    /// Before `core`: it ends the thread.
    _background: Background,
    core: Arc<Core>,
}

impl BufPool {
    /// A pool over `file`, which the caller has locked and whose meta it has read.
    ///
    /// May set `O_DIRECT` on the file, which holds for every duplicate of the descriptor.
    ///
    /// # Errors
    /// [`Error::BadOption`](bifolio_pager::Error::BadOption) for a budget of too few frames or a file
    /// larger than `max_bytes`, [`Error::Unavailable`](bifolio_pager::Error::Unavailable) for what was
    /// asked for by name and is not to be had.
    pub fn open(file: File, geometry: Geometry, options: PoolOptions) -> Result<Self> {
        let core = Arc::new(Core::open(file, geometry, options)?);
        Ok(BufPool {
            _background: Background::start(&core),
            core,
        })
    }

    /// Gives the pool another budget while it runs: at most what it was opened with, for which its tables
    /// are made. Less memory is had by evicting, and writing out, what no longer fits; it is the system's
    /// again when this returns.
    ///
    /// # Errors
    /// [`Error::BadOption`](bifolio_pager::Error::BadOption) for more than the pool was opened with, or too
    /// little to work in; [`Error::NoFreeFrame`](bifolio_pager::Error::NoFreeFrame) where guards hold more
    /// frames than are to be left, [`Error::Poisoned`](bifolio_pager::Error::Poisoned) where pages that
    /// would have to be written cannot be. The pool then has the budget that it had.
    pub fn resize(&self, budget_bytes: u64) -> Result<()> {
        self.core.resize(budget_bytes)
    }

    /// Bytes of the frames that the kernel keeps in huge pages now; what else is in use of them is in small
    /// ones. `None` where the system does not tell. Reads all of `/proc/self/smaps`.
    pub fn huge_bytes(&self) -> Option<u64> {
        crate::huge::bytes_in(self.core.frames.addresses())
    }

    /// Frames that the pool may fill now.
    pub fn frame_count(&self) -> usize {
        self.core.frames.usable()
    }
}

impl Pager for BufPool {
    type Ref<'p> = Ref<'p>;
    type Mut<'p> = Mut<'p>;

    fn geometry(&self) -> Geometry {
        self.core.geometry()
    }

    fn page_count(&self) -> u64 {
        self.core.page_count()
    }

    fn grow(&self, page_count: u64) -> Result<()> {
        self.core.grow(page_count)
    }

    // Always: see `Core::read`.
    #[inline(always)]
    fn read(&self, at: PageRef) -> Result<Ref<'_>> {
        self.core.read(at)
    }

    fn create(&self, at: PageRef) -> Result<Mut<'_>> {
        self.core.create(at)
    }

    fn write(&self, at: PageRef) -> Result<Mut<'_>> {
        self.core.write(at)
    }

    fn seal(&self, pages: &[PageRef]) -> Result<()> {
        self.core.seal(pages)
    }

    fn discard(&self, pages: &[PageId]) -> Result<()> {
        self.core.discard(pages)
    }

    fn flush(&self, pages: &[PageRef]) -> Result<Flushed> {
        self.core.flush(pages)
    }

    fn write_meta(&self, after: Flushed, slot: MetaSlot, meta: &[u8]) -> Result<()> {
        self.core.write_meta(after, slot, meta)
    }

    fn prefetch(&self, pages: &[PageRef]) {
        self.core.prefetch(pages);
    }

    /// A part of the frames that S3-FIFO's young queue holds, for one scan; many long ones beside a hot set
    /// may push out what others have read ahead.
    fn read_ahead_most(&self) -> usize {
        self.core.read_ahead_most()
    }

    /// Writes what is dirty of these pages before it returns, and syncs nothing.
    fn write_back(&self, pages: &[PageRef]) {
        self.core.write_back(pages);
    }

    fn advise(&self, access: Access) {
        self.core.advise(access);
    }

    fn counters(&self) -> Counters {
        self.core.counters()
    }

    fn effective_backend(&self) -> String {
        self.core.effective_backend()
    }
}
