//! What a pool keeps: the same as its simulation, inner pages before others, and the hot set through a
//! scan.

use std::fs::File;

use bifolio_pager::page::KIND;
use bifolio_pager::{Geometry, Kind as PageKind, PageRef, PageSize, Pager, Version, first_page};
use bifolio_pager_bufpool::trace::{Access, Event, Trace};
use bifolio_pager_bufpool::{BufPool, Direct, IoBackend, Policy, PoolOptions, Simulation};

use crate::support::Dice;

const GEOMETRY: Geometry = Geometry {
    page_size: PageSize::DEFAULT,
    seed: 5,
};
const PAGES: u64 = 1200;
/// The first of the file's pages lead to others.
const INNER: u64 = 12;

fn at(index: u64) -> PageRef {
    PageRef {
        id: first_page(GEOMETRY).plus(index),
        version: Version::new(1),
    }
}

fn pool(file: &File, options: PoolOptions, frames: usize) -> BufPool {
    let options = PoolOptions {
        io: IoBackend::Pread,
        direct: Direct::Off,
        max_bytes: 1 << 30,
        ..options
    };
    let options = PoolOptions {
        budget_bytes: options.budget_for(GEOMETRY, frames),
        ..options
    };
    BufPool::open(file.try_clone().unwrap(), GEOMETRY, options).unwrap()
}

fn file() -> File {
    let file = tempfile::tempfile().unwrap();
    let pool = pool(&file, PoolOptions::default(), PAGES as usize);
    pool.grow(first_page(GEOMETRY).get() + PAGES).unwrap();
    let pages: Vec<_> = (0..PAGES).map(at).collect();
    for (index, &page) in pages.iter().enumerate() {
        let kind = if (index as u64) < INNER {
            PageKind::Branch
        } else {
            PageKind::Leaf
        };
        pool.create(page).unwrap()[KIND.start] = kind as u8;
    }
    pool.seal(&pages).unwrap();
    let _ = pool.flush(&pages).unwrap();
    file
}

/// Point reads by a rough power law, with a scan now and then.
fn reads(seed: u64, count: usize) -> Vec<u64> {
    let mut dice = Dice(seed);
    let mut reads = Vec::new();
    while reads.len() < count {
        if dice.roll(1000) == 0 {
            reads.extend(0..PAGES);
        } else {
            let below = dice.roll(PAGES) + 1;
            reads.push(dice.roll(below));
        }
    }
    reads
}

#[test]
fn a_pool_and_its_simulation_hit_and_miss_alike_at_every_read() {
    let file = file();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("trace");
    // Frames for which eviction goes by ones, and by batches.
    for (policy, frames) in Policy::ALL
        .into_iter()
        .flat_map(|policy| [(policy, 100), (policy, 500)])
    {
        let options = PoolOptions {
            policy,
            trace: Some(path.clone()),
            ..PoolOptions::default()
        };
        let pool = pool(&file, options, frames);
        let mut simulation = Simulation::new(policy, frames);
        let reads = reads(frames as u64, 5_000);
        let mut misses = 0;
        for (step, &index) in reads.iter().enumerate() {
            drop(pool.read(at(index)).unwrap());
            let event = Event {
                inner: index < INNER,
                ..Event::read(at(index).id)
            };
            misses += u64::from(!simulation.step(event));
            assert_eq!(
                pool.counters().pages_read,
                Some(misses),
                "{policy}, {frames} frames, step {step}"
            );
        }
        let own = 1.0 - misses as f64 / reads.len() as f64;
        assert_eq!(simulation.tally().hit_ratio(), own);
        drop(pool);
        let trace = Trace::read(&path).unwrap();
        assert_eq!((trace.page_size, trace.frames), (4096, frames as u32));
        let mut replayed = Simulation::new(policy, frames);
        for &event in &trace.events {
            replayed.step(event);
        }
        assert_eq!(replayed.tally(), simulation.tally(), "{policy}: the trace");
    }
}

#[test]
fn a_trace_tells_of_lives_that_begin_and_end_and_of_what_is_read_ahead() {
    let file = file();
    let directory = tempfile::tempdir().unwrap();
    let options = PoolOptions {
        trace: Some(directory.path().join("trace")),
        ..PoolOptions::default()
    };
    let path = options.trace.clone().unwrap();
    let pool = pool(&file, options, 100);
    drop(pool.read(at(3)).unwrap());
    pool.discard(&[at(3).id]).unwrap();
    let again = PageRef {
        version: Version::new(2),
        ..at(3)
    };
    drop(pool.create(again).unwrap());
    drop(pool.read(again).unwrap());
    drop(pool);
    let trace = Trace::read(&path).unwrap();
    let found: Vec<_> = trace
        .events
        .iter()
        .map(|event| (event.access, event.page, event.inner))
        .collect();
    let page = at(3).id;
    assert_eq!(
        found,
        [
            (Access::Read, page, true),
            (Access::Discard, page, true),
            (Access::Create, page, false),
            (Access::Read, page, false),
        ]
    );
}

#[test]
fn inner_pages_outlast_any_number_of_others_and_do_not_fill_the_pool() {
    let file = file();
    for policy in Policy::ALL {
        let options = PoolOptions {
            policy,
            ..PoolOptions::default()
        };
        let pool = pool(&file, options, 80);
        (0..INNER).for_each(|index| drop(pool.read(at(index)).unwrap()));
        (INNER..PAGES).for_each(|index| drop(pool.read(at(index)).unwrap()));
        let before = pool.counters().pages_read;
        (0..INNER).for_each(|index| drop(pool.read(at(index)).unwrap()));
        assert_eq!(pool.counters().pages_read, before, "{policy}: they stayed");
        drop(pool);
        // In a pool where they would be more than a quarter they make room, for one another too.
        let pool = self::pool(
            &file,
            PoolOptions {
                policy,
                ..PoolOptions::default()
            },
            8,
        );
        let guards: Vec<_> = (0..7).map(|index| pool.read(at(index)).unwrap()).collect();
        (0..INNER).for_each(|index| drop(pool.read(at(index)).unwrap()));
        drop(guards);
    }
}

/// Reads of the hot pages that found them in memory, as a share.
fn hot_ratio(pool: &BufPool, dice: &mut Dice, hot: u64, reads: u64) -> f64 {
    let before = pool.counters().pages_read.unwrap();
    for _ in 0..reads {
        drop(pool.read(at(dice.roll(hot) * 7 % PAGES)).unwrap());
    }
    let misses = pool.counters().pages_read.unwrap() - before;
    1.0 - misses as f64 / reads as f64
}

#[test]
fn after_a_scan_of_everything_the_hot_pages_are_still_there() {
    let file = file();
    for (hot, frames, ahead) in [(150, 300, 0), (150, 300, 32), (250, 300, 16)] {
        let pool = pool(&file, PoolOptions::default(), frames);
        let mut dice = Dice(hot);
        hot_ratio(&pool, &mut dice, hot, 10 * hot);
        let before = hot_ratio(&pool, &mut dice, hot, 2000);
        for index in 0..PAGES {
            if ahead > 0 && index % ahead == 0 {
                let window: Vec<_> = (index..(index + ahead).min(PAGES)).map(at).collect();
                pool.prefetch(&window);
            }
            drop(pool.read(at(index)).unwrap());
        }
        // At once: the first reads after the scan, too few to bring the hot pages back in.
        let after = hot_ratio(&pool, &mut dice, hot, 100);
        assert!(
            after >= 0.95 * before,
            "{hot} hot pages, {frames} frames: {before} before, {after} after"
        );
    }
}
