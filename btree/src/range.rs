//! The entries between two bounds, from either end.

use std::ops::{Bound, RangeBounds};

use bifolio_pager::Pager;

use crate::cursor::Cursor;
use crate::error::{Error, Result};
use crate::tree::{Entry, Tree, owned};

/// Two bounds that own their keys.
#[derive(Clone, Debug)]
pub(crate) struct Bounds {
    low: Bound<Vec<u8>>,
    high: Bound<Vec<u8>>,
}

impl Bounds {
    pub(crate) fn new<'k>(bounds: &impl RangeBounds<&'k [u8]>) -> Self {
        Bounds {
            low: bounds.start_bound().map(|key| key.to_vec()),
            high: bounds.end_bound().map(|key| key.to_vec()),
        }
    }

    fn admits_from_below(&self, key: &[u8]) -> bool {
        match &self.high {
            Bound::Included(high) => key <= &high[..],
            Bound::Excluded(high) => key < &high[..],
            Bound::Unbounded => true,
        }
    }

    fn admits_from_above(&self, key: &[u8]) -> bool {
        match &self.low {
            Bound::Included(low) => key >= &low[..],
            Bound::Excluded(low) => key > &low[..],
            Bound::Unbounded => true,
        }
    }
}

/// The entries of a tree between two bounds: from the front, from the back, or both until they
/// meet. Bounds that contain nothing, such as a start after the end, are an empty range.
///
/// The iterator returns entries of their own; [`next_ref`](Range::next_ref) and
/// [`next_back_ref`](Range::next_back_ref) lend them, which spares two allocations for each. After
/// an error the range is over.
pub struct Range<'p, P: Pager> {
    bounds: Bounds,
    front: End<'p, P>,
    back: End<'p, P>,
    done: bool,
}

/// One end of the range. Its cursor holds what this end returned last.
struct End<'p, P: Pager> {
    cursor: Cursor<'p, P>,
    placed: bool,
    returned: bool,
}

impl<'p, P: Pager> End<'p, P> {
    fn new(tree: Tree<'p, P>) -> Self {
        End {
            cursor: tree.cursor(),
            placed: false,
            returned: false,
        }
    }

    fn last_key(&self) -> Option<&[u8]> {
        self.returned.then(|| self.cursor.entry().0)
    }
}

impl<'p, P: Pager> Range<'p, P> {
    pub(crate) fn new(tree: Tree<'p, P>, bounds: Bounds) -> Self {
        Range {
            bounds,
            front: End::new(tree),
            back: End::new(tree),
            done: false,
        }
    }

    /// Says how many entries will probably be taken from each end that is used, before the first is.
    /// Their leaves are then read together, and little beyond them.
    pub fn expect(&mut self, entries: u64) {
        self.front.cursor.expect(entries);
        self.back.cursor.expect(entries);
    }

    /// The next entry from the front, lent until the next call.
    #[inline]
    pub fn next_ref(&mut self) -> Result<Option<(&[u8], &[u8])>> {
        Ok(self.advance()?.then(|| self.front.cursor.entry()))
    }

    /// The next entry from the back, lent until the next call.
    #[inline]
    pub fn next_back_ref(&mut self) -> Result<Option<(&[u8], &[u8])>> {
        Ok(self.advance_back()?.then(|| self.back.cursor.entry()))
    }

    #[inline]
    fn advance(&mut self) -> Result<bool> {
        if self.done {
            return Ok(false);
        }
        self.done = true; // unless an entry is found below
        let front = &mut self.front;
        if !front.placed {
            front
                .cursor
                .seek(self.bounds.low.as_ref().map(Vec::as_slice))?;
            front.placed = true;
        }
        let Some((key, _)) = front.cursor.next()? else {
            return Ok(false);
        };
        let before_back = self.back.last_key().is_none_or(|back| key < back);
        if before_back && self.bounds.admits_from_below(key) {
            front.returned = true;
            self.done = false;
        }
        Ok(!self.done)
    }

    #[inline]
    fn advance_back(&mut self) -> Result<bool> {
        if self.done {
            return Ok(false);
        }
        self.done = true;
        let back = &mut self.back;
        if !back.placed {
            let high = self.bounds.high.as_ref().map(Vec::as_slice);
            back.cursor.seek_back(high)?;
            back.placed = true;
        }
        let Some((key, _)) = back.cursor.prev()? else {
            return Ok(false);
        };
        let after_front = self.front.last_key().is_none_or(|front| key > front);
        if after_front && self.bounds.admits_from_above(key) {
            back.returned = true;
            self.done = false;
        }
        Ok(!self.done)
    }
}

impl<P: Pager> Iterator for Range<'_, P> {
    type Item = Result<Entry, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_ref().map(|entry| entry.map(owned)).transpose()
    }
}

impl<P: Pager> DoubleEndedIterator for Range<'_, P> {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.next_back_ref()
            .map(|entry| entry.map(owned))
            .transpose()
    }
}

impl<P: Pager> std::iter::FusedIterator for Range<'_, P> {}
