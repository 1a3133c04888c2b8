//! The frame: a piece of a commit, or the padding behind a group of them.
//!
//! All integers are little-endian. A frame begins at a multiple of 8 bytes, and never within less
//! than its header's length before the end of a 512-byte sector: what is left of a sector then is
//! zeros. A frame does not cross the end of its segment; a commit does, in several frames.
//!
// ANCHOR: frame
//! | offset | size | field    | meaning                                                           |
//! |-------:|-----:|----------|-------------------------------------------------------------------|
//! |      0 |    8 | checksum | XXH3-64 of the frame from byte 8 to its end, seeded per database  |
//! |      8 |    8 | previous | checksum of the frame before, or of the segment's header          |
//! |     16 |    8 | salt     | the salt of the segment's header                                  |
//! |     24 |    8 | position | of this frame itself                                              |
//! |     32 |    8 | synced   | everything below this position was synced when this was written   |
//! |     40 |    6 | version  | of the commit it belongs to; 0 for padding                        |
//! |     46 |    1 | kind     | 1 whole, 2 first, 3 middle, 4 last, 5 padding                     |
//! |     47 |    1 | reserved | zero                                                              |
//! |     48 |    4 | length   | bytes of payload                                                  |
//! |     52 |    4 | piece    | 0 for the first frame of a commit, then 1, 2, …; 0 for padding    |
//! |     56 |    … | payload  | a stretch of the commit's records; zeros for padding              |
//! |      … | 0..8 | zeros    | to the next multiple of 8                                         |
// ANCHOR_END: frame
//!
//! A frame is *sound* if its checksum, its position and its fixed bytes are right. It is the *next*
//! frame if it is sound, carries the salt of its segment, and its `previous` is the checksum of the
//! frame before. A sound frame that is not the next one is never replayed, but it is believed in
//! what it says of `synced`: that is how damage is told from a torn tail.

use std::ops::Range;

use bifolio_pager::Version;
use bifolio_pager::defect::{Defect, planted};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::position::{ALIGN, Position, SECTOR};

pub(super) const fn field(after: &Range<usize>, size: usize) -> Range<usize> {
    after.end..after.end + size
}

const CHECKSUM: Range<usize> = 0..8;
const PREVIOUS: Range<usize> = field(&CHECKSUM, 8);
const SALT: Range<usize> = field(&PREVIOUS, 8);
const POSITION: Range<usize> = field(&SALT, 8);
const SYNCED: Range<usize> = field(&POSITION, 8);
const VERSION: Range<usize> = field(&SYNCED, 6);
const KIND: Range<usize> = field(&VERSION, 1);
const RESERVED: Range<usize> = field(&KIND, 1);
const LENGTH: Range<usize> = field(&RESERVED, 4);
const PIECE: Range<usize> = field(&LENGTH, 4);
/// Bytes of a frame before its payload.
pub(super) const HEADER_LEN: usize = PIECE.end;

const _: () = assert!(VERSION.start == 40);
const _: () = assert!(HEADER_LEN == 56);
const _: () = assert!(HEADER_LEN.is_multiple_of(ALIGN as usize));
const _: () = assert!(SECTOR.is_multiple_of(ALIGN) && HEADER_LEN as u64 <= SECTOR);

/// The most payload that the writer puts into one frame. A reader takes what fits in the segment.
pub(super) const MAX_PAYLOAD: usize = 32 << 10;

/// What a frame is of its commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// All of it.
    Whole = 1,
    /// The first of several.
    First = 2,
    /// Neither the first nor the last.
    Middle = 3,
    /// The last: with it the commit is complete.
    Last = 4,
    /// Nothing: it fills up to where the next group begins.
    Padding = 5,
}

impl Kind {
    fn of(number: u8) -> Option<Self> {
        Some(match number {
            1 => Kind::Whole,
            2 => Kind::First,
            3 => Kind::Middle,
            4 => Kind::Last,
            5 => Kind::Padding,
            _ => return None,
        })
    }
}

/// What the appending side knows of a frame; the rest is filled in by [`seal`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Label {
    pub position: Position,
    pub version: Version,
    pub kind: Kind,
    pub piece: u32,
}

impl Label {
    pub fn padding(position: Position) -> Self {
        Label {
            position,
            version: Version::ZERO,
            kind: Kind::Padding,
            piece: 0,
        }
    }
}

/// Bytes that a frame with this much payload takes.
pub(super) const fn len_with(payload: usize) -> usize {
    (HEADER_LEN + payload).next_multiple_of(ALIGN as usize)
}

/// Writes what the appending side knows to the front of `frame`, which is zeros.
pub(super) fn label(frame: &mut [u8], label: Label, payload_len: usize) {
    let length = u32::try_from(payload_len).expect("a payload fits in a segment");
    frame[POSITION].copy_from_slice(&label.position.get().to_le_bytes());
    frame[VERSION].copy_from_slice(&label.version.get().to_le_bytes()[..6]);
    frame[KIND.start] = label.kind as u8;
    frame[LENGTH].copy_from_slice(&length.to_le_bytes());
    frame[PIECE].copy_from_slice(&label.piece.to_le_bytes());
}

/// What links a frame to what was written before it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Link {
    pub previous: u64,
    pub salt: u64,
    pub synced: Position,
    pub seed: u64,
}

