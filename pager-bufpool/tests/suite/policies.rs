//! The policies against the textbooks: each is written down here once more, as simply as it goes, and
//! has to keep the same pages at every step.

use std::collections::{HashMap, HashSet, VecDeque};

use bifolio_pager::PageId;
use bifolio_pager_bufpool::trace::Event;
use bifolio_pager_bufpool::{Policy, Simulation};

use crate::support::Dice;

/// A cache in the form that papers give them: one access after the other, whole pages in lists.
trait Textbook {
    /// Whether the page was there; afterwards it is.
    fn access(&mut self, page: u64) -> bool;
}

struct Lru {
    size: usize,
    /// The oldest first.
    order: VecDeque<u64>,
}

impl Textbook for Lru {
    fn access(&mut self, page: u64) -> bool {
        let there = self.order.contains(&page);
        self.order.retain(|&other| other != page);
        if self.order.len() == self.size {
            self.order.pop_front();
        }
        self.order.push_back(page);
        there
    }
}

/// As in a textbook on operating systems: a circle of frames, a bit for each, a hand.
struct Clock {
    circle: Vec<Option<(u64, bool)>>,
    hand: usize,
}

impl Textbook for Clock {
    fn access(&mut self, page: u64) -> bool {
        for frame in self.circle.iter_mut().flatten() {
            if frame.0 == page {
                frame.1 = true;
                return true;
            }
        }
        // Frames fill up in order, before the hand moves for the first time.
        if let Some(empty) = self.circle.iter_mut().find(|frame| frame.is_none()) {
            *empty = Some((page, false));
            return false;
        }
        while let Some((_, bit @ true)) = &mut self.circle[self.hand] {
            *bit = false;
            self.hand = (self.hand + 1) % self.circle.len();
        }
        self.circle[self.hand] = Some((page, false));
        self.hand = (self.hand + 1) % self.circle.len();
        false
    }
}

/// Algorithm 1 of the SIEVE paper; the newest page is at the end here.
struct Sieve {
    size: usize,
    queue: Vec<(u64, bool)>,
    hand: Option<u64>,
}

impl Textbook for Sieve {
    fn access(&mut self, page: u64) -> bool {
        if let Some(entry) = self.queue.iter_mut().find(|entry| entry.0 == page) {
            entry.1 = true;
            return true;
        }
        if self.queue.len() == self.size {
            let place = |page| self.queue.iter().position(|entry| entry.0 == page);
            let mut index = self.hand.and_then(place).unwrap_or(0);
            while self.queue[index].1 {
                self.queue[index].1 = false;
                index = (index + 1) % self.queue.len();
            }
            self.queue.remove(index);
            self.hand = self.queue.get(index).map(|entry| entry.0);
        }
        self.queue.push((page, false));
        false
    }
}

/// 2Q, full version, and S3-FIFO: figure and algorithm of the papers, with one bit for a page in the
/// main queue.
struct TwoQueues {
    size: usize,
    young_most: usize,
    left_most: usize,
    promotes: bool,
    young: VecDeque<u64>,
    main: VecDeque<u64>,
    left: VecDeque<u64>,
    back: HashSet<u64>,
    marked: HashSet<u64>,
}

impl TwoQueues {
    fn two_q(size: usize) -> Self {
        Self::new(size, size / 4, size / 2, false)
    }

    fn s3_fifo(size: usize) -> Self {
        Self::new(size, size / 10, size * 9 / 10, true)
    }

    fn new(size: usize, young_most: usize, left_most: usize, promotes: bool) -> Self {
        TwoQueues {
            size,
            young_most,
            left_most,
            promotes,
            young: VecDeque::new(),
            main: VecDeque::new(),
            left: VecDeque::new(),
            back: HashSet::new(),
            marked: HashSet::new(),
        }
    }

    fn evict(&mut self) {
        loop {
            let from_young = self.young.len() > self.young_most || self.main.is_empty();
            if from_young {
                let page = self.young.pop_front().unwrap();
                if self.promotes && self.marked.remove(&page) {
                    self.main.push_back(page);
                    continue;
                }
                self.marked.remove(&page);
                // A page that came back leaves its place in the list empty: its entry stays there,
                // and says nothing any more.
                self.left.push_back(page);
                self.back.remove(&page);
                if self.left.len() > self.left_most {
                    self.left.pop_front();
                }
            } else {
                let page = self.main.pop_front().unwrap();
                if self.marked.remove(&page) {
                    self.main.push_back(page);
                    continue;
                }
            }
            return;
        }
    }
}

