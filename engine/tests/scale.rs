//! Much of everything: tables, entries in one transaction, bytes in one value, and then nothing.

mod common;

use bifolio::{CheckReport, Database, Error, MAX_VALUE_LEN, PageSize, TreeError};
use common::{handful, options, pagers, random, scratch};
use rand::RngExt;

fn check(db: &Database) -> CheckReport {
    let report = db.check().unwrap();
    assert!(report.is_clean(), "{report}");
    report
}

/// Pages that the catalogue and the map may keep when there is nothing in them.
const NOTHING: u64 = 4;

#[test]
fn ten_thousand_tables() {
    const COUNT: u32 = 10_000;
    let name = |number: u32| format!("table {number:05}");
    for (pager, choice) in [pagers(4096).remove(0), handful(4096, 16).remove(2)] {
        println!("{pager}");
        let (_directory, path) = scratch();
        let db = options(&choice).create(&path).unwrap();
        let mut txn = db.write().unwrap();
        for number in 0..COUNT {
            let mut table = txn.table(&name(number * 7919 % COUNT)).unwrap();
            if number % 10 != 0 {
                table.insert("which", number.to_be_bytes()).unwrap();
            }
        }
        assert_eq!(txn.table_names().unwrap().len(), COUNT as usize);
        txn.commit().unwrap();
        drop(db);
        let db = options(&choice).open(&path).unwrap();
        let report = check(&db);
        assert_eq!(report.tables, u64::from(COUNT));
        let snapshot = db.read().unwrap();
        let names = snapshot.table_names().unwrap();
        assert!(names.iter().cloned().eq((0..COUNT).map(name)), "sorted");
        for number in (0..COUNT).step_by(97) {
            let table = snapshot.table(&name(number * 7919 % COUNT)).unwrap();
            let found = table.get("which").unwrap();
            let expected = (number % 10 != 0).then(|| number.to_be_bytes().to_vec());
            assert_eq!(found, expected);
        }
        drop(snapshot);
        let mut txn = db.write().unwrap();
        for number in 0..COUNT {
            assert!(txn.delete_table(&name(number)).unwrap());
        }
        assert!(txn.table_names().unwrap().is_empty());
        txn.commit().unwrap();
        let report = check(&db);
        assert_eq!((report.tables, report.entries), (0, 0));
        assert!(report.reached_pages <= NOTHING, "{report}");
    }
}

#[test]
fn a_table_may_have_any_name_that_is_text() {
    let long = "中".repeat(85);
    let names = [
        "\0",
        "a\0b",
        "\n",
        " ",
        "..",
        "/etc/passwd",
        "\u{10ffff}",
        "\u{feff}bom",
        "e\u{301}",
        "é",
        "👨‍👩‍👧‍👦",
        "שלום",
        &long,
    ];
    assert_eq!(long.len(), bifolio::MAX_NAME_LEN);
    let (_directory, path) = scratch();
    let db = Database::create(&path).unwrap();
    let mut txn = db.write().unwrap();
    for name in names {
        txn.table(name).unwrap().insert("name", name).unwrap();
    }
    assert!(txn.table(&format!("{long}x")).is_err());
    txn.commit().unwrap();
    drop(db);
    let db = Database::open(&path).unwrap();
    let snapshot = db.read().unwrap();
    let mut sorted = names.map(str::to_owned);
    sorted.sort();
    assert_eq!(snapshot.table_names().unwrap(), sorted);
    for name in names {
        let found = snapshot.table(name).unwrap().get("name").unwrap();
        assert_eq!(found.unwrap(), name.as_bytes());
    }
    check(&db);
}

/// A value that shows where a piece of it is missing or in the wrong place.
fn long_value(seed: u32, len: usize) -> Vec<u8> {
    let words = (0..).map(|index: u32| index.wrapping_mul(2_654_435_761) ^ seed);
    let mut value: Vec<u8> = words
        .take(len.div_ceil(4))
        .flat_map(u32::to_le_bytes)
        .collect();
    value.truncate(len);
    value
}

#[test]
fn values_of_no_bytes_and_of_many_mebibytes() {
    for page_size in [4096, 65_536] {
        let [_, lru, io_uring] = <[_; 3]>::try_from(handful(page_size, 10)).expect("three");
        let choices = match page_size {
            4096 => vec![io_uring, lru, pagers(page_size).remove(0)],
            _ => vec![io_uring],
        };
        for (name, choice) in choices {
            println!("{name}, {page_size} bytes a page");
            let (_directory, path) = scratch();
            let db = options(&choice).page_size(page_size).create(&path).unwrap();
            let lengths = [0, 1, (2 << 20) + 3, 0, 5 << 20, page_size];
            let value = |round: u32, at: usize| {
                let len = lengths[(at + round as usize) % lengths.len()];
                long_value(round * 100 + at as u32, len)
            };
            for round in 0..2 {
                let mut txn = db.write().unwrap();
                let mut table = txn.table("t").unwrap();
                for at in 0..lengths.len() {
                    table.insert([at as u8], value(round, at)).unwrap();
                }
                let own = table.get([2]).unwrap().unwrap();
                assert!(own == value(round, 2), "before the commit");
                txn.commit().unwrap();
                let snapshot = db.read().unwrap();
                let table = snapshot.table("t").unwrap();
                let mut found = Vec::new();
                for at in 0..lengths.len() {
                    assert!(table.get_into([at as u8], &mut found).unwrap());
                    assert!(found == value(round, at), "{at}");
                }
                let entries = table.iter().rev().map(|entry| entry.unwrap().1);
                assert!(entries.eq((0..lengths.len()).rev().map(|at| value(round, at))));
                check(&db);
            }
            let mut txn = db.write().unwrap();
            txn.table("t").unwrap().clear().unwrap();
            txn.commit().unwrap();
            let report = check(&db);
            assert!(report.reached_pages <= NOTHING, "{report}");
        }
    }
}

