//! What can go wrong below the tree.

use std::borrow::Cow;
use std::io;
use std::sync::Arc;

use crate::page::{PageId, PageRef};

/// The result of a pager's operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of a pager. Each variant is here because some caller does something different with it.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file holds bytes that this code never writes there. Dump the page, restore a backup.
    #[error("page {page} is corrupt: {what}")]
    Corrupt {
        /// The page that failed its check.
        page: PageId,
        /// What is wrong with it.
        what: Cow<'static, str>,
    },
    /// The operating system refused an operation.
    #[error("{operation} failed: {source}")]
    Io {
        /// What was tried, with the page or offset where there is one.
        operation: Cow<'static, str>,
        /// What the operating system said.
        source: Arc<io::Error>,
    },
    /// An earlier write or sync failed, so what reached storage is unknown. Close and reopen.
    #[error("no further write is accepted until the file is reopened, because {first}")]
    Poisoned {
        /// The first failure, in words.
        first: Arc<str>,
    },
    /// Every frame is guarded or latched: use fewer guards at once, or a larger pool.
    #[error("all {capacity} frames of the pool are in use at once")]
    NoFreeFrame {
        /// Frames in the pool.
        capacity: usize,
    },
    /// A guard of this page is alive, so it cannot be created, written or sealed now.
    #[error("page {page} is guarded by somebody else")]
    Guarded {
        /// The page in question.
        page: PageId,
    },
    /// The page is in a state that does not allow the call: a mistake of the caller's.
    #[error("page {page} cannot be {verb}: it is {state}")]
    WrongState {
        /// The page in question.
        page: PageId,
        /// What was asked for, as a participle.
        verb: &'static str,
        /// What the page is instead.
        state: &'static str,
    },
    /// The file was opened for reading only.
    #[error("the file is open for reading only")]
    ReadOnly,
    /// The file has reached the size that the pager was opened for. Reopen with a larger one.
    #[error("the file would grow past the {limit_bytes} bytes it was opened for")]
    Full {
        /// The most bytes that the file may have under the options it was opened with.
        limit_bytes: u64,
    },
    /// What was asked for cannot be had on this machine. Ask for something else, or for `Auto`.
    #[error("{what} is not available here: {why}")]
    Unavailable {
        /// The option.
        what: &'static str,
        /// Why not, and what would help.
        why: String,
    },
    /// The options contradict each other or the machine.
    #[error("unusable option: {0}")]
    BadOption(String),
}

impl Error {
    /// A page that is not what it should be.
    #[cold]
    pub fn corrupt(page: PageId, what: impl Into<Cow<'static, str>>) -> Self {
        Error::Corrupt {
            page,
            what: what.into(),
        }
    }

    /// A page that was reached by a reference it does not match.
    #[cold]
    pub fn unexpected(at: PageRef, found: PageRef) -> Self {
        let what = if found.id == at.id {
            format!(
                "expected version {}, found version {}",
                at.version, found.version
            )
        } else {
            format!("expected version {}, found page {}", at.version, found.id)
        };
        Error::corrupt(at.id, what)
    }

    /// A refusal of the operating system's.
    #[cold]
    pub fn io(operation: impl Into<Cow<'static, str>>, source: impl Into<io::Error>) -> Self {
        Error::Io {
            operation: operation.into(),
            source: Arc::new(source.into()),
        }
    }
}
