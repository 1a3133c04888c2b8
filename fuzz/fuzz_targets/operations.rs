//! Any sequence of operations, on a real file, under either pager and reopened under the other,
//! against `BTreeMap`. Oracle: every answer, the content, and a clean check at the end.

#![no_main]

use std::collections::BTreeMap;

use arbitrary::Arbitrary;
use bifolio::{
    Database, Durability, MmapConfig, Options, PagerChoice, PoolConfig, PoolSize, ReadTxn,
};
use libfuzzer_sys::fuzz_target;

type State = BTreeMap<Vec<u8>, Vec<u8>>;

#[derive(Arbitrary, Debug)]
enum Change {
    Insert { key: u8, long: u8, len: u16 },
    Remove { key: u8, long: u8 },
    RemoveRange { from: u8, to: u8 },
    Clear,
    Get { key: u8, long: u8 },
}

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

fn key(key: u8, long: u8) -> Vec<u8> {
    let mut bytes = vec![key];
    bytes.resize(1 + usize::from(long) * 3, b'k');
    bytes
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

/// Makes the changes in a transaction, and in the model.
fn make(txn: &mut bifolio::WriteTxn, changes: &[Change], state: &mut State) {
    let mut table = txn.table("t").expect("a table");
    for change in changes.iter().take(64) {
        match *change {
            Change::Insert { key: k, long, len } => {
                let value = vec![len as u8; usize::from(len) % 12_000];
                let replaced = table.insert(key(k, long), &value).expect("to insert");
                assert_eq!(replaced, state.insert(key(k, long), value).is_some());
            }
            Change::Remove { key: k, long } => {
                let removed = table.remove(key(k, long)).expect("to remove");
                assert_eq!(removed, state.remove(&key(k, long)).is_some());
            }
            Change::RemoveRange { from, to } => {
                let bounds = vec![from.min(to)]..vec![from.max(to)];
                let removed = table.remove_range(bounds.clone()).expect("to remove");
                let before = state.len();
                state.retain(|key, _| !bounds.contains(key));
                assert_eq!(removed, (before - state.len()) as u64);
            }
            Change::Clear => {
                table.clear().expect("to clear");
                state.clear();
            }
            Change::Get { key: k, long } => {
                let got = table.get(key(k, long)).expect("to get");
                assert_eq!(got.as_ref(), state.get(&key(k, long)));
            }
        }
    }
}

fn expect(snapshot: &ReadTxn, state: &State) {
    let Ok(table) = snapshot.table("t") else {
        return assert!(state.is_empty());
    };
    let found: State = table.iter().map(|entry| entry.expect("an entry")).collect();
    assert_eq!(&found, state);
    let last = table
        .iter()
        .next_back()
        .map(|entry| entry.expect("an entry").0);
    assert_eq!(last.as_ref(), state.keys().next_back());
}

fn expect_sound(db: &Database) {
    let report = db.check().expect("to check");
    assert!(report.is_clean(), "{report}");
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
                durability,
            } => {
                let mut txn = db.write().expect("to write");
                make(&mut txn, changes, &mut state);
                let durability = match durability % 3 {
                    0 => Durability::Sync,
                    1 => Durability::Interval,
                    _ => Durability::Checkpoint,
                };
                txn.commit_with(durability).expect("to commit");
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
