//! The meta record: from where a database is found when its file is opened.
//!
//! A record has one 512-byte sector, which storage writes whole or not at all:
//!
// ANCHOR: meta
//! | offset | size | field      | meaning                                                          |
//! |-------:|-----:|------------|------------------------------------------------------------------|
//! |      0 |    8 | magic      | `Bifolio\n`                                                      |
//! |      8 |    4 | format     | 1; a reader refuses what it does not know                        |
//! |     12 |    4 | page_size  | bytes in a page                                                  |
//! |     16 |   16 | file_id    | drawn at random at creation; its first half seeds page checksums |
//! |     32 |    8 | sequence   | rises by one with every meta written; the higher one counts      |
//! |     40 |    8 | version    | the commit that this meta makes durable                          |
//! |     48 |    8 | floor      | no page in the file carries this stamp or a higher one           |
//! |     56 |    4 | flags      | bit 0: closed cleanly; the rest zero                             |
//! |     60 |    4 | (reserved) | zero                                                             |
//! |     64 |    8 | boot       | which boot of the machine closed it cleanly; 0 = not closed      |
//! |     72 |   24 | catalogue  | root of the tree of tables                                       |
//! |     96 |   40 | map        | root of the allocation map                                       |
//! |    136 |   64 | log        | which redo log goes with it, and from where; zero: none          |
//! |    200 |  304 | (reserved) | zero                                                             |
//! |    504 |    8 | checksum   | XXH3-64 of bytes 0..504                                          |
// ANCHOR_END: meta
//!
//! A slot of the file, [`META_LEN`] bytes, holds the record *twice*, in its first and in its last
//! sector, with zeros between.
//!
//! Invariants:
//! 1. Both slots hold a readable record from the moment the file has its name.
//! 2. A slot's two copies are written by one write, so a crash leaves each copy old or new, and at
//!    most the one sector that was under the head as neither. A slot with no readable copy was
//!    therefore damaged and not torn, and is an error: its record might have been the newest.
//! 3. The slot with the higher sequence is the newest meta; the other one is what is overwritten next.
//! 4. `floor` is made durable before any page with a stamp below it but not below the former floor
//!    is written, so that no stamp is ever used twice, whatever crashes.

use std::ops::Range;

use bifolio_btree::Root;
use bifolio_pager::defect::{Defect, planted};
use bifolio_pager::{Geometry, META_LEN, PageSize, Version};
use xxhash_rust::xxh3::xxh3_64;

use crate::log::LogMark;
use crate::space::MapRoot;

/// The format that this release writes, and the newest that it reads.
pub(crate) const FORMAT: u32 = 1;
const MAGIC_BYTES: [u8; 8] = *b"Bifolio\n";
const FLAG_CLEAN: u32 = 1;
/// Versions that may be used before another meta must raise the floor.
const FLOOR_STEP: u64 = 1 << 20;
/// A record that says more is damaged. Far enough below the 48 bits that a version has for the
/// floor to stay in them.
const LAST_VERSION: u64 = 1 << 47;

const fn field(after: &Range<usize>, size: usize) -> Range<usize> {
    after.end..after.end + size
}

const MAGIC: Range<usize> = 0..8;
const FORMAT_NUMBER: Range<usize> = field(&MAGIC, 4);
const PAGE_SIZE: Range<usize> = field(&FORMAT_NUMBER, 4);
const FILE_ID: Range<usize> = field(&PAGE_SIZE, 16);
const SEQUENCE: Range<usize> = field(&FILE_ID, 8);
const VERSION: Range<usize> = field(&SEQUENCE, 8);
const FLOOR: Range<usize> = field(&VERSION, 8);
const FLAGS: Range<usize> = field(&FLOOR, 4);
const RESERVED_0: Range<usize> = field(&FLAGS, 4);
const BOOT: Range<usize> = field(&RESERVED_0, 8);
const CATALOGUE: Range<usize> = field(&BOOT, 24);
const MAP: Range<usize> = field(&CATALOGUE, 40);
const LOG: Range<usize> = field(&MAP, 64);
const RESERVED_1: Range<usize> = field(&LOG, 304);
const CHECKSUM: Range<usize> = field(&RESERVED_1, 8);
const RECORD_LEN: usize = CHECKSUM.end;

const _: () = assert!(RECORD_LEN == 512);
const _: () = assert!(Root::LEN <= CATALOGUE.end - CATALOGUE.start);
const _: () = assert!(MapRoot::LEN <= MAP.end - MAP.start);
const _: () = assert!(LogMark::LEN == LOG.end - LOG.start);

/// A meta record in memory.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Meta {
    pub page_size: PageSize,
    pub file_id: [u8; 16],
    pub sequence: u64,
    pub version: Version,
    pub floor: Version,
    pub clean: bool,
    pub boot: u64,
    pub catalogue: Root,
    pub map: MapRoot,
    /// Where replay of the redo log begins; `None` if there is no log.
    pub log: Option<LogMark>,
}

