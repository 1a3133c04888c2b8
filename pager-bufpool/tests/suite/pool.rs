//! What the pool promises beyond the contract, and the contract where it is hardest to keep.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::Barrier;
use std::thread;

use bifolio_pager::page::KIND;
use bifolio_pager::{
    Error, Geometry, Kind, META_LEN, MetaSlot, PageId, PageRef, PageSize, Pager, Version,
    first_page,
};
use bifolio_pager_bufpool::{BufPool, Direct, IoBackend, LEAST_FRAMES, Policy, PoolOptions};

use crate::support::Dice;

const GEOMETRY: Geometry = Geometry {
    page_size: PageSize::DEFAULT,
    seed: 99,
};
const USABLE: usize = PageSize::DEFAULT.usable();

fn backends() -> [IoBackend; 2] {
    [IoBackend::Pread, IoBackend::IoUring]
}

/// Every pair of the two.
fn both<A: Copy, B: Copy>(left: &[A], right: &[B]) -> Vec<(A, B)> {
    left.iter()
        .flat_map(|&left| right.iter().map(move |&right| (left, right)))
        .collect()
}

/// Refused, and the test skipped, where the file system has no `O_DIRECT`.
fn direct(options: PoolOptions) -> PoolOptions {
    PoolOptions {
        direct: Direct::On,
        ..options
    }
}

fn options(io: IoBackend, frames: usize) -> PoolOptions {
    options_with(io, Policy::Clock, frames)
}

fn options_with(io: IoBackend, policy: Policy, frames: usize) -> PoolOptions {
    let options = PoolOptions {
        io,
        policy,
        max_bytes: 1 << 30,
        ..PoolOptions::default()
    };
    PoolOptions {
        budget_bytes: options.budget_for(GEOMETRY, frames),
        ..options
    }
}

/// `None`, with a word about it, where the machine has no io_uring.
fn open(file: &File, options: PoolOptions) -> Option<BufPool> {
    match BufPool::open(file.try_clone().unwrap(), GEOMETRY, options) {
        Ok(pool) => Some(pool),
        Err(Error::Unavailable { what, why }) => {
            println!("SKIPPED: {what}: {why}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

fn at(index: u64, version: u64) -> PageRef {
    PageRef {
        id: first_page(GEOMETRY).plus(index),
        version: Version::new(version),
    }
}

fn make_room(pool: &BufPool, pages: u64) {
    pool.grow(first_page(GEOMETRY).get() + pages).unwrap();
}

/// A byte that tells pages, lives and rewrites apart.
fn byte_of(at: PageRef, salt: u64) -> u8 {
    (at.id.get() * 31 + at.version.get() * 7 + salt) as u8
}

fn put(pool: &BufPool, at: PageRef) {
    pool.create(at).unwrap()[16..].fill(byte_of(at, 0));
}

fn assert_reads(pool: &BufPool, at: PageRef, salt: u64) {
    let page = pool.read(at).unwrap();
    let byte = byte_of(at, salt);
    assert!(
        page[16..].iter().all(|&found| found == byte),
        "{at:?} is not as written"
    );
    assert_eq!(page.len(), USABLE);
}

/// A file with `count` durable pages of version 1.
fn file_of(count: u64) -> File {
    file_of_kind(count, Kind::Leaf)
}

fn file_of_kind(count: u64, kind: Kind) -> File {
    let file = tempfile::tempfile().unwrap();
    let pool = open(&file, options(IoBackend::Pread, 64)).unwrap();
    make_room(&pool, count);
    let pages: Vec<_> = (0..count).map(|index| at(index, 1)).collect();
    for &page in &pages {
        put(&pool, page);
        pool.write(page).unwrap()[KIND.start] = kind as u8;
    }
    pool.seal(&pages).unwrap();
    let _ = pool.flush(&pages).unwrap();
    file
}

fn damage(file: &File, id: PageId, change: impl FnOnce(&mut [u8])) {
    let file = crate::support::reopened(file);
    let mut image = vec![0; 4096];
    file.read_exact_at(&mut image, GEOMETRY.page_size.offset(id))
        .unwrap();
    change(&mut image);
    file.write_all_at(&image, GEOMETRY.page_size.offset(id))
        .unwrap();
    file.sync_all().unwrap();
}

#[test]
fn concurrent_misses_on_one_page_do_one_read() {
    const THREADS: usize = 8;
    let file = file_of(50);
    for io in backends() {
        let Some(pool) = open(&file, options(io, 64)) else {
            continue;
        };
        let start = Barrier::new(THREADS);
        thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    for index in 0..50 {
                        start.wait();
                        assert_reads(&pool, at(index, 1), 0);
                    }
                });
            }
        });
        let counters = pool.counters();
        assert_eq!(counters.pages_read, Some(50));
        assert_eq!(counters.pages_verified, Some(50));
    }
}

