use std::ops::Bound::{Excluded, Included, Unbounded};

use bifolio_pager::MemPager;

use super::{even_numbers, small_pages};
use crate::testkit::TestSource;
use crate::{Cursor, Root, Tree, bulk_load};

const COUNT: u64 = 300;

/// A tree of a few dozen leaves, with keys `0, 2, 4, ...`.
fn tree(pager: &MemPager) -> Tree<'_, MemPager> {
    let mut source = TestSource::new(pager);
    let root = bulk_load(pager, &mut source, even_numbers(COUNT, 400), 1.0).unwrap();
    assert!(root.depth == 2, "{root:?}");
    Tree::new(pager, root)
}

fn number(key: &[u8]) -> u64 {
    u64::from_be_bytes(key.try_into().unwrap())
}

fn next(cursor: &mut Cursor<'_, MemPager>) -> Option<u64> {
    cursor.next().unwrap().map(|(key, _)| number(key))
}

fn prev(cursor: &mut Cursor<'_, MemPager>) -> Option<u64> {
    cursor.prev().unwrap().map(|(key, _)| number(key))
}

#[test]
fn a_cursor_walks_both_ways_from_any_bound() {
    let pager = small_pages();
    let mut cursor = tree(&pager).cursor();
    let existing = |number: Option<u64>| number.filter(|&number| number < 2 * COUNT);
    for wish in 0..2 * COUNT + 2 {
        let key = wish.to_be_bytes();
        let at_or_after = existing(Some(wish.next_multiple_of(2)));
        let after = existing(Some((wish + 1).next_multiple_of(2)));
        let before = wish.checked_sub(1).map(|n| (n / 2 * 2).min(2 * COUNT - 2));
        let at_or_before = Some((wish / 2 * 2).min(2 * COUNT - 2));

        cursor.seek(Included(&key)).unwrap();
        assert_eq!(next(&mut cursor), at_or_after);
        cursor.seek(Included(&key)).unwrap();
        assert_eq!(prev(&mut cursor), before);
        cursor.seek(Excluded(&key)).unwrap();
        assert_eq!(next(&mut cursor), after);
        cursor.seek_back(Included(&key)).unwrap();
        assert_eq!(prev(&mut cursor), at_or_before);
        cursor.seek_back(Excluded(&key)).unwrap();
        assert_eq!(prev(&mut cursor), before);
    }
}

#[test]
fn a_step_back_returns_what_the_step_forward_returned() {
    let pager = small_pages();
    let mut cursor = tree(&pager).cursor();
    for _ in 0..COUNT {
        let stepped = next(&mut cursor);
        assert!(stepped.is_some());
        assert_eq!(prev(&mut cursor), stepped);
        assert_eq!(next(&mut cursor), stepped);
    }
    assert_eq!(next(&mut cursor), None);
    assert_eq!(next(&mut cursor), None, "the end stays the end");
    assert_eq!(prev(&mut cursor), Some(2 * COUNT - 2));
}

#[test]
fn a_new_cursor_stands_at_the_beginning() {
    let pager = small_pages();
    let tree = tree(&pager);
    assert_eq!(prev(&mut tree.cursor()), None);
    assert_eq!(next(&mut tree.cursor()), Some(0));
}

#[test]
fn an_empty_tree_has_no_entries_from_anywhere() {
    let pager = small_pages();
    let tree = Tree::new(&pager, Root::default());
    let mut cursor = tree.cursor();
    assert_eq!(next(&mut cursor), None);
    cursor.seek_last().unwrap();
    assert_eq!(prev(&mut cursor), None);
    cursor.seek(Included(b"key")).unwrap();
    assert_eq!(next(&mut cursor), None);
    assert_eq!(tree.first().unwrap(), None);
    assert_eq!(tree.last().unwrap(), None);
    assert!(tree.iter().next().is_none());
    assert_eq!(tree.get(b"key").unwrap(), None);
    let mut calls = 0;
    tree.get_many(&[b"a", b"b"], |_, value| {
        assert_eq!(value, None);
        calls += 1;
    })
    .unwrap();
    assert_eq!(calls, 2);
}

#[test]
fn a_range_whose_bounds_cross_is_empty() {
    let pager = small_pages();
    let tree = tree(&pager);
    let (low, high) = (10u64.to_be_bytes(), 20u64.to_be_bytes());
    for bounds in [
        (Included(&high[..]), Included(&low[..])),
        (Excluded(&low[..]), Excluded(&low[..])),
        (Excluded(&low[..]), Included(&low[..])),
        (Included(&low[..]), Excluded(&low[..])),
    ] {
        assert!(tree.range(bounds).next().is_none());
        assert!(tree.range(bounds).next_back().is_none());
    }
    assert_eq!(
        tree.range((Included(&low[..]), Unbounded)).count() as u64,
        COUNT - 5
    );
}

#[test]
fn two_ends_of_a_range_meet_without_an_entry_lost_or_seen_twice() {
    let pager = small_pages();
    let tree = tree(&pager);
    for turns in 1..5 {
        let mut range = tree.iter();
        let mut seen = Vec::new();
        for turn in 0.. {
            let entry = if turn % turns == 0 {
                range.next_back()
            } else {
                range.next()
            };
            match entry {
                Some(entry) => seen.push(number(&entry.unwrap().0)),
                None => break,
            }
        }
        assert!(
            range.next().is_none() && range.next_back().is_none(),
            "over is over"
        );
        seen.sort_unstable();
        assert!(seen.into_iter().eq((0..COUNT).map(|n| 2 * n)));
    }
}
