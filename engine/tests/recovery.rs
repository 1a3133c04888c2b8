//! What survives when a process ends without closing: killed children, copied files, missing logs.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::SystemTime;

use bifolio::{Database, Durability, Error, LogError, Options, PagerChoice};
use common::{assert_whole, options, pagers, random, scratch};
use rand::RngExt;

const CHILD: &str = "BIFOLIO_TEST_CHILD";

/// The files of the log of the database at `path`.
fn log_files(path: &Path) -> Vec<PathBuf> {
    let prefix = format!("{}-log.", path.file_name().unwrap().display());
    let is_segment = |name: &str| {
        // Not the segment that is being made in the background.
        name.strip_prefix(&prefix)
            .is_some_and(|number| number != "tmp")
    };
    let mut files: Vec<_> = fs::read_dir(path.parent().unwrap())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|file| is_segment(file.file_name().unwrap().to_str().unwrap()))
        .collect();
    files.sort();
    files
}

/// What a process that ends now leaves: a copy of the file and its log.
fn copy_all(path: &Path, to: &Path) {
    fs::copy(path, to).unwrap();
    for file in log_files(path) {
        let name = file.file_name().unwrap().to_str().unwrap();
        let suffix = name
            .strip_prefix(path.file_name().unwrap().to_str().unwrap())
            .unwrap();
        let target = format!("{}{suffix}", to.file_name().unwrap().display());
        fs::copy(&file, to.with_file_name(target)).unwrap();
    }
}

fn insert(db: &Database, key: u32, durability: Durability) {
    let mut txn = db.write().unwrap();
    txn.table("t")
        .unwrap()
        .insert(key.to_be_bytes(), [key as u8; 100])
        .unwrap();
    txn.commit_with(durability).unwrap();
}

fn keys(db: &Database) -> Vec<u32> {
    let snapshot = db.read().unwrap();
    let Ok(table) = snapshot.table("t") else {
        return Vec::new();
    };
    let entries = table.iter().map(|entry| entry.unwrap());
    entries
        .map(|(key, value)| {
            let key = u32::from_be_bytes(key.try_into().unwrap());
            assert_eq!(value, [key as u8; 100]);
            key
        })
        .collect()
}

/// Commits one record after the other for ever and says so, until it is killed. Runs as a child.
#[test]
fn child_that_commits_until_it_is_killed() {
    let Ok(spec) = std::env::var(CHILD) else {
        return;
    };
    let (pager, path) = spec.split_once(' ').unwrap();
    let choice = &pagers(4096)[pager.parse::<usize>().unwrap()].1;
    let db = options(choice).log_bytes(1 << 18).create(path).unwrap();
    let first = keys(&db).len() as u32;
    for key in first.. {
        insert(&db, key, Durability::Sync);
        println!("committed {key}");
    }
}

fn spawn_child(pager: usize, path: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "child_that_commits_until_it_is_killed",
            "--nocapture",
        ])
        .env(CHILD, format!("{pager} {}", path.display()))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
fn a_killed_process_loses_no_commit_that_returned() {
    let mut random = random(11);
    for (index, (name, choice)) in pagers(4096).into_iter().enumerate() {
        let (_directory, path) = scratch();
        let mut known = 0;
        for round in 0..5 {
            let mut child = spawn_child(index, &path);
            let wanted = known + random.random_range(20..400);
            for line in BufReader::new(child.stdout.take().unwrap()).lines() {
                let line = line.unwrap();
                let Some((_, number)) = line.split_once("committed ") else {
                    continue;
                };
                known = number.parse::<u32>().unwrap() + 1;
                if known >= wanted {
                    break;
                }
            }
            child.kill().unwrap();
            child.wait().unwrap();
            let db = options(&choice).open(&path).unwrap();
            let found = keys(&db);
            assert_eq!(
                found,
                (0..found.len() as u32).collect::<Vec<_>>(),
                "a prefix"
            );
            assert!(
                found.len() as u32 >= known,
                "{name}, round {round}: {known} were committed"
            );
            assert!(db.recovery_report().is_some(), "{name}: it was not closed");
            known = found.len() as u32;
            assert_whole(&db);
        }
        println!("{name}: {known} commits survived 5 kills");
    }
}

