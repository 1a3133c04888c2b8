//! Reading out what is left: a part of the truth, never anything else, and all that is not lost.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use bifolio::{CheckFinding, Database, Error, Options, SalvageReport, SalvagedFrom, salvage};
use common::{options, pagers, random, scratch};
use rand::RngExt;

/// Table and key, and the values that the key ever had, the newest last.
type Truth = BTreeMap<(String, Vec<u8>), Vec<Vec<u8>>>;
type Found = BTreeMap<(String, Vec<u8>), Vec<u8>>;

const PAGE: usize = 4096;

/// A closed database of several versions, so that its free pages hold old entries.
fn sample(path: &Path) -> Truth {
    sample_with(path, &mut |_| ())
}

/// The same; each version but the last is shown, as the file has it.
fn sample_with(path: &Path, show: &mut dyn FnMut(Vec<u8>)) -> Truth {
    let mut random = random(31);
    let mut truth = Truth::new();
    let db = Options::new().create(path).unwrap();
    for round in 0..6_u8 {
        let mut txn = db.write().unwrap();
        for (name, keys) in [("first", 2500_u32), ("second", 300)] {
            let mut table = txn.table(name).unwrap();
            for key in 0..keys {
                if round > 0 && random.random_range(0..10) > 0 {
                    continue;
                }
                let len = if key % 400 == 7 {
                    9000
                } else {
                    key as usize % 90
                };
                let (key, value) = (key.to_be_bytes().to_vec(), vec![round; len + 1]);
                table.insert(&key, &value).unwrap();
                truth.entry((name.to_owned(), key)).or_default().push(value);
            }
        }
        txn.commit().unwrap();
        db.checkpoint().unwrap();
        if round < 5 {
            show(fs::read(path).unwrap());
        }
    }
    db.close().unwrap();
    truth
}

fn read_out(path: &Path, options: &Options) -> Result<(SalvageReport, Found), Error> {
    let before = fs::read(path).unwrap();
    let mut found = Found::new();
    let report = salvage(path, options, |table, key, value| {
        let twice = found.insert((table.to_owned(), key.to_vec()), value.to_vec());
        assert!(twice.is_none(), "an entry is told twice");
        Ok(())
    });
    assert!(fs::read(path).unwrap() == before, "it was changed");
    report.map(|report| {
        assert_eq!(report.entries, found.len() as u64);
        (report, found)
    })
}

/// Every entry found is one of the truth; every other one is reported lost. Returns how many are.
#[track_caller]
fn expect_part_of(truth: &Truth, report: &SalvageReport, found: &Found, newest: bool) -> usize {
    for (entry, value) in found {
        let values = &truth[entry];
        match newest {
            true => assert_eq!(values.last(), Some(value), "{entry:?}"),
            false => assert!(values.contains(value), "{entry:?}"),
        }
    }
    let missing: Vec<_> = truth
        .keys()
        .filter(|entry| !found.contains_key(*entry))
        .collect();
    for (table, key) in &missing {
        let covers = |lost: &&CheckFinding| {
            let keys = lost
                .finding
                .lost
                .as_ref()
                .expect("salvage says what is lost");
            match lost.place.as_str() {
                "catalogue" => keys.contains(table.as_bytes()),
                place => place == format!("{table:?}") && keys.contains(key),
            }
        };
        assert!(
            report.lost.iter().any(|lost| covers(&lost)),
            "{table} {key:?}\n{report}"
        );
    }
    missing.len()
}

fn flip(path: &Path, to: &Path, places: &[usize]) {
    let mut bytes = fs::read(path).unwrap();
    for &at in places {
        bytes[at] ^= 0x10;
    }
    fs::write(to, bytes).unwrap();
}

#[test]
fn of_a_whole_database_all_is_read_out() {
    let (_directory, path) = scratch();
    let truth = sample(&path);
    for (name, choice) in pagers(PAGE) {
        let (report, found) = read_out(&path, &options(&choice)).unwrap();
        assert!(report.is_complete(), "{name}: {report}");
        assert_eq!(expect_part_of(&truth, &report, &found, true), 0);
        assert_eq!(report.tables, ["first", "second"]);
    }
}

