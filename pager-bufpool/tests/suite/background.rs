//! The thread that writes ahead of need.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::thread;
use std::time::{Duration, Instant};

use bifolio_pager::{Counters, Error, Geometry, PageRef, PageSize, Pager, Version, first_page};
use bifolio_pager_bufpool::{BufPool, Direct, IoBackend, Policy, PoolOptions};

const GEOMETRY: Geometry = Geometry {
    page_size: PageSize::DEFAULT,
    seed: 6,
};
const FRAMES: usize = 640;
/// What the thread keeps free of them.
const RESERVE: u64 = 20;

fn at(index: u64) -> PageRef {
    PageRef {
        id: first_page(GEOMETRY).plus(index),
        version: Version::new(1),
    }
}

fn memory() -> File {
    let flags = rustix::fs::MemfdFlags::CLOEXEC;
    File::from(rustix::fs::memfd_create("pool", flags).unwrap())
}

fn pool(file: File, io: IoBackend, policy: Policy) -> Option<BufPool> {
    let options = PoolOptions {
        io,
        policy,
        direct: Direct::Off,
        max_bytes: 1 << 30,
        ..PoolOptions::default()
    };
    let options = PoolOptions {
        budget_bytes: options.budget_for(GEOMETRY, FRAMES),
        ..options
    };
    match BufPool::open(file, GEOMETRY, options) {
        Ok(pool) => Some(pool),
        Err(Error::Unavailable { what, why }) => {
            println!("SKIPPED: {what}: {why}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

fn create_sealed(pool: &BufPool, pages: std::ops::Range<u64>) -> Vec<PageRef> {
    let pages: Vec<_> = pages.map(at).collect();
    for &page in &pages {
        pool.create(page).unwrap()[16..].fill(page.id.get() as u8);
    }
    pool.seal(&pages).unwrap();
    pages
}

/// Waits until the pool's thread has done what is expected of it; a panic if it never does.
fn wait_until(pool: &BufPool, done: impl Fn(Counters) -> bool) -> Counters {
    let start = Instant::now();
    while !done(pool.counters()) {
        assert!(
            start.elapsed() < Duration::from_secs(60),
            "{:?}",
            pool.counters()
        );
        thread::sleep(Duration::from_millis(1));
    }
    pool.counters()
}

fn free(counters: Counters) -> u64 {
    counters.frames.unwrap() - counters.frames_used.unwrap()
}

#[test]
fn frames_are_free_before_they_are_needed_so_that_misses_wait_for_no_write() {
    for (io, policy) in [IoBackend::Pread, IoBackend::IoUring]
        .into_iter()
        .flat_map(|io| Policy::ALL.map(|policy| (io, policy)))
    {
        let Some(pool) = pool(memory(), io, policy) else {
            continue;
        };
        pool.grow(first_page(GEOMETRY).get() + 10_000).unwrap();
        // Full of dirt, and one more, which wakes the thread.
        let pages = create_sealed(&pool, 0..FRAMES as u64 + 1);
        let before = wait_until(&pool, |counters| free(counters) > RESERVE / 2);
        assert!(before.pages_written > Some(0), "{policy}");
        for round in 0..20 {
            // Half of the reserve at a time, as long as the thread keeps up.
            let first = 1000 + round * RESERVE / 2;
            create_sealed(&pool, first..first + RESERVE / 2);
            wait_until(&pool, |counters| free(counters) > RESERVE / 2);
        }
        let after = pool.counters();
        assert_eq!(after.waits_for_write, before.waits_for_write, "{policy}");
        assert!(
            after.write_calls < after.pages_written,
            "neighbours are merged"
        );
        for &page in &pages {
            let read = pool.read(page).unwrap();
            assert!(read[16..].iter().all(|&byte| byte == page.id.get() as u8));
        }
    }
}

#[test]
fn pages_that_have_died_are_never_written() {
    let pool = pool(memory(), IoBackend::Pread, Policy::default()).unwrap();
    pool.grow(first_page(GEOMETRY).get() + 100_000).unwrap();
    for round in 0..100 {
        let pages = create_sealed(&pool, round * 300..(round + 1) * 300);
        pool.discard(&pages.iter().map(|page| page.id).collect::<Vec<_>>())
            .unwrap();
    }
    let counters = pool.counters();
    assert_eq!(counters.pages_written, Some(0), "{counters:?}");
    assert_eq!(counters.waits_for_write, Some(0));
}

#[test]
fn a_write_that_fails_in_the_background_poisons() {
    let file = memory();
    file.set_len(40 << 20).unwrap();
    let reader = File::open(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap();
    let pool = pool(reader, IoBackend::Pread, Policy::default()).unwrap();
    let mut index = 0;
    let refused = loop {
        match pool.create(at(index)) {
            Ok(_) => index += 1,
            Err(error) => break error,
        }
        assert!(index < 2 * FRAMES as u64, "nothing can be written");
    };
    assert!(matches!(refused, Error::Poisoned { .. }), "{refused}");
    let first = pool.flush(&[]).unwrap_err();
    assert!(
        matches!(&first, Error::Poisoned { first } if first.contains("writing")),
        "{first}"
    );
    drop(pool.read(at(0)).unwrap());
}
