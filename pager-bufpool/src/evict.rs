//! Where frames come from when none is free.
//!
//! 1. The policy offers frames, and we look at the word of the page in each: one that is clean and
//!    unlatched is *taken* (no reader finds it from then on); one that is dirty is remembered.
//! 2. One snapshot of the hazards for all that were taken: what a reader protects is put back, and
//!    counts as used; the frames of the others are ours.
//! 3. Where there was dirt, the pool's own thread is woken, to write dirty pages, in page order,
//!    neighbours merged, and to free some frames ahead of need (`background.rs`). Where no clean page
//!    was found, or there is no such thread, the one that needs a frame writes; pages are then clean,
//!    and stay until the policy offers them again.
//! 4. Once a write has failed, what is dirty stays where it is, for those who read it, until its life
//!    ends. What is not in memory comes in through frames that were kept back for that time, and what
//!    comes in can go again: storage has it.
//! 5. Where nothing could be taken or written, the answer is `NoFreeFrame`, unless some frame is *in
//!    transit*: on its way in or out in some other thread, which ends by itself.
//!
//! Locking: one sweep at a time (`sweeping`), and no I/O under it. Nobody holds a mark, a claim or
//! the lock while waiting.

use std::time::Duration;

use bifolio_pager::hazard::Protected;
use bifolio_pager::{Error, PageId, Result};

use crate::frames::{Occupant, Owned};
use crate::policy::{self, Answer, Candidates};
use crate::pool::Core;
use crate::tally::add;
use crate::word::{FrameId, Phase, Taken};

/// Sweeps that find nothing before the answer is an error: a guard that another thread holds for a
/// moment, in a pool of a few frames, is no reason for one. Each is followed by a moment's nap,
/// because guards that are dropped wake nobody, so that dropping one costs nothing.
const PATIENCE: u32 = 3;
const MOMENT: Duration = Duration::from_micros(100);
/// The end of what is in transit wakes us; this is for the case that it brings no frame.
const TRANSIT: Duration = Duration::from_millis(1);

/// What a sweep has brought.
pub(crate) struct Sweep<'p> {
    pub(crate) frames: Vec<Owned<'p>>,
    pub(crate) dirty: Vec<PageId>,
    in_transit: bool,
    /// In transit out: some thread writes a page.
    writing: bool,
}

impl Core {
    /// Frames to free at once, so that the snapshot is shared.
    fn eviction_batch(&self) -> usize {
        policy::eviction_batch(self.frames.usable())
    }

    /// Dirty pages to write at once.
    pub(crate) fn cleaning_batch(&self) -> usize {
        (self.frames.usable() / 8).clamp(4, crate::write::BATCH_PAGES)
    }

