//! Bytes that this code did not write get an error that names the page; never a panic.

use bifolio_pager::{Error, Kind, PageId, PageRef, PageSize, Pager, Result};
use proptest::prelude::*;

use super::super::format::Shape;
use super::super::{Found, MapRoot, Space, walk};
use super::sparse::Sparse;
use super::{full, full_space, geometry, page, retire, v};

const BITS: u64 = 32_576;
const BODY: usize = 16;

type Change = &'static dyn Fn(&mut [u8]);

/// A file whose map has four leaves under a branch, and the places of these: the branch first.
fn stored() -> (Sparse, MapRoot, Vec<PageRef>) {
    let pager = Sparse::new(geometry(PageSize::DEFAULT));
    let mut space = full_space(&pager, 4 * BITS - 100);
    let some = (0..4).flat_map(|leaf| (0..50).map(move |n| leaf * BITS + 64 + 3 * n));
    retire(&mut space, &pager, some, 2);
    let root = space.store(&pager, v(2)).unwrap().root;
    let mut pages = Vec::new();
    walk(&pager, root, &mut |found| {
        if let Found::Page(at, _) = found {
            pages.push(at);
        }
    });
    assert_eq!(pages.len(), 5);
    (pager, root, pages)
}

/// The damage that a walk finds: on which pages, and what it hides.
fn damage(pager: &Sparse, root: MapRoot) -> Vec<(PageId, std::ops::Range<u64>)> {
    let mut all = Vec::new();
    walk(pager, root, &mut |found| {
        if let Found::Damage { error, hides, .. } = found {
            let Error::Corrupt { page, .. } = error else {
                panic!("{error}");
            };
            all.push((page, hides));
        }
    });
    all
}

fn look_up(pager: &Sparse, root: MapRoot, number: u64) -> Result<bool> {
    Space::open(pager.geometry(), root)?.is_free(pager, PageId::new(number))
}

#[test]
fn a_walk_names_the_pages_of_the_map_and_the_free_ones() {
    let (pager, root, pages) = stored();
    let (mut kinds, mut free) = (Vec::new(), 0);
    walk(&pager, root, &mut |found| match found {
        Found::Page(at, kind) => kinds.push((at, kind)),
        Found::Free(range) => free += range.end - range.start,
        Found::Damage { error, .. } => panic!("{error}"),
    });
    assert_eq!(free, root.free);
    assert_eq!(kinds[0], (root.page.unwrap(), Kind::MapBranch));
    assert_eq!(
        kinds[1..],
        [1, 2, 3, 4].map(|nth: usize| (pages[nth], Kind::MapLeaf))
    );
}

#[test]
fn each_kind_of_damage_is_seen_where_it_is() {
    let (pager, root, pages) = stored();
    let (branch, leaf) = (pages[0].id, pages[2].id); // the leaf from BITS on
    const CHILD: usize = BODY + 18; // its cell in the branch
    let cases: [(&str, PageId, Change); 17] = [
        ("kind of a leaf", leaf, &|page| page[12] = 5),
        ("kind of a branch", branch, &|page| page[12] = 4),
        ("no kind", leaf, &|page| page[12] = 0),
        ("level of a branch", branch, &|page| page[13] = 2),
        ("reserved byte 13 of a leaf", leaf, &|page| page[13] = 1),
        ("reserved byte 15 of a leaf", leaf, &|page| page[15] = 1),
        ("reserved byte 14 of a branch", branch, &|page| page[14] = 1),
        ("gap of a branch", branch, &|page| page[4087] = 1),
        ("a page too many is free", leaf, &|page| page[BODY] |= 1),
        ("a page too few is free", leaf, &|page| page[BODY + 8] &= !1),
        ("the count of a child", branch, &|page| {
            page[CHILD + 12] ^= 1
        }),
        ("two counts that cancel out", branch, &|page| {
            page[CHILD + 12] += 1;
            page[CHILD + 30] -= 1;
        }),
        ("a count beyond reason", branch, &|page| {
            page[CHILD + 17] = 0xff
        }),
        ("a child in the meta area", branch, &|page| page[CHILD] = 0),
        ("a child out of the file", branch, &|page| {
            page[CHILD + 5] = 1
        }),
        ("a child of the future", branch, &|page| page[CHILD + 6] = 3),
        ("an absent child with free pages", branch, &|page| {
            page[CHILD..CHILD + 12].fill(0)
        }),
    ];
    for (what, at, change) in cases {
        let before = pager.bytes(at);
        pager.damage(at, change);
        if what == "a child in the meta area" {
            pager.damage(at, |page| page[CHILD + 1..CHILD + 6].fill(0));
        }
        let found = damage(&pager, root);
        assert!(!found.is_empty(), "{what}");
        // A count in the branch can only be seen against the leaf.
        let named = found[0].0 == at || (at == branch && found[0].0 == leaf);
        assert!(named, "{what}: {found:?}");
        assert!(look_up(&pager, root, BITS + 5).is_err(), "{what}");
        if at == leaf {
            assert_eq!(
                found,
                [(leaf, BITS..2 * BITS)],
                "{what}: the rest can be read"
            );
            assert!(look_up(&pager, root, 64).unwrap());
        }
        pager.damage(at, |page| page.copy_from_slice(&before));
    }
    assert!(damage(&pager, root).is_empty());
}

#[test]
fn a_free_page_outside_of_the_file_is_damage() {
    let (pager, root, pages) = stored();
    for (nth, byte) in [(4, 4087), (1, BODY)] {
        let at = pages[nth].id;
        let before = pager.bytes(at);
        pager.damage(at, |page| {
            // One more outside, one fewer inside: the count is right.
            page[byte] |= 1;
            page[BODY + 8] &= !1;
        });
        assert_eq!(damage(&pager, root)[0].0, at);
        pager.damage(at, |page| page.copy_from_slice(&before));
    }
}

