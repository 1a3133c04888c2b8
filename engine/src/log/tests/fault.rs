//! Failing storage: the first failure poisons the log, everybody is told, nothing is tried again.

use std::io::ErrorKind;
use std::sync::Arc;

use super::super::sim::{Fault, SimDisk, Survival};
use super::super::{Error, Log};
use super::{Commit, ID, append, create, encode, options, prefix, recover};

/// A workload that reaches every operation the log makes; stops at the first error.
fn work(log: &Log, appended: &mut Vec<Commit>, acknowledged: &mut usize) -> Result<(), Error> {
    for version in 1..=40 {
        let key = vec![version as u8];
        let ops = vec![super::Op::Put("t".into(), key, vec![version as u8; 600])];
        let version = bifolio_pager::Version::new(version);
        appended.push((version, ops.clone()));
        let end = log.append(version, &mut encode(&ops))?;
        if version.get().is_multiple_of(3) {
            log.wait_durable(end)?;
            *acknowledged = appended.len();
        }
        if version.get().is_multiple_of(16) {
            log.prepare(2)?;
        }
    }
    Ok(())
}

#[test]
fn whatever_operation_fails_the_log_is_poisoned_and_loses_nothing_acknowledged() {
    let faults = [
        Fault::Error(ErrorKind::Other),
        Fault::Error(ErrorKind::StorageFull),
        Fault::Error(ErrorKind::QuotaExceeded),
        Fault::Partly,
        Fault::PowerOff,
    ];
    let (mut failed, mut absorbed, mut images) = (0, 0, 0);
    for fault in faults {
        for at in 0.. {
            let (disk, log, mark) = create(at, options(4096));
            let first = disk.operations();
            disk.fail_at(first + at, fault);
            let (mut appended, mut acknowledged) = (Vec::new(), 0);
            let outcome = work(&log, &mut appended, &mut acknowledged);
            if outcome.is_ok() && disk.operations() <= first + at {
                break; // there was no such operation
            }
            if outcome.is_ok() {
                // No room for a segment that was made ahead of need. Nobody relied on it.
                assert!(log.failure().is_none(), "{fault:?} at {at}");
                log.sync().unwrap();
                let image = disk.power_cut(at, Survival::Nothing);
                let found = recover(&image, &mark, options(4096)).unwrap().2;
                assert_eq!(found, appended, "{fault:?} at {at}");
                (absorbed, images) = (absorbed + 1, images + 1);
                continue;
            }
            failed += 1;
            // Poisoned for good, with the first failure kept, and not one operation more.
            let made = disk.operations();
            assert!(log.failure().is_some());
            let version = bifolio_pager::Version::new(1000);
            let refused = log.append(version, &mut encode(&[]));
            assert!(
                matches!(refused, Err(Error::Poisoned { .. })),
                "{refused:?}"
            );
            let end = log.end();
            assert!(log.durable_position() == end || log.wait_durable(end).is_err());
            assert!(log.prepare(9).is_err() && log.recycle(log.durable_position()).is_err());
            drop(log);
            assert_eq!(
                disk.operations(),
                made,
                "nothing is tried again, nothing written on drop"
            );

            let process_died = disk.copy_as_is();
            let cut = disk.power_cut(at, Survival::Garbage);
            for image in [process_died, cut] {
                let (_, _, found) = recover(&image, &mark, options(4096))
                    .unwrap_or_else(|error| panic!("{fault:?} at {at}: {error}"));
                assert!(found.len() >= acknowledged, "{fault:?} at {at}");
                assert_eq!(found, appended[..found.len()], "{fault:?} at {at}");
                let again = recover(
                    &image.power_cut(at, Survival::Nothing),
                    &mark,
                    options(4096),
                );
                assert_eq!(again.unwrap().2, found, "{fault:?} at {at}: the same again");
                images += 2;
            }
        }
    }
    println!("{failed} injected failures, {absorbed} without harm, {images} images");
    assert!(absorbed > 0, "{absorbed}");
}

#[test]
fn a_full_disk_harms_only_the_commit_that_needs_the_segment() {
    for kind in [ErrorKind::StorageFull, ErrorKind::QuotaExceeded] {
        let (disk, log, _) = create(1, options(4096));
        let files = || super::super::disk::Disk::list(&disk).unwrap();
        let before = files();
        // Creating, allocating, writing, syncing: whatever it is that does not fit.
        for at in 0..4 {
            disk.fail_at(disk.operations() + at, Fault::Error(kind));
            log.prepare(3).unwrap();
            assert!(log.failure().is_none(), "{kind:?} at {at}");
            assert_eq!(files(), before, "nothing is left of it");
        }
        assert!(
            !log.wants_spare(),
            "it is not tried again before it is needed"
        );
        disk.refuse_new_files(kind);
        let commit = |version| log.wait_durable(append(&log, version).1);
        let fitting = (1..).take_while(|&version| commit(version).is_ok()).count();
        assert!(fitting > 3, "the segment at hand is used up: {fitting}");
        let failed = log.sync().unwrap_err();
        let told = failed.to_string();
        assert!(matches!(failed, Error::Poisoned { .. }), "{told}");
        assert!(told.contains("creating"), "{told}");
    }
}

#[test]
fn creation_and_recovery_report_what_fails_and_can_be_tried_again() {
    for at in 0.. {
        let disk = SimDisk::new(at);
        disk.fail_at(at, Fault::Error(ErrorKind::StorageFull));
        let created = Log::create(Arc::new(disk.clone()), prefix(), ID, options(4096));
        if created.is_ok() {
            assert!(at > 5);
            break;
        }
        Log::remove_all(&disk, prefix()).unwrap();
        Log::create(Arc::new(disk.clone()), prefix(), ID, options(4096)).unwrap();
    }
    let (disk, log, mark) = create(1, options(4096));
    let commits: Vec<_> = (1..9).map(|version| append(&log, version).0).collect();
    log.sync().unwrap();
    drop(log);
    for at in 0.. {
        let image = disk.copy();
        image.fail_at(at, Fault::Error(ErrorKind::Other));
        let recovered = recover(&image, &mark, options(4096));
        if recovered.is_ok() {
            assert!(at > 5);
            break;
        }
        drop(recovered);
        let found = recover(&image, &mark, options(4096));
        assert_eq!(
            found.unwrap_or_else(|error| panic!("at {at}: {error}")).2,
            commits
        );
    }
}

#[test]
fn a_failing_visitor_changes_nothing() {
    let (disk, log, mark) = create(1, options(4096));
    (1..9).for_each(|version| _ = append(&log, version));
    log.sync().unwrap();
    drop(log);
    let before = disk.content(&super::super::files::Names::new(prefix()).segment(1));
    let files = super::super::disk::Disk::list(&disk).unwrap();
    let disk_again = Arc::new(disk.clone());
    let mut seen = 0;
    let refused = Log::recover(disk_again, prefix(), ID, &mark, options(4096), |_, _| {
        seen += 1;
        if seen == 3 {
            Err(Error::BadOption("no".into()))
        } else {
            Ok(super::Replay::Continue)
        }
    });
    assert!(matches!(refused.err(), Some(Error::BadOption(_))));
    assert_eq!(
        disk.content(&super::super::files::Names::new(prefix()).segment(1)),
        before
    );
    assert_eq!(super::super::disk::Disk::list(&disk).unwrap(), files);
}