#[test]
fn a_value_over_the_limit_is_refused_before_anything_is_written() {
    let db = Database::in_memory().unwrap();
    let mut txn = db.write().unwrap();
    let mut table = txn.table("t").unwrap();
    let value = vec![0; MAX_VALUE_LEN + 1];
    let error = table.insert("key", &value).unwrap_err();
    assert!(
        matches!(error, Error::Tree(TreeError::ValueTooLong { len, .. }) if len == value.len())
    );
    table.insert("key", "short").unwrap();
    txn.commit().unwrap();
    check(&db);
}

/// Many times what the pool holds: pages are stolen, and come back to be changed again.
#[test]
fn a_transaction_larger_than_the_pool() {
    for (name, choice) in handful(4096, 12).split_off(1) {
        let (_directory, path) = scratch();
        let db = options(&choice).create(&path).unwrap();
        let mut txn = db.write().unwrap();
        let mut table = txn.table("ascending").unwrap();
        for number in 0..200_000_u32 {
            table
                .insert(number.to_be_bytes(), [number as u8; 20])
                .unwrap();
        }
        // In no order, over what lies there already: each of these meets a cold page.
        let mut random = random(12);
        for _ in 0..3000 {
            let number: u32 = random.random_range(0..200_000);
            table
                .insert(number.to_be_bytes(), [number as u8; 30])
                .unwrap();
        }
        assert_eq!(table.len(), 200_000);
        // What is given up leaves no trace, however much of it has reached the file.
        drop(txn);
        assert_eq!(check(&db).tables, 0, "{name}");

        let mut txn = db.write().unwrap();
        let mut table = txn.table("scattered").unwrap();
        for number in 0..20_000_u32 {
            let key = number.wrapping_mul(0x9e37_79b1);
            table
                .insert(key.to_be_bytes(), number.to_be_bytes())
                .unwrap();
        }
        for number in (0..20_000_u32).step_by(2) {
            let key = number.wrapping_mul(0x9e37_79b1);
            assert!(table.remove(key.to_be_bytes()).unwrap());
        }
        txn.commit().unwrap();
        let counters = db.counters();
        println!("{name}: {counters:?}");
        assert!(counters.frames_used <= counters.frames, "{name}");
        drop(db);
        let db = options(&choice).open(&path).unwrap();
        let snapshot = db.read().unwrap();
        let table = snapshot.table("scattered").unwrap();
        for number in 0..20_000_u32 {
            let key = number.wrapping_mul(0x9e37_79b1).to_be_bytes();
            let expected = (number % 2 == 1).then(|| number.to_be_bytes().to_vec());
            assert_eq!(table.get(key).unwrap(), expected, "{name}");
        }
        assert_eq!(check(&db).entries, 10_000);
    }
}

#[test]
fn what_is_deleted_leaves_its_pages_to_others() {
    const ENTRIES: u32 = 1000;
    for (name, choice) in pagers(4096).into_iter().chain(handful(4096, 16)) {
        let (_directory, path) = scratch();
        let mut db = options(&choice).create(&path).unwrap();
        let mut ends = Vec::new();
        for round in 0..6_u8 {
            let mut txn = db.write().unwrap();
            let mut table = txn.table("t").unwrap();
            for number in 0..ENTRIES {
                let value = vec![round; 20 + number as usize % 1000];
                table.insert(number.to_be_bytes(), value).unwrap();
            }
            txn.commit().unwrap();
            ends.push(check(&db).end_pages);
            let mut txn = db.write().unwrap();
            let mut table = txn.table("t").unwrap();
            if round % 2 == 0 {
                for number in 0..ENTRIES {
                    assert!(table.remove(number.to_be_bytes()).unwrap());
                }
            } else {
                assert!(txn.delete_table("t").unwrap());
            }
            txn.commit().unwrap();
            let report = check(&db);
            assert_eq!(report.entries, 0);
            assert!(report.reached_pages <= NOTHING, "{name}: {report}");
            assert!(report.free_pages + NOTHING > report.end_pages - 64);
            if round == 3 {
                drop(db);
                db = options(&choice).open(&path).unwrap();
                assert_eq!(check(&db).free_pages, report.free_pages, "{name}");
            }
        }
        assert!(ends[5] <= ends[1] + 16, "{name}: the file grows: {ends:?}");
    }
}

