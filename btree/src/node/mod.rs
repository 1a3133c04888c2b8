//! The pages of a tree: leaves and branches, both *slotted*.
//!
//! A *cell* holds one entry; a *slot* says where a cell is. Slots stand in key order and grow up
//! from the front of the page, cells stand in any order and grow down from its end, and what lies
//! between is the *gap*. The *prefix* is what all keys of the page have in common, stored once; a
//! cell holds the rest of its key, the *suffix*. The *head* of a suffix is its first four bytes as
//! a big-endian number (zeros where it is shorter): slots carry it, so that a search compares
//! numbers and looks into a cell only where two heads are equal.
//!
//! The part of the header that leaves and branches share (integers are little-endian):
//!
// ANCHOR: node
//! | offset | size | field       | meaning                                                       |
//! |-------:|-----:|-------------|---------------------------------------------------------------|
//! |      0 |   12 | own         | the page's own reference                                      |
//! |     12 |    1 | kind        | 1 branch, 2 leaf                                              |
//! |     13 |    1 | level       | steps down to the leaves: 0 in a leaf                         |
//! |     14 |    2 | count       | slots, which is cells                                         |
//! |     16 |    2 | prefix_len  | bytes of the prefix                                           |
//! |     18 |    2 | cells_start | first byte of the cell area; `usable` when there are no cells |
//! |     20 |    2 | dead        | bytes of the cell area that belong to no cell; they are zero  |
//! |     22 |    2 | (reserved)  | zero                                                          |
// ANCHOR_END: node
//!
//! The end of the page, `usable`, is where the checksum word begins; it is not ours.
//!
//! Invariants, which [`check`](crate::check()) proves for a file:
//! 1. Header, prefix, slots, gap, cells and dead bytes cover the page without overlap; gap and dead
//!    bytes are zero.
//! 2. The prefix is exactly the common prefix of the page's two *fences*, the separators to its
//!    left and right in the pages above; empty where one is missing. So every key that belongs on
//!    the page has it, whether it is there or not.
//! 3. Keys rise from slot to slot, and lie between the fences: `low <= key < high`.
//!
//! Bytes come from storage, and on a memory map they can turn to zeros under our hands: whatever is
//! read here is bounded before it is used, and what does not fit is a [`Damage`], not a panic.

mod branch;
mod edit;
mod items;
mod key;
mod leaf;

use std::marker::PhantomData;
use std::ops::Range;

use bifolio_pager::page::{HEADER_LEN as FRAME_LEN, KIND, KIND_HEADER};
use bifolio_pager::{Kind, PageRef, PageSize};

pub(crate) use branch::{Branch, LEFTMOST};
pub(crate) use edit::Edit;
pub(crate) use items::{Item, build, fits, halve, size, split_evenly, split_near_middle};
pub(crate) use key::{Key, common_prefix, head_of};
pub(crate) use leaf::{Leaf, Overflow, Value, is_inline};

/// What is wrong with a page, in words.
pub(crate) type Damage = &'static str;

const fn field(after: &Range<usize>, size: usize) -> Range<usize> {
    after.end..after.end + size
}

pub(crate) const LEVEL: Range<usize> = KIND_HEADER.start..KIND_HEADER.start + 1;
pub(crate) const COUNT: Range<usize> = field(&LEVEL, 2);
pub(crate) const PREFIX_LEN: Range<usize> = field(&COUNT, 2);
pub(crate) const CELLS_START: Range<usize> = field(&PREFIX_LEN, 2);
pub(crate) const DEAD: Range<usize> = field(&CELLS_START, 2);
pub(crate) const RESERVED: Range<usize> = field(&DEAD, 2);
/// Bytes of the header that leaves and branches share.
pub(crate) const NODE_HEADER_LEN: usize = RESERVED.end;

const _: () = assert!(COUNT.end == FRAME_LEN);
const _: () = assert!(NODE_HEADER_LEN == 24);
// The end of the cell area, the largest offset there is, fits in a u16.
const _: () = assert!(PageSize::ALL[4].usable() <= u16::MAX as usize);

/// Bytes of a slot: the head of the suffix (4), then the offset of the cell (2).
pub(crate) const SLOT_LEN: usize = 6;

