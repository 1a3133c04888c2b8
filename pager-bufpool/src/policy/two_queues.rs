//! A queue for what is new, a queue for what has proved itself, and a memory of what left the first:
//! 2Q and S3-FIFO, which differ in little else than numbers.
//!
//! A page comes into the *young* queue, which has a small share of the frames. Unless it is used again
//! it leaves by the other end soon, and so a scan sweeps through the young queue alone. What comes back
//! soon after goes into the *main* queue, a FIFO in which marked pages get another round.
//!
//! | | 2Q | S3-FIFO |
//! |---|---|---|
//! | source | Johnson, Shasha, VLDB 1994, the full version | Yang, Zhang, Qiu, Yue, Rashmi, SOSP 2023 |
//! | share of the young queue (`A1in`; `S`) | a quarter | a tenth |
//! | remembered after it (`A1out`; `G`) | as many as half the frames | as many as main has frames |
//! | used again while young | means nothing: it may be one use, spread | moves to main |
//! | the main queue (`Am`; `M`) | LRU there, a FIFO with marks here, so that hits are cheap | FIFO with marks of two bits there, one here |
//!
//! What left is remembered by a note in the page's own word: how many had left the young queue by then.
//! So the memory of what left costs none, and a page that comes back leaves its place in it empty.

use std::num::NonZeroU32;

use parking_lot::Mutex;

use super::queue::{Links, Queue};
use super::{Answer, Candidates, Replacement};
use crate::word::{FrameId, Note};

/// What tells the two apart.
#[derive(Clone, Copy)]
pub(super) struct Rules {
    name: &'static str,
    /// The young queue gives frames up while it has more than this share of them.
    young_percent: usize,
    /// Pages that left the young queue and are remembered, as a share of the frames.
    left_percent: usize,
    /// Whether a page that is used again while young moves to the main queue.
    promotes: bool,
}

pub(super) const TWO_Q: Rules = Rules {
    name: "2Q",
    young_percent: 25,
    left_percent: 50,
    promotes: false,
};

pub(super) const S3_FIFO: Rules = Rules {
    name: "S3-FIFO",
    young_percent: 10,
    left_percent: 90,
    promotes: true,
};

/// Which queue a frame is in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Nowhere,
    Young,
    Main,
}

pub(super) struct TwoQueues {
    rules: Rules,
    state: Mutex<State>,
}

struct State {
    links: Links,
    places: Vec<Place>,
    young: Queue,
    main: Queue,
    /// Pages that have left the young queue, evicted, so far; it wraps round.
    left: u32,
}

impl State {
    fn queue(&mut self, place: Place) -> (&mut Queue, &mut Links) {
        match place {
            Place::Young => (&mut self.young, &mut self.links),
            Place::Main => (&mut self.main, &mut self.links),
            Place::Nowhere => unreachable!("no queue"),
        }
    }

    fn enter(&mut self, frame: FrameId, place: Place) {
        let (queue, links) = self.queue(place);
        queue.push(links, frame);
        self.places[frame.index()] = place;
    }

    fn leave(&mut self, frame: FrameId) -> Place {
        let place = std::mem::replace(&mut self.places[frame.index()], Place::Nowhere);
        assert!(place != Place::Nowhere, "{frame:?} is in no queue");
        let (queue, links) = self.queue(place);
        queue.remove(links, frame);
        place
    }
}

impl TwoQueues {
    pub(super) const OVERHEAD_BYTES: usize = Links::BYTES + size_of::<Place>();

    pub(super) fn new(rules: Rules, frames: usize) -> Self {
        TwoQueues {
            rules,
            state: Mutex::new(State {
                links: Links::new(frames),
                places: vec![Place::Nowhere; frames],
                young: Queue::default(),
                main: Queue::default(),
                left: 0,
            }),
        }
    }
}

