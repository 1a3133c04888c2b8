//! The allocation map as it is stored: a radix tree of bitmaps.
//!
//! The leaves of the tree are bitmaps, each for a fixed stretch of page numbers; what stands where
//! follows from the number alone, so nothing is ever split or merged. A subtree that is *absent*
//! (its reference is zeros) is wholly used: a file that was filled from front to back, as a bulk
//! load does, has no map pages at all. Pages from `end` on were never used, and no page says so.
//!
//! Map root, 32 bytes of the meta:
//!
// ANCHOR: map_root
//! | offset | size | field      | meaning                                                        |
//! |-------:|-----:|------------|----------------------------------------------------------------|
//! |      0 |   12 | page       | reference of the root page; zeros if all below `end` is used   |
//! |     12 |    1 | level      | of the root page, 0 = a leaf: the lowest that reaches to `end` |
//! |     13 |    3 | (reserved) | zero                                                           |
//! |     16 |    8 | end        | pages from here on are free, because they were never used      |
//! |     24 |    8 | free       | free pages below `end`                                         |
// ANCHOR_END: map_root
//!
//! Map leaf; leaf `n` is for the pages from `n * bits` on, where `bits` is `8 * (page_size - 24)`:
//!
// ANCHOR: map_leaf
//! | offset        | size | field      | meaning                                                 |
//! |--------------:|-----:|------------|---------------------------------------------------------|
//! |             0 |   12 | (own)      | number and stamp, as on every page                      |
//! |            12 |    1 | kind       | 4                                                       |
//! |            13 |    3 | (reserved) | zero                                                    |
//! |            16 |    … | bits       | bit `i % 8` of byte `i / 8` is 1 if page `i` is free    |
//! | page_size − 8 |    8 | checksum   | as on every page                                        |
// ANCHOR_END: map_leaf
//!
//! Bits of the meta area and of pages from `end` on are zero.
//!
//! Map branch; its children are the `fan_out` nodes of the level below, from `index * fan_out` on,
//! where `fan_out` is `(page_size - 24) / 18`, rounded down:
//!
// ANCHOR: map_branch
//! | offset        | size | field      | meaning                                                 |
//! |--------------:|-----:|------------|---------------------------------------------------------|
//! |             0 |   12 | (own)      | number and stamp, as on every page                      |
//! |            12 |    1 | kind       | 5                                                       |
//! |            13 |    1 | level      | 1 if the children are leaves, and so on                 |
//! |            14 |    2 | (reserved) | zero                                                    |
//! |            16 | 18×n | children   | reference (12; zeros = absent), free pages below it (6) |
//! |             … |    … | (gap)      | zero                                                    |
//! | page_size − 8 |    8 | checksum   | as on every page                                        |
// ANCHOR_END: map_branch
//!
//! No child is newer than its parent. The number of free pages that a parent states is the number
//! that the child has; a difference is damage, and is looked for at every load.

use std::ops::Range;

use bifolio_pager::page::{HEADER_LEN, KIND, KIND_HEADER};
use bifolio_pager::{
    Error, Geometry, Kind, PageId, PageRef, PageSize, Result, Version, first_page,
};

use super::bits::Bits;

const fn field(after: &Range<usize>, size: usize) -> Range<usize> {
    after.end..after.end + size
}

const ROOT_PAGE: Range<usize> = 0..PageRef::LEN;
const ROOT_LEVEL: Range<usize> = field(&ROOT_PAGE, 1);
const ROOT_RESERVED: Range<usize> = field(&ROOT_LEVEL, 3);
const ROOT_END: Range<usize> = field(&ROOT_RESERVED, 8);
const ROOT_FREE: Range<usize> = field(&ROOT_END, 8);
const _: () = assert!(ROOT_END.start == 16 && ROOT_FREE.end == MapRoot::LEN);

