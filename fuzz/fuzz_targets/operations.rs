//! Any sequence of operations, on a real file, under either pager and reopened under the other,
//! against `BTreeMap`. Oracle: every answer, the content, and a clean check at the end.

#![no_main]

use arbitrary::Arbitrary;
use bifolio::{MmapConfig, Options, PagerChoice, PoolConfig, PoolSize, ReadTxn};
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
    Hold,
    Release,
    Checkpoint,
    Reopen {
        mmap: bool,
    },
    Check,
}

fn options(mmap: bool) -> Options {
    let pager = if mmap {
        PagerChoice::Mmap(MmapConfig::default())
    } else {
        PagerChoice::Pool(PoolConfig {
            size: PoolSize::Bytes(1 << 20),
            ..PoolConfig::default()
        })
    };
    Options::new()
        .pager(pager)
        .max_bytes(64 << 20)
        .log_bytes(1 << 18)
}

fuzz_target!(|steps: Vec<Step>| {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("db");
    let mut db = options(true).create(&path).expect("a database");
    let mut state = State::new();
    let mut held: Vec<(ReadTxn, State)> = Vec::new();
    for step in steps.iter().take(64) {
        match step {
            Step::Commit {
                changes,
                durability: level,
            } => {
                let mut txn = db.write().expect("to write");
                make(&mut txn, changes, &mut state);
                txn.commit_with(durability(*level)).expect("to commit");
            }
            Step::RollBack { changes } => {
                let mut txn = db.write().expect("to write");
                make(&mut txn, changes, &mut state.clone());
                txn.rollback();
            }
            Step::Hold if held.len() < 4 => {
                held.push((db.read().expect("to read"), state.clone()));
            }
            Step::Hold | Step::Release => {
                if let Some((snapshot, then)) = held.pop() {
                    expect(&snapshot, &then);
                }
            }
            Step::Checkpoint => db.checkpoint().expect("a checkpoint"),
            Step::Reopen { mmap } => {
                for (snapshot, then) in held.drain(..) {
                    expect(&snapshot, &then);
                }
                db.close().expect("to close");
                db = options(*mmap).open(&path).expect("to open");
            }
            Step::Check => expect_sound(&db),
        }
    }
    expect(&db.read().expect("to read"), &state);
    expect_sound(&db);
});