/// Completes the labelled frame at the front of `bytes`. Returns its length and its checksum.
pub(super) fn seal(bytes: &mut [u8], link: Link) -> (usize, u64) {
    let len = len_with(u32_at(bytes, LENGTH) as usize);
    let frame = &mut bytes[..len];
    frame[PREVIOUS].copy_from_slice(&link.previous.to_le_bytes());
    frame[SALT].copy_from_slice(&link.salt.to_le_bytes());
    frame[SYNCED].copy_from_slice(&link.synced.get().to_le_bytes());
    let checksum = xxh3_64_with_seed(&frame[CHECKSUM.end..], link.seed);
    frame[CHECKSUM].copy_from_slice(&checksum.to_le_bytes());
    (len, checksum)
}

/// A sound frame, as read back. Its payload follows [`HEADER_LEN`] bytes of header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub label: Label,
    pub checksum: u64,
    pub previous: u64,
    pub salt: u64,
    pub synced: Position,
    pub payload_len: usize,
}

impl Frame {
    /// The sound frame at the front of `bytes`, which go to the end of the segment; `None` if
    /// there is none. Costs eight bytes looked at where nothing was ever written.
    pub fn read(bytes: &[u8], position: Position, seed: u64) -> Option<Frame> {
        if bytes.len() < HEADER_LEN || u64_at(bytes, POSITION) != position.get() {
            return None;
        }
        let payload_len = u32_at(bytes, LENGTH) as usize;
        if payload_len > bytes.len() - HEADER_LEN || len_with(payload_len) > bytes.len() {
            return None;
        }
        let frame = &bytes[..len_with(payload_len)];
        let kind = Kind::of(frame[KIND.start])?;
        let checksum = u64_at(frame, CHECKSUM);
        if frame[RESERVED.start] != 0
            || frame[HEADER_LEN + payload_len..]
                .iter()
                .any(|&byte| byte != 0)
            || xxh3_64_with_seed(&frame[CHECKSUM.end..], seed) != checksum
                && !planted(Defect::SkipFrameChecksum)
        {
            return None;
        }
        let mut version = [0; 8];
        version[..6].copy_from_slice(&frame[VERSION]);
        Some(Frame {
            label: Label {
                position,
                version: Version::new(u64::from_le_bytes(version)),
                kind,
                piece: u32_at(frame, PIECE),
            },
            checksum,
            previous: u64_at(frame, PREVIOUS),
            salt: u64_at(frame, SALT),
            synced: Position::new(u64_at(frame, SYNCED)),
            payload_len,
        })
    }

    /// Bytes from this frame to the next.
    pub fn len(&self) -> usize {
        len_with(self.payload_len)
    }
}

pub(super) fn u32_at(bytes: &[u8], at: Range<usize>) -> u32 {
    u32::from_le_bytes(bytes[at].try_into().expect("four bytes"))
}

pub(super) fn u64_at(bytes: &[u8], at: Range<usize>) -> u64 {
    u64::from_le_bytes(bytes[at].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Position = Position::new(0x12_3200);
    const LABEL: Label = Label {
        position: AT,
        version: Version::new(0x0A0B),
        kind: Kind::Last,
        piece: 3,
    };
    const LINK: Link = Link {
        previous: 0x11,
        salt: 0x22,
        synced: Position::new(0x12_3000),
        seed: 99,
    };

    fn sealed() -> Vec<u8> {
        let mut bytes = vec![0; 128];
        bytes[HEADER_LEN..HEADER_LEN + 5].copy_from_slice(b"hello");
        label(&mut bytes, LABEL, 5);
        let (len, _) = seal(&mut bytes, LINK);
        assert_eq!(len, 64);
        bytes
    }

    #[test]
    fn a_frame_reads_back_as_it_was_written() {
        let frame = Frame::read(&sealed(), AT, LINK.seed).unwrap();
        assert_eq!(frame.label, LABEL);
        assert_eq!(
            (frame.previous, frame.salt, frame.synced),
            (0x11, 0x22, LINK.synced)
        );
        assert_eq!((frame.payload_len, frame.len()), (5, 64));
    }

    #[test]
    fn the_bytes_of_a_frame_are_these() {
        #[rustfmt::skip]
        let expected = [
            0x11, 0, 0, 0, 0, 0, 0, 0,             // previous
            0x22, 0, 0, 0, 0, 0, 0, 0,             // salt
            0x00, 0x32, 0x12, 0, 0, 0, 0, 0,       // position
            0x00, 0x30, 0x12, 0, 0, 0, 0, 0,       // synced
            0x0B, 0x0A, 0, 0, 0, 0, 4, 0,          // version, kind, reserved
            5, 0, 0, 0, 3, 0, 0, 0,                // length, piece
            b'h', b'e', b'l', b'l', b'o', 0, 0, 0, // payload, zeros
        ];
        assert_eq!(sealed()[8..64], expected);
        assert_eq!(
            u64_at(&sealed(), CHECKSUM),
            xxh3_64_with_seed(&expected, 99)
        );
    }

    #[test]
    fn every_flipped_bit_makes_a_frame_unsound() {
        for bit in 0..64 * 8 {
            let mut bytes = sealed();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Frame::read(&bytes, AT, LINK.seed), None, "bit {bit}");
        }
    }

    #[test]
    fn a_frame_is_unsound_elsewhere_or_in_another_database_or_cut_short() {
        let bytes = sealed();
        assert_eq!(Frame::read(&bytes, AT.plus(8), LINK.seed), None);
        assert_eq!(Frame::read(&bytes, AT, LINK.seed + 1), None);
        for len in 0..64 {
            assert_eq!(Frame::read(&bytes[..len], AT, LINK.seed), None, "{len}");
        }
    }
}
