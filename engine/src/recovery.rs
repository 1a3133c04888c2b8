//! Recovery: applying what the log holds beyond the newest checkpoint.
//!
//! Replay goes through the same write transactions as everything else, but logs nothing; a
//! checkpoint at the end makes it durable, and only its meta gives up the old log; none is made before
//! that, however long it takes. So a crash during recovery is only another crash: the next recovery
//! begins at the same mark.
//!
//! A database that is opened for reading only is recovered in memory (`overlay.rs`): the same replay,
//! and a checkpoint that writes nothing.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::core::Keeping;
use crate::database::Open;
use crate::error::{Error, Result};
use crate::log::{History, Record, RecordReader, Replay};
use crate::options::{LogPlace, OnRecovery};
use crate::write::WriteTxn;
use bifolio_pager::defect::{Defect, planted};

/// How often whoever asked is told how far recovery is.
const INTERVAL: Duration = Duration::from_millis(100);

/// What recovery found when the database was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// Commits replayed from the log.
    pub commits: u64,
    /// Bytes of log read.
    pub log_bytes: u64,
    /// Whether the log ended in a group that was not wholly written, as a crash leaves it.
    pub torn: bool,
}

/// How far recovery is: see [`Options::on_recovery`](crate::Options::on_recovery).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecoveryProgress {
    /// Commits replayed until now.
    pub commits: u64,
    /// Commits to replay.
    pub commits_total: u64,
    /// Bytes of log replayed until now.
    pub log_bytes: u64,
    /// Bytes of log to replay. When all are, a checkpoint follows, which may take as long again.
    pub log_bytes_total: u64,
}

impl fmt::Display for RecoveryProgress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} of {} commits, {} of {} bytes of log",
            self.commits, self.commits_total, self.log_bytes, self.log_bytes_total
        )
    }
}

/// Tells whoever asked how far recovery is, now and then.
pub(crate) struct Progress {
    tell: Option<OnRecovery>,
    interval: Duration,
    told: Instant,
}

impl Progress {
    /// Begins the first interval.
    pub fn new(tell: Option<OnRecovery>) -> Self {
        Progress {
            tell,
            interval: INTERVAL,
            told: Instant::now(),
        }
    }

    /// Tells after each commit.
    #[cfg(test)]
    pub fn at_each_commit(tell: OnRecovery) -> Self {
        Progress {
            interval: Duration::ZERO,
            ..Self::new(Some(tell))
        }
    }

    fn note(&mut self, now: impl FnOnce() -> RecoveryProgress) {
        if let Some(OnRecovery(tell)) = &self.tell
            && self.told.elapsed() >= self.interval
        {
            tell(&now());
            self.told = Instant::now();
        }
    }
}

/// Replays the log, if the newest meta says that there is one, and makes a checkpoint of it.
pub(crate) fn recover(open: &Arc<Open>, progress: Progress) -> Result<Option<RecoveryReport>> {
    let Keeping::Log(place) = &open.keeping else {
        return Ok(None);
    };
    let Some(history) = replay(open, place, progress)? else {
        return Ok(None);
    };
    let report = report(&history);
    let (log, _) = history.begin(place.options)?;
    assert!(
        open.log.set(log).is_ok(),
        "a log is recovered before anybody writes"
    );
    if !planted(Defect::SkipRecoveryCheckpoint) {
        open.checkpoint_after_recovery()?;
    }
    Ok(Some(report))
}

/// Replays the log that lies at `place` onto a pager that keeps everything in memory.
pub(crate) fn recover_in_memory(
    open: &Arc<Open>,
    place: &LogPlace,
    progress: Progress,
) -> Result<Option<RecoveryReport>> {
    let recover = || {
        let Some(history) = replay(open, place, progress)? else {
            return Ok(None);
        };
        // There is no log behind what is in memory, and the version gets an allocation map.
        open.metas.lock().meta.log = None;
        open.checkpoint_after_recovery()?;
        Ok(Some(report(&history)))
    };
    recover().map_err(|error| match open.pager.exceeded() {
        Some(limit_bytes) => Error::NeedsRecovery {
            path: open.path.clone(),
            limit_bytes,
        },
        None => error,
    })
}

/// Does `work`, which recovers the database. If it fails or panics nothing is written any more:
/// closing must not declare clean what was not recovered.
pub(crate) fn or_nothing<T>(open: &Open, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let mut failure = None;
    let outcome = open.or_poison(|| work().inspect_err(|error| failure = Some(error.clone())));
    // The error itself says more than that it poisoned.
    outcome.map_err(|poisoned| failure.unwrap_or(poisoned))
}

fn report(history: &History) -> RecoveryReport {
    RecoveryReport {
        commits: history.commits(),
        log_bytes: history.bytes(),
        torn: history.torn_at().is_some(),
    }
}

/// Applies everything from the newest meta's mark on. `None` if the meta has no mark.
fn replay(open: &Arc<Open>, place: &LogPlace, mut progress: Progress) -> Result<Option<History>> {
    let (mark, file_id) = {
        let metas = open.metas.lock();
        (metas.meta.log, metas.meta.file_id)
    };
    let Some(mark) = mark else { return Ok(None) };
    let mut history = place.history(file_id, &mark)?;
    let mut now = RecoveryProgress {
        commits: 0,
        commits_total: history.commits(),
        log_bytes: 0,
        log_bytes_total: history.bytes(),
    };
    history.replay(|_, records| -> Result<Replay> {
        let applied = apply(open, records)?;
        now.commits += 1;
        progress.note(|| {
            now.log_bytes = records.bytes_since(&mark).min(now.log_bytes_total);
            now
        });
        Ok(applied)
    })?;
    Ok(Some(history))
}

/// Applies one commit.
fn apply(open: &Arc<Open>, records: &mut RecordReader<'_>) -> Result<Replay> {
    let mut txn = WriteTxn::begin_replay(Arc::clone(open))?;
    while let Some(record) = records.next()? {
        match record {
            Record::Put { table, key, value } => {
                txn.table(table)?.insert(key, value)?;
            }
            Record::Delete { table, key } => {
                txn.table(table)?.remove(key)?;
            }
            Record::Clear { table } => txn.table(table)?.clear()?,
            Record::CreateTable { table } => {
                txn.table(table)?;
            }
            Record::DropTable { table } => {
                txn.delete_table(table)?;
            }
            // The commit is in a meta that never became durable, so it never happened.
            Record::Barrier { .. } if planted(Defect::ReplayPastBarrier) => {}
            Record::Barrier { .. } => return Ok(Replay::Stop),
            Record::DeleteRange { table, from, to } => {
                txn.table(table)?.remove_range::<&[u8]>((from, to))?;
            }
        }
    }
    let _applied = txn.submit()?;
    Ok(Replay::Continue)
}
