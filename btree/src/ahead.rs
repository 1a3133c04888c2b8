//! Reading ahead of a scan.
//!
//! A *scout* goes before the cursor, leaf by leaf, on a path of its own through the branches, and asks
//! for the leaves that it comes by. So reads go on across the end of a branch; and where many leaves are
//! wanted, the next branches are asked for as well, so that the scout hardly ever waits for one.
//!
//! How far it goes: where a scan's length was said, to the leaf in which it will probably end, and not
//! beyond; else the distance grows while the scan goes on, so that a short one reads little in vain.
//! The pager says how far is far enough, and that is less where leaves lie scattered in the file: what
//! counts then is how many reads are under way, and not how many pages.
//!
//! Asking is a hint. An error that the scout meets is left to the cursor, if it comes there.

use bifolio_pager::{PageRef, Pager};

use crate::cursor::{Direction, Step, near_end};
use crate::error::Result;
use crate::node::BranchRef;
use crate::tree::visit;

/// Reads under way at once: more than a disk serves at once, so that it always has some waiting.
const READS: usize = 128;
/// Leaves of a distance from which on branches are asked for too.
const FAR: usize = 64;
/// Branches that are asked for beyond the one that the scout is in.
const BRANCHES: usize = 8;

#[derive(Default)]
pub(crate) struct ReadAhead {
    /// `None`: the scan has not asked for anything yet.
    direction: Option<Direction>,
    /// The way to the leaf that was asked for last; empty where an error was met.
    scout: Vec<Step>,
    /// Leaves that were asked for and that the cursor has not come to.
    asked: usize,
    /// Branches that were asked for beyond the scout's, under the same one.
    branches_asked: usize,
    /// How far to go, while a scan of unsaid length goes on.
    window: usize,
    /// The farthest to go. 0: not known yet.
    most: usize,
    /// Entries that the scan was said to step over beyond the cursor's leaf.
    remaining: u64,
    /// Entries of a leaf, on average, as far as is known.
    per_leaf: f64,
    /// Leaves that were counted for that.
    counted: u32,
    wanted: Vec<PageRef>,
}

impl ReadAhead {
    /// The cursor goes elsewhere.
    pub(crate) fn forget(&mut self) {
        self.direction = None;
        self.remaining = 0;
    }

    /// A scan begins that will step over about `expected` entries, of which a leaf has about
    /// `per_leaf`. `path` leads to its first leaf, `leaf`, which is asked for too.
    pub(crate) fn begin<P: Pager>(
        &mut self,
        pager: &P,
        (path, leaf): (&[Step], PageRef),
        direction: Direction,
        (expected, per_leaf): (u64, f64),
    ) {
        self.start(path, direction);
        (self.remaining, self.per_leaf, self.counted) = (expected, per_leaf, 1);
        // Where in its leaf it begins is not known before that has been read: anywhere.
        let beyond = ((expected - 1) as f64 / per_leaf).round() as usize;
        if beyond > 0 {
            self.wanted.push(leaf);
            self.reach(pager, beyond);
        }
    }

    /// The cursor has gone on to the leaf that `path` leads to, and has not read it yet.
    pub(crate) fn turned<P: Pager>(&mut self, pager: &P, path: &[Step], direction: Direction) {
        if self.direction != Some(direction) {
            self.start(path, direction);
        } else if self.asked > 0 {
            self.asked -= 1;
        } else {
            self.scout.clear();
            self.scout.extend_from_slice(path);
            self.branches_asked = 0;
        }
        if self.remaining > 0 {
            return; // until it is known how much the leaf holds
        }
        let grown = self.window >= self.most(pager);
        let enough = self.window / 4 * if grown { 3 } else { 2 };
        if self.asked == 0 || self.asked < enough {
            self.window = (self.window * 2).clamp(1, self.most);
            self.reach(pager, self.window);
        }
    }

    /// The cursor has read a leaf of `count` entries, of which `left` lie before it.
    pub(crate) fn entered<P: Pager>(&mut self, pager: &P, count: usize, left: usize) {
        if self.remaining == 0 {
            return;
        }
        self.remaining = self.remaining.saturating_sub(left as u64);
        self.counted += 1;
        self.per_leaf += (count as f64 - self.per_leaf) / f64::from(self.counted);
        if self.remaining == 0 {
            return;
        }
        // A leaf too many costs less than one that has to be waited for alone.
        let beyond = self.remaining as f64 / self.per_leaf.max(1.0) - 0.25;
        let beyond = (beyond.ceil() as usize).max(1);
        let most = self.most(pager);
        if self.asked < beyond.min(most / 4 * 3) {
            self.reach(pager, beyond);
        }
    }

