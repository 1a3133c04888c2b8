//! Bringing pages in: misses and reading ahead.
//!
//! Whoever moves a page from Absent to Loading reads it; all others wait for him, so that one miss is
//! one read however many want the page. He either publishes the page or puts the state back, whatever
//! happens ([`Filling`]); a waiter then makes its own attempt and gets its own error.

use std::io;
use std::thread;

use bifolio_pager::page::SELF_REF;
use bifolio_pager::{PageId, PageRef, Result, Standing};

use crate::frames::{Held, Occupant, Owned};
use crate::io::Arrived;
use crate::pool::{Core, is_inner};
use crate::tally::add;
use crate::trace::Access;
use crate::word::{ExclusiveHold, Loader, PageState, Phase, Word};

/// The Loading state of a page, in the hands of the one who will end it.
struct Filling<'p> {
    pool: &'p Core,
    id: PageId,
    state: &'p PageState,
    /// What to go back to, where that is not what Loading itself says.
    before: Option<Word>,
    done: bool,
}

impl<'p> Filling<'p> {
    fn new(pool: &'p Core, id: PageId, state: &'p PageState) -> Self {
        Filling {
            pool,
            id,
            state,
            before: None,
            done: false,
        }
    }

    /// The page is in the frame.
    fn publish(mut self, frame: Owned<'p>) {
        let inner = is_inner(frame.image());
        if inner {
            self.pool.inner_came(); // first: once published it can be evicted
        }
        self.state.publish(self.hand_over(frame), inner);
    }

    /// A new page is in the frame.
    fn publish_created(mut self, frame: Owned<'p>) -> ExclusiveHold<'p> {
        self.state.publish_created(self.hand_over(frame))
    }

    fn hand_over(&mut self, frame: Owned<'p>) -> crate::word::FrameId {
        self.done = true;
        frame.occupy(self.id);
        // Before it is published: afterwards it could be evicted first.
        let note = self.state.load().note();
        self.pool.policy.on_insert(frame.frame(), note);
        frame.into_word()
    }
}

impl Drop for Filling<'_> {
    fn drop(&mut self) {
        match self.before {
            _ if self.done => {}
            None => self.state.abandon(),
            Some(before) => self.state.abandon_create(before),
        }
        self.pool.parking.wake(self.id);
        self.pool.frames.shortage.relieve();
    }
}

impl Core {
    /// One attempt to bring an absent page in; nothing if somebody else was first.
    pub(crate) fn load(&self, id: PageId, state: &PageState, seen: Word) -> Result<()> {
        if !state.begin_load(seen, Loader::Thread) {
            return Ok(());
        }
        let filling = Filling::new(self, id, state);
        let mut frame = self.frame()?;
        self.disk.read_page(id, frame.image_mut())?;
        add(&self.counts.pages_read, 1);
        self.verify(id, &frame, seen.stored_standing())?;
        filling.publish(frame);
        Ok(())
    }

    fn verify(&self, id: PageId, frame: &Owned<'_>, standing: Standing) -> Result<()> {
        add(&self.counts.pages_verified, 1);
        self.geometry.verify_image(frame.image(), id, standing)
    }

