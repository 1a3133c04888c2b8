//! A pager over another one that only reads: what is written stays in memory.
//!
//! For opening a database for reading that was not closed: its log is replayed by the same write
//! transactions as ever, onto pages that are in memory and go when the database is dropped. Nothing is
//! written anywhere, so a file or a directory that may not be written is no hindrance.
//!
//! Invariants:
//! 1. A page that the map has an entry for is what the entry says; any other one is the pager's
//!    below. So the pager below never hears of a page that was created here.
//! 2. Images, their number times the page size, are at most `limit_bytes`. Past it `create` answers
//!    [`Full`](bifolio_pager::Error::Full), and the replay is given up.
//!
//! It keeps the contract of [`Pager`] but for its fifth clause: a flush makes nothing durable, because
//! nothing here is meant to be. (`MemPager::volatile` does the same.)
//!
//! Locking: one lock on the map, held for no I/O and while no guard is handed to a caller.

use std::collections::HashMap;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use bifolio_pager::page::SELF_REF;
use bifolio_pager::sync::RwLock;
use bifolio_pager::sync::atomic::{AtomicU64, Ordering};
use bifolio_pager::{
    Access, Counters, Error, Flushed, Geometry, MetaSlot, PageGuard, PageId, PageRef, Pager,
    Result, first_page,
};

/// The bytes that guards expose: no checksum, which is for storage.
type Image = Arc<Vec<u8>>;

/// A pager that keeps what is written in memory; see the [module](self).
pub(crate) struct Overlay<P> {
    base: P,
    limit_bytes: u64,
    page_count: AtomicU64,
    pages: RwLock<Pages>,
}

#[derive(Default)]
struct Pages {
    lives: HashMap<PageId, Life>,
    /// Entries that have an image, lent ones included.
    images: u64,
    /// One more was asked for than there may be.
    exceeded: bool,
}

/// What a page is here.
enum Life {
    /// Discarded, or never more than that. The image is that of its last life here, if a guard of it
    /// may be left.
    Free(Option<Image>),
    /// Private, and lent to its writer.
    Writing,
    Private(Image),
    Sealed(Image),
}

impl Life {
    fn in_words(&self) -> &'static str {
        match self {
            Life::Free(_) => "free",
            Life::Writing => "being written",
            Life::Private(_) => "private",
            Life::Sealed(_) => "sealed",
        }
    }
}

fn is_guarded(image: &Image) -> bool {
    Arc::strong_count(image) > 1
}

impl<P: Pager> Overlay<P> {
    /// Over `base`, which must be able to read; with images of at most `limit_bytes`.
    pub fn new(base: P, limit_bytes: u64) -> Self {
        Overlay {
            page_count: AtomicU64::new(base.page_count()),
            base,
            limit_bytes,
            pages: RwLock::default(),
        }
    }

    /// The limit, if a page was refused because of it.
    pub fn exceeded(&self) -> Option<u64> {
        let exceeded = self.pages.read().exceeded;
        exceeded.then_some(self.limit_bytes)
    }

    /// The pager below.
    #[cfg(test)]
    pub fn base(&self) -> &P {
        &self.base
    }

    fn wrong_state(&self, page: PageId, verb: &'static str, life: Option<&Life>) -> Error {
        let inside = (first_page(self.geometry()).get()..self.page_count()).contains(&page.get());
        let state = match life {
            Some(life) => life.in_words(),
            None if inside => "sealed",
            None => "outside the file",
        };
        Error::WrongState { page, verb, state }
    }

    /// The private page `at`, with nobody else looking at it.
    fn expect_private<'p>(
        &self,
        pages: &'p mut Pages,
        at: PageRef,
        verb: &'static str,
    ) -> Result<&'p mut Life> {
        let other_version = || Error::WrongState {
            page: at.id,
            verb,
            state: "of another version",
        };
        match pages.lives.get_mut(&at.id) {
            Some(Life::Writing) => Err(Error::Guarded { page: at.id }),
            Some(Life::Private(image)) if is_guarded(image) => Err(Error::Guarded { page: at.id }),
            Some(Life::Private(image)) if own_ref(image) != at => Err(other_version()),
            Some(life @ Life::Private(_)) => Ok(life),
            life => Err(self.wrong_state(at.id, verb, life.as_deref())),
        }
    }

    fn lend(&self, id: PageId, image: Vec<u8>) -> OverlayMut<'_> {
        OverlayMut {
            pages: &self.pages,
            id,
            image,
        }
    }
}

fn own_ref(image: &[u8]) -> PageRef {
    PageRef::decode(&image[SELF_REF])
}

impl<P: Pager> Pager for Overlay<P> {
    type Ref<'p>
        = OverlayRef<P::Ref<'p>>
    where
        P: 'p;
    type Mut<'p>
        = OverlayMut<'p>
    where
        P: 'p;

    fn geometry(&self) -> Geometry {
        self.base.geometry()
    }

    fn page_count(&self) -> u64 {
        self.page_count.load(Ordering::Acquire)
    }

