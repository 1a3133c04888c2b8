//! Where a writer's pages come from and go to.

use bifolio_pager::{self as pager, PageId, PageRef, Version};

/// The engine's side of a write transaction: hands out free pages and takes back those that the
/// tree no longer reaches.
///
/// The tree creates what it allocates (with [`Pager::create`](bifolio_pager::Pager::create) and
/// the stamp [`version`](PageSource::version)), except where an error comes between.
pub trait PageSource {
    /// The stamp of every page that this transaction writes. A page that carries it is private to
    /// the transaction and is written in place; any other is copied first.
    fn version(&self) -> Version;

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
