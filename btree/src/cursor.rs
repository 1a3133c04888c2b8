//! Walking a tree in key order, in both directions.
//!
//! A cursor stands in a *gap*: before the first entry, between two neighbours, or after the last.
//! `next` steps over the entry to its right, `prev` over the one to its left, and both return what
//! they stepped over. So `next` after `prev` returns the same entry again.

use std::ops::Bound;

use bifolio_pager::{self as pager, PageGuard, PageRef, Pager};

use crate::ahead::ReadAhead;
use crate::error::Result;
use crate::node::{BranchRef, Damage, Layout, LeafRef, Overflow, Value, View};
use crate::overflow;
use crate::root::Root;
use crate::tree::{Tree, visit};

/// A position in a tree as of one root. It keeps references to the pages on the path, and a guard
/// of the leaf it stands in and, between steps, of no other page.
///
/// What a step returns is borrowed from the cursor's own buffers: it lasts until the next step.
/// After an error the cursor stands nowhere: steps return `None` until it seeks again.
pub struct Cursor<'p, P: Pager> {
    pager: &'p P,
    root: Root,
    /// From the root to the leaf's parent.
    path: Vec<Step>,
    leaf: Option<Place<'p, P>>,
    started: bool,
    ahead: ReadAhead,
    /// Entries that the scan will probably step over, if its caller knows.
    expected: u64,
    key: Vec<u8>,
    value: Vec<u8>,
}

/// A branch on the path, and which of its children is on it too.
#[derive(Clone, Copy)]
pub(crate) struct Step {
    pub(crate) at: PageRef,
    pub(crate) child: usize,
    pub(crate) last_child: usize,
}

impl Step {
    /// A branch that has not been read yet.
    pub(crate) fn unknown(at: PageRef) -> Self {
        Step {
            at,
            child: 0,
            last_child: 0,
        }
    }

    pub(crate) fn can_go(&self, direction: Direction) -> bool {
        match direction {
            Direction::Forward => self.child < self.last_child,
            Direction::Backward => self.child > 0,
        }
    }

    /// Goes to the next child, which there is.
    pub(crate) fn go(&mut self, direction: Direction) {
        match direction {
            Direction::Forward => self.child += 1,
            Direction::Backward => self.child -= 1,
        }
    }
}

/// A gap in a leaf: `index` entries are to its left.
struct Place<'p, P: Pager + 'p> {
    at: PageRef,
    page: P::Ref<'p>,
    index: usize,
    count: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    Forward,
    Backward,
}

impl<'p, P: Pager> Cursor<'p, P> {
    pub(crate) fn new(tree: Tree<'p, P>) -> Self {
        Cursor {
            pager: tree.pager,
            root: tree.root,
            path: Vec::new(),
            leaf: None,
            started: false,
            ahead: ReadAhead::default(),
            expected: 0,
            key: Vec::new(),
            value: Vec::new(),
        }
    }

    /// Says how many entries the scan that begins with the next seek will probably step over. Its
    /// leaves are then asked for together when it begins, not one after the other. A scan may go on
    /// beyond, or stop before.
    pub fn expect(&mut self, entries: u64) {
        self.expected = entries;
    }

    /// Goes before the first entry.
    pub fn seek_first(&mut self) -> Result<()> {
        self.seek(Bound::Unbounded)
    }

    /// Goes after the last entry.
    pub fn seek_last(&mut self) -> Result<()> {
        self.seek_back(Bound::Unbounded)
    }

    /// Goes to where a scan forward from `bound` begins: `next` returns the first entry that lies
    /// within it.
    pub fn seek(&mut self, bound: Bound<&[u8]>) -> Result<()> {
        match bound {
            Bound::Included(key) => self.seek_to(key, false, Direction::Forward),
            Bound::Excluded(key) => self.seek_to(key, true, Direction::Forward),
            Bound::Unbounded => self.seek_end(Direction::Forward),
        }
    }

