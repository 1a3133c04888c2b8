//! The page: its number, its stamp, its header, its checksum.
//!
//! Every page of the file, whatever its kind, has this frame. Integers are little-endian.
//!
// ANCHOR: header
//! | offset        | size | field    | meaning                                                      |
//! |--------------:|-----:|----------|--------------------------------------------------------------|
//! |             0 |    6 | id       | the page's own number; it lies at byte `id * page_size`      |
//! |             6 |    6 | version  | the commit that wrote the page: its *stamp*                  |
//! |            12 |    1 | kind     | 1 branch, 2 leaf, 3 overflow, 4 map leaf, 5 map branch       |
//! |            13 |    3 | (kind's) | belongs to the kind; see the table of that kind              |
//! |            16 |    … | body     | belongs to the kind                                          |
//! | page_size − 8 |    8 | checksum | XXH3-64 of bytes `0 .. page_size − 8`, seeded per file       |
// ANCHOR_END: header
//!
//! Invariants:
//! 1. `(id, version)`, a [`PageRef`], is unique for ever: a number is reused, a stamp is not. So a
//!    reference that disagrees with the page it leads to has met a stale or misplaced page.
//! 2. The checksum lies outside what a guard exposes. Whoever writes the page out fills it in.
//! 3. A page that is written out while still private carries a checksum of another seed
//!    ([`Standing::Private`]), so that it never passes for a page of a commit.

use std::fmt;
use std::ops::Range;

use crate::defect::{Defect, planted};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::error::{Error, Result};

const fn field(after: &Range<usize>, size: usize) -> Range<usize> {
    after.end..after.end + size
}

/// Where the page's own number and stamp lie: an encoded [`PageRef`].
pub const SELF_REF: Range<usize> = 0..PageRef::LEN;
/// Where the page's [`Kind`] lies.
pub const KIND: Range<usize> = field(&SELF_REF, 1);
/// Three bytes of the header that belong to the page's kind.
pub const KIND_HEADER: Range<usize> = field(&KIND, 3);
/// Bytes of the header that all kinds share; the kind's body begins here.
pub const HEADER_LEN: usize = KIND_HEADER.end;
/// Bytes at the end of a page that hold the checksum, outside what guards expose.
pub const CHECKSUM_LEN: usize = 8;

const _: () = assert!(KIND.start == 12);
const _: () = assert!(HEADER_LEN == 16);

/// A 48-bit little-endian integer, as page numbers and stamps are stored.
const U48_LEN: usize = 6;
const U48_MAX: u64 = (1 << 48) - 1;

#[inline]
fn put_u48(value: u64, to: &mut [u8]) {
    assert!(value <= U48_MAX, "{value} does not fit in 48 bits");
    to[..U48_LEN].copy_from_slice(&value.to_le_bytes()[..U48_LEN]);
}

#[inline]
fn get_u48(from: &[u8]) -> u64 {
    let mut bytes = [0; 8];
    bytes[..U48_LEN].copy_from_slice(&from[..U48_LEN]);
    u64::from_le_bytes(bytes)
}

/// The number of a page: the page lies at byte `id * page_size` of the file.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageId(u64);

impl PageId {
    /// The largest page number that the format can hold.
    pub const MAX: PageId = PageId(U48_MAX);

    /// The page of this number.
    ///
    /// # Panics
    /// If `number` needs more than 48 bits. Numbers read from a file come through
    /// [`PageRef::decode`] and cannot.
    pub const fn new(number: u64) -> Self {
        assert!(number <= U48_MAX, "a page number has 48 bits");
        PageId(number)
    }

    /// The number, for arithmetic and for indexing tables by page.
    #[inline]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The page `count` pages further on.
    ///
    /// # Panics
    /// If that number needs more than 48 bits.
    pub const fn plus(self, count: u64) -> Self {
        // Saturating, so that a sum past 64 bits is refused like one past 48.
        PageId::new(self.0.saturating_add(count))
    }
}

impl fmt::Debug for PageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "p{}", self.0)
    }
}

