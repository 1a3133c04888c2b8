//! Which pages a write transaction has made, dropped and replaced; the tree gets its pages through it.
//!
//! A page that the transaction made is *private* until the tree finishes it, while a bulk load runs.
//! *Finished* pages are sealed, and begin their way to storage, in batches: so what is larger than
//! memory is written once, in its final form, where a private page that is stolen must come in again to be
//! written as final. A finished page that is dropped is held until the transaction ends, because its
//! number and stamp together must not come twice once it may have been stored as final.

use bifolio_btree::PageSource;
use bifolio_pager::{PageId, PageRef, Pager, Result as PagerResult, Version};
use rustc_hash::FxHashSet;

use crate::space::Space;
/// Private pages that were dropped again are discarded in batches of this many: a discard costs a
/// `membarrier`, whatever the number of pages.
const DISCARD_BATCH: usize = 64;
/// Finished pages are sealed and written back in batches of this many, neighbours for the most part.
const SEAL_BATCH: usize = 256;

/// What a transaction did to pages.
pub(super) struct Ledger {
    pub version: Version,
    /// Whether pages that the tree finishes are sealed at once.
    pub sealing: bool,
    /// Private pages: allocated, and neither finished nor dropped.
    private: FxHashSet<PageId>,
    /// Finished pages that were not dropped.
    finished: FxHashSet<PageId>,
    /// Those of the finished pages that are not sealed yet.
    unsealed: Vec<PageRef>,
    /// Private pages no longer used, still to be discarded and given back.
    dropped: Vec<PageId>,
    /// The same of finished pages, for when the transaction ends.
    held: Vec<PageId>,
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

    fn may_write(&self, page: PageRef) -> bool {
        page.version == self.pages.version && !self.pages.finished.contains(&page.id)
    }

    fn finish(&mut self, page: PageRef) -> PagerResult<()> {
        self.pages.finish(self.pager, page)
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
            if !self.pages.unsealed.is_empty() {
                self.pages.seal_finished(self.pager)?; // it may be among them
            }
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
            sealing: false,
            private: FxHashSet::default(),
            finished: FxHashSet::default(),
            unsealed: Vec::new(),
            dropped: Vec::new(),
            held: Vec::new(),
            retired: Vec::new(),
        }
    }

    fn own(&mut self, id: PageId) {
        assert!(self.private.insert(id), "page {id} was handed out twice");
    }

    fn disown(&mut self, id: PageId) {
        if self.private.remove(&id) {
            self.dropped.push(id);
        } else {
            let finished = self.finished.remove(&id);
            assert!(finished, "page {id} is not this transaction's");
            self.held.push(id);
        }
    }

    fn finish<P: Pager>(&mut self, pager: &P, page: PageRef) -> PagerResult<()> {
        if !self.sealing {
            return Ok(());
        }
        let private = self.private.remove(&page.id);
        assert!(private, "{page:?} is not private");
        self.finished.insert(page.id);
        self.unsealed.push(page);
        if self.unsealed.len() >= SEAL_BATCH {
            self.seal_finished(pager)?;
        }
        Ok(())
    }

    /// Seals what is finished, and starts writing it.
    pub fn seal_finished<P: Pager>(&mut self, pager: &P) -> PagerResult<()> {
        pager.seal(&self.unsealed)?;
        pager.write_back(&self.unsealed);
        self.unsealed.clear();
        Ok(())
    }

    /// Gives back the dropped pages.
    fn settle<P: Pager>(&mut self, pager: &P, space: &mut Space) -> PagerResult<()> {
        pager.discard(&self.dropped)?;
        self.dropped.drain(..).for_each(|id| space.give_back(id));
        Ok(())
    }

    /// At the end of the transaction: gives back everything that it dropped.
    pub fn settle_all<P: Pager>(&mut self, pager: &P, space: &mut Space) -> PagerResult<()> {
        self.dropped.append(&mut self.held);
        self.settle(pager, space)
    }

    /// Takes back the whole transaction.
    pub fn give_all_back<P: Pager>(&mut self, pager: &P, space: &mut Space) -> PagerResult<()> {
        self.dropped.extend(self.private.drain());
        self.dropped.extend(self.finished.drain());
        self.unsealed.clear();
        self.settle_all(pager, space)
    }

    /// Seals every page of the transaction that is not sealed yet, and returns all of them.
    pub fn seal<P: Pager>(&mut self, pager: &P) -> PagerResult<Vec<PageRef>> {
        let version = self.version;
        let named = |&id: &PageId| PageRef { id, version };
        let mut pages: Vec<_> = self.private.iter().map(named).collect();
        pages.append(&mut self.unsealed);
        pages.sort_unstable();
        pager.seal(&pages)?;
        pages.clear();
        pages.extend(self.private.iter().chain(&self.finished).map(named));
        Ok(pages)
    }
}
