//! How long opening takes after a crash, against the bytes of log that it has to replay.
//!
//! A database with some log, not closed, is copied with its log, as a crash of the process leaves both;
//! what is measured is opening a copy: reading the log, replaying it, and the checkpoint that ends
//! recovery. `Options::log_bytes` bounds the log, so read the time for three times that number here.
//!
//! `TMPDIR=/the/disk cargo bench -p bifolio --bench recovery`

use std::path::{Path, PathBuf};
use std::time::Duration;

use bifolio::{Durability, MmapConfig, Options, PagerChoice, PoolConfig, PoolSize};
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput};

const LOG_MIB: [u64; 3] = [1, 4, 16];
/// Records, which are overwritten at random.
const RECORDS: u64 = 100_000;

fn pagers() -> [(&'static str, PagerChoice); 2] {
    let pool = PoolConfig {
        size: PoolSize::Bytes(64 << 20),
        ..PoolConfig::default()
    };
    [
        ("mmap", PagerChoice::Mmap(MmapConfig::default())),
        ("pool", PagerChoice::Pool(pool)),
    ]
}

/// A directory with a database that needs so much recovery.
fn crashed(pager: &PagerChoice, log_bytes: u64) -> tempfile::TempDir {
    let live = tempfile::tempdir().expect("a temporary directory");
    let path = live.path().join("db");
    let options = Options::new().pager(pager.clone()).log_bytes(1 << 30);
    let db = options.create(path).expect("a new database");
    let put = |number: u64, durability| {
        let mut txn = db.write().expect("a transaction");
        let key = (number.wrapping_mul(0x9E37_79B9_7F4A_7C15) % RECORDS).to_be_bytes();
        let mut table = txn.table("t").expect("a table");
        table.insert(key, [number as u8; 120]).expect("an insert");
        txn.commit_with(durability).expect("a commit");
    };
    (0..RECORDS).for_each(|number| put(number, Durability::Checkpoint));
    db.checkpoint().expect("a checkpoint");
    let mut number = 0;
    while db.checkpoint_counters().log_bytes < log_bytes {
        put(number, Durability::Checkpoint);
        number += 1;
    }
    put(number, Durability::Sync);
    copy(live.path())
}

fn copy(from: &Path) -> tempfile::TempDir {
    let to = tempfile::tempdir().expect("a temporary directory");
    for entry in std::fs::read_dir(from).expect("a directory") {
        let path: PathBuf = entry.expect("an entry").path();
        // Not a segment that is being made in the background.
        if path.extension().is_none_or(|extension| extension != "tmp") {
            let name = path.file_name().expect("a file");
            std::fs::copy(&path, to.path().join(name)).expect("a copy");
        }
    }
    to
}

fn recovery(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("recovery");
    for (name, pager) in pagers() {
        for mib in LOG_MIB {
            let crashed = crashed(&pager, mib << 20);
            group.throughput(Throughput::Bytes(mib << 20));
            let id = BenchmarkId::new(name, format!("{mib} MiB of log"));
            group.bench_function(id, |bencher| {
                bencher.iter_batched(
                    || copy(crashed.path()),
                    |directory| {
                        let options = Options::new().pager(pager.clone());
                        let db = options.open(directory.path().join("db")).expect("recovers");
                        let report = db.recovery_report().expect("there was a log");
                        assert!(report.log_bytes >= mib << 20, "{report:?}");
                        (db, directory) // closed and removed outside of the measured time
                    },
                    BatchSize::PerIteration,
                );
            });
        }
    }
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_secs(3))
        .configure_from_args();
    recovery(&mut criterion);
    criterion.final_summary();
}
