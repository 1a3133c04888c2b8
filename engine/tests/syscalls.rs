//! What the system is asked, and in which order, when a database is opened, when its file is made,
//! and when files get names. The calls are those of the program that ships, traced by `strace`; where
//! there is none the tests say `SKIPPED`.

mod common;

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use bifolio::{Database, Options};
use common::strace::{Call, say, trace};
use common::{assert_whole, child, options, pagers, random, scratch};
use rand::RngExt;
use rand::rngs::StdRng;

const PATH: &str = "BIFOLIO_PATH";
const PAGER: &str = "BIFOLIO_PAGER";
const LEAVE: &str = "BIFOLIO_LEAVE";
/// Bytes at each of which a meta lies, and its length.
const META_SLOTS: [u64; 2] = [0, 65_536];
const WRITES: [&str; 7] = [
    "write",
    "pwrite64",
    "pwritev",
    "pwritev2",
    "msync",
    "ftruncate",
    "fallocate",
];
const RENAMES: [&str; 5] = ["rename", "renameat", "renameat2", "link", "linkat"];

/// In the child: the path and the options that the parent chose.
fn asked() -> Option<(PathBuf, Options)> {
    let path = std::env::var_os(PATH).map(PathBuf::from)?;
    let pager: usize = std::env::var(PAGER).ok()?.parse().ok()?;
    let (_, pager) = pagers(4096).swap_remove(pager);
    Some((path, options(&pager).log_bytes(1 << 16)))
}

fn put(db: &Database, key: &str) {
    let mut txn = db.write().unwrap();
    txn.table("t").unwrap().insert(key, [7; 500]).unwrap();
    txn.commit().unwrap();
}

