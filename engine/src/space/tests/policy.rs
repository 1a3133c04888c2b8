//! Which pages are handed out, and when they may be handed out again.

use bifolio_pager::{Error, PageId, PageRef, PageSize, Pager};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

use super::super::format::Shape;
use super::super::{MapRoot, Space};
use super::sparse::Sparse;
use super::{full_space, geometry, make_available, new_space, page, retire, v};

/// Allocates `count` pages; the lengths of the runs in which they came.
fn run_lengths(space: &mut Space, pager: &Sparse, count: usize) -> Vec<u64> {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for _ in 0..count {
        let id = space.allocate(pager).unwrap().get();
        match runs.last_mut() {
            Some((start, len)) if *start + *len == id => *len += 1,
            _ => runs.push((id, 1)),
        }
    }
    runs.into_iter().map(|(_, len)| len).collect()
}

#[test]
fn long_runs_are_taken_before_short_ones_and_these_before_holes() {
    let pager = Sparse::new(geometry(PageSize::DEFAULT));
    let mut space = full_space(&pager, 200_000); // seven leaves
    let end = space.end();
    let holes = (1000..150_000).chain(163_000..165_000).step_by(2);
    let long = (0..12).flat_map(|n| 151_000 + n * 1000..151_100 + n * 1000);
    let short = (0..50).flat_map(|n| 170_000 + n * 100..170_010 + n * 100);
    make_available(&mut space, &pager, holes.chain(long).chain(short), 2);

    assert_eq!(run_lengths(&mut space, &pager, 1000), [100; 10]);
    assert_eq!(run_lengths(&mut space, &pager, 200), [100; 2]);
    assert_eq!(run_lengths(&mut space, &pager, 500), [10; 50]);
    assert_eq!(run_lengths(&mut space, &pager, 1000), [1; 1000]);
    assert_eq!(
        space.end(),
        end,
        "the file does not grow while anything is available"
    );

    // What becomes available again is looked for again.
    make_available(&mut space, &pager, 190_000..190_200, 3);
    let runs = run_lengths(&mut space, &pager, 200);
    assert!(runs.ends_with(&[200 - (runs.len() as u64 - 1)]), "{runs:?}");
    assert!(runs.len() < 32, "only a block begun is filled before");
    let left = (space.free() - space.quarantined()) as usize;
    run_lengths(&mut space, &pager, left);
    assert_eq!(space.allocate(&pager).unwrap().get(), end);
}

/// Random overwrites of a file of which 60 % is in use. Pages that become available one by one would
/// come in runs of 1 / 0.6 pages, wherever they are taken.
#[test]
fn random_changes_of_a_file_that_is_not_full_are_written_in_runs() {
    const PAGES: u64 = 40_000;
    let pager = Sparse::new(geometry(PageSize::DEFAULT));
    let mut space = full_space(&pager, PAGES);
    let mut random = StdRng::seed_from_u64(5);
    let mut all: Vec<_> = (32..PAGES).collect();
    all.shuffle(&mut random);
    let mut used: Vec<_> = all.split_off(PAGES as usize * 2 / 5);
    make_available(&mut space, &pager, all, 2);
    let mut used: Vec<_> = used.drain(..).map(|number| page(number, 1)).collect();
    let (mut runs, mut written) = (0, 0);
    for round in 3..80 {
        let mut pages: Vec<_> = (0..2000)
            .map(|_| {
                let at = random.random_range(0..used.len());
                let id = space.allocate(&pager).unwrap();
                let version = v(round);
                let old = std::mem::replace(&mut used[at], PageRef { id, version });
                if old.version == version {
                    space.give_back(old.id);
                } else {
                    space.retire(&pager, old, version).unwrap();
                }
                id.get()
            })
            .collect();
        pages.sort_unstable();
        pages.dedup();
        if round > 40 {
            written += pages.len();
            runs += pages.chunk_by(|left, right| left + 1 == *right).count();
        }
        let _stored = space.store(&pager, v(round)).unwrap();
        space.release(&pager, &[v(round)]).unwrap();
    }
    println!("{:.2} pages in a run", written as f64 / runs as f64);
    assert!(written > 5 * runs / 2, "{written} pages in {runs} runs");
    assert!(space.end() < PAGES + 100, "{}", space.end());
}

#[test]
fn pages_given_back_are_available_at_once() {
    let pager = Sparse::new(geometry(PageSize::DEFAULT));
    let mut space = full_space(&pager, 1000);
    let (id, len) = space.allocate_run(&pager, 300).unwrap();
    assert_eq!((id.get(), len), (1000, 300));
    (1100..1200).for_each(|number| space.give_back(PageId::new(number)));
    assert_eq!((space.free(), space.quarantined()), (100, 0));
    assert_eq!(
        space.allocate_run(&pager, 300).unwrap(),
        (PageId::new(1100), 100)
    );
    assert_eq!(
        space.allocate_run(&pager, 7).unwrap(),
        (PageId::new(1300), 7)
    );
}

