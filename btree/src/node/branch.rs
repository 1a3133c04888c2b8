//! The branch page: separators and children.
//!
// ANCHOR: branch
//! | offset       | size       | field    | meaning                                                   |
//! |-------------:|-----------:|----------|-----------------------------------------------------------|
//! |            0 |         24 | node     | see the table of all nodes; kind 1, level 1 or more       |
//! |           24 |         12 | leftmost | reference to the child that holds keys below all others   |
//! |           36 | prefix_len | prefix   | what all keys of the page begin with                      |
//! |            … |  6 × count | slots    | head of the suffix, u32; offset of the cell, u16          |
//! |            … |          … | gap      | zero                                                      |
//! |  cells_start |          … | cells    | reference to a child (12), suffix_len u16, suffix         |
//! |       usable |          8 |          | the checksum                                              |
//!
//! A cell's child holds the keys from the cell's own key up to the next one's.
// ANCHOR_END: branch

use std::ops::Range;

use bifolio_pager::{Kind, PageRef};

use super::{BranchRef, Damage, Key, Layout, NODE_HEADER_LEN, no_cell};

/// Where the reference to the leftmost child lies.
pub(crate) const LEFTMOST: Range<usize> = NODE_HEADER_LEN..NODE_HEADER_LEN + PageRef::LEN;
pub(crate) const HEADER_LEN: usize = LEFTMOST.end;
pub(crate) const CELL_HEADER_LEN: usize = PageRef::LEN + 2;

const _: () = assert!(HEADER_LEN == 36);

/// The layout of branches.
#[derive(Clone, Copy)]
pub(crate) struct Branch;

#[inline]
fn split_cell(cell: &[u8]) -> Option<(&[u8; CELL_HEADER_LEN], &[u8])> {
    let (header, rest) = cell.split_first_chunk::<CELL_HEADER_LEN>()?;
    let suffix_len = u16::from_le_bytes([header[PageRef::LEN], header[PageRef::LEN + 1]]);
    Some((header, rest.get(..usize::from(suffix_len))?))
}

impl Layout for Branch {
    const KIND: Kind = Kind::Branch;
    const HEADER_LEN: usize = HEADER_LEN;
    const HAS_CHILDREN: bool = true;
    type Payload<'a> = PageRef;

    #[inline]
    fn suffix(cell: &[u8]) -> Option<&[u8]> {
        split_cell(cell).map(|(_, suffix)| suffix)
    }

    #[inline]
    fn payload(cell: &[u8]) -> Option<PageRef> {
        cell.get(..PageRef::LEN).map(PageRef::decode)
    }

    fn cell_len(cell: &[u8]) -> Option<usize> {
        split_cell(cell).map(|(_, suffix)| CELL_HEADER_LEN + suffix.len())
    }

    fn encoded_len(suffix_len: usize, _: &PageRef) -> usize {
        CELL_HEADER_LEN + suffix_len
    }

    fn encode_suffix(cell: &mut [u8], suffix: Key<'_>) {
        let suffix_len = u16::try_from(suffix.len()).expect("a key is shorter than a page");
        cell[PageRef::LEN..CELL_HEADER_LEN].copy_from_slice(&suffix_len.to_le_bytes());
        suffix.copy_to(&mut cell[CELL_HEADER_LEN..]);
    }

    fn encode_payload(cell: &mut [u8], _: usize, child: &PageRef) {
        cell[..PageRef::LEN].copy_from_slice(&child.encode());
    }

    fn from_child(child: PageRef) -> PageRef {
        child
    }

    fn shorten<'s, 'l: 's>(child: PageRef) -> PageRef {
        child
    }

    fn child(payload: &PageRef) -> Option<PageRef> {
        Some(*payload)
    }
}

impl BranchRef<'_> {
    /// Child `index`; there is one more than there are keys, and the one before key `index` has
    /// the same number as it.
    #[inline]
    pub(crate) fn child(&self, index: usize) -> Result<PageRef, Damage> {
        match index.checked_sub(1) {
            Some(cell) => self.payload(cell),
            None => Ok(PageRef::decode(
                self.bytes().get(LEFTMOST).ok_or_else(no_cell)?,
            )),
        }
    }

    /// The number of the child whose keys `key` belongs to.
    #[inline]
    pub(crate) fn child_index(&self, key: &[u8]) -> Result<usize, Damage> {
        let (index, found) = self.search(key)?;
        Ok(index + usize::from(found))
    }
}
