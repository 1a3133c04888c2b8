//! Who may outlive whom: handles, snapshots, transactions, panics, the process's threads.

mod common;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use bifolio::{
    CheckReport, Database, Error, PagerChoice, PagerError, Range, ReadTxn, Table, TableMut,
    WriteTxn,
};
use common::{assert_whole, handful, options, pagers, random, scratch};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

fn put(db: &Database, number: u32, value: &[u8]) {
    let mut txn = db.write().unwrap();
    let mut table = txn.table("t").unwrap();
    table.insert(number.to_be_bytes(), value).unwrap();
    txn.commit().unwrap();
}

fn fill(txn: &mut WriteTxn, count: u32, value: &[u8]) {
    let mut table = txn.table("t").unwrap();
    for number in 0..count {
        table.insert(number.to_be_bytes(), value).unwrap();
    }
}

fn check(db: &Database) -> CheckReport {
    let report = db.check().unwrap();
    assert!(report.is_clean(), "{report}");
    report
}

/// Under every pager: one that is new, on a file of its own.
fn on_every_pager(test: impl Fn(Database, &Path)) {
    for (name, choice) in pagers(4096) {
        println!("{name}");
        let (_directory, path) = scratch();
        test(options(&choice).create(&path).unwrap(), &path);
        drop(options(&choice).open(&path).expect("everybody let go"));
    }
}

/// Whether the newest meta of the file says that it was closed cleanly.
fn is_clean(path: &Path) -> bool {
    let bytes = fs::read(path).unwrap();
    let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    let (a, b) = (0, 65_536);
    let newest = if number(a + 32) > number(b + 32) {
        a
    } else {
        b
    };
    bytes[newest + 56] & 1 == 1
}

#[test]
fn what_is_shared_between_threads_may_be() {
    fn sendable<T: Send + Sync>() {}
    sendable::<Database>();
    sendable::<ReadTxn>();
    sendable::<WriteTxn>();
    sendable::<Table<'_>>();
    sendable::<TableMut<'_>>();
    sendable::<Error>();
    fn movable<T: Send>() {}
    movable::<Range<'_>>();
}

#[test]
fn a_panic_in_a_transaction_rolls_it_back_and_gives_the_writer_back() {
    on_every_pager(|db, _| {
        put(&db, 7, b"kept");
        let before = check(&db);
        for round in 0..3 {
            let outcome = catch_unwind(AssertUnwindSafe(|| {
                let mut txn = db.write().unwrap();
                fill(&mut txn, 3000, &[round; 50]);
                panic!("in the middle");
            }));
            assert!(outcome.is_err());
        }
        let outcome = thread::scope(|scope| {
            let panics = || {
                let mut txn = db.write().unwrap();
                fill(&mut txn, 10, b"never");
                panic!("on another thread");
            };
            scope.spawn(panics).join()
        });
        assert!(outcome.is_err());
        put(&db, 8, b"goes on");
        let after = check(&db);
        assert_eq!(after.entries, before.entries + 1);
        assert!(after.reached_pages <= before.reached_pages + 1, "{after}");
    });
}

#[test]
fn a_version_is_never_given_twice() {
    on_every_pager(|db, path| {
        let mut last = db.read().unwrap().version();
        let mut handle = Some(db);
        for round in 0..40_u32 {
            let db = handle
                .take()
                .unwrap_or_else(|| Database::open(path).unwrap());
            let mut txn = db.write().unwrap();
            assert!(txn.version() > last, "round {round}");
            last = txn.version();
            fill(&mut txn, 1 + round % 3, b"x");
            match round % 4 {
                0 => txn.rollback(),
                1 => drop(txn),
                2 => assert_eq!(txn.commit().unwrap(), last),
                _ => {}
            }
            if round % 5 < 3 {
                handle = Some(db);
            }
        }
    });
}

#[test]
fn a_panic_in_a_bulk_load_that_is_caught_cannot_be_committed() {
    on_every_pager(|db, _| {
        put(&db, 7, b"kept");
        let mut txn = db.write().unwrap();
        let entries = (0..5000_u32).map(|number| match number {
            4999 => panic!("the last one"),
            _ => (number.to_be_bytes(), [1; 100]),
        });
        let mut table = txn.table("u").unwrap();
        let outcome = catch_unwind(AssertUnwindSafe(|| table.bulk_load(entries)));
        assert!(outcome.is_err());
        assert!(matches!(table.insert("a", "b"), Err(Error::Interrupted)));
        assert!(matches!(txn.table_names(), Err(Error::Interrupted)));
        assert!(matches!(txn.commit(), Err(Error::Interrupted)));
        put(&db, 8, b"goes on");
        assert_eq!(check(&db).entries, 2);
    });
}

