//! What callers hold: a page being read, a page being written.

use std::ops::{Deref, DerefMut};

use bifolio_pager::{Error, PageGuard, PageId, Result};

use crate::map::{HeldPage, Map, OwnPage};

/// A page of an [`MmapPager`](crate::MmapPager) that is being read: bytes of the mapping itself.
///
/// It keeps the page from being written and its number from being used again. It does not keep the
/// page in memory: a byte that the kernel has dropped is read again when it is touched, and where
/// that fails [`confirm`](PageGuard::confirm) says so.
#[must_use = "the page may be read only while the guard lives"]
pub struct PageRead<'p>(pub(crate) HeldPage<'p>);

impl Deref for PageRead<'_> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        self.0.bytes()
    }
}

impl PageGuard for PageRead<'_> {
    #[inline]
    fn confirm(&self) -> Result<()> {
        let map = self.0.map();
        if map.watch().any()
            && let Some(id) = self.0.mapped_id()
        {
            return confirm_after_faults(map, id);
        }
        Ok(())
    }
}

/// Whether the faults so far leave page `id` alone.
#[cold]
pub(crate) fn confirm_after_faults(map: &Map, id: PageId) -> Result<()> {
    if map.watch().lost(|| map.bytes_of(id)) {
        return Err(lost(id));
    }
    Ok(())
}

#[cold]
fn lost(id: PageId) -> Error {
    Error::io(
        format!("reading page {id} through the mapping"),
        std::io::Error::other(
            "the kernel could not bring it in (SIGBUS): the device failed, or somebody cut the file off",
        ),
    )
}

/// A private page of an [`MmapPager`](crate::MmapPager) that is being written: bytes of the mapping
/// itself, which the kernel may write to the file at any moment (clause 4), or of a buffer
/// ([`WriteStyle::Pwrite`](crate::WriteStyle)).
#[must_use = "the page may be written only while the guard lives"]
pub struct PageMut<'p>(pub(crate) OwnPage<'p>);

impl Deref for PageMut<'_> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        self.0.bytes()
    }
}

impl DerefMut for PageMut<'_> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        self.0.bytes_mut()
    }
}