impl fmt::Display for PageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The number of a commit, which is also the stamp on every page that it wrote.
///
/// Rises by at least one with each commit, and is never used twice, not even after a crash.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(u64);

impl Version {
    /// Earlier than every commit; no page carries it.
    pub const ZERO: Version = Version(0);

    /// The version of this number.
    ///
    /// # Panics
    /// If `number` needs more than 48 bits: at a million commits a second, in nine years.
    pub const fn new(number: u64) -> Self {
        assert!(number <= U48_MAX, "a version has 48 bits");
        Version(number)
    }

    /// The number.
    #[inline]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The version after this one.
    pub const fn next(self) -> Self {
        Version::new(self.0 + 1)
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v{}", self.0)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A reference to a page: its number and the stamp that the page must carry.
///
/// Whatever leads to a page on disk (a branch cell, a catalogue entry, an overflow link, the
/// allocation map, the meta) holds one of these, so that a page whose newest write was lost is
/// seen when it is reached, although its checksum is right.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageRef {
    /// Which page.
    pub id: PageId,
    /// The commit that wrote it.
    pub version: Version,
}

impl PageRef {
    /// Bytes of an encoded reference: the number, then the stamp, 48 bits each.
    pub const LEN: usize = 2 * U48_LEN;

    /// The reference as it is stored.
    #[inline]
    pub fn encode(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        put_u48(self.id.0, &mut bytes[..U48_LEN]);
        put_u48(self.version.0, &mut bytes[U48_LEN..]);
        bytes
    }

    /// Reads a stored reference. Any twelve bytes are *a* reference; whether its page exists is
    /// found out by [`Pager::read`](crate::Pager::read).
    ///
    /// # Panics
    /// If `bytes` is shorter than [`PageRef::LEN`].
    #[inline]
    pub fn decode(bytes: &[u8]) -> Self {
        PageRef {
            id: PageId(get_u48(&bytes[..U48_LEN])),
            version: Version(get_u48(&bytes[U48_LEN..Self::LEN])),
        }
    }
}

impl fmt::Debug for PageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}@{:?}", self.id, self.version)
    }
}

/// What a page holds. The number is stored; 0 is never written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// An inner node of a tree: separators and children.
    Branch = 1,
    /// A leaf of a tree: keys and values.
    Leaf = 2,
    /// A piece of a value too large for a leaf.
    Overflow = 3,
    /// A piece of the allocation map: a bit for each page.
    MapLeaf = 4,
    /// An inner node of the allocation map.
    MapBranch = 5,
}

impl Kind {
    /// The kind stored in a page, or `None` if no kind has this number.
    #[inline]
    pub fn of(page: &[u8]) -> Option<Kind> {
        match page[KIND.start] {
            1 => Some(Kind::Branch),
            2 => Some(Kind::Leaf),
            3 => Some(Kind::Overflow),
            4 => Some(Kind::MapLeaf),
            5 => Some(Kind::MapBranch),
            _ => None,
        }
    }
}

/// The size of a page in bytes: a power of two from 4 KiB to 64 KiB, fixed when a file is created.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageSize(u32);

impl PageSize {
    /// 4 KiB, the smallest and the default.
    pub const DEFAULT: PageSize = PageSize(4096);
    /// Every size there is, smallest first.
    pub const ALL: [PageSize; 5] = [
        PageSize(4096),
        PageSize(8192),
        PageSize(16384),
        PageSize(32768),
        PageSize(65536),
    ];

    /// The page size of this many bytes, or `None` if it is not one of [`PageSize::ALL`].
    pub fn new(bytes: usize) -> Option<Self> {
        Self::ALL.into_iter().find(|size| size.bytes() == bytes)
    }

    /// Bytes in a page.
    #[inline]
    pub const fn bytes(self) -> usize {
        self.0 as usize
    }

    /// Bytes of a page that guards expose: all but the checksum.
    #[inline]
    pub const fn usable(self) -> usize {
        self.bytes() - CHECKSUM_LEN
    }

    /// The byte of the file at which a page begins.
    #[inline]
    pub const fn offset(self, id: PageId) -> u64 {
        id.get() * self.0 as u64
    }
}

