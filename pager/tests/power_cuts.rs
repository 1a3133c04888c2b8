//! The storage model of the reference pager: what a power cut may leave, and what it must.

use std::collections::HashMap;

use bifolio_pager::{
    Error, Geometry, META_LEN, MemPager, MetaSlot, PageGuard, PageId, PageRef, PageSize, Pager,
    Version, first_page,
};
use proptest::prelude::*;

const GEOMETRY: Geometry = Geometry {
    page_size: PageSize::DEFAULT,
    seed: 11,
};

fn nth(index: u64, version: u64) -> PageRef {
    PageRef {
        id: first_page(GEOMETRY).plus(index),
        version: Version::new(version),
    }
}

fn pager_of(pages: u64) -> MemPager {
    let pager = MemPager::new(GEOMETRY);
    pager.grow(first_page(GEOMETRY).get() + pages).unwrap();
    pager
}

/// Every byte past the header is the low byte of the version, so that a mixture shows.
fn put(pager: &MemPager, at: PageRef) {
    pager.create(at).unwrap()[16..].fill(at.version.get() as u8);
}

fn put_sealed(pager: &MemPager, at: PageRef) {
    put(pager, at);
    pager.seal(&[at]).unwrap();
}

/// Whether the page reads whole as `at`; if not, it must be refused as corrupt.
fn reads(pager: &MemPager, at: PageRef) -> bool {
    match pager.read(at) {
        Ok(page) => {
            page.confirm().unwrap();
            assert!(
                page[16..]
                    .iter()
                    .all(|&byte| byte == at.version.get() as u8)
            );
            true
        }
        Err(error) => {
            assert!(
                matches!(error, Error::Corrupt { page, .. } if page == at.id),
                "{error:?}"
            );
            false
        }
    }
}

#[test]
fn what_was_not_flushed_is_lost_kept_or_torn() {
    let (flushed, sealed, private) = (nth(0, 1), nth(1, 1), nth(2, 1));
    let pager = pager_of(3);
    put_sealed(&pager, flushed);
    let _ = pager.flush(&[flushed]).unwrap();
    put_sealed(&pager, sealed);
    put(&pager, private);
    let (mut kept, mut lost) = (0, 0);
    for seed in 0..200 {
        let left = pager.power_cut_torn(seed);
        assert!(reads(&left, flushed), "seed {seed}");
        assert!(
            !reads(&left, private),
            "seed {seed}: a private page is believed"
        );
        match reads(&left, sealed) {
            true => kept += 1,
            false => lost += 1,
        }
    }
    assert!(kept > 20, "{kept} of 200 cuts keep an unflushed page");
    assert!(lost > 20, "{lost} of 200 cuts lose an unflushed page");
}

#[test]
fn a_page_that_is_reused_before_its_time_may_destroy_the_flushed_one() {
    // What the engine must never do, and what its crash tests must be able to see: overwrite a page
    // that the durable meta still refers to. Once by a page that lives, once by one that died too.
    for also_discarded in [false, true] {
        let (old, new) = (nth(0, 1), nth(0, 2));
        let pager = pager_of(1);
        put_sealed(&pager, old);
        let _ = pager.flush(&[old]).unwrap();
        pager.discard(&[old.id]).unwrap();
        put_sealed(&pager, new);
        if also_discarded {
            pager.discard(&[new.id]).unwrap();
        }
        assert!(reads(&pager.power_cut(), old), "nothing was written early");
        let survived = (0..200)
            .filter(|&seed| reads(&pager.power_cut_torn(seed), old))
            .count();
        assert!((1..200).contains(&survived), "{survived} of 200");
    }
}

#[test]
fn a_length_that_was_not_flushed_is_there_or_not() {
    let pager = pager_of(2);
    let _ = pager.flush(&[]).unwrap();
    pager.grow(first_page(GEOMETRY).get() + 9).unwrap();
    let first = first_page(GEOMETRY).get();
    assert_eq!(pager.power_cut().page_count(), first + 2);
    assert_eq!(pager.process_exit().page_count(), first + 9);
    let lengths: Vec<_> = (0..50)
        .map(|seed| pager.power_cut_torn(seed).page_count())
        .collect();
    assert!(lengths.contains(&(first + 2)));
    assert!(lengths.contains(&(first + 9)));
    assert!(
        lengths
            .iter()
            .all(|len| [first + 2, first + 9].contains(len))
    );
}

#[test]
fn one_seed_means_one_file() {
    let pager = pager_of(64);
    for index in 0..64 {
        put_sealed(&pager, nth(index, 1));
    }
    let outcome = |seed| -> Vec<bool> {
        let left = pager.power_cut_torn(seed);
        (0..64).map(|index| reads(&left, nth(index, 1))).collect()
    };
    let outcomes: Vec<_> = (0..20).map(outcome).collect();
    assert_eq!(outcomes, (0..20).map(outcome).collect::<Vec<_>>());
    assert!(
        outcomes
            .iter()
            .any(|left| left.contains(&true) && left.contains(&false))
    );
}

