//! How the log is kept, and what it has done.

use super::error::{Error, Result};
use super::frame::MAX_PAYLOAD;
use super::position::Layout;

/// How the log makes a group of commits durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum SyncMethod {
    /// Whichever of the two a short measurement finds faster when the log is opened.
    #[default]
    Auto,
    /// A write, then `fdatasync`.
    Fdatasync,
    /// A write to a descriptor that was opened with `O_DSYNC`.
    Dsync,
}

/// How the log is kept. Of these, only the size of the segments is part of the format, and fixed
/// when the log is created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Bytes in a segment: a power of two from 4 KiB to 256 MiB. Recovery reads a segment as a
    /// whole, so it needs this much memory.
    pub segment_bytes: u64,
    /// Segments that are kept ready for use; those that a checkpoint frees beyond this are removed.
    pub spare_segments: usize,
    /// Bytes of each of the two buffers: one is filled while the other is written. When both are
    /// full, whoever appends waits. From 128 KiB to 256 MiB.
    pub buffer_bytes: usize,
    /// How commits are made durable.
    pub sync: SyncMethod,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            segment_bytes: 16 << 20,
            spare_segments: 4,
            buffer_bytes: 1 << 20,
            sync: SyncMethod::Auto,
        }
    }
}

impl Options {
    /// Room for any frame, and for what may be needed before and after it.
    const MIN_BUFFER_BYTES: usize = 128 << 10;
    const MAX_BUFFER_BYTES: usize = 256 << 20;

    pub(super) fn check(&self) -> Result<()> {
        Layout::new(self.segment_bytes)?;
        if (Self::MIN_BUFFER_BYTES..=Self::MAX_BUFFER_BYTES).contains(&self.buffer_bytes) {
            return Ok(());
        }
        Err(Error::BadOption(format!(
            "the log's buffer has from {} to {} bytes, not {}",
            Self::MIN_BUFFER_BYTES,
            Self::MAX_BUFFER_BYTES,
            self.buffer_bytes
        )))
    }
}

const _: () = assert!(Options::MIN_BUFFER_BYTES >= 2 * MAX_PAYLOAD);

/// What the log did since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogCounters {
    /// Commits appended.
    pub commits: u64,
    /// Bytes of records in them.
    pub record_bytes: u64,
    /// Bytes written to segments: records, headers and padding. Not what was zero-filled.
    pub bytes_written: u64,
    /// Groups made durable: one write and one sync each, or one `O_DSYNC` write.
    pub groups: u64,
    /// The most commits that ended in one group.
    pub largest_group: u64,
    /// Segments made new, and zero-filled.
    pub segments_created: u64,
    /// Segments used again.
    pub segments_recycled: u64,
    /// Segments removed.
    pub segments_removed: u64,
    /// Times that an append had to wait for, or itself make, room in the buffer.
    pub full_buffers: u64,
}
