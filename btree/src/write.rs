//! Changing a tree: what inserting and removing have in common.
//!
//! A writer goes down to the leaf as a reader does, then makes the pages on its *path* private, from
//! the top: each page that carries another stamp than the transaction's is copied to a new page,
//! the page above is told, and the old one is retired. Then the leaf is changed, and pages above it
//! where it splits or merges.
//!
//! Invariants:
//! 1. If a page is private, so is the page above it.
//! 2. A step of the path is right about its own page while no page *above* it has changed: changes
//!    go up from the leaf, and steps below one that changed are not used again.
//! 3. At most two guards are held at once, and none of a page that is being written.

use bifolio_pager::{self as pager, PageGuard, PageId, PageRef, Pager};

use crate::error::Result;
use crate::node::{
    Branch, BranchRef, Damage, Edit, Item, Key, LEFTMOST, Layout, LeafRef, View, build,
    common_prefix, fits, halve, split_near_middle,
};
use crate::root::{MAX_DEPTH, Root};
use crate::source::PageSource;
use crate::tree::{Tree, visit};
use crate::walk::retire_all;

/// A tree that is being changed by a write transaction.
///
/// Pages come from the transaction's [`PageSource`] and go back to it; the root is changed in
/// place. Dropping this changes nothing. After an error of the pager's the tree may hold half of
/// the change, so the transaction must be abandoned: its root forgotten, its pages discarded.
pub struct TreeMut<'a, P: Pager, S: PageSource> {
    pub(crate) pager: &'a P,
    pub(crate) source: &'a mut S,
    pub(crate) root: &'a mut Root,
}

/// A page on the way from the root to a leaf.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    pub(crate) at: PageRef,
    /// In a branch the number of the child that comes next on the path; in the leaf a slot.
    pub(crate) index: usize,
    /// Keys on the page.
    pub(crate) count: usize,
}

/// The way from the root to a leaf.
pub(crate) type Path = Vec<Step>;

/// The separators around a page's keys; `None` where there is no page on that side.
pub(crate) type Fences = (Option<Vec<u8>>, Option<Vec<u8>>);

/// What all keys between two fences begin with.
pub(crate) fn prefix_of(fences: &Fences) -> &[u8] {
    match fences {
        (Some(low), Some(high)) => &low[..common_prefix(low, high)],
        _ => &[],
    }
}

impl<'a, P: Pager, S: PageSource> TreeMut<'a, P, S> {
    /// The tree whose top is `root`, to be changed with pages of `source`.
    pub fn new(pager: &'a P, source: &'a mut S, root: &'a mut Root) -> Self {
        TreeMut {
            pager,
            source,
            root,
        }
    }