    /// A frame, by eviction if need be.
    ///
    /// # Errors
    /// [`Error::NoFreeFrame`] where every frame is guarded; [`Error::Poisoned`] where some could be
    /// had if they could be written.
    pub(crate) fn frame(&self) -> Result<Owned<'_>> {
        let mut fruitless = 0;
        let mut waited = false;
        loop {
            if let Some(frame) = self.frames.pop() {
                self.watch_reserve();
                return Ok(frame);
            }
            self.reap(&|| false);
            let mut sweep = self.sweep(self.eviction_batch());
            let mine = sweep.frames.pop();
            let freed = sweep.frames.len();
            drop(sweep.frames); // to the free list
            if !sweep.dirty.is_empty() {
                self.signal.wake();
            }
            if let Some(frame) = mine {
                if !self.signal.runs() && sweep.dirty.len() > freed {
                    self.clean(&sweep.dirty);
                }
                return Ok(frame);
            }
            if !waited && (sweep.writing || !sweep.dirty.is_empty()) {
                waited = true;
                add(&self.counts.waits_for_write, 1);
            }
            if self.clean(&sweep.dirty) {
                continue;
            }
            if self.disk.is_poisoned() && self.frames.lend_spare() {
                continue;
            }
            if sweep.in_transit {
                self.wait_for_transit();
            } else if fruitless < PATIENCE {
                fruitless += 1;
                self.frames.shortage.nap(MOMENT);
            } else {
                return Err(self.exhausted(!sweep.dirty.is_empty()));
            }
        }
    }

    fn exhausted(&self, dirty: bool) -> Error {
        match self.disk.writable() {
            Err(poisoned @ Error::Poisoned { .. }) if dirty => poisoned,
            _ => Error::NoFreeFrame {
                capacity: self.frames.usable(),
            },
        }
    }

    fn wait_for_transit(&self) {
        if self.disk.io.in_flight() > 0 {
            let before = self.disk.io.in_flight();
            self.reap(&|| self.disk.io.in_flight() >= before);
        } else {
            self.frames.shortage.nap(TRANSIT);
        }
    }

    /// Up to `want` frames, without waiting and without writing.
    pub(crate) fn frames_at_hand(&self, want: usize) -> Vec<Owned<'_>> {
        let mut frames: Vec<_> = std::iter::from_fn(|| self.frames.pop())
            .take(want)
            .collect();
        if frames.len() < want {
            frames.extend(self.sweep(want - frames.len()).frames);
            frames.truncate(want); // the rest goes to the free list
        }
        frames
    }

    /// Evicts until no more frames are in use than there are to be.
    ///
    /// # Errors
    /// As [`Core::frame`].
    pub(crate) fn evict_surplus(&self) -> Result<()> {
        let mut fruitless = 0;
        while !self.frames.withhold_surplus() {
            self.reap(&|| false);
            let sweep = self.sweep(self.cleaning_batch());
            let freed = sweep.frames.len();
            drop(sweep.frames); // to the free list
            if freed > 0 || self.clean(&sweep.dirty) {
                fruitless = 0;
            } else if sweep.in_transit {
                self.wait_for_transit();
            } else if fruitless < PATIENCE {
                fruitless += 1;
                self.frames.shortage.nap(MOMENT);
            } else {
                return Err(self.exhausted(!sweep.dirty.is_empty()));
            }
        }
        Ok(())
    }

    /// Steps 1 and 2, until something was freed or there is nothing to be had.
    pub(crate) fn sweep(&self, want: usize) -> Sweep<'_> {
        let _sweeping = self.sweeping.lock();
        let mut sweep = Sweep {
            frames: Vec::new(),
            dirty: Vec::new(),
            in_transit: false,
            writing: false,
        };
        // What the last snapshot contained: no use to take it again.
        let mut known: Option<Protected> = None;
        let mut keeps_inner = true;
        let poisoned = self.disk.is_poisoned();
        loop {
            let mut round = Round {
                pool: self,
                want,
                most_dirty: self.cleaning_batch(),
                most_inner: if keeps_inner {
                    policy::most_inner(self.frames.usable())
                } else {
                    0
                },
                known,
                poisoned,
                taken: Vec::new(),
                dirty: Vec::new(),
                in_transit: false,
                writing: false,
            };
            self.policy.victims(&mut round);
            sweep.in_transit = round.in_transit;
            sweep.writing = round.writing;
            sweep.dirty.append(&mut round.dirty);
            known = round.known;
            if round.taken.is_empty() {
                // Inner pages go before a thread gets no frame at all, and not before that.
                let dirt_goes = !sweep.dirty.is_empty() && !poisoned;
                if keeps_inner && !dirt_goes && !sweep.in_transit {
                    keeps_inner = false;
                    continue;
                }
                break;
            }
            let protected = self.hazards.snapshot();
            sweep.frames.extend(
                round
                    .taken
                    .into_iter()
                    .filter_map(|taken| self.settle(taken, &protected)),
            );
            if !sweep.frames.is_empty() {
                break;
            }
            known = Some(protected);
        }
        sweep.dirty.sort_unstable();
        sweep.dirty.dedup();
        sweep
    }

    /// Step 2 for one page.
    pub(crate) fn settle(&self, taken: Taken<'_>, protected: &Protected) -> Option<Owned<'_>> {
        let (id, frame, dead) = (taken.id(), taken.frame(), taken.is_dead());
        let inner = taken.is_inner();
        let vacated = taken.settle(protected, || self.policy.on_remove(frame, !dead));
        self.parking.wake(id);
        let Some(vacated) = vacated else {
            self.policy.on_hit(frame);
            return None;
        };
        if inner {
            self.inner_left();
        }
        if !dead {
            add(&self.counts.evictions, 1);
        }
        Some(self.frames.own(vacated))
    }

    /// Step 3; whether a page was written. A failure is kept by the disk, and told to whoever writes.
    pub(crate) fn clean(&self, dirty: &[PageId]) -> bool {
        if dirty.is_empty() || self.disk.writable().is_err() {
            return false;
        }
        let mut batch = self.batch();
        batch.mark_runs(dirty);
        batch.write().is_ok_and(|written| written > 0)
    }
}

/// One pass of the policy's.
struct Round<'p> {
    pool: &'p Core,
    want: usize,
    most_dirty: usize,
    /// Inner pages in memory up to which they are kept.
    most_inner: usize,
    known: Option<Protected>,
    /// What is dirty can never go.
    poisoned: bool,
    taken: Vec<Taken<'p>>,
    dirty: Vec<PageId>,
    in_transit: bool,
    writing: bool,
}

impl Candidates for Round<'_> {
    fn wants_more(&self) -> bool {
        // While another thread writes, or nobody can, this one looks on until it finds a clean page.
        let enough_dirt = self.dirty.len() >= self.most_dirty;
        let looks_on = self.taken.is_empty() && (self.poisoned || self.pool.signal.runs());
        self.taken.len() < self.want && (looks_on || !enough_dirt)
    }

    fn take_mark(&mut self, frame: FrameId) -> bool {
        let Occupant::Page(id) = self.pool.frames.occupant(frame) else {
            return false;
        };
        self.pool
            .table
            .get(id)
            .is_some_and(|state| state.take_mark(state.load()))
    }

    fn offer(&mut self, frame: FrameId) -> Answer {
        let id = match self.pool.frames.occupant(frame) {
            Occupant::Page(id) => id,
            Occupant::Withheld => return Answer::Stays,
            Occupant::Nobody => {
                self.in_transit = true; // in some thread's hands, or on the free list again
                return Answer::Stays;
            }
        };
        let state = self
            .pool
            .table
            .get(id)
            .expect("a page in a frame has a state");
        let word = state.load();
        if word.phase() != Phase::Resident || word.frame() != frame || word.is_writing() {
            self.in_transit = true;
            self.writing |= word.is_writing();
        } else if word.is_latched() || self.known.as_ref().is_some_and(|known| known.contains(id)) {
            // Guarded.
        } else if word.is_inner() && !word.is_dead() && self.pool.inner_count() <= self.most_inner {
            return Answer::Kept;
        } else if word.is_takeable() || self.poisoned && word.is_stored() {
            let taken = if word.is_takeable() {
                state.take(word, id)
            } else {
                state.take_stored(word, id)
            };
            match taken {
                Some(taken) => {
                    self.taken.push(taken);
                    return Answer::Goes;
                }
                None => self.in_transit = true, // it has just changed
            }
        } else if self.dirty.len() < self.most_dirty {
            self.dirty.push(id);
        }
        Answer::Stays
    }
}
