//! A range of entries, on whichever pager the database has.

use std::fmt;
use std::iter::FusedIterator;
use std::ops::RangeBounds;

use bifolio_btree as btree;
use bifolio_btree::{Root, Tree};
use bifolio_pager::MemPager;
use bifolio_pager_bufpool::BufPool;
use bifolio_pager_mmap::MmapPager;

use crate::core::{AnyPager, Core};
use crate::error::Result;
use crate::overlay::Overlay;

/// An entry: key and value, copied.
pub type Entry = (Vec<u8>, Vec<u8>);

/// The entries of a table between two bounds, in the order of their keys.
///
/// An iterator from both ends over copies; [`Range::next_entry`] lends instead, without allocating.
/// Holds one page in memory at most while it rests. An iteration that met an error is over.
pub struct Range<'t> {
    core: &'t Core,
    on: On<'t>,
    /// It was used in a forked child.
    over: bool,
}

enum On<'t> {
    Mmap(btree::Range<'t, MmapPager>),
    Pool(btree::Range<'t, BufPool>),
    Memory(btree::Range<'t, MemPager>),
    OverMmap(btree::Range<'t, Overlay<MmapPager>>),
    OverPool(btree::Range<'t, Overlay<BufPool>>),
    #[cfg(any(test, feature = "testkit"))]
    Modelled(btree::Range<'t, bifolio_pager::Faulty<MemPager>>),
    #[cfg(test)]
    OverModelled(btree::Range<'t, Overlay<bifolio_pager::Faulty<MemPager>>>),
}

macro_rules! on_range {
    ($any:expr, $range:ident => $body:expr) => {
        match $any {
            On::Mmap($range) => $body,
            On::Pool($range) => $body,
            On::Memory($range) => $body,
            On::OverMmap($range) => $body,
            On::OverPool($range) => $body,
            #[cfg(any(test, feature = "testkit"))]
            On::Modelled($range) => $body,
            #[cfg(test)]
            On::OverModelled($range) => $body,
        }
    };
}

impl<'t> Range<'t> {
    pub(crate) fn new<K: AsRef<[u8]>>(
        core: &'t Core,
        root: Root,
        bounds: &impl RangeBounds<K>,
    ) -> Self {
        let bounds = (
            bounds.start_bound().map(AsRef::as_ref),
            bounds.end_bound().map(AsRef::as_ref),
        );
        let on = match &core.pager {
            AnyPager::Mmap(pager) => On::Mmap(Tree::new(pager, root).range(bounds)),
            AnyPager::Pool(pager) => On::Pool(Tree::new(pager, root).range(bounds)),
            AnyPager::Memory(pager) => On::Memory(Tree::new(pager, root).range(bounds)),
            AnyPager::OverMmap(pager) => On::OverMmap(Tree::new(pager, root).range(bounds)),
            AnyPager::OverPool(pager) => On::OverPool(Tree::new(pager, root).range(bounds)),
            #[cfg(any(test, feature = "testkit"))]
            AnyPager::Modelled(pager) => On::Modelled(Tree::new(pager, root).range(bounds)),
            #[cfg(test)]
            AnyPager::OverModelled(pager) => On::OverModelled(Tree::new(pager, root).range(bounds)),
        };
        Range {
            core,
            on,
            over: false,
        }
    }

    fn refuse_in_child(&mut self) -> Result<()> {
        self.core
            .refuse_in_child()
            .inspect_err(|_| self.over = true)
    }

    /// Says how many entries will probably be taken, before the first one is.
    ///
    /// Where data is larger than memory a short range is then read with all its pages under way at
    /// once, and hardly any beyond; without it, reading ahead begins small and grows. It is a hint: the
    /// range may be longer or shorter.
    pub fn expect(mut self, entries: u64) -> Self {
        on_range!(&mut self.on, range => range.expect(entries));
        self
    }

    /// The next entry from the front, lent until the next call.
    ///
    /// # Errors
    /// What the pager says.
    pub fn next_entry(&mut self) -> Result<Option<(&[u8], &[u8])>> {
        self.refuse_in_child()?;
        Ok(on_range!(&mut self.on, range => range.next_ref())?)
    }

    /// The next entry from the back, lent until the next call.
    ///
    /// # Errors
    /// What the pager says.
    pub fn next_entry_back(&mut self) -> Result<Option<(&[u8], &[u8])>> {
        self.refuse_in_child()?;
        Ok(on_range!(&mut self.on, range => range.next_back_ref())?)
    }
}

impl Iterator for Range<'_> {
    type Item = Result<Entry>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.over {
            return None;
        }
        if let Err(error) = self.refuse_in_child() {
            return Some(Err(error));
        }
        on_range!(&mut self.on, range => range.next()).map(|entry| Ok(entry?))
    }
}

impl DoubleEndedIterator for Range<'_> {
    fn next_back(&mut self) -> Option<Self::Item> {
        if self.over {
            return None;
        }
        if let Err(error) = self.refuse_in_child() {
            return Some(Err(error));
        }
        on_range!(&mut self.on, range => range.next_back()).map(|entry| Ok(entry?))
    }
}

impl FusedIterator for Range<'_> {}

impl fmt::Debug for Range<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Range").finish_non_exhaustive()
    }
}
