//! Where a tree begins.
//!
// ANCHOR: root
//! | offset | size | field      | meaning                                             |
//! |-------:|-----:|------------|-----------------------------------------------------|
//! |      0 |   12 | page       | reference to the root page; zeros: the tree is empty |
//! |     12 |    8 | entries    | entries in the tree                                 |
//! |     20 |    1 | depth      | pages on the way to any entry; 0: empty             |
//! |     21 |    3 | (reserved) | zero                                                |
// ANCHOR_END: root

use std::ops::Range;

use bifolio_pager::{PageRef, Version};

const PAGE: Range<usize> = 0..PageRef::LEN;
const ENTRIES: Range<usize> = PAGE.end..PAGE.end + 8;
const DEPTH: usize = ENTRIES.end;
const RESERVED: Range<usize> = DEPTH + 1..DEPTH + 4;

const _: () = assert!(RESERVED.end == Root::LEN);

/// The deepest tree there can be. With two children to a page, the least, that is more pages than
/// a file can have bytes.
pub(crate) const MAX_DEPTH: u8 = 32;

/// Where a tree is and how much it holds: all that a catalogue must remember of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Root {
    /// The page at the top; `None` for an empty tree.
    pub page: Option<PageRef>,
    /// Pages on the way from the top to any entry: 0 for an empty tree, 1 for a single leaf.
    pub depth: u8,
    /// Entries in the tree.
    pub entries: u64,
}

impl Root {
    /// Bytes of an encoded root.
    pub const LEN: usize = 24;

    /// How far the top is above the leaves. A root that has a page has a depth; should a caller
    /// make one that has none, its page is taken for a leaf.
    #[inline]
    pub(crate) fn top_level(&self) -> u8 {
        self.depth.saturating_sub(1)
    }

    /// The root as it is stored.
    pub fn encode(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        if let Some(page) = self.page {
            bytes[PAGE].copy_from_slice(&page.encode());
        }
        bytes[ENTRIES].copy_from_slice(&self.entries.to_le_bytes());
        bytes[DEPTH] = self.depth;
        bytes
    }

    /// Reads a stored root.
    ///
    /// # Errors
    /// What is wrong with the bytes, in words.
    pub fn decode(bytes: &[u8]) -> Result<Self, &'static str> {
        let bytes: &[u8; Self::LEN] = bytes
            .first_chunk()
            .ok_or("a root is shorter than its 24 bytes")?;
        let page = PageRef::decode(&bytes[PAGE]);
        let entries = u64::from_le_bytes(bytes[ENTRIES].try_into().expect("eight bytes"));
        let depth = bytes[DEPTH];
        if bytes[RESERVED] != [0; 3] {
            return Err("reserved bytes of a root are not zero");
        }
        if depth > MAX_DEPTH {
            return Err("a root is deeper than a tree can be");
        }
        match depth {
            0 if bytes[PAGE] != [0; PageRef::LEN] => Err("a root of depth 0 has a page"),
            0 if entries != 0 => Err("a root of depth 0 has entries"),
            0 => Ok(Root::default()),
            _ if page.version == Version::ZERO => Err("a root has a depth but no page"),
            _ => Ok(Root {
                page: Some(page),
                depth,
                entries,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bifolio_pager::PageId;

    fn some_root() -> Root {
        Root {
            page: Some(PageRef {
                id: PageId::new(0x1234),
                version: Version::new(7),
            }),
            depth: 3,
            entries: 1 << 40,
        }
    }

    #[test]
    fn a_root_survives_encoding() {
        for root in [Root::default(), some_root()] {
            assert_eq!(Root::decode(&root.encode()), Ok(root));
        }
    }

    #[test]
    fn a_root_that_contradicts_itself_is_refused() {
        let good = some_root().encode();
        assert!(Root::decode(&good[..23]).is_err(), "too short");
        for (offset, value) in [(21, 1), (22, 1), (23, 1), (20, 0), (20, 33)] {
            let mut bad = good;
            bad[offset] = value;
            assert!(Root::decode(&bad).is_err(), "byte {offset} = {value}");
        }
        let mut no_page = good;
        no_page[..12].fill(0);
        assert!(Root::decode(&no_page).is_err());
        let mut entries_without_page = [0; Root::LEN];
        entries_without_page[12] = 1;
        assert!(Root::decode(&entries_without_page).is_err());
    }
}
