//! Which page is handed out next.
//!
//! A single page is, if there is one, the one that became available last of those that were allocated
//! since the last checkpoint: it is in memory, in the processor's cache even, and dirty already, so it
//! costs no page fault and no frame, and the next checkpoint writes one page less. Small transactions
//! go round among a few pages that way.
//!
//! Pages that are written together should lie together: what bounds random updates is scattered
//! writes. So a cursor goes round the file and takes what is available where it stands; where
//! nothing is, it looks ahead for what is next in [`WANTED`]: a run of 64 pages, then *blocks* of 64 of
//! which most are available, a run of 8, blocks of which less is, and then any page. A dense block is
//! filled before the cursor goes on: thereby blocks that are nearly full are left alone until
//! random changes have emptied them, and what is written lies in longer runs (the segment choice
//! of log-structured file systems, Rosenblum and Ousterhout 1992, without the copying). What was not
//! found is not looked for again before something has become available. Looking costs a step for each leaf of the map that could have such a run (a leaf
//! remembers that it has none), and of leaves that are not loaded it reads a few at the most;
//! branches, one for 7 million pages, stay loaded once they are. Nothing is read to find out that a
//! part of the file is full.

use bifolio_pager::{Error, Geometry, META_AREA_LEN, PageId, Pager, Result};

use super::Space;

/// Something to look for.
#[derive(Clone, Copy)]
enum Wanted {
    /// A run of so many pages.
    Run(u32),
    /// A block of 64 pages with so many available, for those who want single pages.
    Block(u32),
}

/// What is looked for, best first.
const WANTED: [Wanted; 7] = [
    Wanted::Run(64),
    Wanted::Block(48),
    Wanted::Block(40),
    Wanted::Run(8),
    Wanted::Block(32),
    Wanted::Block(20),
    Wanted::Run(1),
];
/// Pages of a block.
const BLOCK: u64 = 64;
/// A rest at the cursor that is shorter than this is passed over when more is wanted.
const SHORT: u64 = 8;
/// Leaves that are read to find a page with neighbours. The search for any page reads one, and finds it.
const LOADS_MAX: usize = 8;
/// By how much a file grows: an eighth of its size, within these bounds, in bytes.
const GROW_BYTES_MIN: u64 = 1 << 20;
const GROW_BYTES_MAX: u64 = 64 << 20;

impl Space {
    /// A page for the running transaction: used from now on, until it is
    /// [given back](Space::give_back) or [retired](Space::retire). Pages come in runs of
    /// neighbours where there are any; the file grows when nothing is available but the reserve.
    ///
    /// # Errors
    /// Those of the pager: [`Error::Full`] when the file cannot grow; [`Error::Corrupt`] when a page
    /// of the map is damaged.
    pub fn allocate<P: Pager>(&mut self, pager: &P) -> Result<PageId> {
        self.make_room(pager, 1)?;
        while let Some(page) = self.young.pop() {
            if self.map.run_at(page, 1) == 1 {
                self.map.take(page, 1);
                return Ok(PageId::new(page));
            }
        }
        Ok(self.take(pager, 1)?.0)
    }

    /// Up to `want` neighbouring pages: the first, and how many.
    ///
    /// # Errors
    /// As [`Space::allocate`].
    ///
    /// # Panics
    /// If `want` is 0.
    pub fn allocate_run<P: Pager>(&mut self, pager: &P, want: u64) -> Result<(PageId, u64)> {
        assert!(want > 0, "a run has at least one page");
        self.make_room(pager, want)?;
        let want = want.min(self.spare(pager));
        self.take(pager, want)
    }

    /// Grows the file, if need be, so that a page beyond the reserve can be had.
    fn make_room<P: Pager>(&mut self, pager: &P, want: u64) -> Result<()> {
        while self.spare(pager) == 0 {
            let wanted = want + self.reserve.1;
            let grown = grow(pager, self.geometry, pager.page_count(), wanted);
            self.refused |= matches!(grown, Err(Error::Full { .. }));
            grown?;
        }
        Ok(())
    }

    /// A page for the map itself, from the reserve if need be.
    pub(super) fn allocate_reserved<P: Pager>(&mut self, pager: &P) -> Result<PageId> {
        Ok(self.take(pager, 1)?.0)
    }

    /// Pages of the file that can be had beyond the reserve (invariant 4).
    fn spare<P: Pager>(&mut self, pager: &P) -> u64 {
        let page_count = pager.page_count();
        if self.reserve.0 != page_count {
            self.reserve = (page_count, self.map.most_nodes(page_count));
        }
        let unused = page_count.saturating_sub(self.map.end());
        (self.map.totals().available() + unused).saturating_sub(self.reserve.1)
    }

