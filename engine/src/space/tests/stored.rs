//! The bytes of the map, and how much of it is read and written.

use bifolio_pager::{PageId, PageSize, Pager, first_page};

use super::super::bits::Bits;
use super::super::format::{self, Child, Shape};
use super::super::{Found, MapRoot, Space, walk};
use super::sparse::Sparse;
use super::{full_space, geometry, make_available, new_space, page, retire, v};

/// Bits of a leaf and children of a branch at 4 KiB.
const BITS: u64 = 32_576;
const FAN_OUT: u64 = 226;

fn new_page(number: u64, version: u64) -> Vec<u8> {
    let mut bytes = vec![0; PageSize::DEFAULT.usable()];
    bytes[..12].copy_from_slice(&page(number, version).encode());
    bytes
}

#[test]
fn the_nodes_have_the_sizes_that_the_tables_give() {
    let sizes = PageSize::ALL.map(|size| Shape::of(geometry(size)));
    assert_eq!(
        sizes[0],
        Shape {
            leaf_bits: BITS,
            fan_out: FAN_OUT
        }
    );
    assert_eq!(
        sizes[4],
        Shape {
            leaf_bits: 524_096,
            fan_out: 3639
        }
    );
    for shape in sizes {
        assert!(shape.leaf_bits.is_multiple_of(64));
        assert!(shape.level_for(PageId::MAX.get()) <= 6, "{shape:?}");
    }
    assert_eq!(sizes[0].level_for(BITS), 0);
    assert_eq!(sizes[0].level_for(BITS + 1), 1);
    assert_eq!(sizes[0].level_for(BITS * FAN_OUT), 1);
    assert_eq!(sizes[0].level_for(BITS * FAN_OUT + 1), 2);
}

#[test]
fn a_root_is_these_thirty_two_bytes() {
    let root = MapRoot {
        page: Some(page(0x0102_0304, 0x0506)),
        level: 3,
        end: 0x0001_0203_0405,
        free: 0x0A0B,
    };
    #[rustfmt::skip]
    let bytes = [
        0x04, 0x03, 0x02, 0x01, 0, 0, 0x06, 0x05, 0, 0, 0, 0, // page: number, stamp
        3, 0, 0, 0,                                           // level, reserved
        0x05, 0x04, 0x03, 0x02, 0x01, 0, 0, 0,                // end
        0x0B, 0x0A, 0, 0, 0, 0, 0, 0,                         // free
    ];
    assert_eq!(root.encode(), bytes);
    assert_eq!(MapRoot::decode(&bytes).unwrap(), root);
}

#[test]
fn a_leaf_has_the_bit_of_each_free_page() {
    let mut bits = Bits::zeros(BITS);
    [32, 33, 41, 32_575]
        .into_iter()
        .for_each(|bit| bits.set(bit));
    let mut bytes = new_page(9, 7);
    format::encode_leaf(&mut bytes, &bits, Shape::of(geometry(PageSize::DEFAULT)));
    let mut expected = vec![0; 4088];
    expected[..12].copy_from_slice(&[9, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0]);
    expected[12] = 4; // kind
    expected[16 + 4] = 0b11; // pages 32 and 33
    expected[16 + 5] = 0b10; // page 41
    expected[4087] = 0x80; // the last page of the leaf
    assert_eq!(bytes, expected);
}

