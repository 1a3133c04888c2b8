//! Recovery: applying what the log holds beyond the newest checkpoint.
//!
//! Replay goes through the same write transactions as everything else, but logs nothing; a
//! checkpoint at the end makes it durable, and only its meta gives up the old log; none is made before
//! that, however long it takes. So a crash during recovery is only another crash: the next recovery
//! begins at the same mark.

use std::sync::Arc;

use crate::core::Keeping;
use crate::database::Open;
use crate::error::Result;
use crate::log::{Record, RecordReader, Replay};
use crate::write::WriteTxn;

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

/// Replays the log, if the newest meta says that there is one.
pub(crate) fn recover(open: &Arc<Open>) -> Result<Option<RecoveryReport>> {
    let (mark, file_id) = {
        let metas = open.metas.lock();
        (metas.meta.log, metas.meta.file_id)
    };
    let (Some(mark), Keeping::Log(place)) = (mark, &open.keeping) else {
        return Ok(None);
    };
    let (log, recovered) = place.recover(file_id, &mark, |_, records| apply(open, records))?;
    assert!(
        open.log.set(log).is_ok(),
        "a log is recovered before anybody writes"
    );
    open.checkpoint_after_recovery()?;
    Ok(Some(RecoveryReport {
        commits: recovered.commits,
        log_bytes: recovered.bytes,
        torn: recovered.torn_at.is_some(),
    }))
}

/// Applies one commit.
fn apply(open: &Arc<Open>, records: &mut RecordReader<'_>) -> Result<Replay> {
    let mut txn = WriteTxn::begin(Arc::clone(open))?;
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
            Record::Barrier { .. } => return Ok(Replay::Stop),
            Record::DeleteRange { table, from, to } => {
                txn.table(table)?.remove_range::<&[u8]>((from, to))?;
            }
        }
    }
    let _applied = txn.submit()?;
    Ok(Replay::Continue)
}