/// The longest key at this page size, in bytes: short enough that four cells fit on any page, so
/// that a page can always be split.
pub const fn max_key_len(page_size: PageSize) -> usize {
    page_size.bytes() / 4 - 64
}

/// The longest leaf cell, without its slot. A value that would make a longer one overflows.
pub(crate) const fn max_leaf_cell(usable: usize) -> usize {
    (usable - leaf::HEADER_LEN) / 4 - SLOT_LEN
}

const _: () = {
    let mut i = 0;
    while i < PageSize::ALL.len() {
        let (usable, key) = (PageSize::ALL[i].usable(), max_key_len(PageSize::ALL[i]));
        assert!(leaf::CELL_HEADER_LEN + key + leaf::OVERFLOW_LEN <= max_leaf_cell(usable));
        assert!((SLOT_LEN + branch::CELL_HEADER_LEN + key) * 4 <= usable - branch::HEADER_LEN);
        i += 1;
    }
};

/// What distinguishes a leaf from a branch: the header's length and what a cell holds.
pub(crate) trait Layout: Copy {
    const KIND: Kind;
    const HEADER_LEN: usize;
    /// Whether there is one more child than there are keys: true of branches.
    const HAS_CHILDREN: bool;
    /// What a cell holds beside its key.
    type Payload<'a>: Copy;

    /// The suffix in the cell that `cell` begins with.
    fn suffix(cell: &[u8]) -> Option<&[u8]>;
    /// The payload in the cell that `cell` begins with.
    fn payload(cell: &[u8]) -> Option<Self::Payload<'_>>;
    /// Bytes of the cell that `cell` begins with.
    fn cell_len(cell: &[u8]) -> Option<usize>;
    /// Bytes of a cell with such a suffix and payload.
    fn encoded_len(suffix_len: usize, payload: &Self::Payload<'_>) -> usize;
    /// Fills the part of a cell of `encoded_len` bytes that says what the suffix is.
    fn encode_suffix(cell: &mut [u8], suffix: Key<'_>);
    /// Fills the other part.
    fn encode_payload(cell: &mut [u8], suffix_len: usize, payload: &Self::Payload<'_>);
    /// The child in a branch's payload.
    fn child(payload: &Self::Payload<'_>) -> Option<PageRef>;
    /// A branch's payload.
    ///
    /// # Panics
    /// If this is not the layout of branches.
    fn from_child(child: PageRef) -> Self::Payload<'static>;
    /// The same payload: says that it may be held for less long, which the compiler cannot see.
    fn shorten<'s, 'l: 's>(payload: Self::Payload<'l>) -> Self::Payload<'s>;

    /// Fills a cell of `encoded_len` bytes.
    fn encode(cell: &mut [u8], suffix: Key<'_>, payload: &Self::Payload<'_>) {
        Self::encode_suffix(cell, suffix);
        Self::encode_payload(cell, suffix.len(), payload);
    }
}

#[inline]
pub(crate) fn get_u16(bytes: &[u8], at: Range<usize>) -> usize {
    usize::from(u16::from_le_bytes([bytes[at.start], bytes[at.start + 1]]))
}

pub(crate) fn put_u16(bytes: &mut [u8], at: Range<usize>, value: usize) {
    let value = u16::try_from(value).expect("offsets and lengths within a page fit in 16 bits");
    bytes[at].copy_from_slice(&value.to_le_bytes());
}

pub(crate) fn no_cell() -> Damage {
    "a cell reaches past the end of the page"
}

/// A leaf or a branch, for reading: its header was found to make sense, its cells are checked as
/// they are met.
#[derive(Clone, Copy)]
pub(crate) struct View<'a, L> {
    bytes: &'a [u8],
    slots: &'a [[u8; SLOT_LEN]],
    prefix_len: usize,
    layout: PhantomData<L>,
}

/// A leaf, for reading.
pub(crate) type LeafRef<'a> = View<'a, Leaf>;
/// A branch, for reading.
pub(crate) type BranchRef<'a> = View<'a, Branch>;

impl<'a, L: Layout> View<'a, L> {
    /// The page as a node of this kind, `level` steps above the leaves. Constant time.
    #[inline]
    pub(crate) fn parse(bytes: &'a [u8], level: u8) -> Result<Self, Damage> {
        let Some(header) = bytes.first_chunk::<NODE_HEADER_LEN>() else {
            return Err("a page is shorter than its header");
        };
        if header[KIND.start] != L::KIND as u8 {
            return Err("a page is not of the kind that its level in the tree asks for");
        }
        if header[LEVEL.start] != level {
            return Err("a page is not of the level at which it was met");
        }
        let prefix_len = get_u16(header, PREFIX_LEN);
        let slots_start = L::HEADER_LEN + prefix_len;
        let slots_end = slots_start + get_u16(header, COUNT) * SLOT_LEN;
        let cells_start = get_u16(header, CELLS_START);
        if slots_end > cells_start || cells_start > bytes.len() {
            return Err("prefix, slots and cells do not fit on the page");
        }
        Ok(View {
            bytes,
            slots: bytes[slots_start..slots_end].as_chunks().0,
            prefix_len,
            layout: PhantomData,
        })
    }

    #[inline]
    pub(crate) fn count(&self) -> usize {
        self.slots.len()
    }

    #[inline]
    pub(crate) fn slots(&self) -> &'a [[u8; SLOT_LEN]] {
        self.slots
    }

    #[inline]
    pub(crate) fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    #[inline]
    pub(crate) fn prefix(&self) -> &'a [u8] {
        &self.bytes[L::HEADER_LEN..L::HEADER_LEN + self.prefix_len]
    }