#[test]
fn a_copy_taken_without_closing_recovers_under_every_pager() {
    for (_, writes) in pagers(4096) {
        let (_directory, path) = scratch();
        let db = options(&writes).create(&path).unwrap();
        for key in 0..300 {
            insert(&db, key, Durability::Sync);
        }
        let mut txn = db.write().unwrap();
        assert!(txn.table("gone").unwrap().is_empty());
        txn.table("t").unwrap().remove(7_u32.to_be_bytes()).unwrap();
        txn.commit().unwrap();
        let mut txn = db.write().unwrap();
        txn.delete_table("gone").unwrap();
        txn.table("kept").unwrap().insert("a", "b").unwrap();
        txn.table("kept").unwrap().clear().unwrap();
        let mut kept = txn.table("kept").unwrap();
        for key in ["c", "d", "e", "f"] {
            kept.insert(key, "x").unwrap();
        }
        assert_eq!(kept.remove_range("d".."f").unwrap(), 2);
        assert_eq!(kept.remove_range("x"..).unwrap(), 0);
        txn.commit().unwrap();
        for (index, (name, reads)) in pagers(4096).into_iter().enumerate() {
            let copy = path.with_file_name(format!("copy{index}"));
            copy_all(&path, &copy);
            let copied = options(&reads).open(&copy).unwrap();
            let expected: Vec<_> = (0..300).filter(|&key| key != 7).collect();
            assert_eq!(keys(&copied), expected, "{name}");
            let snapshot = copied.read().unwrap();
            assert_eq!(snapshot.table_names().unwrap(), ["kept", "t"]);
            assert_eq!(
                snapshot.table("kept").unwrap().first().unwrap().unwrap().0,
                b"c"
            );
            assert!(copied.recovery_report().unwrap().commits >= 300, "{name}");
            assert_whole(&copied);
            insert(&copied, 7, Durability::Sync);
            drop(snapshot);
            copied.close().unwrap();
            assert!(log_files(&copy).is_empty(), "a closed database is one file");
            assert_eq!(keys(&options(&reads).open(&copy).unwrap()).len(), 300);
        }
    }
}

#[test]
fn recovery_cut_short_and_begun_again_finds_the_same() {
    let (_directory, path) = scratch();
    let db = Database::create(&path).unwrap();
    for key in 0..200 {
        insert(&db, key, Durability::Sync);
    }
    let copy = path.with_file_name("once");
    copy_all(&path, &copy);
    // Recover, commit, and leave again without closing: a second generation of log.
    let again = path.with_file_name("twice");
    let once = Database::open(&copy).unwrap();
    insert(&once, 200, Durability::Sync);
    copy_all(&copy, &again);
    let twice = Database::open(&again).unwrap();
    assert_eq!(keys(&twice), (0..=200).collect::<Vec<_>>());
    assert_whole(&twice);
}

#[test]
fn commits_that_nobody_waits_for_are_a_prefix_and_become_durable() {
    let (_directory, path) = scratch();
    let db = Options::new().create(&path).unwrap();
    insert(&db, 0, Durability::Sync);
    for key in 1..50 {
        insert(&db, key, Durability::Interval);
    }
    assert_eq!(keys(&db).len(), 50, "they are visible at once");
    let copy = path.with_file_name("copy");
    copy_all(&path, &copy);
    let found = keys(&Database::open(&copy).unwrap());
    assert_eq!(found, (0..found.len() as u32).collect::<Vec<_>>());
    assert!(!found.is_empty());
    // A synced commit makes all before it durable.
    insert(&db, 50, Durability::Sync);
    let copy = path.with_file_name("copy2");
    copy_all(&path, &copy);
    assert_eq!(keys(&Database::open(&copy).unwrap()).len(), 51);
}

