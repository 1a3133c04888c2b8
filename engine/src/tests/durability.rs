//! What each level of durability promises, and what it does not: crashes of the process and of the
//! system, on modelled disks, with the background threads that the product has.

use std::thread;
use std::time::{Duration, Instant};

use bifolio_pager::PageSize;
use bifolio_pager::faulty::Call;

use super::logged::Machine;
use super::{content, modelled};
use crate::database::Database;
use crate::durability::{Durability, Ticket};
use crate::error::Error;
use crate::log::sim::{SimDisk, Survival};
use crate::pace::Background;

/// How long a condition may take before a test gives it up as never.
const HANG: Duration = Duration::from_secs(60);

fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < HANG, "never: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Without threads: what is synced is synced by the caller.
fn machine() -> (Database, SimDisk) {
    Machine::new(PageSize::DEFAULT).open().unwrap()
}

fn with_threads(background: Background) -> (Database, SimDisk) {
    let machine = Machine::new(PageSize::DEFAULT);
    machine.assemble_with(1 << 40, Some(background)).unwrap()
}

/// Threads that sync soon, and checkpoint never.
fn syncing() -> (Database, SimDisk) {
    with_threads(Background {
        sync_interval: Duration::from_millis(20),
        checkpoint_interval: Duration::from_secs(1 << 30),
        dirty_bytes: u64::MAX,
    })
}

fn put(db: &Database, key: &str, durability: Durability) {
    let mut txn = db.write().unwrap();
    txn.table("t").unwrap().insert(key, [7; 100]).unwrap();
    txn.commit_with(durability).unwrap();
}