#[test]
fn a_panic_while_looking_at_a_value_lets_go_of_the_page() {
    on_every_pager(|db, _| {
        put(&db, 7, &[7; 50]);
        put(&db, 8, &[8; 20_000]);
        for key in [7_u32, 8].map(u32::to_be_bytes).iter().cycle().take(600) {
            let snapshot = db.read().unwrap();
            let table = snapshot.table("t").unwrap();
            let looked = catch_unwind(AssertUnwindSafe(|| {
                table.get_with(key, |_| panic!("looking"))
            }));
            assert!(looked.is_err());
            let many = catch_unwind(AssertUnwindSafe(|| {
                table.get_many(&[key], |_, _| panic!("looking at many"))
            }));
            assert!(many.is_err());
        }
        // A page that were still held could not be written, nor its frame be used again.
        let mut txn = db.write().unwrap();
        fill(&mut txn, 3000, &[9; 100]);
        txn.commit().unwrap();
        assert_whole(&db);
    });
}

#[test]
fn a_snapshot_outlives_the_handle_it_came_from() {
    on_every_pager(|db, path| {
        put(&db, 7, b"kept");
        let snapshot = db.read().unwrap();
        put(&db, 7, b"changed");
        db.close().unwrap();
        assert!(matches!(Database::open(path), Err(Error::InUse { .. })));
        let table = snapshot.table("t").unwrap();
        assert_eq!(table.get(7_u32.to_be_bytes()).unwrap().unwrap(), b"kept");
        assert!(!is_clean(path), "it is still open");
        drop(snapshot);
        assert!(is_clean(path), "the last one to go has marked it");
    });
}

#[test]
fn a_write_transaction_outlives_the_handle_it_came_from() {
    on_every_pager(|db, path| {
        put(&db, 7, b"before");
        let other = db.clone();
        let mut txn = db.write().unwrap();
        db.close().unwrap();
        txn.table("t")
            .unwrap()
            .insert(8_u32.to_be_bytes(), b"after")
            .unwrap();
        drop(other);
        assert!(!is_clean(path));
        txn.commit().unwrap();
        assert!(is_clean(path));
        let db = Database::open(path).unwrap();
        assert_eq!(check(&db).entries, 2);
        // And one that is given up.
        let mut txn = db.write().unwrap();
        txn.table("t").unwrap().clear().unwrap();
        drop(db);
        drop(txn);
        assert!(is_clean(path));
        assert_eq!(check(&Database::open(path).unwrap()).entries, 2);
    });
}

#[test]
fn handles_closed_from_many_threads_at_once_mark_the_file_once() {
    on_every_pager(|db, path| {
        put(&db, 7, b"kept");
        let barrier = Barrier::new(8);
        thread::scope(|scope| {
            for _ in 0..8 {
                let (db, barrier) = (db.clone(), &barrier);
                scope.spawn(move || {
                    let snapshot = db.read().unwrap();
                    barrier.wait();
                    db.close().unwrap();
                    drop(snapshot);
                });
            }
            drop(db);
        });
        assert!(is_clean(path));
    });
}

#[test]
fn a_database_that_is_only_read_is_not_written() {
    on_every_pager(|db, path| {
        put(&db, 7, b"kept");
        db.close().unwrap();
        let before = fs::read(path).unwrap();
        for (_, choice) in pagers(4096) {
            let db = options(&choice).open(path).unwrap();
            assert_eq!(check(&db).entries, 1);
            db.close().unwrap();
        }
        assert!(fs::read(path).unwrap() == before);
    });
}

#[test]
fn a_thousand_snapshots_each_see_their_own_version() {
    on_every_pager(|db, _| {
        put(&db, 0, &0_u32.to_be_bytes());
        let mut snapshots = Vec::new();
        for number in 1..=1000_u32 {
            snapshots.push((number - 1, db.read().unwrap()));
            put(&db, number % 50, &number.to_be_bytes());
        }
        assert_whole(&db);
        let full = check(&db).end_pages;
        snapshots.shuffle(&mut random(11));
        while let Some((number, snapshot)) = snapshots.pop() {
            let table = snapshot.table("t").unwrap();
            let newest = table.get((number % 50).to_be_bytes()).unwrap().unwrap();
            assert_eq!(newest, number.to_be_bytes());
            let later = table.get(((number + 1) % 50).to_be_bytes()).unwrap();
            let expected = (number >= 49).then(|| (number - 49).to_be_bytes().to_vec());
            assert_eq!(later, expected, "in version {number}");
            if number % 100 == 0 {
                put(&db, 99, b"a writer finds out who is gone");
            }
        }
        for number in 0..1000 {
            put(&db, 99, &[number as u8; 100]);
        }
        let report = check(&db);
        assert!(report.end_pages <= full, "what they held is used again");
        assert!(report.reached_pages < 50, "{report}");
    });
}

