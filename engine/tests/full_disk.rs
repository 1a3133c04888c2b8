//! No room: a limit of our own, of the process, of the file system. A typed error, nothing lost of
//! what was committed, and once there is room, reopening carries on.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use bifolio::{Database, Error, LogError, Options, PagerChoice, PagerError, Result};
use common::child::{self, in_child};
use common::{MAX_BYTES, handful, pagers, scratch};
use rustix::process::{Resource, Rlimit, setrlimit};

/// Every pager, and small pools, which write back while a transaction still runs.
fn everything() -> Vec<(&'static str, PagerChoice)> {
    let mut all = pagers(4096);
    all.extend(handful(4096, 16));
    all
}

fn options(choice: &PagerChoice) -> Options {
    Options::new()
        .pager(choice.clone())
        .max_bytes(MAX_BYTES)
        .log_bytes(1 << 18)
}

/// Commits `count` entries of 1000 bytes.
fn fill(db: &Database, table: &str, count: u32, byte: u8) -> Result<()> {
    let mut txn = db.write()?;
    let mut table = txn.table(table)?;
    for number in 0..count {
        table.insert(number.to_be_bytes(), [byte; 1000])?;
    }
    txn.commit()?;
    Ok(())
}

/// Fails unless the table has `count` entries of that byte and the database is whole.
#[track_caller]
fn expect(db: &Database, table: &str, count: u32, byte: u8) {
    expect_entries(db, table, count, byte);
    let report = db.check().unwrap();
    assert!(report.is_clean(), "{report}");
}

#[track_caller]
fn expect_entries(db: &Database, table: &str, count: u32, byte: u8) {
    let snapshot = db.read().unwrap();
    let entries = snapshot.table(table).unwrap().iter().map(Result::unwrap);
    let values: Vec<_> = entries.map(|(_, value)| value).collect();
    assert_eq!(values.len(), count as usize);
    assert!(values.iter().all(|value| *value == [byte; 1000]));
}

fn length(path: &Path) -> u64 {
    fs::metadata(path).unwrap().len()
}

#[test]
fn past_max_bytes_it_does_not_grow_and_goes_on() {
    const LIMIT: u64 = 2 << 20;
    for (name, choice) in everything() {
        let (_directory, path) = scratch();
        let db = options(&choice).max_bytes(LIMIT).create(&path).unwrap();
        fill(&db, "kept", 500, 1).unwrap();
        for _ in 0..3 {
            let error = fill(&db, "more", 3000, 2).unwrap_err();
            assert!(
                matches!(error, Error::Pager(PagerError::Full { limit_bytes: LIMIT })),
                "{name}: {error}"
            );
            assert!(length(&path) <= LIMIT, "{name}");
            expect(&db, "kept", 500, 1);
        }
        // What fits still fits, in the same process and in the next one.
        fill(&db, "more", 300, 3).unwrap();
        drop(db);
        let db = options(&choice).max_bytes(1).open(&path).unwrap();
        expect(&db, "more", 300, 3);
        fill(&db, "more", 300, 4).unwrap();
        drop(db);
        let db = options(&choice).max_bytes(2 * LIMIT).open(&path).unwrap();
        fill(&db, "more", 2500, 5).unwrap();
        expect(&db, "more", 2500, 5);
        expect(&db, "kept", 500, 1);
    }
}

#[test]
fn what_was_replaced_since_the_last_checkpoint_is_had_at_the_next_attempt() {
    const LIMIT: u64 = 2 << 20;
    for (name, choice) in pagers(4096) {
        let (_directory, path) = scratch();
        let options = options(&choice).max_bytes(LIMIT).log_bytes(64 << 20);
        let db = options.create(&path).unwrap();
        fill(&db, "t", 750, 99).unwrap();
        db.checkpoint().unwrap(); // from here on these pages are held for its meta
        let mut refused = 0;
        for round in 0..6 {
            if let Err(error) = fill(&db, "t", 750, round) {
                assert!(
                    matches!(error, Error::Pager(PagerError::Full { limit_bytes: LIMIT })),
                    "{name}: {error}"
                );
                refused += 1;
                fill(&db, "t", 750, round).unwrap();
            }
            expect_entries(&db, "t", 750, round);
        }
        assert!(
            refused > 0,
            "{name}: the file is large enough for all of it"
        );
        expect(&db, "t", 750, 5);
    }
}