impl Default for PageSize {
    fn default() -> Self {
        PageSize::DEFAULT
    }
}

/// Whether a page image is final or was written out early, while its transaction still ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Sealed: the image that a commit refers to.
    Final,
    /// Stolen while private. Good for the running process, and for nobody who opens the file later.
    Private,
}

/// What a pager has to know of a file to check its pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// The size of every page.
    pub page_size: PageSize,
    /// Drawn at random when the file is created, so that a page of another file fails its checksum.
    pub seed: u64,
}

impl Geometry {
    /// The checksum of a page, over all of it but the checksum word. About 0.3 us for 4 KiB.
    pub fn checksum(&self, body: &[u8], standing: Standing) -> u64 {
        debug_assert_eq!(body.len(), self.page_size.usable());
        let seed = match standing {
            Standing::Final => self.seed,
            Standing::Private if planted(Defect::StolenIsFinal) => self.seed,
            Standing::Private => !self.seed,
        };
        xxh3_64_with_seed(body, seed)
    }

    /// Fills in the checksum of a whole page image.
    pub fn seal_image(&self, image: &mut [u8], standing: Standing) {
        let (body, word) = image.split_at_mut(self.page_size.usable());
        word.copy_from_slice(&self.checksum(body, standing).to_le_bytes());
    }

    /// Checks a whole page image that came from storage: its checksum, then its number.
    ///
    /// # Errors
    /// [`Error::Corrupt`], naming the page and what is wrong with it.
    pub fn verify_image(&self, image: &[u8], id: PageId, standing: Standing) -> Result<()> {
        let (body, word) = image.split_at(self.page_size.usable());
        if self.checksum(body, standing).to_le_bytes() != *word && !planted(Defect::SkipChecksum) {
            return Err(Error::corrupt(
                id,
                "the checksum does not match the content",
            ));
        }
        let found = PageRef::decode(&body[SELF_REF]).id;
        if found != id {
            return Err(Error::corrupt(
                id,
                format!("this is page {found}, misplaced"),
            ));
        }
        Ok(())
    }

