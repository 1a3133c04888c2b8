//! Reading a stored map as a whole.
//!
//! For the check of a file: every page below `end` is either reached exactly once, by a tree or as
//! a page of the map, or is free in the map. This module says which pages are the map's and which
//! are free; the trees, and the comparison, are the caller's.

use std::ops::Range;

use bifolio_pager::{Error, Geometry, Kind, PageId, PageRef, Pager, Result, first_page};

use super::format::{self, Child, Expected, MapRoot, Node, Shape};
use super::map;

/// Something that [`walk`] has come across.
#[derive(Clone, Debug)]
pub enum Found<'w> {
    /// A page of the map, which is sound in itself.
    Page(
        PageRef,
        #[allow(dead_code, reason = "for whoever prints it")] Kind,
    ),
    /// Pages that are free: neighbours, at least one, below the map's end. Quarantined pages are
    /// among them.
    Free(Range<u64>),
    /// A part of the map that cannot be read. Which pages of `hides` are free is not known.
    Damage {
        /// Pages from the root to the one above the damage.
        path: &'w [PageId],
        /// What is wrong. Names the damaged page.
        error: Error,
        /// The pages that the damaged part is for.
        hides: Range<u64>,
    },
}

/// Goes through the stored map that begins at `root` in the order of page numbers, and tells `tell`
/// what it finds. Reads each page of the map once, goes on behind a damaged one, and never panics,
/// whatever the bytes are.
///
/// Costs the map's pages, which are at most one in 30,000 of the file's (at 4 KiB), whatever `root`
/// says: a map that reaches past the end of the file is damage.
pub fn walk<P: Pager>(pager: &P, root: MapRoot, tell: &mut dyn FnMut(Found<'_>)) {
    walk_shape(pager, Shape::of(pager.geometry()), root, tell);
}

pub(super) fn walk_shape<P: Pager>(
    pager: &P,
    shape: Shape,
    root: MapRoot,
    tell: &mut dyn FnMut(Found<'_>),
) {
    let geometry = pager.geometry();
    let first = first_page(geometry).get();
    if let Err(error) = check_root(pager, geometry, shape, root) {
        tell(Found::Damage {
            path: &[],
            error,
            hides: first..root.end.min(pager.page_count()).max(first),
        });
        return;
    }
    let top = Node {
        level: root.level,
        index: 0,
    };
    let child = Child {
        page: root.page,
        free: root.free,
    };
    let mut walk = Walk {
        pager,
        shape,
        bounds: (first, root.end),
        path: Vec::new(),
        tell,
    };
    walk.node(top, child);
}

fn check_root<P: Pager>(pager: &P, geometry: Geometry, shape: Shape, root: MapRoot) -> Result<()> {
    root.check(geometry, shape)?;
    let pages = pager.page_count();
    if root.end > pages {
        let end = root.end;
        let what = format!("the allocation map is for {end} pages, but the file has {pages}");
        return Err(Error::corrupt(PageId::new(0), what));
    }
    Ok(())
}

struct Walk<'w, P> {
    pager: &'w P,
    shape: Shape,
    bounds: (u64, u64),
    path: Vec<PageId>,
    tell: &'w mut dyn FnMut(Found<'_>),
}

impl<P: Pager> Walk<'_, P> {
    /// Goes through a node, which ends because each step down is one level lower.
    fn node(&mut self, node: Node, child: Child) {
        let Some(at) = child.page else {
            return; // absent: all of it is used
        };
        let expected = Expected {
            at,
            node,
            free: child.free,
            shape: self.shape,
            bounds: self.bounds,
        };
        let found = match node.level {
            0 => self.leaf(&expected),
            _ => self.branch(&expected),
        };
        if let Err(error) = found {
            let pages = self.shape.pages(node);
            (self.tell)(Found::Damage {
                path: &self.path,
                error,
                hides: pages.start.max(self.bounds.0)..pages.end.min(self.bounds.1),
            });
        }
    }

    fn leaf(&mut self, expected: &Expected) -> Result<()> {
        let bits = map::read(self.pager, expected, format::decode_leaf)?;
        (self.tell)(Found::Page(expected.at, Kind::MapLeaf));
        let base = self.shape.pages(expected.node).start;
        for run in bits.runs() {
            (self.tell)(Found::Free(base + run.start..base + run.end));
        }
        Ok(())
    }

    fn branch(&mut self, expected: &Expected) -> Result<()> {
        let children = map::read(self.pager, expected, format::decode_branch)?;
        (self.tell)(Found::Page(expected.at, Kind::MapBranch));
        self.path.push(expected.at.id);
        let Node { level, index } = expected.node;
        let level = level - 1;
        for (index, child) in (index * self.shape.fan_out..).zip(children) {
            self.node(Node { level, index }, child);
        }
        self.path.pop();
        Ok(())
    }
}
