//! The memory report against what the kernel says of the process, in processes of their own.

mod common;

use std::process::Command;

use bifolio::{Database, MemoryReport, MmapConfig, Options, PagerChoice, PoolConfig, PoolSize};

const ENTRIES: u32 = 40_000;
/// Smaller than the file, so that every frame is filled.
const POOL_BYTES: u64 = 16 << 20;

/// Bytes by which two numbers for the same memory may differ: the allocator's and the program's own.
const SLACK: u64 = 4 << 20;

fn choices() -> [(&'static str, PagerChoice); 3] {
    let pool = |direct| {
        PagerChoice::Pool(PoolConfig {
            size: PoolSize::Bytes(POOL_BYTES),
            direct,
            ..PoolConfig::default()
        })
    };
    [
        ("mmap", PagerChoice::Mmap(MmapConfig::default())),
        ("pool", pool(bifolio::Direct::Auto)),
        ("pool through the page cache", pool(bifolio::Direct::Off)),
    ]
}

fn fill(db: &Database) {
    let mut txn = db.write().unwrap();
    let mut table = txn.table("t").unwrap();
    for index in 0..ENTRIES {
        table.insert(index.to_be_bytes(), [7; 500]).unwrap();
    }
    txn.commit().unwrap();
    db.checkpoint().unwrap();
}

fn read_all(db: &Database) {
    let snapshot = db.read().unwrap();
    let table = snapshot.table("t").unwrap();
    assert_eq!(table.range::<&[u8]>(..).count(), ENTRIES as usize);
}

/// Whether `a` and `b` are nearly the same.
fn near(a: u64, b: u64) -> bool {
    a.abs_diff(b) <= SLACK
}

fn examine(name: &str, choice: &PagerChoice, path: &std::path::Path) {
    let before = Database::in_memory().unwrap().memory_report().unwrap();
    let db = Options::new().pager(choice.clone()).open(path).unwrap();
    read_all(&db);
    let report = db.memory_report().unwrap();
    println!("{name}\n{report}\n");
    let grown = |field: fn(&MemoryReport) -> Option<u64>| {
        field(&report)
            .unwrap()
            .saturating_sub(field(&before).unwrap())
    };
    // Pinned memory is private memory of this process, all that it gained; mapped memory likewise.
    let private = grown(|report| report.process_private_bytes);
    assert!(near(private, report.pinned_bytes), "{private}: {report:?}");
    let mapped = grown(|report| report.process_mapped_bytes);
    assert!(near(mapped, report.mapped_bytes), "{mapped}: {report:?}");

    let is_mmap = matches!(choice, PagerChoice::Mmap(_));
    assert_eq!(report.frames_bytes.is_none(), is_mmap);
    assert!(report.mapped_bytes <= report.cached_bytes);
    let slightly_over = 1 << 20; // tables grow with the file
    assert!(report.pinned_bytes <= POOL_BYTES + slightly_over);
    assert!(report.frames_bytes.unwrap_or(0) <= report.pinned_bytes);
    let accounted = report.cached_bytes + report.frames_bytes.unwrap_or(0) + report.cold_bytes;
    assert!(accounted >= report.file_bytes);
    assert_eq!(report.dirty_bytes.unwrap_or(0), 0, "nothing was changed");
}

#[test]
#[ignore = "a process of its own, started by the next test"]
fn child() {
    let path = std::env::var_os("BIFOLIO_TEST_MEMORY_PATH").expect("the parent sets it");
    let name = std::env::var("BIFOLIO_TEST_MEMORY_PAGER").expect("the parent sets it");
    let [choice] = choices()
        .map(|choice| (choice.0 == name).then_some(choice))
        .into_iter()
        .flatten()
        .collect::<Vec<_>>()
        .try_into()
        .unwrap();
    examine(choice.0, &choice.1, path.as_ref());
}

#[test]
fn the_report_agrees_with_the_kernel_on_each_pager() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("data");
    let db = Options::new().create(&path).unwrap();
    fill(&db);
    db.close().unwrap();
    for (name, _) in choices() {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--ignored", "--nocapture"])
            .env("BIFOLIO_TEST_MEMORY_PATH", &path)
            .env("BIFOLIO_TEST_MEMORY_PAGER", name)
            .output()
            .unwrap();
        print!("{}", String::from_utf8_lossy(&child.stdout));
        assert!(
            child.status.success(),
            "{}",
            String::from_utf8_lossy(&child.stderr)
        );
    }
}

#[test]
fn looking_at_the_memory_leaves_the_holder_its_name() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("data");
    let db = Database::create(&path).unwrap();
    drop(db.write().unwrap());
    db.memory_report().unwrap();
    let inode = std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(&path).unwrap());
    // The name is a POSIX record lock, which the system lists with its process.
    let locks = std::fs::read_to_string("/proc/locks").unwrap();
    let name = format!(":{inode} ");
    let held = locks
        .lines()
        .filter(|line| line.contains("POSIX") && line.contains(&name));
    assert_eq!(held.count(), 1, "{locks}");
}

#[test]
fn the_log_does_not_fill_the_page_cache() {
    for (name, choice) in choices() {
        let directory = tempfile::tempdir().unwrap();
        let db = Options::new()
            .pager(choice)
            .create(directory.path().join("data"))
            .unwrap();
        for index in 0..64_u32 {
            let mut txn = db.write().unwrap();
            txn.table("t")
                .unwrap()
                .insert(index.to_be_bytes(), [1; 20_000])
                .unwrap();
            txn.commit().unwrap();
        }
        let report = db.memory_report().unwrap();
        assert!(report.log_bytes >= 64 * 20_000, "{name}: {report}");
        if report.log_cached_bytes > report.log_bytes / 4 {
            println!("SKIPPED {name}: this file system does no direct I/O");
        }
    }
}
