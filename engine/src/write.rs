//! Writing: the one write transaction, and its tables.
//!
//! A transaction writes only pages that no committed version can reach: it copies the path it
//! changes to pages of its own, stamped with its version. Committing makes those pages durable and
//! then, by one meta record, reachable; rolling back forgets them.
//!
//! The steps of a commit, each of which relies on the one before:
//! 1. the roots of changed tables go into the catalogue;
//! 2. the pages no longer reached are marked free in the allocation map (and quarantined for those
//!    who still read them);
//! 3. the map's changed pages are written, also copy-on-write;
//! 4. all private pages are sealed and flushed;
//! 5. the meta that refers to them is written over the older slot;
//! 6. the version is published to readers.
//!
//! A failure in steps 1 and 2 rolls back. A failure in step 3 leaves the allocation map in memory
//! useless, and one from step 4 on the outcome unknown, because the meta may or may not have reached
//! storage: the database is poisoned and the caller is told so.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::ops::RangeBounds;
use std::sync::Arc;

use bifolio_btree::{PageSource, Root, TreeMut, bulk_load};
use bifolio_pager::{PageId, PageRef, Pager, Result as PagerResult, Version};

use crate::catalogue;
use crate::database::{Committed, Inner, Writer, with_pager};
use crate::error::{Error, Result};
use crate::meta::Meta;
use crate::range::Range;
use crate::read::Table;
use crate::space::Space;

/// Private pages that were dropped again are discarded in batches of this many: a discard costs a
/// `membarrier`, whatever the number of pages.
const DISCARD_BATCH: usize = 64;

/// The write transaction. There is one at a time; [`Database::write`](crate::Database::write) waits
/// for it. Dropping it without [`WriteTxn::commit`] takes back everything.
pub struct WriteTxn {
    inner: Arc<Inner>,
    /// Present until the transaction is over.
    writer: Option<Box<Writer>>,
    base: Arc<Committed>,
    catalogue: Root,
    /// The tables that were asked for, in that order.
    tables: Vec<OpenTable>,
    /// Where in `tables` each is.
    by_name: HashMap<String, usize>,
    pages: Ledger,
    /// An operation failed halfway, so the private pages are not a tree. Only rollback is left.
    broken: Option<Error>,
}

struct OpenTable {
    name: String,
    root: Root,
    changed: bool,
    /// Deleted in this transaction, and not made again since.
    gone: bool,
}

/// What a transaction did to pages.
struct Ledger {
    version: Version,
    /// Private pages: allocated and not dropped again.
    private: HashSet<PageId>,
    /// Private pages no longer used, still to be discarded and given back.
    dropped: Vec<PageId>,
    /// Committed pages that the new version does not reach.
    retired: Vec<PageRef>,
}

/// The tree's view of the ledger and the allocation map.
struct Source<'a, P> {
    pager: &'a P,
    space: &'a mut Space,
    pages: &'a mut Ledger,
}

impl<P: Pager> PageSource for Source<'_, P> {
    fn version(&self) -> Version {
        self.pages.version
    }

    fn allocate(&mut self) -> PagerResult<PageId> {
        let id = self.space.allocate(self.pager)?;
        self.pages.own(id);
        Ok(id)
    }

    fn allocate_run(&mut self, want: u64) -> PagerResult<(PageId, u64)> {
        let (first, count) = self.space.allocate_run(self.pager, want)?;
        (0..count).for_each(|index| self.pages.own(first.plus(index)));
        Ok((first, count))
    }

    fn retire(&mut self, page: PageRef) -> PagerResult<()> {
        if page.version == self.pages.version {
            self.pages.disown(page.id);
            if self.pages.dropped.len() >= DISCARD_BATCH {
                self.pages.settle(self.pager, self.space)?;
            }
        } else {
            self.pages.retired.push(page);
        }
        Ok(())
    }
}

impl Ledger {
    fn own(&mut self, id: PageId) {
        assert!(self.private.insert(id), "page {id} was handed out twice");
    }