#[test]
fn a_stale_page_of_the_map_is_seen() {
    let (pager, root, pages) = stored();
    pager.damage(pages[3].id, |page| page[6] = 1);
    assert_eq!(damage(&pager, root), [(pages[3].id, 2 * BITS..3 * BITS)]);
}

#[test]
fn a_root_that_cannot_be_is_refused() {
    let geometry = geometry(PageSize::DEFAULT);
    let good = MapRoot {
        page: Some(page(50, 2)),
        level: 0,
        end: 1000,
        free: 10,
    };
    assert!(Space::open(geometry, good).is_ok());
    let bad = [
        MapRoot { level: 1, ..good },
        MapRoot {
            end: 31,
            free: 0,
            page: None,
            ..good
        },
        MapRoot {
            end: 1 << 48,
            level: 6,
            ..good
        },
        MapRoot {
            end: u64::MAX,
            level: 6,
            ..good
        },
        MapRoot { free: 969, ..good },
        MapRoot { page: None, ..good },
        MapRoot {
            page: Some(page(31, 2)),
            ..good
        },
        MapRoot {
            page: Some(page(1000, 2)),
            ..good
        },
        MapRoot {
            page: Some(page(0, 2)),
            ..good
        },
    ];
    for root in bad {
        let refused = Space::open(geometry, root).map(drop);
        assert!(
            matches!(refused, Err(Error::Corrupt { .. })),
            "{root:?}: {refused:?}"
        );
    }
}

#[test]
fn each_reserved_byte_of_a_root_is_looked_at() {
    let root = full(Shape::of(geometry(PageSize::DEFAULT)), 5000).encode();
    assert!(MapRoot::decode(&root).is_ok());
    for byte in 13..16 {
        let mut bytes = root;
        bytes[byte] = 1;
        assert!(MapRoot::decode(&bytes).is_err(), "byte {byte}");
    }
    assert!(MapRoot::decode(&root[..31]).is_err());
    assert!(MapRoot::decode(&[]).is_err());
    assert!(MapRoot::decode(&[0; 32]).is_err());
}

#[test]
fn a_map_that_reaches_past_the_file_is_damage_and_costs_nothing() {
    let pager = Sparse::new(geometry(PageSize::DEFAULT));
    let shape = Shape::of(pager.geometry());
    let root = full(shape, 1 << 40);
    assert_eq!(damage(&pager, root), [(PageId::new(0), 32..32)]);
}

#[test]
fn retiring_what_cannot_be_in_use_is_an_error_and_changes_nothing() {
    let (pager, root, pages) = stored();
    let mut space = Space::open(pager.geometry(), root).unwrap();
    let free = page(64, 1);
    let bad = [
        (vec![page(70_000, 1), free], free.id),
        (
            vec![page(70_000, 1), page(70_001, 1), page(70_000, 1)],
            PageId::new(70_000),
        ),
        (vec![page(70_000, 1), page(31, 1)], PageId::new(31)),
        (
            vec![page(70_000, 1), page(4 * BITS, 1)],
            PageId::new(4 * BITS),
        ),
        (vec![page(70_000, 1), page(70_001, 3)], PageId::new(70_001)),
    ];
    for (retired, names) in bad {
        let refused = space.retire_all(&pager, &retired, v(3));
        assert!(
            matches!(refused, Err(Error::Corrupt { page, .. }) if page == names),
            "{retired:?}: {refused:?}"
        );
        assert_eq!((space.free(), space.quarantined()), (root.free, 0));
        assert!(!space.is_free(&pager, PageId::new(70_000)).unwrap());
    }
    // A leaf that cannot be read.
    pager.damage(pages[1].id, |page| page[12] = 0);
    let mut space = Space::open(pager.geometry(), root).unwrap();
    assert!(
        space
            .retire_all(&pager, &[page(70_000, 1), page(40, 1)], v(3))
            .is_err()
    );
    assert_eq!((space.free(), space.quarantined()), (root.free, 0));
    space.retire_all(&pager, &[page(70_000, 1)], v(3)).unwrap();
}

proptest! {
    #[test]
    fn any_bytes_are_a_root_or_an_error(bytes in prop::collection::vec(any::<u8>(), 28..36)) {
        if let Ok(root) = MapRoot::decode(&bytes) {
            prop_assert_eq!(&root.encode()[..], &bytes[..]);
            let _ = Space::open(geometry(PageSize::DEFAULT), root);
        }
    }

    #[test]
    fn a_damaged_map_gives_errors_and_never_a_panic(
        changes in prop::collection::vec((0_usize..5, 12_usize..4088, any::<u8>()), 1..4),
        near in any::<bool>(),
        numbers in prop::collection::vec(0..4 * BITS, 1..20),
    ) {
        let (pager, root, pages) = stored();
        for (nth, byte, value) in changes {
            let byte = if near { 12 + byte % 100 } else { byte };
            pager.damage(pages[nth].id, |page| page[byte] = value);
        }
        damage(&pager, root);
        let mut space = Space::open(pager.geometry(), root).unwrap();
        for number in numbers {
            let _ = space.is_free(&pager, PageId::new(number));
            let _ = space.retire(&pager, page(number, 1), v(3));
            let _ = space.allocate(&pager);
        }
        if space.release(&pager, &[v(3)]).is_ok() {
            let _ = space.allocate_run(&pager, 100);
            let _ = space.store(&pager, v(3));
        }
    }
}
