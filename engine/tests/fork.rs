//! A process that forks while it has a database open: the child may not use it, and does no harm.

mod common;

use std::cell::Cell;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::Duration;

use bifolio::{Database, Error};
use common::child::in_child;
use common::{assert_whole, options, pagers, scratch};

fn put(db: &Database, key: &str, value: &str) {
    let mut txn = db.write().unwrap();
    txn.table("t").unwrap().insert(key, value).unwrap();
    txn.commit().unwrap();
}

/// Runs `body` in a forked child, and `meanwhile` here. Fails if the child does, or hangs.
fn forked(body: impl FnOnce(), meanwhile: impl FnOnce()) {
    // SAFETY: the child runs on this thread alone, calls what allocates (glibc's allocator can be
    // used after a fork) and what makes system calls, and ends by `_exit`.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "fork: {}", std::io::Error::last_os_error());
    if child == 0 {
        // SAFETY: it has no preconditions. A child that hangs is ended by the signal.
        unsafe { libc::alarm(60) };
        let failed = catch_unwind(AssertUnwindSafe(body)).is_err();
        // SAFETY: it ends this process and returns to nobody.
        unsafe { libc::_exit(i32::from(failed)) };
    }
    meanwhile();
    let mut status = 0;
    // SAFETY: `child` is ours and was not waited for; `status` is a place for its status.
    let waited = unsafe { libc::waitpid(child, &raw mut status, 0) };
    assert_eq!((waited, status), (child, 0), "the child failed or hung");
}

fn files(directory: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| {
            let name = entry.file_name().into_string().unwrap();
            (name, fs::read(entry.path()).unwrap())
        })
        .collect();
    files.sort();
    files
}

#[track_caller]
fn assert_forked<T>(outcome: Result<T, Error>) {
    let error = outcome.err().expect("it is the parent's");
    assert!(matches!(error, Error::Forked { .. }), "{error}");
}

#[test]
fn a_forked_child_is_refused_everywhere_and_changes_nothing() {
    const TEST: &str = "a_forked_child_is_refused_everywhere_and_changes_nothing";
    in_child(TEST, || {
        for (name, choice) in pagers(4096) {
            println!("{name}");
            let (directory, path) = scratch();
            // Nothing is written in the background meanwhile.
            let quiet = options(&choice).sync_interval(Duration::from_secs(3600));
            let db = quiet.create(&path).unwrap();
            for number in 0..500 {
                put(&db, &format!("{number}"), "before");
            }
            {
                let snapshot = db.read().unwrap();
                let table = snapshot.table("t").unwrap();
                let mut range = table.iter();
                range.next().unwrap().unwrap();
                let mut early = db.write().unwrap();
                early.table("t").unwrap().insert("early", "1").unwrap();
                let ticket = early.submit().unwrap();
                let mut txn = db.write().unwrap();
                txn.table("t").unwrap().insert("late", "2").unwrap();

                // The log's next segment is made in the background, once.
                let segments = |names: Vec<(String, Vec<u8>)>| {
                    let of_log = names.iter().filter(|(name, _)| name.contains("-log.0"));
                    of_log.count()
                };
                while segments(files(directory.path())) < 2 {
                    std::thread::sleep(Duration::from_millis(10));
                }
                let before = files(directory.path());
                let (range, ticket, txn) = (
                    Cell::new(Some(range)),
                    Cell::new(Some(ticket)),
                    Cell::new(Some(txn)),
                );
                let snapshot_too = Cell::new(Some(db.read().unwrap()));
                let db_too = Cell::new(Some(db.clone()));
                let in_the_child = || {
                    assert_forked(db.read());
                    assert_forked(db.read_durable());
                    assert_forked(db.checkpoint());
                    assert_forked(db.check());
                    assert_forked(db.write());
                    assert_forked(snapshot.table("t"));
                    assert_forked(snapshot.table_names());
                    assert_forked(table.get("1"));
                    assert_forked(table.first());
                    assert_forked(table.get_many(&["1"], |_, _| {}));
                    println!("{db:?}");
                    // Parent and child have copies of them all, and each drops its own.
                    let (mut range, ticket) = (range.take().unwrap(), ticket.take().unwrap());
                    let (mut txn, db) = (txn.take().unwrap(), db_too.take().unwrap());
                    assert_forked(range.next().expect("it says why it ends"));
                    assert!(range.next().is_none(), "and then it ends");
                    drop(range);
                    assert_forked(ticket.wait());
                    assert_forked(txn.table("t"));
                    assert_forked(txn.table_names());
                    assert_forked(txn.commit());
                    drop(snapshot_too.take());
                    assert_forked(db.clone().close());
                    drop(db);
                    let error = Database::open(&path).expect_err("the parent has it");
                    assert!(matches!(error, Error::InUse { .. }), "{error}");
                    // A database of its own is nothing special.
                    let (_directory, own) = scratch();
                    let own = options(&choice).create(own).unwrap();
                    put(&own, "k", "v");
                    assert_whole(&own);
                    own.close().unwrap();
                };
                forked(in_the_child, || {});
                assert!(files(directory.path()) == before, "{name}: it wrote");
                ticket.take().unwrap().wait().unwrap();
                txn.take().unwrap().commit().unwrap();
                assert_eq!(range.take().unwrap().count(), 499);
                assert_whole(&db);
            }
            db.close().unwrap();
            let db = options(&choice).open(&path).unwrap();
            assert_eq!(db.read().unwrap().table("t").unwrap().len(), 502);
        }
    });
}

#[test]
fn a_forked_child_may_open_the_file_once_its_parent_has_closed_it() {
    const TEST: &str = "a_forked_child_may_open_the_file_once_its_parent_has_closed_it";
    in_child(TEST, || {
        for (_, choice) in pagers(4096) {
            let (_directory, path) = scratch();
            let db = options(&choice).create(&path).unwrap();
            put(&db, "k", "v");
            let (mut here, mut there) = UnixStream::pair().unwrap();
            let in_the_child = || {
                assert!(matches!(Database::open(&path), Err(Error::InUse { .. })));
                there.write_all(b"?").unwrap();
                there.read_exact(&mut [0]).unwrap();
                let db = options(&choice).open(&path).unwrap();
                put(&db, "k", "the child's");
                db.close().unwrap();
            };
            forked(in_the_child, || {
                here.read_exact(&mut [0]).unwrap();
                db.close().unwrap();
                here.write_all(b"!").unwrap();
            });
            let db = Database::open(&path).unwrap();
            let snapshot = db.read().unwrap();
            let value = snapshot.table("t").unwrap().get("k").unwrap();
            assert_eq!(value.unwrap(), b"the child's");
        }
    });
}
