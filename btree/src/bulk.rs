//! Building a tree from sorted entries: every page is written once, full, from left to right.
//!
//! Each level keeps the entries of one page that is not written yet. A page is written when the
//! next entry would no longer fit; only then is its upper fence known, and so its prefix, and the
//! separator goes to the level above.

use std::marker::PhantomData;

use bifolio_pager::{PageRef, Pager};

use crate::error::{Error, Result};
use crate::node::{
    Branch, Item, Key, Layout, Leaf, Value, build, common_prefix, halve, is_inline, max_key_len,
    size,
};
use crate::overflow::{self, MAX_VALUE_LEN};
use crate::root::Root;
use crate::source::PageSource;
use crate::walk::{retire_all, retire_value};

/// Builds a tree from entries whose keys strictly rise.
///
/// Leaves are filled to `fill` of their bytes, 1.0 being full; branches always fully. Pages are
/// allocated in the order of their keys, so that a source that hands out rising numbers gets a file
/// in key order. Each is [finished](PageSource::finish) as soon as it is written. Memory: one page's
/// entries per level.
///
/// # Errors
/// [`NotSorted`](Error::NotSorted), [`KeyTooLong`](Error::KeyTooLong) or
/// [`ValueTooLong`](Error::ValueTooLong), after which every page that was written is retired again.
/// After an error of the pager's, abandon the transaction.
pub fn bulk_load<P, S, K, V>(
    pager: &P,
    source: &mut S,
    entries: impl IntoIterator<Item = (K, V)>,
    fill: f64,
) -> Result<Root>
where
    P: Pager,
    S: PageSource,
    K: AsRef<[u8]>,
    V: AsRef<[u8]>,
{
    let mut loader = Loader::new(pager, source, fill);
    for (key, value) in entries {
        match loader.push(key.as_ref(), value.as_ref()) {
            Ok(()) => {}
            Err(Error::Pager(error)) => return Err(error.into()),
            Err(error) => {
                loader.abandon()?;
                return Err(error);
            }
        }
    }
    loader.finish()
}

/// The page of a level that is not written yet.
struct Open<L> {
    /// Encoded cells with whole keys, one after another.
    cells: Vec<u8>,
    /// Where each cell begins.
    starts: Vec<usize>,
    /// Bytes the entries would take on a page without a prefix.
    weight: usize,
    /// The separator before the page.
    low: Option<Vec<u8>>,
    /// A branch's first child.
    leftmost: Option<PageRef>,
    layout: PhantomData<L>,
}

impl<L: Layout> Open<L> {
    fn new(low: Option<Vec<u8>>, leftmost: Option<PageRef>) -> Self {
        Open {
            cells: Vec::new(),
            starts: Vec::new(),
            weight: 0,
            low,
            leftmost,
            layout: PhantomData,
        }
    }

    fn take(&mut self) -> Self {
        std::mem::replace(self, Open::new(None, None))
    }

    fn len(&self) -> usize {
        self.starts.len()
    }

    fn item(&self, index: usize) -> Item<'_, L> {
        let cell = &self.cells[self.starts[index]..];
        Item {
            key: Key::whole(L::suffix(cell).expect("a cell of our own")),
            payload: L::payload(cell).expect("a cell of our own"),
        }
    }

    fn items(&self) -> Vec<Item<'_, L>> {
        (0..self.len()).map(|index| self.item(index)).collect()
    }

    fn push(&mut self, item: &Item<'_, L>) {
        let start = self.cells.len();
        let len = L::encoded_len(item.key.len(), &item.payload);
        self.starts.push(start);
        self.cells.resize(start + len, 0);
        L::encode(&mut self.cells[start..], item.key, &item.payload);
        self.weight += item.weight();
    }

    /// Bytes of the page if this separator came after it.
    fn size_before(&self, separator: &[u8]) -> usize {
        let low = self.low.as_deref();
        let prefix_len = low.map_or(0, |low| common_prefix(low, separator));
        size::<L>(self.len(), self.weight, prefix_len)
    }
}

struct Loader<'a, P, S> {
    pager: &'a P,
    source: &'a mut S,
    leaf: Open<Leaf>,
    /// From the level above the leaves upwards. Each has at least a first child.
    branches: Vec<Open<Branch>>,
    /// Bytes to which leaves are filled.
    limit: usize,
    usable: usize,
    entries: u64,
}

impl<'a, P: Pager, S: PageSource> Loader<'a, P, S> {
    fn new(pager: &'a P, source: &'a mut S, fill: f64) -> Self {
        let usable = pager.geometry().page_size.usable();
        Loader {
            pager,
            source,
            leaf: Open::new(None, None),
            branches: Vec::new(),
            limit: (usable as f64 * fill.clamp(0.0, 1.0)) as usize,
            usable,
            entries: 0,
        }
    }

    fn push(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        self.check_entry(key, value)?;
        if self.leaf.len() > 1 {
            // The entries so far are known to fit but for the last, of which nobody could tell
            // before `key` came.
            let last = self.leaf.item(self.leaf.len() - 1).key;
            let separator = &key[..last.common_prefix(&Key::whole(key)) + 1];
            if self.leaf.size_before(separator) > self.limit {
                self.close_leaf()?;
            }
        }
        let payload = if is_inline(key.len(), value.len(), self.usable) {
            Value::Inline(value)
        } else {
            Value::Overflow(overflow::write(self.pager, self.source, value)?)
        };
        self.leaf.push(&Item {
            key: Key::whole(key),
            payload,
        });
        self.entries += 1;
        Ok(())
    }