#[test]
fn a_process_that_ends_leaves_all_it_sealed() {
    let pager = pager_of(3);
    put_sealed(&pager, nth(0, 1));
    put(&pager, nth(1, 1));
    let open = pager.create(nth(2, 1)).unwrap();
    let left = pager.process_exit();
    drop(open);
    assert!(reads(&left, nth(0, 1)));
    assert!(!reads(&left, nth(1, 1)));
    assert!(!reads(&left, nth(2, 1)));
}

#[test]
fn a_meta_is_written_whole_and_torn_only_on_its_way() {
    let pager = pager_of(1);
    assert_eq!(pager.read_meta(MetaSlot::A), None);
    let write = |slot, byte| {
        let proof = pager.flush(&[]).unwrap();
        pager.write_meta(proof, slot, &[byte; META_LEN]).unwrap();
    };
    write(MetaSlot::A, 1);
    write(MetaSlot::B, 2);
    for seed in 0..20 {
        let left = pager.power_cut_torn(seed);
        assert_eq!(left.read_meta(MetaSlot::A).unwrap(), [1; META_LEN]);
        assert_eq!(left.read_meta(MetaSlot::B).unwrap(), [2; META_LEN]);
    }
    let torn = (0..20).map(|seed| {
        let left = pager.power_cut_in_meta(MetaSlot::A, &[3; META_LEN], seed);
        assert_eq!(left.read_meta(MetaSlot::B).unwrap(), [2; META_LEN]);
        left.read_meta(MetaSlot::A).unwrap()
    });
    for meta in torn {
        for sector in meta.chunks(512) {
            assert!([[1; 512], [3; 512]].iter().any(|whole| whole == sector));
        }
        assert!(meta.contains(&1) || meta.contains(&3));
    }
}

#[test]
fn damage_shows_at_the_next_read_and_not_under_a_guard() {
    let (at, neighbour) = (nth(0, 1), nth(1, 1));
    let pager = pager_of(2);
    put_sealed(&pager, at);
    put_sealed(&pager, neighbour);
    let _ = pager.flush(&[at, neighbour]).unwrap();
    let guard = pager.read(at).unwrap();
    pager.corrupt(at.id, |image| image[500] ^= 4);
    assert_eq!(guard[500], 1);
    for _ in 0..2 {
        assert!(!reads(&pager, at));
        assert!(reads(&pager, neighbour));
    }
    let left = pager.power_cut();
    assert!(!reads(&left, at), "the damage was in storage");
    left.corrupt(at.id, |image| image[500] ^= 4);
    assert!(reads(&left, at), "the damage was undone");
}

#[test]
fn a_private_page_can_be_damaged_where_it_was_stolen_to() {
    let at = nth(0, 1);
    let pager = pager_of(1);
    put(&pager, at);
    pager.corrupt(at.id, |_| ());
    assert!(reads(&pager, at), "nothing was changed");
    pager.write(at).unwrap()[16..].fill(1);
    pager.corrupt(at.id, |image| image[20] = 0);
    assert!(!reads(&pager, at));
    assert!(matches!(pager.write(at), Err(Error::Corrupt { .. })));
    assert!(matches!(pager.seal(&[at]), Err(Error::Corrupt { .. })));
    pager.discard(&[at.id]).unwrap();
    put_sealed(&pager, nth(0, 2));
    assert!(reads(&pager, nth(0, 2)));
}

#[test]
fn damage_to_a_page_that_was_reused_reaches_the_new_life() {
    let pager = pager_of(1);
    put_sealed(&pager, nth(0, 1));
    let _ = pager.flush(&[nth(0, 1)]).unwrap();
    pager.discard(&[nth(0, 1).id]).unwrap();
    put_sealed(&pager, nth(0, 2));
    pager.corrupt(nth(0, 2).id, |image| image.fill(0));
    assert!(!reads(&pager, nth(0, 2)));
}

#[test]
fn a_volatile_pager_gives_memory_back_and_a_storing_one_keeps_what_was_flushed() {
    let memory_after_discard = |pager: MemPager| {
        pager.grow(first_page(GEOMETRY).get() + 100).unwrap();
        let before = pager.counters().memory_bytes.unwrap();
        let pages: Vec<_> = (0..100).map(|index| nth(index, 1)).collect();
        pages.iter().for_each(|&at| put_sealed(&pager, at));
        let _ = pager.flush(&pages).unwrap();
        let full = pager.counters().memory_bytes.unwrap();
        assert_eq!(
            full - before,
            100 * 4096,
            "an image that was flushed is shared, not copied"
        );
        let ids: Vec<_> = pages.iter().map(|at| at.id).collect();
        pager.discard(&ids).unwrap();
        pager.counters().memory_bytes.unwrap() - before
    };
    assert_eq!(memory_after_discard(MemPager::volatile(GEOMETRY)), 0);
    assert_eq!(memory_after_discard(MemPager::new(GEOMETRY)), 100 * 4096);
}

