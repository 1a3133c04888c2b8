//! Removing, and keeping pages from becoming too empty.
//!
//! A page that is under a quarter full is merged with a neighbour under the same branch where both
//! fit on one page; otherwise the two share their entries evenly. How much fits depends on the
//! fences, so both are measured with the prefix that the new pages would have.

use std::marker::PhantomData;

use bifolio_pager::{self as pager, PageRef, Pager};

use crate::error::Result;
use crate::node::{
    Branch, BranchRef, Item, Key, Layout, Leaf, LeafRef, View, fits, halve, split_evenly,
};
use crate::root::Root;
use crate::source::PageSource;
use crate::tree::visit;
use crate::walk::retire_value;
use crate::write::{Fences, Node, Path, TreeMut, leftmost_of, prefix_of};

/// Two neighbours under one branch, as they were before they are joined.
struct Pair<L> {
    level: u8,
    /// The number of the left one among the branch's children; the separator's among its keys.
    index: usize,
    left: (PageRef, Vec<u8>),
    separator: Vec<u8>,
    right: (PageRef, Vec<u8>),
    /// The fences around both.
    fences: Fences,
    layout: PhantomData<L>,
}

impl<P: Pager, S: PageSource> TreeMut<'_, P, S> {
    /// Removes the entry of `key`; `false`, and no change, if there is none.
    pub fn remove(&mut self, key: &[u8]) -> Result<bool> {
        if self.root.page.is_none() {
            return Ok(false);
        }
        let (mut path, found) = self.find_path(key)?;
        if !found {
            return Ok(false);
        }
        self.make_private(&mut path)?;
        let (i, index) = (path.len() - 1, path[path.len() - 1].index);
        let overflow = self.edit::<Leaf, _>(&path, i, |leaf| {
            let overflow = leaf.overflow(index)?;
            leaf.remove(index)?;
            Ok(overflow)
        })?;
        self.root.entries = self.root.entries.saturating_sub(1);
        if let Some(chain) = overflow {
            retire_value(self.pager, self.source, chain)?;
        }
        self.rebalance(&mut path)?;
        Ok(true)
    }

    /// Relieves the leaf if it is too empty, then the branches above it as long as they lose keys.
    fn rebalance(&mut self, path: &mut Path) -> Result<()> {
        let leaf = path.len() - 1;
        for i in (1..path.len()).rev() {
            let merged = if i == leaf {
                self.relieve::<Leaf>(path, i)?
            } else {
                self.relieve::<Branch>(path, i)?
            };
            if !merged {
                return Ok(());
            }
        }
        self.collapse()
    }

    /// Takes away a top that leads to one page only, or holds nothing.
    fn collapse(&mut self) -> Result<()> {
        while let Some(top) = self.root.page {
            let below = if self.root.depth == 1 {
                let is_empty = visit(self.pager, top, |page| {
                    Ok(LeafRef::parse(page, 0)?.count() == 0)
                })?;
                is_empty.then_some(None)
            } else {
                visit(self.pager, top, |page| {
                    let branch = BranchRef::parse(page, self.root.depth - 1)?;
                    let only_child = (branch.count() == 0).then(|| branch.child(0));
                    Ok(only_child.transpose()?.map(Some))
                })?
            };
            let Some(below) = below else {
                return Ok(());
            };
            self.root.page = below;
            self.root.depth -= 1;
            if below.is_none() {
                *self.root = Root::default();
            }
            self.source.retire(top)?;
        }
        Ok(())
    }

    /// Joins the page at step `i` with a neighbour if it is too empty; `true` if they are one page
    /// now, and the branch above has lost a key.
    fn relieve<L: Layout>(&mut self, path: &mut Path, i: usize) -> Result<bool> {
        let level = Self::level(path, i);
        let is_underfull = visit(self.pager, path[i].at, |page| {
            Ok(View::<L>::parse(page, level)?.is_underfull())
        })?;
        if !is_underfull {
            return Ok(false);
        }
        let above = path[i - 1];
        let with_right = (above.index < above.count).then_some(above.index);
        let with_left = above.index.checked_sub(1);
        for index in [with_right, with_left].into_iter().flatten() {
            let pair = self.pair::<L>(path, i, index)?;
            if self.merge(path, i, &pair)? {
                return Ok(true);
            }
        }
        if let Some(index) = with_right.or(with_left) {
            let pair = self.pair::<L>(path, i, index)?;
            self.share(path, i, &pair)?;
        }
        Ok(false)
    }

    /// Reads children `index` and `index + 1` of the branch above step `i`.
    fn pair<L: Layout>(&self, path: &Path, i: usize, index: usize) -> Result<Pair<L>> {
        let level = Self::level(path, i);
        let (left, right, separator) = visit(self.pager, path[i - 1].at, |page| {
            let branch = BranchRef::parse(page, level + 1)?;
            let separator = branch.key(index)?.to_vec();
            Ok((branch.child(index)?, branch.child(index + 1)?, separator))
        })?;
        let fences = self.fences(path, i - 1, (index, index + 1))?;
        Ok(Pair {
            level,
            index,
            left: (left, self.image(left)?),
            separator,
            right: (right, self.image(right)?),
            fences,
            layout: PhantomData,
        })
    }

    /// Makes one page of two, if one has room; it takes the place of the one on the path.
    fn merge<L: Layout>(&mut self, path: &mut Path, i: usize, pair: &Pair<L>) -> Result<bool> {
        let (leftmost, items, _) = pair.join()?;
        if !fits(&items, prefix_of(&pair.fences).len(), self.usable()) {
            return Ok(false);
        }
        let (left, right) = (pair.left.0, pair.right.0);
        let at = path[i].at;
        let node = Node {
            leftmost,
            items: &items,
        };
        self.store(at, false, pair.level, node, &pair.fences)?;
        self.edit::<Branch, _>(path, i - 1, |branch| {
            branch.set_child(pair.index, at)?;
            branch.remove(pair.index)
        })?;
        path[i - 1].count -= 1;
        self.source.retire(if at == left { right } else { left })?;
        Ok(true)
    }

    /// Divides the entries of two pages anew, and gives the branch above the new separator. That
    /// can be longer than the old one, so the branch may split.
    fn share<L: Layout>(&mut self, path: &mut Path, i: usize, pair: &Pair<L>) -> Result<()> {
        let (leftmost, items, left_count) = pair.join()?;
        let (low, high) = (pair.fences.0.as_deref(), pair.fences.1.as_deref());
        let best = split_evenly(&items, (low, high), self.usable());
        let Some(at) = best.filter(|&at| at != left_count) else {
            return Ok(());
        };
        let split = halve(&items, at);
        let (left, right) = (
            self.replacement(pair.left.0)?,
            self.replacement(pair.right.0)?,
        );
        let node = Node {
            leftmost,
            items: split.left,
        };
        let separator = Some(split.separator);
        let fences = (pair.fences.0.clone(), separator);
        self.store(left, left != pair.left.0, pair.level, node, &fences)?;
        let node = Node {
            leftmost: split.right_leftmost,
            items: split.right,
        };
        let fences = (fences.1, pair.fences.1.clone());
        self.store(right, right != pair.right.0, pair.level, node, &fences)?;
        self.edit::<Branch, _>(path, i - 1, |branch| {
            branch.set_child(pair.index, left)?;
            branch.remove(pair.index)
        })?;
        let separator = fences.0.expect("it was made above");
        let item = Item::<Branch> {
            key: Key::whole(&separator),
            payload: right,
        };
        self.insert_entry(path, i - 1, pair.index, item)?;
        for (old, new) in [(pair.left.0, left), (pair.right.0, right)] {
            if old != new {
                self.source.retire(old)?;
            }
        }
        Ok(())
    }

    /// The page itself if it is private, else a new one to take its place.
    fn replacement(&mut self, at: PageRef) -> Result<PageRef> {
        if self.is_private(at) {
            Ok(at)
        } else {
            self.fresh()
        }
    }
}

impl<L: Layout> Pair<L> {
    /// The entries of both pages as one list, with the first child if they are branches; and the
    /// number of those on the left.
    fn join(&self) -> Result<(Option<PageRef>, Vec<Item<'_, L>>, usize)> {
        let (leftmost, mut items) = entries::<L>(&self.left, self.level)?;
        let (between, right) = entries::<L>(&self.right, self.level)?;
        let left_count = items.len();
        if let Some(child) = between {
            items.push(Item {
                key: Key::whole(&self.separator),
                payload: L::shorten(L::from_child(child)),
            });
        }
        items.extend(right);
        Ok((leftmost, items, left_count))
    }
}

fn entries<L: Layout>(
    (at, image): &(PageRef, Vec<u8>),
    level: u8,
) -> Result<(Option<PageRef>, Vec<Item<'_, L>>)> {
    let parsed =
        View::<L>::parse(image, level).and_then(|node| Ok((leftmost_of(&node), node.items()?)));
    Ok(parsed.map_err(|what| pager::Error::corrupt(at.id, what))?)
}
