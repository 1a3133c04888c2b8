//! Paths that are not what one expects: pipes, devices, sockets, links, odd names, places where one
//! may not write. Each is opened, or refused with a typed error; none hangs, none is changed.

mod common;

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use bifolio::{Database, Error, MmapConfig, Options, PagerChoice, PoolConfig, PoolSize, Result};
use common::child::{self, in_child};
use common::{options, pagers, scratch};

fn put(db: &Database, key: &str, value: &str) {
    let mut txn = db.write().unwrap();
    txn.table("t").unwrap().insert(key, value).unwrap();
    txn.commit().unwrap();
}

fn value(db: &Database, key: &str) -> Option<Vec<u8>> {
    db.read().unwrap().table("t").unwrap().get(key).unwrap()
}

/// The same, where waiting for ever is what may go wrong.
fn returns<T: Send + 'static>(what: impl FnOnce() -> T + Send + 'static) -> T {
    let (send, receive) = mpsc::channel();
    thread::spawn(move || send.send(what()));
    receive
        .recv_timeout(Duration::from_secs(60))
        .expect("it hangs")
}

/// Every way of opening refuses `path`.
fn refused_everywhere(path: &Path) -> Vec<Error> {
    let mut errors = Vec::new();
    for (name, choice) in pagers(4096) {
        for read_only in [false, true] {
            for create in [false, true] {
                let options = options(&choice).read_only(read_only);
                let at = path.to_owned();
                let outcome: Result<Database> = returns(move || match create {
                    true => options.create(at),
                    false => options.open(at),
                });
                match outcome {
                    Ok(_) => panic!("{name} opened {}", path.display()),
                    Err(error) => errors.push(error),
                }
            }
        }
    }
    errors
}

#[test]
fn a_pipe_a_socket_and_devices_are_refused_and_nobody_hangs() {
    let (directory, _) = scratch();
    let pipe = directory.path().join("pipe");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &pipe,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RWXU,
        0,
    )
    .unwrap();
    let socket = directory.path().join("socket");
    let _listener = UnixListener::bind(&socket).unwrap();
    let to_pipe = directory.path().join("link to a pipe");
    symlink(&pipe, &to_pipe).unwrap();
    let devices = ["/dev/null", "/dev/zero", "/dev/full", "/proc/self/mem"];
    let devices = devices.map(PathBuf::from);
    for path in [pipe, socket, to_pipe].into_iter().chain(devices) {
        for error in refused_everywhere(&path) {
            assert!(
                matches!(error, Error::NotADatabase { .. } | Error::File { .. }),
                "{}: {error}",
                path.display()
            );
            let words = error.to_string();
            assert!(words.contains(path.to_str().unwrap()), "{words}");
        }
    }
    for error in refused_everywhere(directory.path()) {
        assert!(matches!(error, Error::NotADatabase { .. }), "{error}");
    }
}

#[test]
fn links_lead_to_one_database_and_the_second_opener_is_told() {
    let (directory, path) = scratch();
    let (soft, hard) = (directory.path().join("soft"), directory.path().join("hard"));
    let db = Database::create(&path).unwrap();
    put(&db, "k", "v");
    symlink(&path, &soft).unwrap();
    fs::hard_link(&path, &hard).unwrap();
    for other in [&path, &soft, &hard] {
        for read_only in [false, true] {
            let second = Options::new().read_only(read_only).create(other);
            let Err(Error::InUse { holder, .. }) = second else {
                panic!("{second:?}");
            };
            assert_eq!(holder, Some(std::process::id()), "it knows its own");
        }
    }
    drop(db);
    for (other, number) in [&soft, &hard].into_iter().zip(["1", "2"]) {
        let db = Database::open(other).unwrap();
        assert_eq!(value(&db, "k").unwrap(), b"v");
        put(&db, number, "written through a link");
    }
    let db = Database::open(&path).unwrap();
    assert!(value(&db, "1").is_some() && value(&db, "2").is_some());
    drop(db);
    let dangling = directory.path().join("dangling");
    symlink(directory.path().join("nothing"), &dangling).unwrap();
    for error in refused_everywhere(&dangling) {
        let is_typed = matches!(error, Error::File { .. } | Error::ReadOnly);
        assert!(is_typed, "{error}");
    }
    let circle = directory.path().join("circle");
    symlink(&circle, &circle).unwrap();
    for error in refused_everywhere(&circle) {
        assert!(matches!(error, Error::File { .. }), "{error}");
    }
    let left = fs::read_dir(directory.path()).unwrap().count();
    assert_eq!(left, 5, "a scratch file stayed behind");
}

