//! SIEVE: a queue that nobody is moved in, and a hand that goes through it (Zhang, Yang, Yue, Vigfusson,
//! Rashmi, "SIEVE is Simpler than LRU", NSDI 2024).
//!
//! The hand goes from the oldest to the newest, clears marks, and takes what has none; new pages come
//! in at the end that it reaches last, and what survived stays where it is. So new pages are looked at
//! soon, old ones that are used seldom.

use parking_lot::Mutex;

use super::queue::{Links, Queue};
use super::{Candidates, Replacement};
use crate::word::{FrameId, Note};

pub(super) struct Sieve {
    state: Mutex<State>,
}

struct State {
    links: Links,
    queue: Queue,
    /// Where the search goes on; `None`: at the oldest.
    hand: Option<FrameId>,
}

impl Sieve {
    pub(super) const OVERHEAD_BYTES: usize = Links::BYTES;

    pub(super) fn new(frames: usize) -> Self {
        Sieve {
            state: Mutex::new(State {
                links: Links::new(frames),
                queue: Queue::default(),
                hand: None,
            }),
        }
    }
}

impl Replacement for Sieve {
    fn name(&self) -> &'static str {
        "SIEVE"
    }

    fn on_insert(&self, frame: FrameId, _note: Note) {
        let state = &mut *self.state.lock();
        state.queue.push(&mut state.links, frame);
    }

    fn on_remove(&self, frame: FrameId, _evicted: bool) -> Note {
        let state = &mut *self.state.lock();
        if state.hand == Some(frame) {
            state.hand = state.links.newer(frame);
        }
        state.queue.remove(&mut state.links, frame);
        None
    }

    fn victims(&self, candidates: &mut dyn Candidates) {
        let state = &mut *self.state.lock();
        // Twice round: what the first clears, the second offers.
        for _ in 0..2 * state.queue.len() {
            let Some(frame) = state.hand.or(state.queue.oldest()) else {
                return;
            };
            if !candidates.wants_more() {
                return;
            }
            if !candidates.take_mark(frame) {
                candidates.offer(frame);
            }
            state.hand = state.links.newer(frame);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testkit::picker;
    use super::*;

    #[test]
    fn the_hand_goes_on_where_it_stopped_and_new_pages_come_last() {
        let sieve = Sieve::new(5);
        (0..4)
            .map(FrameId)
            .for_each(|frame| sieve.on_insert(frame, None));
        let mut first = picker(1);
        first.marked = vec![FrameId(0)];
        sieve.victims(&mut first);
        assert_eq!(first.picked, [1]);
        sieve.on_remove(FrameId(1), true);
        sieve.on_insert(FrameId(4), None);
        let mut rest = picker(4);
        sieve.victims(&mut rest);
        assert_eq!(
            rest.picked,
            [2, 3, 4, 0],
            "0 keeps its place behind the hand"
        );
    }
}
