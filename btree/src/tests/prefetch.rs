//! What is asked for before it is needed.

use std::collections::BTreeSet;

use bifolio_pager::{Kind, PageId};

use super::rigged::{Access, Rigged};
use super::{even_numbers, small_pages};
use crate::testkit::TestSource;
use crate::{Root, Tree, bulk_load, check};

/// A tree of several hundred leaves under a few branches; and its leaves in key order.
fn wide_tree(pager: &Rigged) -> (Root, Vec<PageId>) {
    let mut source = TestSource::new(pager);
    let root = bulk_load(pager, &mut source, even_numbers(3000, 700), 1.0).unwrap();
    assert!(root.depth == 3, "{root:?}");
    let mut leaves = Vec::new();
    check(pager, root, &mut |page, kind| {
        if kind == Kind::Leaf {
            leaves.push(page.id);
        }
    });
    pager.log.lock().unwrap().clear();
    (root, leaves)
}

fn log(pager: &Rigged) -> Vec<Access> {
    std::mem::take(&mut pager.log.lock().unwrap())
}

#[test]
fn a_scan_asks_for_leaves_before_it_reads_them() {
    let pager = Rigged::new(small_pages(), 4);
    let (root, leaves) = wide_tree(&pager);
    let tree = Tree::new(&pager, root);
    for forward in [true, false] {
        let mut range = tree.iter();
        while if forward {
            range.next_ref()
        } else {
            range.next_back_ref()
        }
        .unwrap()
        .is_some()
        {}
        let mut asked = BTreeSet::new();
        let mut unasked = 0;
        for access in log(&pager) {
            match access {
                Access::Prefetch(pages) => {
                    let twice = pages.into_iter().filter(|&page| !asked.insert(page));
                    assert_eq!(twice.count(), 0, "no page is asked for twice");
                }
                Access::Read(page) => {
                    unasked += usize::from(leaves.contains(&page) && !asked.contains(&page));
                }
            }
        }
        // The first, and the one that shows that the scan goes on: none at the end of a branch.
        assert!(unasked <= 2, "{unasked} of {}", leaves.len());
    }
}

#[test]
fn a_scan_that_stays_in_its_leaf_asks_for_nothing() {
    let pager = Rigged::new(small_pages(), 4);
    let (root, leaves) = wide_tree(&pager);
    let mut range = Tree::new(&pager, root).iter();
    for _ in 0..3 {
        range.next_ref().unwrap().unwrap();
    }
    let prefetches = |log: Vec<Access>| {
        log.into_iter()
            .filter(|access| matches!(access, Access::Prefetch(_)))
            .collect::<Vec<_>>()
    };
    assert_eq!(prefetches(log(&pager)), []);
    for _ in 0..5 {
        range.next_ref().unwrap().unwrap();
    }
    let few = leaves[2..3].to_vec();
    assert_eq!(prefetches(log(&pager)), [Access::Prefetch(few)]);
}

#[test]
fn many_look_ups_ask_for_each_level_at_once() {
    let pager = Rigged::new(small_pages(), 4);
    let (root, leaves) = wide_tree(&pager);
    let keys: Vec<[u8; 8]> = (0..64u64).map(|n| (2 * 45 * n).to_be_bytes()).collect();
    let mut found = 0;
    Tree::new(&pager, root)
        .get_many(&keys, |_, value| found += usize::from(value.is_some()))
        .unwrap();
    assert_eq!(found, keys.len());
    let log = log(&pager);
    let first_leaf = (log.iter())
        .position(|access| matches!(access, Access::Read(page) if leaves.contains(page)))
        .unwrap();
    let Access::Prefetch(asked) = &log[first_leaf - 1] else {
        panic!("leaves are read before they are asked for");
    };
    let asked: BTreeSet<PageId> = asked.iter().copied().collect();
    assert!(asked.len() > 60, "{} leaves at once", asked.len());
    for access in &log[first_leaf..] {
        assert!(matches!(access, Access::Read(page) if asked.contains(page)));
    }
}

#[test]
fn a_scan_of_expected_length_asks_for_its_leaves_at_once_and_for_few_beyond() {
    let pager = Rigged::new(small_pages(), 4);
    let (root, leaves) = wide_tree(&pager);
    let per_leaf = 3000 / leaves.len() as u64;
    for expected in [4 * per_leaf, 20 * per_leaf] {
        for forward in [true, false] {
            let key = (3000_u64).to_be_bytes(); // in the middle: keys are even numbers
            let tree = Tree::new(&pager, root);
            let mut range = if forward {
                tree.range(&key[..]..)
            } else {
                tree.range(..&key[..])
            };
            range.expect(expected);
            for _ in 0..expected {
                let next = if forward {
                    range.next_ref()
                } else {
                    range.next_back_ref()
                };
                next.unwrap().unwrap();
            }
            let log = log(&pager);
            let read: BTreeSet<_> = log
                .iter()
                .filter_map(|access| match access {
                    Access::Read(page) if leaves.contains(page) => Some(*page),
                    _ => None,
                })
                .collect();
            let asked: Vec<_> = log
                .iter()
                .filter_map(|access| match access {
                    Access::Prefetch(pages) => Some(pages.clone()),
                    Access::Read(_) => None,
                })
                .collect();
            let all: BTreeSet<_> = asked.iter().flatten().copied().collect();
            assert!(
                read.is_subset(&all),
                "every leaf was asked for: {read:?} {asked:?}"
            );
            // Branches are not all alike, so the estimate of a leaf's entries is rough at first.
            let few = read.len() * 4 / 3 + 2;
            assert!(all.len() <= few, "{} for {}", all.len(), read.len());
            // More than once only where the scan goes from one branch to the next.
            assert!(asked.len() <= 3, "{asked:?}");
        }
    }
}