impl Replacement for TwoQueues {
    fn name(&self) -> &'static str {
        self.rules.name
    }

    fn on_insert(&self, frame: FrameId, note: Note) {
        let state = &mut *self.state.lock();
        // Of the frames in use now: a pool changes its size.
        let frames = state.young.len() + state.main.len() + 1;
        let remembered = frames * self.rules.left_percent / 100;
        let came_back = note.is_some_and(|note| {
            let since = state.left.wrapping_sub(note.get());
            (since as usize) < remembered
        });
        state.enter(frame, if came_back { Place::Main } else { Place::Young });
    }

    fn on_remove(&self, frame: FrameId, evicted: bool) -> Note {
        let state = &mut *self.state.lock();
        if state.leave(frame) == Place::Main || !evicted {
            return None;
        }
        // 0 is no note; the one page in four billion whose turn it is takes its neighbour's.
        state.left = state.left.wrapping_add(1).max(1);
        NonZeroU32::new(state.left)
    }

    fn victims(&self, candidates: &mut dyn Candidates) {
        let state = &mut *self.state.lock();
        let mut young = Search::new(state.young.len());
        // Each frame there is given another round at most once, and offered after that.
        let mut main = Search::new(2 * state.main.len());
        while candidates.wants_more() {
            let (young_len, main_len) =
                (state.young.len() - young.gone, state.main.len() - main.gone);
            let is_long = young_len * 100 > (young_len + main_len) * self.rules.young_percent;
            let next_young = young.next(&state.young, &state.links);
            let next_main = main.next(&state.main, &state.links);
            let (frame, place, search) = match (next_young, next_main) {
                (Some(frame), None) => (frame, Place::Young, &mut young),
                (Some(frame), Some(_)) if is_long => (frame, Place::Young, &mut young),
                (_, Some(frame)) => (frame, Place::Main, &mut main),
                (None, None) => return,
            };
            let heeded = place == Place::Main || self.rules.promotes;
            let answer = if heeded && candidates.take_mark(frame) {
                Answer::Kept
            } else {
                candidates.offer(frame)
            };
            search.saw(frame, answer);
            if answer == Answer::Kept {
                state.leave(frame);
                state.enter(frame, Place::Main);
                main.steps_left += usize::from(place == Place::Young);
            }
        }
    }
}

/// A way through a queue from its oldest frame on. What is given up meanwhile stays in the queue until
/// it is gone; what is kept moves to the queue's other end, and is met again.
struct Search {
    last: Option<FrameId>,
    gone: usize,
    steps_left: usize,
}

impl Search {
    fn new(steps: usize) -> Self {
        Search {
            last: None,
            gone: 0,
            steps_left: steps,
        }
    }

    fn next(&self, queue: &Queue, links: &Links) -> Option<FrameId> {
        let next = match self.last {
            Some(last) => links.newer(last),
            None => queue.oldest(),
        };
        next.filter(|_| self.steps_left > 0)
    }

    fn saw(&mut self, frame: FrameId, answer: Answer) {
        self.steps_left -= 1;
        self.gone += usize::from(answer == Answer::Goes);
        if answer != Answer::Kept {
            self.last = Some(frame);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testkit::picker;
    use super::*;

    fn filled(rules: Rules, frames: u32) -> TwoQueues {
        let policy = TwoQueues::new(rules, frames as usize);
        (0..frames)
            .map(FrameId)
            .for_each(|frame| policy.on_insert(frame, None));
        policy
    }

    /// Evicts one; which, and what is noted of it.
    fn evict(policy: &TwoQueues, marked: &[u32]) -> (u32, Note) {
        let mut one = picker(1);
        one.marked = marked.iter().copied().map(FrameId).collect();
        policy.victims(&mut one);
        let [frame] = one.picked[..] else {
            panic!("one frame was wanted: {:?}", one.picked)
        };
        (frame, policy.on_remove(FrameId(frame), true))
    }

    #[test]
    fn what_comes_back_soon_after_it_left_the_young_queue_outlives_what_is_new() {
        for rules in [TWO_Q, S3_FIFO] {
            let policy = filled(rules, 10);
            let (frame, note) = evict(&policy, &[]);
            policy.on_insert(FrameId(frame), note);
            for _ in 0..20 {
                let (gone, _) = evict(&policy, &[]);
                assert_ne!(gone, frame, "{}", rules.name);
                policy.on_insert(FrameId(gone), None);
            }
        }
    }

    #[test]
    fn what_comes_back_late_is_new() {
        for rules in [TWO_Q, S3_FIFO] {
            let policy = filled(rules, 10);
            let (frame, note) = evict(&policy, &[]);
            policy.on_insert(FrameId(frame), None);
            let remembered = 10 * rules.left_percent / 100;
            for _ in 1..remembered {
                let (gone, _) = evict(&policy, &[]);
                policy.on_insert(FrameId(gone), None);
            }
            assert!(policy.state.lock().main.len() == 0);
            let (gone, _) = evict(&policy, &[]);
            policy.on_insert(FrameId(gone), note);
            assert_eq!(
                policy.state.lock().main.len(),
                0,
                "{}: one too late",
                rules.name
            );
        }
    }

    #[test]
    fn a_second_use_while_young_counts_in_one_and_not_in_the_other() {
        let s3 = filled(S3_FIFO, 4);
        assert_eq!(evict(&s3, &[0, 1]).0, 2);
        assert_eq!(s3.state.lock().main.len(), 2);
        let two_q = filled(TWO_Q, 4);
        assert_eq!(evict(&two_q, &[0, 1]).0, 0);
        assert_eq!(two_q.state.lock().main.len(), 0);
    }

    #[test]
    fn pages_that_end_their_lives_are_not_noted() {
        let policy = filled(S3_FIFO, 4);
        assert_eq!(policy.on_remove(FrameId(0), false), None);
        assert!(policy.on_remove(FrameId(1), true).is_some());
    }
}