#[test]
fn with_one_page_damaged_all_is_read_out_but_what_is_reported_lost() {
    let (directory, path) = scratch();
    let truth = sample(&path);
    let pages = fs::metadata(&path).unwrap().len() as usize / PAGE;
    let (mut harmless, mut small, mut large) = (0, 0, 0);
    let damaged = directory.path().join("damaged");
    for (index, page) in (32..pages).step_by(3).enumerate() {
        let pagers = pagers(PAGE);
        let (name, choice) = &pagers[index % pagers.len()];
        flip(&path, &damaged, &[page * PAGE + (page * 577) % PAGE]);
        let (report, found) = read_out(&damaged, &options(choice)).unwrap();
        assert_eq!(report.from, SalvagedFrom::Newest, "{name}, page {page}");
        match expect_part_of(&truth, &report, &found, true) {
            0 => harmless += 1, // free, or of the map
            1..400 => small += 1,
            _ => large += 1,
        }
        // The check reports the same, with the same way to it.
        let db = options(choice).read_only(true).open(&damaged).unwrap();
        let check = db.check().unwrap();
        for lost in &report.lost {
            let same =
                |known: &CheckFinding| known.place == lost.place && known.finding == lost.finding;
            assert!(check.findings.iter().any(same), "{lost:?}\n{check}");
        }
        if !report.lost.is_empty() {
            let findings = check.findings.len();
            assert_eq!(
                findings,
                report.lost.len(),
                "one page, one finding: {check}"
            );
        }
    }
    println!("{harmless} harmless, {small} of a leaf, {large} of more");
    assert!(harmless > 0 && small > 10);
}

#[test]
fn with_many_pages_damaged_what_is_left_is_right() {
    let (directory, path) = scratch();
    let truth = sample(&path);
    let len = fs::metadata(&path).unwrap().len() as usize;
    let damaged = directory.path().join("damaged");
    let mut random = random(32);
    for round in 0..40 {
        let pagers = pagers(PAGE);
        let (_, choice) = &pagers[round % pagers.len()];
        let places: Vec<_> = (0..round)
            .map(|_| random.random_range(131_072..len))
            .collect();
        flip(&path, &damaged, &places);
        let (report, found) = read_out(&damaged, &options(choice)).unwrap();
        expect_part_of(&truth, &report, &found, true);
    }
}

#[test]
fn a_page_of_an_older_version_is_lost_and_not_taken_for_the_new_one() {
    let (directory, path) = scratch();
    let mut versions = Vec::new();
    let truth = sample_with(&path, &mut |bytes| versions.push(bytes));
    let newest = fs::read(&path).unwrap();
    let damaged = directory.path().join("damaged");
    let (mut stale, mut missed) = (0, 0);
    for (index, number) in (32..newest.len() / PAGE).step_by(2).enumerate() {
        let page = number * PAGE..(number + 1) * PAGE;
        // Whole in itself: a write that got lost leaves such a page.
        let is_other = |old: &&[u8]| *old != &newest[page.clone()] && old.iter().any(|&b| b != 0);
        let mut olds = versions.iter().filter_map(|bytes| bytes.get(page.clone()));
        let Some(old) = olds.rfind(is_other) else {
            continue;
        };
        let mut bytes = newest.clone();
        bytes[page].copy_from_slice(old);
        fs::write(&damaged, bytes).unwrap();
        let pagers = pagers(PAGE);
        let (_, choice) = &pagers[index % pagers.len()];
        let (report, found) = read_out(&damaged, &options(choice)).unwrap();
        stale += 1;
        missed += u32::from(expect_part_of(&truth, &report, &found, true) > 0);
    }
    println!("{stale} stale pages, {missed} that hold something");
    assert!(missed > 3, "{missed} of {stale}");
}

/// The bytes of the checksums of both copies in both slots.
fn checksums() -> Vec<usize> {
    let copies = [0, 4096 - 512];
    [0, 65_536]
        .iter()
        .flat_map(|slot| copies.map(|copy| slot + copy + 507))
        .collect()
}

