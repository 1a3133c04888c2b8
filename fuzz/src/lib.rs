//! What the targets that change a database share: changes of a table, and the model that says what must
//! come of them.

use std::collections::BTreeMap;

use arbitrary::Arbitrary;
use bifolio::{Database, Durability, ReadTxn, WriteTxn};

/// What the table holds.
pub type State = BTreeMap<Vec<u8>, Vec<u8>>;

/// A change of the table, or a look at it.
#[derive(Arbitrary, Debug)]
pub enum Change {
    Insert { key: u8, long: u8, len: u16 },
    Remove { key: u8, long: u8 },
    RemoveRange { from: u8, to: u8 },
    Clear,
    Get { key: u8, long: u8 },
}

fn key(key: u8, long: u8) -> Vec<u8> {
    let mut bytes = vec![key];
    bytes.resize(1 + usize::from(long) * 3, b'k');
    bytes
}

/// Makes the changes in a transaction, and in the model.
pub fn make(txn: &mut WriteTxn, changes: &[Change], state: &mut State) {
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

/// Holds a snapshot against the model, in both directions.
pub fn expect(snapshot: &ReadTxn, state: &State) {
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

/// Checks the whole file.
pub fn expect_sound(db: &Database) {
    let report = db.check().expect("to check");
    assert!(report.is_clean(), "{report}");
}

/// A level of durability, of any number.
pub fn durability(number: u8) -> Durability {
    match number % 3 {
        0 => Durability::Sync,
        1 => Durability::Interval,
        _ => Durability::Checkpoint,
    }
}