#[test]
fn keys_of_every_length_at_every_page_size() {
    for size in PageSize::ALL {
        let (_directory, path) = scratch();
        let options = options(&pagers(size.bytes()).remove(0).1).page_size(size.bytes());
        let db = options.create(&path).unwrap();
        let most = bifolio::max_key_len(size);
        let lengths: Vec<usize> = (0..most).step_by(most / 40).chain([most]).collect();
        let mut txn = db.write().unwrap();
        let mut table = txn.table("t").unwrap();
        for &len in &lengths {
            for last in [0, 255] {
                let mut key = vec![b'k'; len];
                key.extend((len < most).then_some(last));
                table.insert(&key, &key).unwrap();
            }
        }
        let error = table.insert(vec![0; most + 1], "").unwrap_err();
        assert!(matches!(error, Error::Tree(TreeError::KeyTooLong { max, .. }) if max == most));
        txn.commit().unwrap();
        let snapshot = db.read().unwrap();
        let table = snapshot.table("t").unwrap();
        assert_eq!(table.len(), 2 * lengths.len() as u64 - 1);
        assert!(table.into_iter().all(|entry| {
            let (key, value) = entry.unwrap();
            key == value
        }));
        check(&db);
    }
}

#[test]
fn a_bulk_load_larger_than_the_pool_writes_its_pages_once() {
    for (name, choice) in handful(4096, 600) {
        let (_directory, path) = scratch();
        let db = options(&choice).create(&path).unwrap();
        let entry = |number: u32| (number.to_be_bytes(), [number as u8; 120]);
        let mut txn = db.write().unwrap();
        let mut table = txn.table("t").unwrap();
        table.bulk_load((0..120_000).map(entry)).unwrap();
        txn.commit().unwrap();
        let counters = db.counters();
        let report = check(&db);
        assert!(report.reached_pages > 3800, "6 times the pool: {report}");
        let written = counters.pages_written.unwrap();
        // The pool's own thread may come to a page before the loader has finished it.
        assert!(
            written <= report.reached_pages * 21 / 20,
            "{name}: {written} pages written for {}",
            report.reached_pages
        );
        let calls = counters.write_calls.unwrap();
        assert!(calls * 16 < written, "{name}: {written} in {calls} writes");
    }
}

/// What was loaded was written in its final form, and what changes of it is copied.
#[test]
fn a_loaded_table_is_changed_before_its_transaction_ends() {
    for (name, choice) in handful(4096, 64).into_iter().chain(pagers(4096)) {
        let (_directory, path) = scratch();
        let db = options(&choice).create(&path).unwrap();
        let entry = |number: u32| {
            let len = if number.is_multiple_of(500) { 9000 } else { 50 };
            (number.to_be_bytes(), vec![number as u8; len])
        };
        let work = |commit: bool| {
            let mut txn = db.write().unwrap();
            let mut table = txn.table("t").unwrap();
            table.clear().unwrap();
            table.bulk_load((0..20_000).map(entry)).unwrap();
            for number in (0..20_000).step_by(250) {
                table.remove(u32::to_be_bytes(number)).unwrap();
                table
                    .insert(u32::to_be_bytes(number + 1), b"other")
                    .unwrap();
            }
            let refused = table.bulk_load([("a", "1"), ("b", "2")]).unwrap_err();
            assert!(matches!(refused, Error::TableNotEmpty { .. }), "{refused}");
            let mut other = txn.table("other").unwrap();
            other.clear().unwrap();
            other.bulk_load((0..500).map(entry)).unwrap();
            if commit {
                txn.commit().unwrap();
            }
        };
        work(false);
        assert!(db.read().unwrap().table_names().unwrap().is_empty());
        work(true);
        work(false);
        work(true);
        let report = check(&db);
        assert_eq!(report.entries, 20_000 - 80 + 500, "{name}");
        let snapshot = db.read().unwrap();
        let table = snapshot.table("t").unwrap();
        assert_eq!(table.get(0_u32.to_be_bytes()).unwrap(), None);
        assert_eq!(table.get(1_u32.to_be_bytes()).unwrap().unwrap(), b"other");
        assert_eq!(table.get(2_u32.to_be_bytes()).unwrap().unwrap(), [2; 50]);
        drop(snapshot);

        // Out of order after many pages: what was written is taken back.
        let mut txn = db.write().unwrap();
        let mut table = txn.table("bad").unwrap();
        let disorder = (0..5000).chain([3]).map(entry);
        let error = table.bulk_load(disorder).unwrap_err();
        assert!(
            matches!(error, Error::Tree(TreeError::NotSorted { position: 5000 })),
            "{error}"
        );
        drop(txn);
        let mut txn = db.write().unwrap();
        assert!(txn.delete_table("t").unwrap() && txn.delete_table("other").unwrap());
        txn.commit().unwrap();
        let report = check(&db);
        assert!(report.reached_pages <= NOTHING, "{name}: {report}");
    }
}