#[test]
fn names_of_any_bytes_are_names() {
    let (directory, _) = scratch();
    let names: [&[u8]; 4] = [
        b"with space",
        b"\xff\xfe not text",
        b".hidden",
        "Straße".as_bytes(),
    ];
    for name in names {
        let path = directory.path().join(std::ffi::OsStr::from_bytes(name));
        put(&Database::create(&path).unwrap(), "k", "v");
        let db = Database::open(&path).unwrap();
        assert_eq!((value(&db, "k").unwrap(), db.path()), (b"v".into(), &*path));
    }
}

#[test]
fn names_that_cannot_be_are_refused_and_leave_nothing_behind() {
    let (directory, _) = scratch();
    let at = |name: &str| directory.path().join(name);
    let impossible = [
        PathBuf::new(),
        at("nul\0byte"),
        at("no/such/directory/file"),
        at(&"x".repeat(300)),
        at("slash/"),
    ];
    for path in impossible {
        for error in refused_everywhere(&path) {
            let is_typed = matches!(error, Error::File { .. } | Error::ReadOnly);
            assert!(is_typed, "{path:?}: {error}");
        }
    }
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn options_that_cannot_be_make_no_file() {
    let (_directory, path) = scratch();
    let pool = |bytes| {
        PagerChoice::Pool(PoolConfig {
            size: PoolSize::Bytes(bytes),
            ..PoolConfig::default()
        })
    };
    let refused = [
        Options::new().pager(PagerChoice::Memory),
        Options::new().page_size(1000),
        Options::new().page_size(0),
        Options::new().pager(pool(0)),
        Options::new().pager(pool(1000)),
        Options::new().pager(pool(u64::MAX)),
        Options::new().pager(pool(1 << 62)),
    ];
    for options in refused {
        let error = options.create(&path).expect_err("it cannot be had");
        let is_typed = matches!(
            error,
            Error::BadOption(_)
                | Error::Pager(bifolio::PagerError::BadOption(_))
                | Error::Pager(bifolio::PagerError::Unavailable { .. })
        );
        assert!(is_typed, "{options:?}: {error}");
        assert!(!path.exists(), "{options:?} made a file");
    }
}

#[test]
fn a_relative_path_is_one_in_the_working_directory() {
    in_child("a_relative_path_is_one_in_the_working_directory", || {
        let (directory, _) = scratch();
        std::env::set_current_dir(directory.path()).unwrap();
        for path in ["plain", "./dotted", "sub/../around"] {
            fs::create_dir_all("sub").unwrap();
            for (_, choice) in pagers(4096) {
                let db = options(&choice).create(path).unwrap();
                put(&db, "k", "v");
                db.close().unwrap();
            }
            assert_eq!(value(&Database::open(path).unwrap(), "k").unwrap(), b"v");
        }
        assert!(Path::new("plain").is_file() && Path::new("around").is_file());
    });
}

/// Runs the test of this name again, in a process of a user who owns nothing, in `directory`.
fn as_nobody(test: &str, directory: &Path) {
    const NOBODY: u32 = 65_534;
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: only root can become somebody who may not");
        return;
    }
    let mut command = child::again(test);
    command.env("BIFOLIO_DIRECTORY", directory);
    match command.uid(NOBODY).gid(NOBODY).output() {
        Ok(output) => child::check(&output),
        Err(error) => println!("SKIPPED: that user may not even run this test: {error}"),
    }
}

