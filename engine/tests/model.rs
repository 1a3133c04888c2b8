//! Random work on real files, compared with `BTreeMap`, under every pager and page size; and the
//! same file under alternating pagers.

mod common;

use std::collections::BTreeMap;

use bifolio::{Database, PageSize, PagerChoice, WriteTxn};
use common::{assert_whole, handful, options, pagers, random, random_key, random_value, scratch};
use rand::RngExt;
use rand::rngs::StdRng;

type Tables = BTreeMap<String, BTreeMap<Vec<u8>, Vec<u8>>>;

const NAMES: [&str; 3] = ["ash", "birch", "cedar"];

/// One transaction of random changes, on the database and on the model alike.
fn change(txn: &mut WriteTxn, model: &mut Tables, random: &mut StdRng, page_size: usize) {
    for _ in 0..random.random_range(1..200) {
        let name = NAMES[random.random_range(0..NAMES.len())];
        if random.random_ratio(1, 300) {
            let known = model.remove(name).is_some();
            assert_eq!(txn.delete_table(name).unwrap(), known);
            continue;
        }
        let mut table = txn.table(name).unwrap();
        let expected = model.entry(name.to_owned()).or_default();
        let key = random_key(random);
        if random.random_ratio(2, 5) {
            assert_eq!(table.remove(&key).unwrap(), expected.remove(&key).is_some());
        } else {
            let value = random_value(random, page_size);
            let replaced = table.insert(&key, &value).unwrap();
            assert_eq!(replaced, expected.insert(key.clone(), value).is_some());
        }
        assert_eq!(
            table.get(&key).unwrap().as_ref(),
            expected.get(&key),
            "read your writes"
        );
    }
}

#[track_caller]
fn assert_equal(db: &Database, model: &Tables) {
    let snapshot = db.read().unwrap();
    assert_eq!(
        snapshot.table_names().unwrap(),
        model.keys().cloned().collect::<Vec<_>>()
    );
    for (name, expected) in model {
        let table = snapshot.table(name).unwrap();
        assert_eq!(table.len(), expected.len() as u64);
        let found: Vec<_> = table.iter().map(Result::unwrap).collect();
        assert!(
            found.iter().map(|(k, v)| (k, v)).eq(expected.iter()),
            "table {name}, forwards"
        );
        let mut back: Vec<_> = table.iter().rev().map(Result::unwrap).collect();
        back.reverse();
        assert!(back == found, "table {name}, backwards");
    }
}

fn run(
    path: &std::path::Path,
    choices: &[PagerChoice],
    page_size: usize,
    seed: u64,
    rounds: usize,
) {
    let mut random = random(seed);
    let mut model = Tables::new();
    let mut db = None;
    for round in 0..rounds {
        let choice = &choices[round % choices.len()];
        let open = db
            .take()
            .unwrap_or_else(|| options(choice).page_size(page_size).create(path).unwrap());
        let mut txn = open.write().unwrap();
        if random.random_ratio(1, 4) {
            change(&mut txn, &mut model.clone(), &mut random, page_size);
            txn.rollback();
        } else {
            change(&mut txn, &mut model, &mut random, page_size);
            txn.commit().unwrap();
        }
        assert_equal(&open, &model);
        assert_whole(&open);
        // Otherwise the next round opens the file anew, perhaps under the next pager.
        if random.random_ratio(2, 3) && choices.len() == 1 {
            db = Some(open);
        }
    }
}

#[test]
fn every_pager_does_what_a_btreemap_does() {
    for page_size in PageSize::ALL.map(PageSize::bytes) {
        for (name, choice) in pagers(page_size) {
            println!("{name}, {page_size} bytes a page");
            let (_directory, path) = scratch();
            run(&path, &[choice], page_size, page_size as u64, 8);
        }
    }
}

#[test]
fn pools_of_a_handful_of_frames_do_what_a_btreemap_does() {
    for page_size in PageSize::ALL.map(PageSize::bytes) {
        for (name, choice) in handful(page_size, 10) {
            println!("{name}, {page_size} bytes a page");
            let (_directory, path) = scratch();
            run(&path, &[choice], page_size, 7 + page_size as u64, 8);
        }
    }
}

#[test]
fn a_file_written_under_one_pager_reads_the_same_under_the_others() {
    for page_size in [4096, 8192, 32768] {
        let choices: Vec<_> = pagers(page_size)
            .into_iter()
            .chain(handful(page_size, 10))
            .map(|(_, choice)| choice)
            .collect();
        let (_directory, path) = scratch();
        run(&path, &choices, page_size, 17 + page_size as u64, 24);
    }
}

#[test]
fn a_database_in_memory_does_what_a_btreemap_does() {
    let mut random = random(3);
    let mut model = Tables::new();
    let db = Database::in_memory().unwrap();
    for _ in 0..30 {
        let mut txn = db.write().unwrap();
        change(&mut txn, &mut model, &mut random, 4096);
        txn.commit().unwrap();
        assert_equal(&db, &model);
        assert_whole(&db);
    }
}
