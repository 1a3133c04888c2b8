//! A page source for tests, which knows what is allocated and by whom it is still reached.

use std::collections::{BTreeMap, BTreeSet};

use bifolio_pager::{self as pager, PageId, PageRef, Pager, Version, first_page};

use crate::source::PageSource;

/// The longest run it hands out: short, so that a large value meets several.
const RUN_MAX: u64 = 5;

/// Hands out pages of a pager, growing it as needed, and asserts that none is handed out or taken
/// back twice. One transaction at a time; [`commit`](TestSource::commit) ends it and begins the
/// next. What is finished is sealed at once, so that a tree that writes it again is found out. What a transaction retires of earlier ones is kept until [`release`](TestSource::release).
pub struct TestSource<'p, P> {
    pager: &'p P,
    version: Version,
    next: PageId,
    free: Vec<PageId>,
    live: BTreeMap<PageId, Version>,
    /// Pages of this transaction that the tree will not write again, sealed.
    finished: BTreeSet<PageId>,
    retired: BTreeSet<PageRef>,
}

impl<'p, P: Pager> TestSource<'p, P> {
    /// A source of all pages of `pager`, which must hold none yet.
    pub fn new(pager: &'p P) -> Self {
        TestSource {
            pager,
            version: Version::ZERO.next(),
            next: first_page(pager.geometry()),
            free: Vec::new(),
            live: BTreeMap::new(),
            finished: BTreeSet::new(),
            retired: BTreeSet::new(),
        }
    }

    /// Ends the transaction: its pages are sealed, and those written from now on are the next
    /// one's. Nothing is flushed.
    pub fn commit(&mut self) -> pager::Result<()> {
        let private: Vec<PageRef> = (self.live.iter())
            .filter(|&(id, &version)| version == self.version && !self.finished.contains(id))
            .map(|(&id, &version)| PageRef { id, version })
            .collect();
        self.pager.seal(&private)?;
        self.finished.clear();
        self.version = self.version.next();
        Ok(())
    }

    /// Frees what was retired: nobody reads an older root any more.
    pub fn release(&mut self) -> pager::Result<()> {
        let retired: Vec<PageId> = self.retired.iter().map(|page| page.id).collect();
        self.pager.discard(&retired)?;
        self.retired.clear();
        for id in retired {
            self.live.remove(&id);
            self.free.push(id);
        }
        Ok(())
    }

    /// Pages that are allocated and not retired: exactly what the trees written with this source
    /// should reach.
    pub fn live(&self) -> BTreeSet<PageId> {
        let retired: BTreeSet<PageId> = self.retired.iter().map(|page| page.id).collect();
        let live = self.live.keys().copied();
        live.filter(|id| !retired.contains(id)).collect()
    }

    fn give(&mut self, id: PageId) -> PageId {
        let before = self.live.insert(id, self.version);
        assert_eq!(before, None, "page {id} is handed out twice");
        id
    }

    fn grow(&mut self, count: u64) -> pager::Result<PageId> {
        let first = self.next;
        let end = first.plus(count);
        if end.get() > self.pager.page_count() {
            self.pager.grow(end.get() + end.get() / 4)?;
        }
        self.next = end;
        Ok(first)
    }
}

impl<P: Pager> PageSource for TestSource<'_, P> {
    fn version(&self) -> Version {
        self.version
    }

    fn may_write(&self, page: PageRef) -> bool {
        page.version == self.version && !self.finished.contains(&page.id)
    }

    fn finish(&mut self, page: PageRef) -> pager::Result<()> {
        self.finished.insert(page.id);
        self.pager.seal(&[page])
    }

    fn allocate(&mut self) -> pager::Result<PageId> {
        let id = match self.free.pop() {
            Some(id) => id,
            None => self.grow(1)?,
        };
        Ok(self.give(id))
    }

    fn allocate_run(&mut self, want: u64) -> pager::Result<(PageId, u64)> {
        assert!(want > 0, "a run of no pages was asked for");
        // Now and then a single page that is free, so that chains are not all neighbours.
        if self.free.len() % 2 == 1 {
            return Ok((self.allocate()?, 1));
        }
        let count = want.min(RUN_MAX);
        let first = self.grow(count)?;
        for step in 0..count {
            self.give(first.plus(step));
        }
        Ok((first, count))
    }

    fn retire(&mut self, page: PageRef) -> pager::Result<()> {
        let born = self.live.get(&page.id).copied();
        assert_eq!(born, Some(page.version), "{page:?} is retired but not live");
        if page.version == self.version {
            self.pager.discard(&[page.id])?;
            self.live.remove(&page.id);
            self.finished.remove(&page.id);
            self.free.push(page.id);
        } else {
            assert!(self.retired.insert(page), "{page:?} is retired twice");
        }
        Ok(())
    }
}
