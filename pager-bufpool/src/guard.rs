//! The guards that callers hold.

use std::ops::{Deref, DerefMut};

use bifolio_pager::{PageGuard, Result};

use crate::frames::{Held, ReadHold};
use crate::word::ExclusiveHold;

/// A page that is being read: all of it but the checksum. The page stays in its frame until this is
/// dropped, on whichever thread.
pub struct Ref<'p>(pub(crate) Held<'p, ReadHold<'p>>);

/// A private page that is being written: all of it but the checksum. Nobody reads it, and the pool
/// does not write it back, until this is dropped.
pub struct Mut<'p>(pub(crate) Held<'p, ExclusiveHold<'p>>);

impl Deref for Ref<'_> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl PageGuard for Ref<'_> {
    /// Always `Ok`: the page was verified before the guard was made, and nobody takes it back.
    #[inline]
    fn confirm(&self) -> Result<()> {
        Ok(())
    }
}

impl Deref for Mut<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl DerefMut for Mut<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}
