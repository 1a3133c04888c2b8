//! Which pages a write transaction has made, dropped and replaced; the tree gets its pages through it.

use std::collections::HashSet;

use bifolio_btree::PageSource;
use bifolio_pager::{PageId, PageRef, Pager, Result as PagerResult, Version};

use crate::space::Space;
/// Private pages that were dropped again are discarded in batches of this many: a discard costs a
/// `membarrier`, whatever the number of pages.
const DISCARD_BATCH: usize = 64;

/// What a transaction did to pages.
pub(super) struct Ledger {
    pub version: Version,
    /// Private pages: allocated and not dropped again.
    pub private: HashSet<PageId>,
    /// Private pages no longer used, still to be discarded and given back.
    pub dropped: Vec<PageId>,
    /// Committed pages that the new version does not reach.
    pub retired: Vec<PageRef>,
}

/// The tree's view of the ledger and the allocation map.
pub(super) struct Source<'a, P> {
    pub pager: &'a P,
    pub space: &'a mut Space,
    pub pages: &'a mut Ledger,
}

impl<P: Pager> PageSource for Source<'_, P> {
    fn version(&self) -> Version {
        self.pages.version
    }

    fn allocate(&mut self) -> PagerResult<PageId> {
        let id = self.space.allocate(self.pager)?;
        self.pages.own(id);
        Ok(id)
    }

    fn allocate_run(&mut self, want: u64) -> PagerResult<(PageId, u64)> {
        let (first, count) = self.space.allocate_run(self.pager, want)?;
        (0..count).for_each(|index| self.pages.own(first.plus(index)));
        Ok((first, count))
    }

    fn retire(&mut self, page: PageRef) -> PagerResult<()> {
        if page.version == self.pages.version {
            self.pages.disown(page.id);
            if self.pages.dropped.len() >= DISCARD_BATCH {
                self.pages.settle(self.pager, self.space)?;
            }
        } else {
            self.pages.retired.push(page);
        }
        Ok(())
    }
}

impl Ledger {
    /// Of a transaction that has done nothing yet.
    pub fn new(version: Version) -> Self {
        Ledger {
            version,
            private: HashSet::new(),
            dropped: Vec::new(),
            retired: Vec::new(),
        }
    }

    fn own(&mut self, id: PageId) {
        assert!(self.private.insert(id), "page {id} was handed out twice");
    }

    fn disown(&mut self, id: PageId) {
        assert!(
            self.private.remove(&id),
            "page {id} is not this transaction's"
        );
        self.dropped.push(id);
    }

    /// Gives back the dropped pages.
    pub fn settle<P: Pager>(&mut self, pager: &P, space: &mut Space) -> PagerResult<()> {
        pager.discard(&self.dropped)?;
        self.dropped.drain(..).for_each(|id| space.give_back(id));
        Ok(())
    }

    /// The private pages, in page order.
    pub fn private_pages(&self) -> Vec<PageRef> {
        let version = self.version;
        let mut pages: Vec<_> = self
            .private
            .iter()
            .map(|&id| PageRef { id, version })
            .collect();
        pages.sort_unstable();
        pages
    }
}