    /// Goes to where a scan backward from `bound` begins: `prev` returns the last entry that lies
    /// within it.
    pub fn seek_back(&mut self, bound: Bound<&[u8]>) -> Result<()> {
        match bound {
            Bound::Included(key) => self.seek_to(key, true, Direction::Backward),
            Bound::Excluded(key) => self.seek_to(key, false, Direction::Backward),
            Bound::Unbounded => self.seek_end(Direction::Backward),
        }
    }

    /// Steps over the entry to the right and returns it, or `None` at the end.
    #[expect(
        clippy::should_implement_trait,
        reason = "it lends, which Iterator cannot"
    )]
    #[inline]
    pub fn next(&mut self) -> Result<Option<(&[u8], &[u8])>> {
        self.step(Direction::Forward)
    }

    /// Steps over the entry to the left and returns it, or `None` at the beginning.
    #[inline]
    pub fn prev(&mut self) -> Result<Option<(&[u8], &[u8])>> {
        self.step(Direction::Backward)
    }

    /// The entry that the last step returned; empty before the first step.
    pub(crate) fn entry(&self) -> (&[u8], &[u8]) {
        (&self.key, &self.value)
    }

    #[inline]
    fn step(&mut self, direction: Direction) -> Result<Option<(&[u8], &[u8])>> {
        match self.try_step(direction) {
            Ok(true) => Ok(Some((&self.key, &self.value))),
            Ok(false) => Ok(None),
            Err(error) => {
                self.leave();
                Err(error)
            }
        }
    }

    #[inline]
    fn try_step(&mut self, direction: Direction) -> Result<bool> {
        if !self.started {
            self.seek_first()?;
        }
        loop {
            let Some(place) = &mut self.leaf else {
                return Ok(false);
            };
            let entry = match direction {
                Direction::Forward if place.index < place.count => place.index,
                Direction::Backward if place.index > 0 => place.index - 1,
                _ if self.turn_page(direction)? => continue,
                _ => return Ok(false),
            };
            place.index = match direction {
                Direction::Forward => entry + 1,
                Direction::Backward => entry,
            };
            let overflow = place.load(entry, &mut self.key, &mut self.value)?;
            if let Some(overflow) = overflow {
                overflow::read(self.pager, overflow, &mut self.value)?;
            }
            return Ok(true);
        }
    }

    fn leave(&mut self) {
        self.leaf = None;
        self.path.clear();
    }

    /// Goes down to the leaf for `key`, before its entry or after it, for a scan in `direction`.
    fn seek_to(&mut self, key: &[u8], after: bool, direction: Direction) -> Result<()> {
        let Some(leaf) = self.seek_leaf(direction, |branch| branch.child_index(key))? else {
            return Ok(());
        };
        self.enter(leaf, |leaf| {
            let (index, found) = leaf.search(key)?;
            Ok(index + usize::from(after && found))
        })
    }

    fn seek_end(&mut self, direction: Direction) -> Result<()> {
        let Some(leaf) = self.seek_leaf(direction, |branch| Ok(near_end(branch, direction)))?
        else {
            return Ok(());
        };
        self.enter(leaf, |leaf| Ok(near_end(leaf, direction)))
    }

    /// Goes down to the leaf that `choose` leads to; `None` in an empty tree. Asks for what the scan
    /// is expected to reach from there.
    fn seek_leaf(
        &mut self,
        direction: Direction,
        choose: impl Fn(&BranchRef<'_>) -> Result<usize, Damage>,
    ) -> Result<Option<PageRef>> {
        self.begin_seek();
        let Some(top) = self.root.page else {
            return Ok(None);
        };
        // How many leaves there are, if all branches have as many children as those on the path.
        let mut leaves: u64 = 1;
        let leaf = self.descend(top, self.root.top_level(), |branch| {
            leaves = leaves.saturating_mul(branch.count() as u64 + 1);
            choose(branch)
        })?;
        if self.expected > 0 {
            let per_leaf = (self.root.entries as f64 / leaves as f64).max(1.0);
            let begin = (&self.path[..], leaf);
            let scan = (self.expected, per_leaf);
            self.ahead.begin(self.pager, begin, direction, scan);
        }
        Ok(Some(leaf))
    }

    fn begin_seek(&mut self) {
        self.started = true;
        self.leave();
        self.ahead.forget();
    }

    /// Goes down to a leaf, taking the children that `choose` says.
    fn descend(
        &mut self,
        from: PageRef,
        level: u8,
        mut choose: impl FnMut(&BranchRef<'_>) -> Result<usize, Damage>,
    ) -> Result<PageRef> {
        let mut at = from;
        for level in (1..=level).rev() {
            let (step, child) = visit(self.pager, at, |page| {
                let branch = BranchRef::parse(page, level)?;
                let child = choose(&branch)?;
                let last_child = branch.count();
                let step = Step {
                    at,
                    child,
                    last_child,
                };
                Ok((step, branch.child(child)?))
            })?;
            self.path.push(step);
            at = child;
        }
        Ok(at)
    }

    fn enter(
        &mut self,
        at: PageRef,
        choose: impl FnOnce(&LeafRef<'_>) -> Result<usize, Damage>,
    ) -> Result<()> {
        let page = self.pager.read(at)?;
        let seen = LeafRef::parse(&page, 0).and_then(|leaf| Ok((choose(&leaf)?, leaf.count())));
        page.confirm()?;
        let (index, count) = seen.map_err(|what| pager::Error::corrupt(at.id, what))?;
        self.leaf = Some(Place {
            at,
            page,
            index,
            count,
        });
        let left = self.ahead.left_of(index, count);
        self.ahead.entered(self.pager, count, left);
        Ok(())
    }

    /// Goes to the neighbouring leaf, at its near end; `false`, and no move, if there is none.
    fn turn_page(&mut self, direction: Direction) -> Result<bool> {
        let Some(turn) = self.path.iter().rposition(|step| step.can_go(direction)) else {
            return Ok(false);
        };
        self.leaf = None; // one guard at a time
        self.path.truncate(turn + 1);
        let step = &mut self.path[turn];
        step.go(direction);
        let (step, level) = (*step, self.root.top_level() - turn as u8);
        let child = visit(self.pager, step.at, |page| {
            BranchRef::parse(page, level)?.child(step.child)
        })?;
        let leaf = self.descend(child, level - 1, |branch| Ok(near_end(branch, direction)))?;
        self.ahead.turned(self.pager, &self.path, direction);
        self.enter(leaf, |leaf| Ok(near_end(leaf, direction)))?;
        Ok(true)
    }
}

/// The number of the child, or of the gap, at which a walk in this direction enters a page.
pub(crate) fn near_end<L: Layout>(node: &View<'_, L>, direction: Direction) -> usize {
    match direction {
        Direction::Forward => 0,
        Direction::Backward => node.count(),
    }
}

impl<P: Pager> Place<'_, P> {
    /// Copies an entry out; returns where its value is if it overflows.
    #[inline]
    fn load(
        &self,
        index: usize,
        key: &mut Vec<u8>,
        value: &mut Vec<u8>,
    ) -> Result<Option<Overflow>> {
        let copied = LeafRef::parse(&self.page, 0).and_then(|leaf| {
            leaf.key(index)?.copy_into(key);
            value.clear();
            match leaf.payload(index)? {
                Value::Inline(bytes) => {
                    value.extend_from_slice(bytes);
                    Ok(None)
                }
                Value::Overflow(overflow) => Ok(Some(overflow)),
            }
        });
        self.page.confirm()?;
        copied.map_err(|what| pager::Error::corrupt(self.at.id, what).into())
    }
}
