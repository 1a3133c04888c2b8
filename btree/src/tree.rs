//! Reading a tree as of one root.

use bifolio_pager::{self as pager, PageGuard, PageRef, Pager};

use crate::cursor::Cursor;
use crate::error::Result;
use crate::node::{BranchRef, Damage, LeafRef, Overflow, Value};
use crate::overflow;
use crate::range::{Bounds, Range};
use crate::root::Root;
use crate::search::touch_lines;

/// An entry: key, then value.
pub type Entry = (Vec<u8>, Vec<u8>);

/// A tree as of one root: what it holds does not change while its pages live.
///
/// A look-up holds one guard at a time.
pub struct Tree<'p, P: Pager> {
    pub(crate) pager: &'p P,
    pub(crate) root: Root,
}

impl<P: Pager> Clone for Tree<'_, P> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<P: Pager> Copy for Tree<'_, P> {}

/// Reads a page and looks at it; what was seen counts only when the page has been confirmed.
///
/// # Errors
/// The pager's, or [`Corrupt`](pager::Error::Corrupt) with what `look` found wrong.
#[inline]
pub(crate) fn visit<P: Pager, T>(
    pager: &P,
    at: PageRef,
    look: impl FnOnce(&[u8]) -> Result<T, Damage>,
) -> Result<T> {
    let page = pager.read(at)?;
    let seen = look(&page);
    page.confirm()?;
    match seen {
        Ok(seen) => Ok(seen),
        Err(what) => Err(pager::Error::corrupt(at.id, what).into()),
    }
}

/// Lines after a page's first that hold the slots of a leaf whose entries take about 128 bytes.
const LEAF_SLOT_LINES: usize = 3;
/// Lines after a page's first that hold the slots of a full branch, where keys are short.
const BRANCH_SLOT_LINES: usize = 15;