    /// Entries that the cursor will meet in a leaf it stands in, if it goes on as it did.
    pub(crate) fn left_of(&self, index: usize, count: usize) -> usize {
        match self.direction {
            Some(Direction::Backward) => index,
            Some(Direction::Forward) | None => count - index,
        }
    }

    fn start(&mut self, path: &[Step], direction: Direction) {
        self.direction = Some(direction);
        self.scout.clear();
        self.scout.extend_from_slice(path);
        (self.asked, self.branches_asked) = (0, 0);
        (self.window, self.remaining) = (0, 0);
    }

    fn most<P: Pager>(&mut self, pager: &P) -> usize {
        if self.most == 0 {
            self.most = pager.read_ahead_most().clamp(1, READS);
        }
        self.most
    }

    /// Asks for leaves up to `distance` beyond the cursor's.
    fn reach<P: Pager>(&mut self, pager: &P, distance: usize) {
        let distance = distance.min(self.most(pager));
        if self.advance(pager, distance).is_err() {
            self.scout.clear();
        }
        self.ask(pager);
    }

    fn ask<P: Pager>(&mut self, pager: &P) {
        if self.wanted.is_empty() {
            return;
        }
        pager.prefetch(&self.wanted);
        if self.wanted.len() >= READS / 8 {
            let breaks = |pair: &&[PageRef]| pair[0].id.get().abs_diff(pair[1].id.get()) != 1;
            let runs = self.wanted.windows(2).filter(breaks).count() + 1;
            self.most = (READS * self.wanted.len() / runs).min(pager.read_ahead_most().max(1));
        }
        self.wanted.clear();
    }

    /// Goes on until `distance` leaves are asked for, or to the end of the tree.
    fn advance<P: Pager>(&mut self, pager: &P, distance: usize) -> Result<()> {
        let Some(direction) = self.direction else {
            return Ok(());
        };
        while self.asked < distance {
            let Some(turn) = self.scout.iter().rposition(|step| step.can_go(direction)) else {
                return Ok(());
            };
            if turn + 1 < self.scout.len() {
                self.ask(pager); // before the next branch is waited for
                self.go_round(pager, turn, direction, distance >= FAR)?;
                continue;
            }
            let step = &mut self.scout[turn];
            let (asked, wanted) = (&mut self.asked, &mut self.wanted);
            visit(pager, step.at, |page| {
                let branch = BranchRef::parse(page, 1)?;
                while *asked < distance && step.can_go(direction) {
                    step.go(direction);
                    wanted.push(branch.child(step.child)?);
                    *asked += 1;
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Goes from the end of a lowest branch to the first leaf of the next, which parts from the way to
    /// the former at `turn`.
    fn go_round<P: Pager>(
        &mut self,
        pager: &P,
        turn: usize,
        direction: Direction,
        far: bool,
    ) -> Result<()> {
        let depth = self.scout.len();
        self.scout.truncate(turn + 1);
        self.branches_asked = match self.branches_asked {
            asked if turn + 2 == depth => asked.saturating_sub(1),
            _ => 0,
        };
        for index in turn..depth {
            let level = (depth - index) as u8;
            let step = &mut self.scout[index];
            let is_new = index > turn;
            let mut branches = Vec::new();
            let asked = &mut self.branches_asked;
            let child = visit(pager, step.at, |page| {
                let branch = BranchRef::parse(page, level)?;
                if is_new {
                    step.last_child = branch.count();
                    step.child = near_end(&branch, direction);
                } else {
                    step.go(direction);
                }
                if level == 2 && far && *asked < BRANCHES / 2 {
                    let mut ahead = *step;
                    for distance in 1..=BRANCHES {
                        if !ahead.can_go(direction) {
                            break;
                        }
                        ahead.go(direction);
                        if distance > *asked {
                            branches.push(branch.child(ahead.child)?);
                        }
                    }
                    *asked += branches.len();
                }
                branch.child(step.child)
            })?;
            if !branches.is_empty() {
                pager.prefetch(&branches);
            }
            if level == 1 {
                self.wanted.push(child);
                self.asked += 1;
            } else {
                self.scout.push(Step::unknown(child));
            }
        }
        Ok(())
    }
}