const LEAF_RESERVED: Range<usize> = KIND_HEADER;
const BODY: usize = HEADER_LEN;
const _: () = assert!(KIND.start == 12 && LEAF_RESERVED.start == 13 && BODY == 16);
// The bitmap of a leaf is made of whole words, with no gap behind it.
const _: () = assert!((PageSize::DEFAULT.usable() - BODY).is_multiple_of(8));

const BRANCH_LEVEL: Range<usize> = field(&KIND, 1);
const BRANCH_RESERVED: Range<usize> = field(&BRANCH_LEVEL, 2);
const _: () = assert!(BRANCH_LEVEL.start == 13 && BRANCH_RESERVED.end == BODY);

const CHILD_PAGE: Range<usize> = 0..PageRef::LEN;
const CHILD_FREE: Range<usize> = field(&CHILD_PAGE, 6);
const CHILD_LEN: usize = CHILD_FREE.end;
const _: () = assert!(CHILD_LEN == 18);

/// An absent child or root. No page has number 0, because the meta lies there.
const ABSENT: PageRef = PageRef {
    id: PageId::new(0),
    version: Version::ZERO,
};

/// Where the allocation map of a version begins: a part of the meta.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapRoot {
    /// The root page; `None` if every page below `end` is used.
    pub page: Option<PageRef>,
    /// The level of the root page, 0 for a leaf. Follows from `end`.
    pub level: u8,
    /// Pages below this number are described by the map; from here on none was ever used.
    pub end: u64,
    /// Free pages below `end`.
    pub free: u64,
}

impl MapRoot {
    /// Bytes of an encoded root.
    pub const LEN: usize = 32;

    /// The root of a new file's map: nothing was ever used.
    pub fn new(geometry: Geometry) -> Self {
        let end = first_page(geometry).get();
        MapRoot {
            page: None,
            level: Shape::of(geometry).level_for(end),
            end,
            free: 0,
        }
    }

    /// The root as it is stored.
    pub fn encode(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[ROOT_PAGE].copy_from_slice(&self.page.unwrap_or(ABSENT).encode());
        bytes[ROOT_LEVEL.start] = self.level;
        bytes[ROOT_END].copy_from_slice(&self.end.to_le_bytes());
        bytes[ROOT_FREE].copy_from_slice(&self.free.to_le_bytes());
        bytes
    }

    /// Reads a stored root. Whether the numbers go with a file's page size is found out by
    /// [`Space::open`](super::Space::open); that `end` lies in the file is for the caller to check,
    /// who knows the file's length.
    ///
    /// # Errors
    /// [`Error::Corrupt`], naming page 0, where the meta lies, if these are not bytes that
    /// [`encode`](MapRoot::encode) writes.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        if bytes.len() != Self::LEN || !zero(&bytes[ROOT_RESERVED]) {
            return Err(bad_root("not the bytes of a root"));
        }
        let root = MapRoot {
            page: reference(&bytes[ROOT_PAGE]),
            level: bytes[ROOT_LEVEL.start],
            end: u64_at(&bytes[ROOT_END]),
            free: u64_at(&bytes[ROOT_FREE]),
        };
        root.check_from(1)?;
        Ok(root)
    }

    /// Whether the numbers go together, and with the shape of the map's nodes.
    pub(super) fn check(&self, geometry: Geometry, shape: Shape) -> Result<()> {
        self.check_from(first_page(geometry).get())?;
        if self.level != shape.level_for(self.end) {
            return Err(bad_root("its level does not go with its end"));
        }
        Ok(())
    }

    /// Whether the numbers go together in a file whose pages begin at `first`.
    fn check_from(&self, first: u64) -> Result<()> {
        if self.end < first || self.end > PageId::MAX.get() {
            return Err(bad_root("its end is out of bounds"));
        }
        match self.page {
            None if self.free != 0 => Err(bad_root("it has free pages and no root page")),
            Some(at) if !(first..self.end).contains(&at.id.get()) => {
                Err(bad_root("its root page is out of bounds"))
            }
            _ if self.free > self.end - first => Err(bad_root("it has too many free pages")),
            _ => Ok(()),
        }
    }
}

