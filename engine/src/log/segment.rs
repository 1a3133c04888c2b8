//! The header of a segment: its first sector.
//!
//! A segment is a file of fixed size, beside the database: `<database>-log.<number, 16 hex digits>`.
//! It has its full length, zero-filled or left over from its former life, before it gets that name.
//! It is *begun* when its header is written; until then it is a *spare*.
//!
// ANCHOR: segment
//! | offset | size | field         | meaning                                                       |
//! |-------:|-----:|---------------|---------------------------------------------------------------|
//! |      0 |    8 | magic         | `BifoLog\n`                                                   |
//! |      8 |    4 | format        | 1; a reader refuses what it does not know                     |
//! |     12 |    4 | segment_bytes | length of the file, a power of two                            |
//! |     16 |   16 | file_id       | of the database the log belongs to                            |
//! |     32 |    8 | number        | of this segment, as in its name; a recycled one has another   |
//! |     40 |    8 | salt          | drawn when the log is created and at each recovery            |
//! |     48 |    8 | resumes       | the position where the history before this segment ends       |
//! |     56 |    8 | previous      | checksum of the last frame before that position; 0: none      |
//! |     64 |  440 | reserved      | zero                                                          |
//! |    504 |    8 | checksum      | XXH3-64 of bytes 0..504                                       |
// ANCHOR_END: segment
//!
//! `resumes` is the segment's own start where it continues the one before. It lies further back
//! where a recovery began it: then what lies between is no part of the history, whatever it holds.
//! Everything below `resumes` was synced before the header was written.

use std::ops::Range;

use xxhash_rust::xxh3::xxh3_64;

use super::frame::{field, u32_at, u64_at};
use super::position::{Layout, Position, SECTOR};

/// The format that this release writes, and the newest that it reads.
pub(super) const FORMAT: u32 = 1;
const MAGIC_BYTES: [u8; 8] = *b"BifoLog\n";

const MAGIC: Range<usize> = 0..8;
const FORMAT_NUMBER: Range<usize> = field(&MAGIC, 4);
const SEGMENT_BYTES: Range<usize> = field(&FORMAT_NUMBER, 4);
const FILE_ID: Range<usize> = field(&SEGMENT_BYTES, 16);
const NUMBER: Range<usize> = field(&FILE_ID, 8);
const SALT: Range<usize> = field(&NUMBER, 8);
const RESUMES: Range<usize> = field(&SALT, 8);
const PREVIOUS: Range<usize> = field(&RESUMES, 8);
const RESERVED: Range<usize> = field(&PREVIOUS, 440);
const CHECKSUM: Range<usize> = field(&RESERVED, 8);
/// Bytes of the header: one sector.
pub(super) const HEADER_LEN: usize = CHECKSUM.end;

const _: () = assert!(RESERVED.start == 64);
const _: () = assert!(HEADER_LEN as u64 == SECTOR);

/// The header of a begun segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub segment_bytes: u64,
    pub file_id: [u8; 16],
    pub number: u64,
    pub salt: u64,
    pub resumes: Position,
    pub previous: u64,
}

/// What the first sector of a segment's file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FirstSector {
    /// A sound header with this number, of this database, and its checksum.
    Begun(Header, u64),
    /// Zeros, a torn header, or the header of a former life: the segment is a spare.
    Spare,
    /// A sound header of another database.
    Foreign,
    /// A header that claims a format we do not know.
    Newer(u32),
}

impl Header {
    pub fn encode(&self) -> ([u8; HEADER_LEN], u64) {
        let mut bytes = [0; HEADER_LEN];
        let segment_bytes = u32::try_from(self.segment_bytes).expect("Layout::MAX_BYTES");
        bytes[MAGIC].copy_from_slice(&MAGIC_BYTES);
        bytes[FORMAT_NUMBER].copy_from_slice(&FORMAT.to_le_bytes());
        bytes[SEGMENT_BYTES].copy_from_slice(&segment_bytes.to_le_bytes());
        bytes[FILE_ID].copy_from_slice(&self.file_id);
        bytes[NUMBER].copy_from_slice(&self.number.to_le_bytes());
        bytes[SALT].copy_from_slice(&self.salt.to_le_bytes());
        bytes[RESUMES].copy_from_slice(&self.resumes.get().to_le_bytes());
        bytes[PREVIOUS].copy_from_slice(&self.previous.to_le_bytes());
        let checksum = xxh3_64(&bytes[..CHECKSUM.start]);
        bytes[CHECKSUM].copy_from_slice(&checksum.to_le_bytes());
        (bytes, checksum)
    }

