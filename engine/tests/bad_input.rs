//! Files that are not ours or not whole, openers that may not: a typed error that says what, where
//! and what to do, no panic, and the file unchanged.

mod common;

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use bifolio::{Database, Error, Options, PagerChoice, PoolConfig, PoolSize};
use common::child;
use common::{options, pagers, scratch};

/// A small database with content, closed cleanly.
fn sample(path: &Path) {
    let db = Database::create(path).unwrap();
    let mut txn = db.write().unwrap();
    let mut table = txn.table("t").unwrap();
    for number in 0..2000_u32 {
        table
            .insert(number.to_be_bytes(), [number as u8; 40])
            .unwrap();
    }
    txn.commit().unwrap();
    db.close().unwrap();
}

/// Opening fails under every pager, the error says `words`, and the file stays as it was.
#[track_caller]
fn refused(path: &Path, words: &str) -> Error {
    let before = fs::read(path).ok();
    let mut last = None;
    for (name, choice) in pagers(4096) {
        for read_only in [false, true] {
            let error = match options(&choice).read_only(read_only).open(path) {
                Ok(_) => panic!("{name} opened it"),
                Err(error) => error,
            };
            assert!(error.to_string().contains(words), "{name}: {error}");
            last = Some(error);
        }
    }
    assert!(fs::read(path).ok() == before, "the file was changed");
    last.unwrap()
}

#[test]
fn a_file_that_is_not_there() {
    let (_directory, path) = scratch();
    assert!(matches!(refused(&path, "No such file"), Error::File { .. }));
}

#[test]
fn a_directory() {
    let (directory, _) = scratch();
    assert!(matches!(
        refused(directory.path(), "directory"),
        Error::NotADatabase { .. }
    ));
}

#[test]
fn an_empty_file() {
    let (_directory, path) = scratch();
    fs::write(&path, b"").unwrap();
    assert!(matches!(
        refused(&path, "empty"),
        Error::NotADatabase { .. }
    ));
}

#[test]
fn a_file_of_something_else() {
    let (_directory, path) = scratch();
    for content in [b"hello".to_vec(), vec![b'x'; 300_000], vec![0; 1 << 20]] {
        fs::write(&path, content).unwrap();
        assert!(matches!(
            refused(&path, "not a Bifolio database"),
            Error::NotADatabase { .. }
        ));
    }
}

#[test]
fn a_file_of_a_later_format() {
    let (_directory, path) = scratch();
    sample(&path);
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    for at in [0, 3584, 65536, 65536 + 3584] {
        file.write_all_at(&9_u32.to_le_bytes(), at + 8).unwrap();
    }
    drop(file);
    assert!(matches!(
        refused(&path, "format 9"),
        Error::NewerFormat { found: 9, .. }
    ));
}

#[test]
fn another_page_size_than_asked_for() {
    let (_directory, path) = scratch();
    sample(&path);
    let error = Options::new().page_size(8192).open(&path).err().unwrap();
    assert!(
        matches!(
            error,
            Error::OtherPageSize {
                found: 4096,
                asked: 8192,
                ..
            }
        ),
        "{error}"
    );
    let error = Options::new().page_size(5000).open(&path).err().unwrap();
    assert!(error.to_string().contains("5000"), "{error}");
}

#[test]
fn a_truncated_file() {
    let (_directory, path) = scratch();
    sample(&path);
    let length = fs::metadata(&path).unwrap().len();
    let whole = fs::read(&path).unwrap();
    // Cut in the pages, in the meta area, in a slot, in a record.
    for cut in [131_072 + 4096, 131_072, 70_000, 65_536, 4096, 600, 100, 1] {
        assert!(cut < length);
        fs::write(&path, &whole[..cut as usize]).unwrap();
        let error = refused(&path, "");
        assert!(
            matches!(
                error,
                Error::Truncated { .. } | Error::DamagedMeta { .. } | Error::NotADatabase { .. }
            ),
            "cut at {cut}: {error}"
        );
    }
}