/// Why a record cannot be used.
#[derive(Debug, PartialEq)]
pub(crate) enum Unreadable {
    /// Not our magic: probably not our file.
    NotOurs,
    /// Ours, and of a format that this release does not know.
    Newer(u32),
    /// Ours, and damaged.
    Damaged(String),
}

impl Meta {
    /// The first meta of a new file: nothing in it.
    pub fn first(page_size: PageSize, file_id: [u8; 16]) -> Self {
        let mut meta = Meta {
            page_size,
            file_id,
            sequence: 1,
            version: Version::ZERO,
            floor: Version::ZERO.next(),
            clean: true,
            boot: 0,
            catalogue: Root::default(),
            map: MapRoot::new(Geometry { page_size, seed: 0 }),
            log: None,
        };
        meta.floor = meta.version.next();
        meta
    }

    /// What the pager must know to check the file's pages.
    pub fn geometry(&self) -> Geometry {
        let seed = u64::from_le_bytes(self.file_id[..8].try_into().expect("eight bytes"));
        Geometry {
            page_size: self.page_size,
            seed,
        }
    }

    /// Bytes of the file that this meta relies on.
    pub fn bytes_in_use(&self) -> u64 {
        self.map.end * self.page_size.bytes() as u64
    }

    /// The meta that follows this one, not clean, with room for `FLOOR_STEP` more versions.
    pub fn successor(&self, next_version: Version) -> Self {
        Meta {
            sequence: self.sequence + 1,
            floor: Version::new(next_version.get() + FLOOR_STEP),
            clean: self.clean && planted(Defect::CleanMarkLeftOn),
            boot: match planted(Defect::CleanMarkLeftOn) {
                true => self.boot,
                false => 0,
            },
            ..*self
        }
    }

    /// The whole slot: the record twice.
    pub fn encode_slot(&self) -> [u8; META_LEN] {
        let record = self.encode();
        let mut slot = [0; META_LEN];
        slot[..RECORD_LEN].copy_from_slice(&record);
        slot[META_LEN - RECORD_LEN..].copy_from_slice(&record);
        slot
    }

    /// The newest readable record of a slot (invariant 2).
    ///
    /// # Errors
    /// Why the first copy is unreadable, if both are.
    pub fn decode_slot(slot: &[u8]) -> Result<Meta, Unreadable> {
        if slot.len() < META_LEN {
            return Err(match slot.get(MAGIC) {
                Some(magic) if *magic == MAGIC_BYTES => {
                    Unreadable::Damaged(format!("{} of its {META_LEN} bytes are there", slot.len()))
                }
                _ => Unreadable::NotOurs,
            });
        }
        let first = Meta::decode(&slot[..RECORD_LEN]);
        let second = Meta::decode(&slot[META_LEN - RECORD_LEN..META_LEN]);
        match (first, second) {
            (Ok(first), Ok(second)) if second.sequence > first.sequence => Ok(second),
            (Ok(meta), _) | (Err(_), Ok(meta)) => Ok(meta),
            (Err(why), Err(_)) => Err(why),
        }
    }

    fn encode(&self) -> [u8; RECORD_LEN] {
        let mut record = [0; RECORD_LEN];
        record[MAGIC].copy_from_slice(&MAGIC_BYTES);
        record[FORMAT_NUMBER].copy_from_slice(&FORMAT.to_le_bytes());
        record[PAGE_SIZE].copy_from_slice(&(self.page_size.bytes() as u32).to_le_bytes());
        record[FILE_ID].copy_from_slice(&self.file_id);
        record[SEQUENCE].copy_from_slice(&self.sequence.to_le_bytes());
        record[VERSION].copy_from_slice(&self.version.get().to_le_bytes());
        record[FLOOR].copy_from_slice(&self.floor.get().to_le_bytes());
        let flags = if self.clean { FLAG_CLEAN } else { 0 };
        record[FLAGS].copy_from_slice(&flags.to_le_bytes());
        record[BOOT].copy_from_slice(&self.boot.to_le_bytes());
        record[CATALOGUE][..Root::LEN].copy_from_slice(&self.catalogue.encode());
        record[MAP][..MapRoot::LEN].copy_from_slice(&self.map.encode());
        if let Some(mark) = self.log {
            record[LOG].copy_from_slice(&mark.encode());
        }
        let checksum = xxh3_64(&record[..CHECKSUM.start]);
        record[CHECKSUM].copy_from_slice(&checksum.to_le_bytes());
        record
    }

