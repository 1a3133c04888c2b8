//! Bringing in what many keys need, before anybody waits for it.

use std::ops::Range;

use bifolio_pager::{PageRef, Pager};

use crate::error::Result;
use crate::node::BranchRef;
use crate::tree::{Tree, visit};

/// Pages asked for at once; so many more are under way while these are looked at.
const WINDOW: usize = 64;

/// A page, and which of the keys belong below it.
type Node = (PageRef, Range<usize>);

impl<P: Pager> Tree<'_, P> {
    /// Brings the pages on the way to each key into memory, level by level, each page once, with many
    /// reads under way. Of the leaves, the first `most` at the most. `keys` ascend.
    ///
    /// For a writer who will need the pages soon and holds no lock yet. Pages are in memory when
    /// this returns, unless others pushed them out again. Overflow pages are not brought in.
    pub fn warm<K: AsRef<[u8]>>(&self, keys: &[K], most: usize) -> Result<()> {
        debug_assert!(keys.is_sorted_by_key(AsRef::as_ref));
        let Some(top) = self.root.page.filter(|_| !keys.is_empty()) else {
            return Ok(());
        };
        let mut nodes = vec![(top, 0..keys.len())];
        for level in (1..self.root.depth).rev() {
            let mut below: Vec<Node> = Vec::new();
            self.each_ahead(&nodes, |at, under| {
                let children = visit(self.pager, at, |page| {
                    let branch = BranchRef::parse(page, level)?;
                    let child = |index: usize| -> Result<_, _> {
                        Ok((
                            index,
                            branch.child(branch.child_index(keys[index].as_ref())?)?,
                        ))
                    };
                    under.clone().map(child).collect::<Result<Vec<_>, _>>()
                })?;
                for (index, child) in children {
                    match below.last_mut() {
                        Some((last, under)) if *last == child => under.end = index + 1,
                        _ => below.push((child, index..index + 1)),
                    }
                }
                Ok(())
            })?;
            below.truncate(most);
            nodes = below;
        }
        // Used twice, because it is known that each will be wanted again: a policy that resists scans
        // holds pages that were used once in a small part of memory, where a large batch would push
        // out its own first pages.
        self.each_ahead(&nodes, |leaf, _| {
            visit(self.pager, leaf, |_| Ok(()))?;
            visit(self.pager, leaf, |_| Ok(()))
        })
    }

    /// Calls `look` for each page, with the pages after it on their way.
    fn each_ahead(
        &self,
        nodes: &[Node],
        mut look: impl FnMut(PageRef, &Range<usize>) -> Result<()>,
    ) -> Result<()> {
        let ask = |window: &[Node]| {
            let pages: Vec<_> = window.iter().map(|(at, _)| *at).collect();
            self.pager.prefetch(&pages);
        };
        let mut windows = nodes.chunks(WINDOW).peekable();
        if let Some(first) = windows.peek() {
            ask(first);
        }
        while let Some(window) = windows.next() {
            if let Some(next) = windows.peek() {
                ask(next);
            }
            for (at, under) in window {
                look(*at, under)?;
            }
        }
        Ok(())
    }
}
