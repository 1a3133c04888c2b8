//! Writing: the one write transaction (here), its tables (`table_mut.rs`), its pages (`ledger.rs`).
//!
//! A transaction writes only pages that no committed version can reach: it copies the path it
//! changes to pages of its own, stamped with its version. Committing makes those pages durable and
//! then, by one meta record, reachable; rolling back forgets them.
//!
//! The steps of a commit, each of which relies on the one before:
//! 1. the roots of changed tables go into the catalogue;
//! 2. the pages no longer reached are marked free in the allocation map, and quarantined for those
//!    who still read them;
//! 3. all private pages are sealed;
//! 4. the transaction's record enters the log, in the order of the commits;
//! 5. the version is published to readers, and the next write transaction may begin;
//! 6. whoever wants to know waits until the log is durable up to the record.
//!
//! A failure in steps 1 and 2 rolls back. A later one leaves the outcome unknown, because the record
//! may or may not have reached storage: the database is poisoned and the caller is told so.
//!
//! A bulk load, and a transaction whose record would fill the log, is not logged but made durable by a
//! checkpoint, so that its data is written once. In the log stands a *barrier* instead.

mod batch;
mod ledger;
mod table_mut;

pub use batch::WriteBatch;
pub use table_mut::TableMut;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bifolio_btree::{Root, TreeMut};
use bifolio_pager::{Pager, Version};

use crate::catalogue;
use crate::core::{Committed, Keeping, Writer, with_pager};
use crate::database::Open;
use crate::durability::{Durability, Ticket};
use crate::error::{Error, Result};
use crate::log::{Log, Position, RecordWriter};
use crate::pace::Pace;
use ledger::{Ledger, Source};

/// Bytes of record after which a transaction hands them to the log before it commits.
const PIECE_BYTES: usize = 512 << 10;

/// The write transaction. There is one at a time; [`Database::write`](crate::Database::write) waits
/// for it. Dropping it without [`WriteTxn::commit`] takes back everything.
pub struct WriteTxn {
    open: Arc<Open>,
    /// Present until the transaction is over.
    writer: Option<Box<Writer>>,
    base: Arc<Committed>,
    catalogue: Root,
    /// The tables that were asked for, in that order.
    tables: Vec<OpenTable>,
    /// Where in `tables` each is.
    by_name: HashMap<String, usize>,
    pages: Ledger,
    recording: Recording,
    /// Bytes of record that the log has already.
    logged_bytes: u64,
    /// An operation failed halfway, so the private pages are not a tree. Only rollback is left.
    broken: Option<Error>,
}

/// What becomes of a transaction's record.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Recording {
    /// It goes into the log.
    Logged,
    /// The commit will be made durable by a checkpoint.
    Unlogged,
    /// There is no log, or it is being replayed.
    Nothing,
}

struct OpenTable {
    name: String,
    root: Root,
    changed: bool,
    /// Deleted in this transaction, and not made again since.
    gone: bool,
}

impl WriteTxn {
    pub(crate) fn begin(open: Arc<Open>) -> Result<Self> {
        open.refuse_in_child()?;
        if open.read_only {
            return Err(Error::ReadOnly);
        }
        Self::begin_replay(open)
    }

    /// As [`WriteTxn::begin`], also where what is replayed stays in memory.
    pub(crate) fn begin_replay(open: Arc<Open>) -> Result<Self> {
        open.wait_under_pressure()?;
        // Versions that became durable are let go, so that few are looked at below.
        open.note_durable();
        let mut writer = loop {
            let mut writer = open.take_writer()?;
            let marked = writer.next_version.get() < open.floor.load(Ordering::Relaxed);
            let short = marked && writer.space.take_refusal();
            if marked && !short {
                break writer;
            }
            open.give_writer_back(writer);
            if short {
                // What was retired since the last checkpoint becomes available by the next one.
                open.checkpoint(Pace::Urgent)?;
            } else {
                open.mark_open()?;
            }
        };
        let base = open.newest();
        // After a failure the space goes with no version any more.
        let released = with_pager!(&open.pager, pager => {
            open.or_poison(|| writer.release_if_due(pager, &base))
        });
        if let Err(error) = released {
            open.give_writer_back(writer);
            return Err(error);
        }
        let version = writer.next_version;
        writer.next_version = version.next();
        let recording = if open.log.get().is_some() {
            Recording::Logged
        } else {
            Recording::Nothing
        };
        let catalogue = base.catalogue;
        Ok(WriteTxn {
            open,
            writer: Some(writer),
            base,
            catalogue,
            tables: Vec::new(),
            by_name: HashMap::new(),
            pages: Ledger::new(version),
            recording,
            logged_bytes: 0,
            broken: None,
        })
    }

    /// The version that a commit of this transaction will have.
    pub fn version(&self) -> Version {
        self.pages.version
    }

