//! Writing the changed part of the map, which describes its own pages.
//!
//! Copying a page of the map to a new place makes the old place free and the new one used, which
//! changes bits of the map, maybe on another page of it, which must be copied then, too. So:
//!
//! 1. The old page of every dirty node is retired. That may make another leaf dirty, with what is
//!    above it; these take their turn.
//! 2. A dirty node below which anything is free gets a new page, preferably one that is described by
//!    the same leaf as the root's old page (*home*), else by another dirty leaf. Only where none of
//!    these has one is another leaf's taken, which is dirty then, or a page at the end of the file,
//!    which changes no bit.
//! 3. Back to 1 until nothing is dirty that has not had its turn. Then the pages are written: by now
//!    no bit, no count and no reference can change any more.
//!
//! Why this ends: in one store a node becomes dirty once, loses its old page once and is given a
//! new one once ([`Map::store_at`](super::map::Map::store_at) asserts it), and there are finitely
//! many nodes. A node that needed no page (all below it was used) may need one after all when a
//! later turn retires a page that it describes; a node that was given one keeps it, even if the last
//! free page below it was taken since.
//!
//! Why this is little: the root is copied by every store, so home is dirty in any case, and as long
//! as it has pages available all pages of the map come from there: the old pages of the dirty leaves
//! are described by home, and home describes itself. So a store writes the leaves that the
//! transaction has changed, home, and the branches above them. When home is full, the map moves by
//! and by: a leaf whose page was left in a former home makes that one dirty, once, and is stored in
//! the new one.

use bifolio_pager::{PageId, PageRef, Pager, Result, Version};

use super::Space;
use super::format::MapRoot;
use super::map::Map;

/// What [`Space::store`] has written.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "the pages must be sealed and flushed before a meta refers to the root"]
pub struct Stored {
    /// For the meta.
    pub root: MapRoot,
    /// The new pages of the map: private, and written for the last time.
    pub pages: Vec<PageRef>,
}

impl Space {
    /// Writes what has changed in the map, as private pages stamped `version`: from now on the map
    /// for that version is at the root that is returned. The pages that they replace are retired at
    /// `version`. Sealing and flushing is for the caller, as is a meta with the root.
    ///
    /// Writes nothing, and returns the root as it was, where nothing has changed. Else it costs the
    /// changed leaves and the branches above them.
    ///
    /// # Errors
    /// Those of the pager, and [`Error::Corrupt`](bifolio_pager::Error::Corrupt) where a page of
    /// the map is damaged. Then the `Space` must not be used again.
    ///
    /// # Panics
    /// If the map was stored for this version or a later one before: a page's number and stamp must
    /// not come twice.
    pub fn store<P: Pager>(&mut self, pager: &P, version: Version) -> Result<Stored> {
        let before = self.stored;
        assert!(
            before < version,
            "stored for {before:?}, then for {version:?}"
        );
        self.place_dirty(pager, version)?;
        let pages = self.write_dirty(pager)?;
        if !pages.is_empty() {
            self.stored = version;
        }
        self.map.settled();
        self.young.clear();
        Ok(Stored {
            root: self.map.root(),
            pages,
        })
    }

    /// Steps 1 to 3: decides where each dirty node is stored.
    fn place_dirty<P: Pager>(&mut self, pager: &P, version: Version) -> Result<()> {
        let mut retired = 0;
        let mut nearby = Nearby::home(self.home(pager)?);
        let mut progress = true;
        while progress {
            progress = false;
            let mut turn = 0;
            while let Some(node) = self.map.nth_dirty(turn) {
                turn += 1;
                if turn > retired {
                    retired = turn;
                    if let Some(old) = self.map.unstore(node) {
                        self.retire(pager, old, version)?;
                    }
                }
                let placed = self.map.entry(node).page.is_some();
                if !placed && self.map.needs_page(node) {
                    let id = self.allocate_near(pager, &mut nearby)?;
                    self.map.store_at(node, PageRef { id, version });
                    progress = true;
                }
            }
        }
        Ok(())
    }

    /// The leaf that describes the root's old page, if anything is to be written: the root is
    /// written, too, so that this leaf will be dirty. Loads it.
    fn home<P: Pager>(&mut self, pager: &P) -> Result<Option<u64>> {
        let old = self.map.totals().page;
        let home = old.filter(|_| self.map.nth_dirty(0).is_some());
        let home = home.map(|page| self.map.leaf_of(page.id.get()));
        if let Some(leaf) = home {
            self.map.load(pager, leaf)?;
        }
        Ok(home)
    }

    /// A page for the map itself, if possible one that a dirty leaf describes.
    fn allocate_near<P: Pager>(&mut self, pager: &P, nearby: &mut Nearby) -> Result<PageId> {
        while let Some(leaf) = nearby.leaf {
            if let Some(page) = self.map.find_run(leaf, nearby.bit, 1) {
                self.map.take(page, 1);
                nearby.bit = page + 1 - self.map.first_of_leaf(leaf);
                return Ok(PageId::new(page));
            }
            nearby.go_on(&self.map);
        }
        let id = self.allocate_reserved(pager)?;
        nearby.go_on(&self.map);
        Ok(id)
    }

    fn write_dirty<P: Pager>(&mut self, pager: &P) -> Result<Vec<PageRef>> {
        let mut pages = Vec::new();
        let mut turn = 0;
        while let Some(node) = self.map.nth_dirty(turn) {
            turn += 1;
            let Some(at) = self.map.entry(node).page else {
                assert_eq!(self.map.entry(node).free, 0, "{node:?} is not stored");
                continue;
            };
            self.map.encode(node, &mut pager.create(at)?);
            pages.push(at);
        }
        Ok(pages)
    }
}

/// Where pages for the map itself are looked for. Nothing becomes available during a store, so what
/// was looked through is not looked at again.
struct Nearby {
    /// A leaf that is dirty, or will be before the store ends.
    leaf: Option<u64>,
    /// Nothing of it is available before this bit.
    bit: u64,
    /// How many dirty nodes have been asked whether they have so many pages.
    asked: [(usize, u64); 2],
}

impl Nearby {
    /// Begins at a leaf, which is loaded.
    fn home(leaf: Option<u64>) -> Self {
        Nearby {
            leaf,
            bit: 0,
            // A leaf with many pages first: it will be home for long.
            asked: [(0, 64), (0, 1)],
        }
    }

    fn go_on(&mut self, map: &Map) {
        (self.leaf, self.bit) = (None, 0);
        for (asked, need) in &mut self.asked {
            while let Some(node) = map.nth_dirty(*asked) {
                *asked += 1;
                if node.level == 0 && map.entry(node).available() >= *need {
                    self.leaf = Some(node.index);
                    return;
                }
            }
        }
    }
}
