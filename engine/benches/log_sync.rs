//! What it costs to make a small write durable, by the three methods that a log can choose from.
//!
//! - *append*: each write makes the file longer, so each `fdatasync` also commits a change of metadata;
//! - *overwrite*: the same into a file that was zero-filled before (what our segments are);
//! - *`O_DSYNC`*: an overwrite that is durable when the write returns, one system call instead of two.
//!
//! The engine preallocates and zero-fills its segments, and chooses between the last two by a probe
//! when the log is opened. Which is faster, and by how much, depends on device and file system: run it
//! where the database is to live, `TMPDIR=/that/disk cargo bench -p bifolio --bench log_sync`.

use std::cell::Cell;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use criterion::{Criterion, Throughput};

/// A small commit: one sector.
const LEN: usize = 512;
/// What is overwritten, again and again.
const FILE_LEN: u64 = 4 << 20;

fn create(path: &Path, len: u64, flags: i32) -> File {
    std::fs::write(path, vec![0; len as usize]).expect("a file for the benchmark");
    let file = OpenOptions::new()
        .write(true)
        .custom_flags(flags)
        .open(path)
        .expect("the file just made");
    file.sync_all().expect("a sync");
    file
}

fn log_sync(criterion: &mut Criterion) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let sector = [0x5A; LEN];
    let mut group = criterion.benchmark_group("log_sync");
    group.throughput(Throughput::Elements(1));
    let mut measure = |name: &str, file: File, wrap: u64, sync: bool| {
        let next = Cell::new(0);
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let at = next.get();
                next.set((at + LEN as u64) % wrap);
                file.write_all_at(&sector, at).expect("a write");
                if sync {
                    file.sync_data().expect("a sync");
                }
            });
        });
    };
    let append = create(&dir.path().join("append"), 0, 0);
    measure("append, fdatasync", append, u64::MAX, true);
    let overwrite = create(&dir.path().join("overwrite"), FILE_LEN, 0);
    measure("overwrite, fdatasync", overwrite, FILE_LEN, true);
    let dsync = create(&dir.path().join("dsync"), FILE_LEN, libc::O_DSYNC);
    measure("overwrite, O_DSYNC", dsync, FILE_LEN, false);
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(3))
        .configure_from_args();
    log_sync(&mut criterion);
    criterion.final_summary();
}
