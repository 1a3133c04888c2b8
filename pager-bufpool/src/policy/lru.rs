//! Exact LRU: the textbook's baseline. Every hit takes a lock and moves a node of a list.

use std::num::NonZeroUsize;

use ::lru::LruCache;
use parking_lot::Mutex;

use super::{Answer, Candidates, Replacement};
use crate::word::{FrameId, Note};

pub(super) struct Lru {
    order: Mutex<LruCache<FrameId, ()>>,
}

impl Lru {
    /// A list node of 24 bytes as the allocator rounds it up, and a slot of a hash table that is
    /// between 7/16 and 7/8 full.
    pub(super) const OVERHEAD_BYTES: usize = 32 + 40;

    pub(super) fn new(frames: usize) -> Self {
        let frames = NonZeroUsize::new(frames).expect("a pool has frames");
        Lru {
            order: Mutex::new(LruCache::new(frames)),
        }
    }
}

impl Replacement for Lru {
    fn name(&self) -> &'static str {
        "LRU"
    }

    fn wants_hits(&self) -> bool {
        true
    }

    fn on_insert(&self, frame: FrameId, _note: Note) {
        self.order.lock().put(frame, ());
    }

    fn on_hit(&self, frame: FrameId) {
        self.order.lock().promote(&frame);
    }

    fn on_remove(&self, frame: FrameId, _evicted: bool) -> Note {
        self.order.lock().pop(&frame);
        None
    }

    fn victims(&self, candidates: &mut dyn Candidates) {
        let mut order = self.order.lock();
        let mut kept = Vec::new();
        for (&frame, ()) in order.iter().rev() {
            if !candidates.wants_more() {
                break;
            }
            if candidates.offer(frame) == Answer::Kept {
                kept.push(frame);
            }
        }
        for frame in kept {
            order.promote(&frame);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testkit::picker;
    use super::*;

    #[test]
    fn the_one_not_used_for_longest_is_offered_first() {
        let lru = Lru::new(4);
        (0..4)
            .map(FrameId)
            .for_each(|frame| lru.on_insert(frame, None));
        lru.on_hit(FrameId(0));
        lru.on_hit(FrameId(2));
        let mut all = picker(4);
        lru.victims(&mut all);
        assert_eq!(all.picked, [1, 3, 0, 2]);
    }

    #[test]
    fn what_is_kept_counts_as_used() {
        let lru = Lru::new(3);
        (0..3)
            .map(FrameId)
            .for_each(|frame| lru.on_insert(frame, None));
        let mut one = picker(1);
        one.kept = vec![FrameId(0)];
        lru.victims(&mut one);
        assert_eq!(one.picked, [1]);
        let mut all = picker(3);
        lru.victims(&mut all);
        assert_eq!(all.picked, [1, 2, 0]);
    }
}
