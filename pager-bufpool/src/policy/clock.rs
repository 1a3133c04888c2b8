//! CLOCK: one bit for each page, set by a hit, cleared by a hand that goes round (Corbató, 1968).
//!
//! The bit is in the page's word, so that a hit on a page whose bit is set writes nothing. A page
//! comes in with the bit clear: one that is not used again goes when the hand comes by.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::{Candidates, Replacement};
use crate::word::{FrameId, Note};

pub(super) struct Clock {
    hand: AtomicUsize,
    frames: usize,
}

impl Clock {
    pub(super) fn new(frames: usize) -> Self {
        Clock {
            hand: AtomicUsize::new(0),
            frames,
        }
    }

    fn advance(&self) -> FrameId {
        let step = self.hand.fetch_add(1, Ordering::Relaxed);
        FrameId((step % self.frames) as u32)
    }
}

impl Replacement for Clock {
    fn name(&self) -> &'static str {
        "CLOCK"
    }

    fn on_insert(&self, _frame: FrameId, _note: Note) {}

    fn on_remove(&self, _frame: FrameId, _evicted: bool) -> Note {
        None
    }

    fn victims(&self, candidates: &mut dyn Candidates) {
        // One round spares what is marked; after it nothing is, but what was used meanwhile.
        for _ in 0..self.frames {
            if !candidates.wants_more() {
                return;
            }
            let frame = self.advance();
            if !candidates.take_mark(frame) {
                candidates.offer(frame);
            }
        }
        // Every frame is offered in the end, used meanwhile or not.
        for _ in 0..self.frames {
            if !candidates.wants_more() {
                return;
            }
            candidates.offer(self.advance());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testkit::picker;
    use super::*;

    #[test]
    fn the_hand_spares_a_marked_frame_once() {
        let clock = Clock::new(4);
        let mut first = picker(2);
        first.marked = vec![FrameId(0), FrameId(2)];
        clock.victims(&mut first);
        assert_eq!(first.picked, [1, 3]);
        assert!(first.marked.is_empty(), "the marks are used up");
        let mut second = picker(1);
        clock.victims(&mut second);
        assert_eq!(second.picked, [0]);
    }
}
