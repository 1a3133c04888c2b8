//! Finding a key on a page: the hottest loop there is.
//!
//! Slots carry heads, so most of the search compares numbers in one small array. Only where the
//! key's own head is met do cells come in.

use std::cmp::Ordering;
use std::ops::Range;

use crate::node::{Damage, Layout, SLOT_LEN, View, head_of, slot_head};

impl<L: Layout> View<'_, L> {
    /// The first slot whose key is not less than `key`, and whether it is `key`.
    #[inline]
    pub(crate) fn search(&self, key: &[u8]) -> Result<(usize, bool), Damage> {
        let suffix = self.suffix_of(key)?;
        let head = head_of(suffix);
        let slots = self.slots();
        let first = first_not_below(slots, head);
        match slots.get(first) {
            Some(slot) if slot_head(slot) == head => self.search_equal_heads(first, head, suffix),
            _ => Ok((first, false)),
        }
    }

    /// The rest of a search, where slot `first` is the first that has the key's head.
    #[inline]
    fn search_equal_heads(
        &self,
        first: usize,
        head: u32,
        suffix: &[u8],
    ) -> Result<(usize, bool), Damage> {
        // Heads are mostly unique, so the first one decides.
        match cmp_equal_heads(self.suffix(first)?, suffix) {
            Ordering::Less => {}
            order => return Ok((first, order.is_eq())),
        }
        let (mut low, mut high) = (first + 1, self.slots().len());
        while low < high {
            let middle = low + (high - low) / 2;
            let below = slot_head(&self.slots()[middle]) == head && self.suffix(middle)? < suffix;
            if below {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        let found = low < self.slots().len()
            && slot_head(&self.slots()[low]) == head
            && self.suffix(low)? == suffix;
        Ok((low, found))
    }
}

/// Bytes in a line of the processor's cache.
const LINE: usize = 64;
/// Parts that many slots are divided into at once: each of those of a full branch then takes two lines.
const WAYS: usize = 8;
/// Slots that are many: they take six lines.
const MANY: usize = 64;

// Every slot between two parts exists: `(WAYS - 1) * part <= len`, where `part < len / WAYS + 1`.
const _: () = assert!(MANY >= WAYS * (WAYS - 1));

/// Loads a byte of each of these lines from where `bytes` begins, as far as they reach. Loads that do
/// not wait for each other wait for memory together, so what will be read in pieces is there sooner.
#[inline]
pub(crate) fn touch_lines(bytes: &[u8], lines: Range<usize>) {
    for line in lines {
        std::hint::black_box(bytes.get(line * LINE).copied());
    }
}

/// Compares suffixes of one head. Where both are of one length up to eight, what the head leaves is
/// in the last four bytes, which are one number: a call of `memcmp` costs more than the comparison.
#[inline]
fn cmp_equal_heads(a: &[u8], b: &[u8]) -> Ordering {
    if a.len() == b.len()
        && a.len() <= 8
        && let (Some(a), Some(b)) = (a.last_chunk(), b.last_chunk())
    {
        return u32::from_be_bytes(*a).cmp(&u32::from_be_bytes(*b));
    }
    a.cmp(b)
}

/// The first slot whose head is not less than `head`. No branch depends on what is compared, so
/// none is mispredicted.
///
/// Each halving waits for the slot that the one before has chosen: among many slots, for another
/// line each time. So many are first divided by as many as [`WAYS`], at slots that are loaded at once.
#[inline]
fn first_not_below(slots: &[[u8; SLOT_LEN]], head: u32) -> usize {
    let mut first = 0;
    let mut len = slots.len();
    if len >= MANY {
        let part = len.div_ceil(WAYS);
        let is_below = |way| slot_head(&slots[way * part - 1]) < head;
        let parts_below = (1..WAYS).filter(|&way| is_below(way)).count();
        first = part * parts_below;
        len = part.min(len - first);
    }
    // The answer is in `first ..= first + len`.
    while len > 0 {
        let half = len.div_ceil(2);
        let below = slot_head(&slots[first + half - 1]) < head;
        first = std::hint::select_unpredictable(below, first + half, first);
        len -= half;
    }
    first
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suffixes_of_one_head_compare_as_strings_do() {
        let mut suffixes = vec![vec![], vec![0; 4], vec![0; 12], vec![0; 3]];
        for len in 4..10 {
            for (at, byte) in [(4, 1), (len - 1, 1), (len - 1, 255)] {
                let mut suffix = vec![0; len];
                if let Some(last) = suffix.get_mut(at.max(4)) {
                    *last = byte;
                }
                suffixes.push(suffix);
            }
        }
        for a in &suffixes {
            for b in &suffixes {
                assert_eq!(head_of(a), head_of(b));
                assert_eq!(cmp_equal_heads(a, b), a.cmp(b), "{a:?} {b:?}");
            }
        }
    }

    #[test]
    fn the_first_slot_not_below_is_found_in_lists_of_every_length() {
        for len in (0..70u32).chain(120..140).chain([1000]) {
            let slots: Vec<[u8; SLOT_LEN]> = (0..len)
                .map(|index| {
                    let head = (index / 2 * 2 + 1).to_le_bytes();
                    [head[0], head[1], head[2], head[3], 0, 0]
                })
                .collect();
            for head in 0..len + 3 {
                let expected = slots.partition_point(|slot| slot_head(slot) < head);
                assert_eq!(first_not_below(&slots, head), expected, "{head} of {len}");
            }
        }
    }
}
