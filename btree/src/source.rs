//! Where a writer's pages come from and go to.

use bifolio_pager::{self as pager, PageId, PageRef, Version};

/// The engine's side of a write transaction: hands out free pages and takes back those that the
/// tree no longer reaches.
///
/// The tree creates what it allocates (with [`Pager::create`](bifolio_pager::Pager::create) and
/// the stamp [`version`](PageSource::version)), except where an error comes between.
pub trait PageSource {
    /// The stamp of every page that this transaction writes.
    fn version(&self) -> Version;

    /// Whether the transaction may write this page of its tree in place: it made it, and has not
    /// [finished](PageSource::finish) it.
    fn may_write(&self, page: PageRef) -> bool {
        page.version == self.version()
    }

    /// The tree has written this page for the last time, holds no guard of it, and will copy it
    /// where it is to change, provided [`may_write`](PageSource::may_write) says so. Told of every
    /// page of a [bulk load](crate::bulk_load()) and of large values. A source may seal it now, so that
    /// it can be written out in its final form; one that does that for some pages must do it for
    /// all that the tree finished before it writes in place again, since above a page that may be
    /// written there is none that may not.
    fn finish(&mut self, _page: PageRef) -> pager::Result<()> {
        Ok(())
    }

    /// A free page, near the one handed out last if that can be had.
    fn allocate(&mut self) -> pager::Result<PageId>;

    /// The first of between 1 and `want` free neighbours, and how many they are. `want` is not 0.
    fn allocate_run(&mut self, want: u64) -> pager::Result<(PageId, u64)> {
        debug_assert!(want > 0, "a run has at least one page");
        Ok((self.allocate()?, 1))
    }

    /// The tree no longer reaches this page, and holds no guard of it. A page that carries
    /// [`version`](PageSource::version) was private and may be discarded at once; any other may
    /// still be read by older snapshots.
    fn retire(&mut self, page: PageRef) -> pager::Result<()>;
}
