//! Walking a tree in key order, in both directions.
//!
//! A cursor stands in a *gap*: before the first entry, between two neighbours, or after the last.
//! `next` steps over the entry to its right, `prev` over the one to its left, and both return what
//! they stepped over. So `next` after `prev` returns the same entry again.

use std::ops::Bound;

use bifolio_pager::{self as pager, PageGuard, PageRef, Pager};

use crate::error::Result;
use crate::node::{BranchRef, Damage, LeafRef, Overflow, Value};
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
/// while a scan goes on, so that a short one reads little in vain.
#[derive(Default)]
struct ReadAhead {
    window: usize,
    /// Children beyond the current one, in the scan's direction, that were asked for.
    asked: usize,
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
            key: Vec::new(),
            value: Vec::new(),
        }
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
            Bound::Included(key) => self.seek_to(key, false),
            Bound::Excluded(key) => self.seek_to(key, true),
            Bound::Unbounded => self.seek_end(Direction::Forward),
        }
    }

    /// Goes to where a scan backward from `bound` begins: `prev` returns the last entry that lies
    /// within it.
    pub fn seek_back(&mut self, bound: Bound<&[u8]>) -> Result<()> {
        match bound {
            Bound::Included(key) => self.seek_to(key, true),
            Bound::Excluded(key) => self.seek_to(key, false),
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

    /// Goes down to the leaf for `key`, before its entry or after it.
    fn seek_to(&mut self, key: &[u8], after: bool) -> Result<()> {
        self.begin_seek();
        let Some(top) = self.root.page else {
            return Ok(());
        };
        let leaf = self.descend(top, self.root.top_level(), |branch| branch.child_index(key))?;
        self.enter(leaf, |leaf| {
            let (index, found) = leaf.search(key)?;
            Ok(index + usize::from(after && found))
        })
    }

    fn seek_end(&mut self, direction: Direction) -> Result<()> {
        self.begin_seek();
        match self.root.page {
            Some(top) => self.descend_edge(top, self.root.top_level(), direction),
            None => Ok(()),
        }
    }

    fn begin_seek(&mut self) {
        self.started = true;
        self.leave();
        self.ahead.window = 0;
        self.ahead.asked = 0;
    }

    /// Goes down from a page of this level to its first leaf or its last.
    fn descend_edge(&mut self, from: PageRef, level: u8, direction: Direction) -> Result<()> {
        let forward = direction == Direction::Forward;
        let leaf = self.descend(from, level, |branch| {
            Ok(if forward { 0 } else { branch.count() })
        })?;
        self.enter(leaf, |leaf| Ok(if forward { 0 } else { leaf.count() }))
    }

    fn descend(
        &mut self,
        from: PageRef,
        level: u8,
        choose: impl Fn(&BranchRef<'_>) -> Result<usize, Damage>,
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
        let is_parent = turn + 1 == self.path.len();
        self.path.truncate(turn + 1);
        let step = &mut self.path[turn];
        match direction {
            Direction::Forward => step.child += 1,
            Direction::Backward => step.child -= 1,
        }
        let step = *step;
        if !is_parent {
            self.ahead.asked = 0;
        }
        let level = self.root.top_level() - turn as u8;
        let (ahead, pager) = (&mut self.ahead, self.pager);
        let child = visit(pager, step.at, |page| {
            let branch = BranchRef::parse(page, level)?;
            if is_parent {
                ahead.plan(&branch, step.child, direction)?;
            }
            branch.child(step.child)
        })?;
        if !self.ahead.wanted.is_empty() {
            self.pager.prefetch(&self.ahead.wanted);
            self.ahead.wanted.clear();
        }
        self.descend_edge(child, level - 1, direction)?;
        Ok(true)
    }
}

impl ReadAhead {
    /// Called when a scan moves to `child` of the same branch: notes in `wanted` what to ask for.
    fn plan(
        &mut self,
        branch: &BranchRef<'_>,
        child: usize,
        direction: Direction,
    ) -> Result<(), Damage> {
        self.wanted.clear();
        self.asked = self.asked.saturating_sub(1);
        if self.asked > self.window / 2 {
            return Ok(());
        }
        self.window = (self.window * 2).clamp(2, WINDOW_MAX);
        while self.asked < self.window {
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
