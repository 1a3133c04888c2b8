//! When a commit survives what, and how a caller waits for it.

use std::sync::Arc;

use bifolio_pager::Version;
use bifolio_pager::defect::{Defect, planted};

use crate::database::Open;
use crate::error::Result;
use crate::log::Position;

/// How durable a commit is when `commit` returns.
///
/// Whatever the level, every commit enters the log in the order of the commits, so what survives is
/// always a prefix of them. A commit that was synced makes all before it durable, and so does an empty
/// one of [`Durability::Sync`].
///
/// What can be lost, of commits that have returned:
///
// ANCHOR: levels
/// | level | the process crashes, or is killed | the system crashes, or power is lost |
/// |-------|-----------------------------------|--------------------------------------|
/// | [`Durability::Sync`] | nothing | nothing |
/// | [`Durability::Interval`] | those of the last interval (100 ms) | the same |
/// | [`Durability::Checkpoint`] | those since the last checkpoint or synced commit | the same |
///
/// A crash of the process loses what a crash of the system would, because a record stays in the
/// process's memory until it is written together with its sync: writing it earlier would cost the
/// device nearly as much. "The last interval" counts from the commit to the beginning of the sync, and
/// holds whatever else goes on: a write transaction that stays open, a checkpoint that takes long. One
/// thing more delays it: a commit that comes after a bulk load is durable when the checkpoint of the
/// bulk load is.
// ANCHOR_END: levels
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Durability {
    /// Synced before `commit` returns.
    #[default]
    Sync,
    /// A sync begins within [`Options::sync_interval`](crate::Options::sync_interval), in the
    /// background.
    Interval,
    /// None until the next checkpoint, which comes after so many bytes of
    /// [log](crate::Options::log_bytes) or [dirty pages](crate::Options::dirty_bytes), or after so much
    /// [time](crate::Options::checkpoint_interval). Nothing is synced for its sake; but what syncs
    /// a later commit, or a full buffer of the log (1 MiB), takes it along.
    Checkpoint,
}

/// A commit that is applied, and perhaps not durable yet.
#[must_use = "the commit may not be durable before `wait` returns"]
pub struct Ticket {
    open: Arc<Open>,
    version: Version,
    /// Where its log record ends; `None` if it becomes durable by a checkpoint.
    logged: Option<Position>,
}

impl Ticket {
    pub(crate) fn new(open: Arc<Open>, version: Version, logged: Option<Position>) -> Self {
        Ticket {
            open,
            version,
            logged,
        }
    }

    /// The commit is to become durable even if nobody waits for it.
    pub(crate) fn ask_for_sync(&self) {
        if let Some(end) = self.logged {
            self.open.syncer.ask(end);
        }
    }

    /// The version of the commit.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Returns when the commit, and every one before it, survives a loss of power. Whoever waits
    /// first syncs for all who wait. For a transaction that changed nothing, what counts is the commit
    /// before it.
    ///
    /// # Errors
    /// [`Error::WouldDeadlock`](crate::Error::WouldDeadlock): a commit behind a bulk load becomes
    /// durable by a checkpoint, which waits for the write transaction to end, and this thread holds it.
    /// The commit is not lost: a later one that is waited for, or
    /// [`Database::checkpoint`](crate::Database::checkpoint), makes it durable.
    /// [`Error::Poisoned`](crate::Error::Poisoned): whether it survives is known once the database
    /// has been reopened.
    pub fn wait(self) -> Result<Version> {
        self.open.refuse_in_child()?;
        if !planted(Defect::TicketsAreGood) {
            self.open.wait_durable(self.version, self.logged)?;
        }
        Ok(self.version)
    }
}