    /// Takes no memory: pages do when they are created.
    fn grow(&self, page_count: u64) -> Result<()> {
        self.page_count.fetch_max(page_count, Ordering::AcqRel);
        Ok(())
    }

    fn read(&self, at: PageRef) -> Result<Self::Ref<'_>> {
        match self.pages.read().lives.get(&at.id) {
            None => {}
            Some(Life::Free(_)) => return Err(Error::corrupt(at.id, "the page is free")),
            Some(Life::Writing) => return Err(Error::Guarded { page: at.id }),
            Some(Life::Private(image) | Life::Sealed(image)) => {
                self.geometry().expect(image, at)?;
                return Ok(OverlayRef::Here(Arc::clone(image)));
            }
        }
        Ok(OverlayRef::Below(self.base.read(at)?))
    }

    fn create(&self, at: PageRef) -> Result<OverlayMut<'_>> {
        let bytes = self.geometry().page_size.bytes() as u64;
        let inside = (first_page(self.geometry()).get()..self.page_count()).contains(&at.id.get());
        let mut pages = self.pages.write();
        match pages.lives.get(&at.id) {
            Some(Life::Writing) => return Err(Error::Guarded { page: at.id }),
            Some(Life::Free(Some(image))) if is_guarded(image) => {
                return Err(Error::Guarded { page: at.id });
            }
            None | Some(Life::Free(_)) if inside => {}
            life => return Err(self.wrong_state(at.id, "created", life)),
        }
        if (pages.images + 1) * bytes > self.limit_bytes {
            let limit_bytes = self.limit_bytes;
            pages.exceeded = true;
            return Err(Error::Full { limit_bytes });
        }
        pages.images += 1;
        pages.lives.insert(at.id, Life::Writing);
        let mut image = vec![0; self.geometry().page_size.usable()];
        image[SELF_REF].copy_from_slice(&at.encode());
        Ok(self.lend(at.id, image))
    }

    fn write(&self, at: PageRef) -> Result<OverlayMut<'_>> {
        let mut pages = self.pages.write();
        let life = self.expect_private(&mut pages, at, "written")?;
        let Life::Private(image) = std::mem::replace(life, Life::Writing) else {
            unreachable!("it is private");
        };
        let image = Arc::into_inner(image).expect("nobody else looks at it");
        Ok(self.lend(at.id, image))
    }

    fn seal(&self, seals: &[PageRef]) -> Result<()> {
        let mut pages = self.pages.write();
        for &at in seals {
            self.expect_private(&mut pages, at, "sealed")?;
        }
        for at in seals {
            let life = pages.lives.get_mut(&at.id).expect("it was there just now");
            if let Life::Private(image) = life {
                *life = Life::Sealed(Arc::clone(image));
            }
        }
        Ok(())
    }

    fn discard(&self, discards: &[PageId]) -> Result<()> {
        let mut pages = self.pages.write();
        let mut refused = Ok(());
        for &id in discards {
            let (former, images) = match pages.lives.remove(&id) {
                Some(Life::Writing) => {
                    pages.lives.insert(id, Life::Writing);
                    refused = Err(Error::Guarded { page: id });
                    continue;
                }
                Some(Life::Private(image) | Life::Sealed(image)) => (Some(image), 1),
                Some(Life::Free(former)) => (former, 0),
                None => (None, 0),
            };
            pages.images -= images;
            // An image that nobody looks at is not kept.
            let former = former.filter(is_guarded);
            pages.lives.insert(id, Life::Free(former));
        }
        refused
    }

    /// Nothing here outlives the pager, so there is nothing to do but to look for mistakes.
    fn flush(&self, flushed: &[PageRef]) -> Result<Flushed> {
        let pages = self.pages.read();
        for at in flushed {
            match pages.lives.get(&at.id) {
                None => {}
                Some(Life::Sealed(image)) if own_ref(image) == *at => {}
                life => return Err(self.wrong_state(at.id, "flushed", life)),
            }
        }
        Ok(Flushed::proven())
    }

    fn write_meta(&self, _after: Flushed, _slot: MetaSlot, _meta: &[u8]) -> Result<()> {
        Ok(())
    }

    fn prefetch(&self, wanted: &[PageRef]) {
        let below: Vec<PageRef> = {
            let pages = self.pages.read();
            let is_below = |at: &&PageRef| !pages.lives.contains_key(&at.id);
            wanted.iter().filter(is_below).copied().collect()
        };
        self.base.prefetch(&below);
    }

    fn read_ahead_most(&self) -> usize {
        self.base.read_ahead_most()
    }

    fn advise(&self, access: Access) {
        self.base.advise(access);
    }

    /// Those of the pager below, with the memory that is held here.
    fn counters(&self) -> Counters {
        let counters = self.base.counters();
        let here = self.pages.read().images * self.geometry().page_size.bytes() as u64;
        Counters {
            memory_bytes: Some(counters.memory_bytes.unwrap_or(0) + here),
            ..counters
        }
    }

    fn effective_backend(&self) -> String {
        let below = self.base.effective_backend();
        format!("{below}, with the log replayed in memory")
    }
}

