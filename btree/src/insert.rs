//! Inserting and replacing.

use bifolio_pager::Pager;

use crate::error::{Error, Result};
use crate::node::{Item, Key, Leaf, Value, is_inline, max_key_len};
use crate::overflow::{self, MAX_VALUE_LEN};
use crate::root::Root;
use crate::source::PageSource;
use crate::walk::retire_value;
use crate::write::{Node, Path, Step, TreeMut};

impl<P: Pager, S: PageSource> TreeMut<'_, P, S> {
    /// Sets the value of `key`; `true` if there was one before, which is replaced.
    ///
    /// # Errors
    /// [`KeyTooLong`](Error::KeyTooLong) and [`ValueTooLong`](Error::ValueTooLong) before anything
    /// is changed; what the pager and the source report.
    pub fn insert(&mut self, key: &[u8], value: &[u8]) -> Result<bool> {
        self.check_len(key, value)?;
        let found = match self.root.page {
            None => None,
            Some(_) => Some(self.find_path(key)?),
        };
        let overflow;
        let value = if is_inline(key.len(), value.len(), self.usable()) {
            Value::Inline(value)
        } else {
            overflow = overflow::write(self.pager, self.source, value)?;
            Value::Overflow(overflow)
        };
        match found {
            None => self.begin(key, value)?,
            Some((mut path, false)) => {
                self.make_private(&mut path)?;
                self.insert_value(&mut path, key, value)?;
            }
            Some((mut path, true)) => {
                self.make_private(&mut path)?;
                self.replace_value(&mut path, key, value)?;
                return Ok(true);
            }
        }
        self.root.entries = self.root.entries.saturating_add(1); // it may come from a damaged file
        Ok(false)
    }

    fn check_len(&self, key: &[u8], value: &[u8]) -> Result<()> {
        let max = max_key_len(self.pager.geometry().page_size);
        if key.len() > max {
            return Err(Error::KeyTooLong {
                len: key.len(),
                max,
            });
        }
        if value.len() > MAX_VALUE_LEN {
            return Err(Error::ValueTooLong {
                len: value.len(),
                max: MAX_VALUE_LEN,
            });
        }
        Ok(())
    }

    /// Makes the first leaf of an empty tree.
    fn begin(&mut self, key: &[u8], value: Value<'_>) -> Result<()> {
        let at = self.fresh()?;
        let item = Item::<Leaf> {
            key: Key::whole(key),
            payload: value,
        };
        let node = Node {
            leftmost: None,
            items: &[item],
        };
        self.store(at, true, 0, node, &(None, None))?;
        *self.root = Root {
            page: Some(at),
            depth: 1,
            entries: 0,
        };
        Ok(())
    }

    fn insert_value(&mut self, path: &mut Path, key: &[u8], value: Value<'_>) -> Result<()> {
        let (i, Step { index, .. }) = (path.len() - 1, path[path.len() - 1]);
        let item = Item::<Leaf> {
            key: Key::whole(key),
            payload: value,
        };
        self.insert_entry(path, i, index, item)
    }

    fn replace_value(&mut self, path: &mut Path, key: &[u8], value: Value<'_>) -> Result<()> {
        let (i, Step { index, .. }) = (path.len() - 1, path[path.len() - 1]);
        let (old, replaced) = self.edit::<Leaf, _>(path, i, |leaf| {
            let old = leaf.overflow(index)?;
            let replaced = leaf.replace_same_len(index, &value)?;
            if !replaced {
                leaf.remove(index)?;
            }
            Ok((old, replaced))
        })?;
        if !replaced {
            self.insert_value(path, key, value)?;
        }
        match old {
            Some(chain) => retire_value(self.pager, self.source, chain),
            None => Ok(()),
        }
    }
}
