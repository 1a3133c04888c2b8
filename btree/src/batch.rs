//! Many look-ups at once: all pages that a level of the tree needs are asked for together.

use bifolio_pager::{PageRef, Pager};

use crate::error::Result;
use crate::node::{Overflow, Value};
use crate::overflow;
use crate::tree::{Tree, child_for, visit_leaf};

/// Look-ups that go down the tree together.
const BATCH: usize = 64;

impl<P: Pager> Tree<'_, P> {
    /// Looks many keys up and calls `f` once for each, with its number in `keys` and its value.
    /// The order of the calls is not that of `keys`.
    ///
    /// The keys go down the tree side by side, so that the device sees the reads of a level at
    /// once instead of one after the other: on data larger than memory several times as fast as
    /// [`get`](Tree::get) one by one. One guard is held at a time. After an error `f` may have
    /// been called for some keys; what it was given is right.
    pub fn get_many<K: AsRef<[u8]>>(
        &self,
        keys: &[K],
        mut f: impl FnMut(usize, Option<&[u8]>),
    ) -> Result<()> {
        let Some(top) = self.root.page else {
            (0..keys.len()).for_each(|index| f(index, None));
            return Ok(());
        };
        let mut value = Vec::new();
        for (batch, first) in keys.chunks(BATCH).zip((0..).step_by(BATCH)) {
            self.get_batch(top, batch, &mut value, |index, value| {
                f(first + index, value)
            })?;
        }
        Ok(())
    }

    fn get_batch<K: AsRef<[u8]>>(
        &self,
        top: PageRef,
        keys: &[K],
        value: &mut Vec<u8>,
        mut f: impl FnMut(usize, Option<&[u8]>),
    ) -> Result<()> {
        let mut at = [top; BATCH];
        let at = &mut at[..keys.len()];
        for level in (1..self.root.depth).rev() {
            for (at, key) in at.iter_mut().zip(keys) {
                *at = child_for(self.pager, *at, level, key.as_ref())?;
            }
            self.pager.prefetch(at);
        }
        let mut overflowing: Vec<(usize, Overflow)> = Vec::new();
        for (index, (at, key)) in at.iter().zip(keys).enumerate() {
            value.clear();
            let found = visit_leaf(self.pager, *at, |leaf| {
                let found = leaf.find(key.as_ref())?;
                if let Some(Value::Inline(bytes)) = found {
                    value.extend_from_slice(bytes);
                }
                Ok(found.map(|value| match value {
                    Value::Inline(_) => None,
                    Value::Overflow(overflow) => Some(overflow),
                }))
            })?;
            match found {
                None => f(index, None),
                Some(None) => f(index, Some(value)),
                Some(Some(overflow)) => overflowing.push((index, overflow)),
            }
        }
        self.get_overflowing(&overflowing, value, f)
    }

    fn get_overflowing(
        &self,
        overflowing: &[(usize, Overflow)],
        value: &mut Vec<u8>,
        mut f: impl FnMut(usize, Option<&[u8]>),
    ) -> Result<()> {
        if overflowing.is_empty() {
            return Ok(());
        }
        let firsts: Vec<PageRef> = overflowing.iter().map(|(_, chain)| chain.first).collect();
        self.pager.prefetch(&firsts);
        for &(index, chain) in overflowing {
            value.clear();
            overflow::read(self.pager, chain, value)?;
            f(index, Some(value));
        }
        Ok(())
    }
}
