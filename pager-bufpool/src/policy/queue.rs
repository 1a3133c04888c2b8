//! Queues of frames, linked through arrays: pushing and removing cost the same wherever a frame is.
//!
//! The arrays begin as zeros, which the operating system hands out when they are first written to: a
//! queue costs memory for the frames that were ever in it.

use crate::word::FrameId;

/// No frame; else its number and one.
const NONE: u32 = 0;

fn frame(link: u32) -> Option<FrameId> {
    link.checked_sub(1).map(FrameId)
}

/// The links of frames. Each frame is in at most one queue.
pub(super) struct Links {
    newer: Vec<u32>,
    older: Vec<u32>,
}

impl Links {
    /// Bytes for each frame.
    pub(super) const BYTES: usize = 8;

    pub(super) fn new(frames: usize) -> Self {
        Links {
            newer: vec![NONE; frames],
            older: vec![NONE; frames],
        }
    }

    /// The frame that came after this one.
    pub(super) fn newer(&self, of: FrameId) -> Option<FrameId> {
        frame(self.newer[of.index()])
    }
}

/// A queue; its links are in [`Links`].
#[derive(Default)]
pub(super) struct Queue {
    newest: u32,
    oldest: u32,
    len: usize,
}

impl Queue {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn oldest(&self) -> Option<FrameId> {
        frame(self.oldest)
    }

    /// Adds a frame that is in no queue.
    pub(super) fn push(&mut self, links: &mut Links, frame: FrameId) {
        let link = frame.0 + 1;
        links.newer[frame.index()] = NONE;
        links.older[frame.index()] = self.newest;
        match self.newest {
            NONE => self.oldest = link,
            newest => links.newer[newest as usize - 1] = link,
        }
        self.newest = link;
        self.len += 1;
    }

    /// Takes a frame out that is in this queue.
    pub(super) fn remove(&mut self, links: &mut Links, frame: FrameId) {
        let (newer, older) = (links.newer[frame.index()], links.older[frame.index()]);
        match newer {
            NONE => self.newest = older,
            newer => links.older[newer as usize - 1] = older,
        }
        match older {
            NONE => self.oldest = newer,
            older => links.newer[older as usize - 1] = newer,
        }
        self.len -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(queue: &Queue, links: &Links) -> Vec<u32> {
        let next = |frame: &FrameId| links.newer(*frame);
        std::iter::successors(queue.oldest(), next)
            .map(|frame| frame.0)
            .collect()
    }

    #[test]
    fn frames_leave_from_anywhere_and_the_order_of_the_others_stays() {
        let (mut queue, mut links) = (Queue::default(), Links::new(5));
        (0..5).for_each(|frame| queue.push(&mut links, FrameId(frame)));
        assert_eq!(order(&queue, &links), [0, 1, 2, 3, 4]);
        for (leaves, left) in [
            (2, vec![0, 1, 3, 4]),
            (0, vec![1, 3, 4]),
            (4, vec![1, 3]),
            (1, vec![3]),
            (3, vec![]),
        ] {
            queue.remove(&mut links, FrameId(leaves));
            assert_eq!(order(&queue, &links), left);
            assert_eq!(queue.len(), left.len());
        }
        queue.push(&mut links, FrameId(2));
        assert_eq!(order(&queue, &links), [2]);
    }
}
