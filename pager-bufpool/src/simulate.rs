//! A pool without pages: the same policies, fed with a trace, to see what they would have kept.

use std::collections::HashMap;
use std::num::NonZeroU32;

use bifolio_pager::PageId;

use crate::frames::SPARE;
use crate::options::Policy;
use crate::policy::{self, Answer, Candidates, Replacement};
use crate::trace::{Access, Event};
use crate::word::FrameId;

/// What a [`Simulation`] has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Pages that were read, from memory or not.
    pub reads: u64,
    /// Pages that had to be brought in, read ahead or when they were needed.
    pub loads: u64,
}

impl Tally {
    /// The share of reads that cost no load: 0 to 1, 1 where nothing was read.
    pub fn hit_ratio(&self) -> f64 {
        if self.reads == 0 {
            return 1.0;
        }
        1.0 - self.loads as f64 / self.reads as f64
    }

    /// What was counted since `earlier`.
    pub fn since(&self, earlier: Tally) -> Tally {
        Tally {
            reads: self.reads - earlier.reads,
            loads: self.loads - earlier.loads,
        }
    }
}

/// A pool that keeps track of which pages it would hold, and holds none.
///
/// Runs the very policies of [`BufPool`](crate::BufPool), in the batches it evicts in. Where one thread
/// reads, nothing is written and no guard is kept, the two agree on every page; else they differ by
/// what a simulation does not know: frames that cannot go because they are guarded or being written.
pub struct Simulation {
    policy: Box<dyn Replacement>,
    places: HashMap<PageId, Place>,
    /// The spare ones, which stay empty, included: a policy knows of them.
    frames: Vec<Option<Slot>>,
    free: Vec<FrameId>,
    inner: usize,
    tally: Tally,
}

#[derive(Clone, Copy)]
enum Place {
    Frame(FrameId),
    /// Not in memory, with what the policy noted.
    Left(NonZeroU32),
}

#[derive(Clone, Copy)]
struct Slot {
    page: PageId,
    inner: bool,
    fresh: bool,
    marked: bool,
}

impl Simulation {
    /// An empty pool of `frames` frames.
    ///
    /// # Panics
    /// If there are no frames.
    pub fn new(policy: Policy, frames: usize) -> Self {
        assert!(frames > 0, "a pool has frames");
        Simulation {
            policy: policy::new(policy, frames + SPARE),
            places: HashMap::new(),
            frames: vec![None; frames + SPARE],
            free: (0..frames as u32).rev().map(FrameId).collect(),
            inner: 0,
            tally: Tally::default(),
        }
    }

    /// What has been counted so far.
    pub fn tally(&self) -> Tally {
        self.tally
    }

    /// Whether the page is in memory.
    pub fn holds(&self, page: PageId) -> bool {
        matches!(self.places.get(&page), Some(Place::Frame(_)))
    }

    /// Does what a pool would do. Whether the page was in memory.
    pub fn step(&mut self, event: Event) -> bool {
        let there = match self.places.get(&event.page) {
            Some(&Place::Frame(frame)) => Some(frame),
            _ => None,
        };
        match (event.access, there) {
            (Access::Read, Some(frame)) => self.hit(frame, event.inner),
            (Access::Read, None) => self.bring_in(event, false),
            (Access::Ahead, None) => self.bring_in(event, true),
            (Access::Create, None) => self.create(event),
            (Access::Discard, Some(frame)) => self.discard(frame),
            (Access::Discard, None) => drop(self.places.remove(&event.page)),
            (Access::Ahead | Access::Create, Some(_)) => {}
        }
        self.tally.reads += u64::from(event.access == Access::Read);
        there.is_some()
    }

    fn usable(&self) -> usize {
        self.frames.len() - SPARE
    }

    fn slot(&mut self, frame: FrameId) -> &mut Slot {
        self.frames[frame.index()]
            .as_mut()
            .expect("a page is in the frame")
    }

    fn hit(&mut self, frame: FrameId, inner: bool) {
        let slot = self.slot(frame);
        slot.marked |= !slot.fresh;
        slot.fresh = false;
        // A page that was created is known for what it is when it is read.
        if inner && !std::mem::replace(&mut slot.inner, true) {
            self.inner += 1;
        }
        if self.policy.wants_hits() {
            self.policy.on_hit(frame);
        }
    }

    fn bring_in(&mut self, event: Event, fresh: bool) {
        self.tally.loads += 1;
        let note = match self.places.get(&event.page) {
            Some(&Place::Left(note)) => Some(note),
            _ => None,
        };
        self.enter(event, fresh, note);
    }

    fn create(&mut self, event: Event) {
        self.enter(event, false, None);
    }

    fn enter(&mut self, event: Event, fresh: bool, note: Option<NonZeroU32>) {
        let frame = self.frame();
        self.frames[frame.index()] = Some(Slot {
            page: event.page,
            inner: event.inner,
            fresh,
            marked: false,
        });
        self.inner += usize::from(event.inner);
        self.places.insert(event.page, Place::Frame(frame));
        self.policy.on_insert(frame, note);
    }

    fn discard(&mut self, frame: FrameId) {
        self.vacate(frame, false);
        self.free.push(frame);
    }

    fn vacate(&mut self, frame: FrameId, evicted: bool) {
        let slot = self.frames[frame.index()]
            .take()
            .expect("a page is in the frame");
        self.inner -= usize::from(slot.inner);
        match self.policy.on_remove(frame, evicted) {
            Some(note) => self.places.insert(slot.page, Place::Left(note)),
            None => self.places.remove(&slot.page),
        };
    }

    /// A frame, by eviction if need be; in the order in which `BufPool` gives them out.
    fn frame(&mut self) -> FrameId {
        if let Some(frame) = self.free.pop() {
            return frame;
        }
        let mut goes = self.choose(policy::most_inner(self.usable()));
        if goes.is_empty() {
            goes = self.choose(0);
        }
        for &frame in &goes {
            self.vacate(frame, true);
        }
        let mine = goes.pop().expect("every frame can go here");
        self.free.append(&mut goes);
        mine
    }

    fn choose(&mut self, most_inner: usize) -> Vec<FrameId> {
        let mut round = Round {
            want: policy::eviction_batch(self.usable()),
            keeps_inner: self.inner <= most_inner,
            frames: &mut self.frames,
            goes: Vec::new(),
        };
        self.policy.victims(&mut round);
        round.goes
    }
}

struct Round<'s> {
    want: usize,
    keeps_inner: bool,
    frames: &'s mut [Option<Slot>],
    goes: Vec<FrameId>,
}

impl Candidates for Round<'_> {
    fn wants_more(&self) -> bool {
        self.goes.len() < self.want
    }

    fn take_mark(&mut self, frame: FrameId) -> bool {
        let slot = self.frames[frame.index()].as_mut();
        slot.is_some_and(|slot| std::mem::replace(&mut slot.marked, false))
    }

    fn offer(&mut self, frame: FrameId) -> Answer {
        match &self.frames[frame.index()] {
            Some(slot) if slot.inner && self.keeps_inner => Answer::Kept,
            Some(_) if !self.goes.contains(&frame) => {
                self.goes.push(frame);
                Answer::Goes
            }
            _ => Answer::Stays,
        }
    }
}
