//! Which page goes when a frame is needed.
//!
//! A policy orders frames; it decides nothing. Whether a frame *can* go (nobody guards it, it is not
//! being read or written) is found out by whoever asks, frame by frame, in the policy's order.
//!
//! What all policies have in common is decided outside of them: the first use of a page is what it was
//! brought in for and sets no mark (`word.rs`), and pages that lead to others are kept before all
//! others, up to a share of the frames ([`most_inner`]).

mod clock;
mod lru;
mod queue;
mod random;
mod sieve;
mod two_queues;

use crate::options::Policy;
use crate::word::{FrameId, Note};

/// The order in which frames are given up.
///
/// Methods are called by many threads at once, `victims` by one at a time. A frame is known to the
/// policy from `on_insert` to `on_remove`.
pub(crate) trait Replacement: Send + Sync {
    /// The policy's name, for a person.
    fn name(&self) -> &'static str;

    /// Whether every hit must be reported. Otherwise a hit only sets the mark in the page's word,
    /// and only if it is not set.
    fn wants_hits(&self) -> bool {
        false
    }

    /// A page has come into the frame. `note`: what `on_remove` said of it when it last left.
    fn on_insert(&self, frame: FrameId, note: Note);

    /// The page in the frame was used.
    fn on_hit(&self, _frame: FrameId) {}

    /// The page has left the frame: evicted, or else free. What to note of it.
    fn on_remove(&self, frame: FrameId, evicted: bool) -> Note;

    /// Offers frames, the dearest to keep last, until `candidates` has enough or each frame that
    /// has a page was offered at least once.
    fn victims(&self, candidates: &mut dyn Candidates);
}

/// What becomes of a frame that was offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It is on its way out; `on_remove` follows, unless its page turns out to be guarded.
    Goes,
    /// It cannot go now: it stays where it is, to be offered again.
    Stays,
    /// It is to be kept: to be treated as if it had been used.
    Kept,
}

/// Who asks a policy for victims.
pub(crate) trait Candidates {
    /// Whether more frames are wanted.
    fn wants_more(&self) -> bool;

    /// Takes the mark of the page in the frame away; whether it was there.
    fn take_mark(&mut self, frame: FrameId) -> bool;

    /// Considers the frame.
    fn offer(&mut self, frame: FrameId) -> Answer;
}

/// The policy that the options ask for, over at most `frames` frames.
pub(crate) fn new(policy: Policy, frames: usize) -> Box<dyn Replacement> {
    match policy {
        Policy::Clock => Box::new(clock::Clock::new(frames)),
        Policy::Lru => Box::new(lru::Lru::new(frames)),
        Policy::Random => Box::new(random::Random::new(frames)),
        Policy::Sieve => Box::new(sieve::Sieve::new(frames)),
        Policy::TwoQ => Box::new(two_queues::TwoQueues::new(two_queues::TWO_Q, frames)),
        Policy::S3Fifo => Box::new(two_queues::TwoQueues::new(two_queues::S3_FIFO, frames)),
    }
}

/// Bytes that the policy holds for each frame.
pub(crate) fn overhead_bytes(policy: Policy) -> usize {
    match policy {
        Policy::Clock | Policy::Random => 0,
        Policy::Lru => lru::Lru::OVERHEAD_BYTES,
        Policy::Sieve => sieve::Sieve::OVERHEAD_BYTES,
        Policy::TwoQ | Policy::S3Fifo => two_queues::TwoQueues::OVERHEAD_BYTES,
    }
}

/// Frames to free at once in a pool of `frames` frames, so that what one eviction costs is shared.
pub(crate) fn eviction_batch(frames: usize) -> usize {
    (frames / 64).clamp(1, 64)
}

/// The most pages leading to others that are kept for that in a pool of `frames` frames. A tree has a
/// hundredth as many of them as leaves, so this binds where the file is 25 times the pool, or damaged.
pub(crate) fn most_inner(frames: usize) -> usize {
    frames / 4
}

#[cfg(test)]
mod testkit {
    use super::*;

    /// Takes a number of frames, all but some.
    pub(super) struct Picker {
        pub(super) marked: Vec<FrameId>,
        pub(super) busy: Vec<FrameId>,
        pub(super) kept: Vec<FrameId>,
        pub(super) want: usize,
        pub(super) picked: Vec<u32>,
    }

    impl Candidates for Picker {
        fn wants_more(&self) -> bool {
            self.picked.len() < self.want
        }

        fn take_mark(&mut self, frame: FrameId) -> bool {
            let before = self.marked.len();
            self.marked.retain(|&marked| marked != frame);
            self.marked.len() < before
        }

        fn offer(&mut self, frame: FrameId) -> Answer {
            if self.kept.contains(&frame) {
                return Answer::Kept;
            }
            if self.busy.contains(&frame) || self.picked.contains(&frame.0) {
                return Answer::Stays;
            }
            self.picked.push(frame.0);
            Answer::Goes
        }
    }

    pub(super) fn picker(want: usize) -> Picker {
        Picker {
            marked: Vec::new(),
            busy: Vec::new(),
            kept: Vec::new(),
            want,
            picked: Vec::new(),
        }
    }

    #[test]
    fn every_policy_offers_every_frame_in_the_end_and_passes_over_what_cannot_go() {
        for policy in Policy::ALL {
            let replacement = new(policy, 20);
            for frame in (0..20).map(FrameId) {
                replacement.on_insert(frame, None);
            }
            let mut all = picker(20);
            all.marked = (0..20).step_by(2).map(FrameId).collect();
            all.busy = vec![FrameId(3)];
            all.kept = vec![FrameId(4), FrameId(5)];
            replacement.victims(&mut all);
            all.picked.sort_unstable();
            let expected: Vec<_> = (0..20).filter(|frame| !(3..6).contains(frame)).collect();
            assert_eq!(all.picked, expected, "{policy}");
        }
    }

    #[test]
    fn no_policy_searches_for_ever_where_nothing_can_go() {
        for policy in Policy::ALL {
            let replacement = new(policy, 12);
            for frame in (0..12).map(FrameId) {
                replacement.on_insert(frame, None);
            }
            for kept in [0, 6, 12] {
                let mut none = picker(1);
                none.kept = (0..kept).map(FrameId).collect();
                none.busy = (kept..12).map(FrameId).collect();
                replacement.victims(&mut none);
                assert!(none.picked.is_empty(), "{policy}");
            }
        }
    }

    #[test]
    fn no_policy_offers_a_frame_whose_page_has_left() {
        // CLOCK and random choose among all frames; whoever asks sees which of them are empty.
        for policy in [Policy::Lru, Policy::Sieve, Policy::TwoQ, Policy::S3Fifo] {
            let replacement = new(policy, 12);
            for frame in (0..12).map(FrameId) {
                replacement.on_insert(frame, None);
            }
            for frame in (0..12).step_by(3).map(FrameId) {
                replacement.on_remove(frame, false);
            }
            let mut all = picker(12);
            replacement.victims(&mut all);
            assert_eq!(all.picked.len(), 8, "{policy}");
            assert!(all.picked.iter().all(|frame| frame % 3 != 0), "{policy}");
        }
    }
}
