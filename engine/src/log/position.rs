//! Where things lie in the log.

use std::fmt;

use super::error::{Error, Result};
use super::frame;

/// Bytes in a sector: storage writes each one whole or not at all.
pub(super) const SECTOR: u64 = 512;
/// Frames begin at multiples of this.
pub(super) const ALIGN: u64 = 8;

/// A place in the log: `segment number * segment size + byte of its file`. Only ever grows, also
/// across crashes, so the difference of two positions is the log that lies between them, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(u64);

impl Position {
    /// The position of this number, as it came from [`Position::get`].
    pub const fn new(number: u64) -> Self {
        Position(number)
    }

    /// The number.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Bytes of log from `earlier` to here; 0 if `earlier` is later.
    pub const fn since(self, earlier: Position) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    pub(super) const fn plus(self, bytes: u64) -> Self {
        Position(self.0 + bytes)
    }
}

impl fmt::Debug for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "@{:#x}", self.0)
    }
}

/// What comes next at a position, by the rules of the format alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// The header of a segment.
    Header,
    /// So few bytes to the end of the sector that no frame begins in them: zeros.
    Gap(u64),
    /// A frame, which may take this many bytes, to the end of the segment.
    Frame(u64),
}

/// The size of the segments, and the arithmetic that follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    shift: u32,
}

impl Layout {
    /// The smallest segment there can be: for tests.
    pub const MIN_BYTES: u64 = 4096;
    /// The largest: recovery reads a segment as a whole.
    pub const MAX_BYTES: u64 = 1 << 28;

    /// # Errors
    /// [`Error::BadOption`] unless `segment_bytes` is a power of two within the limits.
    pub fn new(segment_bytes: u64) -> Result<Self> {
        if segment_bytes.is_power_of_two()
            && (Self::MIN_BYTES..=Self::MAX_BYTES).contains(&segment_bytes)
        {
            return Ok(Layout {
                shift: segment_bytes.trailing_zeros(),
            });
        }
        Err(Error::BadOption(format!(
            "a log segment has a power of two of bytes from {} to {}, not {segment_bytes}",
            Self::MIN_BYTES,
            Self::MAX_BYTES
        )))
    }

    pub fn segment_bytes(self) -> u64 {
        1 << self.shift
    }

    /// The segment that the byte at `position` lies in.
    pub fn segment(self, position: Position) -> u64 {
        position.0 >> self.shift
    }

    /// The segment that the byte *before* `position` lies in: whose history ends there.
    pub fn segment_before(self, position: Position) -> u64 {
        (position.0 - 1) >> self.shift
    }

    pub fn offset(self, position: Position) -> u64 {
        position.0 & (self.segment_bytes() - 1)
    }

    pub fn start(self, segment: u64) -> Position {
        Position(segment << self.shift)
    }

    /// Segment and offset, for messages.
    pub fn split(self, position: Position) -> (u64, u64) {
        (self.segment(position), self.offset(position))
    }

    pub fn place(self, position: Position) -> Place {
        let offset = self.offset(position);
        let gap = SECTOR - offset % SECTOR;
        if offset == 0 {
            Place::Header
        } else if gap < frame::HEADER_LEN as u64 {
            Place::Gap(gap)
        } else {
            Place::Frame(self.segment_bytes() - offset)
        }
    }

    /// Whether a frame, or what follows the last one, can lie here.
    pub fn is_boundary(self, position: Position) -> bool {
        let offset = self.offset(position);
        offset.is_multiple_of(ALIGN) && (offset == 0 || offset >= SECTOR)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_never_begins_where_its_header_would_cross_a_sector() {
        let layout = Layout::new(4096).unwrap();
        let start = layout.start(3);
        assert_eq!(layout.place(start), Place::Header);
        assert_eq!(layout.place(start.plus(512)), Place::Frame(3584));
        for offset in (512..4096).step_by(8) {
            let left = 512 - offset % 512;
            let expected = if left < 56 {
                Place::Gap(left)
            } else {
                Place::Frame(4096 - offset)
            };
            assert_eq!(layout.place(start.plus(offset)), expected, "{offset}");
        }
    }

    #[test]
    fn the_end_of_a_segment_is_the_start_of_the_next() {
        let layout = Layout::new(8192).unwrap();
        let end = layout.start(7).plus(8192);
        assert_eq!((layout.segment(end), layout.segment_before(end)), (8, 7));
        assert_eq!(end, layout.start(8));
        assert_eq!(end.since(layout.start(7)), 8192);
        assert_eq!(layout.start(7).since(end), 0);
    }

    #[test]
    fn only_powers_of_two_are_segment_sizes() {
        for bytes in [0, 1, 2048, 4097, 12288, 1 << 29] {
            assert!(
                matches!(Layout::new(bytes), Err(Error::BadOption(_))),
                "{bytes}"
            );
        }
    }
}