#[test]
fn a_damaged_meta_slot() {
    let (_directory, path) = scratch();
    sample(&path);
    let whole = fs::read(&path).unwrap();
    for slot in [0, 65_536] {
        // One copy damaged: the other one serves.
        let mut damaged = whole.clone();
        damaged[slot + 100] ^= 1;
        fs::write(&path, &damaged).unwrap();
        let db = Database::open(&path).unwrap();
        assert_eq!(db.read().unwrap().table("t").unwrap().len(), 2000);
        drop(db);
        // Both copies damaged: it might have been the newest commit, so it is not passed over.
        damaged[slot + 3584 + 100] ^= 1;
        fs::write(&path, &damaged).unwrap();
        assert!(matches!(
            refused(&path, "damaged"),
            Error::DamagedMeta { .. }
        ));
    }
}

#[test]
fn a_flipped_bit_in_a_page_is_an_error_that_names_the_page() {
    let (_directory, path) = scratch();
    sample(&path);
    let whole = fs::read(&path).unwrap();
    let pages = whole.len() / 4096;
    let mut met = 0;
    for page in 32..pages {
        let mut damaged = whole.clone();
        damaged[page * 4096 + 1234] ^= 0x10;
        fs::write(&path, &damaged).unwrap();
        for (name, choice) in pagers(4096) {
            let db = options(&choice).open(&path).unwrap();
            let all = db.read().and_then(|snapshot| {
                let entries = snapshot.table("t")?.iter().collect::<Result<Vec<_>, _>>()?;
                assert_eq!(entries.len(), 2000, "wrong data was believed");
                Ok(())
            });
            if let Err(error) = all {
                let named = error.corrupt_page().map(|id| id.get());
                assert_eq!(named, Some(page as u64), "{name}: {error}");
                met += 1;
                let report = db.check().unwrap();
                assert!(!report.is_clean(), "{name}: the check sees it too");
            }
        }
    }
    assert!(met > 100, "{met}: the pages in use were met");
}

#[test]
fn a_page_copied_over_another_is_an_error() {
    let (_directory, path) = scratch();
    sample(&path);
    let mut damaged = fs::read(&path).unwrap();
    damaged.copy_within(40 * 4096..41 * 4096, 41 * 4096);
    fs::write(&path, &damaged).unwrap();
    for (name, choice) in pagers(4096) {
        let db = options(&choice).open(&path).unwrap();
        assert!(!db.check().unwrap().is_clean(), "{name}");
    }
}

#[test]
fn no_permission() {
    let (_directory, path) = scratch();
    sample(&path);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
    match fs::File::open(&path) {
        Ok(_) => println!("SKIPPED: this user may open everything"),
        Err(_) => {
            let error = Database::open(&path).err().unwrap();
            assert!(matches!(error, Error::File { .. }), "{error}");
        }
    }
}

#[test]
fn a_second_opener_is_told_soon_and_readers_share() {
    let (_directory, path) = scratch();
    sample(&path);
    let first = Database::open(&path).unwrap();
    let begun = Instant::now();
    assert!(matches!(Database::open(&path), Err(Error::InUse { .. })));
    assert!(matches!(
        Options::new().read_only(true).open(&path),
        Err(Error::InUse { .. })
    ));
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "it does not wait for ever"
    );
    drop(first);
    let one = Options::new().read_only(true).open(&path).unwrap();
    let two = Options::new().read_only(true).open(&path).unwrap();
    assert!(matches!(Database::open(&path), Err(Error::InUse { .. })));
    assert_eq!(one.read().unwrap().version(), two.read().unwrap().version());
}

#[test]
fn a_database_open_for_reading_cannot_be_written() {
    for (name, choice) in pagers(4096) {
        let (_directory, path) = scratch();
        sample(&path);
        let before = fs::read(&path).unwrap();
        let db = options(&choice).read_only(true).open(&path).unwrap();
        assert!(matches!(db.write(), Err(Error::ReadOnly)), "{name}");
        assert_eq!(db.read().unwrap().table("t").unwrap().iter().count(), 2000);
        drop(db);
        assert!(
            fs::read(&path).unwrap() == before,
            "{name} changed the file"
        );
    }
    let (_directory, path) = scratch();
    assert!(matches!(
        Options::new().read_only(true).create(&path),
        Err(Error::ReadOnly)
    ));
    assert!(!path.exists());
}

