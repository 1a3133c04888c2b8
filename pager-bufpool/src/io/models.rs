//! How what was read ahead gets from the reader's hands into those of whoever waits for it, under every
//! execution that the memory model allows. `--cfg loom`, see `bifolio_pager::sync`.
//!
//! The device is a count of reads; for the memory of a frame stands a loom `UnsafeCell`, as in the
//! pool's models. What a thread does with a flight is what `load.rs` does.

use std::io;
use std::sync::Arc;

use bifolio_pager::hazard::Hazards;
use bifolio_pager::sync::atomic::{AtomicUsize, Ordering};
use bifolio_pager::sync::loom::cell::UnsafeCell;
use bifolio_pager::sync::{explore, thread};
use bifolio_pager::{PageId, PageSize};

use super::Arrived;
use super::flight::Formation;
use super::readers::{Device, Readers};
use crate::frames::{Frames, Occupant};
use crate::word::{FrameId, Loader, PageState, Phase, Word};

const PAGES: [PageId; 2] = [PageId::new(40), PageId::new(41)];

// SAFETY: loom runs one thread at a time, and fails the model where accesses to a cell are not ordered.
unsafe impl Sync for Modelled {}

/// Two frames' memory, and how often it was read into.
#[derive(Default)]
struct Modelled {
    memory: [UnsafeCell<u64>; 2],
    reads: AtomicUsize,
    fails: bool,
}

impl Device for Modelled {
    fn read(&self, formation: &mut Formation) -> io::Result<usize> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        let mut read = 0;
        for flight in &mut formation.flights {
            self.memory[flight.frame().index()].with_mut(|_| ());
            read += flight.memory().len();
        }
        match self.fails {
            true => Err(io::ErrorKind::TimedOut.into()),
            false => Ok(read),
        }
    }
}

/// Two absent pages, and a frame for each. Its readers are joined, and with them every flight, before
/// the frames go.
struct Pool {
    readers: Readers<Modelled>,
    device: Arc<Modelled>,
    frames: Frames,
    states: [PageState; 2],
    hazards: Hazards,
}

impl Pool {
    fn new(fails: bool) -> Arc<Self> {
        let device = Arc::new(Modelled {
            fails,
            ..Modelled::default()
        });
        Arc::new(Pool {
            readers: Readers::new(Arc::clone(&device)),
            device,
            frames: Frames::new(2, PageSize::DEFAULT).unwrap(),
            states: Default::default(),
            hazards: Hazards::new(),
        })
    }

    /// Starts reading the pages, apart from each other in the file.
    fn prefetch(&self, pages: &[usize]) {
        for &page in pages {
            let state = &self.states[page];
            let frame = self.frames.pop().expect("one for each page");
            if state.begin_load(state.load(), Loader::Ring) {
                frame.occupy(PAGES[page]);
                let back = self.readers.start(vec![((page as u64) << 20, frame)]);
                assert!(back.is_empty(), "there is room");
            }
        }
    }

    fn arrived(&self, arrived: Arrived, result: io::Result<usize>) {
        let frame = self.frames.land(arrived);
        let Occupant::Page(id) = self.frames.occupant(frame.frame()) else {
            unreachable!("it was occupied")
        };
        let state = &self.states[usize::from(id == PAGES[1])];
        match result {
            Ok(read) => {
                assert_eq!(read, PageSize::DEFAULT.bytes());
                self.look_at(frame.frame());
                state.publish(frame.into_word(), false);
            }
            Err(_) => state.abandon(),
        }
    }

    fn look_at(&self, frame: FrameId) {
        self.device.memory[frame.index()].with(|_| ());
    }

    /// Waits for the page, which somebody reads, and reads it; whether it came.
    fn wait_for(&self, page: usize) -> bool {
        let state = &self.states[page];
        let under_way = |word: Word| word.phase() == Phase::Loading && word.is_async();
        let in_flight = || under_way(state.load());
        while in_flight() {
            let mut arrived = |arrived, result| self.arrived(arrived, result);
            self.readers.reap(&in_flight, &mut arrived);
            if in_flight() {
                thread::yield_now();
            }
        }
        let hold = state.sealed(self.hazards.protect(PAGES[page]));
        if let Ok(hold) = &hold {
            self.look_at(hold.frame());
        }
        hold.is_ok()
    }
}

fn side_by_side<const N: usize>(pool: &Arc<Pool>, work: [fn(&Pool); N]) {
    let threads = work.map(|work| {
        let pool = pool.clone();
        thread::spawn(move || work(&pool))
    });
    threads
        .into_iter()
        .for_each(|thread| thread.join().unwrap());
}

#[test]
fn two_who_wait_for_one_flight_both_find_the_page_and_it_is_read_once() {
    explore("pool: one flight, two who wait", 2, || {
        let pool = Pool::new(false);
        pool.prefetch(&[0]);
        let wait: fn(&Pool) = |pool| assert!(pool.wait_for(0));
        side_by_side(&pool, [wait, wait]);
        assert_eq!(pool.device.reads.load(Ordering::Relaxed), 1);
        assert_eq!(pool.readers.in_flight(), 0);
    });
}

#[test]
fn whoever_reaps_hands_on_what_another_waits_for() {
    explore("pool: two flights, two who wait", 2, || {
        let pool = Pool::new(false);
        pool.prefetch(&[0, 1]);
        side_by_side(
            &pool,
            [
                |pool| assert!(pool.wait_for(0)),
                |pool| assert!(pool.wait_for(1)),
            ],
        );
        assert_eq!(pool.readers.in_flight(), 0);
    });
}

#[test]
fn a_flight_that_fails_wakes_all_who_wait_for_it() {
    explore("pool: a failed flight, two who wait", 2, || {
        let pool = Pool::new(true);
        pool.prefetch(&[0]);
        let wait: fn(&Pool) = |pool| assert!(!pool.wait_for(0));
        side_by_side(&pool, [wait, wait]);
        assert_eq!(pool.readers.in_flight(), 0);
        assert_eq!(pool.frames.free_len(), 2);
    });
}

#[test]
fn a_pool_that_is_dropped_ends_its_readers_whatever_is_in_flight() {
    explore("pool: dropped with a flight", 3, || {
        let pool = Pool::new(false);
        pool.prefetch(&[0]);
        drop(pool);
    });
}