#[test]
fn every_thread_that_waits_for_a_damaged_page_gets_an_error_that_names_it() {
    const THREADS: usize = 8;
    let file = file_of(3);
    let damaged = at(1, 1);
    damage(&file, damaged.id, |image| image[2000] ^= 4);
    for io in backends() {
        let Some(pool) = open(&file, options(io, 64)) else {
            continue;
        };
        let start = Barrier::new(THREADS);
        thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    start.wait();
                    let error = pool.read(damaged).err().unwrap();
                    assert!(matches!(error, Error::Corrupt { page, .. } if page == damaged.id));
                });
            }
        });
        assert_reads(&pool, at(0, 1), 0);
        assert_reads(&pool, at(2, 1), 0);
        assert_eq!(
            pool.counters().frames_used,
            Some(2),
            "a failed read keeps no frame"
        );
    }
}

#[test]
fn every_flipped_bit_of_a_page_is_found() {
    let file = file_of(1);
    for byte in (0..4096).step_by(61).chain([4087, 4088, 4095]) {
        damage(&file, at(0, 1).id, |image| image[byte] ^= 1 << (byte % 8));
        let pool = open(&file, options(IoBackend::Pread, 8)).unwrap();
        assert!(
            matches!(pool.read(at(0, 1)), Err(Error::Corrupt { .. })),
            "byte {byte}"
        );
        drop(pool);
        damage(&file, at(0, 1).id, |image| image[byte] ^= 1 << (byte % 8));
    }
}

#[test]
fn a_page_that_failed_is_read_again_when_it_is_asked_for_again() {
    let file = file_of(1);
    for io in backends() {
        let Some(pool) = open(&file, options(io, 8)) else {
            continue;
        };
        damage(&file, at(0, 1).id, |image| image[100] ^= 1);
        pool.prefetch(&[at(0, 1)]);
        assert!(pool.read(at(0, 1)).is_err());
        damage(&file, at(0, 1).id, |image| image[100] ^= 1);
        assert_reads(&pool, at(0, 1), 0);
    }
}

#[test]
fn pages_read_ahead_are_not_read_again() {
    let file = file_of(200);
    for (io, stride) in both(&backends(), &[1, 2]) {
        let Some(pool) = open(&file, options(io, 512)) else {
            continue;
        };
        let pages: Vec<_> = (0..100).map(|index| at(index * stride, 1)).collect();
        pool.prefetch(&pages);
        for &page in &pages {
            assert_reads(&pool, page, 0);
        }
        let counters = pool.counters();
        assert_eq!(counters.pages_read, Some(100));
        assert_eq!(counters.pages_prefetched, Some(100));
    }
}

#[test]
fn a_full_pool_of_clean_pages_makes_room_for_what_is_read_ahead() {
    let file = file_of(400);
    for io in backends() {
        let Some(pool) = open(&file, direct(options(io, 128))) else {
            continue;
        };
        (0..128).for_each(|index| assert_reads(&pool, at(index, 1), 0));
        assert_eq!(pool.counters().frames_used, Some(128));
        let pages: Vec<_> = (200..300).map(|index| at(index, 1)).collect();
        pool.prefetch(&pages);
        for &page in &pages[..32] {
            assert_reads(&pool, page, 0);
        }
        // A quarter of the pool was on its way, for which clean pages went.
        assert_eq!(pool.counters().pages_read, Some(128 + 32));
        for &page in &pages {
            assert_reads(&pool, page, 0);
        }
    }
}

