use std::collections::BTreeMap;
use std::ops::Bound;

use bifolio_pager::PageSize;
use proptest::prelude::*;

use super::rigged::Rigged;
use super::{pager, small_pages};
use crate::testkit::{TestSource, model};
use crate::{Root, Tree, TreeMut};

#[test]
fn the_tree_does_what_a_map_does_whatever_its_keys_look_like() {
    for seed in 0..6 {
        model::run(&small_pages(), seed, 8000);
    }
}

#[test]
fn the_tree_does_what_a_map_does_at_every_page_size() {
    for (seed, page_size) in (0..).zip(PageSize::ALL) {
        model::run(&pager(page_size), seed, 2000);
    }
}

#[test]
fn no_operation_holds_more_than_four_guards() {
    model::run(&Rigged::new(small_pages(), 4), 6, 3000);
}

/// `SEEDS=from..to cargo test --release -p bifolio-btree -- --ignored many_seeds`
#[test]
#[ignore = "takes as long as one likes"]
fn the_tree_does_what_a_map_does_for_many_seeds() {
    let seeds = std::env::var("SEEDS").unwrap_or("0..300".into());
    let (from, to) = seeds.split_once("..").expect("SEEDS is from..to");
    let (from, to): (u64, u64) = (from.parse().unwrap(), to.parse().unwrap());
    for seed in from..to {
        let page_size = PageSize::ALL[usize::from(seed % 7 == 0)];
        model::run(&pager(page_size), seed, 20_000);
    }
}

#[derive(Clone, Debug)]
enum Op {
    Insert(Vec<u8>, usize),
    Remove(Vec<u8>),
    Range(Bound<Vec<u8>>, bool),
    Commit,
}

/// Few different keys, so that operations meet; some with room for four on a page.
fn key() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![Just(0u8), Just(1), Just(255)];
    let front = prop_oneof![4 => Just(0usize), 1 => Just(3), 2 => Just(950)];
    (front, prop::collection::vec(byte, 0..5)).prop_map(|(front, ends)| {
        let mut key = vec![9; front];
        key.extend(ends);
        key
    })
}

fn op() -> impl Strategy<Value = Op> {
    let len = prop_oneof![3 => 0usize..20, 3 => 100usize..900, 1 => 900usize..15_000];
    let bound = prop_oneof![
        Just(Bound::Unbounded),
        key().prop_map(Bound::Included),
        key().prop_map(Bound::Excluded)
    ];
    prop_oneof![
        10 => (key(), len).prop_map(|(key, len)| Op::Insert(key, len)),
        7 => key().prop_map(Op::Remove),
        1 => (bound, any::<bool>()).prop_map(|(bound, forward)| Op::Range(bound, forward)),
        1 => Just(Op::Commit),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn any_operations_give_what_a_map_gives(ops in prop::collection::vec(op(), 1..150)) {
        let pager = small_pages();
        let mut source = TestSource::new(&pager);
        let mut root = Root::default();
        let mut map = BTreeMap::new();
        for op in ops {
            let mut tree = TreeMut::new(&pager, &mut source, &mut root);
            match op {
                Op::Insert(key, len) => {
                    let value = vec![len as u8; len];
                    let replaced = tree.insert(&key, &value).unwrap();
                    prop_assert_eq!(replaced, map.insert(key, value).is_some());
                }
                Op::Remove(key) => {
                    prop_assert_eq!(tree.remove(&key).unwrap(), map.remove(&key).is_some());
                }
                Op::Range(bound, true) => {
                    let expected = map.range((bound.clone(), Bound::Unbounded));
                    let slices = (bound.as_ref().map(Vec::as_slice), Bound::Unbounded);
                    let found = tree.as_tree().range(slices).map(Result::unwrap);
                    prop_assert!(found.eq(expected.map(|(k, v)| (k.clone(), v.clone()))));
                }
                Op::Range(bound, false) => {
                    let expected = map.range((Bound::Unbounded, bound.clone())).rev();
                    let slices = (Bound::Unbounded, bound.as_ref().map(Vec::as_slice));
                    let found = tree.as_tree().range(slices).rev().map(Result::unwrap);
                    prop_assert!(found.eq(expected.map(|(k, v)| (k.clone(), v.clone()))));
                }
                Op::Commit => {
                    source.commit().unwrap();
                    source.release().unwrap();
                }
            }
        }
        prop_assert_eq!(model::assert_sound(&pager, root), source.live());
        model::assert_same(Tree::new(&pager, root), &map);
    }
}