/// A page that is being read: of the pager below, or from memory.
pub(crate) enum OverlayRef<R> {
    Below(R),
    Here(Image),
}

impl<R: Deref<Target = [u8]>> Deref for OverlayRef<R> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            OverlayRef::Below(page) => page,
            OverlayRef::Here(image) => image,
        }
    }
}

impl<R: PageGuard> PageGuard for OverlayRef<R> {
    fn confirm(&self) -> Result<()> {
        match self {
            OverlayRef::Below(page) => page.confirm(),
            OverlayRef::Here(_) => Ok(()),
        }
    }
}

/// A private page, being written.
pub(crate) struct OverlayMut<'p> {
    pages: &'p RwLock<Pages>,
    id: PageId,
    image: Vec<u8>,
}

impl Deref for OverlayMut<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.image
    }
}

impl DerefMut for OverlayMut<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.image
    }
}

impl Drop for OverlayMut<'_> {
    fn drop(&mut self) {
        let image = Arc::new(std::mem::take(&mut self.image));
        let before = self
            .pages
            .write()
            .lives
            .insert(self.id, Life::Private(image));
        assert!(
            matches!(before, Some(Life::Writing)),
            "page {} changed under its writer",
            self.id
        );
    }
}

#[cfg(test)]
mod tests {
    use bifolio_pager::conformance::{self, ENDS, Fixture};
    use bifolio_pager::{MemPager, PageSize, Version};

    use super::*;

    struct OverNothing;

    impl Fixture for OverNothing {
        type Pager = Overlay<MemPager>;

        fn create(&self, geometry: Geometry) -> Self::Pager {
            Overlay::new(MemPager::new(geometry), u64::MAX)
        }

        fn reopen(&self, _: Self::Pager) -> Self::Pager {
            unreachable!("no clause that is run here asks for it")
        }
    }

    #[test]
    fn it_keeps_the_clauses_of_the_contract_that_are_not_about_storage() {
        use conformance::{exclusive::*, own_writes::*};
        let run = |clause| conformance::run(&OverNothing, ENDS, clause);
        run(a_created_page_is_zeros_but_for_its_reference);
        run(a_page_with_a_read_guard_cannot_be_written);
        run(a_page_with_a_read_guard_cannot_be_sealed);
        run(a_page_being_written_cannot_be_read);
        run(a_page_being_written_cannot_be_written_again);
        run(a_page_being_written_cannot_be_sealed);
        run(a_page_being_created_cannot_be_read_or_written);
        run(a_number_is_not_reused_under_a_guard_of_its_former_life);
        run(a_guard_dropped_on_another_thread_frees_its_page);
        run(a_guard_holds_up_no_other_page);
        run(of_several_writers_of_one_page_one_wins);
        run(a_written_page_reads_as_written);
        run(a_private_page_can_be_written_again_and_again);
        run(a_private_page_keeps_what_was_written_to_other_parts_of_it);
        run(thousands_of_private_pages_read_as_written);
    }

    const GEOMETRY: Geometry = Geometry {
        page_size: PageSize::DEFAULT,
        seed: 3,
    };

    fn page(number: u64, version: u64) -> PageRef {
        PageRef {
            id: PageId::new(number),
            version: Version::new(version),
        }
    }

    fn make<P: Pager>(pager: &P, at: PageRef, byte: u8) {
        pager.create(at).unwrap()[100] = byte;
        pager.seal(&[at]).unwrap();
    }

    #[test]
    fn what_lies_below_is_read_until_it_is_discarded_and_never_changed() {
        let base = MemPager::new(GEOMETRY);
        base.grow(40).unwrap();
        let (old, new) = (page(33, 1), page(33, 2));
        make(&base, old, 7);
        let _durable = base.flush(&[old]).unwrap();
        let overlay = Overlay::new(base, 1 << 20);
        assert_eq!(overlay.read(old).unwrap()[100], 7);
        overlay.discard(&[old.id]).unwrap();
        assert!(overlay.read(old).is_err());
        make(&overlay, new, 8);
        assert_eq!(overlay.read(new).unwrap()[100], 8);
        assert!(overlay.read(old).is_err(), "it has another stamp");
        assert_eq!(overlay.base().read(old).unwrap()[100], 7);
    }

    #[test]
    fn images_past_the_limit_are_refused_and_discarded_ones_do_not_count() {
        let overlay = Overlay::new(MemPager::new(GEOMETRY), 3 * 4096 + 4095);
        overlay.grow(100).unwrap();
        for number in 32..35 {
            make(&overlay, page(number, 1), 1);
        }
        let full = overlay.create(page(35, 1)).err().unwrap();
        assert!(matches!(full, Error::Full { .. }), "{full}");
        overlay
            .discard(&[PageId::new(33), PageId::new(60)])
            .unwrap();
        make(&overlay, page(35, 1), 1);
        assert!(overlay.create(page(36, 1)).is_err());
    }
}