#[test]
fn neighbours_of_a_damaged_page_and_of_the_end_of_the_file_are_read_ahead_with_it() {
    let file = file_of(40);
    damage(&file, at(5, 1).id, |image| image[100] ^= 1);
    file.set_len((first_page(GEOMETRY).get() + 30) * 4096)
        .unwrap();
    for io in backends() {
        let Some(pool) = open(&file, direct(options(io, 128))) else {
            continue;
        };
        file.set_len((first_page(GEOMETRY).get() + 20) * 4096)
            .unwrap();
        let pages: Vec<_> = (0..30).map(|index| at(index, 1)).collect();
        pool.prefetch(&pages);
        for (index, &page) in pages.iter().enumerate() {
            if index == 5 || index >= 20 {
                assert!(matches!(pool.read(page), Err(Error::Corrupt { .. })));
            } else {
                assert_reads(&pool, page, 0);
            }
        }
        drop(pool);
        file.set_len((first_page(GEOMETRY).get() + 30) * 4096)
            .unwrap();
    }
}

#[test]
fn several_threads_read_ahead_and_wait_for_each_others_pages() {
    let file = file_of(400);
    for (io, policy) in both(&backends(), &Policy::ALL) {
        let Some(pool) = open(&file, options_with(io, policy, 40)) else {
            continue;
        };
        thread::scope(|scope| {
            for thread in 0..4 {
                let pool = &pool;
                scope.spawn(move || {
                    for round in 0..60 {
                        let pages: Vec<_> = (0..8)
                            .map(|step| at((round * 37 + step * 11 + thread) % 400, 1))
                            .collect();
                        pool.prefetch(&pages);
                        for &page in &pages {
                            assert_reads(pool, page, 0);
                        }
                    }
                });
            }
        });
    }
}

#[test]
fn a_pool_may_be_dropped_while_reads_are_in_flight() {
    let file = file_of(200);
    for (io, _) in both(&backends(), &[(); 20]) {
        let Some(pool) = open(&file, options(io, 512)) else {
            continue;
        };
        pool.prefetch(&(0..120).map(|index| at(index, 1)).collect::<Vec<_>>());
    }
}

#[test]
fn a_page_stolen_while_private_reads_back_and_is_final_only_after_flush() {
    for io in backends() {
        let file = tempfile::tempfile().unwrap();
        let Some(pool) = open(&file, options(io, 8)) else {
            continue;
        };
        make_room(&pool, 100);
        let pages: Vec<_> = (0..100).map(|index| at(index, 5)).collect();
        for &page in &pages {
            put(&pool, page);
        }
        assert!(pool.counters().pages_stolen.unwrap() >= 92);
        for &page in &pages {
            assert_reads(&pool, page, 0);
        }
        for &page in pages.iter().step_by(3) {
            pool.write(page).unwrap()[16..].fill(byte_of(page, 1));
        }
        pool.seal(&pages).unwrap();
        let _ = pool.flush(&pages[..50]).unwrap();
        for (index, &page) in pages.iter().enumerate() {
            assert_reads(&pool, page, u64::from(index % 3 == 0));
        }
        drop(pool);
        let pool = open(&file, options(io, 8)).unwrap();
        for (index, &page) in pages[..50].iter().enumerate() {
            assert_reads(&pool, page, u64::from(index % 3 == 0));
        }
    }
}

#[test]
fn a_stolen_page_does_not_pass_for_a_final_one_after_reopening() {
    let file = tempfile::tempfile().unwrap();
    let pool = open(&file, options(IoBackend::Pread, 8)).unwrap();
    make_room(&pool, 50);
    for index in 0..50 {
        put(&pool, at(index, 1));
    }
    let stolen = pool.counters().pages_stolen.unwrap();
    assert!(stolen >= 42);
    drop(pool);
    let pool = open(&file, options(IoBackend::Pread, 8)).unwrap();
    for index in 0..50 {
        assert!(
            matches!(pool.read(at(index, 1)), Err(Error::Corrupt { .. })),
            "page {index}"
        );
    }
}