    fn take<P: Pager>(&mut self, pager: &P, want: u64) -> Result<(PageId, u64)> {
        if self.map.totals().available() == 0 {
            return self.extend(pager, want);
        }
        let start = self.find(pager, want)?;
        let len = self.map.run_at(start, want);
        self.map.take(start, len);
        self.cursor = start + len;
        Ok((PageId::new(start), len))
    }

    /// An available page, if possible with neighbours. There is an available one.
    fn find<P: Pager>(&mut self, pager: &P, want: u64) -> Result<u64> {
        let enough = want.min(SHORT);
        match self.filling.filter(|_| want == 1) {
            Some(block) if block == self.cursor / BLOCK => {
                if let Some(page) = self.map.next_in_block(self.cursor) {
                    return Ok(page);
                }
            }
            Some(_) => {} // it is full
            None if self.map.run_at(self.cursor, enough) == enough => return Ok(self.cursor),
            None => {}
        }
        self.filling = None;
        let mut turn = self.patience;
        let mut loads = 0;
        while let Some(&wanted) = WANTED.get(turn) {
            let is_block = matches!(wanted, Wanted::Block(_));
            if !is_block || want == 1 {
                if let Some(start) = self.search(pager, wanted, &mut loads)? {
                    self.filling = is_block.then_some(start / BLOCK);
                    return Ok(start);
                }
                // What was passed over is still to be looked for.
                self.patience += usize::from(self.patience == turn);
            }
            turn += 1;
        }
        panic!("a page is available by the counts, which were checked as the leaves were loaded");
    }

    /// The first page of the next of these, once round the file from the cursor on. Counts the leaves
    /// that it reads.
    fn search<P: Pager>(
        &mut self,
        pager: &P,
        wanted: Wanted,
        loads: &mut usize,
    ) -> Result<Option<u64>> {
        let (Wanted::Run(need) | Wanted::Block(need)) = wanted;
        let here = self.map.leaf_of(self.cursor);
        let offset = self.cursor - self.map.first_of_leaf(here);
        if self.map.is_loaded(here)
            && let Some(start) = self.find_in(here, offset, wanted)
        {
            return Ok(Some(start)); // the common case, without a way down from the root
        }
        for (from, offset, last) in [(here, offset, u64::MAX), (0, 0, here)] {
            let mut next = from;
            while let Some(leaf) = self.map.next_leaf(pager, next, need.into())? {
                if leaf > last {
                    break;
                }
                next = leaf + 1;
                if !self.map.is_loaded(leaf) {
                    if need > 1 && *loads >= LOADS_MAX {
                        continue;
                    }
                    *loads += 1;
                    self.map.load(pager, leaf)?;
                }
                let offset = if leaf == from { offset } else { 0 };
                if let Some(start) = self.find_in(leaf, offset, wanted) {
                    return Ok(Some(start));
                }
            }
        }
        Ok(None)
    }

    fn find_in(&mut self, leaf: u64, offset: u64, wanted: Wanted) -> Option<u64> {
        match wanted {
            Wanted::Run(need) => self.map.find_run(leaf, offset, need),
            Wanted::Block(need) => self.map.find_dense(leaf, offset, need),
        }
    }

    /// Up to `want` pages that were never used.
    pub(super) fn extend<P: Pager>(&mut self, pager: &P, want: u64) -> Result<(PageId, u64)> {
        let start = self.map.end();
        // The last number is left out, so that `end` has 48 bits, too.
        let numbers = PageId::MAX.get() - start;
        let want = want.min(self.map.rest_of_leaf(start)).min(numbers);
        if want == 0 {
            let limit_bytes = self.geometry.page_size.offset(PageId::MAX);
            return Err(Error::Full { limit_bytes });
        }
        if start + want > pager.page_count() {
            grow(pager, self.geometry, start, want)?;
        }
        let len = want.min(pager.page_count() - start);
        self.map.extend(pager, len)?;
        Ok((PageId::new(start), len))
    }
}

/// Makes room for `want` pages from `start` on and for some more; near the limit of the file's
/// size, for as many as there can be, and for one at least.
fn grow<P: Pager>(pager: &P, geometry: Geometry, start: u64, want: u64) -> Result<()> {
    let page_bytes = geometry.page_size.bytes() as u64;
    let ahead = (pager.page_count() / 8)
        .max(GROW_BYTES_MIN / page_bytes)
        .min(GROW_BYTES_MAX / page_bytes);
    match pager.grow(start + want.max(ahead)) {
        Err(Error::Full { limit_bytes }) if limit_bytes / page_bytes > start => {
            let most = limit_bytes / page_bytes;
            if most > pager.page_count() {
                pager.grow(most)?;
            }
            Ok(())
        }
        grown => grown,
    }
}

// A new file grows by at least the meta area's size, whatever its page size.
const _: () = assert!(GROW_BYTES_MIN >= META_AREA_LEN);
