//! When a commit survives what, and how a caller waits for it.

use std::sync::Arc;

use bifolio_pager::Version;

use crate::database::Open;
use crate::error::Result;
use crate::log::Position;

/// How durable a commit is when `commit` returns.
///
/// Whatever the level, every commit enters the log in the order of the commits, so what survives is
/// always a prefix of them. A commit that was synced makes all before it durable.
///
// ANCHOR: levels
/// | what is lost when…        | the process crashes | the system crashes, or power is lost          |
/// |---------------------------|---------------------|-----------------------------------------------|
/// | [`Durability::Sync`]      | nothing             | nothing                                       |
/// | [`Durability::Interval`]  | commits of the last interval | commits of the last interval (100 ms) |
/// | [`Durability::Checkpoint`]| commits of the last interval | commits of the last interval; the caller must not rely on it |
// ANCHOR_END: levels
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Durability {
    /// Synced before `commit` returns.
    #[default]
    Sync,
    /// Synced within [`Options::sync_interval`](crate::Options::sync_interval), in the background.
    Interval,
    /// Promised by the next checkpoint only. (The log is synced with the others meanwhile.)
    Checkpoint,
}

/// A commit that is applied, and perhaps not durable yet.
#[must_use = "the commit may not be durable before `wait` returns"]
pub struct Ticket {
    open: Arc<Open>,
    version: Version,
    /// Where its log record ends; `None` if it becomes durable by a checkpoint.
    logged: Option<Position>,
    /// The transaction changed nothing.
    nothing: bool,
}

impl Ticket {
    pub(crate) fn new(open: Arc<Open>, version: Version, logged: Option<Position>) -> Self {
        Ticket {
            open,
            version,
            logged,
            nothing: false,
        }
    }

    /// For a transaction that changed nothing, and so waits for nothing.
    pub(crate) fn nothing(open: Arc<Open>, version: Version) -> Self {
        Ticket {
            open,
            version,
            logged: None,
            nothing: true,
        }
    }

    /// The version of the commit.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Returns when the commit, and every one before it, survives a loss of power. Whoever waits
    /// first syncs for all who wait. For a transaction that changed nothing it returns at once.
    ///
    /// A commit behind a bulk load becomes durable by a checkpoint, which waits for the write
    /// transaction to end: a thread must not wait for such a ticket while it holds one itself.
    ///
    /// # Errors
    /// [`Error::Poisoned`](crate::Error::Poisoned): whether it survives is known once the database
    /// has been reopened.
    pub fn wait(self) -> Result<Version> {
        self.open.refuse_in_child()?;
        if !self.nothing {
            self.open.wait_durable(self.version, self.logged)?;
        }
        Ok(self.version)
    }
}