    fn decode(record: &[u8]) -> Result<Meta, Unreadable> {
        let u32_at = |at: Range<usize>| u32::from_le_bytes(record[at].try_into().expect("4 bytes"));
        let u64_at = |at: Range<usize>| u64::from_le_bytes(record[at].try_into().expect("8 bytes"));
        let damaged = |what: &str| Unreadable::Damaged(what.to_owned());

        let sound = xxh3_64(&record[..CHECKSUM.start]) == u64_at(CHECKSUM)
            || planted(Defect::SkipMetaChecksum);
        if record[MAGIC] != MAGIC_BYTES {
            return Err(Unreadable::NotOurs);
        }
        // A later format may lay out, and check, everything behind its number differently.
        let format = u32_at(FORMAT_NUMBER);
        if format > FORMAT && format < 1 << 16 {
            return Err(Unreadable::Newer(format));
        }
        if !sound {
            return Err(damaged("the checksum does not match the content"));
        }
        if format != FORMAT {
            return Err(damaged(
                "the format number is not one that was ever written",
            ));
        }
        let reserved = [RESERVED_0, RESERVED_1];
        if u32_at(FLAGS) & !FLAG_CLEAN != 0
            || reserved[1..]
                .iter()
                .any(|at| record[at.clone()].iter().any(|&byte| byte != 0))
        {
            return Err(damaged("a reserved byte is not zero"));
        }
        let version_at = |at: Range<usize>| {
            let number = u64_at(at);
            (number <= LAST_VERSION)
                .then(|| Version::new(number))
                .ok_or_else(|| damaged("a version is higher than any that was ever written"))
        };
        if u64_at(SEQUENCE) > LAST_VERSION {
            return Err(damaged(
                "the sequence is higher than any that was ever written",
            ));
        }
        let page_size = PageSize::new(u32_at(PAGE_SIZE) as usize)
            .ok_or_else(|| damaged("the page size is none of ours"))?;
        let meta = Meta {
            page_size,
            file_id: record[FILE_ID].try_into().expect("16 bytes"),
            sequence: u64_at(SEQUENCE),
            version: version_at(VERSION)?,
            floor: version_at(FLOOR)?,
            clean: u32_at(FLAGS) & FLAG_CLEAN != 0,
            boot: u64_at(BOOT),
            catalogue: Root::decode(&record[CATALOGUE][..Root::LEN]).map_err(damaged)?,
            map: MapRoot::decode(&record[MAP][..MapRoot::LEN])
                .map_err(|error| Unreadable::Damaged(error.to_string()))?,
            log: LogMark::decode(record[LOG].try_into().expect("64 bytes")).map_err(damaged)?,
        };
        if meta.floor <= meta.version {
            return Err(damaged("the version is not below the floor"));
        }
        Ok(meta)
    }
}

/// The seeds that the copies of a record in a slot name, whether or not the copies can be read.
pub(crate) fn seeds(slot: &[u8]) -> Vec<u64> {
    let copies = [Some(0), slot.len().checked_sub(RECORD_LEN)];
    let copies = copies.into_iter().flatten();
    let ids = copies.filter_map(|at| slot.get(at..at + RECORD_LEN)?[FILE_ID].first_chunk());
    ids.map(|id| u64::from_le_bytes(*id)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta() -> Meta {
        let mut meta = Meta::first(PageSize::DEFAULT, *b"sixteen bytes id");
        meta.version = Version::new(41);
        meta.successor(Version::new(42))
    }

    #[test]
    fn a_record_reads_back_as_it_was_written() {
        assert_eq!(Meta::decode_slot(&meta().encode_slot()), Ok(meta()));
    }

    #[test]
    fn either_copy_is_enough() {
        for damaged in [0, META_LEN - 1] {
            let mut slot = meta().encode_slot();
            slot[damaged] ^= 1;
            assert_eq!(Meta::decode_slot(&slot), Ok(meta()), "byte {damaged}");
        }
    }

    #[test]
    fn with_both_copies_damaged_the_slot_is_unreadable() {
        for byte in 16..RECORD_LEN {
            let mut slot = meta().encode_slot();
            slot[byte] ^= 4;
            slot[META_LEN - RECORD_LEN + byte] ^= 4;
            let verdict = Meta::decode_slot(&slot);
            assert!(
                matches!(verdict, Err(Unreadable::Damaged(_))),
                "byte {byte}: {verdict:?}"
            );
        }
    }

    #[test]
    fn the_newer_copy_of_a_torn_write_counts() {
        let (old, new) = (meta(), meta().successor(Version::new(50)));
        let mut slot = old.encode_slot();
        slot[META_LEN - RECORD_LEN..].copy_from_slice(&new.encode());
        assert_eq!(Meta::decode_slot(&slot), Ok(new));
    }

    #[test]
    fn a_later_format_is_told_from_damage() {
        let mut slot = meta().encode_slot();
        for copy in [0, META_LEN - RECORD_LEN] {
            slot[copy + FORMAT_NUMBER.start] = 2;
        }
        assert_eq!(Meta::decode_slot(&slot), Err(Unreadable::Newer(2)));
    }

    #[test]
    fn the_bytes_of_a_record_are_these() {
        let record = meta().encode();
        assert_eq!(&record[..16], b"Bifolio\n\x01\0\0\0\0\x10\0\0");
        assert_eq!(&record[16..32], b"sixteen bytes id");
        assert_eq!(record[32..40], 2_u64.to_le_bytes(), "sequence");
        assert_eq!(record[40..48], 41_u64.to_le_bytes(), "version");
        assert_eq!(record[48..56], (42 + FLOOR_STEP).to_le_bytes(), "floor");
        assert_eq!(record[56..72], [0; 16], "flags, reserved, boot");
    }
}