#[cold]
fn bad_root(what: &'static str) -> Error {
    Error::corrupt(PageId::new(0), format!("the allocation map's root: {what}"))
}

/// How many pages a leaf is for, and how many children a branch has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    /// A multiple of 64.
    pub leaf_bits: u64,
    pub fan_out: u64,
}

impl Shape {
    pub fn of(geometry: Geometry) -> Self {
        let body = geometry.page_size.usable() - BODY;
        Shape {
            leaf_bits: body as u64 * 8,
            fan_out: (body / CHILD_LEN) as u64,
        }
    }

    /// Leaves below a node of this level.
    pub fn leaves(self, level: u8) -> u64 {
        self.fan_out.saturating_pow(level.into())
    }

    /// The page numbers that a node is for.
    pub fn pages(self, node: Node) -> Range<u64> {
        let span = self.leaves(node.level).saturating_mul(self.leaf_bits);
        let start = node.index.saturating_mul(span);
        start..start.saturating_add(span)
    }

    /// The nodes of a map for page numbers up to `end`, one level more than it may need included: as
    /// many as one store can write.
    pub fn nodes(self, end: u64) -> u64 {
        (0..=self.level_for(end) + 1)
            .map(|level| end.div_ceil(self.leaves(level).saturating_mul(self.leaf_bits)))
            .sum()
    }

    /// The lowest level at which one node reaches to `end`. At most 6 in a real file.
    pub fn level_for(self, end: u64) -> u8 {
        (0..)
            .find(|&level| self.pages(Node { level, index: 0 }).end >= end)
            .expect("every level reaches further than the one below")
    }
}

/// A place in the radix tree: the `index`-th node of its level, whether there is a page for it or
/// not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Node {
    /// 0 for a leaf.
    pub level: u8,
    pub index: u64,
}

impl Node {
    /// The `index`-th leaf.
    pub fn leaf(index: u64) -> Self {
        Node { level: 0, index }
    }
}

/// What a parent says of a child.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Child {
    /// `None`: absent, and every page below it is used.
    pub page: Option<PageRef>,
    pub free: u64,
}

/// What must be true of a page that is read as a certain node of a certain map.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expected {
    pub at: PageRef,
    pub node: Node,
    /// Free pages below the node, as its parent says.
    pub free: u64,
    pub shape: Shape,
    /// The pages that can be free: behind the meta area, before the map's end.
    pub bounds: (u64, u64),
}

impl Expected {
    fn corrupt(&self, what: impl Into<std::borrow::Cow<'static, str>>) -> Error {
        Error::corrupt(self.at.id, what)
    }

    fn require(&self, is_so: bool, else_what: &'static str) -> Result<()> {
        if is_so {
            Ok(())
        } else {
            Err(self.corrupt(else_what))
        }
    }

    fn require_kind(&self, page: &[u8], kind: Kind) -> Result<()> {
        self.require(
            Kind::of(page) == Some(kind),
            "not the kind of allocation map page that its parent needs",
        )
    }

    fn require_count(&self, found: u64) -> Result<()> {
        if found == self.free {
            return Ok(());
        }
        Err(self.corrupt(format!(
            "{found} free pages, but {} according to its parent",
            self.free
        )))
    }

    /// The pages below a node that can be free.
    fn usable(&self, node: Node) -> Range<u64> {
        let pages = self.shape.pages(node);
        pages.start.max(self.bounds.0)..pages.end.min(self.bounds.1)
    }
}

/// Fills in a leaf; the page is zeros but for its own reference.
pub(super) fn encode_leaf(page: &mut [u8], bits: &Bits, shape: Shape) {
    page[KIND.start] = Kind::MapLeaf as u8;
    bits.write_to(&mut page[BODY..][..(shape.leaf_bits / 8) as usize]);
}

