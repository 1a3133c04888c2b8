//! Which pages of the file are free: the allocation map.
//!
//! Words: a *free* page is one that the version to be stored does not reach. It is *quarantined* if
//! some older version that may still be read does reach it, else *available*. A page is *used* if
//! it is not free. Every page from `end` on is free, because it was never used.
//!
//! Invariants:
//! 1. What [`Space::store`] stores for a version is exactly the complement of what that version
//!    reaches, the map's own pages included. The quarantine is not stored: after a reopening there
//!    are no older versions.
//! 2. Only an available page, or one from `end` on, is handed out.
//! 3. Upkeep costs what changed: opening reads nothing, a change loads the pages of the map that
//!    lead to it, and a store writes these and nothing else (and says in `store.rs` why the map's
//!    description of itself does not change that).
//!
//! 4. After each allocation of a transaction the file has, without growing, as many pages left as
//!    storing the whole map takes (the *reserve*). So a file that may not grow any more refuses a
//!    transaction, and never the checkpoint that makes it durable, nor the recovery that repeats it.
//!
//! Locking: none. The one writer owns the `Space`.
//!
//! Failure: after an error of [`Space::store`] the `Space` no longer goes with any version: the
//! engine, which has failed to commit, accepts no further write until it is reopened. An error of
//! any other call changes nothing that matters: it can be made again.
//!
//! The parts: `format.rs` is how the map is stored, `map.rs` what of it is in memory, `allocate.rs`
//! which page is handed out, `quarantine.rs` when a page may be reused, `store.rs` how the map is
//! written, `check.rs` how it is read as a whole. Start at [`Space`]; a page's way through it is
//! `allocate` (or `give_back`), `retire`, `store`, `release`.

mod allocate;
mod bits;
mod check;
mod format;
mod map;
mod quarantine;
mod store;
#[cfg(test)]
mod tests;

pub use check::{Found, walk};
pub use format::MapRoot;

use bifolio_pager::{Error, Geometry, PageId, PageRef, Pager, Result, Version, first_page};

use format::Shape;
use map::Map;
use quarantine::Quarantine;

/// Young pages that are remembered: what a few dozen small transactions retire.
const YOUNG_MAX: usize = 256;

/// The free space of a file, for its one writer.
pub struct Space {
    geometry: Geometry,
    map: Map,
    quarantine: Quarantine,
    /// Where the last run of pages ended: the next one is looked for from here on.
    cursor: u64,
    /// Available pages that were allocated after the last store and so were never written: the next
    /// to be handed out. Some may have been handed out with a run since.
    young: Vec<u64>,
    /// The block of 64 pages that is being filled.
    filling: Option<u64>,
    /// What is to be looked for: an index into `allocate::WANTED`.
    patience: usize,
    /// The stamp on the newest pages of the map.
    stored: Version,
    /// The reserve (invariant 4) for a file of so many pages.
    reserve: (u64, u64),
    /// A transaction was refused because the file may not grow.
    refused: bool,
}

impl Space {
    /// The space as it was stored at `root`. Reads nothing: pages of the map are read when they are
    /// needed. That the file has `root.end` pages is for the caller to check.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if the numbers in `root` do not go together.
    pub fn open(geometry: Geometry, root: MapRoot) -> Result<Self> {
        Self::with_shape(geometry, Shape::of(geometry), root)
    }

    /// As [`Space::open`]; tests make the nodes small, so that little data makes a deep tree.
    fn with_shape(geometry: Geometry, shape: Shape, root: MapRoot) -> Result<Self> {
        Ok(Space {
            geometry,
            map: Map::open(geometry, shape, root)?,
            quarantine: Quarantine::new(),
            cursor: first_page(geometry).get(),
            young: Vec::new(),
            filling: None,
            patience: 0,
            stored: root.page.map_or(Version::ZERO, |page| page.version),
            reserve: (0, 0),
            refused: false,
        })
    }

    /// Whether, since this was asked last, a transaction was refused a page that it might have had,
    /// if nothing were quarantined.
    pub fn take_refusal(&mut self) -> bool {
        std::mem::take(&mut self.refused) && self.map.totals().quarantined > 0
    }

    /// Takes back a page that was allocated after the last store, by the transaction that now
    /// drops it: it is available at once. That the pager discards it is for the caller to see to.
    ///
    /// A transaction that is rolled back does this for each page that it allocated, and forgets
    /// what it would have retired.
    ///
    /// # Panics
    /// If the page was not allocated since the last store, or was given back already.
    pub fn give_back(&mut self, id: PageId) {
        assert!(self.map.in_bounds(id), "page {id} was never allocated");
        self.map.free(id.get(), false);
        self.patience = 0;
    }

    /// A committed page that versions from `at` on do not reach: free in the map, quarantined until
    /// [`Space::release`] finds that no older version can read it. May load a page of the map.
    ///
    /// # Errors
    /// Those of the pager, and [`Error::Corrupt`] if the map has this page as free, if it is out of
    /// bounds, or if it is as new as `at`: the file is damaged, because a tree refers to it. Then
    /// nothing has changed.
    pub fn retire<P: Pager>(&mut self, pager: &P, page: PageRef, at: Version) -> Result<()> {
        self.retire_all(pager, &[page], at)
    }