#[test]
fn past_the_file_size_limit_of_the_process_nobody_dies() {
    const TEST: &str = "past_the_file_size_limit_of_the_process_nobody_dies";
    const LIMIT: u64 = 2 << 20;
    in_child(TEST, || {
        let limit_to = |bytes| {
            let limit = Rlimit {
                current: Some(bytes),
                maximum: None,
            };
            setrlimit(Resource::Fsize, limit).unwrap();
        };
        for (name, choice) in everything() {
            let (_directory, path) = scratch();
            limit_to(LIMIT);
            let db = options(&choice).create(&path).unwrap();
            fill(&db, "kept", 500, 1).unwrap();
            let error = fill(&db, "more", 3000, 2).unwrap_err();
            assert!(
                matches!(error, Error::Pager(PagerError::Full { limit_bytes: LIMIT })),
                "{name}: {error}"
            );
            expect(&db, "kept", 500, 1);
            drop(db);
            // A file that is too long to be written at all can be read.
            limit_to(300_000);
            let error = options(&choice).open(&path).unwrap_err();
            assert!(
                matches!(&error, Error::File { source, .. }
                    if source.kind() == std::io::ErrorKind::FileTooLarge),
                "{name}: {error}"
            );
            let other = path.with_extension("new");
            limit_to(100_000);
            assert!(options(&choice).create(&other).is_err() && !other.exists());
            let db = options(&choice).read_only(true).open(&path).unwrap();
            expect(&db, "kept", 500, 1);
        }
    });
}

/// Room to write in, and a file to be removed when there shall be more.
struct Small {
    directory: PathBuf,
    ballast: PathBuf,
}

/// Runs the test again where it may mount file systems that nobody else sees and that go with it.
fn in_own_mounts(test: &str) {
    let test = child::again(test);
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "--"]);
    command.arg(test.get_program()).args(test.get_args());
    for (name, value) in test.get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    let probe = Command::new("unshare").args(["--mount", "true"]).status();
    if probe.is_ok_and(|status| status.success()) {
        child::expect_success(&mut command);
    } else {
        println!("SKIPPED: mounting takes root, and `unshare`");
    }
}

/// Mounts a file system of a few MiB; `None`, loudly, where that cannot be had.
fn small(kind: &str, directory: &Path) -> Option<Small> {
    let mount = directory.join(kind);
    fs::create_dir(&mount).unwrap();
    let succeeds = |program: &str, args: &[&str]| {
        let output = Command::new(program).args(args).output();
        output.is_ok_and(|output| output.status.success())
    };
    let at = mount.to_str().unwrap();
    let mounted = if kind == "tmpfs" {
        succeeds("mount", &["-t", "tmpfs", "-o", "size=6m", "tmpfs", at])
    } else {
        let image = directory.join("image");
        fs::File::create(&image).unwrap().set_len(8 << 20).unwrap();
        let image = image.to_str().unwrap();
        succeeds(&format!("mkfs.{kind}"), &["-q", image])
            && succeeds("mount", &["-o", "loop", image, at])
    };
    if !mounted {
        println!("SKIPPED: no {kind} can be mounted here");
        return None;
    }
    let room = rustix::fs::statvfs(&mount).unwrap();
    let bytes = room.f_blocks * room.f_frsize;
    assert!(bytes < 16 << 20, "{bytes}: this is not the small one");
    let ballast = mount.join("ballast");
    fs::write(&ballast, vec![7; 2 << 20]).unwrap();
    Some(Small {
        directory: mount,
        ballast,
    })
}

fn is_no_space(error: &Error) -> bool {
    const ENOSPC: i32 = 28;
    let (Error::Pager(PagerError::Io { source, .. }) | Error::Log(LogError::Io { source, .. })) =
        error
    else {
        return false;
    };
    source.raw_os_error() == Some(ENOSPC)
}