#[test]
fn a_run_is_wanted_where_there_is_one_and_not_in_the_rest_at_the_cursor() {
    let pager = Sparse::new(geometry(PageSize::DEFAULT));
    let mut space = full_space(&pager, 10_000);
    make_available(&mut space, &pager, (100..170).chain(500..600), 2);
    assert_eq!(
        space.allocate_run(&pager, 67).unwrap(),
        (PageId::new(100), 67)
    );
    assert_eq!(
        space.allocate_run(&pager, 90).unwrap(),
        (PageId::new(500), 90)
    );
    assert_eq!(
        space.allocate_run(&pager, 2).unwrap(),
        (PageId::new(590), 2)
    );
}

#[test]
fn pages_that_were_never_written_are_handed_out_first_until_the_next_store() {
    let pager = Sparse::new(geometry(PageSize::DEFAULT));
    let mut space = full_space(&pager, 10_000);
    make_available(&mut space, &pager, 100..400, 2);
    let retire_two = |space: &mut Space, first, at| {
        for number in [first, first + 1] {
            space.retire(&pager, page(number, at - 1), v(at)).unwrap();
        }
        space.release(&pager, &[v(at)]).unwrap();
    };
    assert_eq!(run_lengths(&mut space, &pager, 20), [20]);
    retire_two(&mut space, 110, 4);
    let next = [(); 3].map(|()| space.allocate(&pager).unwrap().get());
    assert_eq!(next, [111, 110, 120], "then on from where the cursor was");

    // One that a run has taken meanwhile is not handed out twice.
    retire_two(&mut space, 112, 6);
    space.cursor = 113;
    assert_eq!(space.allocate_run(&pager, 1).unwrap().0.get(), 113);
    assert_eq!(space.allocate(&pager).unwrap().get(), 112);
    space.cursor = 121;

    // What a store refers to is about to be written, so it is nothing special any more.
    retire_two(&mut space, 114, 8);
    let _stored = space.store(&pager, v(9)).unwrap();
    assert!(space.allocate(&pager).unwrap().get() > 120);
    retire_two(&mut space, 116, 9);
    assert!(space.allocate(&pager).unwrap().get() > 120);
}

#[test]
fn a_release_is_wanted_when_much_waits_or_little_is_left() {
    let pager = Sparse::new(geometry(PageSize::DEFAULT));
    let mut space = full_space(&pager, 10_000);
    assert!(space.wants_release(&pager), "nothing is left");
    make_available(&mut space, &pager, 100..400, 2);
    assert!(!space.wants_release(&pager));
    retire(&mut space, &pager, 1000..1063, 3);
    assert!(!space.wants_release(&pager));
    retire(&mut space, &pager, [1063], 3);
    assert!(space.wants_release(&pager), "64 pages wait");
    space.release(&pager, &[v(3)]).unwrap();
    assert!(!space.wants_release(&pager));
}

#[test]
#[should_panic(expected = "free already")]
fn a_page_given_back_twice_is_a_mistake() {
    let pager = Sparse::new(geometry(PageSize::DEFAULT));
    let mut space = new_space(&pager);
    let id = space.allocate(&pager).unwrap();
    space.give_back(id);
    space.give_back(id);
}

#[test]
fn a_file_grows_in_steps_that_grow_with_it() {
    let pager = Sparse::new(geometry(PageSize::DEFAULT));
    let mut space = new_space(&pager);
    while space.end() < 1_000_000 {
        space.allocate_run(&pager, 1000).unwrap();
    }
    let grown = pager.grown.lock().unwrap();
    let steps: Vec<_> = grown.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(grown.len() < 120, "{} steps", grown.len());
    assert!(
        steps.iter().all(|&step| step <= 16_384 + 1000),
        "64 MiB at the most"
    );
    assert!(steps.iter().all(|&step| step >= 256), "1 MiB at the least");
}

#[test]
fn a_file_is_filled_to_the_last_page_but_those_for_the_map() {
    let mut pager = Sparse::new(geometry(PageSize::DEFAULT));
    pager.limit = 1000;
    let mut space = new_space(&pager);
    for number in 32..990 {
        assert_eq!(space.allocate(&pager).unwrap().get(), number);
    }
    let (id, len) = space.allocate_run(&pager, 50).unwrap();
    assert_eq!((id.get(), len), (990, 8));
    let full = space.allocate(&pager);
    assert!(
        matches!(
            full,
            Err(Error::Full {
                limit_bytes: 4_096_000
            })
        ),
        "{full:?}"
    );
    assert!(!space.take_refusal(), "nothing is quarantined");
    space.give_back(PageId::new(77));
    assert_eq!(space.allocate(&pager).unwrap().get(), 77);
}

