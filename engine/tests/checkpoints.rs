//! Checkpoints in the background: what they bound, on real files, with every pager.

mod common;

use std::path::Path;

use bifolio::{Durability, SyncMethod};
use common::{assert_whole, options, pagers, scratch};

const LOG_BYTES: u64 = 256 << 10;
/// What `Options::log_bytes` says of recovery, and of the disk.
const RECOVERY_FACTOR: u64 = 3;
const DISK_FACTOR: u64 = 5;

/// Bytes of all files of the log of the database at `path`, the one that is being made included.
fn log_on_disk(path: &Path) -> u64 {
    let prefix = format!("{}-log.", path.file_name().unwrap().display());
    let entries = std::fs::read_dir(path.parent().unwrap()).unwrap();
    let sizes = entries.filter_map(|entry| {
        let entry = entry.unwrap();
        let is_log = entry.file_name().to_str().unwrap().starts_with(&prefix);
        // It may have been renamed or removed since.
        is_log.then(|| entry.metadata().map_or(0, |metadata| metadata.len()))
    });
    sizes.sum()
}

#[test]
fn a_steady_writer_never_makes_the_log_longer_than_recovery_is_bounded_by() {
    for (name, choice) in pagers(4096) {
        let (_directory, path) = scratch();
        let db = options(&choice).log_bytes(LOG_BYTES).create(&path).unwrap();
        let (mut longest, mut most) = (0, 0);
        for number in 0..6000_u64 {
            let mut txn = db.write().unwrap();
            let mut table = txn.table("t").unwrap();
            let key = (number * 7919 % 3000).to_be_bytes();
            table.insert(key, [number as u8; 400]).unwrap();
            txn.commit_with(Durability::Checkpoint).unwrap();
            longest = longest.max(db.checkpoint_counters().log_bytes);
            if number % 100 == 0 {
                most = most.max(log_on_disk(&path));
            }
        }
        let counters = db.checkpoint_counters();
        println!("{name}: log {longest}, on disk {most}, {counters:?}");
        assert!(longest <= RECOVERY_FACTOR * LOG_BYTES, "{name}: {longest}");
        assert!(most <= DISK_FACTOR * LOG_BYTES, "{name}: {most}");
        assert!(counters.completed >= 3, "{name}: {counters:?}");
        assert_whole(&db);
    }
}

#[test]
fn a_writer_waits_rather_than_let_dirty_pages_grow_without_bound() {
    const DIRTY_BYTES: u64 = 1 << 20;
    for (name, choice) in pagers(4096) {
        let (_directory, path) = scratch();
        let db = options(&choice)
            .dirty_bytes(DIRTY_BYTES)
            .create(&path)
            .unwrap();
        let mut dirtiest = 0;
        for number in 0..4000_u64 {
            let mut txn = db.write().unwrap();
            let mut table = txn.table("t").unwrap();
            let key = (number * 7919 % 4000).to_be_bytes();
            table.insert(key, [number as u8; 900]).unwrap();
            txn.commit_with(Durability::Checkpoint).unwrap();
            dirtiest = dirtiest.max(db.checkpoint_counters().dirty_bytes);
        }
        let counters = db.checkpoint_counters();
        println!("{name}: {dirtiest} dirty, {counters:?}");
        // Twice as many at the beginning of a transaction, and what one transaction adds.
        assert!(dirtiest <= 2 * DIRTY_BYTES + (64 << 10), "{name}");
        assert!(counters.completed >= 2, "{name}: {counters:?}");
        assert_whole(&db);
    }
}

#[test]
fn the_sync_method_is_known_once_there_is_a_log() {
    let (_directory, path) = scratch();
    let (_, choice) = pagers(4096).remove(0);
    let db = options(&choice).create(&path).unwrap();
    assert_eq!(db.log_sync_method(), None);
    let mut txn = db.write().unwrap();
    txn.table("t").unwrap();
    txn.commit().unwrap();
    let method = db.log_sync_method();
    assert!(
        matches!(method, Some(SyncMethod::Fdatasync | SyncMethod::Dsync)),
        "a probe has chosen: {method:?}"
    );
}