/// Reads a leaf.
///
/// # Errors
/// [`Error::Corrupt`] if the page is not the leaf that `expected` says.
pub(super) fn decode_leaf(page: &[u8], expected: &Expected) -> Result<Bits> {
    expected.require_kind(page, Kind::MapLeaf)?;
    let (map, gap) = page[BODY..].split_at((expected.shape.leaf_bits / 8) as usize);
    expected.require(
        zero(&page[LEAF_RESERVED]) && zero(gap),
        "a reserved byte is not zero",
    )?;
    let bits = Bits::from_bytes(map);
    let base = expected.shape.pages(expected.node).start;
    let usable = expected.usable(expected.node);
    let usable = usable.start.saturating_sub(base)..usable.end.saturating_sub(base);
    expected.require(
        !bits.any_outside(usable),
        "it has a page as free that is not in the file",
    )?;
    expected.require_count(bits.count())?;
    Ok(bits)
}

/// Fills in a branch; the page is zeros but for its own reference.
pub(super) fn encode_branch(page: &mut [u8], level: u8, children: impl Iterator<Item = Child>) {
    page[KIND.start] = Kind::MapBranch as u8;
    page[BRANCH_LEVEL.start] = level;
    for (cell, child) in page[BODY..].chunks_exact_mut(CHILD_LEN).zip(children) {
        cell[CHILD_PAGE].copy_from_slice(&child.page.unwrap_or(ABSENT).encode());
        cell[CHILD_FREE].copy_from_slice(&child.free.to_le_bytes()[..CHILD_FREE.len()]);
    }
}

/// Reads a branch: all its children, in order.
///
/// # Errors
/// [`Error::Corrupt`] if the page is not the branch that `expected` says.
pub(super) fn decode_branch(page: &[u8], expected: &Expected) -> Result<Vec<Child>> {
    expected.require_kind(page, Kind::MapBranch)?;
    let Node { level, index } = expected.node;
    expected.require(
        page[BRANCH_LEVEL.start] == level,
        "a branch of another level",
    )?;
    let fan_out = expected.shape.fan_out;
    let (cells, gap) = page[BODY..].split_at(fan_out as usize * CHILD_LEN);
    expected.require(
        zero(&page[BRANCH_RESERVED]) && zero(gap),
        "a reserved byte is not zero",
    )?;
    let mut children = Vec::with_capacity(fan_out as usize);
    for (cell, index) in cells.chunks_exact(CHILD_LEN).zip(index * fan_out..) {
        let child = decode_child(cell);
        let node = Node {
            level: level - 1,
            index,
        };
        require_child(expected, child, node)?;
        children.push(child);
    }
    // Cannot overflow: each is at most the pages in its part of the file.
    expected.require_count(children.iter().map(|child| child.free).sum())?;
    Ok(children)
}

fn decode_child(cell: &[u8]) -> Child {
    Child {
        page: reference(&cell[CHILD_PAGE]),
        free: u64_at(&cell[CHILD_FREE]),
    }
}

fn require_child(parent: &Expected, child: Child, node: Node) -> Result<()> {
    let usable = parent.usable(node);
    let most = usable.end.saturating_sub(usable.start);
    parent.require(child.free <= most, "a child has more free pages than pages")?;
    match child.page {
        None => parent.require(child.free == 0, "an absent child has free pages"),
        Some(at) => {
            parent.require(most > 0, "a child beyond the end of the file")?;
            let (first, end) = parent.bounds;
            parent.require(
                (first..end).contains(&at.id.get()),
                "a child's page is out of bounds",
            )?;
            parent.require(
                at.version <= parent.at.version,
                "a child is newer than its parent",
            )
        }
    }
}

/// A stored reference; `None` if all of it is zeros.
fn reference(bytes: &[u8]) -> Option<PageRef> {
    Some(PageRef::decode(bytes)).filter(|&at| at != ABSENT)
}

/// A little-endian integer of up to eight bytes.
fn u64_at(bytes: &[u8]) -> u64 {
    let mut word = [0; 8];
    word[..bytes.len()].copy_from_slice(bytes);
    u64::from_le_bytes(word)
}

fn zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|&byte| byte == 0)
}