#[test]
fn a_store_finds_room_however_full_the_transactions_left_the_file() {
    const LIMIT: u64 = 3000;
    let shape = Shape {
        leaf_bits: 64,
        fan_out: 4,
    };
    for seed in 0..2 {
        let mut pager = Sparse::new(geometry(PageSize::DEFAULT));
        pager.limit = LIMIT;
        let root = MapRoot::new(pager.geometry());
        let mut space = Space::with_shape(pager.geometry(), shape, root).unwrap();
        let mut random = StdRng::seed_from_u64(seed);
        let mut used = Vec::new();
        let mut refused = 0;
        for version in 2..200 {
            let at = v(version);
            while random.random_ratio(1999, 2000) {
                let single = random.random_ratio(1, 2);
                let taken = match single {
                    true => space.allocate(&pager).map(|id| (id, 1)),
                    false => space.allocate_run(&pager, 4),
                };
                match taken {
                    Ok((first, len)) => {
                        used.extend((0..len).map(|step| PageRef {
                            id: first.plus(step),
                            version: at,
                        }));
                    }
                    Err(error) => {
                        assert!(matches!(error, Error::Full { .. }), "{error}");
                        refused += 1;
                        break;
                    }
                }
            }
            let leaving = random.random_range(0..used.len().min(300));
            for _ in 0..leaving {
                let page = used.swap_remove(random.random_range(0..used.len()));
                if page.version < at {
                    space.retire(&pager, page, at).unwrap();
                } else {
                    space.give_back(page.id);
                }
            }
            // What the meta before refers to is held until this store is durable.
            space.release(&pager, &[v(version - 1)]).unwrap();
            let _stored = space.store(&pager, at).unwrap();
            space.release(&pager, &[at]).unwrap();
            assert!(pager.page_count() <= LIMIT);
        }
        assert!(refused > 20, "seed {seed}: only {refused} times");
    }
}

#[test]
fn the_last_page_number_is_not_handed_out() {
    let pager = Sparse::new(geometry(PageSize::DEFAULT));
    let mut space = full_space(&pager, PageId::MAX.get() - 3);
    assert_eq!(space.allocate_run(&pager, 9).unwrap().1, 3);
    assert!(matches!(space.allocate(&pager), Err(Error::Full { .. })));
    make_available(&mut space, &pager, 5000..5020, 2);
    let root = space.store(&pager, v(2)).unwrap().root;
    assert_eq!(root.level, 5);
    let mut space = Space::open(pager.geometry(), root).unwrap();
    assert!(space.is_free(&pager, PageId::new(5019)).unwrap());
}

#[test]
fn a_page_is_held_while_a_version_that_reaches_it_is_live() {
    let pager = Sparse::new(geometry(PageSize::DEFAULT));
    let mut space = full_space(&pager, 1000);
    space.retire(&pager, page(100, 3), v(7)).unwrap();
    assert!(space.is_free(&pager, PageId::new(100)).unwrap());
    for live in [&[3, 9][..], &[1, 6, 9], &[6, 9], &[5, 6, 9][1..]] {
        let live: Vec<_> = live.iter().map(|&number| v(number)).collect();
        assert_eq!(space.release(&pager, &live).unwrap_or(99), 0, "{live:?}");
        assert_eq!(space.allocate(&pager).unwrap().get(), space.end() - 1);
        if live[0] == v(3) {
            // The rest of the list needs versions that were not live: another space.
            space = full_space(&pager, 1000);
            space.retire(&pager, page(100, 3), v(7)).unwrap();
        }
    }
    assert_eq!(space.release(&pager, &[v(7), v(9)]).unwrap(), 1);
    assert_eq!(space.allocate(&pager).unwrap().get(), 100);
}

#[test]
fn a_page_that_no_live_version_reaches_is_released_although_an_older_one_is_live() {
    let pager = Sparse::new(geometry(PageSize::DEFAULT));
    let mut space = full_space(&pager, 1000);
    space.retire(&pager, page(100, 3), v(7)).unwrap();
    assert_eq!(space.release(&pager, &[v(2), v(7)]).unwrap(), 1);
}

#[test]
fn pages_are_discarded_before_they_are_handed_out() {
    let pager = Sparse::new(geometry(PageSize::DEFAULT));
    let mut space = full_space(&pager, 1000);
    drop(pager.create(page(100, 1)).unwrap());
    space.retire(&pager, page(100, 1), v(2)).unwrap();
    space.release(&pager, &[v(1)]).unwrap();
    assert!(pager.read(page(100, 1)).is_ok(), "version 1 reads it");
    space.release(&pager, &[v(2)]).unwrap();
    assert!(pager.read(page(100, 1)).is_err());
}

#[test]
fn pages_that_were_not_discarded_are_not_handed_out_until_they_are() {
    let pager = Sparse::new(geometry(PageSize::DEFAULT));
    let mut space = full_space(&pager, 100_000);
    let (end, many) = (space.end(), 40_000);
    retire(&mut space, &pager, 1000..1000 + many, 2);
    *pager.discards.lock().unwrap() = 1;
    assert!(space.release(&pager, &[v(2)]).is_err());
    let available = space.free() - space.quarantined();
    assert!(0 < available && available < many, "{available}");
    *pager.discards.lock().unwrap() = 0;
    for _ in 0..available {
        assert!(space.allocate(&pager).unwrap().get() < end);
    }
    assert_eq!(space.allocate(&pager).unwrap().get(), end);
    *pager.discards.lock().unwrap() = u64::MAX;
    assert_eq!(
        space.release(&pager, &[v(2)]).unwrap() as u64,
        many - available
    );
    assert_eq!(space.quarantined(), 0);
}
