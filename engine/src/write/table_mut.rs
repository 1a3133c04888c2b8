//! A table in the write transaction: every change of one goes through here.

use std::fmt;
use std::ops::RangeBounds;

use bifolio_btree::{TreeMut, bulk_load};

use super::WriteTxn;
use super::ledger::Source;
use crate::core::with_pager;
use crate::error::{Error, Result};
use crate::log::RecordWriter;
use crate::range::Range;
use crate::read::Table;
/// Keys that a range deletion looks up before it removes them.
const REMOVE_BATCH: usize = 256;

/// A table in the write transaction.
pub struct TableMut<'t> {
    pub(super) txn: &'t mut WriteTxn,
    pub(super) index: usize,
}

impl fmt::Debug for TableMut<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TableMut")
            .field("name", &self.txn.tables[self.index].name)
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}

/// Runs one change of a table's tree on the pager that the database has.
macro_rules! change {
    ($table:expr, |$pager:ident, $source:ident, $root:ident| $body:expr) => {{
        let txn = &mut *$table.txn;
        txn.refuse_if_broken()?;
        let writer = txn.writer.as_mut().expect("present until the transaction is over");
        let table = &mut txn.tables[$table.index];
        let before = table.root;
        txn.broken = Some(Error::Interrupted); // stays where a panic goes through
        let $root = &mut table.root;
        let outcome: Result<_, bifolio_btree::Error> = with_pager!(&txn.open.pager, $pager => {
            let pages = &mut txn.pages;
            let mut source = Source { pager: $pager, space: &mut writer.space, pages };
            let $source = &mut source;
            $body
        });
        // The first change of a transaction gives the root a new stamp, so this sees every one.
        table.changed |= table.root != before;
        txn.broken = None;
        outcome.map_err(Error::from)
    }};
}

impl TableMut<'_> {
    /// Sets the value of `key`, and says whether it had one before.
    ///
    /// # Errors
    /// A key or a value over the limits changes nothing. After any other error the transaction can
    /// only be rolled back.
    pub fn insert(&mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<bool> {
        let (key, value) = (key.as_ref(), value.as_ref());
        let outcome = change!(self, |pager, source, root| {
            TreeMut::new(pager, source, root).insert(key, value)
        });
        let replaced = self.txn.note_break(outcome)?;
        self.record(|records, table| records.put(table, key, value))?;
        Ok(replaced)
    }

    /// Removes `key`, and says whether it was there.
    ///
    /// # Errors
    /// As [`TableMut::insert`].
    pub fn remove(&mut self, key: impl AsRef<[u8]>) -> Result<bool> {
        let key = key.as_ref();
        let outcome = change!(self, |pager, source, root| {
            TreeMut::new(pager, source, root).remove(key)
        });
        let removed = self.txn.note_break(outcome)?;
        if removed {
            self.record(|records, table| records.delete(table, key))?;
        }
        Ok(removed)
    }

    /// Removes the entries whose keys lie in `bounds`, and says how many they were. Costs what
    /// removing them one by one costs, but for the log, where it is one record.
    ///
    /// # Errors
    /// As [`TableMut::insert`].
    pub fn remove_range<K: AsRef<[u8]>>(&mut self, bounds: impl RangeBounds<K>) -> Result<u64> {
        let low = bounds.start_bound().map(AsRef::as_ref);
        let high = bounds.end_bound().map(AsRef::as_ref);
        let mut removed = 0;
        loop {
            let mut keys = Vec::new();
            let mut range = self.range::<&[u8]>((low, high))?;
            while keys.len() < REMOVE_BATCH
                && let Some((key, _)) = range.next_entry()?
            {
                keys.push(key.to_vec());
            }
            drop(range); // it holds a page
            for key in &keys {
                let outcome = change!(self, |pager, source, root| {
                    TreeMut::new(pager, source, root).remove(key)
                });
                removed += u64::from(self.txn.note_break(outcome)?);
            }
            if keys.len() < REMOVE_BATCH {
                break;
            }
        }
        if removed > 0 {
            self.record(|records, table| records.delete_range(table, low, high))?;
        }
        Ok(removed)
    }

    /// Removes every entry. Costs a read of every page of the table.
    ///
    /// # Errors
    /// As [`TableMut::insert`].
    pub fn clear(&mut self) -> Result<()> {
        self.empty()?;
        self.record(|records, table| records.clear_table(table))
    }

    /// Removes every entry, and records nothing.
    pub(super) fn empty(&mut self) -> Result<()> {
        let outcome = change!(self, |pager, source, root| {
            TreeMut::new(pager, source, root).clear()
        });
        self.txn.note_break(outcome)
    }

    /// Notes a change of this table for the log.
    fn record(&mut self, encode: impl FnOnce(&mut RecordWriter, &str)) -> Result<()> {
        let name = std::mem::take(&mut self.txn.tables[self.index].name);
        let outcome = self.txn.record(|records| encode(records, &name));
        self.txn.tables[self.index].name = name;
        self.txn.note_break(outcome)
    }

    /// Fills the empty table from entries in strictly ascending order of their keys: several times
    /// faster than inserting them, into full pages that lie in the file in the order of the keys.
    ///
    /// # Errors
    /// [`Error::TableNotEmpty`] changes nothing. After any other error, entries out of order among
    /// them, the transaction can only be rolled back.
    pub fn bulk_load<K: AsRef<[u8]>, V: AsRef<[u8]>>(
        &mut self,
        entries: impl IntoIterator<Item = (K, V)>,
    ) -> Result<()> {
        if !self.is_empty() {
            let name = self.txn.tables[self.index].name.clone();
            return Err(Error::TableNotEmpty { name });
        }
        self.txn.stop_logging();
        let entries = entries.into_iter();
        let outcome = change!(self, |pager, source, root| {
            source.pages.sealing = true;
            let loaded = bulk_load(pager, source, entries, 1.0);
            source.pages.sealing = false;
            loaded.and_then(|loaded| {
                source.pages.seal_finished(pager)?;
                *root = loaded;
                Ok(())
            })
        });
        if let Err(error) = &outcome {
            // The pages loaded so far hang from no tree.
            self.txn.broken = Some(error.clone());
        }
        outcome
    }

    /// How many entries there are. Costs nothing.
    pub fn len(&self) -> u64 {
        self.txn.tables[self.index].root.entries
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The table as this transaction sees it now, its own changes included, for reading.
    ///
    /// # Errors
    /// The error that broke the transaction, if one did.
    pub fn as_table(&self) -> Result<Table<'_>> {
        self.txn.refuse_if_broken()?;
        Ok(Table::new(&self.txn.open, self.txn.tables[self.index].root))
    }

    /// The value of `key`, copied. As [`Table::get`].
    ///
    /// # Errors
    /// What the pager says, and as [`TableMut::as_table`].
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Vec<u8>>> {
        self.as_table()?.get(key)
    }

    /// Whether `key` is there.
    ///
    /// # Errors
    /// As [`TableMut::get`].
    pub fn contains_key(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        self.as_table()?.contains_key(key)
    }

    /// The entries whose keys lie in `bounds`. As [`Table::range`].
    ///
    /// # Errors
    /// As [`TableMut::get`].
    pub fn range<K: AsRef<[u8]>>(&self, bounds: impl RangeBounds<K>) -> Result<Range<'_>> {
        Ok(self.as_table()?.range(bounds))
    }
}
