//! The tree over two or three real pagers at once: the same calls, the same answers, call by call.
//!
//! A [`Mirror`] stops at the first call at which two pagers part. What the tree itself must do is
//! compared with a `BTreeMap` by the tree's own model test, which runs on top.

use std::fs::File;

use bifolio_btree::testkit::model;
use bifolio_pager::{Geometry, MemPager, Mirror, PageSize, Pager};
use bifolio_pager_bufpool::{BufPool, Direct, IoBackend, Policy, PoolOptions};
use bifolio_pager_mmap::{MmapOptions, MmapPager};

const MAX_BYTES: u64 = 1 << 32;

/// Frames of the small pools: what the model test guards at once, and a few to work with. A
/// mirrored pool of this size evicts and steals at nearly every call.
const HANDFUL: usize = 10;

fn scratch_file() -> File {
    tempfile::tempfile().expect("a temporary file")
}

fn mmap(geometry: Geometry) -> MmapPager {
    let options = MmapOptions {
        max_bytes: MAX_BYTES,
        ..MmapOptions::default()
    };
    MmapPager::open(scratch_file(), geometry, options).expect("a mapping")
}

/// A pool of so many frames; `None`, loudly, where this machine has no such I/O.
fn pool(geometry: Geometry, io: IoBackend, policy: Policy, frames: usize) -> Option<BufPool> {
    let mut options = PoolOptions {
        io,
        policy,
        direct: Direct::Auto,
        max_bytes: MAX_BYTES,
        ..PoolOptions::default()
    };
    options.budget_bytes = options.budget_for(geometry, frames);
    match BufPool::open(scratch_file(), geometry, options) {
        Ok(pool) => {
            assert_eq!(pool.counters().frames, Some(frames as u64));
            Some(pool)
        }
        Err(bifolio_pager::Error::Unavailable { what, why }) => {
            println!("SKIPPED: {what}: {why}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// Runs the model test over `pagers` at every page size.
fn at_every_page_size<P: Pager>(
    first_seed: u64,
    ops: usize,
    pagers: impl Fn(Geometry, Policy) -> Option<P>,
) {
    for (seed, page_size) in (first_seed..).zip(PageSize::ALL) {
        let geometry = Geometry { page_size, seed };
        let policy = [Policy::Clock, Policy::Lru][(seed % 2) as usize];
        let Some(pager) = pagers(geometry, policy) else {
            return;
        };
        let (page, backend) = (page_size.bytes(), pager.effective_backend());
        println!("{page} bytes a page, seed {seed}: {backend}");
        model::run(&pager, seed, ops);
        let counters = pager.counters();
        assert!(counters.pages_created > Some(0), "{counters:?}");
    }
}

#[test]
fn the_map_and_a_pool_that_preads_give_the_tree_the_same_answers() {
    at_every_page_size(1, 1200, |geometry, policy| {
        let pool = pool(geometry, IoBackend::Pread, policy, HANDFUL)?;
        Some(Mirror::new(mmap(geometry), pool))
    });
}

#[test]
fn the_map_and_a_pool_on_io_uring_give_the_tree_the_same_answers() {
    at_every_page_size(2, 1200, |geometry, policy| {
        let pool = pool(geometry, IoBackend::IoUring, policy, HANDFUL)?;
        Some(Mirror::new(mmap(geometry), pool))
    });
}

#[test]
fn two_pools_of_different_size_and_method_give_the_tree_the_same_answers() {
    at_every_page_size(3, 800, |geometry, policy| {
        let small = pool(geometry, IoBackend::Pread, policy, HANDFUL)?;
        let large = pool(geometry, IoBackend::IoUring, policy, 500)?;
        Some(Mirror::new(small, large))
    });
}

#[test]
fn the_reference_and_both_real_pagers_give_the_tree_the_same_answers() {
    at_every_page_size(4, 800, |geometry, policy| {
        let pool = pool(geometry, IoBackend::Auto, policy, HANDFUL)?;
        let real = Mirror::new(mmap(geometry), pool);
        Some(Mirror::new(MemPager::new(geometry), real))
    });
}

#[test]
fn a_pool_in_the_mirror_evicts_and_steals() {
    let geometry = Geometry {
        page_size: PageSize::DEFAULT,
        seed: 5,
    };
    let pool = pool(geometry, IoBackend::Pread, Policy::Clock, HANDFUL).expect("pread is there");
    let mirror = Mirror::new(pool, mmap(geometry));
    model::run(&mirror, 5, 3000);
    let counters = mirror.left().counters();
    let worked = [
        counters.evictions,
        counters.pages_stolen,
        counters.pages_read,
    ];
    assert!(
        worked.iter().all(|&count| count > Some(100)),
        "{counters:?}"
    );
    assert!(counters.frames_used <= counters.frames, "{counters:?}");
}
