//! What the integration tests share: every way to open a file, and random work.
#![allow(dead_code, reason = "each test binary uses its part")]

pub mod child;
pub mod opener;
pub mod strace;

use std::path::PathBuf;

use bifolio::{
    Database, Direct, IoBackend, MmapConfig, Options, PagerChoice, Policy, PoolConfig, PoolSize,
    WriteStyle,
};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// The most bytes that a test's file may have.
pub const MAX_BYTES: u64 = 1 << 33;

/// Every pager, each in a size that reaches hard paths.
pub fn pagers(page_size: usize) -> Vec<(&'static str, PagerChoice)> {
    let pool = |io, policy, frames| pool(page_size, io, policy, frames);
    vec![
        ("mmap", PagerChoice::Mmap(MmapConfig::default())),
        (
            "pool pread CLOCK",
            pool(IoBackend::Pread, Policy::Clock, 200),
        ),
        ("pool pread LRU", pool(IoBackend::Pread, Policy::Lru, 64)),
        (
            "pool io_uring CLOCK",
            pool(IoBackend::IoUring, Policy::Clock, 200),
        ),
        (
            "mmap pwrite",
            PagerChoice::Mmap(MmapConfig {
                write_style: WriteStyle::Pwrite,
                ..MmapConfig::default()
            }),
        ),
    ]
}

/// Pools of so few frames that every path through a tree evicts: every way of reading and writing
/// that this machine has, with each policy once.
pub fn handful(page_size: usize, frames: usize) -> Vec<(&'static str, PagerChoice)> {
    let pool = |io, policy| pool(page_size, io, policy, frames);
    vec![
        ("handful pread CLOCK", pool(IoBackend::Pread, Policy::Clock)),
        ("handful pread LRU", pool(IoBackend::Pread, Policy::Lru)),
        (
            "handful io_uring CLOCK",
            pool(IoBackend::IoUring, Policy::Clock),
        ),
    ]
}

/// A pool of exactly so many frames.
fn pool(page_size: usize, io: IoBackend, policy: Policy, frames: usize) -> PagerChoice {
    let geometry = bifolio_pager::Geometry {
        page_size: bifolio::PageSize::new(page_size).expect("a size of ours"),
        seed: 0,
    };
    let options = bifolio_pager_bufpool::PoolOptions {
        io,
        policy,
        max_bytes: MAX_BYTES,
        ..Default::default()
    };
    PagerChoice::Pool(PoolConfig {
        size: PoolSize::Bytes(options.budget_for(geometry, frames)),
        policy,
        io,
        direct: Direct::Auto,
        ..PoolConfig::default()
    })
}

/// A directory for one test and a database path in it.
pub fn scratch() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("test.bifolio");
    (directory, path)
}

pub fn options(pager: &PagerChoice) -> Options {
    Options::new().pager(pager.clone()).max_bytes(MAX_BYTES)
}

/// Random numbers from a seed that is printed, so that a failure can be run again.
pub fn random(seed: u64) -> StdRng {
    let seed = std::env::var("BIFOLIO_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or(seed);
    println!("seed {seed} (set BIFOLIO_SEED to replay another one)");
    StdRng::seed_from_u64(seed)
}

/// A key from a small universe, so that work meets itself again; of any length up to 200.
pub fn random_key(random: &mut StdRng) -> Vec<u8> {
    let number: u32 = random.random_range(0..2000);
    let mut key = format!("{:04}", number).into_bytes();
    key.resize(key.len() + (number as usize * 7919) % 197, b'k');
    key
}

/// A value: mostly short, sometimes a few pages long.
pub fn random_value(random: &mut StdRng, page_size: usize) -> Vec<u8> {
    let length = match random.random_range(0..20) {
        0 => random.random_range(0..3 * page_size),
        1 => 0,
        _ => random.random_range(0..200),
    };
    let byte: u8 = random.random();
    (0..length)
        .map(|index| byte.wrapping_add(index as u8))
        .collect()
}

/// Fails with every finding if the database is not whole.
#[track_caller]
pub fn assert_whole(db: &Database) {
    let report = db.check().expect("the check itself runs");
    assert!(report.is_clean(), "{report}");
}