#[test]
fn without_a_meta_the_catalogue_is_found_in_the_pages() {
    let (directory, path) = scratch();
    let truth = sample(&path);
    let damaged = directory.path().join("damaged");
    let whole: BTreeSet<_> = truth.keys().cloned().collect();
    for (name, choice) in pagers(PAGE) {
        flip(&path, &damaged, &checksums());
        let (report, found) = read_out(&damaged, &options(&choice)).unwrap();
        assert!(matches!(report.from, SalvagedFrom::Scan { .. }), "{name}");
        assert!(!report.is_complete());
        assert_eq!(expect_part_of(&truth, &report, &found, true), 0, "{name}");
        assert!(found.keys().cloned().collect::<BTreeSet<_>>() == whole);
    }
    // And with a page of the newest state damaged: an older state that is whole, or a part of one.
    let len = fs::metadata(&path).unwrap().len() as usize;
    let mut random = random(33);
    for _ in 0..10 {
        let mut places = checksums();
        places.push(random.random_range(131_072..len));
        flip(&path, &damaged, &places);
        let (report, found) = read_out(&damaged, &Options::new()).unwrap();
        expect_part_of(&truth, &report, &found, false);
    }
    // Nothing can be believed of a file that does not say what it was.
    let mut bytes = fs::read(&path).unwrap();
    bytes[..131_072].fill(0);
    fs::write(&damaged, bytes).unwrap();
    let error = read_out(&damaged, &Options::new()).err().unwrap();
    assert!(matches!(error, Error::NotADatabase { .. }), "{error}");
}

#[test]
fn one_damaged_meta_and_a_file_that_is_cut_short_leave_what_they_leave() {
    let (directory, path) = scratch();
    let truth = sample(&path);
    let damaged = directory.path().join("damaged");
    for slot in [0, 65_536] {
        flip(&path, &damaged, &[slot + 100, slot + 3684]);
        assert!(Database::open(&damaged).is_err());
        let (report, found) = read_out(&damaged, &Options::new()).unwrap();
        assert!(matches!(report.from, SalvagedFrom::Meta { .. }));
        expect_part_of(&truth, &report, &found, false);
        assert!(found.len() > 2000, "{report}");
    }
    let bytes = fs::read(&path).unwrap();
    for (_, choice) in pagers(PAGE) {
        for len in [70_000, 131_072, 140_000, bytes.len() / 2, bytes.len() - 1] {
            fs::write(&damaged, &bytes[..len]).unwrap();
            match read_out(&damaged, &options(&choice)) {
                Ok((report, found)) => {
                    expect_part_of(&truth, &report, &found, false);
                }
                Err(error) => assert!(!matches!(error, Error::InUse { .. }), "{error}"),
            }
        }
    }
}

#[test]
fn what_is_only_in_the_log_is_read_out_if_the_log_is_whole() {
    let (directory, path) = scratch();
    let db = Database::create(&path).unwrap();
    let put = |key: u32| {
        let mut txn = db.write().unwrap();
        txn.table("t")
            .unwrap()
            .insert(key.to_be_bytes(), [7; 50])
            .unwrap();
        txn.commit().unwrap();
    };
    (0..100).for_each(put);
    db.checkpoint().unwrap();
    (100..200).for_each(put);
    let copies = directory.path().join("copies");
    fs::create_dir(&copies).unwrap();
    let mut logs = Vec::new();
    for entry in fs::read_dir(directory.path()).unwrap() {
        let from = entry.unwrap().path();
        if from.is_file() {
            let to = copies.join(from.file_name().unwrap());
            fs::copy(&from, &to).unwrap();
            logs.extend(to.to_str().unwrap().contains("-log.").then_some(to));
        }
    }
    let copy = copies.join(path.file_name().unwrap());
    let (report, found) = read_out(&copy, &Options::new()).unwrap();
    assert!(report.is_complete() && found.len() == 200, "{report}");
    // Too little memory to replay it is a reason too.
    let little = Options::new().recovery_memory_bytes(4096);
    let (report, found) = read_out(&copy, &little).unwrap();
    assert!(matches!(report.from, SalvagedFrom::Meta { .. }) && found.len() == 100);
    logs.iter().for_each(|log| fs::remove_file(log).unwrap());
    let (report, found) = read_out(&copy, &Options::new()).unwrap();
    assert!(matches!(report.from, SalvagedFrom::Meta { .. }) && found.len() == 100);
    assert!(
        report.to_string().contains("later commits are missing"),
        "{report}"
    );
}

#[test]
fn whoever_takes_may_stop_and_whoever_has_it_open_is_named() {
    let (_directory, path) = scratch();
    sample(&path);
    let mut taken = 0;
    let error = salvage(&path, &Options::new(), |_, _, _| {
        taken += 1;
        Err(Error::ReadOnly)
    });
    assert!(matches!(error, Err(Error::ReadOnly)) && taken == 1);
    let _db = Database::open(&path).unwrap();
    let error = salvage(&path, &Options::new(), |_, _, _| Ok(()));
    assert!(matches!(error, Err(Error::InUse { .. })));
}
