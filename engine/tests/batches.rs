//! A batch does what the same changes in a transaction do, with many threads at once, too.

mod common;

use std::collections::BTreeMap;
use std::ops::Bound;
use std::thread;

use bifolio::{Database, Durability, Error, TreeError, WriteBatch};
use common::{assert_whole, handful, options, pagers, scratch};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Change {
    Insert(u8, u16, u8),
    Remove(u8, u16),
    RemoveRange(u8, Bound<u16>, Bound<u16>),
}

fn change() -> impl Strategy<Value = Change> {
    let key = || 0..300_u16;
    let bound = || {
        prop_oneof![
            key().prop_map(Bound::Included),
            key().prop_map(Bound::Excluded),
            Just(Bound::Unbounded),
        ]
    };
    prop_oneof![
        8 => (0..2_u8, key(), any::<u8>()).prop_map(|(t, k, v)| Change::Insert(t, k, v)),
        4 => (0..2_u8, key()).prop_map(|(t, k)| Change::Remove(t, k)),
        1 => (0..2_u8, bound(), bound()).prop_map(|(t, a, b)| Change::RemoveRange(t, a, b)),
    ]
}

type Model = BTreeMap<(u8, [u8; 2]), Vec<u8>>;

fn value(byte: u8) -> Vec<u8> {
    let len = if byte == 0 { 9000 } else { usize::from(byte) };
    vec![byte; len]
}

fn collect(change: &Change, batch: &mut WriteBatch, model: &mut Model) {
    let name = |table: &u8| ["a", "b"][usize::from(*table)];
    match change {
        Change::Insert(table, key, byte) => {
            batch.insert(name(table), key.to_be_bytes(), value(*byte));
            model.insert((*table, key.to_be_bytes()), value(*byte));
        }
        Change::Remove(table, key) => {
            batch.remove(name(table), key.to_be_bytes());
            model.remove(&(*table, key.to_be_bytes()));
        }
        Change::RemoveRange(table, low, high) => {
            let bounds = (low.map(u16::to_be_bytes), high.map(u16::to_be_bytes));
            batch.remove_range::<[u8; 2]>(name(table), bounds);
            use std::ops::RangeBounds;
            model.retain(|(of, key), _| of != table || !bounds.contains(key));
        }
    }
}

fn content(db: &Database) -> Model {
    let snapshot = db.read().unwrap();
    let mut model = Model::new();
    for (number, name) in [(0, "a"), (1, "b")] {
        if let Ok(table) = snapshot.table(name) {
            for entry in table.iter() {
                let (key, value) = entry.unwrap();
                model.insert((number, key.try_into().unwrap()), value);
            }
        }
    }
    model
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn batches_leave_what_their_changes_in_order_leave(
        batches in prop::collection::vec(prop::collection::vec(change(), 0..60), 1..6),
        which in 0..4_usize,
    ) {
        let (_directory, path) = scratch();
        let choices = [pagers(4096), handful(4096, 24)].concat();
        let db = options(&choices[which].1).create(&path).unwrap();
        let mut model = Model::new();
        let mut batch = WriteBatch::new();
        for changes in &batches {
            batch.clear();
            for change in changes {
                collect(change, &mut batch, &mut model);
            }
            prop_assert!(batch.len() <= changes.len());
            db.apply_with(&batch, Durability::Interval).unwrap();
            prop_assert_eq!(&content(&db), &model);
        }
        assert_whole(&db);
    }
}

#[test]
fn a_batch_that_cannot_be_applied_leaves_nothing() {
    let (_directory, path) = scratch();
    let db = options(&pagers(4096)[1].1).create(&path).unwrap();
    let mut batch = WriteBatch::new();
    batch.insert("a", "fits", "well");
    batch.insert("b", [1; 2000], "does not");
    let error = db.apply(&batch).unwrap_err();
    assert!(
        matches!(error, Error::Tree(TreeError::KeyTooLong { .. })),
        "{error}"
    );
    assert!(db.read().unwrap().table_names().unwrap().is_empty());
    let before = db.read().unwrap().version();
    assert_eq!(db.apply(&WriteBatch::new()).unwrap(), before);

    // Bounds that hold nothing, and the same batch twice.
    batch.clear();
    batch.remove_range("a", "z".."a");
    batch.insert("a", "k", "v");
    for _ in 0..2 {
        let ticket = db.submit(&batch).unwrap();
        assert_eq!(db.read().unwrap().version(), ticket.version());
        ticket.wait().unwrap();
    }
    assert_eq!(db.read_durable().unwrap().table("a").unwrap().len(), 1);
}

/// Warming goes by a snapshot that is old when the batch is applied.
#[test]
fn batches_of_many_threads_are_applied_one_after_another() {
    const THREADS: u32 = 6;
    const ROUNDS: u32 = 30;
    for (name, choice) in [
        pagers(4096).swap_remove(0),
        handful(4096, 40).swap_remove(2),
    ] {
        let (_directory, path) = scratch();
        let db = options(&choice).create(&path).unwrap();
        let mut txn = db.write().unwrap();
        let entry = |number: u32| (number.to_be_bytes(), [0; 100]);
        txn.table("t")
            .unwrap()
            .bulk_load((0..6000).map(entry))
            .unwrap();
        txn.commit().unwrap();
        thread::scope(|scope| {
            for thread in 0..THREADS {
                let db = &db;
                scope.spawn(move || {
                    for round in 0..ROUNDS {
                        let mut batch = WriteBatch::new();
                        for number in (thread..6000).step_by(97 * THREADS as usize) {
                            batch.insert("t", number.to_be_bytes(), [round as u8; 100]);
                        }
                        // All of them change these, one whole batch after the other.
                        for number in 10_000..10_010_u32 {
                            batch.insert("t", number.to_be_bytes(), [thread as u8, round as u8]);
                        }
                        db.apply(&batch).unwrap();
                        let snapshot = db.read().unwrap();
                        let table = snapshot.table("t").unwrap();
                        let shared = table.range(10_000_u32.to_be_bytes()..);
                        let mut values: Vec<_> = shared.map(|entry| entry.unwrap().1).collect();
                        assert_eq!(values.len(), 10);
                        values.dedup();
                        assert_eq!(values.len(), 1, "one batch is seen whole");
                    }
                });
            }
        });
        let snapshot = db.read().unwrap();
        let table = snapshot.table("t").unwrap();
        for thread in 0..THREADS {
            for number in (thread..6000).step_by(97 * THREADS as usize) {
                let value = table.get(number.to_be_bytes()).unwrap().unwrap();
                assert_eq!(value, [ROUNDS as u8 - 1; 100], "{name}");
            }
        }
        let commits = u64::from(THREADS * ROUNDS);
        let syncs = db.log_counters().unwrap();
        println!("{name}: {commits} commits, {syncs:?}");
        assert_whole(&db);
    }
}