fn run(test: &str, path: &Path, pager: usize, longest: usize) -> Option<Vec<Call>> {
    let pager = pager.to_string();
    let variables = [(PATH, path), (PAGER, Path::new(&pager))];
    let calls = trace(test, &variables, longest, &path.with_file_name("trace"))?;
    Some(calls.into_iter().filter(|call| !call.failed).collect())
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn opening_locks_syncs_drops_the_cache_and_only_then_reads() {
    const TEST: &str = "opening_locks_syncs_drops_the_cache_and_only_then_reads";
    if let Some((path, options)) = asked() {
        let db = options.create(&path).unwrap();
        if std::env::var_os(LEAVE).is_some() {
            put(&db, "only in the log");
            std::process::exit(0); // without closing
        }
        say("open");
        drop(db);
        return;
    }
    for (pager, (name, _)) in pagers(4096).into_iter().enumerate() {
        let (directory, _) = scratch();
        let directory = fs::canonicalize(directory.path()).unwrap();
        let path = directory.join("test.bifolio");
        let mut leave = child::again(TEST);
        leave.env(PATH, &path).env(PAGER, pager.to_string());
        assert!(leave.env(LEAVE, "1").status().unwrap().success());
        let Some(mut calls) = run(TEST, &path, pager, 64) else {
            return;
        };
        let open = calls.iter().position(|call| call.says("open"));
        calls.truncate(open.expect("it was opened"));
        expect_order_of_opening(&calls, text(&path), text(&directory), name);
    }
}

#[track_caller]
fn expect_order_of_opening(calls: &[Call], file: &str, directory: &str, name: &str) {
    let first = |what: &str, is: &dyn Fn(&Call) -> bool| {
        let found = calls.iter().position(is);
        found.unwrap_or_else(|| panic!("{name}: it never did {what}"))
    };
    let lock = first("lock", &|call| {
        call.is_on(file) && call.arguments.contains("F_OFD_SETLK, {l_type=F_WRLCK")
    });
    let is_sync = |call: &Call| call.is(&["fsync", "fdatasync"]);
    let sync = first("sync the file", &|call| is_sync(call) && call.is_on(file));
    let names = first("sync the directory", &|call| {
        is_sync(call) && call.is_on(directory)
    });
    let drop = first("drop the cache", &|call| {
        call.is(&["fadvise64"]) && call.is_on(file) && call.arguments.ends_with("DONTNEED")
    });
    assert!(
        lock < sync && sync < drop && lock < names && names < drop,
        "{name}: lock {lock}, sync {sync}, directory {names}, drop {drop}"
    );
    let log = format!("{file}-log");
    for (at, call) in calls.iter().enumerate() {
        let reads = call.is(&["pread64", "preadv", "preadv2", "mmap", "read"]);
        let queued = call.is(&["io_uring_setup", "io_uring_enter"]);
        let touches = queued || call.is_on(file) && (reads || call.is(&WRITES));
        assert!(
            at > lock || !touches,
            "{name}: {} before the lock",
            call.name
        );
        // Whether it was closed cleanly is read from the metas, before their content is believed.
        let is_meta = call.is(&["pread64"])
            && call
                .last_number()
                .is_some_and(|at| META_SLOTS.contains(&at));
        assert!(
            at > drop || !touches || is_meta,
            "{name}: {}({}) before the cache is dropped",
            call.name,
            call.arguments
        );
        assert!(
            at > lock || !call.arguments.contains(&log),
            "{name}: the log before the lock"
        );
    }
    let after = &calls[drop..];
    for slot in META_SLOTS {
        let again = |call: &Call| call.is(&["pread64"]) && call.last_number() == Some(slot);
        assert!(
            after.iter().any(again),
            "{name}: the meta at {slot} is not read again"
        );
    }
}

/// The directory while a database is made in it, as a disk would have it: one file.
#[derive(Default)]
struct Creation {
    /// What programs see, and what was synced.
    bytes: Vec<u8>,
    synced: Vec<u8>,
    /// The database's name was given, and that was synced.
    named: bool,
    name_synced: bool,
}

impl Creation {
    /// Does what a call did, and says whether it changed anything.
    fn follow(&mut self, call: &Call, path: &str, directory: &str) -> bool {
        let ours = |call: &Call| call.is_on(path) || call.arguments.contains(&format!("<{path}."));
        match call.name.as_str() {
            "fsync" | "fdatasync" if ours(call) => self.synced = self.bytes.clone(),
            "fsync" if call.is_on(directory) => self.name_synced = self.named,
            _ if call.is(&RENAMES) && call.arguments.contains(&format!("\"{path}\"")) => {
                self.named = true;
            }
            "write" if ours(call) => self.bytes.extend(&call.strings[0]),
            "pwrite64" if ours(call) => {
                let (at, bytes) = (call.last_number().unwrap() as usize, &call.strings[0]);
                let end = at + bytes.len();
                self.bytes.resize(self.bytes.len().max(end), 0);
                self.bytes[at..end].copy_from_slice(bytes);
            }
            _ => {
                assert!(
                    !ours(call) || !call.is(&WRITES),
                    "{} is not modelled",
                    call.name
                );
                return false;
            }
        }
        true
    }

    /// The file after a power cut: each unsynced sector may be there, and so may the length.
    fn cut(&self, random: &mut StdRng) -> Vec<u8> {
        const SECTOR: usize = 512;
        let mut left = self.synced.clone();
        if random.random() {
            left.resize(self.bytes.len(), 0);
        }
        for (old, new) in left.chunks_mut(SECTOR).zip(self.bytes.chunks(SECTOR)) {
            if old.len() == new.len() && random.random() {
                old.copy_from_slice(new);
            }
        }
        left
    }
}

#[test]
fn a_power_cut_while_a_file_is_made_leaves_nothing_or_a_database() {
    const TEST: &str = "a_power_cut_while_a_file_is_made_leaves_nothing_or_a_database";
    if let Some((path, options)) = asked() {
        let db = options.create(&path).unwrap();
        say("made");
        drop(db);
        return;
    }
    let mut random = random(97);
    for (pager, (name, choice)) in pagers(4096).into_iter().enumerate() {
        let (directory, _) = scratch();
        let directory = fs::canonicalize(directory.path()).unwrap();
        let path = directory.join("test.bifolio");
        let Some(calls) = run(TEST, &path, pager, 1 << 20) else {
            return;
        };
        let mut disk = Creation::default();
        let (mut cuts, mut found) = (0, 0);
        for call in calls.iter().take_while(|call| !call.says("made")) {
            if !disk.follow(call, text(&path), text(&directory)) {
                continue;
            }
            for _ in 0..4 {
                cuts += 1;
                let (_directory, path) = scratch();
                let is_named = disk.name_synced || disk.named && random.random();
                let at = match is_named {
                    true => path.clone(),
                    false => path.with_file_name("test.bifolio.0000abcd.new"),
                };
                fs::write(at, disk.cut(&mut random)).unwrap();
                let db = match is_named {
                    true => options(&choice).open(&path),
                    false => options(&choice).create(&path),
                };
                let db = db.unwrap_or_else(|error| panic!("{name}, {}: {error}", call.name));
                assert_whole(&db);
                found += u32::from(is_named);
            }
        }
        assert!(
            disk.name_synced,
            "{name}: it has no durable name when it is open"
        );
        assert!(cuts >= 16 && found >= 4, "{name}: {found} of {cuts}");
        // Nothing reached the file but by those calls: not through a map.
        assert!(fs::read(&path).unwrap() == disk.bytes, "{name}");
    }
}

#[test]
fn a_directory_is_synced_before_a_file_is_used_by_its_new_name() {
    const TEST: &str = "a_directory_is_synced_before_a_file_is_used_by_its_new_name";
    if let Some((path, options)) = asked() {
        let db = options.create(&path).unwrap();
        for number in 0..300 {
            put(&db, &format!("{number}"));
        }
        db.close().unwrap();
        return;
    }
    for (pager, (name, _)) in pagers(4096).into_iter().enumerate() {
        let (directory, _) = scratch();
        let directory = fs::canonicalize(directory.path()).unwrap();
        let path = directory.join("test.bifolio");
        let Some(calls) = run(TEST, &path, pager, 256) else {
            return;
        };
        let mut pending = HashSet::new();
        let mut renames = 0;
        for call in &calls {
            if call.is(&RENAMES) {
                let given = Path::new(std::str::from_utf8(&call.strings[1]).unwrap()).to_owned();
                pending.insert(directory.join(given));
                renames += 1;
            } else if call.is(&["fsync", "fdatasync"]) && call.is_on(text(&directory)) {
                pending.clear();
            } else if call.is(&WRITES) {
                let early = pending.iter().find(|path| call.is_on(text(path)));
                assert_eq!(early, None, "{name}: {}", call.name);
            }
        }
        assert!(renames > 4, "{name}: the log did not go on to new files");
        assert!(pending.is_empty(), "{name}: {pending:?}");
    }
}