#[test]
fn sealing_is_all_or_nothing_whether_pages_are_stolen_or_not() {
    let file = tempfile::tempfile().unwrap();
    let pool = open(&file, options(IoBackend::Pread, 8)).unwrap();
    make_room(&pool, 31);
    let pages: Vec<_> = (0..30).map(|index| at(index, 1)).collect();
    for &page in &pages {
        put(&pool, page);
    }
    assert!(pool.counters().pages_stolen.unwrap() >= 22);
    for culprit in [at(30, 1), at(29, 2), at(0, 1)] {
        let mut too_many = pages.clone();
        too_many.push(culprit); // never created, of another version, twice
        assert!(pool.seal(&too_many).is_err(), "{culprit:?}");
    }
    for &page in &pages {
        pool.write(page).unwrap()[16..].fill(byte_of(page, 1));
    }
    let guard = pool.read(pages[20]).unwrap();
    let refused = pool.seal(&pages).unwrap_err();
    assert!(matches!(refused, Error::Guarded { page } if page == pages[20].id));
    drop(guard);
    pool.seal(&pages).unwrap();
    for &page in &pages {
        assert!(matches!(pool.write(page), Err(Error::WrongState { .. })));
        assert_reads(&pool, page, 1);
    }
}

#[test]
fn a_page_being_written_is_not_discarded_and_the_others_are() {
    let file = tempfile::tempfile().unwrap();
    let pool = open(&file, options(IoBackend::Pread, 8)).unwrap();
    make_room(&pool, 3);
    let pages = [at(0, 1), at(1, 1), at(2, 1)];
    for page in pages {
        put(&pool, page);
    }
    let guard = pool.write(pages[1]).unwrap();
    let refused = pool.discard(&pages.map(|page| page.id)).unwrap_err();
    assert!(matches!(refused, Error::Guarded { page } if page == pages[1].id));
    drop(guard);
    assert_reads(&pool, pages[1], 0);
    assert!(pool.read(pages[0]).is_err() && pool.read(pages[2]).is_err());
}

#[test]
fn flush_merges_neighbours_into_few_writes_in_page_order() {
    for io in backends() {
        let file = tempfile::tempfile().unwrap();
        let Some(pool) = open(&file, options(io, 400)) else {
            continue;
        };
        make_room(&pool, 300);
        let mut pages: Vec<_> = (0..300)
            .filter(|index| index % 100 != 50)
            .map(|i| at(i, 1))
            .collect();
        pages.reverse();
        for &page in &pages {
            put(&pool, page);
        }
        pool.seal(&pages).unwrap();
        let _ = pool.flush(&pages).unwrap();
        let counters = pool.counters();
        assert_eq!(counters.pages_written, Some(297));
        // 297 pages in four stretches, in calls of at most 64 and batches of at most 256 pages.
        assert!(counters.write_calls.unwrap() <= 9, "{counters:?}");
        assert_eq!((counters.syncs, counters.frames_dirty), (Some(1), Some(0)));
        let _ = pool.flush(&pages).unwrap();
        assert_eq!(
            pool.counters().pages_written,
            Some(297),
            "what is clean is not written again"
        );
        assert_eq!(pool.counters().syncs, Some(1), "nor synced");
    }
}

#[test]
fn discarding_a_dirty_page_drops_it_unwritten() {
    let file = tempfile::tempfile().unwrap();
    let pool = open(&file, options(IoBackend::Pread, 64)).unwrap();
    make_room(&pool, 40);
    let pages: Vec<_> = (0..40).map(|index| at(index, 1)).collect();
    for &page in &pages {
        put(&pool, page);
    }
    pool.seal(&pages[..20]).unwrap();
    pool.discard(&pages.iter().map(|page| page.id).collect::<Vec<_>>())
        .unwrap();
    let counters = pool.counters();
    assert_eq!(
        (counters.frames_used, counters.frames_dirty),
        (Some(0), Some(0))
    );
    let _ = pool.flush(&[]).unwrap();
    assert_eq!(pool.counters().pages_written, Some(0));
}