impl Textbook for TwoQueues {
    fn access(&mut self, page: u64) -> bool {
        if self.young.contains(&page) || self.main.contains(&page) {
            self.marked.insert(page);
            return true;
        }
        if self.young.len() + self.main.len() == self.size {
            // The list of those that left is looked at after room was made, as a page that is
            // loaded asks when it has its frame.
            self.evict();
        }
        if self.left.contains(&page) && self.back.insert(page) {
            self.main.push_back(page);
        } else {
            self.young.push_back(page);
        }
        false
    }
}

fn textbook(policy: Policy, size: usize) -> Option<Box<dyn Textbook>> {
    Some(match policy {
        Policy::Lru => Box::new(Lru {
            size,
            order: VecDeque::new(),
        }),
        Policy::Clock => Box::new(Clock {
            circle: vec![None; size],
            hand: 0,
        }),
        Policy::Sieve => Box::new(Sieve {
            size,
            queue: Vec::new(),
            hand: None,
        }),
        Policy::TwoQ => Box::new(TwoQueues::two_q(size)),
        Policy::S3Fifo => Box::new(TwoQueues::s3_fifo(size)),
        _ => return None,
    })
}

/// Pages by a rough power law, with scans and loops in between.
fn accesses(seed: u64, length: usize, pages: u64) -> Vec<u64> {
    let mut dice = Dice(seed);
    let mut accesses = Vec::new();
    while accesses.len() < length {
        match dice.roll(40) {
            0 => accesses.extend(0..pages),
            1 => (0..3).for_each(|_| accesses.extend(0..pages / 3)),
            _ => {
                let below = dice.roll(pages) + 1;
                accesses.push(dice.roll(below));
            }
        }
    }
    accesses
}

#[test]
fn each_policy_keeps_what_its_textbook_keeps_at_every_step() {
    for (seed, size, pages) in [(1, 20, 60), (2, 20, 25), (3, 40, 400), (4, 100, 300)] {
        println!("seed {seed}");
        for policy in Policy::ALL {
            let Some(mut textbook) = textbook(policy, size) else {
                continue;
            };
            let mut simulation = Simulation::new(policy, size);
            for (step, &page) in accesses(seed, 8000, pages).iter().enumerate() {
                let expected = textbook.access(page);
                let found = simulation.step(Event::read(PageId::new(page)));
                assert_eq!(found, expected, "{policy}, step {step}, page {page}");
            }
        }
    }
}

#[test]
fn random_eviction_hits_as_often_as_its_frames_are_a_share_of_the_pages() {
    let mut simulation = Simulation::new(Policy::Random, 100);
    let mut dice = Dice(5);
    for _ in 0..50_000 {
        simulation.step(Event::read(PageId::new(dice.roll(400))));
    }
    let ratio = simulation.tally().hit_ratio();
    assert!((0.24..0.26).contains(&ratio), "{ratio}");
}

#[test]
fn inner_pages_stay_under_every_policy_until_they_are_too_many() {
    let inner = |number| Event {
        inner: true,
        ..Event::read(PageId::new(number))
    };
    for policy in Policy::ALL {
        let mut simulation = Simulation::new(policy, 40);
        for page in 0..10 {
            simulation.step(inner(page));
        }
        for page in 100..2000 {
            simulation.step(Event::read(PageId::new(page)));
        }
        let stayed = (0..10).filter(|&page| simulation.holds(PageId::new(page)));
        assert_eq!(stayed.count(), 10, "{policy}: a quarter of the frames");
        for page in 0..30 {
            simulation.step(inner(page));
        }
        for page in 100..2000 {
            simulation.step(Event::read(PageId::new(page)));
        }
        let stayed = (0..30).filter(|&page| simulation.holds(PageId::new(page)));
        assert!(
            stayed.count() <= 10,
            "{policy}: the pool is not filled with them"
        );
    }
}

#[test]
fn pages_that_end_their_lives_free_their_frames() {
    use bifolio_pager_bufpool::trace::Access;
    for policy in Policy::ALL {
        let mut simulation = Simulation::new(policy, 10);
        let mut held = HashMap::new();
        for round in 0..50u64 {
            for access in [Access::Create, Access::Read, Access::Ahead, Access::Discard] {
                let page = PageId::new(round % 7);
                simulation.step(Event {
                    access,
                    page,
                    inner: false,
                });
                held.insert(page, access);
            }
        }
        let tally = simulation.tally();
        assert_eq!((tally.reads, tally.loads), (50, 0), "{policy}");
        assert!(held.keys().all(|&page| !simulation.holds(page)));
    }
}
