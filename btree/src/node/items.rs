//! The entries of a node as a list: measuring, dividing and writing out anew.
//!
//! Splits, merges and bulk loads all make pages from a list of entries, because their fences, and
//! so the prefix, are new.

use std::ops::Range;

use bifolio_pager::PageRef;
use bifolio_pager::page::{HEADER_LEN as FRAME_LEN, KIND, SELF_REF};

use super::{
    CELLS_START, COUNT, Damage, Key, LEFTMOST, LEVEL, Layout, PREFIX_LEN, SLOT_LEN, put_u16,
};

/// An entry of a node.
#[derive(Clone, Copy)]
pub(crate) struct Item<'a, L: Layout> {
    pub(crate) key: Key<'a>,
    pub(crate) payload: L::Payload<'a>,
}

impl<'a, L: Layout> Item<'a, L> {
    /// The same entry, in a list of others that live less long.
    pub(crate) fn shorten<'s>(self) -> Item<'s, L>
    where
        'a: 's,
    {
        Item {
            key: self.key,
            payload: L::shorten(self.payload),
        }
    }

    /// Bytes of the entry with its slot, on a page without a prefix.
    pub(crate) fn weight(&self) -> usize {
        SLOT_LEN + L::encoded_len(self.key.len(), &self.payload)
    }
}

/// Bytes that a page needs for entries of this total weight under a prefix of this length.
pub(crate) fn size<L: Layout>(count: usize, weight: usize, prefix_len: usize) -> usize {
    L::HEADER_LEN + prefix_len + weight.saturating_sub(count * prefix_len)
}

/// Whether a page of `usable` bytes has room for these entries under a prefix of this length.
pub(crate) fn fits<L: Layout>(items: &[Item<'_, L>], prefix_len: usize, usable: usize) -> bool {
    let weight = items.iter().map(Item::weight).sum();
    size::<L>(items.len(), weight, prefix_len) <= usable
}

/// Writes a page that holds these entries: all of it but its own reference, which is left alone.
/// `leftmost` is a branch's first child. The entries can come from a damaged page, and then it is
/// here that they are found not to fit, or not to have the prefix.
pub(crate) fn build<L: Layout>(
    page: &mut [u8],
    level: u8,
    leftmost: Option<PageRef>,
    prefix: &[u8],
    items: &[Item<'_, L>],
) -> Result<(), Damage> {
    let usable = page.len();
    if !items.iter().all(|item| item.key.starts_with(prefix)) {
        return Err("a key does not lie between the fences of its page");
    }
    let weight: usize = items.iter().map(Item::weight).sum();
    let size = size::<L>(items.len(), weight, prefix.len());
    if size > usable {
        return Err("the entries are longer than a page has room for");
    }
    page[SELF_REF.end..].fill(0);
    page[KIND.start] = L::KIND as u8;
    page[LEVEL.start] = level;
    const { assert!(LEVEL.start < FRAME_LEN) };
    put_u16(page, COUNT, items.len());
    put_u16(page, PREFIX_LEN, prefix.len());
    if let Some(leftmost) = leftmost {
        page[LEFTMOST].copy_from_slice(&leftmost.encode());
    }
    let slots_start = L::HEADER_LEN + prefix.len();
    page[L::HEADER_LEN..slots_start].copy_from_slice(prefix);
    let slots_end = slots_start + items.len() * SLOT_LEN;
    // Cells in key order, so that a scan forward goes forward in memory too.
    let mut cell = usable - (size - slots_end);
    put_u16(page, CELLS_START, cell);
    for (index, item) in items.iter().enumerate() {
        let suffix = item.key.skip(prefix.len());
        let len = L::encoded_len(suffix.len(), &item.payload);
        L::encode(&mut page[cell..cell + len], suffix, &item.payload);
        let slot = slots_start + index * SLOT_LEN;
        page[slot..slot + 4].copy_from_slice(&suffix.head().to_le_bytes());
        put_u16(page, slot + 4..slot + 6, cell);
        cell += len;
    }
    debug_assert_eq!(cell, usable);
    Ok(())
}

/// A list of entries as two pages with a separator between them.
pub(crate) struct Split<'i, 'a, L: Layout> {
    pub(crate) left: &'i [Item<'a, L>],
    /// Not less than any key of the right, greater than any of the left.
    pub(crate) separator: Vec<u8>,
    /// The first child of the right page, if it is a branch.
    pub(crate) right_leftmost: Option<PageRef>,
    pub(crate) right: &'i [Item<'a, L>],
}

/// Divides a list before entry `at`. In a branch that entry's key becomes the separator; between
/// leaves it is the shortest string that separates.
pub(crate) fn halve<'i, 'a, L: Layout>(items: &'i [Item<'a, L>], at: usize) -> Split<'i, 'a, L> {
    let (left, right) = items.split_at(at);
    match L::child(&right[0].payload) {
        None => Split {
            left,
            separator: left[at - 1].key.separator(&right[0].key),
            right_leftmost: None,
            right,
        },
        Some(child) => Split {
            left,
            separator: right[0].key.to_vec(),
            right_leftmost: Some(child),
            right: &right[1..],
        },
    }
}

/// The entries before which a list may be divided, so that no page ends up without keys.
fn split_points<L: Layout>(items: &[Item<'_, L>]) -> Range<usize> {
    let lifted = usize::from(L::HAS_CHILDREN);
    1..items.len().saturating_sub(lifted)
}

/// Where to divide an overfull list: near the middle by bytes. Both halves fit on a page, because
/// the list is too long by one entry at most and no entry takes more than a quarter.
pub(crate) fn split_near_middle<L: Layout>(
    items: &[Item<'_, L>],
    prefix_len: usize,
) -> Result<usize, Damage> {
    let weight = |item: &Item<'_, L>| item.weight().saturating_sub(prefix_len);
    let total: usize = items.iter().map(weight).sum();
    let points = split_points(items);
    if points.is_empty() {
        return Err("an entry is longer than a page has room for");
    }
    let mut left = 0;
    for (index, item) in items.iter().enumerate() {
        let weight = weight(item);
        // Past the middle: this entry goes to the side where it leaves the lighter heavier half.
        if left + weight / 2 >= total / 2 {
            return Ok(index.clamp(points.start, points.end - 1));
        }
        left += weight;
    }
    Ok(points.end - 1)
}

/// Where to divide the entries of two neighbours so that they share the bytes as evenly as can be,
/// given the fences around both. `None` if no division fits.
pub(crate) fn split_evenly<L: Layout>(
    items: &[Item<'_, L>],
    (low, high): (Option<&[u8]>, Option<&[u8]>),
    usable: usize,
) -> Option<usize> {
    let total: usize = items.iter().map(Item::weight).sum();
    let shared = |fence: Option<&[u8]>, separator: &[u8]| {
        fence.map_or(0, |fence| super::common_prefix(fence, separator))
    };
    let mut best = None;
    let mut left_weight = items[0].weight();
    for at in split_points(items) {
        let split = halve(items, at);
        let lifted = items.len() - split.left.len() - split.right.len();
        let right_weight = total - left_weight - lifted * items[at].weight();
        let left = size::<L>(at, left_weight, shared(low, &split.separator));
        let right_prefix = shared(high, &split.separator);
        let right = size::<L>(split.right.len(), right_weight, right_prefix);
        let larger = left.max(right);
        if larger <= usable && best.is_none_or(|(least, _)| larger < least) {
            best = Some((larger, at));
        }
        left_weight += items[at].weight();
    }
    best.map(|(_, at)| at)
}
