//! Two pagers that must give the same answers.
//!
//! [`Mirror`] makes every call on both and panics where they differ: in what a guard shows, in
//! whether a call succeeds, in the kind of error. So a random test of the tree over a mirror finds
//! the first call at which two pagers part, and not the wreck that follows from it.
//!
//! Errors that come from the world and not from the contract (`Io`, `Poisoned`, `NoFreeFrame`,
//! `Full`, `Unavailable`) may strike one side alone: the mirror passes them on. Where a state that
//! a call changed on one side can be taken back, it is.
//!
//! Locking: `order` makes what happens to guards happen on both sides at once. Whatever only reads,
//! or drops a read guard, holds it shared; whatever may be refused because of a guard, or drops a
//! write guard, holds it alone.

use std::mem::discriminant;
use std::ops::{Deref, DerefMut};

use parking_lot::RwLock;

use crate::error::{Error, Result};
use crate::page::{Geometry, PageId, PageRef};
use crate::pager::{Access, Counters, Flushed, MetaSlot, PageGuard, Pager};

/// Two pagers that must give the same answers; see the [module](self).
///
/// # Panics
/// Every method of [`Pager`] panics when the two pagers disagree.
pub struct Mirror<A, B> {
    left: A,
    right: B,
    order: RwLock<()>,
}

impl<A: Pager, B: Pager> Mirror<A, B> {
    /// Two pagers in the same state: both new, or opened on files with the same content.
    ///
    /// # Panics
    /// If their geometries differ.
    pub fn new(left: A, right: B) -> Self {
        assert_eq!(
            left.geometry(),
            right.geometry(),
            "mirrored pagers share a geometry"
        );
        Mirror {
            left,
            right,
            order: RwLock::new(()),
        }
    }

    /// The first pager, whose counters and bytes the mirror shows.
    pub fn left(&self) -> &A {
        &self.left
    }

    /// The second pager.
    pub fn right(&self) -> &B {
        &self.right
    }

    /// Both pagers, for instance to reopen them.
    pub fn into_parts(self) -> (A, B) {
        (self.left, self.right)
    }

    /// Pages past the end of the shorter file are past the end of both: files may grow in steps of
    /// different size, and only the left one's answer would be known.
    fn expect_inside(&self, id: PageId, verb: &'static str) -> Result<()> {
        if id.get() < self.page_count() {
            return Ok(());
        }
        Err(Error::WrongState {
            page: id,
            verb,
            state: "outside the file",
        })
    }
}

/// The answers of both, or an error that is both's or the world's.
///
/// # Panics
/// If the answers differ.
fn agree<T, U>(call: &str, left: Result<T>, right: Result<U>) -> Result<(T, U)> {
    match (left, right) {
        (Ok(left), Ok(right)) => Ok((left, right)),
        (Err(left), Err(right)) if is_worldly(&left) || !is_worldly(&right) => {
            let same = is_worldly(&left) || is_mistake(&left) && is_mistake(&right);
            let same = same || discriminant(&left) == discriminant(&right);
            assert!(same, "{call}: left says {left:?}, right says {right:?}");
            Err(left)
        }
        (_, Err(error)) | (Err(error), _) if is_worldly(&error) => Err(error),
        (Ok(_), Err(error)) => panic!("{call}: left succeeds, right says {error:?}"),
        (Err(error), Ok(_)) => panic!("{call}: left says {error:?}, right succeeds"),
        (Err(left), Err(right)) => panic!("{call}: left says {left:?}, right says {right:?}"),
    }
}

/// Errors that one pager may meet where another does not.
fn is_worldly(error: &Error) -> bool {
    matches!(
        error,
        Error::Io { .. }
            | Error::Poisoned { .. }
            | Error::NoFreeFrame { .. }
            | Error::Full { .. }
            | Error::Unavailable { .. }
    )
}

/// What a call about a page that is not there, or not as it should be, is refused with: whether it
/// was the caller or the file that erred, the contract leaves open.
fn is_mistake(error: &Error) -> bool {
    matches!(error, Error::WrongState { .. } | Error::Corrupt { .. })
}

fn assert_same_bytes(call: &str, at: PageRef, left: &[u8], right: &[u8]) {
    assert_eq!(
        left.len(),
        right.len(),
        "{call} of {at:?}: guards of different length"
    );
    if left != right {
        let byte = (0..left.len())
            .find(|&byte| left[byte] != right[byte])
            .unwrap_or_default();
        let (left, right) = (left[byte], right[byte]);
        panic!(
            "{call} of {at:?}: byte {byte} is {left:#04x} on the left, {right:#04x} on the right"
        );
    }
}

impl<A: Pager, B: Pager> Pager for Mirror<A, B> {
    type Ref<'p>
        = MirrorRef<'p, A, B>
    where
        Self: 'p;
    type Mut<'p>
        = MirrorMut<'p, A, B>
    where
        Self: 'p;

    fn geometry(&self) -> Geometry {
        self.left.geometry()
    }

    fn page_count(&self) -> u64 {
        self.left.page_count().min(self.right.page_count())
    }

    fn grow(&self, page_count: u64) -> Result<()> {
        let _alone = self.order.write();
        agree(
            "grow",
            self.left.grow(page_count),
            self.right.grow(page_count),
        )?;
        Ok(())
    }

