//! Visiting every page of a tree that is taken to be sound.

use bifolio_pager::{Kind, PageRef, Pager};

use crate::error::Result;
use crate::node::{BranchRef, LeafRef, Overflow, Value};
use crate::overflow;
use crate::root::Root;
use crate::source::PageSource;
use crate::tree::visit;

/// Pages asked for at once.
const WINDOW: usize = 64;

/// Tells every page that `root` reaches to `tell`, children before parents, so that `tell` may
/// discard what it is told. Reads every branch and leaf, and of overflow chains what it must to
/// know the pages. For a tree that may be damaged, use [`check`](crate::check()).
pub fn walk<P: Pager>(
    pager: &P,
    root: Root,
    tell: &mut dyn FnMut(PageRef, Kind) -> Result<()>,
) -> Result<()> {
    match root.page {
        Some(top) => walk_node(pager, top, root.top_level(), tell),
        None => Ok(()),
    }
}

/// Retires every page that `root` reaches: what remains to do when a table is dropped.
pub fn retire_all<P: Pager, S: PageSource>(pager: &P, source: &mut S, root: Root) -> Result<()> {
    walk(pager, root, &mut |page, _| Ok(source.retire(page)?))
}

/// Retires the pages of a value.
pub(crate) fn retire_value<P: Pager, S: PageSource>(
    pager: &P,
    source: &mut S,
    overflow: Overflow,
) -> Result<()> {
    overflow::for_each_page(pager, overflow, |page| Ok(source.retire(page)?))
}

fn walk_node<P: Pager>(
    pager: &P,
    at: PageRef,
    level: u8,
    tell: &mut dyn FnMut(PageRef, Kind) -> Result<()>,
) -> Result<()> {
    if level == 0 {
        for overflow in overflows(pager, at)? {
            overflow::for_each_page(pager, overflow, |page| tell(page, Kind::Overflow))?;
        }
        return tell(at, Kind::Leaf);
    }
    let children = children(pager, at, level)?;
    for window in children.chunks(WINDOW) {
        pager.prefetch(window);
        for &child in window {
            walk_node(pager, child, level - 1, tell)?;
        }
    }
    tell(at, Kind::Branch)
}

fn children<P: Pager>(pager: &P, at: PageRef, level: u8) -> Result<Vec<PageRef>> {
    visit(pager, at, |page| {
        let branch = BranchRef::parse(page, level)?;
        (0..=branch.count())
            .map(|index| branch.child(index))
            .collect()
    })
}

fn overflows<P: Pager>(pager: &P, at: PageRef) -> Result<Vec<Overflow>> {
    visit(pager, at, |page| {
        let leaf = LeafRef::parse(page, 0)?;
        let mut overflows = Vec::new();
        for index in 0..leaf.count() {
            if let Value::Overflow(overflow) = leaf.payload(index)? {
                overflows.push(overflow);
            }
        }
        Ok(overflows)
    })
}
