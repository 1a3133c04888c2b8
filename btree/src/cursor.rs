//! Walking a tree in key order, in both directions.
//!
//! A cursor stands in a *gap*: before the first entry, between two neighbours, or after the last.
//! `next` steps over the entry to its right, `prev` over the one to its left, and both return what
//! they stepped over. So `next` after `prev` returns the same entry again.

use std::mem;
use std::ops::Bound;

use bifolio_pager::{self as pager, PageGuard, PageRef, Pager};

use crate::error::Result;
use crate::node::{BranchRef, Damage, Layout, LeafRef, Overflow, Value, View};
use crate::overflow;
use crate::root::Root;
use crate::tree::{Tree, visit};

/// The most leaves asked for ahead of a scan.
const WINDOW_MAX: usize = 64;

/// A position in a tree as of one root. It keeps references to the pages on the path, and a guard
/// of the leaf it stands in and of no other page.
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
struct Step {
    at: PageRef,
    child: usize,
    last_child: usize,
}

/// A gap in a leaf: `index` entries are to its left.
struct Place<'p, P: Pager + 'p> {
    at: PageRef,
    page: P::Ref<'p>,
    index: usize,
    count: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Forward,
    Backward,
}

/// Which children of the lowest branch were asked for before they are needed. The window grows
/// while a scan goes on, so that a short one reads little in vain; where a scan's length was said,
/// all leaves that it will reach are asked for at once, and none beyond.
#[derive(Default)]
struct ReadAhead {
    window: usize,
    /// Leaves beyond the current one that the scan was said to reach.
    expected: usize,
    /// Children beyond the current one, in the scan's direction, that were asked for.
    asked: usize,
    direction: Option<Direction>,
    wanted: Vec<PageRef>,
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
        let (expected, entries) = (self.expected, self.root.entries.max(1));
        let mut ahead = mem::take(&mut self.ahead);
        // How many leaves there are, if all branches have as many children as those on the path.
        let mut leaves: u64 = 1;
        let leaf = self.descend(top, self.root.top_level(), |branch, level| {
            let child = choose(branch)?;
            leaves = leaves.saturating_mul(branch.count() as u64 + 1);
            if level == 1 && expected > 0 {
                let beyond = u128::from(expected) * u128::from(leaves);
                let beyond = beyond.div_ceil(u128::from(entries)).try_into();
                ahead.begin(branch, child, beyond.unwrap_or(usize::MAX), direction)?;
            }
            Ok(child)
        })?;
        if !ahead.wanted.is_empty() {
            ahead.wanted.push(leaf);
        }
        self.ask(&mut ahead);
        self.ahead = ahead;
        Ok(Some(leaf))
    }

    /// Starts reading what `ahead` wants.
    fn ask(&self, ahead: &mut ReadAhead) {
        if !ahead.wanted.is_empty() {
            self.pager.prefetch(&ahead.wanted);
            ahead.wanted.clear();
        }
    }

    fn begin_seek(&mut self) {
        self.started = true;
        self.leave();
        self.ahead.direction = None;
    }

    /// Goes down to a leaf, taking the children that `choose` says.
    fn descend(
        &mut self,
        from: PageRef,
        level: u8,
        mut choose: impl FnMut(&BranchRef<'_>, u8) -> Result<usize, Damage>,
    ) -> Result<PageRef> {
        let mut at = from;
        for level in (1..=level).rev() {
            let (step, child) = visit(self.pager, at, |page| {
                let branch = BranchRef::parse(page, level)?;
                let child = choose(&branch, level)?;
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
        Ok(())
    }

    /// Goes to the neighbouring leaf, at its near end; `false`, and no move, if there is none.
    fn turn_page(&mut self, direction: Direction) -> Result<bool> {
        let can_go = |step: &Step| match direction {
            Direction::Forward => step.child < step.last_child,
            Direction::Backward => step.child > 0,
        };
        let Some(turn) = self.path.iter().rposition(can_go) else {
            return Ok(false);
        };
        self.leaf = None; // one guard at a time
        self.path.truncate(turn + 1);
        let step = &mut self.path[turn];
        match direction {
            Direction::Forward => step.child += 1,
            Direction::Backward => step.child -= 1,
        }
        let (step, level) = (*step, self.root.top_level() - turn as u8);
        let mut ahead = mem::take(&mut self.ahead);
        if level > 1 {
            ahead.asked = 0; // of a branch that is left behind
        }
        let child = visit(self.pager, step.at, |page| {
            let branch = BranchRef::parse(page, level)?;
            ahead.plan(&branch, level, step.child, direction)?;
            branch.child(step.child)
        })?;
        let leaf = self.descend(child, level - 1, |branch, level| {
            let child = near_end(branch, direction);
            ahead.plan(branch, level, child, direction)?;
            Ok(child)
        })?;
        self.ask(&mut ahead);
        self.ahead = ahead;
        self.enter(leaf, |leaf| Ok(near_end(leaf, direction)))?;
        Ok(true)
    }
}

/// The number of the child, or of the gap, at which a walk in this direction enters a page.
fn near_end<L: Layout>(node: &View<'_, L>, direction: Direction) -> usize {
    match direction {
        Direction::Forward => 0,
        Direction::Backward => node.count(),
    }
}

impl ReadAhead {
    /// Called when a scan goes to `child` of a branch: notes in `wanted` what to ask for.
    fn plan(
        &mut self,
        branch: &BranchRef<'_>,
        level: u8,
        child: usize,
        direction: Direction,
    ) -> Result<(), Damage> {
        if level > 1 {
            return Ok(()); // only leaves are many enough
        }
        if self.direction != Some(direction) {
            (self.window, self.asked, self.expected) = (0, 0, 0);
            self.direction = Some(direction);
        }
        self.asked = self.asked.saturating_sub(1);
        let reach = if self.expected > 0 {
            self.expected -= 1;
            if self.asked >= self.expected.min(WINDOW_MAX / 2) {
                return Ok(());
            }
            self.expected.min(WINDOW_MAX)
        } else {
            if self.asked > 0 && self.asked * 2 >= self.window {
                return Ok(());
            }
            self.window = (self.window * 2).clamp(1, WINDOW_MAX);
            self.window
        };
        self.want(branch, child, reach, direction)
    }

    /// Called when a scan begins in `child` of a branch and will reach about `expected` leaves more.
    fn begin(
        &mut self,
        branch: &BranchRef<'_>,
        child: usize,
        expected: usize,
        direction: Direction,
    ) -> Result<(), Damage> {
        (self.window, self.asked, self.expected) = (0, 0, expected);
        self.direction = Some(direction);
        self.want(branch, child, expected.min(WINDOW_MAX), direction)
    }

    /// Notes the children up to `reach` beyond `child`, as far as there are such and they were not
    /// asked for before.
    fn want(
        &mut self,
        branch: &BranchRef<'_>,
        child: usize,
        reach: usize,
        direction: Direction,
    ) -> Result<(), Damage> {
        while self.asked < reach {
            let distance = self.asked + 1;
            let wanted = match direction {
                Direction::Forward => Some(child + distance).filter(|&c| c <= branch.count()),
                Direction::Backward => child.checked_sub(distance),
            };
            let Some(wanted) = wanted else {
                break;
            };
            self.wanted.push(branch.child(wanted)?);
            self.asked += 1;
        }
        Ok(())
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