#[test]
fn memory_stays_within_the_budget_as_the_file_and_its_table_grow() {
    let file = tempfile::tempfile().unwrap();
    let options = PoolOptions {
        budget_bytes: 4 << 20,
        max_bytes: 1 << 30,
        ..PoolOptions::default()
    };
    let pool = open(&file, options).unwrap();
    let before = pool.counters();
    for pages in [100, 20_000, 40_000, 100_000] {
        make_room(&pool, pages);
        // A page in each part of the table, and enough to turn every frame over.
        for index in (0..pages).step_by(1000).chain(0..1500) {
            let page = at(index % pages, pages);
            pool.discard(&[page.id]).unwrap();
            put(&pool, page);
        }
        let counters = pool.counters();
        assert!(counters.memory_bytes.unwrap() <= 4 << 20, "{counters:?}");
        assert!(counters.frames_used <= counters.frames, "{counters:?}");
    }
    assert!(
        pool.counters().frames < before.frames,
        "the table's part comes from the frames"
    );
}

#[test]
fn a_pool_shrinks_and_grows_while_it_is_read_and_keeps_what_it_was_told() {
    for io in backends() {
        let file = tempfile::tempfile().unwrap();
        let many = options(io, 400);
        let budget = |frames| many.budget_for(GEOMETRY, frames);
        let Some(pool) = open(&file, many.clone()) else {
            continue;
        };
        make_room(&pool, 500);
        let pages: Vec<_> = (0..390).map(|index| at(index, 1)).collect();
        for &page in &pages {
            put(&pool, page);
        }
        pool.seal(&pages[..200]).unwrap();
        thread::scope(|scope| {
            scope.spawn(|| {
                for round in 0..4 {
                    for &page in &pages[..200] {
                        assert_reads(&pool, page, 0);
                    }
                    println!("read {round}");
                }
            });
            for frames in [300, 20, 100, 8, 400, 50] {
                pool.resize(budget(frames)).unwrap();
                let counters = pool.counters();
                assert_eq!(counters.frames, Some(frames as u64));
                assert!(
                    counters.memory_bytes.unwrap() <= budget(frames),
                    "{counters:?}"
                );
                assert!(counters.frames_used <= counters.frames, "{counters:?}");
            }
        });
        for &page in &pages {
            assert_reads(&pool, page, 0);
        }
    }
}

#[test]
fn a_pool_is_not_resized_past_its_guards_or_its_tables_and_stays_as_it_was() {
    let file = file_of(60);
    let pool = open(&file, options(IoBackend::Pread, 40)).unwrap();
    let budget = |frames| options(IoBackend::Pread, 40).budget_for(GEOMETRY, frames);
    let guards: Vec<_> = (0..20)
        .map(|index| pool.read(at(index, 1)).unwrap())
        .collect();
    let refused = pool.resize(budget(10)).unwrap_err();
    assert!(matches!(refused, Error::NoFreeFrame { .. }), "{refused}");
    assert_eq!(pool.counters().frames, Some(40));
    for bytes in [budget(41), budget(8) - 1] {
        let refused = pool.resize(bytes).unwrap_err();
        assert!(matches!(refused, Error::BadOption(_)), "{refused}");
    }
    drop(guards);
    pool.resize(budget(10)).unwrap();
    (0..60).for_each(|index| assert_reads(&pool, at(index, 1), 0));
    assert_eq!(pool.counters().frames, Some(10));
}

