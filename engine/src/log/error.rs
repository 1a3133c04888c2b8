//! What can go wrong with the log.

use std::borrow::Cow;
use std::io;
use std::sync::Arc;

/// The result of a log operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of the log. Each variant is here because some caller does something different with it.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The log holds bytes that were never written there, or has lost some that were. Commits
    /// that were acknowledged may be gone: restore a copy, or salvage.
    #[error("log segment {segment} is corrupt at byte {offset}: {what}")]
    Corrupt {
        /// The number of the segment, which is in its file's name.
        segment: u64,
        /// Where in its file.
        offset: u64,
        /// What is wrong.
        what: Cow<'static, str>,
    },
    /// A segment's file does not have the length that every segment has from before it gets its
    /// name. Restore a copy.
    #[error("log segment {segment} has {found} bytes, not {expected}")]
    WrongLength {
        /// The number of the segment.
        segment: u64,
        /// Bytes in every segment of this log.
        expected: u64,
        /// Bytes in the file.
        found: u64,
    },
    /// A segment that the database needs is not there: copied or moved without its log.
    #[error("log segment {segment} is missing: was the database copied without its log?")]
    Missing {
        /// The number of the segment.
        segment: u64,
    },
    /// A segment with the right name belongs to another database. Nothing was changed.
    #[error("log segment {segment} belongs to another database")]
    Foreign {
        /// The number of the segment.
        segment: u64,
    },
    /// A segment was written by a later release. Open the database with that one.
    #[error("log segment {segment} has format {found}; this release reads format {supported}")]
    NewerFormat {
        /// The number of the segment.
        segment: u64,
        /// The format number in the file.
        found: u32,
        /// The newest format number that this release knows.
        supported: u32,
    },
    /// A log was to be created where there is one.
    #[error("there is a log already: {name}")]
    Exists {
        /// The first file found.
        name: String,
    },
    /// The operating system refused an operation.
    #[error("{operation} failed: {source}")]
    Io {
        /// What was tried, and on which file.
        operation: Cow<'static, str>,
        /// What the operating system said.
        source: Arc<io::Error>,
    },
    /// An earlier write or sync failed, so what reached storage is unknown. Commits that were not
    /// acknowledged have an unknown outcome until the database is reopened.
    #[error("the log accepts no further write until it is reopened, because {first}")]
    Poisoned {
        /// The first failure, in words.
        first: Arc<str>,
    },
    /// An option cannot be used.
    #[error("unusable option: {0}")]
    BadOption(String),
}

impl Error {
    #[cold]
    pub(super) fn corrupt(segment: u64, offset: u64, what: impl Into<Cow<'static, str>>) -> Self {
        Error::Corrupt {
            segment,
            offset,
            what: what.into(),
        }
    }

    /// Whether the disk, or what this user may have of it, is full.
    pub(super) fn is_no_room(&self) -> bool {
        use io::ErrorKind::{QuotaExceeded, StorageFull};
        matches!(self, Error::Io { source, .. } if matches!(source.kind(), StorageFull | QuotaExceeded))
    }

    #[cold]
    pub(super) fn io(operation: impl Into<Cow<'static, str>>, source: io::Error) -> Self {
        Error::Io {
            operation: operation.into(),
            source: Arc::new(source),
        }
    }
}