    fn check_entry(&self, key: &[u8], value: &[u8]) -> Result<()> {
        let max = max_key_len(self.pager.geometry().page_size);
        let len = key.len();
        if len > max {
            return Err(Error::KeyTooLong { len, max });
        }
        let (len, max) = (value.len(), MAX_VALUE_LEN);
        if len > max {
            return Err(Error::ValueTooLong { len, max });
        }
        let last = self
            .leaf
            .len()
            .checked_sub(1)
            .map(|index| self.leaf.item(index).key);
        if last.is_some_and(|last| last.cmp(&Key::whole(key)).is_ge()) {
            return Err(Error::NotSorted {
                position: self.entries,
            });
        }
        Ok(())
    }

    /// Writes all entries of the open leaf but the last, which begins the next one.
    fn close_leaf(&mut self) -> Result<()> {
        let open = self.leaf.take();
        let items = open.items();
        let split = halve(&items, items.len() - 1);
        let high = Some(split.separator);
        let child = self.write_page(0, None, split.left, (open.low.as_deref(), high.as_deref()))?;
        self.leaf = Open::new(high, None);
        self.leaf.push(&split.right[0]);
        self.add_child(0, open.low, child)
    }

    /// Gives branch level `i`, counted from above the leaves, a child and the separator before it.
    fn add_child(&mut self, i: usize, separator: Option<Vec<u8>>, child: PageRef) -> Result<()> {
        if i == self.branches.len() {
            self.branches.push(Open::new(None, Some(child)));
            return Ok(());
        }
        let separator = separator.expect("there is a separator before every child but the first");
        let open = &self.branches[i];
        if open.len() > 1 && open.size_before(&separator) > self.usable {
            self.close_branch(i)?;
        }
        self.branches[i].push(&Item {
            key: Key::whole(&separator),
            payload: child,
        });
        Ok(())
    }

    /// Writes the open branch without its last key, which goes up, and its last child, which
    /// begins the next one.
    fn close_branch(&mut self, i: usize) -> Result<()> {
        let open = self.branches[i].take();
        let items = open.items();
        let split = halve(&items, items.len() - 1);
        let high = Some(split.separator);
        let fences = (open.low.as_deref(), high.as_deref());
        let child = self.write_page(i + 1, open.leftmost, split.left, fences)?;
        self.branches[i] = Open::new(high, split.right_leftmost);
        self.add_child(i + 1, open.low, child)
    }

    fn write_page<L: Layout>(
        &mut self,
        level: usize,
        leftmost: Option<PageRef>,
        items: &[Item<'_, L>],
        fences: (Option<&[u8]>, Option<&[u8]>),
    ) -> Result<PageRef> {
        let id = self.source.allocate()?;
        let version = self.source.version();
        let at = PageRef { id, version };
        let mut page = self.pager.create(at)?;
        let prefix = match fences {
            (Some(low), Some(high)) => &low[..common_prefix(low, high)],
            _ => &[],
        };
        let level = u8::try_from(level).expect("no tree is deeper than MAX_DEPTH");
        build(&mut page, level, leftmost, prefix, items).expect("the entries were measured");
        debug_assert_eq!(crate::check::layout_damage(&page), None);
        drop(page);
        self.source.finish(at)?;
        Ok(at)
    }

    /// Writes what is open, level by level; the first level that has one page has the root.
    fn finish(mut self) -> Result<Root> {
        if self.entries == 0 {
            return Ok(Root::default());
        }
        let leaf = self.leaf.take();
        let mut pages = self.write_last(0, &leaf)?;
        for level in 1.. {
            if let [(_, top)] = pages[..]
                && self.branches.len() < level
            {
                return Ok(Root {
                    page: Some(top),
                    depth: u8::try_from(level).expect("no tree is deeper than MAX_DEPTH"),
                    entries: self.entries,
                });
            }
            for (separator, child) in pages {
                self.add_child(level - 1, separator, child)?;
            }
            let branch = self.branches[level - 1].take();
            pages = self.write_last(level, &branch)?;
        }
        unreachable!("each level has fewer pages than the one below")
    }

    /// Writes the last entries of a level, with the separators before the pages they make: two
    /// where they do not fit on one for want of a fence, and so of a prefix.
    fn write_last<L: Layout>(
        &mut self,
        level: usize,
        open: &Open<L>,
    ) -> Result<Vec<(Option<Vec<u8>>, PageRef)>> {
        let items = open.items();
        let low = open.low.as_deref();
        if size::<L>(open.len(), open.weight, 0) <= self.usable {
            let page = self.write_page(level, open.leftmost, &items, (low, None))?;
            return Ok(vec![(open.low.clone(), page)]);
        }
        let split = halve(&items, items.len() - 1 - usize::from(L::HAS_CHILDREN));
        let between = Some(&split.separator[..]);
        let left = self.write_page(level, open.leftmost, split.left, (low, between))?;
        let right = self.write_page(level, split.right_leftmost, split.right, (between, None))?;
        Ok(vec![
            (open.low.clone(), left),
            (Some(split.separator), right),
        ])
    }

    /// Retires every page written so far.
    fn abandon(&mut self) -> Result<()> {
        for item in self.leaf.items() {
            if let Value::Overflow(chain) = item.payload {
                retire_value(self.pager, self.source, chain)?;
            }
        }
        for (open, depth) in self.branches.iter().zip(1..) {
            let others = open.items().into_iter().map(|item| item.payload);
            for child in open.leftmost.into_iter().chain(others) {
                let root = Root {
                    page: Some(child),
                    depth,
                    entries: 0,
                };
                retire_all(self.pager, self.source, root)?;
            }
        }
        Ok(())
    }
}
