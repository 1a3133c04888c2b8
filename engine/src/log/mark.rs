//! The mark: what the database's meta record stores of the log.
//!
// ANCHOR: mark
//! | offset | size | field         | meaning                                                       |
//! |-------:|-----:|---------------|---------------------------------------------------------------|
//! |      0 |    8 | salt          | of the frames at `position`                                   |
//! |      8 |    8 | position      | replay begins here; 0: there is no log                        |
//! |     16 |    8 | durable       | the log was synced up to here when the meta was written       |
//! |     24 |    4 | segment_bytes | length of every segment                                       |
//! |     28 |   36 | reserved      | zero                                                          |
// ANCHOR_END: mark
//!
//! Integers are little-endian. The meta record's own checksum covers these bytes.

use std::ops::Range;

use super::frame::{field, u32_at, u64_at};
use super::position::{Layout, Position};

const SALT: Range<usize> = 0..8;
const POSITION: Range<usize> = field(&SALT, 8);
const DURABLE: Range<usize> = field(&POSITION, 8);
const SEGMENT_BYTES: Range<usize> = field(&DURABLE, 4);
const RESERVED: Range<usize> = field(&SEGMENT_BYTES, 36);

const _: () = assert!(RESERVED.end == LogMark::LEN);

/// Where recovery begins to replay, which log that is, and how far it was durable at least.
///
/// Got from [`Log::mark`](super::Log::mark), stored in the meta, handed to recovery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogMark {
    pub(super) salt: u64,
    pub(super) position: Position,
    pub(super) durable: Position,
    pub(super) segment_bytes: u64,
}

impl LogMark {
    /// Bytes of an encoded mark.
    pub const LEN: usize = 64;

    /// The mark as it is stored.
    pub fn encode(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        let segment_bytes = u32::try_from(self.segment_bytes).expect("Layout::MAX_BYTES");
        bytes[SALT].copy_from_slice(&self.salt.to_le_bytes());
        bytes[POSITION].copy_from_slice(&self.position.get().to_le_bytes());
        bytes[DURABLE].copy_from_slice(&self.durable.get().to_le_bytes());
        bytes[SEGMENT_BYTES].copy_from_slice(&segment_bytes.to_le_bytes());
        bytes
    }

    /// Reads a stored mark; `Ok(None)` for zeros, which say that there is no log.
    ///
    /// # Errors
    /// What is wrong with it, if it is no mark that was ever written.
    pub fn decode(bytes: &[u8; Self::LEN]) -> Result<Option<Self>, &'static str> {
        if bytes.iter().all(|&byte| byte == 0) {
            return Ok(None);
        }
        if bytes[RESERVED].iter().any(|&byte| byte != 0) {
            return Err("a reserved byte of the log mark is not zero");
        }
        let mark = LogMark {
            salt: u64_at(bytes, SALT),
            position: Position::new(u64_at(bytes, POSITION)),
            durable: Position::new(u64_at(bytes, DURABLE)),
            segment_bytes: u32_at(bytes, SEGMENT_BYTES).into(),
        };
        let layout = Layout::new(mark.segment_bytes).map_err(|_| "the log's segment size")?;
        let possible = mark.position >= layout.start(1)
            && mark.position <= mark.durable
            && layout.is_boundary(mark.position)
            && mark.durable.get() < u64::MAX / 2;
        if possible {
            Ok(Some(mark))
        } else {
            Err("the log mark's position is impossible")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARK: LogMark = LogMark {
        salt: 77,
        position: Position::new((1 << 24) + 1024),
        durable: Position::new((1 << 24) + 2048),
        segment_bytes: 1 << 24,
    };

    #[test]
    fn a_mark_reads_back_as_it_was_written() {
        assert_eq!(LogMark::decode(&MARK.encode()), Ok(Some(MARK)));
        assert_eq!(LogMark::decode(&[0; 64]), Ok(None));
    }

    #[test]
    fn the_bytes_of_a_mark_are_these() {
        let bytes = MARK.encode();
        assert_eq!(bytes[..8], 77_u64.to_le_bytes());
        assert_eq!(bytes[8..16], 0x100_0400_u64.to_le_bytes());
        assert_eq!(bytes[16..24], 0x100_0800_u64.to_le_bytes());
        assert_eq!(bytes[24..28], 0x100_0000_u32.to_le_bytes());
        assert_eq!(bytes[28..], [0; 36]);
    }

    #[test]
    fn impossible_marks_are_refused() {
        let impossible = [
            LogMark {
                position: Position::new(512),
                ..MARK
            },
            LogMark {
                position: MARK.durable.plus(8),
                ..MARK
            },
            LogMark {
                position: Position::new((1 << 24) + 8),
                ..MARK
            },
            LogMark {
                position: Position::new((1 << 24) + 1025),
                ..MARK
            },
            LogMark {
                segment_bytes: 12345,
                ..MARK
            },
            LogMark {
                durable: Position::new(u64::MAX),
                ..MARK
            },
        ];
        for mark in impossible {
            assert!(LogMark::decode(&mark.encode()).is_err(), "{mark:?}");
        }
        let mut reserved = MARK.encode();
        reserved[63] = 1;
        assert!(LogMark::decode(&reserved).is_err());
    }
}