#[test]
fn threads_that_hold_all_frames_are_told_and_nobody_hangs() {
    const THREADS: u64 = 6;
    let file = file_of(60);
    for io in backends() {
        let Some(pool) = open(&file, options(io, 8)) else {
            continue;
        };
        let everybody = Barrier::new(THREADS as usize);
        thread::scope(|scope| {
            for thread in 0..THREADS {
                let (pool, everybody) = (&pool, &everybody);
                scope.spawn(move || {
                    let mut held = Vec::new();
                    let refused = (0..10).find_map(|index| {
                        match pool.read(at(thread * 10 + index, 1)) {
                            Ok(page) => held.push(page),
                            Err(error) => return Some(error),
                        }
                        None
                    });
                    assert!(matches!(refused, Some(Error::NoFreeFrame { capacity: 8 })));
                    everybody.wait();
                    drop(held);
                    everybody.wait();
                    assert!((0..10).any(|index| pool.read(at(thread * 10 + index, 1)).is_ok()));
                });
            }
        });
    }
}

#[test]
fn a_read_only_pool_refuses_whatever_would_change_the_file() {
    let file = file_of(2);
    let pool = open(
        &file,
        PoolOptions {
            read_only: true,
            ..options(IoBackend::Pread, 8)
        },
    )
    .unwrap();
    assert_reads(&pool, at(0, 1), 0);
    assert!(matches!(pool.create(at(1, 2)), Err(Error::ReadOnly)));
    assert!(matches!(pool.write(at(1, 1)), Err(Error::ReadOnly)));
    assert!(matches!(pool.seal(&[at(1, 1)]), Err(Error::ReadOnly)));
    assert!(matches!(pool.grow(1000), Err(Error::ReadOnly)));
    assert!(matches!(pool.flush(&[at(1, 1)]), Err(Error::ReadOnly)));
}

#[test]
fn a_file_that_another_process_cut_is_found_at_the_next_flush() {
    let file = file_of(100);
    let pool = open(&file, options(IoBackend::Pread, 8)).unwrap();
    pool.discard(&[at(0, 1).id]).unwrap();
    put(&pool, at(0, 2));
    pool.seal(&[at(0, 2)]).unwrap();
    crate::support::reopened(&file).set_len(200_000).unwrap();
    let first = pool.flush(&[at(0, 2)]).unwrap_err();
    assert!(first.to_string().contains("cut"), "{first}");
    let later = pool.flush(&[]).unwrap_err();
    assert!(
        matches!(&later, Error::Poisoned { first } if first.contains("cut")),
        "{later}"
    );
    let error = pool.read(at(90, 1)).err().unwrap();
    assert!(matches!(error, Error::Corrupt { .. }), "{error}");
}

#[test]
fn a_failed_write_poisons_and_its_words_are_kept() {
    let file = file_of(2);
    let reader = File::open(format!("/proc/self/fd/{}", file.as_raw_fd()));
    for io in backends() {
        let Some(pool) = open(reader.as_ref().unwrap(), options(io, 8)) else {
            continue;
        };
        put(&pool, at(1, 2));
        pool.seal(&[at(1, 2)]).unwrap();
        let first = pool.flush(&[at(1, 2)]).unwrap_err();
        assert!(matches!(first, Error::Io { .. }), "{first}");
        for later in [pool.flush(&[]).unwrap_err(), pool.grow(1000).unwrap_err()] {
            assert!(
                matches!(&later, Error::Poisoned { first: kept } if **kept == *first.to_string()),
                "{later}"
            );
        }
        assert_reads(&pool, at(0, 1), 0);
        assert_reads(&pool, at(1, 2), 0);
    }
}

