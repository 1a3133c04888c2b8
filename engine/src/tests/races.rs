//! Interleavings of commits, checkpoints, recovery and failures that no workload meets by chance.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bifolio_pager::faulty::Call;
use bifolio_pager::{PageSize, Version};

use super::logged::{Camera, Machine};
use super::{content, modelled};
use crate::database::Database;
use crate::durability::Ticket;
use crate::error::Error;
use crate::log::RecordWriter;
use crate::log::sim::{SimDisk, Survival};
use crate::pace::Pace;
use crate::recovery;
use crate::write::WriteTxn;

fn machine() -> (Database, SimDisk) {
    Machine::new(PageSize::DEFAULT).open().unwrap()
}

fn put(db: &Database, key: &str) -> Ticket {
    let mut txn = db.write().unwrap();
    txn.table("t").unwrap().insert(key, [7; 100]).unwrap();
    txn.submit().unwrap()
}

fn unlogged(db: &Database, table: &str) -> Ticket {
    let mut txn = db.write().unwrap();
    txn.table(table).unwrap().bulk_load([("a", "b")]).unwrap();
    txn.submit().unwrap()
}

/// What is on both disks now: of what was not synced, nothing.
fn cut(db: &Database, log: &SimDisk) -> Machine {
    Machine {
        pages: modelled(db).inner().power_cut(),
        log: log.power_cut(0, Survival::Nothing),
    }
}

#[track_caller]
fn expect_keys(db: &Database, keys: &[&str], context: &str) {
    let report = db.check().unwrap();
    assert!(report.is_clean(), "{context}: {report}");
    let found = content(db);
    let expected: Vec<_> = keys.iter().map(|key| key.as_bytes().to_vec()).collect();
    assert_eq!(found.into_keys().collect::<Vec<_>>(), expected, "{context}");
}

#[test]
fn a_commit_between_two_barriers_waits_for_the_first() {
    let (db, log) = machine();
    let first = unlogged(&db, "one");
    let between = put(&db, "between");
    let second = unlogged(&db, "two");
    between.wait().unwrap();
    let (left, _) = cut(&db, &log).open().unwrap();
    expect_keys(&left, &["between"], "it was acknowledged");
    first.wait().unwrap();
    second.wait().unwrap();
    let (left, _) = cut(&db, &log).open().unwrap();
    assert!(left.read().unwrap().table("two").is_ok());
}

#[test]
fn a_snapshot_of_what_is_durable_stops_at_the_first_of_two_barriers() {
    let (db, log) = machine();
    put(&db, "before").wait().unwrap();
    drop(unlogged(&db, "one"));
    drop(put(&db, "between"));
    drop(unlogged(&db, "two"));
    db.open.log.get().unwrap().sync().unwrap();
    let durable = db.read_durable().unwrap();
    assert!(durable.table("one").is_err(), "a power cut would take it");
    drop(durable);
    let (left, _) = cut(&db, &log).open().unwrap();
    expect_keys(&left, &["before"], "replay stops at the first barrier");
}

#[test]
fn a_barrier_does_not_hide_the_commit_before_it() {
    let (db, _log) = machine();
    drop(put(&db, "before"));
    drop(unlogged(&db, "one"));
    db.open.log.get().unwrap().sync().unwrap();
    let durable = db.read_durable().unwrap();
    assert_eq!(durable.table("t").unwrap().len(), 1, "a sync is enough");
    assert!(durable.table("one").is_err(), "a power cut would take it");
}

#[test]
fn what_is_durable_is_exact_while_others_commit_during_a_sync() {
    let (db, disk) = machine();
    drop(put(&db, "a"));
    drop(put(&db, "b"));
    let open = Arc::downgrade(&db.open);
    let mut during = ["c", "d"].into_iter();
    disk.before_each(move |_, _| {
        let Some(open) = open.upgrade() else { return };
        for key in during.by_ref() {
            let mut txn = WriteTxn::begin(Arc::clone(&open)).unwrap();
            txn.table("t").unwrap().insert(key, [7; 100]).unwrap();
            drop(txn.submit().unwrap());
        }
    });
    let durable = || {
        let durable = db.read_durable().unwrap();
        durable.table("t").map_or(0, |table| table.len())
    };
    let log = db.open.log.get().unwrap();
    assert_eq!(durable(), 0);
    log.sync().unwrap();
    assert_eq!(db.read().unwrap().table("t").unwrap().len(), 4);
    assert_eq!(durable(), 2, "the others came too late for this sync");
    log.sync().unwrap();
    assert_eq!(durable(), 4);
}

#[test]
fn commits_that_nobody_waits_for_go_round_among_a_few_pages() {
    let (db, _log) = machine();
    put(&db, "a").wait().unwrap();
    let pages = || {
        let mut writer = db.open.take_writer().unwrap();
        let newest = db.open.newest();
        let pager = modelled(&db);
        writer.release(pager, &newest).unwrap();
        let held = (writer.older.len(), writer.space.end());
        db.open.give_writer_back(writer);
        held
    };
    let (_, before) = pages();
    for _ in 0..1000 {
        drop(put(&db, "a"));
    }
    let (older, after) = pages();
    assert!(older <= 2, "{older}: none of these was ever durable");
    assert!(after < before + 200, "{before} pages before, {after} after");
}

#[test]
fn a_checkpoint_that_comes_due_during_replay_does_not_give_up_the_log() {
    let (db, log) = machine();
    for key in ["a", "b", "c"] {
        put(&db, key).wait().unwrap();
    }
    let (half, log) = cut(&db, &log).assemble(1 << 40).unwrap();
    drop(put(&half, "a")); // as replay does it, before there is a log
    half.open.checkpoint(Pace::Relaxed).unwrap();
    let left = cut(&half, &log);
    half.open.poison(&Error::Interrupted);
    let (left, _) = left.open().unwrap();
    expect_keys(&left, &["a", "b", "c"], "all were acknowledged");
}

