//! What writing costs here: `cargo run --release -p bifolio --example write_figures [directory]`.
//!
//! Loads a table four times as large as the pool, then overwrites records at random in durable
//! transactions of 1000, under each pager. The file lies in the directory (default: the one for
//! temporary files), has some 400 MiB, and is taken away. `device` is what the process wrote in all, by
//! the kernel's count, for each byte of records.

use std::path::Path;
use std::time::{Duration, Instant};

use bifolio::{
    Counters, Database, IoBackend, MmapConfig, Options, PagerChoice, PoolConfig, PoolSize,
};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

const RECORDS: u64 = 2_000_000;
const VALUE: usize = 120;
const POOL_BYTES: u64 = 64 << 20;
const BATCH: usize = 1000;
const UPDATING: Duration = Duration::from_secs(10);

fn main() -> Result<(), bifolio::Error> {
    let directory = std::env::args_os()
        .nth(1)
        .unwrap_or_else(|| std::env::temp_dir().into());
    let directory = tempfile::tempdir_in(directory).expect("a directory for the file");
    let pool = |io| {
        PagerChoice::Pool(PoolConfig {
            size: PoolSize::Bytes(POOL_BYTES),
            io,
            ..PoolConfig::default()
        })
    };
    for pager in [
        pool(IoBackend::Auto),
        PagerChoice::Mmap(MmapConfig::default()),
    ] {
        let path = directory.path().join("figures.bifolio");
        let db = Options::new().pager(pager).create(&path)?;
        println!("{}", db.effective_backend());
        load(&db)?;
        overwrite(&db)?;
        db.close()?;
        std::fs::remove_file(&path).expect("the file is there");
    }
    Ok(())
}

/// A key whose neighbours were not written before or after it.
fn key(number: u64) -> [u8; 8] {
    number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()
}

/// What happened between two looks.
struct Meter<'d> {
    db: &'d Database,
    begun: Instant,
    counters: Counters,
    device_bytes: u64,
}

impl<'d> Meter<'d> {
    fn new(db: &'d Database) -> Self {
        Meter {
            db,
            begun: Instant::now(),
            counters: db.counters(),
            device_bytes: device_bytes(),
        }
    }

    fn show(&self, what: &str, records: u64) {
        let seconds = self.begun.elapsed().as_secs_f64();
        let now = self.db.counters();
        let since = |field: fn(&Counters) -> Option<u64>| {
            field(&now).unwrap_or(0) - field(&self.counters).unwrap_or(0)
        };
        let (pages, calls) = (since(|c| c.pages_written), since(|c| c.write_calls));
        let device = device_bytes() - self.device_bytes;
        println!(
            "  {what}: {:.0} records/s; device {:.2}; {:.2} pages written for each, {:.1} in a write, {} stolen",
            records as f64 / seconds,
            device as f64 / (records * (8 + VALUE as u64)) as f64,
            pages as f64 / records as f64,
            pages as f64 / calls.max(1) as f64,
            since(|c| c.pages_stolen),
        );
    }
}

/// Bytes that this process had storage write, log included.
fn device_bytes() -> u64 {
    let io = std::fs::read_to_string(Path::new("/proc/self/io")).unwrap_or_default();
    io.lines()
        .find_map(|line| line.strip_prefix("write_bytes: "))
        .and_then(|bytes| bytes.parse().ok())
        .unwrap_or(0)
}

fn load(db: &Database) -> Result<(), bifolio::Error> {
    let mut keys: Vec<_> = (0..RECORDS).map(key).collect();
    keys.sort_unstable();
    let meter = Meter::new(db);
    let mut txn = db.write()?;
    txn.table("t")?
        .bulk_load(keys.iter().map(|key| (key, [7; VALUE])))?;
    txn.commit()?;
    meter.show("sorted load", RECORDS);
    Ok(())
}

fn overwrite(db: &Database) -> Result<(), bifolio::Error> {
    let mut random = StdRng::seed_from_u64(1);
    let meter = Meter::new(db);
    let mut records = 0;
    while meter.begun.elapsed() < UPDATING {
        let mut txn = db.write()?;
        let mut table = txn.table("t")?;
        for _ in 0..BATCH {
            table.insert(key(random.random_range(0..RECORDS)), [8; VALUE])?;
        }
        txn.commit()?;
        records += BATCH as u64;
    }
    meter.show("overwrites", records);
    Ok(())
}