    fn disown(&mut self, id: PageId) {
        assert!(
            self.private.remove(&id),
            "page {id} is not this transaction's"
        );
        self.dropped.push(id);
    }

    /// Gives back the dropped pages.
    fn settle<P: Pager>(&mut self, pager: &P, space: &mut Space) -> PagerResult<()> {
        pager.discard(&self.dropped)?;
        self.dropped.drain(..).for_each(|id| space.give_back(id));
        Ok(())
    }

    /// The private pages, in page order.
    fn private_pages(&self) -> Vec<PageRef> {
        let version = self.version;
        let mut pages: Vec<_> = self
            .private
            .iter()
            .map(|&id| PageRef { id, version })
            .collect();
        pages.sort_unstable();
        pages
    }
}

impl WriteTxn {
    pub(crate) fn begin(inner: Arc<Inner>) -> Result<Self> {
        if inner.read_only {
            return Err(Error::ReadOnly);
        }
        let mut writer = inner.take_writer()?;
        let base = inner.current();
        let prepared =
            with_pager!(&inner.pager, pager => prepare(pager, &inner, &mut writer, &base));
        let version = match prepared {
            Ok(version) => version,
            Err(error) => {
                inner.give_writer_back(writer);
                return Err(error);
            }
        };
        let catalogue = base.catalogue;
        let pages = Ledger {
            version,
            private: HashSet::new(),
            dropped: Vec::new(),
            retired: Vec::new(),
        };
        let writer = Some(writer);
        Ok(WriteTxn {
            inner,
            writer,
            base,
            catalogue,
            tables: Vec::new(),
            by_name: HashMap::new(),
            pages,
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
        let index = match self.by_name.get(name) {
            Some(&index) => index,
            None => {
                let catalogue = self.catalogue;
                let found = with_pager!(&self.inner.pager, pager => {
                    catalogue::find(pager, catalogue, name)
                })?;
                self.tables.push(OpenTable {
                    name: name.to_owned(),
                    root: found.unwrap_or_default(),
                    changed: found.is_none(),
                    gone: false,
                });
                let index = self.tables.len() - 1;
                self.by_name.insert(name.to_owned(), index);
                index
            }
        };
        let table = &mut self.tables[index];
        if std::mem::take(&mut table.gone) {
            table.changed = true;
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
                let pager = &self.inner.pager;
                with_pager!(pager, pager => catalogue::find(pager, catalogue, name))?.is_some()
            }
        };
        if known {
            let mut table = self.table(name)?;
            table.clear()?;
            let index = table.index;
            self.tables[index].gone = true;
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
        let stored = with_pager!(&self.inner.pager, pager => catalogue::list(pager, catalogue))?;
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
    /// of power. A transaction that changed nothing commits without writing.
    ///
    /// # Errors
    /// Before anything was written, the error of that operation, and the transaction is rolled back.
    /// After that [`Error::Poisoned`]: whether the commit happened is known once the database has
    /// been reopened.
    pub fn commit(mut self) -> Result<Version> {
        self.refuse_if_broken()?;
        if !self.tables.iter().any(|table| table.changed || table.gone) {
            return Ok(self.base.version); // and drop gives the writer back
        }
        let inner = Arc::clone(&self.inner);
        with_pager!(&inner.pager, pager => {
            self.store_catalogue(pager)?;
            self.retire(pager)?;
        });
        let mut writer = self
            .writer
            .take()
            .expect("present until the transaction is over");
        let outcome = with_pager!(&inner.pager, pager => self.make_durable(pager, &mut writer));
        let outcome = match outcome {
            Ok(committed) => {
                inner.publish(&mut writer, committed);
                Ok(self.pages.version)
            }
            Err(error) => Err(inner.poison(&error)),
        };
        inner.give_writer_back(writer);
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

    /// Step 2 of a commit.
    fn retire<P: Pager>(&mut self, pager: &P) -> Result<()> {
        let writer = self
            .writer
            .as_mut()
            .expect("present until the transaction is over");
        self.pages.settle(pager, &mut writer.space)?;
        let (retired, version) = (&self.pages.retired, self.pages.version);
        Ok(writer.space.retire_all(pager, retired, version)?)
    }

    /// Steps 3 to 5 of a commit.
    fn make_durable<P: Pager>(&mut self, pager: &P, writer: &mut Writer) -> Result<Committed> {
        let version = self.pages.version;
        let stored = writer.space.store(pager, version)?;
        let mut pages = self.pages.private_pages();
        pages.extend(stored.pages);
        pager.seal(&pages)?;
        let flushed = pager.flush(&pages)?;
        let catalogue = self.catalogue;
        let meta = Meta {
            version,
            catalogue,
            map: stored.root,
            ..writer.meta.successor(version.next())
        };
        Inner::write_meta(pager, writer, flushed, meta)?;
        Ok(Committed {
            version,
            catalogue,
            map: stored.root,
        })
    }

    fn refuse_if_broken(&self) -> Result<()> {
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
        let Some(mut writer) = self.writer.take() else {
            return;
        };
        if self.inner.refuse_if_failed().is_ok() {
            with_pager!(&self.inner.pager, pager => {
                self.pages.dropped.extend(self.pages.private.drain());
                if let Err(error) = self.pages.settle(pager, &mut writer.space) {
                    // The next commit would store a map that has these pages in use.
                    let _ = self.inner.poison(&error.into());
                }
            });
        }
        self.inner.give_writer_back(writer);
    }
}

impl fmt::Debug for WriteTxn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WriteTxn")
            .field("version", &self.version())
            .finish_non_exhaustive()
    }
}

/// Before a transaction's first page: raises the floor if need be, and ends the quarantine of what
/// nobody reads any more. Returns the transaction's version.
fn prepare<P: Pager>(
    pager: &P,
    inner: &Inner,
    writer: &mut Writer,
    base: &Committed,
) -> Result<Version> {
    let version = writer.next_version;
    if !writer.marked_open || version >= writer.meta.floor {
        let marked = writer.meta.successor(version);
        let outcome = pager
            .flush(&[])
            .and_then(|flushed| Inner::write_meta(pager, writer, flushed, marked));
        if let Err(error) = outcome {
            return Err(inner.poison(&error.into()));
        }
        writer.marked_open = true;
    }
    // `get_mut` succeeds when we hold the only reference left, and then nobody can make another.
    writer
        .older
        .retain_mut(|version| Arc::get_mut(version).is_none());
    let mut live: Vec<_> = writer.older.iter().map(|older| older.version).collect();
    live.push(base.version);
    if let Err(error) = writer.space.release(pager, &live) {
        return Err(inner.poison(&error.into())); // the space goes with no version any more
    }
    writer.next_version = version.next();
    Ok(version)
}

/// A table in the write transaction.
pub struct TableMut<'t> {
    txn: &'t mut WriteTxn,
    index: usize,
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
        let outcome: Result<_, bifolio_btree::Error> = with_pager!(&txn.inner.pager, $pager => {
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
        self.txn.note_break(outcome)
    }

    /// Removes `key`, and says whether it was there.
    ///
    /// # Errors
    /// As [`TableMut::insert`].
    pub fn remove(&mut self, key: impl AsRef<[u8]>) -> Result<bool> {
        let key = key.as_ref();
        let outcome = change!(self, |pager, source, root| TreeMut::new(
            pager, source, root
        )
        .remove(key));
        self.txn.note_break(outcome)
    }

    /// Removes every entry. Costs a read of every page of the table.
    ///
    /// # Errors
    /// As [`TableMut::insert`].
    pub fn clear(&mut self) -> Result<()> {
        let outcome = change!(self, |pager, source, root| {
            TreeMut::new(pager, source, root).clear()
        });
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
        let entries = entries.into_iter();
        let outcome = change!(self, |pager, source, root| {
            bulk_load(pager, source, entries, 1.0).map(|loaded| *root = loaded)
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
        Ok(Table::new(
            &self.txn.inner,
            self.txn.tables[self.index].root,
        ))
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
