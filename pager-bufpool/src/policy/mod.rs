//! Which page goes when a frame is needed.
//!
//! A policy orders frames; it decides nothing. Whether a frame *can* go (nobody guards it, it is not
//! being read or written) is found out by whoever asks, frame by frame, in the policy's order.

mod clock;
mod lru;

use crate::options::Policy;
use crate::word::FrameId;

/// The order in which frames are given up.
///
/// Methods are called by many threads at once. A frame is known to the policy from `on_insert` to
/// `on_remove`.
pub(crate) trait Replacement: Send + Sync {
    /// The policy's name, for a person.
    fn name(&self) -> &'static str;

    /// Whether every hit must be reported. Otherwise a hit only sets the mark in the page's word,
    /// and only if it is not set.
    fn wants_hits(&self) -> bool;

    /// A page has come into the frame.
    fn on_insert(&self, frame: FrameId);

    /// The page in the frame was used.
    fn on_hit(&self, frame: FrameId);

    /// The page has left the frame.
    fn on_remove(&self, frame: FrameId);

    /// Offers frames, the dearest to keep last, until `candidates` has enough or each frame that
    /// has a page was offered at least once.
    fn victims(&self, candidates: &mut dyn Candidates);
}

/// Who asks a policy for victims.
pub(crate) trait Candidates {
    /// Takes the mark of the page in the frame away; whether it was there.
    fn take_mark(&mut self, frame: FrameId) -> bool;

    /// Considers the frame; whether more are wanted.
    fn offer(&mut self, frame: FrameId) -> bool;
}

/// The policy that the options ask for.
pub(crate) fn new(policy: Policy, frames: usize) -> Box<dyn Replacement> {
    match policy {
        Policy::Clock => Box::new(clock::Clock::new(frames)),
        Policy::Lru => Box::new(lru::Lru::new(frames)),
    }
}

/// Bytes that the policy holds for each frame.
pub(crate) fn overhead_bytes(policy: Policy) -> usize {
    match policy {
        Policy::Clock => 0,
        Policy::Lru => lru::Lru::OVERHEAD_BYTES,
    }
}

#[cfg(test)]
mod testkit {
    use super::*;

    /// Takes a number of frames, all but some.
    pub(super) struct Picker {
        pub(super) marked: Vec<FrameId>,
        pub(super) busy: Vec<FrameId>,
        pub(super) want: usize,
        pub(super) picked: Vec<u32>,
    }

    impl Candidates for Picker {
        fn take_mark(&mut self, frame: FrameId) -> bool {
            let before = self.marked.len();
            self.marked.retain(|&marked| marked != frame);
            self.marked.len() < before
        }

        fn offer(&mut self, frame: FrameId) -> bool {
            if !self.busy.contains(&frame) && !self.picked.contains(&frame.0) {
                self.picked.push(frame.0);
            }
            self.picked.len() < self.want
        }
    }

    pub(super) fn picker(want: usize) -> Picker {
        Picker {
            marked: Vec::new(),
            busy: Vec::new(),
            want,
            picked: Vec::new(),
        }
    }
}