    /// The table of this name, made if there is none.
    ///
    /// # Errors
    /// [`Error::BadTableName`]; what the pager says.
    pub fn table(&mut self, name: &str) -> Result<TableMut<'_>> {
        self.refuse_if_broken()?;
        self.open.note_holder();
        let index = match self.by_name.get(name) {
            Some(&index) => index,
            None => {
                let catalogue = self.catalogue;
                let found = with_pager!(&self.open.pager, pager => {
                    catalogue::find(pager, catalogue, name)
                })?;
                self.tables.push(OpenTable {
                    name: name.to_owned(),
                    root: found.unwrap_or_default(),
                    changed: false,
                    gone: found.is_none(),
                });
                let index = self.tables.len() - 1;
                self.by_name.insert(name.to_owned(), index);
                index
            }
        };
        if std::mem::take(&mut self.tables[index].gone) {
            self.tables[index].changed = true;
            self.record(|records| records.create_table(name))?;
        }
        Ok(TableMut { txn: self, index })
    }

    /// Deletes the table of this name with all it holds, and says whether there was one. Costs a
    /// read of each of its inner pages.
    ///
    /// # Errors
    /// As [`WriteTxn::table`].
    pub fn delete_table(&mut self, name: &str) -> Result<bool> {
        self.refuse_if_broken()?;
        let catalogue = self.catalogue;
        let known = match self.by_name.get(name) {
            Some(&index) => !self.tables[index].gone,
            None => {
                let pager = &self.open.pager;
                with_pager!(pager, pager => catalogue::find(pager, catalogue, name))?.is_some()
            }
        };
        if known {
            let mut table = self.table(name)?;
            table.empty()?;
            let index = table.index;
            self.tables[index].gone = true;
            self.record(|records| records.drop_table(name))?;
        }
        Ok(known)
    }

    /// The names of all tables as this transaction sees them, sorted.
    ///
    /// # Errors
    /// What the pager says.
    pub fn table_names(&self) -> Result<Vec<String>> {
        self.refuse_if_broken()?;
        let catalogue = self.catalogue;
        let stored = with_pager!(&self.open.pager, pager => catalogue::list(pager, catalogue))?;
        let mut names: Vec<_> = stored.into_iter().map(|(name, _)| name).collect();
        names.retain(|name| !self.by_name.contains_key(name));
        names.extend(
            self.tables
                .iter()
                .filter(|table| !table.gone)
                .map(|table| table.name.clone()),
        );
        names.sort_unstable();
        Ok(names)
    }

    /// Makes everything this transaction did durable, and visible to snapshots taken from now on.
    /// Returns the version of the commit.
    ///
    /// When this returns `Ok`, the commit survives a crash of the process, of the system, and a loss
    /// of power, and so does every commit before it. Threads that commit at once share the sync. A
    /// transaction that changed nothing writes nothing, and waits for those before it all the same.
    ///
    /// # Errors
    /// Before anything was logged, the error of that operation, and the transaction is rolled back.
    /// After that [`Error::Poisoned`]: whether the commit happened is known once the database has
    /// been reopened.
    pub fn commit(self) -> Result<Version> {
        self.commit_with(Durability::Sync)
    }

    /// As [`WriteTxn::commit`], as durable as the caller wants it.
    ///
    /// # Errors
    /// As [`WriteTxn::commit`].
    pub fn commit_with(self, durability: Durability) -> Result<Version> {
        let ticket = self.apply()?;
        match durability {
            Durability::Sync => return ticket.wait(),
            Durability::Interval => ticket.ask_for_sync(),
            Durability::Checkpoint => {}
        }
        Ok(ticket.version())
    }

    /// Applies everything this transaction did, visible to snapshots taken from now on, and lets
    /// the next write transaction begin. The ticket is for waiting until it is durable; if nobody
    /// does, the commit is one of [`Durability::Interval`].
    ///
    /// # Errors
    /// As [`WriteTxn::commit`].
    pub fn submit(self) -> Result<Ticket> {
        let ticket = self.apply()?;
        ticket.ask_for_sync();
        Ok(ticket)
    }

    fn apply(mut self) -> Result<Ticket> {
        self.refuse_if_broken()?;
        let open = Arc::clone(&self.open);
        if !self.tables.iter().any(|table| table.changed || table.gone) {
            // While we have the writer, this is where the commit before ends.
            let end = open.log.get().map(Log::end);
            return Ok(Ticket::new(open, self.base.version, end));
        }
        open.refuse_if_failed()?;
        with_pager!(&open.pager, pager => {
            self.store_catalogue(pager)?;
            self.retire(pager)?;
        });
        let mut writer = self
            .writer
            .take()
            .expect("present until the transaction is over");
        let outcome = with_pager!(&open.pager, pager => {
            open.or_poison(|| self.seal_and_log(pager, &mut writer))
        });
        let outcome = outcome.map(|logged| {
            let version = self.pages.version;
            let committed = Committed {
                version,
                catalogue: self.catalogue,
                map: None,
            };
            open.publish(&mut writer, committed, logged);
            Ticket::new(Arc::clone(&open), version, logged)
        });
        open.give_writer_back(writer);
        if self.recording == Recording::Unlogged {
            open.bell.ring();
        } else {
            open.ring_if_due();
        }
        outcome
    }

    /// Takes back everything this transaction did, as dropping it does.
    pub fn rollback(self) {}

    /// Step 1 of a commit.
    fn store_catalogue<P: Pager>(&mut self, pager: &P) -> Result<()> {
        let writer = self
            .writer
            .as_mut()
            .expect("present until the transaction is over");
        let mut source = Source {
            pager,
            space: &mut writer.space,
            pages: &mut self.pages,
        };
        for table in self
            .tables
            .iter()
            .filter(|table| table.changed || table.gone)
        {
            let mut tree = TreeMut::new(pager, &mut source, &mut self.catalogue);
            if table.gone {
                tree.remove(table.name.as_bytes())?;
            } else {
                tree.insert(table.name.as_bytes(), &table.root.encode())?;
            }
        }
        Ok(())
    }

    /// Step 2 of a commit: all of it, or on an error nothing.
    fn retire<P: Pager>(&mut self, pager: &P) -> Result<()> {
        let writer = self
            .writer
            .as_mut()
            .expect("present until the transaction is over");
        self.pages.settle_all(pager, &mut writer.space)?;
        writer
            .space
            .retire_all(pager, &self.pages.retired, self.pages.version)?;
        Ok(())
    }

    /// Steps 3 and 4 of a commit. Returns where the record ends.
    fn seal_and_log<P: Pager>(
        &mut self,
        pager: &P,
        writer: &mut Writer,
    ) -> Result<Option<Position>> {
        let version = self.pages.version;
        let made = self.pages.seal(pager)?;
        let before = writer.pending.len();
        for page in &self.pages.retired {
            writer.pending.remove(page);
        }
        let died = before - writer.pending.len();
        writer.pending.extend(made);
        let pending = writer.pending.len();
        self.open.tally.note_pending(pending, died as u64);
        let Some(log) = self.open.log.get() else {
            return Ok(None);
        };
        if self.recording == Recording::Unlogged {
            writer.records.clear();
            writer.records.barrier(version.get());
            self.open.note_barrier(version);
        }
        Ok(Some(log.append(version, &mut writer.records)?))
    }

    /// Notes a change for the log.
    fn record(&mut self, encode: impl FnOnce(&mut RecordWriter)) -> Result<()> {
        if self.recording != Recording::Logged {
            return Ok(());
        }
        let records = &mut self
            .writer
            .as_mut()
            .expect("until the transaction is over")
            .records;
        encode(records);
        if records.len() > PIECE_BYTES {
            self.spill()?;
        }
        Ok(())
    }

    /// Hands what is recorded to the log, so that it need not be kept in memory; or gives up
    /// logging, if the transaction has become so large that a checkpoint is cheaper.
    fn spill(&mut self) -> Result<()> {
        let (Some(log), Keeping::Log(place)) = (self.open.log.get(), &self.open.keeping) else {
            return Ok(());
        };
        let writer = self.writer.as_mut().expect("until the transaction is over");
        self.logged_bytes += writer.records.len() as u64;
        if self.logged_bytes > place.limit_bytes / 2 {
            self.stop_logging();
            return Ok(());
        }
        let appended = log.append_piece(self.pages.version, &mut writer.records);
        appended.map_err(|error| self.open.poison(&error.into()))
    }

    fn stop_logging(&mut self) {
        if self.recording == Recording::Logged {
            self.recording = Recording::Unlogged;
            self.forget_records();
        }
    }

    /// Nothing of what was recorded counts.
    fn forget_records(&mut self) {
        if let (Some(log), Some(writer)) = (self.open.log.get(), &mut self.writer) {
            writer.records.clear();
            log.abandon();
        }
    }

    fn refuse_if_broken(&self) -> Result<()> {
        self.open.refuse_in_child()?;
        self.broken.clone().map_or(Ok(()), Err)
    }

    /// Remembers an error that may have left the pages of a tree half changed.
    fn note_break<T>(&mut self, outcome: Result<T>) -> Result<T> {
        use bifolio_btree::Error::{KeyTooLong, ValueTooLong};
        match &outcome {
            Ok(_) | Err(Error::Tree(KeyTooLong { .. } | ValueTooLong { .. })) => {}
            Err(error) => self.broken = Some(error.clone()),
        }
        outcome
    }
}

impl Drop for WriteTxn {
    fn drop(&mut self) {
        if self.open.is_in_child() {
            // What it would give back is the parent's, who does so itself.
            std::mem::forget(self.writer.take());
            return;
        }
        self.forget_records();
        let Some(mut writer) = self.writer.take() else {
            return;
        };
        if self.open.refuse_if_failed().is_ok() {
            with_pager!(&self.open.pager, pager => {
                if let Err(error) = self.pages.give_all_back(pager, &mut writer.space) {
                    // The next commit would store a map that has these pages in use.
                    let _ = self.open.poison(&error.into());
                }
            });
        }
        self.open.give_writer_back(writer);
    }
}
