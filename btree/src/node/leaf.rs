//! The leaf page: keys and values.
//!
// ANCHOR: leaf
//! | offset       | size       | field  | meaning                                                     |
//! |-------------:|-----------:|--------|-------------------------------------------------------------|
//! |            0 |         24 | node   | see the table of all nodes; kind 2, level 0                 |
//! |           24 | prefix_len | prefix | what all keys of the page begin with                        |
//! |            … |  6 × count | slots  | head of the suffix, u32; offset of the cell, u16            |
//! |            … |          … | gap    | zero                                                        |
//! |  cells_start |          … | cells  | suffix_len u16, value_len u16, suffix, value                |
//! |       usable |          8 |        | the checksum                                                |
//!
//! Where `value_len` is 65,535, the value overflows, and instead of it stand its length (u32) and
//! the reference to its first overflow page (12 bytes). A value overflows exactly when the cell
//! with its whole key and its value would be longer than `(usable − 24) / 4 − 6` bytes.
// ANCHOR_END: leaf

use std::ops::Range;

use bifolio_pager::{Kind, PageRef};

use super::{Damage, Edit, Key, Layout, LeafRef, NODE_HEADER_LEN, max_leaf_cell};
use crate::search::touch_lines;

pub(crate) const HEADER_LEN: usize = NODE_HEADER_LEN;
pub(crate) const CELL_HEADER_LEN: usize = 4;
/// Bytes that stand for a value that overflows.
pub(crate) const OVERFLOW_LEN: usize = 4 + PageRef::LEN;
/// The length of a value that overflows; no value within a page is as long.
const OVERFLOWS: u16 = u16::MAX;

/// The layout of leaves.
#[derive(Clone, Copy)]
pub(crate) struct Leaf;

/// A value as a leaf holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    Inline(&'a [u8]),
    Overflow(Overflow),
}

/// Where a value is that does not fit in a leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Overflow {
    /// Bytes of the value.
    pub(crate) len: u32,
    /// The first page of its chain.
    pub(crate) first: PageRef,
}

/// Whether a value stands in its leaf, beside its key.
pub(crate) fn is_inline(key_len: usize, value_len: usize, usable: usize) -> bool {
    // Not the suffix but the whole key counts, so that it stays true when the prefix changes.
    CELL_HEADER_LEN + key_len + value_len <= max_leaf_cell(usable)
}

#[inline]
fn split_cell(cell: &[u8]) -> Option<(usize, u16, &[u8])> {
    let (header, rest) = cell.split_first_chunk::<CELL_HEADER_LEN>()?;
    let suffix_len = u16::from_le_bytes([header[0], header[1]]);
    Some((
        usize::from(suffix_len),
        u16::from_le_bytes([header[2], header[3]]),
        rest,
    ))
}

fn stored_len(value_len: u16) -> usize {
    match value_len {
        OVERFLOWS => OVERFLOW_LEN,
        len => usize::from(len),
    }
}

impl Layout for Leaf {
    const KIND: Kind = Kind::Leaf;
    const HEADER_LEN: usize = HEADER_LEN;
    const HAS_CHILDREN: bool = false;
    type Payload<'a> = Value<'a>;

    #[inline]
    fn suffix(cell: &[u8]) -> Option<&[u8]> {
        let (suffix_len, _, rest) = split_cell(cell)?;
        rest.get(..suffix_len)
    }

    #[inline]
    fn payload(cell: &[u8]) -> Option<Value<'_>> {
        let (suffix_len, value_len, rest) = split_cell(cell)?;
        let value = rest.get(suffix_len..)?;
        if value_len != OVERFLOWS {
            return Some(Value::Inline(value.get(..usize::from(value_len))?));
        }
        let (len, first) = value.get(..OVERFLOW_LEN)?.split_first_chunk()?;
        Some(Value::Overflow(Overflow {
            len: u32::from_le_bytes(*len),
            first: PageRef::decode(first),
        }))
    }

    fn cell_len(cell: &[u8]) -> Option<usize> {
        let (suffix_len, value_len, rest) = split_cell(cell)?;
        let len = suffix_len + stored_len(value_len);
        (len <= rest.len()).then_some(CELL_HEADER_LEN + len)
    }

    fn encoded_len(suffix_len: usize, payload: &Value<'_>) -> usize {
        CELL_HEADER_LEN
            + suffix_len
            + match payload {
                Value::Inline(value) => value.len(),
                Value::Overflow(_) => OVERFLOW_LEN,
            }
    }

    fn encode_suffix(cell: &mut [u8], suffix: Key<'_>) {
        let suffix_len = u16::try_from(suffix.len()).expect("a key is shorter than a page");
        cell[..2].copy_from_slice(&suffix_len.to_le_bytes());
        suffix.copy_to(&mut cell[CELL_HEADER_LEN..]);
    }

    fn encode_payload(cell: &mut [u8], suffix_len: usize, payload: &Value<'_>) {
        let (header, rest) = cell.split_at_mut(CELL_HEADER_LEN);
        let to = &mut rest[suffix_len..];
        let value_len = match payload {
            Value::Inline(value) => {
                to.copy_from_slice(value);
                u16::try_from(value.len()).expect("a value in a leaf is shorter than a page")
            }
            Value::Overflow(overflow) => {
                to[..4].copy_from_slice(&overflow.len.to_le_bytes());
                to[4..].copy_from_slice(&overflow.first.encode());
                OVERFLOWS
            }
        };
        header[2..].copy_from_slice(&value_len.to_le_bytes());
    }

    fn child(_: &Value<'_>) -> Option<PageRef> {
        None
    }

    fn from_child(_: PageRef) -> Value<'static> {
        unreachable!("leaves have no children")
    }

    fn shorten<'s, 'l: 's>(value: Value<'l>) -> Value<'s> {
        value
    }
}

/// Lines after its first in which a cell of about 128 bytes lies.
const CELL_LINES: Range<usize> = 1..3;

impl<'a> LeafRef<'a> {
    /// The value of `key`, if it is on this page.
    #[inline]
    pub(crate) fn find(&self, key: &[u8]) -> Result<Option<Value<'a>>, Damage> {
        match self.search(key)? {
            (index, true) => {
                // Where the value begins is known from the cell only.
                touch_lines(self.cell(index)?, CELL_LINES);
                self.payload(index).map(Some)
            }
            (_, false) => Ok(None),
        }
    }
}

impl Edit<'_, Leaf> {
    /// Where the value of slot `index` is if it overflows.
    pub(crate) fn overflow(&self, index: usize) -> Result<Option<Overflow>, Damage> {
        match self.payload(index)? {
            Value::Inline(_) => Ok(None),
            Value::Overflow(overflow) => Ok(Some(overflow)),
        }
    }
}