    /// The tree as it is now, for reading.
    pub fn as_tree(&self) -> Tree<'_, P> {
        Tree::new(self.pager, *self.root)
    }

    /// Removes every entry: retires every page. Reads the whole tree, since leaves know their
    /// overflow pages, but no page in the middle of an overflow run.
    pub fn clear(&mut self) -> Result<()> {
        retire_all(self.pager, self.source, *self.root)?;
        *self.root = Root::default();
        Ok(())
    }

    pub(crate) fn usable(&self) -> usize {
        self.pager.geometry().page_size.usable()
    }

    pub(crate) fn damaged(at: PageRef) -> impl Fn(Damage) -> pager::Error {
        move |what| pager::Error::corrupt(at.id, what)
    }

    pub(crate) fn is_private(&self, at: PageRef) -> bool {
        self.source.may_write(at)
    }

    /// The reference of a page that is about to be created.
    pub(crate) fn fresh(&mut self) -> Result<PageRef> {
        let id: PageId = self.source.allocate()?;
        Ok(PageRef {
            id,
            version: self.source.version(),
        })
    }

    /// A copy of a page, so that other pages can be written while its entries are in use.
    pub(crate) fn image(&self, at: PageRef) -> Result<Vec<u8>> {
        visit(self.pager, at, |page| Ok(page.to_vec()))
    }

    /// Goes down to the leaf for `key`; tells whether the key is there. The tree is not empty.
    pub(crate) fn find_path(&self, key: &[u8]) -> Result<(Path, bool)> {
        let mut at = self.root.page.expect("the tree is not empty");
        let mut path = Path::with_capacity(usize::from(self.root.depth));
        for level in (1..self.root.depth).rev() {
            let (step, child) = visit(self.pager, at, |page| {
                let branch = BranchRef::parse(page, level)?;
                let index = branch.child_index(key)?;
                let count = branch.count();
                Ok((Step { at, index, count }, branch.child(index)?))
            })?;
            path.push(step);
            at = child;
        }
        let (step, found) = visit(self.pager, at, |page| {
            let leaf = LeafRef::parse(page, 0)?;
            let (index, found) = leaf.search(key)?;
            let count = leaf.count();
            Ok((Step { at, index, count }, found))
        })?;
        path.push(step);
        Ok((path, found))
    }

    /// Makes every page of the path private, from the top, so that a page is always reached by one
    /// that knows its new place.
    pub(crate) fn make_private(&mut self, path: &mut Path) -> Result<()> {
        // Invariant 1: where a page is private, all above it are.
        let Some(first) = path.iter().position(|step| !self.is_private(step.at)) else {
            return Ok(());
        };
        for i in first..path.len() {
            let old = path[i].at;
            let new = self.fresh()?;
            self.copy_page(old, new)?;
            path[i].at = new;
            match i.checked_sub(1) {
                None => self.root.page = Some(new),
                Some(above) => self.set_child(path, above, path[above].index, new)?,
            }
            self.source.retire(old)?;
        }
        Ok(())
    }

    fn copy_page(&self, old: PageRef, new: PageRef) -> Result<()> {
        let from = self.pager.read(old)?;
        let mut to = self.pager.create(new)?;
        let body = PageRef::LEN..;
        to[body.clone()].copy_from_slice(&from[body]);
        from.confirm()?;
        Ok(())
    }

    /// How far above the leaves the page of step `i` is.
    pub(crate) fn level(path: &Path, i: usize) -> u8 {
        u8::try_from(path.len() - 1 - i).expect("no tree is deeper than MAX_DEPTH")
    }

    /// Changes a private page in place.
    pub(crate) fn edit<L: Layout, T>(
        &self,
        path: &Path,
        i: usize,
        change: impl FnOnce(&mut Edit<'_, L>) -> Result<T, Damage>,
    ) -> Result<T> {
        let at = path[i].at;
        let mut page = self.pager.write(at)?;
        let changed =
            Edit::new(&mut page, Self::level(path, i)).and_then(|mut edit| change(&mut edit));
        Ok(changed.map_err(Self::damaged(at))?)
    }

    pub(crate) fn set_child(
        &self,
        path: &Path,
        i: usize,
        index: usize,
        child: PageRef,
    ) -> Result<()> {
        self.edit::<Branch, _>(path, i, |branch| branch.set_child(index, child))
    }

    /// The fences around children `first ..= last` of the branch at step `i`.
    pub(crate) fn fences(
        &self,
        path: &Path,
        i: usize,
        (first, last): (usize, usize),
    ) -> Result<Fences> {
        let low = match first.checked_sub(1) {
            Some(key) => Some(self.separator(path, i, key)?),
            None => match path[..i].iter().rposition(|step| step.index > 0) {
                Some(above) => Some(self.separator(path, above, path[above].index - 1)?),
                None => None,
            },
        };
        let high = if last < path[i].count {
            Some(self.separator(path, i, last)?)
        } else {
            match path[..i].iter().rposition(|step| step.index < step.count) {
                Some(above) => Some(self.separator(path, above, path[above].index)?),
                None => None,
            }
        };
        Ok((low, high))
    }

    /// The fences around the page of step `i`.
    pub(crate) fn fences_of(&self, path: &Path, i: usize) -> Result<Fences> {
        match i.checked_sub(1) {
            None => Ok((None, None)),
            Some(above) => self.fences(path, above, (path[above].index, path[above].index)),
        }
    }

    fn separator(&self, path: &Path, i: usize, key: usize) -> Result<Vec<u8>> {
        visit(self.pager, path[i].at, |page| {
            let branch = BranchRef::parse(page, Self::level(path, i))?;
            Ok(branch.key(key)?.to_vec())
        })
    }

    /// Writes a whole node, to a new page or over a private one.
    pub(crate) fn store<L: Layout>(
        &self,
        at: PageRef,
        is_new: bool,
        level: u8,
        node: Node<'_, '_, L>,
        fences: &Fences,
    ) -> Result<()> {
        let mut page = if is_new {
            self.pager.create(at)?
        } else {
            self.pager.write(at)?
        };
        build(
            &mut page,
            level,
            node.leftmost,
            prefix_of(fences),
            node.items,
        )
        .map_err(Self::damaged(at))?;
        debug_assert_eq!(crate::check::layout_damage(&page), None);
        Ok(())
    }

    /// Puts an entry before slot `index` of the private page at step `i`, which may split.
    pub(crate) fn insert_entry<L: Layout>(
        &mut self,
        path: &mut Path,
        i: usize,
        index: usize,
        item: Item<'_, L>,
    ) -> Result<()> {
        if self.edit::<L, _>(path, i, |node| node.insert(index, item.key, &item.payload))? {
            return Ok(());
        }
        let image = self.image(path[i].at)?;
        let parsed = View::<L>::parse(&image, Self::level(path, i))
            .and_then(|node| Ok((leftmost_of(&node), node.items()?)));
        let (leftmost, mut items) = parsed.map_err(Self::damaged(path[i].at))?;
        let appended = index == items.len();
        items.insert(index, item.shorten());
        let node = Node {
            leftmost,
            items: &items,
        };
        self.place(path, i, node, appended)
    }

    /// Makes the private page at step `i` hold these entries, splitting it if they do not fit.
    /// `appended` says that the last entry is new.
    pub(crate) fn place<L: Layout>(
        &mut self,
        path: &mut Path,
        i: usize,
        node: Node<'_, '_, L>,
        appended: bool,
    ) -> Result<()> {
        let at = path[i].at;
        let level = Self::level(path, i);
        let (low, high) = self.fences_of(path, i)?;
        let fences = (low, high);
        let prefix_len = prefix_of(&fences).len();
        if fits(node.items, prefix_len, self.usable()) {
            return self.store(at, false, level, node, &fences);
        }
        // Keys that arrive in ascending order would leave every page half empty.
        let ascending = appended && fences.1.is_none();
        let split = if ascending && node.items.len() > 2 {
            node.items.len() - if L::HAS_CHILDREN { 2 } else { 1 }
        } else {
            split_near_middle(node.items, prefix_len).map_err(Self::damaged(at))?
        };
        let split = halve(node.items, split);
        let (low, high) = fences;
        let left = Node {
            leftmost: node.leftmost,
            items: split.left,
        };
        let right = Node {
            leftmost: split.right_leftmost,
            items: split.right,
        };
        let right_at = self.fresh()?;
        let separator = Some(split.separator);
        let fences = (low, separator);
        self.store(at, false, level, left, &fences)?;
        let fences = (fences.1, high);
        self.store(right_at, true, level, right, &fences)?;
        let separator = fences.0.expect("it was made above");
        self.add_child(path, i, &separator, right_at)
    }

    /// Tells the page above step `i` of a new neighbour to the right of it.
    fn add_child(
        &mut self,
        path: &mut Path,
        i: usize,
        separator: &[u8],
        child: PageRef,
    ) -> Result<()> {
        let item = Item::<Branch> {
            key: Key::whole(separator),
            payload: child,
        };
        if let Some(above) = i.checked_sub(1) {
            return self.insert_entry(path, above, path[above].index, item);
        }
        assert!(self.root.depth < MAX_DEPTH, "no file has room for more");
        let top = self.fresh()?;
        let node = Node {
            leftmost: Some(path[0].at),
            items: &[item],
        };
        self.store(top, true, self.root.depth, node, &(None, None))?;
        self.root.page = Some(top);
        self.root.depth += 1;
        Ok(())
    }
}

/// The content of a node that is to be written.
pub(crate) struct Node<'i, 'a, L: Layout> {
    /// A branch's first child; `None` in a leaf.
    pub(crate) leftmost: Option<PageRef>,
    pub(crate) items: &'i [Item<'a, L>],
}

/// A branch's first child; `None` in a leaf.
pub(crate) fn leftmost_of<L: Layout>(node: &View<'_, L>) -> Option<PageRef> {
    L::HAS_CHILDREN.then(|| PageRef::decode(&node.bytes()[LEFTMOST]))
}