#[test]
fn a_volatile_pager_leaves_nothing() {
    let pager = MemPager::volatile(GEOMETRY);
    pager.grow(first_page(GEOMETRY).get() + 1).unwrap();
    put_sealed(&pager, nth(0, 1));
    let _ = pager.flush(&[nth(0, 1)]).unwrap();
    assert_eq!(pager.power_cut().page_count(), first_page(GEOMETRY).get());
    assert_eq!(
        pager.process_exit().page_count(),
        first_page(GEOMETRY).get()
    );
}

#[test]
fn growth_that_memory_cannot_bear_is_an_error() {
    let pager = pager_of(1);
    let refused = pager.grow(PageId::MAX.get()).unwrap_err();
    assert!(matches!(refused, Error::Io { .. }), "{refused:?}");
    put_sealed(&pager, nth(0, 1));
}

/// One step of a random history of a few page numbers.
#[derive(Clone, Debug)]
enum Step {
    Create(u64),
    Seal(u64),
    Discard(u64),
    Flush(u64),
    Reopen(Reopen),
}

#[derive(Clone, Debug)]
enum Reopen {
    PowerCut,
    Torn(u64),
    ProcessExit,
}

const NUMBERS: u64 = 6;

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..NUMBERS).prop_map(Step::Create),
        4 => (0..NUMBERS).prop_map(Step::Seal),
        3 => (0..NUMBERS).prop_map(Step::Discard),
        3 => (0..NUMBERS).prop_map(Step::Flush),
        1 => prop_oneof![
            Just(Reopen::PowerCut),
            any::<u64>().prop_map(Reopen::Torn),
            Just(Reopen::ProcessExit),
        ].prop_map(Step::Reopen),
    ]
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Now {
    Private,
    Sealed { flushed: bool },
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_history_reads_as_it_was_written_and_keeps_what_it_flushed(
        steps in proptest::collection::vec(step(), 1..80),
    ) {
        let mut pager = pager_of(NUMBERS);
        let _ = pager.flush(&[]).unwrap();
        let mut live: HashMap<u64, (PageRef, Now)> = HashMap::new();
        for (version, step) in (1..).zip(steps) {
            match step {
                Step::Create(n) => {
                    let at = nth(n, version);
                    match live.get(&n) {
                        None => {
                            // Whatever a power cut left here, its caller knows it to be free.
                            pager.discard(&[at.id]).unwrap();
                            put(&pager, at);
                            live.insert(n, (at, Now::Private));
                        }
                        Some(_) => assert!(pager.create(at).is_err()),
                    }
                }
                Step::Seal(n) => match live.get_mut(&n) {
                    Some((at, now @ Now::Private)) => {
                        pager.seal(&[*at]).unwrap();
                        *now = Now::Sealed { flushed: false };
                    }
                    Some((at, _)) => assert!(pager.seal(&[*at]).is_err()),
                    None => {}
                },
                Step::Discard(n) => {
                    pager.discard(&[nth(n, 0).id]).unwrap();
                    live.remove(&n);
                }
                Step::Flush(n) => match live.get_mut(&n) {
                    Some((at, Now::Sealed { flushed })) => {
                        let _ = pager.flush(&[*at]).unwrap();
                        *flushed = true;
                    }
                    Some((at, Now::Private)) => assert!(pager.flush(&[*at]).is_err()),
                    None => {}
                },
                Step::Reopen(how) => {
                    pager = match how {
                        Reopen::PowerCut => pager.power_cut(),
                        Reopen::Torn(seed) => pager.power_cut_torn(seed),
                        Reopen::ProcessExit => pager.process_exit(),
                    };
                    live.retain(|_, (at, now)| {
                        let there = reads(&pager, *at);
                        match now {
                            Now::Sealed { flushed: true } => assert!(there, "{at:?} was flushed"),
                            Now::Sealed { flushed: false } => *now = Now::Sealed { flushed: true },
                            Now::Private => assert!(!there, "{at:?} was private"),
                        }
                        there
                    });
                }
            }
            for (at, _) in live.values() {
                prop_assert!(reads(&pager, *at));
                let stale = PageRef { version: Version::new(at.version.get() - 1), ..*at };
                prop_assert!(!reads(&pager, stale));
            }
        }
    }
}