    fn read(&self, at: PageRef) -> Result<MirrorRef<'_, A, B>> {
        let _shared = self.order.read();
        let (left, right) = agree("read", self.left.read(at), self.right.read(at))?;
        // A map may have lost the page since it was verified; then the bytes mean nothing.
        left.confirm()?;
        right.confirm()?;
        assert_same_bytes("read", at, &left, &right);
        Ok(MirrorRef {
            sides: Some((left, right)),
            at,
            order: &self.order,
        })
    }

    fn create(&self, at: PageRef) -> Result<MirrorMut<'_, A, B>> {
        let _alone = self.order.write();
        self.expect_inside(at.id, "created")?;
        let (left, right) = (self.left.create(at), self.right.create(at));
        let (left_made, right_made) = (left.is_ok(), right.is_ok());
        let both = agree("create", left, right);
        if let Err(error) = both {
            // The world refused one side: the other takes its page back.
            if left_made {
                self.left.discard(&[at.id])?;
            }
            if right_made {
                self.right.discard(&[at.id])?;
            }
            return Err(error);
        }
        both.map(|(left, right)| self.lend("create", at, left, right))
    }

    fn write(&self, at: PageRef) -> Result<MirrorMut<'_, A, B>> {
        let _alone = self.order.write();
        self.expect_inside(at.id, "written")?;
        let (left, right) = agree("write", self.left.write(at), self.right.write(at))?;
        Ok(self.lend("write", at, left, right))
    }

    fn seal(&self, pages: &[PageRef]) -> Result<()> {
        let _alone = self.order.write();
        agree("seal", self.left.seal(pages), self.right.seal(pages))?;
        Ok(())
    }

    fn discard(&self, pages: &[PageId]) -> Result<()> {
        let _alone = self.order.write();
        agree(
            "discard",
            self.left.discard(pages),
            self.right.discard(pages),
        )?;
        Ok(())
    }

    fn flush(&self, pages: &[PageRef]) -> Result<Flushed> {
        let _shared = self.order.read();
        let (left, _right) = agree("flush", self.left.flush(pages), self.right.flush(pages))?;
        Ok(left)
    }

    fn write_meta(&self, after: Flushed, slot: MetaSlot, meta: &[u8]) -> Result<()> {
        let _shared = self.order.read();
        // A flush of the mirror is one of both, so what proves the left one proves the right one.
        let left = self.left.write_meta(after, slot, meta);
        let right = self.right.write_meta(Flushed::proven(), slot, meta);
        agree("write_meta", left, right)?;
        Ok(())
    }

    fn prefetch(&self, pages: &[PageRef]) {
        self.left.prefetch(pages);
        self.right.prefetch(pages);
    }

    fn write_back(&self, pages: &[PageRef]) {
        self.left.write_back(pages);
        self.right.write_back(pages);
    }

    fn advise(&self, access: Access) {
        self.left.advise(access);
        self.right.advise(access);
    }

    /// The left pager's. Two pagers do not do the same things, only the same work.
    fn counters(&self) -> Counters {
        self.left.counters()
    }

    fn effective_backend(&self) -> String {
        let (left, right) = (
            self.left.effective_backend(),
            self.right.effective_backend(),
        );
        format!("mirror of [{left}] and [{right}]")
    }
}

impl<A: Pager, B: Pager> Mirror<A, B> {
    fn lend<'p>(
        &'p self,
        call: &str,
        at: PageRef,
        left: A::Mut<'p>,
        right: B::Mut<'p>,
    ) -> MirrorMut<'p, A, B> {
        assert_same_bytes(call, at, &left, &right);
        MirrorMut {
            sides: Some((left, right)),
            order: &self.order,
        }
    }
}

/// A page of a [`Mirror`], being read: the bytes of the left one, which equal those of the right.
pub struct MirrorRef<'p, A: Pager + 'p, B: Pager + 'p> {
    /// `None` only while being dropped.
    sides: Option<(A::Ref<'p>, B::Ref<'p>)>,
    at: PageRef,
    order: &'p RwLock<()>,
}

impl<'p, A: Pager, B: Pager> MirrorRef<'p, A, B> {
    fn sides(&self) -> &(A::Ref<'p>, B::Ref<'p>) {
        self.sides.as_ref().expect("a live guard has both sides")
    }
}

impl<A: Pager, B: Pager> Deref for MirrorRef<'_, A, B> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.sides().0
    }
}

impl<A: Pager, B: Pager> PageGuard for MirrorRef<'_, A, B> {
    /// # Panics
    /// If both pages are confirmed and differ: then one has changed under its guard.
    fn confirm(&self) -> Result<()> {
        let (left, right) = self.sides();
        left.confirm()?;
        right.confirm()?;
        assert_same_bytes("confirm", self.at, left, right);
        Ok(())
    }
}

impl<A: Pager, B: Pager> Drop for MirrorRef<'_, A, B> {
    fn drop(&mut self) {
        let _shared = self.order.read();
        self.sides = None;
    }
}

/// A private page of a [`Mirror`], being written. What is written goes to the left page at once and
/// to the right one when the guard is dropped.
pub struct MirrorMut<'p, A: Pager + 'p, B: Pager + 'p> {
    /// `None` only while being dropped.
    sides: Option<(A::Mut<'p>, B::Mut<'p>)>,
    order: &'p RwLock<()>,
}

impl<A: Pager, B: Pager> Deref for MirrorMut<'_, A, B> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.sides.as_ref().expect("a live guard has both sides").0
    }
}

impl<A: Pager, B: Pager> DerefMut for MirrorMut<'_, A, B> {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.sides.as_mut().expect("a live guard has both sides").0
    }
}

impl<A: Pager, B: Pager> Drop for MirrorMut<'_, A, B> {
    fn drop(&mut self) {
        let _alone = self.order.write();
        if let Some((left, mut right)) = self.sides.take() {
            right.copy_from_slice(&left);
        }
    }
}