    /// Checks that a page carries the number and the stamp that the reference to it expects.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when it is another page, or another version of this one.
    #[inline]
    pub fn expect(&self, body: &[u8], at: PageRef) -> Result<()> {
        let found = PageRef::decode(&body[SELF_REF]);
        if found == at || planted(Defect::SkipStamp) {
            Ok(())
        } else {
            Err(Error::unexpected(at, found))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GEOMETRY: Geometry = Geometry {
        page_size: PageSize::DEFAULT,
        seed: 7,
    };

    const FINAL: u64 = 0x1538_20c8_4626_3c1b;
    const PRIVATE: u64 = 0x0bb2_41e7_334c_0116;

    fn image(id: u64, version: u64) -> Vec<u8> {
        let mut image = vec![0; GEOMETRY.page_size.bytes()];
        let own = PageRef {
            id: PageId::new(id),
            version: Version::new(version),
        };
        image[SELF_REF].copy_from_slice(&own.encode());
        image
    }

    #[test]
    fn a_reference_is_twelve_bytes_number_first() {
        let at = PageRef {
            id: PageId::new(0x0102_0304_0506),
            version: Version::new(0x0a0b),
        };
        assert_eq!(at.encode(), [6, 5, 4, 3, 2, 1, 0x0b, 0x0a, 0, 0, 0, 0]);
        assert_eq!(PageRef::decode(&at.encode()), at);
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let mut page = image(9, 3);
        page[100] = 0x55;
        GEOMETRY.seal_image(&mut page, Standing::Final);
        GEOMETRY
            .verify_image(&page, PageId::new(9), Standing::Final)
            .unwrap();
        for bit in 0..page.len() * 8 {
            page[bit / 8] ^= 1 << (bit % 8);
            let verdict = GEOMETRY.verify_image(&page, PageId::new(9), Standing::Final);
            assert!(verdict.is_err(), "bit {bit}");
            page[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn a_stolen_page_does_not_pass_for_a_final_one() {
        let mut page = image(9, 3);
        GEOMETRY.seal_image(&mut page, Standing::Private);
        GEOMETRY
            .verify_image(&page, PageId::new(9), Standing::Private)
            .unwrap();
        assert!(
            GEOMETRY
                .verify_image(&page, PageId::new(9), Standing::Final)
                .is_err()
        );
    }

    #[test]
    fn a_page_of_another_file_is_refused() {
        let mut page = image(9, 3);
        Geometry {
            seed: 8,
            ..GEOMETRY
        }
        .seal_image(&mut page, Standing::Final);
        assert!(
            GEOMETRY
                .verify_image(&page, PageId::new(9), Standing::Final)
                .is_err()
        );
    }

    #[test]
    fn a_misplaced_page_and_a_stale_one_are_told_apart() {
        let mut page = image(9, 3);
        GEOMETRY.seal_image(&mut page, Standing::Final);
        let misplaced = GEOMETRY
            .verify_image(&page, PageId::new(10), Standing::Final)
            .unwrap_err();
        assert!(misplaced.to_string().contains("misplaced"), "{misplaced}");
        let at = PageRef {
            id: PageId::new(9),
            version: Version::new(4),
        };
        let stale = GEOMETRY.expect(&page, at).unwrap_err();
        assert!(stale.to_string().contains("version 3"), "{stale}");
    }

    #[test]
    fn a_zero_page_is_not_a_page() {
        let page = vec![0; GEOMETRY.page_size.bytes()];
        assert!(
            GEOMETRY
                .verify_image(&page, PageId::new(9), Standing::Final)
                .is_err()
        );
    }

    #[test]
    fn the_checksum_of_a_page_is_the_same_for_ever() {
        // Bytes of the format: if this fails, files written before can no longer be read.
        let mut page = image(0x0102, 0x0a0b);
        page[KIND.start] = Kind::Leaf as u8;
        page[HEADER_LEN..HEADER_LEN + 5].copy_from_slice(b"folio");
        for (standing, checksum) in [(Standing::Final, FINAL), (Standing::Private, PRIVATE)] {
            GEOMETRY.seal_image(&mut page, standing);
            let word: [u8; CHECKSUM_LEN] = page[GEOMETRY.page_size.usable()..].try_into().unwrap();
            assert_eq!(u64::from_le_bytes(word), checksum, "{standing:?}");
        }
        assert_eq!(
            page[..24],
            *b"\x02\x01\0\0\0\0\x0b\x0a\0\0\0\0\x02\0\0\0folio\0\0\0"
        );
    }

    #[test]
    fn a_kind_is_its_stored_number_and_no_other_number_is_a_kind() {
        let mut page = image(9, 3);
        for number in 0..=u8::MAX {
            page[KIND.start] = number;
            match Kind::of(&page) {
                Some(kind) => assert_eq!(kind as u8, number),
                None => assert!(!(1..=5).contains(&number)),
            }
        }
    }

    #[test]
    #[should_panic(expected = "48 bits")]
    fn a_page_past_the_largest_number_is_refused() {
        let _ = PageId::MAX.plus(u64::MAX);
    }

    proptest::proptest! {
        #[test]
        fn a_reference_reads_as_it_was_stored(id in 0..=U48_MAX, version in 0..=U48_MAX) {
            let at = PageRef { id: PageId::new(id), version: Version::new(version) };
            assert_eq!(PageRef::decode(&at.encode()), at);
        }

        #[test]
        fn any_twelve_bytes_are_a_reference(bytes: [u8; PageRef::LEN]) {
            assert_eq!(PageRef::decode(&bytes).encode(), bytes);
        }
    }

    #[test]
    fn only_the_five_sizes_are_page_sizes() {
        assert_eq!(PageSize::new(4096), Some(PageSize::DEFAULT));
        assert_eq!(PageSize::new(65536).map(PageSize::usable), Some(65528));
        for bytes in [0, 1, 512, 4095, 4097, 12288, 131_072] {
            assert_eq!(PageSize::new(bytes), None, "{bytes}");
        }
    }
}
