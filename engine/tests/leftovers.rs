//! What a process that ended without closing leaves beside the database, and what becomes of it when
//! the database is found by another name, is gone, or is made anew.

mod common;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use bifolio::{Database, Error, LogError, Options};
use common::child::{self, in_child};
use common::{assert_whole, scratch};

const PATH: &str = "BIFOLIO_PATH";

fn put(db: &Database, key: &str) {
    let mut txn = db.write().unwrap();
    txn.table("t").unwrap().insert(key, "value").unwrap();
    txn.commit().unwrap();
}

fn keys(db: &Database) -> Vec<String> {
    assert_whole(db);
    let snapshot = db.read().unwrap();
    let Ok(table) = snapshot.table("t") else {
        return Vec::new();
    };
    let keys = table.iter().map(|entry| entry.unwrap().0);
    keys.map(|key| String::from_utf8(key).unwrap()).collect()
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

/// A process that opens the database at `path`, commits `key`, and ends there. Its test must begin
/// with [`end_here_if_asked`].
fn ends_after_committing(test: &str, path: &Path, key: &str) {
    let mut command = child::again(test);
    let status = command.env(PATH, path).env("BIFOLIO_KEY", key).status();
    assert!(status.unwrap().success());
}

fn end_here_if_asked() {
    if let Some(path) = std::env::var_os(PATH) {
        let db = Database::create(PathBuf::from(path)).unwrap();
        put(&db, &std::env::var("BIFOLIO_KEY").unwrap());
        std::process::exit(0); // nothing is dropped
    }
}

#[test]
fn a_database_has_one_log_by_whatever_link_it_is_opened() {
    end_here_if_asked();
    const TEST: &str = "a_database_has_one_log_by_whatever_link_it_is_opened";
    let (directory, path) = scratch();
    let elsewhere = directory.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    let link = elsewhere.join("link");
    symlink(&path, &link).unwrap();
    ends_after_committing(TEST, &path, "by its name");
    ends_after_committing(TEST, &link, "by a link");
    assert_eq!(names(&elsewhere), ["link"], "the log lies with the file");
    let db = Database::open(&path).unwrap();
    assert_eq!(keys(&db), ["by a link", "by its name"]);
    drop(db);
    ends_after_committing(TEST, &path, "once more");
    assert_eq!(keys(&Database::open(&link).unwrap()).len(), 3);
    assert_eq!(names(directory.path()), ["elsewhere", "test.bifolio"]);
}

#[test]
fn a_database_that_was_moved_without_its_log_says_what_is_missing() {
    end_here_if_asked();
    const TEST: &str = "a_database_that_was_moved_without_its_log_says_what_is_missing";
    let (directory, path) = scratch();
    ends_after_committing(TEST, &path, "kept");
    let moved = directory.path().join("moved");
    fs::rename(&path, &moved).unwrap();
    let before = names(directory.path());
    for _ in 0..2 {
        let error = Database::open(&moved).unwrap_err();
        assert!(
            matches!(error, Error::Log(LogError::Missing { .. })),
            "{error}"
        );
        assert_eq!(
            names(directory.path()),
            before,
            "nothing was made or removed"
        );
    }
    // Moved back, it is whole; and closed, it may be moved alone.
    fs::rename(&moved, &path).unwrap();
    let db = Database::open(&path).unwrap();
    assert_eq!(keys(&db), ["kept"]);
    db.close().unwrap();
    fs::rename(&path, &moved).unwrap();
    assert_eq!(keys(&Database::open(&moved).unwrap()), ["kept"]);
}

#[test]
fn the_log_of_a_database_that_is_gone_is_nobodys() {
    end_here_if_asked();
    const TEST: &str = "the_log_of_a_database_that_is_gone_is_nobodys";
    let (directory, path) = scratch();
    ends_after_committing(TEST, &path, "gone");
    fs::remove_file(&path).unwrap();
    assert!(
        !names(directory.path()).is_empty(),
        "its log is still there"
    );
    ends_after_committing(TEST, &path, "new");
    let db = Database::open(&path).unwrap();
    assert_eq!(keys(&db), ["new"]);
    put(&db, "and on");
    db.close().unwrap();
    assert_eq!(names(directory.path()), ["test.bifolio"]);
}

#[test]
fn an_older_copy_put_back_does_not_take_the_newer_log_for_its_own() {
    end_here_if_asked();
    const TEST: &str = "an_older_copy_put_back_does_not_take_the_newer_log_for_its_own";
    let (directory, path) = scratch();
    put(&Database::create(&path).unwrap(), "old");
    let copy = directory.path().join("copy");
    fs::copy(&path, &copy).unwrap(); // of a closed database: it needs no log
    ends_after_committing(TEST, &path, "new");
    fs::rename(&copy, &path).unwrap();
    let db = Database::open(&path).unwrap();
    assert_eq!(keys(&db), ["old"]);
    put(&db, "and on");
    drop(db);
    assert_eq!(keys(&Database::open(&path).unwrap()), ["and on", "old"]);
}

#[test]
fn a_log_stays_with_its_database_when_the_process_changes_directory() {
    const TEST: &str = "a_log_stays_with_its_database_when_the_process_changes_directory";
    in_child(TEST, || {
        let (directory, _) = scratch();
        let other = directory.path().join("other");
        fs::create_dir(&other).unwrap();
        std::env::set_current_dir(directory.path()).unwrap();
        let db = Options::new()
            .log_bytes(1 << 16)
            .create("relative")
            .unwrap();
        std::env::set_current_dir(&other).unwrap();
        for number in 0..2000 {
            put(&db, &format!("key {number:04}"));
        }
        assert_whole(&db);
        assert!(names(&other).is_empty());
        db.close().unwrap();
        assert_eq!(names(directory.path()), ["other", "relative"]);
    });
}

#[test]
fn two_databases_in_one_directory_keep_to_their_own_logs() {
    end_here_if_asked();
    const TEST: &str = "two_databases_in_one_directory_keep_to_their_own_logs";
    let (directory, path) = scratch();
    // Names that one might take for each other's.
    let others = ["test.bifolio-log", "test.bifolio-log.0", "test.bifoli"];
    let others = others.map(|name| directory.path().join(name));
    ends_after_committing(TEST, &path, "first");
    for other in &others {
        ends_after_committing(TEST, other, "other");
    }
    assert_eq!(keys(&Database::open(&path).unwrap()), ["first"]);
    for other in &others {
        assert_eq!(keys(&Database::open(other).unwrap()), ["other"]);
    }
    assert_eq!(names(directory.path()).len(), 4, "and every log is gone");
}
