//! Reading: a snapshot, its tables, and ranges of them.

use std::fmt;
use std::ops::RangeBounds;
use std::sync::Arc;

use bifolio_btree::{Root, Tree};
use bifolio_pager::Version;

use crate::catalogue;
use crate::core::{Committed, Core, with_pager};
use crate::database::Open;
use crate::error::{Error, Result};
use crate::range::{Entry, Range};

/// A snapshot of the database: the state that was committed when it was taken.
///
/// Later commits do not change it. What it reaches is kept in the file until it is dropped. It may
/// be sent to another thread and shared between threads.
pub struct ReadTxn {
    open: Arc<Open>,
    at: Arc<Committed>,
}

impl ReadTxn {
    pub(crate) fn new(open: Arc<Open>, at: Arc<Committed>) -> Self {
        ReadTxn { open, at }
    }

    /// The commit that this snapshot shows.
    pub fn version(&self) -> Version {
        self.at.version
    }

    /// The table of this name.
    ///
    /// # Errors
    /// [`Error::NoSuchTable`]; [`Error::BadTableName`]; what the pager says.
    pub fn table(&self, name: &str) -> Result<Table<'_>> {
        let catalogue = self.at.catalogue;
        let found =
            with_pager!(self.open.pager()?, pager => catalogue::find(pager, catalogue, name))?;
        let root = found.ok_or_else(|| Error::NoSuchTable {
            name: name.to_owned(),
        })?;
        Ok(Table {
            core: &self.open,
            root,
        })
    }

    /// The names of all tables, sorted.
    ///
    /// # Errors
    /// What the pager says.
    pub fn table_names(&self) -> Result<Vec<String>> {
        let catalogue = self.at.catalogue;
        let tables = with_pager!(self.open.pager()?, pager => catalogue::list(pager, catalogue))?;
        Ok(tables.into_iter().map(|(name, _)| name).collect())
    }
}

impl fmt::Debug for ReadTxn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadTxn")
            .field("version", &self.version())
            .finish_non_exhaustive()
    }
}

/// A table as of one snapshot, or as the write transaction sees it now: an ordered map of bytes.
#[derive(Clone, Copy)]
pub struct Table<'t> {
    core: &'t Core,
    root: Root,
}

impl fmt::Debug for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table")
            .field("root", &self.root)
            .finish_non_exhaustive()
    }
}

impl<'t> Table<'t> {
    pub(crate) fn new(core: &'t Core, root: Root) -> Self {
        Table { core, root }
    }

    pub(crate) fn root(&self) -> Root {
        self.root
    }

    /// How many entries there are. Costs nothing.
    pub fn len(&self) -> u64 {
        self.root.entries
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The value of `key`, copied.
    ///
    /// # Errors
    /// What the pager says, here and in all methods below: a page is corrupt, storage failed, or
    /// every frame of the pool is in use. A key over the limit is simply not there.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Vec<u8>>> {
        let key = key.as_ref();
        Ok(with_pager!(self.core.pager()?, pager => Tree::new(pager, self.root).get(key))?)
    }

    /// Replaces what is in `value` by the value of `key`, and says whether there is one. Saves the
    /// allocation of [`Table::get`].
    ///
    /// # Errors
    /// As [`Table::get`].
    pub fn get_into(&self, key: impl AsRef<[u8]>, value: &mut Vec<u8>) -> Result<bool> {
        let key = key.as_ref();
        let tree_says = with_pager!(self.core.pager()?, pager => Tree::new(pager, self.root).get_into(key, value));
        Ok(tree_says?)
    }

    /// Shows the value of `key` to `look` where it lies, without a copy, and returns its answer.
    ///
    /// On a memory map the page can fail while `look` reads it; then the answer is thrown away and
    /// an error returned. So `look` should do nothing but compute an answer.
    ///
    /// # Errors
    /// As [`Table::get`].
    pub fn get_with<R>(
        &self,
        key: impl AsRef<[u8]>,
        look: impl FnOnce(&[u8]) -> R,
    ) -> Result<Option<R>> {
        let key = key.as_ref();
        Ok(
            with_pager!(self.core.pager()?, pager => Tree::new(pager, self.root).get_with(key, look))?,
        )
    }

    /// Looks up many keys at once and shows each key's index and value, in any order, to `look`.
    ///
    /// Goes down the tree level by level with the reads of a level all under way together, so where
    /// data is larger than memory this is many times faster than one `get` after the other.
    ///
    /// # Errors
    /// As [`Table::get`]; what `look` has been shown before an error was right.
    pub fn get_many<K: AsRef<[u8]>>(
        &self,
        keys: &[K],
        look: impl FnMut(usize, Option<&[u8]>),
    ) -> Result<()> {
        let tree_says = with_pager!(self.core.pager()?, pager => Tree::new(pager, self.root).get_many(keys, look));
        Ok(tree_says?)
    }

    /// Whether `key` is there.
    ///
    /// # Errors
    /// As [`Table::get`].
    pub fn contains_key(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        let key = key.as_ref();
        Ok(with_pager!(self.core.pager()?, pager => Tree::new(pager, self.root).contains_key(key))?)
    }

    /// The entry with the lowest key.
    ///
    /// # Errors
    /// As [`Table::get`].
    pub fn first(&self) -> Result<Option<Entry>> {
        Ok(with_pager!(self.core.pager()?, pager => Tree::new(pager, self.root).first())?)
    }

    /// The entry with the highest key.
    ///
    /// # Errors
    /// As [`Table::get`].
    pub fn last(&self) -> Result<Option<Entry>> {
        Ok(with_pager!(self.core.pager()?, pager => Tree::new(pager, self.root).last())?)
    }

    /// The entries whose keys lie in `bounds`, in order, from either end. Reads nothing yet.
    pub fn range<K: AsRef<[u8]>>(&self, bounds: impl RangeBounds<K>) -> Range<'t> {
        Range::new(self.core, self.root, &bounds)
    }

    /// All entries, in order, from either end. Reads nothing yet.
    pub fn iter(&self) -> Range<'t> {
        self.range::<&[u8]>(..)
    }
}

impl<'t> IntoIterator for Table<'t> {
    type Item = Result<Entry>;
    type IntoIter = Range<'t>;

    fn into_iter(self) -> Range<'t> {
        self.iter()
    }
}
