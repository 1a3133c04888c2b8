//! What transactions promise: isolation, rollback, one writer, space that is used again.

mod common;

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use bifolio::{Database, Error};
use common::{assert_whole, options, pagers, scratch};

fn fill(db: &Database, table: &str, range: std::ops::Range<u32>, value: &[u8]) {
    let mut txn = db.write().unwrap();
    let mut table = txn.table(table).unwrap();
    for number in range {
        table.insert(number.to_be_bytes(), value).unwrap();
    }
    txn.commit().unwrap();
}

/// Set when it is dropped, also by a panic: so that who waits for it fails and does not hang.
struct SetOnDrop<'b>(&'b AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn on_every_pager(test: impl Fn(&Database)) {
    for (name, choice) in pagers(4096) {
        println!("{name}");
        let (_directory, path) = scratch();
        let db = options(&choice).create(&path).unwrap();
        test(&db);
        assert_whole(&db);
    }
    let db = Database::in_memory().unwrap();
    test(&db);
    assert_whole(&db);
}

#[test]
fn a_snapshot_is_not_changed_by_later_commits() {
    on_every_pager(|db| {
        fill(db, "t", 0..1000, b"before");
        let snapshot = db.read().unwrap();
        let table = snapshot.table("t").unwrap();
        for _ in 0..10 {
            fill(db, "t", 0..1500, b"after");
        }
        assert_eq!(table.len(), 1000);
        for entry in table.iter() {
            assert_eq!(entry.unwrap().1, b"before");
        }
        let newest = db.read().unwrap();
        assert_eq!(newest.table("t").unwrap().len(), 1500);
        assert!(newest.version() > snapshot.version());
    });
}

#[test]
fn what_is_not_committed_never_was() {
    on_every_pager(|db| {
        fill(db, "t", 0..500, b"kept");
        let before = db.read().unwrap().version();
        let mut txn = db.write().unwrap();
        let mut table = txn.table("t").unwrap();
        for number in 0..500_u32 {
            table.remove(number.to_be_bytes()).unwrap();
        }
        txn.table("other").unwrap().insert("x", "y").unwrap();
        drop(txn);
        let snapshot = db.read().unwrap();
        assert_eq!(snapshot.version(), before);
        assert_eq!(snapshot.table("t").unwrap().len(), 500);
        assert!(matches!(
            snapshot.table("other"),
            Err(Error::NoSuchTable { .. })
        ));
        fill(db, "t", 0..500, b"again");
    });
}

#[test]
fn a_transaction_sees_its_own_changes() {
    on_every_pager(|db| {
        fill(db, "t", 0..100, b"old");
        let mut txn = db.write().unwrap();
        let mut table = txn.table("t").unwrap();
        table.insert(7_u32.to_be_bytes(), "new").unwrap();
        table.remove(8_u32.to_be_bytes()).unwrap();
        assert_eq!(table.get(7_u32.to_be_bytes()).unwrap().unwrap(), b"new");
        assert_eq!(table.get(8_u32.to_be_bytes()).unwrap(), None);
        assert_eq!(table.len(), 99);
        assert_eq!(table.range::<&[u8]>(..).unwrap().count(), 99);
    });
}

#[test]
fn the_file_stops_growing_when_the_data_does() {
    for (name, choice) in pagers(4096) {
        println!("{name}");
        let (_directory, path) = scratch();
        let db = options(&choice).create(&path).unwrap();
        for _ in 0..5 {
            fill(&db, "t", 0..5000, &[1; 100]);
        }
        let early = std::fs::metadata(&path).unwrap().len();
        for _ in 0..30 {
            fill(&db, "t", 0..5000, &[2; 100]);
        }
        let late = std::fs::metadata(&path).unwrap().len();
        assert!(
            late <= early,
            "{early} bytes after 5 rounds, {late} after 35"
        );
    }
}

#[test]
fn a_long_reader_keeps_its_pages_and_no_more() {
    on_every_pager(|db| {
        fill(db, "t", 0..2000, &[1; 100]);
        let reader = db.read().unwrap();
        for round in 0..30 {
            fill(db, "t", 0..2000, &[round; 100]);
        }
        let table = reader.table("t").unwrap();
        for entry in table.iter() {
            assert_eq!(entry.unwrap().1, [1; 100]);
        }
        // 30 rounds of rewriting some 70 pages: only the reader's share may be kept back.
        let report = db.check().unwrap();
        assert!(report.end_pages < 1000, "{} pages", report.end_pages);
    });
}

#[test]
fn writers_take_turns_and_readers_do_not_wait() {
    on_every_pager(|db| {
        fill(db, "count", 0..1, &0_u64.to_le_bytes());
        let key = 0_u32.to_be_bytes();
        let failed = AtomicBool::new(false);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let unless_all_is_well = SetOnDrop(&failed);
                    for _ in 0..25 {
                        let mut txn = db.write().unwrap();
                        let mut table = txn.table("count").unwrap();
                        let old = table.get(key).unwrap().unwrap();
                        let old = u64::from_le_bytes(old.try_into().unwrap());
                        table.insert(key, (old + 1).to_le_bytes()).unwrap();
                        txn.commit().unwrap();
                    }
                    std::mem::forget(unless_all_is_well);
                });
            }
            scope.spawn(|| {
                let mut last = 0;
                while last < 100 && !failed.load(Ordering::Relaxed) {
                    let value = db.read().unwrap().table("count").unwrap().get(key).unwrap();
                    let value = u64::from_le_bytes(value.unwrap().try_into().unwrap());
                    assert!(value >= last, "time goes forward");
                    last = value;
                }
            });
        });
    });
}