#[test]
fn a_pool_too_small_to_work_in() {
    let (_directory, path) = scratch();
    sample(&path);
    let pool = PoolConfig {
        size: PoolSize::Bytes(4096),
        ..PoolConfig::default()
    };
    let error = Options::new()
        .pager(PagerChoice::Pool(pool))
        .open(&path)
        .err()
        .unwrap();
    assert!(error.to_string().contains("too small"), "{error}");
}

/// A control group with a memory limit that goes when it is dropped; `None`, loudly, without one.
struct Group(PathBuf);

impl Group {
    fn new(limit_bytes: u64) -> Option<Self> {
        let version_1 = (Path::new("/sys/fs/cgroup/memory"), "memory.limit_in_bytes");
        let version_2 = (Path::new("/sys/fs/cgroup"), "memory.max");
        for (root, file) in [version_1, version_2] {
            let name = format!("bifolio-test-{}", std::process::id());
            let group = Group(root.join(name));
            let limited = fs::create_dir(&group.0)
                .and_then(|()| OpenOptions::new().write(true).open(group.0.join(file)))
                .and_then(|mut file| write!(file, "{limit_bytes}"));
            if limited.is_ok() {
                return Some(group);
            }
        }
        println!("SKIPPED: no control group can be made here");
        None
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

#[test]
fn a_memory_limit_smaller_than_the_pool() {
    const TEST: &str = "a_memory_limit_smaller_than_the_pool";
    const LIMIT: u64 = 64 << 20;
    if !child::is_child() {
        let Some(group) = Group::new(LIMIT) else {
            return;
        };
        let test = child::again(TEST);
        let mut command = Command::new("sh");
        command.args(["-c", r#"echo $$ > "$GROUP/cgroup.procs" && exec "$0" "$@""#]);
        command.arg(test.get_program()).args(test.get_args());
        for (name, value) in test.get_envs() {
            command.env(name, value.unwrap_or_default());
        }
        child::expect_success(command.env("GROUP", &group.0));
        return;
    }
    assert_eq!(bifolio::memory_limit_bytes(), Some(LIMIT));
    let (_directory, path) = scratch();
    let pool = |size| {
        let pool = PoolConfig {
            size,
            ..PoolConfig::default()
        };
        Options::new().pager(PagerChoice::Pool(pool)).create(&path)
    };
    let error = pool(PoolSize::Bytes(LIMIT + 1)).unwrap_err();
    assert!(matches!(error, Error::BadOption(_)), "{error}");
    assert!(error.to_string().contains(&LIMIT.to_string()), "{error}");
    assert!(!path.exists());
    drop(pool(PoolSize::Bytes(LIMIT / 4)).unwrap());
    let db = pool(PoolSize::Auto).unwrap();
    let frames = db.counters().frames.unwrap();
    assert!((1000..LIMIT / 4096 - 1000).contains(&frames), "{frames}");
}

#[test]
fn bad_table_names() {
    let db = Database::in_memory().unwrap();
    let mut txn = db.write().unwrap();
    for name in [String::new(), "x".repeat(256)] {
        assert!(matches!(txn.table(&name), Err(Error::BadTableName { .. })));
    }
    txn.table(&"x".repeat(255)).unwrap();
}

#[test]
fn creating_over_something_else_leaves_it_alone() {
    let (_directory, path) = scratch();
    fs::write(&path, b"precious").unwrap();
    assert!(Database::create(&path).is_err());
    assert_eq!(fs::read(&path).unwrap(), b"precious");
    let left: Vec<_> = fs::read_dir(path.parent().unwrap()).unwrap().collect();
    assert_eq!(left.len(), 1, "no scratch file stays behind");
}
