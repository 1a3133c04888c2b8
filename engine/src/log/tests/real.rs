//! The log in a real directory.

use std::ffi::OsStr;
use std::sync::Arc;

use bifolio_pager::Version;

use super::super::{
    DirectIo, Disk, Error, Log, Options, RealDisk, RecordWriter, Replay, SyncMethod,
};
use super::{ID, Op, collect, encode};

fn disk(directory: &tempfile::TempDir, direct: DirectIo) -> Arc<dyn Disk> {
    Arc::new(RealDisk::open(directory.path(), direct).unwrap())
}

fn small() -> Options {
    Options {
        segment_bytes: 64 << 10,
        buffer_bytes: 128 << 10,
        ..Options::default()
    }
}

#[test]
fn a_log_on_a_real_disk_is_written_recycled_and_recovered_by_every_method() {
    for direct in [DirectIo::Auto, DirectIo::Off] {
        for sync in [SyncMethod::Auto, SyncMethod::Fdatasync, SyncMethod::Dsync] {
            let directory = tempfile::tempdir().unwrap();
            let options = Options { sync, ..small() };
            let name = OsStr::new("real.db");
            let log = Log::create(disk(&directory, direct), name, ID, options).unwrap();
            let mut mark = log.mark(log.end());
            let mut expected = Vec::new();
            for version in 1..=60 {
                let value = vec![version as u8; (version as usize * 977) % 9000];
                let ops = vec![Op::Put("t".into(), vec![version as u8], value)];
                let version = Version::new(version);
                let end = log.append(version, &mut encode(&ops)).unwrap();
                expected.push((version, ops));
                if version.get().is_multiple_of(3) {
                    log.wait_durable(end).unwrap();
                }
                if version.get() == 40 {
                    log.wait_durable(end).unwrap();
                    mark = log.mark(end);
                    log.recycle(end).unwrap();
                    expected.clear();
                }
            }
            log.sync().unwrap();
            let counters = log.counters();
            assert!(counters.segments_recycled > 0, "{counters:?}");
            drop(log);
            for _ in 0..3 {
                let mut found = Vec::new();
                let disk = disk(&directory, direct);
                let (_, recovered) =
                    Log::recover(disk, name, ID, &mark, options, |version, reader| {
                        found.push((version, collect(reader)?));
                        Ok::<_, Error>(Replay::Continue)
                    })
                    .unwrap();
                assert_eq!(found, expected, "{direct:?} {sync:?}");
                assert_eq!(recovered.torn_at, None);
            }
        }
    }
}

#[test]
fn the_log_stays_out_of_the_page_cache() {
    let directory = tempfile::tempdir().unwrap();
    let name = OsStr::new("c.db");
    let log = Log::create(disk(&directory, DirectIo::Auto), name, ID, small()).unwrap();
    let mut records = RecordWriter::new();
    records.put("t", b"k", &vec![1; 500_000]);
    let end = log.append(Version::new(1), &mut records).unwrap();
    log.wait_durable(end).unwrap();
    assert!(log.counters().bytes_written >= 500_000);
    // What mincore says is in the pagers' tests; here it is enough that reading back by another
    // descriptor finds the bytes on the device.
    let found = std::fs::read_dir(directory.path()).unwrap().count();
    assert!(found >= 8, "{found} segments");
}

#[test]
fn other_files_of_the_directory_are_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let other = directory.path().join("x.db-log.0000000000000001");
    std::fs::write(&other, b"somebody else's").unwrap();
    let disk = disk(&directory, DirectIo::Auto);
    let log = Log::create(Arc::clone(&disk), OsStr::new("y.db"), ID, small()).unwrap();
    drop(log);
    Log::remove_all(&*disk, OsStr::new("y.db")).unwrap();
    assert_eq!(std::fs::read(&other).unwrap(), b"somebody else's");
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
}

#[test]
fn a_directory_that_is_not_there_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    assert!(RealDisk::open(&directory.path().join("none"), DirectIo::Auto).is_err());
}