/// Fills the file system under an open database, and then makes room.
fn fill_up(name: &str, choice: &PagerChoice, small: &Small) {
    let path = small.directory.join("database");
    fs::write(&small.ballast, vec![7; 2 << 20]).unwrap();
    let db = options(choice).create(&path).unwrap();
    let mut kept = 0;
    let error = loop {
        match fill(&db, "t", (kept + 1) * 100, kept as u8 + 1) {
            Ok(()) => kept += 1,
            Err(error) => break error,
        }
        assert!(length(&path) < 16 << 20, "the file system is not small");
    };
    println!("{name}: {error}, after {kept} commits");
    assert!(kept > 1, "{name}");
    assert!(
        is_no_space(&error) || matches!(error, Error::Poisoned { .. }),
        "{name}: {error}"
    );
    expect(&db, "t", kept * 100, kept as u8);
    let again = fill(&db, "t", 1, 9).unwrap_err();
    assert!(matches!(again, Error::Poisoned { .. }), "{name}: {again}");
    assert!(again.to_string().contains("o space left"), "{again}");
    drop(db);
    // Reopening where there is still no room: recovery needs some, and says so, or reading goes on.
    match options(choice).open(&path) {
        Ok(db) => expect(&db, "t", kept * 100, kept as u8),
        Err(error) => assert!(
            is_no_space(&error) || matches!(error, Error::Poisoned { .. }),
            "{name}: {error}"
        ),
    }
    fs::remove_file(&small.ballast).unwrap();
    let db = options(choice).open(&path).unwrap();
    expect(&db, "t", kept * 100, kept as u8);
    fill(&db, "t", (kept + 1) * 100, 9).unwrap();
    expect(&db, "t", (kept + 1) * 100, 9);
    db.close().unwrap();
    fs::remove_file(&path).unwrap();
}

fn full_file_system(test: &str, kind: &str) {
    if !child::is_child() {
        return in_own_mounts(test);
    }
    let (directory, _) = scratch();
    if let Some(small) = small(kind, directory.path()) {
        let choices = match kind {
            "tmpfs" => everything(),
            _ => pagers(4096), // a sync there takes its time
        };
        for (name, choice) in choices {
            fill_up(name, &choice, &small);
        }
        // While it is mounted the directory cannot be removed.
        let unmounted = Command::new("umount").arg(&small.directory).status();
        assert!(unmounted.unwrap().success());
    }
}

#[test]
fn a_full_tmpfs_is_an_error_and_making_room_mends_it() {
    const TEST: &str = "a_full_tmpfs_is_an_error_and_making_room_mends_it";
    full_file_system(TEST, "tmpfs");
}

#[test]
fn a_full_ext4_is_an_error_and_making_room_mends_it() {
    const TEST: &str = "a_full_ext4_is_an_error_and_making_room_mends_it";
    full_file_system(TEST, "ext4");
}

/// One commit after the other, each checkpointed, in a file that may not grow any more.
#[test]
fn at_the_limit_of_the_file_a_checkpoint_finds_room_and_the_file_opens_again() {
    const LIMIT: u64 = 1 << 20;
    for (name, choice) in pagers(4096) {
        let (_directory, path) = scratch();
        let db = options(&choice).max_bytes(LIMIT).create(&path).unwrap();
        let mut kept = 0_u32;
        let refused = loop {
            let commit = || -> Result<()> {
                let mut txn = db.write()?;
                let mut table = txn.table("t")?;
                table.insert(kept.to_be_bytes(), [1; 700])?;
                txn.commit()?;
                Ok(())
            };
            match commit() {
                Ok(()) => kept += 1,
                Err(error) => break error,
            }
            if let Err(error) = db.checkpoint() {
                panic!("{name}, after {kept}: {error}");
            }
        };
        assert!(
            matches!(refused, Error::Pager(PagerError::Full { .. })),
            "{name}, after {kept}: {refused}"
        );
        drop(db);
        let db = options(&choice).max_bytes(LIMIT).open(&path).unwrap();
        let snapshot = db.read().unwrap();
        assert_eq!(snapshot.table("t").unwrap().len(), u64::from(kept));
    }
}