#[test]
fn a_ticket_is_waited_for_and_durable_readers_do_not_see_ahead() {
    let (_directory, path) = scratch();
    let db = Options::new()
        .sync_interval(std::time::Duration::from_secs(3600))
        .create(&path);
    let db = db.unwrap();
    insert(&db, 0, Durability::Sync);
    let mut tickets = Vec::new();
    for key in 1..20 {
        let mut txn = db.write().unwrap();
        txn.table("t")
            .unwrap()
            .insert(u32::to_be_bytes(key), [key as u8; 100])
            .unwrap();
        tickets.push(txn.submit().unwrap());
    }
    assert_eq!(db.read().unwrap().table("t").unwrap().len(), 20);
    assert_eq!(db.read_durable().unwrap().table("t").unwrap().len(), 1);
    let last = tickets.pop().unwrap();
    let version = last.version();
    assert_eq!(last.wait().unwrap(), version);
    assert_eq!(
        db.read_durable().unwrap().version(),
        version,
        "one wait is for all before it"
    );
    for ticket in tickets {
        ticket.wait().unwrap();
    }
    assert_eq!(db.log_counters().unwrap().largest_group, 19);
}

#[test]
fn a_bulk_load_and_a_huge_transaction_are_durable_by_a_checkpoint() {
    for (name, choice) in pagers(4096) {
        let (_directory, path) = scratch();
        let db = options(&choice).log_bytes(1 << 20).create(&path).unwrap();
        insert(&db, 0, Durability::Sync);
        let mut txn = db.write().unwrap();
        let entries = (0..20_000_u32).map(|key| (key.to_be_bytes(), [1; 60]));
        txn.table("bulk").unwrap().bulk_load(entries).unwrap();
        txn.commit().unwrap();
        let mut txn = db.write().unwrap();
        let mut table = txn.table("huge").unwrap();
        for key in 0..20_000_u32 {
            table.insert(key.to_be_bytes(), [2; 60]).unwrap();
        }
        txn.commit().unwrap();
        insert(&db, 1, Durability::Sync);
        let copy = path.with_file_name("copy");
        copy_all(&path, &copy);
        let copied = options(&choice).open(&copy).unwrap();
        let snapshot = copied.read().unwrap();
        assert_eq!(snapshot.table("bulk").unwrap().len(), 20_000, "{name}");
        assert_eq!(snapshot.table("huge").unwrap().len(), 20_000, "{name}");
        assert_eq!(keys(&copied), [0, 1]);
        assert_whole(&copied);
        let logged = db.log_counters().unwrap().record_bytes;
        assert!(
            logged < 1 << 20,
            "{name}: {logged} bytes of a load were logged"
        );
    }
}

#[test]
fn the_log_stays_within_its_limit_while_writers_go_on() {
    let (_directory, path) = scratch();
    let db = Options::new().log_bytes(1 << 19).create(&path).unwrap();
    let mut largest = 0;
    for key in 0..3000 {
        insert(&db, key % 500, Durability::Interval);
        let mut txn = db.write().unwrap();
        txn.table("wide")
            .unwrap()
            .insert(key.to_be_bytes(), [3; 1000])
            .unwrap();
        txn.commit_with(Durability::Interval).unwrap();
        if key % 100 == 0 {
            let bytes: u64 = log_files(&path)
                .iter()
                .map(|f| f.metadata().unwrap().len())
                .sum();
            largest = largest.max(bytes);
        }
    }
    assert!(
        largest <= 3 << 20,
        "{largest} bytes of log for a limit of 512 KiB"
    );
    assert_whole(&db);
}

#[test]
fn threads_that_commit_at_once_share_syncs_and_lose_nothing() {
    for (name, choice) in pagers(4096) {
        let (_directory, path) = scratch();
        let db = options(&choice).create(&path).unwrap();
        std::thread::scope(|scope| {
            for thread in 0..8_u32 {
                let db = &db;
                scope.spawn(move || {
                    for number in 0..50 {
                        insert(db, thread * 1000 + number, Durability::Sync);
                    }
                });
            }
        });
        let copy = path.with_file_name("copy");
        copy_all(&path, &copy);
        let expected: BTreeSet<_> = (0..8)
            .flat_map(|thread| (0..50).map(move |number| thread * 1000 + number))
            .collect();
        let found: BTreeSet<_> = keys(&options(&choice).open(&copy).unwrap())
            .into_iter()
            .collect();
        assert_eq!(found, expected, "{name}");
    }
}