/// Makes a database that was not closed, of one commit that is only in its log; returns the log.
fn left_open(path: &Path) -> PathBuf {
    let (directory, original) = scratch();
    let db = Database::create(&original).unwrap();
    put(&db, "k", "only in the log");
    let mut log = None;
    for entry in fs::read_dir(directory.path()).unwrap() {
        let from = entry.unwrap().path();
        let name = from.file_name().unwrap().to_str().unwrap().to_owned();
        let to = path.with_file_name(name.replace("test.bifolio", "crashed"));
        if name.ends_with("-log.0000000000000001") {
            log = Some(to.clone());
        }
        fs::copy(from, to).unwrap();
    }
    log.expect("a commit makes a log")
}

#[test]
fn where_one_may_not_write_one_may_read() {
    const TEST: &str = "where_one_may_not_write_one_may_read";
    if !child::is_child() {
        let (directory, path) = scratch();
        put(&Database::create(&path).unwrap(), "k", "v");
        fs::copy(&path, directory.path().join("secret")).unwrap();
        let log = left_open(&directory.path().join("crashed"));
        let mode = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        };
        mode(&path, 0o444);
        mode(&log, 0o444);
        mode(&directory.path().join("crashed"), 0o444);
        mode(&directory.path().join("secret"), 0o000);
        mode(directory.path(), 0o555);
        let before = fs::read(&path).unwrap();
        as_nobody(TEST, directory.path());
        assert!(fs::read(&path).unwrap() == before, "it was changed");
        mode(directory.path(), 0o755);
        return;
    }
    let directory = PathBuf::from(std::env::var_os("BIFOLIO_DIRECTORY").unwrap());
    let path = directory.join("test.bifolio");
    for (name, choice) in pagers(4096) {
        let db = options(&choice).read_only(true).open(&path).unwrap();
        assert_eq!(value(&db, "k").unwrap(), b"v", "{name}");
        assert!(matches!(db.write(), Err(Error::ReadOnly)), "{name}");
        drop(db);
        // Its log is replayed in memory.
        let crashed = directory.join("crashed");
        let db = options(&choice).read_only(true).open(crashed).unwrap();
        assert_eq!(value(&db, "k").unwrap(), b"only in the log", "{name}");
        drop(db);
        for (file, read_only) in [("test.bifolio", false), ("secret", true), ("new", false)] {
            let options = options(&choice).read_only(read_only);
            let error = options.create(directory.join(file)).err().unwrap();
            assert!(
                matches!(&error, Error::File { source, .. }
                    if source.kind() == std::io::ErrorKind::PermissionDenied),
                "{name}, {file}: {error}"
            );
        }
    }
}

#[test]
fn a_pool_changes_its_size_while_the_database_is_open() {
    let (_directory, path) = scratch();
    let pool = PoolConfig {
        size: PoolSize::Bytes(8 << 20),
        ..PoolConfig::default()
    };
    let database = Options::new()
        .pager(PagerChoice::Pool(pool))
        .max_bytes(1 << 30)
        .create(&path)
        .expect("a database");
    let before = database.counters().frames;
    database.resize_pool(4 << 20).expect("nothing is guarded");
    let counters = database.counters();
    assert!(counters.frames < before);
    assert!(counters.memory_bytes <= Some(4 << 20));
    for bytes in [0, 9 << 20] {
        let refused = database.resize_pool(bytes);
        assert!(refused.is_err(), "{bytes}");
    }
    database.resize_pool(8 << 20).expect("what it had");
    assert_eq!(database.counters().frames, before);
    drop(database);
    let mapped = Options::new()
        .pager(PagerChoice::Mmap(MmapConfig::default()))
        .open(&path)
        .expect("the same database");
    let refused = mapped.resize_pool(8 << 20).expect_err("it has no pool");
    assert!(matches!(refused, Error::BadOption(_)), "{refused}");
}