    /// Reads the first sector of segment `number` of the database `file_id`.
    pub fn decode(bytes: &[u8], number: u64, file_id: [u8; 16], layout: Layout) -> FirstSector {
        if bytes[MAGIC] != MAGIC_BYTES {
            return FirstSector::Spare;
        }
        // A later format may lay out, and check, everything behind its number differently.
        let format = u32_at(bytes, FORMAT_NUMBER);
        if format > FORMAT && format < 1 << 16 {
            return FirstSector::Newer(format);
        }
        let checksum = u64_at(bytes, CHECKSUM);
        if format != FORMAT || xxh3_64(&bytes[..CHECKSUM.start]) != checksum {
            return FirstSector::Spare;
        }
        let header = Header {
            segment_bytes: u32_at(bytes, SEGMENT_BYTES).into(),
            file_id: bytes[FILE_ID].try_into().expect("16 bytes"),
            number: u64_at(bytes, NUMBER),
            salt: u64_at(bytes, SALT),
            resumes: Position::new(u64_at(bytes, RESUMES)),
            previous: u64_at(bytes, PREVIOUS),
        };
        if header.file_id != file_id {
            return FirstSector::Foreign;
        }
        let consistent = header.number == number
            && header.segment_bytes == layout.segment_bytes()
            && header.resumes <= layout.start(number)
            && header.resumes >= layout.start(1)
            && layout.is_boundary(header.resumes)
            && bytes[RESERVED].iter().all(|&byte| byte == 0);
        if consistent {
            FirstSector::Begun(header, checksum)
        } else {
            FirstSector::Spare
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: [u8; 16] = *b"sixteen bytes id";

    fn layout() -> Layout {
        Layout::new(1 << 16).unwrap()
    }

    fn header() -> Header {
        Header {
            segment_bytes: 1 << 16,
            file_id: ID,
            number: 5,
            salt: 0x5A17,
            resumes: layout().start(4).plus(1024),
            previous: 0xABCD,
        }
    }

    fn decode(bytes: &[u8]) -> FirstSector {
        Header::decode(bytes, 5, ID, layout())
    }

    #[test]
    fn a_header_reads_back_as_it_was_written() {
        let (bytes, checksum) = header().encode();
        assert_eq!(decode(&bytes), FirstSector::Begun(header(), checksum));
    }

    #[test]
    fn the_bytes_of_a_header_are_these() {
        let (bytes, checksum) = header().encode();
        assert_eq!(&bytes[..16], b"BifoLog\n\x01\0\0\0\0\0\x01\0");
        assert_eq!(&bytes[16..32], b"sixteen bytes id");
        assert_eq!(bytes[32..40], 5_u64.to_le_bytes(), "number");
        assert_eq!(bytes[40..48], 0x5A17_u64.to_le_bytes(), "salt");
        assert_eq!(bytes[48..56], 0x4_0400_u64.to_le_bytes(), "resumes");
        assert_eq!(bytes[56..64], 0xABCD_u64.to_le_bytes(), "previous");
        assert_eq!(bytes[64..504], [0; 440], "reserved");
        assert_eq!(bytes[504..], checksum.to_le_bytes(), "checksum");
    }

    #[test]
    fn no_damaged_header_counts_as_begun() {
        for bit in 0..HEADER_LEN * 8 {
            let (mut bytes, _) = header().encode();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(
                !matches!(decode(&bytes), FirstSector::Begun(..)),
                "bit {bit}"
            );
        }
        assert_eq!(decode(&[0; HEADER_LEN]), FirstSector::Spare);
    }

    #[test]
    fn a_recycled_header_a_foreign_one_and_a_newer_one_are_told_apart() {
        let (bytes, _) = header().encode();
        assert_eq!(Header::decode(&bytes, 6, ID, layout()), FirstSector::Spare);
        assert_eq!(
            Header::decode(&bytes, 5, [0; 16], layout()),
            FirstSector::Foreign
        );
        let mut newer = bytes;
        newer[8] = 2;
        assert_eq!(decode(&newer), FirstSector::Newer(2));
    }

    #[test]
    fn a_sound_header_with_impossible_content_is_not_believed() {
        let impossible = [
            Header {
                segment_bytes: 1 << 15,
                ..header()
            },
            Header {
                resumes: layout().start(5).plus(8),
                ..header()
            },
            Header {
                resumes: Position::new(0),
                ..header()
            },
            Header {
                resumes: layout().start(4).plus(1025),
                ..header()
            },
            Header {
                resumes: layout().start(4).plus(8),
                ..header()
            },
        ];
        for header in impossible {
            assert_eq!(decode(&header.encode().0), FirstSector::Spare, "{header:?}");
        }
    }
}
