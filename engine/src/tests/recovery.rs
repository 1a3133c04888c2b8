//! Recovery in memory, and what is told of recovery while it runs.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bifolio_pager::faulty::Operations;
use bifolio_pager::{Faulty, MemPager, MetaSlot, PageSize};
use parking_lot::Mutex;

use super::logged::{Machine, images};
use super::{State, Workload, content, expect_one_of};
use crate::core::{AnyPager, Keeping};
use crate::database::Database;
use crate::error::{Error, Result};
use crate::file;
use crate::log::sim::SimDisk;
use crate::meta::Meta;
use crate::options::{LogPlace, OnRecovery};
use crate::overlay::Overlay;
use crate::recovery::{self, Progress, RecoveryProgress};

/// Opens what is on a machine's disks for reading, as the product does.
fn open_to_read(pages: MemPager, log: &SimDisk, limit_bytes: u64) -> Result<Database> {
    let read = |slot| Meta::decode_slot(&pages.read_meta(slot).unwrap_or_default());
    let newest = file::newest_of(Path::new("modelled"), read(MetaSlot::A), read(MetaSlot::B))?;
    let pager = AnyPager::OverModelled(Overlay::new(Faulty::new(pages), limit_bytes));
    let db = Database::assemble(PathBuf::new(), pager, Keeping::Nothing, newest, true, None)?;
    let place = LogPlace {
        disk: Arc::new(log.copy()),
        prefix: "modelled".into(),
        options: Default::default(),
        limit_bytes: 0,
    };
    recovery::or_nothing(&db.open, || {
        recovery::recover_in_memory(&db.open, &place, Progress::new(None))
    })?;
    Ok(db)
}

fn writes_below(db: &Database) -> u64 {
    match &db.open.pager {
        AnyPager::OverModelled(overlay) => overlay.base().performed(Operations::WRITES),
        _ => unreachable!("it was opened to read"),
    }
}

#[test]
fn what_a_power_cut_left_is_read_without_a_write_as_recovery_would_find_it() {
    let (mut count, mut replayed, mut refused) = (0, 0, 0);
    for (seed, page_size) in (0..6).zip(PageSize::ALL.into_iter().cycle()) {
        let workload = Workload::random(4000 + seed, 12);
        for image in images(&workload, page_size, seed, 2).into_iter().step_by(3) {
            let context = format!("workload {seed}, {}", image.moment);
            let (pages, log) = (image.machine.pages.power_cut(), image.machine.log.copy());
            let small = open_to_read(pages.power_cut(), &log, 3 * page_size.bytes() as u64);
            let db = open_to_read(pages, &log, 1 << 30).unwrap();
            let report = db.check().unwrap();
            assert!(report.is_clean(), "{context}: {report}");
            assert!(matches!(db.write(), Err(Error::ReadOnly)));
            let found: State = content(&db);
            match small {
                Ok(small) => assert_eq!(content(&small), found),
                Err(Error::NeedsRecovery { .. }) => refused += 1,
                Err(error) => panic!("{context}: {error}"),
            }
            assert_eq!(writes_below(&db), 0, "{context}");
            // The log is as it was too: recovery proper finds the same.
            let (db, _) = image.machine.open().unwrap();
            expect_one_of(&db, std::slice::from_ref(&found), &context);
            (count, replayed) = (count + 1, replayed + usize::from(!found.is_empty()));
        }
    }
    println!("{count} images, {replayed} with content, {refused} larger than three pages");
    assert!(count > 200 && replayed > 100 && refused > 50, "too few");
}

/// A machine whose power was cut after some commits, without a checkpoint.
fn crashed() -> (Machine, State) {
    let (db, log) = Machine::new(PageSize::DEFAULT).open().unwrap();
    let workload = Workload::random(4100, 12);
    for changes in &workload.transactions {
        super::commit(&db, changes).unwrap();
    }
    let state = content(&db);
    let machine = Machine {
        pages: super::modelled(&db).inner().power_cut(),
        log: log.copy(),
    };
    (machine, state)
}

#[test]
fn recovery_tells_how_far_it_is_until_it_has_replayed_all() {
    let (machine, state) = crashed();
    let (db, _) = machine.assemble(1 << 40).unwrap();
    let told: Arc<Mutex<Vec<RecoveryProgress>>> = Arc::default();
    let tell = {
        let told = told.clone();
        OnRecovery(Arc::new(move |now: &RecoveryProgress| {
            told.lock().push(*now)
        }))
    };
    let report = recovery::recover(&db.open, Progress::at_each_commit(tell));
    let report = report.unwrap().expect("there is a log");
    assert_eq!(content(&db), state);
    let told = told.lock();
    assert_eq!(told.len() as u64, report.commits);
    for (before, after) in told.iter().zip(&told[1..]) {
        assert_eq!(before.commits + 1, after.commits);
        assert!(before.log_bytes < after.log_bytes, "{before} {after}");
    }
    let last = told.last().unwrap();
    assert_eq!(last.commits, last.commits_total);
    assert!(last.log_bytes <= last.log_bytes_total);
    assert_eq!(last.log_bytes_total, report.log_bytes);
}

#[test]
fn a_panic_of_whoever_is_told_of_recovery_changes_nothing() {
    let (machine, state) = crashed();
    let (db, log) = machine.assemble(1 << 40).unwrap();
    let panics = OnRecovery(Arc::new(|now: &RecoveryProgress| {
        assert!(now.commits < 5, "on purpose");
    }));
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        recovery::or_nothing(&db.open, || {
            recovery::recover(&db.open, Progress::at_each_commit(panics))
        })
    }));
    assert!(outcome.is_err());
    assert!(db.write().is_err(), "nothing more is written");
    let pages = super::modelled(&db).inner().power_cut();
    drop(db); // which would declare it clean, if it could
    let (db, _) = Machine { pages, log }.open().unwrap();
    assert_eq!(content(&db), state);
}