#[test]
fn readers_of_many_threads_see_whole_commits_while_one_writes() {
    on_every_pager(|db| {
        fill(db, "t", 0..3000, &[0; 64]);
        let written = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                let _written = SetOnDrop(&written);
                for round in 1..=20 {
                    fill(db, "t", 0..3000, &[round; 64]);
                }
            });
            for _ in 0..3 {
                scope.spawn(|| {
                    while !written.load(Ordering::Relaxed) {
                        let snapshot = db.read().unwrap();
                        let table = snapshot.table("t").unwrap();
                        let mut range = table.iter();
                        let first = range.next().unwrap().unwrap().1;
                        while let Some((_, value)) = range.next_entry().unwrap() {
                            assert_eq!(value, first, "one commit, whole");
                        }
                    }
                });
            }
        });
    });
}

#[test]
fn tables_come_and_go_within_transactions() {
    on_every_pager(|db| {
        fill(db, "a", 0..10, b"1");
        fill(db, "b", 0..10, b"2");
        let mut txn = db.write().unwrap();
        assert!(txn.delete_table("a").unwrap());
        assert!(!txn.delete_table("a").unwrap());
        assert!(!txn.delete_table("never").unwrap());
        assert_eq!(txn.table_names().unwrap(), ["b"]);
        assert!(txn.table("a").unwrap().is_empty());
        txn.table("c").unwrap();
        assert_eq!(txn.table_names().unwrap(), ["a", "b", "c"]);
        txn.commit().unwrap();
        let snapshot = db.read().unwrap();
        assert_eq!(snapshot.table_names().unwrap(), ["a", "b", "c"]);
        assert!(snapshot.table("a").unwrap().is_empty());
    });
}

#[test]
fn an_empty_commit_writes_nothing() {
    let (_directory, path) = scratch();
    let db = Database::create(&path).unwrap();
    fill(&db, "t", 0..10, b"x");
    let before = (db.read().unwrap().version(), db.counters());
    let mut txn = db.write().unwrap();
    txn.table("t").unwrap().remove("not there").unwrap();
    assert_eq!(txn.commit().unwrap(), before.0);
    assert_eq!(db.counters().syncs, before.1.syncs);
}

#[test]
fn a_key_or_value_over_the_limit_is_refused_and_changes_nothing() {
    on_every_pager(|db| {
        let mut txn = db.write().unwrap();
        let mut table = txn.table("t").unwrap();
        let longest = vec![b'k'; bifolio::max_key_len(bifolio::PageSize::DEFAULT)];
        let error = table
            .insert([longest.as_slice(), b"k"].concat(), "v")
            .unwrap_err();
        assert!(error.to_string().contains("960"), "{error}");
        table.insert(&longest, "v").unwrap();
        table.insert("", "the empty key").unwrap();
        assert_eq!(table.len(), 2);
        txn.commit().unwrap();
        let snapshot = db.read().unwrap();
        let table = snapshot.table("t").unwrap();
        assert_eq!(table.get("").unwrap().unwrap(), b"the empty key");
        assert_eq!(
            table.get([longest.as_slice(), b"k"].concat()).unwrap(),
            None
        );
    });
}

#[test]
fn a_bulk_load_needs_an_empty_table_and_ascending_keys() {
    on_every_pager(|db| {
        let mut txn = db.write().unwrap();
        let entries = (0..20_000_u32).map(|number| (number.to_be_bytes(), [7; 50]));
        txn.table("t").unwrap().bulk_load(entries).unwrap();
        let again = txn.table("t").unwrap().bulk_load([("a", "b")]).unwrap_err();
        assert!(matches!(again, Error::TableNotEmpty { .. }), "{again}");
        txn.commit().unwrap();
        assert_eq!(
            db.read().unwrap().table("t").unwrap().iter().count(),
            20_000
        );

        let mut txn = db.write().unwrap();
        let error = txn
            .table("u")
            .unwrap()
            .bulk_load([("b", "1"), ("a", "2")])
            .unwrap_err();
        assert!(matches!(error, Error::Tree(_)), "{error}");
        assert!(txn.commit().is_err(), "only rollback is left");
        assert_eq!(db.read().unwrap().table_names().unwrap(), ["t"]);
    });
}

#[test]
fn many_keys_are_found_at_once() {
    on_every_pager(|db| {
        fill(db, "t", 0..5000, b"value");
        let keys: Vec<_> = (0..400_u32)
            .map(|n| (n * 37 % 6000).to_be_bytes())
            .collect();
        let mut found = vec![None; keys.len()];
        let snapshot = db.read().unwrap();
        let table = snapshot.table("t").unwrap();
        table
            .get_many(&keys, |index, value| found[index] = Some(value.is_some()))
            .unwrap();
        for (key, found) in keys.iter().zip(found) {
            assert_eq!(found, Some(u32::from_be_bytes(*key) < 5000));
        }
    });
}
