//! The word of a page under every execution that the memory model allows. `--cfg loom`, see
//! `bifolio_pager::sync`, and its hazards' models for what stands for `membarrier`.
//!
//! For the memory of each frame stands a loom `UnsafeCell`, which fails the model when somebody reads
//! it while another writes: invariants 1 and 2 of `word.rs` and of `frames.rs`.

use std::sync::Arc;

use bifolio_pager::hazard::Hazards;
use bifolio_pager::sync::loom::cell::UnsafeCell;
use bifolio_pager::sync::{explore, thread};
use bifolio_pager::{PageId, PageSize};

use crate::frames::{Frames, Owned};
use crate::parking::Parking;
use crate::word::{FrameId, Killed, Loader, PageState, Phase, Taken};

const ID: PageId = PageId::new(40);

/// A pool of two frames, one more than is ever in a thread's hands, and one page.
struct Pool {
    hazards: Hazards,
    state: PageState,
    frames: Frames,
    memory: [UnsafeCell<u64>; 2],
    parking: Parking,
}

impl Pool {
    /// The page is absent.
    fn new() -> Arc<Self> {
        Arc::new(Pool {
            hazards: Hazards::new(),
            state: PageState::default(),
            frames: Frames::new(2, PageSize::DEFAULT).unwrap(),
            memory: Default::default(),
            parking: Parking::default(),
        })
    }

    /// The page is in the frame, sealed.
    fn loaded() -> Arc<Self> {
        let pool = Pool::new();
        pool.load();
        pool
    }

    /// The page is in the frame, private, with changes that storage lacks.
    fn created() -> Arc<Self> {
        let pool = Pool::new();
        pool.create();
        pool
    }

    fn look_at(&self, frame: FrameId) {
        self.memory[frame.index()].with(|_| ());
    }

    fn fill(&self, frame: FrameId) {
        self.memory[frame.index()].with_mut(|_| ());
    }

    /// A free frame, filled for the page.
    fn filled(&self) -> Owned<'_> {
        let owned = self.frames.pop().expect("there is one frame more");
        self.fill(owned.frame());
        owned.occupy(ID);
        owned
    }

    /// One attempt to bring the page in.
    fn load(&self) {
        if self.state.begin_load(self.state.load(), Loader::Thread) {
            self.state.publish(self.filled().into_word(), false);
            self.parking.wake(ID);
        }
    }

    /// Reads the page if it is there; whether it was.
    fn read(&self) -> bool {
        let hazard = self.hazards.protect(ID);
        let hold = self.state.sealed(hazard);
        if let Ok(hold) = &hold {
            self.look_at(hold.frame());
        }
        hold.is_ok()
    }

    /// A read that brings the page in, or waits for who does.
    fn miss(&self) {
        while !self.read() {
            self.load();
            let busy = |phase| phase == Phase::Loading || phase == Phase::Taken;
            self.parking
                .wait_while(ID, &self.state, |word| busy(word.phase()));
        }
    }

    /// Evicts the page if it can be, and uses its frame for something else.
    fn evict(&self) {
        if let Some(taken) = self.state.take(self.state.load(), ID) {
            self.settle(taken);
        }
    }

    fn settle(&self, taken: Taken<'_>) {
        let vacated = taken.settle(&self.hazards.snapshot(), || None);
        self.parking.wake(ID);
        if let Some(vacated) = vacated {
            let owned = self.frames.own(vacated);
            self.fill(owned.frame());
        }
    }

    /// Writes the page out if it is dirty.
    fn write_back(&self) {
        if let Ok(writing) = self.state.begin_writing(ID) {
            self.look_at(writing.frame());
            writing.end(true);
            self.parking.wake(ID);
        }
    }

    /// Changes the private page if nobody has it.
    fn change(&self) {
        if let Ok(hold) = self.state.latch_exclusive() {
            self.fill(hold.frame());
            drop(hold);
        }
    }

    fn discard(&self) {
        if let Killed::Taken(taken) = self.state.kill(ID) {
            self.settle(taken);
        }
    }

    /// The number's next life.
    fn create(&self) {
        let seen = self.state.load();
        if seen.phase() == Phase::Absent && self.state.begin_create(seen) {
            drop(self.state.publish_created(self.filled().into_word()));
            self.parking.wake(ID);
        }
    }
}

fn beside<const N: usize>(pool: &Arc<Pool>, work: [fn(&Pool); N]) -> [thread::JoinHandle<()>; N] {
    work.map(|work| {
        let pool = pool.clone();
        thread::spawn(move || work(&pool))
    })
}

fn model<const N: usize>(
    name: &str,
    preemptions: usize,
    pool: fn() -> Arc<Pool>,
    work: [fn(&Pool); N],
) {
    explore(name, preemptions, move || {
        let pool = pool();
        beside(&pool, work)
            .into_iter()
            .for_each(|thread| thread.join().unwrap());
    });
}

#[test]
fn a_frame_is_not_given_away_under_a_reader() {
    model(
        "pool: read, evict",
        4,
        Pool::loaded,
        [|pool| _ = pool.read(), Pool::evict],
    );
}

#[test]
fn two_readers_and_one_who_evicts_agree() {
    model(
        "pool: two readers, evict",
        2,
        Pool::loaded,
        [|pool| _ = pool.read(), |pool| _ = pool.read(), Pool::evict],
    );
}

#[test]
fn a_page_that_is_evicted_and_read_again_comes_back_to_all_who_wait() {
    model(
        "pool: evict, two misses",
        2,
        Pool::loaded,
        [Pool::miss, Pool::evict, Pool::miss],
    );
}

#[test]
fn two_who_miss_one_page_read_it_once_and_both_wake() {
    model("pool: two misses", 3, Pool::new, [Pool::miss, Pool::miss]);
}

#[test]
fn a_private_page_is_not_changed_while_it_is_written_out() {
    model(
        "pool: change, write back, evict",
        3,
        Pool::created,
        [Pool::change, |pool| {
            pool.write_back();
            pool.evict();
        }],
    );
}

#[test]
fn readers_and_the_writer_of_a_private_page_exclude_each_other() {
    let read: fn(&Pool) = |pool| {
        if let Ok(hold) = pool.state.latch_shared() {
            pool.look_at(hold.frame());
            drop(hold);
        }
    };
    model(
        "pool: private page",
        3,
        Pool::created,
        [read, Pool::change, |pool| {
            pool.write_back();
            pool.evict();
        }],
    );
}

#[test]
fn a_page_is_sealed_once_and_then_read_without_a_latch() {
    let seal: fn(&Pool) = |pool| {
        let hold = pool.state.latch_exclusive();
        if let Ok(hold) = hold {
            pool.fill(hold.frame());
            hold.begin_seal(false);
            let busy = || pool.state.end_seal().err();
            while busy().is_some() {
                pool.parking
                    .wait_while(ID, &pool.state, |word| word.is_writing());
            }
        }
    };
    model(
        "pool: seal, read, write back",
        2,
        Pool::created,
        [seal, |pool| _ = pool.read(), Pool::write_back],
    );
}

#[test]
fn a_number_begins_no_new_life_under_a_reader_of_the_old_one() {
    model(
        "pool: read, discard, create",
        3,
        Pool::loaded,
        [
            |pool| _ = pool.read(),
            |pool| {
                pool.discard();
                pool.create();
            },
        ],
    );
}

#[test]
fn a_page_that_is_discarded_while_it_is_written_out_is_freed_once() {
    model(
        "pool: discard, write back, evict",
        3,
        Pool::created,
        [Pool::write_back, |pool| {
            pool.discard();
            pool.evict();
            pool.create();
        }],
    );
}