    /// What of `key` is not in the prefix.
    #[inline]
    pub(crate) fn suffix_of<'k>(&self, key: &'k [u8]) -> Result<&'k [u8], Damage> {
        // Invariant 2 spares comparing the prefix itself: `key` was led here by the fences.
        key.get(self.prefix_len..)
            .ok_or("the prefix is longer than a key between the fences")
    }

    /// The page from the cell of slot `index` to the end.
    #[inline]
    pub(crate) fn cell(&self, index: usize) -> Result<&'a [u8], Damage> {
        let slot = self.slots.get(index).ok_or("there is no such slot")?;
        self.bytes.get(cell_offset(slot)..).ok_or_else(no_cell)
    }

    #[inline]
    pub(crate) fn suffix(&self, index: usize) -> Result<&'a [u8], Damage> {
        L::suffix(self.cell(index)?).ok_or_else(no_cell)
    }

    #[inline]
    pub(crate) fn payload(&self, index: usize) -> Result<L::Payload<'a>, Damage> {
        L::payload(self.cell(index)?).ok_or_else(no_cell)
    }

    /// The whole key of slot `index`.
    pub(crate) fn key(&self, index: usize) -> Result<Key<'a>, Damage> {
        Ok(Key::new(self.prefix(), self.suffix(index)?))
    }

    /// Every entry of the page, in key order.
    pub(crate) fn items(&self) -> Result<Vec<Item<'a, L>>, Damage> {
        (0..self.count())
            .map(|index| {
                Ok(Item {
                    key: self.key(index)?,
                    payload: self.payload(index)?,
                })
            })
            .collect()
    }

    /// Bytes that prefix, slots and cells take.
    pub(crate) fn used(&self) -> usize {
        let cells = self.bytes.len() - get_u16(self.bytes, CELLS_START);
        let live = cells.saturating_sub(get_u16(self.bytes, DEAD));
        self.prefix_len + self.slots.len() * SLOT_LEN + live
    }

    /// Whether the page is so empty that it should be joined with a neighbour: under a quarter.
    pub(crate) fn is_underfull(&self) -> bool {
        self.used() * 4 < self.bytes.len() - L::HEADER_LEN
    }
}

#[inline]
pub(crate) fn cell_offset(slot: &[u8; SLOT_LEN]) -> usize {
    usize::from(u16::from_le_bytes([slot[4], slot[5]]))
}

#[inline]
pub(crate) fn slot_head(slot: &[u8; SLOT_LEN]) -> u32 {
    u32::from_le_bytes([slot[0], slot[1], slot[2], slot[3]])
}