    /// One attempt to begin a page's life in `spare`, or in any frame; nothing if the state is no
    /// longer `seen`.
    pub(crate) fn begin_life<'p>(
        &'p self,
        at: PageRef,
        state: &'p PageState,
        seen: Word,
        spare: &mut Option<Owned<'p>>,
    ) -> Result<Option<Held<'p, ExclusiveHold<'p>>>> {
        if !state.begin_create(seen) {
            return Ok(None);
        }
        let mut filling = Filling::new(self, at.id, state);
        filling.before = Some(seen);
        let mut frame = match spare.take() {
            Some(frame) => frame,
            None => self.frame()?,
        };
        let image = frame.image_mut();
        image.fill(0);
        image[SELF_REF].copy_from_slice(&at.encode());
        add(&self.counts.pages_created, 1);
        self.record(Access::Create, at.id);
        Ok(Some(self.frames.hold(filling.publish_created(frame))))
    }

    /// Waits until somebody's load of the page has ended, well or not.
    pub(crate) fn wait_loaded(&self, id: PageId, state: &PageState) {
        let word = state.load();
        if !word.is_async() {
            let loading = |word: Word| word.phase() == Phase::Loading && !word.is_async();
            return self.parking.wait_while(id, state, loading);
        }
        let in_flight = || {
            let word = state.load();
            word.phase() == Phase::Loading && word.is_async()
        };
        self.reap(&in_flight);
        if in_flight() {
            // Between its mark and its start, in another thread's `prefetch`.
            thread::yield_now();
        }
    }

    /// Takes in the flights that have ended, and waits for further ones while `more` says so.
    pub(crate) fn reap(&self, more: &dyn Fn() -> bool) {
        self.disk
            .io
            .reap(more, &mut |arrived, result| self.arrived(arrived, result));
    }

    fn arrived(&self, arrived: Arrived, result: io::Result<usize>) {
        let frame = self.frames.land(arrived);
        let Occupant::Page(id) = self.frames.occupant(frame.frame()) else {
            unreachable!("a frame takes off with its page's number");
        };
        let state = self.table.get(id).expect("a page in flight has a state");
        let filling = Filling::new(self, id, state);
        match result {
            Ok(read) if read == self.geometry.page_size.bytes() => {
                add(&self.counts.pages_read, 1);
                let standing = state.load().stored_standing();
                if self.verify(id, &frame, standing).is_ok() {
                    filling.publish(frame);
                }
            }
            // Left to the reader, whose own attempt will tell what is wrong.
            Ok(_) | Err(_) => {}
        }
    }

    /// Starts reading what is absent of `pages`, as far as frames can be had without waiting.
    pub(crate) fn read_ahead(&self, pages: &[PageRef]) {
        let mut absent: Vec<_> = pages
            .iter()
            .filter_map(|at| Some((at.id, self.readable_state(at.id)?)))
            .filter(|(_, state)| {
                let word = state.load();
                word.phase() == Phase::Absent && !word.is_dead()
            })
            .collect();
        if absent.is_empty() {
            return;
        }
        if self.disk.io.room() == 0 && self.disk.io.in_flight() == 0 {
            return self.announce(absent.into_iter().map(|(id, _)| id).collect());
        }
        self.reap(&|| false);
        // A quarter, so that what is on its way leaves a small pool room to work.
        let most = (self.frames.usable() / 4).saturating_sub(self.disk.io.in_flight());
        let want = absent.len().min(most).min(self.disk.io.room());
        let mut frames = self.frames_at_hand(want);
        // The nearest, if not all can be had; and neighbours in the file to neighbours in memory.
        absent.truncate(frames.len());
        absent.sort_unstable_by_key(|&(id, _)| id);
        frames.sort_unstable_by_key(|frame| frame.frame().0);
        let mut frames = frames.into_iter();
        let mut started = Vec::with_capacity(want);
        for (id, state) in absent {
            let Some(frame) = frames.next() else { break };
            let seen = state.load();
            if state.begin_load(seen, Loader::Ring) {
                frame.occupy(id);
                self.record(Access::Ahead, id);
                started.push((self.geometry.page_size.offset(id), frame));
            }
            // Else the frame goes back to the free list.
        }
        for refused in self.disk.io.start(started) {
            let Occupant::Page(id) = self.frames.occupant(refused.frame()) else {
                unreachable!("it was occupied above");
            };
            let state = self.table.get(id).expect("its state was changed above");
            drop(Filling::new(self, id, state));
        }
    }

    /// Tells a backend without flights what will be read, neighbours as one.
    fn announce(&self, mut pages: Vec<PageId>) {
        pages.sort_unstable();
        let size = self.geometry.page_size;
        for run in pages.chunk_by(|left, right| left.get() + 1 == right.get()) {
            let len = (run.len() * size.bytes()) as u64;
            self.disk.io.will_need(size.offset(run[0]), len);
        }
    }
}