#[test]
fn a_database_copied_without_its_log_is_an_error_and_not_a_shorter_history() {
    let (_directory, path) = scratch();
    let db = Database::create(&path).unwrap();
    insert(&db, 0, Durability::Sync);
    let copy = path.with_file_name("copy");
    fs::copy(&path, &copy).unwrap();
    let error = Database::open(&copy).err().unwrap();
    assert!(
        matches!(error, Error::Log(LogError::Missing { .. })),
        "{error}"
    );
    assert!(Database::open(&copy).is_err(), "and it stays one");
}

/// Every file of the directory: its name, its content, when it was last changed.
fn everything(directory: &Path) -> Vec<(PathBuf, Vec<u8>, SystemTime)> {
    let mut files: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| {
            let changed = fs::metadata(&path).unwrap().modified().unwrap();
            (path.clone(), fs::read(&path).unwrap(), changed)
        })
        .collect();
    files.sort();
    files
}

#[test]
fn reading_only_what_needs_recovery_shows_every_commit_and_changes_nothing() {
    let (directory, path) = scratch();
    let db = Database::create(&path).unwrap();
    for key in 0..300 {
        insert(&db, key, Durability::Sync);
        if key == 100 {
            db.checkpoint().unwrap();
        }
    }
    let copies = directory.path().join("copies");
    fs::create_dir(&copies).unwrap();
    let copy = copies.join("copy");
    copy_all(&path, &copy);
    drop(db);
    let before = everything(&copies);
    for (name, choice) in pagers(4096) {
        let reading = options(&choice).read_only(true);
        // Two at once, each with what it replayed.
        let dbs = [(); 2].map(|()| reading.open(&copy).unwrap());
        for db in &dbs {
            assert_eq!(keys(db), (0..300).collect::<Vec<_>>(), "{name}");
            assert_eq!(db.recovery_report().unwrap().commits, 199, "{name}");
            assert!(matches!(db.write(), Err(Error::ReadOnly)), "{name}");
            assert!(matches!(db.checkpoint(), Err(Error::ReadOnly)), "{name}");
            let snapshot = db.read_durable().unwrap();
            assert_eq!(snapshot.table("t").unwrap().iter().rev().count(), 300);
            assert_whole(db);
        }
        drop(dbs);
        let little = reading.recovery_memory_bytes(8 * 4096);
        let error = little.open(&copy).err().unwrap();
        assert!(matches!(error, Error::NeedsRecovery { .. }), "{error}");
        assert!(everything(&copies) == before, "{name} changed something");
    }
    // Its log is no less needed than for writing.
    let log = log_files(&copy).remove(0);
    fs::rename(&log, path.with_file_name("elsewhere")).unwrap();
    let error = Options::new().read_only(true).open(&copy).err().unwrap();
    assert!(
        matches!(error, Error::Log(LogError::Missing { .. })),
        "{error}"
    );
    fs::rename(path.with_file_name("elsewhere"), &log).unwrap();
    let db = Database::open(&copy).unwrap();
    assert_eq!(keys(&db).len(), 300);
}

#[test]
fn a_flipped_bit_in_the_middle_of_the_log_is_reported() {
    let (_directory, path) = scratch();
    let db = Database::create(&path).unwrap();
    for key in 0..100 {
        insert(&db, key, Durability::Sync);
    }
    let copy = path.with_file_name("copy");
    copy_all(&path, &copy);
    let segment = &log_files(&copy)[0];
    let mut bytes = fs::read(segment).unwrap();
    bytes[20_000] ^= 0x08;
    fs::write(segment, &bytes).unwrap();
    let error = Database::open(&copy).err().unwrap();
    assert!(
        matches!(error, Error::Log(LogError::Corrupt { .. })),
        "{error}"
    );
}

#[test]
fn the_memory_pager_has_no_log() {
    let db = Options::new()
        .pager(PagerChoice::Memory)
        .in_memory()
        .unwrap();
    insert(&db, 0, Durability::Sync);
    assert!(db.log_counters().is_none());
    assert_eq!(db.read_durable().unwrap().table("t").unwrap().len(), 1);
}
