//! Any sequence of operations on a machine whose power is cut, between operations of the database or in
//! the middle of one. Oracle: the state after exactly n commits, none missing that was acknowledged as
//! durable; a clean check; and it goes on from there.

#![no_main]

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use arbitrary::Arbitrary;
use bifolio::testkit::{Cut, Machine, On, Running};
use bifolio::{Durability, PageSize};
use bifolio_fuzz::{Change, State, durability, expect, expect_sound, make};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
enum Step {
    Commit {
        changes: Vec<Change>,
        durability: u8,
    },
    RollBack {
        changes: Vec<Change>,
    },
    Checkpoint,
    PowerCut(PowerCut),
    /// Before the given operation of a disk, of those that the commit or checkpoint causes.
    PowerCutIn {
        changes: Option<Vec<Change>>,
        durability: u8,
        before: u8,
        cut: PowerCut,
    },
}

/// What is left of unsynced writes, and on what the machine runs afterwards.
#[derive(Arbitrary, Clone, Copy, Debug)]
struct PowerCut {
    kind: u8,
    seed: u64,
    on: u8,
}

impl PowerCut {
    fn kind(self) -> Cut {
        match self.kind % 5 {
            0 => Cut::Drop,
            1 => Cut::Keep,
            2 => Cut::Reorder,
            3 => Cut::Tear,
            _ => Cut::LengthLost,
        }
    }
}

fn on(number: u8) -> On {
    match number % 3 {
        0 => On::Mmap,
        1 => On::Pread,
        _ => On::Uring,
    }
}

/// A machine that runs, and what it may hold after a power cut.
struct World {
    running: Running,
    /// The states after each commit since it was booted, the one at boot first.
    states: Vec<State>,
    /// How many of these commits are known to be durable.
    durable: usize,
}

impl World {
    fn state(&self) -> &State {
        self.states.last().expect("the state at boot")
    }

    fn commit(&mut self, changes: &[Change], durability: Durability) {
        let mut state = self.state().clone();
        let mut txn = self.running.db.write().expect("to write");
        make(&mut txn, changes, &mut state);
        txn.commit_with(durability).expect("to commit");
        self.states.push(state);
        if durability == Durability::Sync {
            self.durable = self.states.len() - 1;
        }
    }

    fn checkpoint(&mut self) {
        self.running.db.checkpoint().expect("a checkpoint");
        self.durable = self.states.len() - 1;
    }

    /// Boots what a power cut left.
    fn boot(&mut self, left: Machine, durable: usize, on: On) {
        let running = left.open(on).expect("to open what a power cut left");
        let snapshot = running.db.read().expect("to read");
        let found: State = match snapshot.table("t") {
            Ok(table) => table.iter().map(|entry| entry.expect("an entry")).collect(),
            Err(_) => State::new(),
        };
        let survived = self.states[durable..].contains(&found);
        assert!(
            survived,
            "{} entries are none of the states after {durable} to {} commits",
            found.len(),
            self.states.len() - 1
        );
        expect(&snapshot, &found);
        expect_sound(&running.db);
        drop(snapshot);
        *self = World {
            running,
            states: vec![found],
            durable: 0,
        };
    }
}

fuzz_target!(|input: (u8, Vec<Step>)| {
    let (first, steps) = input;
    let machine = Machine::new(PageSize::DEFAULT, on(first));
    let mut world = World {
        running: machine.open(on(first)).expect("a new machine"),
        states: vec![State::new()],
        durable: 0,
    };
    for step in steps.iter().take(48) {
        match step {
            Step::Commit {
                changes,
                durability: level,
            } => world.commit(changes, durability(*level)),
            Step::RollBack { changes } => {
                let mut txn = world.running.db.write().expect("to write");
                make(&mut txn, changes, &mut world.state().clone());
                txn.rollback();
            }
            Step::Checkpoint => world.checkpoint(),
            Step::PowerCut(cut) => {
                let left = world.running.power_cut(cut.kind(), cut.seed);
                world.boot(left, world.durable, on(cut.on));
            }
            Step::PowerCutIn {
                changes,
                durability: level,
                before,
                cut,
            } => {
                let durable = world.durable;
                let left = Arc::new(Mutex::new(None));
                let countdown = AtomicU64::new(u64::from(*before % 32));
                world.running.watch({
                    let (left, cut) = (Arc::clone(&left), *cut);
                    move |moment| {
                        if countdown.fetch_sub(1, Ordering::Relaxed) == 0 {
                            *left.lock().expect("no panic") = moment.cut(cut.kind(), cut.seed);
                        }
                    }
                });
                match changes {
                    Some(changes) => world.commit(changes, durability(*level)),
                    None => world.checkpoint(),
                }
                world.running.unwatch();
                if let Some(left) = left.lock().expect("no panic").take() {
                    world.boot(left, durable, on(cut.on));
                }
            }
        }
    }
    let snapshot = world.running.db.read().expect("to read");
    expect(&snapshot, world.state());
    expect_sound(&world.running.db);
});
