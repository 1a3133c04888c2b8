//! Reading out what is left of a damaged tree.
//!
//! Goes down from the root as a reader does, and where a page cannot be believed, goes on behind it.
//! What is told is right: every page has the number, the stamp and the checksum that its parent
//! expects, covers itself without overlap, and has keys between its fences. What hangs below a page
//! that cannot be believed is not looked for: a page that nothing leads to may be one of an older
//! version.

use std::ops::ControlFlow;

use bifolio_pager::{PageGuard, PageId, PageRef, Pager};

use crate::check::{FenceRefs, Finding, KeyRange, Seen, keys, layout};
use crate::node::{BranchRef, LeafRef, Overflow, Value};
use crate::overflow::{Piece, bounded_len};
use crate::root::Root;

/// What [`salvage`] has come across.
#[derive(Debug)]
pub enum Salvaged<'s> {
    /// An entry, whole.
    Entry {
        /// Its key.
        key: &'s [u8],
        /// Its value.
        value: &'s [u8],
    },
    /// A page that cannot be believed, and what is lost with it.
    Lost(Finding),
}

/// Tells `tell` every entry of a tree that can still be read, in the order of the keys, and every
/// page that cannot. `tell` may say that it has heard enough; the answer says whether it did.
///
/// Never panics, whatever the bytes are. Costs a read of every page, and memory of one value and of
/// one page for each level.
pub fn salvage<P: Pager>(
    pager: &P,
    root: Root,
    tell: &mut dyn FnMut(Salvaged<'_>) -> ControlFlow<()>,
) -> ControlFlow<()> {
    let mut walker = Walker {
        pager,
        tell,
        path: Vec::new(),
        seen: Seen::default(),
    };
    match root.page {
        Some(top) => walker.node(top, root.top_level(), (None, None)),
        None => ControlFlow::Continue(()),
    }
}

struct Walker<'s, P> {
    pager: &'s P,
    tell: &'s mut dyn FnMut(Salvaged<'_>) -> ControlFlow<()>,
    path: Vec<PageId>,
    seen: Seen,
}

impl<P: Pager> Walker<'_, P> {
    /// A copy of the page.
    ///
    /// # Errors
    /// Why not, in words.
    fn read(&mut self, at: PageRef) -> Result<Vec<u8>, String> {
        if !self.seen.mark(at.id, self.pager.page_count()) {
            return Err("the page is reached a second time".to_owned());
        }
        let copy = self.pager.read(at).and_then(|page| {
            let copy = page.to_vec();
            page.confirm()?;
            Ok(copy)
        });
        copy.map_err(|error| error.to_string())
    }

    fn lost(&mut self, page: PageId, what: impl Into<String>, keys: KeyRange) -> ControlFlow<()> {
        let finding = Finding {
            path: self.path.clone(),
            page,
            what: what.into(),
            lost: Some(keys),
        };
        (self.tell)(Salvaged::Lost(finding))
    }

    fn node(&mut self, at: PageRef, level: u8, fences: FenceRefs<'_>) -> ControlFlow<()> {
        let page = match self.read(at) {
            Ok(page) => page,
            Err(what) => return self.lost(at.id, what, KeyRange::between(fences)),
        };
        self.path.push(at.id);
        let outcome = match level {
            0 => self.leaf(&page, fences),
            level => self.branch(&page, level, fences),
        };
        self.path.pop();
        match outcome {
            Ok(flow) => flow,
            Err(what) => self.lost(at.id, what, KeyRange::between(fences)),
        }
    }

    fn leaf(
        &mut self,
        page: &[u8],
        fences: FenceRefs<'_>,
    ) -> Result<ControlFlow<()>, &'static str> {
        let leaf = LeafRef::parse(page, 0)?;
        layout(&leaf)?;
        keys(&leaf, fences)?;
        for item in leaf.items()? {
            let key = item.key.to_vec();
            let flow = match item.payload {
                Value::Inline(value) => (self.tell)(Salvaged::Entry { key: &key, value }),
                Value::Overflow(overflow) => match self.value(overflow) {
                    Ok(value) => (self.tell)(Salvaged::Entry {
                        key: &key,
                        value: &value,
                    }),
                    Err((page, what)) => self.lost(page, what, KeyRange::of(&key)),
                },
            };
            if flow.is_break() {
                return Ok(flow);
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn branch(
        &mut self,
        page: &[u8],
        level: u8,
        fences: FenceRefs<'_>,
    ) -> Result<ControlFlow<()>, &'static str> {
        let branch = BranchRef::parse(page, level)?;
        layout(&branch)?;
        keys(&branch, fences)?;
        let separators = (0..branch.count())
            .map(|index| Ok(branch.key(index)?.to_vec()))
            .collect::<Result<Vec<_>, &'static str>>()?;
        let children = (0..=branch.count())
            .map(|index| branch.child(index))
            .collect::<Result<Vec<_>, &'static str>>()?;
        for (index, child) in children.into_iter().enumerate() {
            let low = match index.checked_sub(1) {
                Some(before) => Some(&separators[before][..]),
                None => fences.0,
            };
            let high = separators.get(index).map(Vec::as_slice).or(fences.1);
            if self.node(child, level - 1, (low, high)).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// A value that overflows, or the page at which it cannot be followed.
    fn value(&mut self, overflow: Overflow) -> Result<Vec<u8>, (PageId, String)> {
        let len = bounded_len(self.pager, overflow);
        let mut remaining = len.map_err(|error| (overflow.first.id, error.to_string()))?;
        let (mut value, mut next) = (Vec::new(), Some(overflow.first));
        while let Some(at) = next {
            let page = self.read(at).map_err(|what| (at.id, what))?;
            let piece = Piece::parse(&page, remaining).map_err(|what| (at.id, what.to_owned()))?;
            value.extend_from_slice(piece.payload);
            remaining -= piece.payload.len();
            next = piece.next;
        }
        Ok(value)
    }
}