fn submit_bulk_load(db: &Database) -> Ticket {
    let mut txn = db.write().unwrap();
    txn.table("bulk").unwrap().bulk_load([("a", "b")]).unwrap();
    txn.submit().unwrap()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Crash {
    Process,
    System,
}

/// The keys that are there when the database is opened after a crash at this moment.
fn after(crash: Crash, db: &Database, log: &SimDisk) -> Vec<String> {
    let left = Machine {
        // Nothing of the pages that the newest meta does not refer to is ever read again.
        pages: modelled(db).inner().power_cut(),
        log: match crash {
            Crash::Process => log.copy_as_is(),
            Crash::System => log.power_cut(0, Survival::Nothing),
        },
    };
    let (left, _) = left.open().unwrap();
    assert!(left.check().unwrap().is_clean());
    let keys = content(&left).into_keys();
    keys.map(|key| String::from_utf8(key).unwrap()).collect()
}

const CRASHES: [Crash; 2] = [Crash::Process, Crash::System];

#[test]
fn no_crash_loses_a_synced_commit_or_one_before_it() {
    let (db, log) = machine();
    put(&db, "a", Durability::Interval);
    put(&db, "b", Durability::Checkpoint);
    put(&db, "c", Durability::Sync);
    for crash in CRASHES {
        assert_eq!(after(crash, &db, &log), ["a", "b", "c"], "{crash:?}");
    }
}

#[test]
fn a_crash_of_the_process_or_the_system_loses_what_no_sync_has_reached() {
    for level in [Durability::Interval, Durability::Checkpoint] {
        let (db, log) = machine();
        put(&db, "a", Durability::Sync);
        put(&db, "b", level);
        for crash in CRASHES {
            assert_eq!(after(crash, &db, &log), ["a"], "{level:?}, {crash:?}");
        }
    }
}

#[test]
fn no_crash_loses_an_interval_commit_once_its_interval_is_over() {
    let (db, log) = syncing();
    put(&db, "a", Durability::Interval);
    let durable = || db.read_durable().unwrap().table("t").is_ok();
    wait_until("the commit is synced", durable);
    for crash in CRASHES {
        assert_eq!(after(crash, &db, &log), ["a"], "{crash:?}");
    }
}

#[test]
fn a_ticket_that_is_dropped_is_synced_like_an_interval_commit() {
    let (db, _) = syncing();
    let mut txn = db.write().unwrap();
    txn.table("t").unwrap().insert("a", "b").unwrap();
    drop(txn.submit().unwrap());
    let durable = || db.read_durable().unwrap().table("t").is_ok();
    wait_until("the commit is synced", durable);
}

#[test]
fn nothing_is_synced_for_a_checkpoint_commit_and_no_crash_after_a_checkpoint_loses_it() {
    let (db, log) = syncing();
    put(&db, "a", Durability::Sync);
    let groups = || db.log_counters().unwrap().groups;
    let before = groups();
    for number in 0..100 {
        put(&db, &format!("b{number}"), Durability::Checkpoint);
        assert!(!db.open.syncer.is_asked());
    }
    assert_eq!(groups(), before);
    assert_eq!(after(Crash::Process, &db, &log), ["a"]);
    db.checkpoint().unwrap();
    for crash in CRASHES {
        assert_eq!(after(crash, &db, &log).len(), 101, "{crash:?}");
    }
}

#[test]
fn an_interval_commit_is_synced_while_a_write_transaction_stays_open() {
    let (db, _) = syncing();
    put(&db, "a", Durability::Sync);
    put(&db, "b", Durability::Interval);
    let _open = db.write().unwrap();
    let log = db.open.log.get().unwrap();
    wait_until("the log is synced", || log.durable_position() == log.end());
}

#[test]
fn an_interval_commit_is_synced_while_a_checkpoint_waits_for_its_flush() {
    let (db, _) = syncing();
    put(&db, "a", Durability::Sync);
    put(&db, "b", Durability::Interval);
    let open = std::sync::Arc::downgrade(&db.open);
    modelled(&db).before_each(move |_, call| {
        if let (Call::Flush { .. }, Some(open)) = (call, open.upgrade()) {
            let log = open.log.get().unwrap();
            wait_until("the log is synced", || log.durable_position() == log.end());
        }
    });
    db.checkpoint().unwrap();
}

#[test]
fn an_empty_synced_commit_makes_everything_before_it_durable() {
    let (db, log) = machine();
    put(&db, "a", Durability::Checkpoint);
    drop(submit_bulk_load(&db));
    put(&db, "b", Durability::Checkpoint);
    db.write().unwrap().commit().unwrap();
    assert_eq!(after(Crash::System, &db, &log), ["a", "b"]);
    let operations = log.operations();
    db.write().unwrap().commit().unwrap();
    assert_eq!(log.operations(), operations, "there was nothing to do");
}

#[test]
fn a_thread_that_would_wait_for_its_own_transaction_is_refused() {
    let (db, log) = machine();
    put(&db, "a", Durability::Sync);
    let ticket = submit_bulk_load(&db);
    let mut txn = db.write().unwrap();
    txn.table("t").unwrap().insert("b", "c").unwrap();
    assert!(matches!(ticket.wait(), Err(Error::WouldDeadlock)));
    assert!(matches!(db.checkpoint(), Err(Error::WouldDeadlock)));
    assert!(matches!(db.write().err(), Some(Error::WouldDeadlock)));
    // Nothing came of it but the errors.
    txn.commit().unwrap();
    assert_eq!(after(Crash::System, &db, &log), ["a", "b"]);
    db.checkpoint().unwrap();
}

#[test]
fn a_thread_whose_transaction_went_to_another_one_waits_for_it() {
    let (db, log) = machine();
    put(&db, "a", Durability::Sync);
    let ticket = submit_bulk_load(&db);
    let mut txn = db.write().unwrap();
    let (told, hear) = std::sync::mpsc::channel();
    thread::scope(|scope| {
        scope.spawn(|| {
            txn.table("t").unwrap().insert("b", "c").unwrap();
            told.send(()).unwrap();
            thread::sleep(Duration::from_millis(20)); // so that the other one waits, most of the time
            txn.commit().unwrap();
        });
        hear.recv().unwrap();
        ticket.wait().unwrap();
        assert_eq!(after(Crash::System, &db, &log), ["a", "b"]);
    });
}

#[test]
fn a_checkpoint_comes_by_itself_for_each_of_three_reasons() {
    let never = Background {
        sync_interval: Duration::from_secs(1 << 30),
        checkpoint_interval: Duration::from_secs(1 << 30),
        dirty_bytes: u64::MAX,
    };
    let for_time = Background {
        checkpoint_interval: Duration::from_millis(5),
        ..never
    };
    let for_dirt = Background {
        dirty_bytes: 1,
        ..never
    };
    for (why, limit_bytes, background) in [
        ("time", 1 << 40, for_time),
        ("dirty pages", 1 << 40, for_dirt),
        ("log", 1, never),
    ] {
        let machine = Machine::new(PageSize::DEFAULT);
        let (db, _) = machine
            .assemble_with(limit_bytes, Some(background))
            .unwrap();
        put(&db, "a", Durability::Checkpoint);
        wait_until(why, || db.checkpoint_counters().completed > 0);
        let durable = db.read_durable().unwrap();
        assert!(durable.table("t").is_ok(), "{why}");
    }
}

#[test]
fn checkpoints_count_what_they_write_and_what_died_before() {
    let (db, _) = machine();
    put(&db, "a", Durability::Sync);
    db.checkpoint().unwrap();
    let before = db.checkpoint_counters();
    assert_eq!((before.begun, before.completed), (1, 1));
    assert_eq!((before.log_bytes, before.dirty_bytes), (0, 0));
    for _ in 0..50 {
        put(&db, "a", Durability::Sync);
    }
    let dirty = db.checkpoint_counters();
    // One leaf and one page of the catalogue each time, of which the last ones live.
    assert_eq!(dirty.pages_died_unwritten, 2 * 49);
    assert_eq!(dirty.dirty_bytes, 2 * 4096);
    // A sector each, and headers of segments.
    assert!((50 * 512..55 * 512).contains(&dirty.log_bytes), "{dirty:?}");
    db.checkpoint().unwrap();
    let after = db.checkpoint_counters();
    assert!(after.pages_written - before.pages_written < 10, "{after:?}");
    assert_eq!(after.completed, 2);
    assert!(after.time > before.time);
    assert_eq!(after.writer_waits, 0);
}