/// Every frame is dirty, and no write succeeds: what is durable is read, far more of it than there are
/// frames left, and what is only in memory stays, under guards and without.
#[test]
fn when_nothing_can_be_written_any_more_every_page_is_still_read() {
    const FRAMES: u64 = 24;
    let file = file_of_kind(100, Kind::Branch);
    // Opened for reading only, so that every write fails.
    let reader = File::open(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap();
    for (io, policy) in both(&backends(), &Policy::ALL) {
        let Some(pool) = open(&reader, options_with(io, policy, FRAMES as usize)) else {
            continue;
        };
        let dirty: Vec<_> = (0..FRAMES).map(|index| at(index, 2)).collect();
        for &page in &dirty {
            put(&pool, page);
        }
        pool.seal(&dirty[..FRAMES as usize / 2]).unwrap();
        let held: Vec<_> = dirty.iter().map(|&page| pool.read(page).unwrap()).collect();
        assert_eq!(pool.counters().frames_dirty, Some(FRAMES), "{policy}");
        for round in 0..2 {
            for index in FRAMES..100 {
                let page = pool.read(at(index, 1));
                let page = page.unwrap_or_else(|error| panic!("{policy}, {index}: {error}"));
                assert!(
                    page[16..]
                        .iter()
                        .all(|&byte| byte == byte_of(at(index, 1), 0))
                );
            }
            println!("{policy}, round {round}");
        }
        assert!(
            matches!(pool.flush(&[]), Err(Error::Poisoned { .. })),
            "{policy}"
        );
        for (guard, &page) in held.iter().zip(&dirty) {
            assert!(guard[16..].iter().all(|&byte| byte == byte_of(page, 0)));
        }
        drop(held);
        for &page in &dirty {
            assert_reads(&pool, page, 0);
        }
        let counters = pool.counters();
        assert_eq!(counters.frames, Some(FRAMES + LEAST_FRAMES as u64));
        assert_eq!(counters.frames_dirty, Some(FRAMES), "{policy}");
        let budget = options_with(io, policy, FRAMES as usize).budget_bytes;
        assert!(
            counters.memory_bytes <= Some(budget),
            "{policy}: {counters:?}"
        );
    }
}

#[test]
fn what_cannot_be_had_is_refused_by_name_and_auto_settles_for_less() {
    let no_direct_io = File::open("/proc/self/maps").unwrap();
    let asked = |direct| PoolOptions {
        direct,
        ..options(IoBackend::Pread, 8)
    };
    let open = |direct| BufPool::open(no_direct_io.try_clone().unwrap(), GEOMETRY, asked(direct));
    let refused = open(Direct::On).err().unwrap();
    assert!(
        matches!(
            refused,
            Error::Unavailable {
                what: "O_DIRECT",
                ..
            }
        ),
        "{refused}"
    );
    let settled = open(Direct::Auto).unwrap();
    assert_eq!(
        settled.effective_backend(),
        "pool, pread, page cache, CLOCK, 8 frames of 4 KiB"
    );
}

#[test]
fn a_budget_of_too_few_frames_is_refused_with_the_least_that_would_do() {
    let few = options(IoBackend::Pread, 7);
    let least = few.budget_for(GEOMETRY, 8);
    let file = tempfile::tempfile().unwrap();
    let error = BufPool::open(file, GEOMETRY, few).err().unwrap();
    assert!(
        matches!(&error, Error::BadOption(why) if why.contains(&least.to_string())),
        "{error}"
    );
}

#[test]
fn a_meta_is_written_where_it_belongs() {
    for io in backends() {
        let file = file_of(1);
        let Some(pool) = open(&file, options(io, 8)) else {
            continue;
        };
        for (slot, byte) in [(MetaSlot::A, 3), (MetaSlot::B, 4)] {
            let proof = pool.flush(&[]).unwrap();
            pool.write_meta(proof, slot, &[byte; META_LEN]).unwrap();
            let mut found = [0; META_LEN];
            crate::support::reopened(&file)
                .read_exact_at(&mut found, slot.offset())
                .unwrap();
            assert_eq!(found, [byte; META_LEN]);
        }
        assert_reads(&pool, at(0, 1), 0);
    }
}

/// What a page should be: `(reference, salt of its content, is it sealed)`.
type Model = Vec<Option<(PageRef, u64, bool)>>;

/// One random operation on one random page of `model`, whose first page has number `first`.
fn act(pool: &BufPool, model: &mut Model, first: u64, version: &mut u64, dice: &mut Dice) {
    let index = dice.roll(model.len() as u64);
    let place = &mut model[index as usize];
    match (dice.roll(10), *place) {
        (0..4, Some((page, salt, _))) => assert_reads(pool, page, salt),
        (0..7, None) => {
            *version += 1;
            let page = at(first + index, *version);
            put(pool, page);
            *place = Some((page, 0, false));
        }
        (4..7, Some((page, salt, false))) => {
            pool.write(page).unwrap()[16..].fill(byte_of(page, salt + 1));
            *place = Some((page, salt + 1, false));
        }
        (7, Some((page, salt, false))) => {
            pool.seal(&[page]).unwrap();
            *place = Some((page, salt, true));
        }
        (8, Some((page, _, _))) => {
            pool.discard(&[page.id]).unwrap();
            assert!(matches!(pool.read(page), Err(Error::Corrupt { .. })));
            *place = None;
        }
        _ => {
            let sealed: Vec<_> = model
                .iter()
                .flatten()
                .filter_map(|&(page, _, sealed)| sealed.then_some(page))
                .collect();
            match dice.roll(3) {
                0 => pool.prefetch(&sealed),
                1 => pool.write_back(&sealed),
                _ => drop(pool.flush(&sealed).unwrap()),
            }
        }
    }
}

#[test]
fn any_sequence_of_operations_reads_as_a_model_says() {
    for io in backends() {
        for seed in 0..12 {
            println!("seed {seed}");
            let policy = Policy::ALL[seed as usize % Policy::ALL.len()];
            let options = options_with(io, policy, 8 + seed as usize % 5 * 6);
            let file = tempfile::tempfile().unwrap();
            let Some(pool) = open(&file, options.clone()) else {
                continue;
            };
            make_room(&pool, 60);
            let (mut model, mut version, mut dice) = (vec![None; 60], 0, Dice(seed));
            for _ in 0..600 {
                act(&pool, &mut model, 0, &mut version, &mut dice);
            }
            for &(page, salt, _) in model.iter().flatten() {
                assert_reads(&pool, page, salt);
            }
            let private: Vec<_> = model
                .iter()
                .flatten()
                .filter(|page| !page.2)
                .map(|page| page.0)
                .collect();
            pool.seal(&private).unwrap();
            let all: Vec<_> = model.iter().flatten().map(|page| page.0).collect();
            let _ = pool.flush(&all).unwrap();
            drop(pool);
            let pool = open(&file, options).unwrap();
            for &(page, salt, _) in model.iter().flatten() {
                assert_reads(&pool, page, salt);
            }
        }
    }
}

#[test]
fn readers_find_their_pages_whole_while_a_writer_churns_others() {
    const KEPT: u64 = 300;
    for io in backends() {
        for policy in Policy::ALL {
            let file = file_of(KEPT);
            let Some(pool) = open(&file, options_with(io, policy, 32)) else {
                continue;
            };
            make_room(&pool, KEPT + 60);
            thread::scope(|scope| {
                for reader in 0..3 {
                    let pool = &pool;
                    scope.spawn(move || {
                        let mut dice = Dice(reader);
                        let mut held = pool.read(at(0, 1)).unwrap();
                        for step in 0..2000 {
                            let index = dice.roll(KEPT);
                            if step % 16 == 0 {
                                let ahead: Vec<_> =
                                    (0..4).map(|_| at(dice.roll(KEPT), 1)).collect();
                                pool.prefetch(&ahead);
                            }
                            assert_reads(pool, at(index, 1), 0);
                            if step % 8 == 0 {
                                let own = PageRef::decode(&held);
                                assert!(held[16..].iter().all(|&byte| byte == byte_of(own, 0)));
                                held = pool.read(at(index, 1)).unwrap();
                            }
                        }
                    });
                }
                let pool = &pool;
                scope.spawn(move || {
                    let (mut model, mut version, mut dice) = (vec![None; 60], 1, Dice(77));
                    for _ in 0..1500 {
                        act(pool, &mut model, KEPT, &mut version, &mut dice);
                    }
                });
            });
        }
    }
}