#[test]
fn a_power_cut_at_any_operation_of_either_disk_during_recovery_is_only_another_one() {
    let mut count = 0;
    for barrier in [false, true] {
        let (db, log) = machine();
        put(&db, "a").wait().unwrap();
        db.checkpoint().unwrap();
        if !barrier {
            put(&db, "b").wait().unwrap();
        }
        drop(unlogged(&db, "lost"));
        drop(put(&db, "lost, too"));
        if barrier {
            db.open.log.get().unwrap().sync().unwrap();
        }
        let expected: &[&str] = if barrier { &["a"] } else { &["a", "b"] };
        let (half, log) = cut(&db, &log).assemble(1 << 40).unwrap();
        let camera = Camera::on(&half, &log, 6);
        recovery::recover(&half.open, recovery::Progress::new(None)).unwrap();
        log.unhook();
        for image in std::mem::take(&mut *camera.images.lock()) {
            let context = format!("barrier {barrier}, {}", image.moment);
            let opened = image.machine.open();
            let (left, log) = opened.unwrap_or_else(|error| panic!("{context}: {error}"));
            expect_keys(&left, expected, &context);
            put(&left, "z").wait().unwrap();
            let (left, _) = cut(&left, &log).open().unwrap();
            expect_keys(&left, &[expected, &["z"]].concat(), &context);
            count += 1;
        }
    }
    assert!(count > 50, "{count}");
}

#[test]
fn a_transaction_that_ran_when_something_failed_does_not_commit() {
    let (db, log) = machine();
    put(&db, "a").wait().unwrap();
    let mut txn = db.write().unwrap();
    txn.table("t").unwrap().insert("b", "").unwrap();
    let _ = db.open.poison(&Error::Interrupted);
    assert!(matches!(txn.commit(), Err(Error::Poisoned { .. })));
    let (left, _) = cut(&db, &log).open().unwrap();
    expect_keys(&left, &["a"], "nothing is written after a failure");
}

#[test]
fn a_failure_while_a_checkpoint_chooses_does_not_make_it_choose_an_old_version() {
    let (db, log) = machine();
    put(&db, "a").wait().unwrap();
    drop(put(&db, "b")); // applied, and not durable
    db.open.floor.store(0, Ordering::Relaxed); // so that choosing writes a meta first
    let open = Arc::downgrade(&db.open);
    modelled(&db).before_each(move |_, call| {
        if let (Call::WriteMeta { .. }, Some(open)) = (call, open.upgrade()) {
            let _ = open.poison(&Error::Interrupted);
        }
    });
    let outcome = db.checkpoint();
    let (left, _) = cut(&db, &log).open().unwrap();
    match outcome {
        Ok(()) => expect_keys(&left, &["a", "b"], "checkpointed"),
        Err(_) => assert!(left.check().unwrap().is_clean()),
    }
}

#[test]
fn after_a_panic_in_a_checkpoint_nothing_is_written() {
    for choosing in [false, true] {
        let (db, log) = machine();
        put(&db, "a").wait().unwrap();
        if choosing {
            db.open.floor.store(0, Ordering::Relaxed);
        }
        modelled(&db).before_each(|_, call| {
            assert!(!matches!(call, Call::Flush { .. }), "as if a bug was hit");
        });
        assert!(catch_unwind(AssertUnwindSafe(|| db.checkpoint())).is_err());
        // Else the next checkpoint would rely on pages that nobody has written, or nobody would
        // ever get the writer again.
        assert!(matches!(db.write(), Err(Error::Poisoned { .. })));
        assert!(db.checkpoint().is_err());
        let (left, _) = cut(&db, &log).open().unwrap();
        expect_keys(&left, &["a"], "the log has it");
    }
}

#[test]
fn after_a_panic_in_a_commit_nobody_waits_for_ever() {
    let (db, _) = machine();
    put(&db, "a").wait().unwrap();
    // The log asserts that versions rise.
    let log = db.open.log.get().unwrap();
    let mut records = RecordWriter::new();
    records.create_table("from nowhere");
    log.append(Version::new(1 << 40), &mut records).unwrap();
    assert!(catch_unwind(AssertUnwindSafe(|| put(&db, "b"))).is_err());
    assert!(matches!(db.write(), Err(Error::Poisoned { .. })));
}

#[test]
fn a_transaction_that_gives_up_logging_halfway_is_there_wholly_or_not_at_all() {
    let (db, log) = Machine::new(PageSize::DEFAULT).assemble(3 << 20).unwrap();
    put(&db, "a").wait().unwrap();
    let mut txn = db.write().unwrap();
    for key in 0..1000_u32 {
        txn.table("large")
            .unwrap()
            .insert(key.to_be_bytes(), [1; 3000])
            .unwrap();
    }
    let large = txn.submit().unwrap();
    let after = put(&db, "b");
    db.open.log.get().unwrap().sync().unwrap();
    let (left, _) = cut(&db, &log).open().unwrap();
    expect_keys(&left, &["a"], "nobody was told otherwise");
    after.wait().unwrap();
    let (left, _) = cut(&db, &log).open().unwrap();
    expect_keys(&left, &["a", "b"], "acknowledged");
    let snapshot = left.read().unwrap();
    assert_eq!(snapshot.table("large").unwrap().len(), 1000);
    large.wait().unwrap();
}