#[test]
fn a_branch_has_a_cell_for_each_child() {
    let mut children = vec![Child::default(); FAN_OUT as usize];
    children[1] = Child {
        page: Some(page(5, 6)),
        free: 0x0708,
    };
    children[225] = Child {
        page: Some(page(8, 2)),
        free: 1 << 40,
    };
    let mut bytes = new_page(9, 7);
    format::encode_branch(&mut bytes, 2, children.into_iter());
    let mut expected = vec![0; 4088];
    expected[..12].copy_from_slice(&[9, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0]);
    expected[12..14].copy_from_slice(&[5, 2]); // kind, level
    expected[34..52].copy_from_slice(&[5, 0, 0, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0x08, 0x07, 0, 0, 0, 0]);
    expected[4066..4084].copy_from_slice(&[8, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    assert_eq!(bytes, expected);
}

#[test]
fn a_file_filled_from_front_to_back_has_no_map_pages() {
    for page_size in [PageSize::DEFAULT, PageSize::new(65536).unwrap()] {
        let pager = Sparse::new(geometry(page_size));
        let mut space = new_space(&pager);
        let first = first_page(pager.geometry()).get();
        for number in first..first + 40_000 {
            assert_eq!(space.allocate(&pager).unwrap().get(), number);
        }
        let stored = space.store(&pager, v(1)).unwrap();
        assert!(stored.pages.is_empty());
        assert_eq!((stored.root.page, stored.root.free), (None, 0));
        assert_eq!(stored.root.end, first + 40_000);
        assert_eq!(pager.take_reads(), 0);
    }
}

#[test]
fn a_subtree_that_is_wholly_used_again_is_no_longer_stored() {
    let pager = Sparse::new(geometry(PageSize::DEFAULT));
    let mut space = full_space(&pager, 3 * BITS + 100);
    retire(&mut space, &pager, 100..105, 2);
    let stored = space.store(&pager, v(2)).unwrap();
    assert_eq!(stored.pages.len(), 2, "a leaf, and the branch above it");
    assert_eq!(space.end(), 3 * BITS + 102);
    space.release(&pager, &[v(2)]).unwrap();
    assert_eq!(
        space.allocate_run(&pager, 9).unwrap(),
        (PageId::new(100), 5)
    );
    // What is free now are the two old pages of the map, in another leaf.
    let stored = space.store(&pager, v(3)).unwrap();
    assert_eq!(stored.pages.len(), 2);
    let mut free = Vec::new();
    walk(&pager, stored.root, &mut |found| match found {
        Found::Free(range) => free.extend(range),
        Found::Page(..) => {}
        Found::Damage { error, .. } => panic!("{error}"),
    });
    let old = 3 * BITS + 100;
    assert_eq!(free, [old, old + 1]);
}

#[test]
fn opening_reads_nothing_and_allocating_reads_one_page_per_level() {
    let pager = Sparse::new(geometry(PageSize::DEFAULT));
    let mut space = full_space(&pager, 300 * BITS); // 300 leaves, two levels above them
    retire(&mut space, &pager, (0..200).map(|leaf| leaf * BITS + 99), 2);
    let root = space.store(&pager, v(2)).unwrap().root;
    assert_eq!(root.level, 2);
    pager.take_reads();

    let mut space = Space::open(pager.geometry(), root).unwrap();
    assert_eq!(pager.take_reads(), 0);
    assert!((space.free(), space.end()) == (root.free, root.end));
    let id = space.allocate(&pager).unwrap();
    assert!(id.get() % BITS == 99, "{id}");
    assert_eq!(pager.take_reads(), 3);
    assert!(!space.is_free(&pager, PageId::new(BITS)).unwrap());
    assert_eq!(pager.take_reads(), 1, "its leaf alone");
}

/// Numbers that look random, the same each time.
fn scattered(seed: u64) -> impl Iterator<Item = u64> {
    (0..).scan(seed, |state, _| {
        *state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        Some(*state >> 24)
    })
}

/// The most, and the sum, of the pages written by 200 stores, each after a commit that retires a
/// page in each of three leaves of `leaves` and writes four.
fn upkeep(leaves: u64) -> (usize, usize) {
    let pager = Sparse::new(geometry(PageSize::DEFAULT));
    let mut space = full_space(&pager, leaves * BITS);
    let every_leaf = (0..leaves).flat_map(|leaf| (0..100).map(move |n| leaf * BITS + 64 + 2 * n));
    make_available(&mut space, &pager, every_leaf, 2);
    let first = space.store(&pager, v(2)).unwrap().pages.len() as u64;
    assert_eq!(
        first,
        leaves + leaves.div_ceil(FAN_OUT) + u64::from(leaves > FAN_OUT)
    );
    space.release(&pager, &[v(2)]).unwrap();

    let mut numbers = scattered(1);
    let mut counts = Vec::new();
    for version in 3..203 {
        // A page of its own for each version: none is retired twice.
        let offset = 1000 + version;
        let mut picked: Vec<_> = numbers.by_ref().take(3).map(|n| n % leaves).collect();
        picked.sort();
        picked.dedup();
        for _ in 0..4 {
            space.allocate(&pager).unwrap();
        }
        retire(
            &mut space,
            &pager,
            picked.into_iter().map(|leaf| leaf * BITS + offset),
            version,
        );
        counts.push(space.store(&pager, v(version)).unwrap().pages.len());
        space.release(&pager, &[v(version)]).unwrap();
    }
    (counts.iter().copied().max().unwrap(), counts.iter().sum())
}

#[test]
fn upkeep_costs_what_changed_and_not_the_size_of_the_file() {
    // Changes in four leaves, then home, some former homes, and at most five branches and a root.
    for leaves in [20, 200, 1000] {
        let (most, sum) = upkeep(leaves);
        assert!(
            most <= 30,
            "{most} pages in one store, of a map of {leaves} leaves"
        );
        assert!(
            sum <= 200 * 17,
            "{sum} pages in 200 stores, of a map of {leaves} leaves"
        );
    }
}

#[test]
fn a_store_that_has_nothing_to_write_writes_nothing() {
    let pager = Sparse::new(geometry(PageSize::DEFAULT));
    let mut space = full_space(&pager, 1000);
    make_available(&mut space, &pager, 500..600, 2);
    let stored = space.store(&pager, v(2)).unwrap();
    assert_eq!(stored.pages.len(), 1);
    let mut space = Space::open(pager.geometry(), stored.root).unwrap();
    pager.take_reads();
    let again = space.store(&pager, v(3)).unwrap();
    assert_eq!((again.root, again.pages), (stored.root, vec![]));
    assert_eq!(pager.take_reads(), 0);
}

#[test]
#[should_panic(expected = "stored for v2, then for v2")]
fn a_map_is_stored_once_for_a_version() {
    let pager = Sparse::new(geometry(PageSize::DEFAULT));
    let mut space = full_space(&pager, 1000);
    make_available(&mut space, &pager, 500..600, 2);
    let _ = space.store(&pager, v(2));
    let _ = space.store(&pager, v(2));
}

#[test]
fn leaves_that_nobody_uses_are_dropped_from_memory_and_come_back() {
    let pager = Sparse::new(geometry(PageSize::DEFAULT));
    let mut space = full_space(&pager, 1500 * BITS);
    retire(
        &mut space,
        &pager,
        (0..1500).map(|leaf| leaf * BITS + 64),
        2,
    );
    let _ = space.store(&pager, v(2)).unwrap();
    space.release(&pager, &[v(2)]).unwrap();
    let _ = space.store(&pager, v(3)).unwrap();
    pager.take_reads();
    for leaf in 0..1500 {
        assert!(
            space
                .is_free(&pager, PageId::new(leaf * BITS + 64))
                .unwrap()
        );
        assert!(
            !space
                .is_free(&pager, PageId::new(leaf * BITS + 65))
                .unwrap()
        );
    }
    assert!(
        pager.take_reads() > 1000,
        "1,500 leaves are more than 4 MiB"
    );
}

#[test]
fn what_readers_hold_stays_held_when_leaves_are_dropped_from_memory() {
    let pager = Sparse::new(geometry(PageSize::DEFAULT));
    let mut space = full_space(&pager, 1500 * BITS);
    retire(
        &mut space,
        &pager,
        (0..1500).map(|leaf| leaf * BITS + 64),
        2,
    );
    for version in 2..6 {
        let _ = space.store(&pager, v(version)).unwrap();
        space.release(&pager, &[v(1), v(version)]).unwrap();
        retire(&mut space, &pager, [version * 100], version + 1);
    }
    // The pages of the map that no reader needs are available, and nothing else.
    let available = space.free() - space.quarantined();
    for _ in 0..available {
        let id = space.allocate(&pager).unwrap().get();
        assert!(id >= 1500 * BITS, "{id} is held");
    }
    space.release(&pager, &[v(6)]).unwrap();
    assert_eq!(space.quarantined(), 0);
    assert_eq!(space.allocate(&pager).unwrap().get() % BITS, 64);
}

#[test]
fn looking_for_a_run_in_a_torn_file_reads_a_few_pages() {
    let pager = Sparse::new(geometry(PageSize::DEFAULT));
    let mut space = full_space(&pager, 200 * BITS);
    let holes = (0..200).flat_map(|leaf| (0..100).map(move |n| leaf * BITS + 64 + 2 * n));
    retire(&mut space, &pager, holes, 2);
    let root = space.store(&pager, v(2)).unwrap().root;
    let mut space = Space::open(pager.geometry(), root).unwrap();
    pager.take_reads();
    space.allocate(&pager).unwrap();
    assert!(pager.take_reads() <= 1 + 8 + 8 + 1);
    for _ in 0..300 {
        space.allocate(&pager).unwrap();
    }
    assert!(pager.take_reads() <= 3, "it is not looked for again");
}
