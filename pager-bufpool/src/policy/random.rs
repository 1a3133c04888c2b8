//! Random: the baseline that knows nothing of the past. A frame goes because its number came up.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{Candidates, Replacement};
use crate::word::{FrameId, Note};

pub(super) struct Random {
    state: AtomicU64,
    frames: usize,
}

impl Random {
    pub(super) fn new(frames: usize) -> Self {
        Random {
            state: AtomicU64::new(0),
            frames,
        }
    }

    /// The next number of SplitMix64 (Steele, Lea, Flood, 2014).
    fn draw(&self) -> FrameId {
        let step = 0x9E37_79B9_7F4A_7C15;
        let mut value = self.state.fetch_add(step, Ordering::Relaxed);
        value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        FrameId(((value ^ (value >> 31)) % self.frames as u64) as u32)
    }
}

impl Replacement for Random {
    fn name(&self) -> &'static str {
        "random"
    }

    fn on_insert(&self, _frame: FrameId, _note: Note) {}

    fn on_remove(&self, _frame: FrameId, _evicted: bool) -> Note {
        None
    }

    fn victims(&self, candidates: &mut dyn Candidates) {
        for _ in 0..self.frames {
            if !candidates.wants_more() {
                return;
            }
            candidates.offer(self.draw());
        }
        // Every frame is offered in the end: most cannot go.
        let first = self.draw().index();
        for step in 0..self.frames {
            if !candidates.wants_more() {
                return;
            }
            candidates.offer(FrameId(((first + step) % self.frames) as u32));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testkit::picker;
    use super::*;

    #[test]
    fn every_frame_comes_up_about_as_often_as_the_others() {
        let random = Random::new(16);
        let mut times = [0; 16];
        for _ in 0..16_000 {
            let mut one = picker(1);
            random.victims(&mut one);
            times[one.picked[0] as usize] += 1;
        }
        assert!(
            times.iter().all(|times| (800..1200).contains(times)),
            "{times:?}"
        );
    }
}