    /// As [`Space::retire`], for many pages: all of them, or on an error none.
    ///
    /// # Errors
    /// Those of [`Space::retire`]; also if a page is among them twice.
    pub fn retire_all<P: Pager>(
        &mut self,
        pager: &P,
        pages: &[PageRef],
        at: Version,
    ) -> Result<()> {
        for &page in pages {
            self.require_bounds(page, at)?;
        }
        let leaf_of = |page: &PageRef| self.map.leaf_of(page.id.get());
        let mut leaves: Vec<_> = pages.iter().map(leaf_of).collect();
        leaves.sort_unstable();
        leaves.dedup();
        self.map.load_all(pager, &leaves)?;
        for (done, page) in pages.iter().enumerate() {
            if self.map.is_free(page.id.get()) {
                for page in &pages[..done] {
                    self.map.unfree_held(page.id.get());
                }
                return Err(Error::corrupt(
                    page.id,
                    "the allocation map has it as free, but it is in use",
                ));
            }
            self.map.free(page.id.get(), true);
        }
        for &page in pages {
            self.quarantine.hold(page, at);
        }
        Ok(())
    }

    fn require_bounds(&self, page: PageRef, at: Version) -> Result<()> {
        let what = if !self.map.in_bounds(page.id) {
            "it is in use, but lies outside of the pages of the file"
        } else if page.version >= at {
            "it is newer than the version that replaces it"
        } else {
            return Ok(());
        };
        Err(Error::corrupt(page.id, what))
    }

    /// Ends the quarantine of every page that no version of `live` reaches, and returns how many
    /// these were. `live` (sorted) has every version that may still be read: snapshots, the durable
    /// meta, the checkpoint in progress, the last commit whose log record is durable and every
    /// commit after it.
    ///
    /// The pager discards the pages before any of them can be handed out. What this costs is
    /// proportional to the pages that become available and those retired since the last call, plus
    /// one step for each live version (`quarantine.rs` has the argument); a reader that stays long
    /// does not make it more.
    ///
    /// # Errors
    /// Those of the pager. Pages that it did not discard are not handed out before a later call has
    /// discarded them.
    ///
    /// # Panics
    /// If `live` has a version again that it lacked before, and that may have read what was
    /// released then.
    pub fn release<P: Pager>(&mut self, pager: &P, live: &[Version]) -> Result<usize> {
        /// Pages that are discarded at once.
        const BATCH: usize = 1 << 14;
        self.quarantine.settle(live);
        let mut released = 0;
        loop {
            let pages = self.quarantine.let_go(BATCH).iter();
            let pages: Vec<_> = pages.map(|page| page.id).collect();
            let count = pages.len();
            if count == 0 {
                break;
            }
            pager.discard(&pages)?;
            for page in self.quarantine.forget(count) {
                self.map.end_quarantine(page.id.get());
                if page.version > self.stored && self.young.len() < YOUNG_MAX {
                    self.young.push(page.id.get());
                }
            }
            self.patience = 0;
            released += count;
        }
        debug_assert_eq!(self.quarantine.len() as u64, self.quarantined());
        Ok(released)
    }
}

impl Space {
    /// Whether [`Space::release`] is worth its fixed costs, a `membarrier` above all: many pages wait
    /// for it, or few can be had without it and without growing the file.
    pub fn wants_release<P: Pager>(&self, pager: &P) -> bool {
        /// Pages that may wait.
        const WAITING_MAX: usize = 64;
        /// Pages that are enough for small transactions until then.
        const AT_HAND_MIN: u64 = 2 * WAITING_MAX as u64;
        let at_hand = self.map.totals().available() + (pager.page_count() - self.map.end());
        self.quarantine.fresh() >= WAITING_MAX || at_hand < AT_HAND_MIN
    }
}

#[allow(
    dead_code,
    reason = "the check reads the stored map; these are for tests and statistics"
)]
impl Space {
    /// Free pages below [`Space::end`] that older versions may still read.
    pub fn quarantined(&self) -> u64 {
        self.map.totals().quarantined
    }

    /// Free pages below [`Space::end`], quarantined ones included.
    pub fn free(&self) -> u64 {
        self.map.totals().free
    }

    /// No page from this number on was ever used.
    pub fn end(&self) -> u64 {
        self.map.end()
    }

    /// Whether the page is free, quarantined or not. May load a page of the map.
    ///
    /// # Errors
    /// Those of the pager, and [`Error::Corrupt`] if the page of the map is damaged.
    pub fn is_free<P: Pager>(&mut self, pager: &P, id: PageId) -> Result<bool> {
        if !self.map.in_bounds(id) {
            return Ok(id.get() >= self.map.end());
        }
        self.map.load(pager, self.map.leaf_of(id.get()))?;
        Ok(self.map.is_free(id.get()))
    }
}