/// Sixty-four threads that read at random while one writes; returns how often all frames were held.
fn readers_beside_a_writer(db: &Database, rounds: u32) -> usize {
    const KEYS: u32 = 2000;
    let mut txn = db.write().unwrap();
    fill(&mut txn, KEYS, &[0; 100]);
    txn.commit().unwrap();
    let refused = AtomicUsize::new(0);
    thread::scope(|scope| {
        for thread in 0..64 {
            let refused = &refused;
            scope.spawn(move || {
                let mut random = StdRng::seed_from_u64(thread);
                for _ in 0..rounds {
                    let key = random.random_range(0..KEYS).to_be_bytes();
                    let found = db.read().unwrap().table("t").and_then(|t| t.get(key));
                    match found {
                        Ok(value) => {
                            let value = value.expect("it is there");
                            assert_eq!((value.len(), value[0]), (100, value[99]));
                        }
                        Err(Error::Pager(PagerError::NoFreeFrame { .. })) => {
                            refused.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(error) => panic!("{error}"),
                    }
                }
            });
        }
        for round in 1..6 {
            let outcome = db.write().and_then(|mut txn| {
                let mut table = txn.table("t")?;
                for number in (0..KEYS).step_by(7) {
                    table.insert(number.to_be_bytes(), [round; 100])?;
                }
                txn.commit()
            });
            match outcome {
                Ok(_) => {}
                Err(Error::Pager(PagerError::NoFreeFrame { .. })) => {
                    refused.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => panic!("{error}"),
            }
        }
    });
    refused.into_inner()
}

#[test]
fn sixty_four_readers_and_a_writer_get_right_answers() {
    on_every_pager(|db, _| {
        assert_eq!(readers_beside_a_writer(&db, 300), 0);
        assert_whole(&db);
    });
}

#[test]
fn where_there_are_more_readers_than_frames_the_answer_is_right_or_says_so() {
    for (name, choice) in handful(4096, 10) {
        let (_directory, path) = scratch();
        let db = options(&choice).create(&path).unwrap();
        let refused = readers_beside_a_writer(&db, 100);
        println!("{name}: {refused} times all frames were in use");
        assert_whole(&db);
        put(&db, 5, b"and all goes on");
    }
}

/// Ranges that rest hold a page each, so these hold all frames but a few.
#[test]
fn a_commit_that_finds_every_frame_held_can_be_tried_again() {
    for (name, choice) in handful(4096, 12) {
        let (_directory, path) = scratch();
        let db = options(&choice).create(&path).unwrap();
        let mut txn = db.write().unwrap();
        fill(&mut txn, 2000, &[1; 400]);
        txn.commit().unwrap();
        let snapshot = db.read().unwrap();
        let table = snapshot.table("t").unwrap();
        let mut held: Vec<Range<'_>> = Vec::new();
        // However many they are: the writer gets through, or fails and can be tried again.
        for count in 1..=12 {
            let mut range = table.range((count * 150_u32).to_be_bytes().as_slice()..);
            match range.next() {
                Some(Ok(_)) => held.push(range),
                Some(Err(Error::Pager(PagerError::NoFreeFrame { .. }))) => {}
                other => panic!("{other:?}"),
            }
            let outcome = db.write().and_then(|mut txn| {
                let mut table = txn.table("t")?;
                for number in (0..2000_u32).step_by(100) {
                    table.insert(number.to_be_bytes(), [2; 400])?;
                }
                txn.commit()
            });
            println!("{name}: {} held, {outcome:?}", held.len());
            assert!(
                matches!(
                    outcome,
                    Ok(_) | Err(Error::Pager(PagerError::NoFreeFrame { .. }))
                ),
                "{name}, {} frames held: {outcome:?}",
                held.len()
            );
        }
        assert!(!held.is_empty());
        drop(held);
        put(&db, 3, b"goes on");
        assert_whole(&db);
    }
}

#[test]
fn a_memory_database_is_gone_with_its_last_handle_and_not_before() {
    let db = Database::in_memory().unwrap();
    put(&db, 1, b"x");
    let snapshot = db.read().unwrap();
    let txn = db.write().unwrap();
    db.close().unwrap();
    drop(txn);
    assert_eq!(snapshot.table("t").unwrap().len(), 1);
    let options = bifolio::Options::new().pager(PagerChoice::Memory);
    assert!(options.in_memory().unwrap().read().is_ok());
}