/// As [`visit`], for a leaf, which is hardly ever in the processor's cache.
///
/// Where its slots are is known from its header only, so that looking at it waits for memory twice.
/// Touching the lines that follow the header makes the two waits one.
#[inline]
pub(crate) fn visit_leaf<P: Pager, T>(
    pager: &P,
    at: PageRef,
    look: impl FnOnce(&LeafRef<'_>) -> Result<T, Damage>,
) -> Result<T> {
    visit(pager, at, |page| {
        touch_lines(page, 1..1 + LEAF_SLOT_LINES);
        look(&LeafRef::parse(page, 0)?)
    })
}

/// The child of a branch that `key` belongs to.
#[inline]
pub(crate) fn child_for<P: Pager>(
    pager: &P,
    at: PageRef,
    level: u8,
    key: &[u8],
) -> Result<PageRef> {
    visit(pager, at, |page| {
        touch_lines(page, 1..1 + BRANCH_SLOT_LINES);
        let branch = BranchRef::parse(page, level)?;
        branch.child(branch.child_index(key)?)
    })
}

/// What a look-up meets in the leaf.
enum Found<T, F> {
    Nothing,
    Here(T),
    Elsewhere(Overflow, F),
}

impl<'p, P: Pager> Tree<'p, P> {
    /// The tree whose top is `root`, in the pages of `pager`.
    pub fn new(pager: &'p P, root: Root) -> Self {
        Tree { pager, root }
    }

    /// Where the tree is and how much it holds.
    pub fn root(&self) -> Root {
        self.root
    }

    /// How many entries there are.
    pub fn len(&self) -> u64 {
        self.root.entries
    }

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.root.page.is_none()
    }

    /// The value of `key`.
    ///
    /// # Errors
    /// What the pager reports, among it a page that is not what it must be.
    #[inline]
    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let mut value = Vec::new();
        Ok(self.get_into(key, &mut value)?.then_some(value))
    }

    /// Replaces the content of `to` by the value of `key`; `false`, and nothing in it, if there is
    /// none. Spares [`get`](Tree::get)'s allocation. After an error `to` holds anything.
    #[inline]
    pub fn get_into(&self, key: &[u8], to: &mut Vec<u8>) -> Result<bool> {
        to.clear();
        let Some(leaf) = self.leaf_for(key)? else {
            return Ok(false);
        };
        let found = visit_leaf(self.pager, leaf, |leaf| match leaf.find(key)? {
            None => Ok(Found::Nothing),
            Some(Value::Inline(value)) => {
                to.extend_from_slice(value);
                Ok(Found::Here(()))
            }
            Some(Value::Overflow(overflow)) => Ok(Found::Elsewhere(overflow, ())),
        })?;
        match found {
            Found::Nothing => Ok(false),
            Found::Here(()) => Ok(true),
            Found::Elsewhere(overflow, ()) => {
                overflow::read(self.pager, overflow, to)?;
                Ok(true)
            }
        }
    }

    /// Calls `f` with the value of `key`, without copying it where it lies in the leaf.
    ///
    /// On a memory map `f` can meet bytes that are not the value; then the page is found out
    /// afterwards and what `f` returned is dropped. So `f` should do nothing but compute.
    #[inline]
    pub fn get_with<T>(&self, key: &[u8], f: impl FnOnce(&[u8]) -> T) -> Result<Option<T>> {
        let Some(leaf) = self.leaf_for(key)? else {
            return Ok(None);
        };
        let found = visit_leaf(self.pager, leaf, |leaf| match leaf.find(key)? {
            None => Ok(Found::Nothing),
            Some(Value::Inline(value)) => Ok(Found::Here(f(value))),
            Some(Value::Overflow(overflow)) => Ok(Found::Elsewhere(overflow, f)),
        })?;
        match found {
            Found::Nothing => Ok(None),
            Found::Here(result) => Ok(Some(result)),
            Found::Elsewhere(overflow, f) => {
                let mut value = Vec::new();
                overflow::read(self.pager, overflow, &mut value)?;
                Ok(Some(f(&value)))
            }
        }
    }

    /// Whether there is an entry for `key`. Reads no overflow page.
    pub fn contains_key(&self, key: &[u8]) -> Result<bool> {
        let Some(leaf) = self.leaf_for(key)? else {
            return Ok(false);
        };
        visit_leaf(self.pager, leaf, |leaf| Ok(leaf.search(key)?.1))
    }

    /// The entry with the least key.
    pub fn first(&self) -> Result<Option<Entry>> {
        let mut cursor = self.cursor();
        Ok(cursor.next()?.map(owned))
    }

    /// The entry with the greatest key.
    pub fn last(&self) -> Result<Option<Entry>> {
        let mut cursor = self.cursor();
        cursor.seek_last()?;
        Ok(cursor.prev()?.map(owned))
    }

    /// A cursor before the first entry. Reads nothing yet.
    pub fn cursor(&self) -> Cursor<'p, P> {
        Cursor::new(*self)
    }

    /// The entries whose keys lie within `bounds`, from either end. Reads nothing yet.
    pub fn range<'k>(&self, bounds: impl std::ops::RangeBounds<&'k [u8]>) -> Range<'p, P> {
        Range::new(*self, Bounds::new(&bounds))
    }

    /// All entries, from either end.
    pub fn iter(&self) -> Range<'p, P> {
        self.range(..)
    }

    /// The leaf that `key` belongs to; `None` in an empty tree.
    #[inline]
    pub(crate) fn leaf_for(&self, key: &[u8]) -> Result<Option<PageRef>> {
        let Some(mut at) = self.root.page else {
            return Ok(None);
        };
        for level in (1..self.root.depth).rev() {
            at = child_for(self.pager, at, level, key)?;
        }
        Ok(Some(at))
    }
}

pub(crate) fn owned((key, value): (&[u8], &[u8])) -> Entry {
    (key.to_vec(), value.to_vec())
}
