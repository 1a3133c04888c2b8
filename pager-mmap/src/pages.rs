//! The states of all pages, with the hazards that protect the sealed ones.
//!
//! The hit path is [`Pages::use_sealed`]: it publishes a hazard in a line of memory that only this
//! thread writes, then loads the page's word, which on a sealed page nobody writes. Everything else
//! may cost a read-modify-write or, once for a batch, a `membarrier`.
//!
//! Locking: pages are retired, and taken out of `Draining`, only under `retiring`. Otherwise a
//! snapshot could be older than the retirement it is used for: between the two, others could have
//! created, sealed, read and retired the page once more.

use bifolio_pager::hazard::{Hazard, Hazards};
use bifolio_pager::sync::Mutex;
use bifolio_pager::table::PageTable;
use bifolio_pager::{Error, PageId, Result};

use crate::state::{Exclusive, Hold, Latch, Refusal, Retired, State, Word};

/// One [`Word`] for each page that the mapping has room for, and the readers' hazards.
pub(crate) struct Pages {
    words: PageTable<Word>,
    hazards: Hazards,
    retiring: Mutex<()>,
    /// Page numbers below this one are the meta area. Never 0, which no hazard can hold.
    first: PageId,
    /// Whether anybody wants to know which pages are used.
    marks_use: bool,
}

impl Pages {
    /// All pages from `first` to `capacity`, each unknown.
    pub(crate) fn new(first: PageId, capacity: u64, marks_use: bool) -> Self {
        assert!(first.get() > 0, "page 0 is part of the meta area");
        Pages {
            words: PageTable::new(capacity),
            hazards: Hazards::new(),
            retiring: Mutex::new(()),
            first,
            marks_use,
        }
    }

    /// Bytes of memory held by the table.
    pub(crate) fn memory_bytes(&self) -> u64 {
        self.words.memory_bytes() as u64
    }

    /// Holds a page that is known to be sealed, for a reader: it counts as used.
    #[inline(always)]
    pub(crate) fn use_sealed(&self, id: PageId) -> Option<Hold<'_>> {
        let (word, hazard) = self.protect(id)?;
        let sealed = match self.marks_use {
            false => word.is_sealed(),
            true => word.is_sealed_and_used(),
        };
        sealed.then(|| Hold::Sealed(hazard))
    }

    /// As [`Pages::use_sealed`], for our own work.
    pub(crate) fn hold_sealed(&self, id: PageId) -> Option<Hold<'_>> {
        let (word, hazard) = self.protect(id)?;
        word.is_sealed().then(|| Hold::Sealed(hazard))
    }

    /// The hazard is published first, and the word looked at second: the order that state.rs'
    /// invariant 3 relies on.
    #[inline(always)]
    fn protect(&self, id: PageId) -> Option<(&Word, Hazard<'_>)> {
        if id < self.first {
            return None;
        }
        let word = self.words.get(id)?;
        Some((word, self.hazards.protect(id)))
    }

    /// Holds a page whatever is known of it, after `verify` if that is nothing.
    ///
    /// # Errors
    /// `Corrupt` if the page is free or `verify` says so; `Guarded` if it is being written.
    ///
    /// # Panics
    /// If `id` is not a page number of this file: the caller has checked it.
    pub(crate) fn hold(
        &self,
        id: PageId,
        verify: impl Fn(&Latch<'_>) -> Result<()>,
    ) -> Result<Hold<'_>> {
        let word = self.word(id);
        loop {
            let hazard = self.hazards.protect(id);
            // Where the state changes between two looks at it, look again.
            match word.state() {
                State::Sealed => return Ok(Hold::Sealed(hazard)),
                State::Private => {
                    if let Ok(latch) = word.latch(State::Private) {
                        return Ok(Hold::Latched(latch));
                    }
                }
                State::Unknown => {
                    if let Ok(latch) = word.latch(State::Unknown) {
                        verify(&latch)?;
                        if word.believe(latch) {
                            return Ok(Hold::Sealed(hazard));
                        }
                    }
                }
                State::Writing => return Err(Error::Guarded { page: id }),
                State::Draining | State::Free => {
                    return Err(Error::corrupt(id, "it is referred to, but free"));
                }
            }
        }
    }

    /// Takes a page that nobody uses, for writing. Costs a `membarrier` if the page was discarded
    /// under a guard.
    pub(crate) fn create(&self, id: PageId) -> Result<Exclusive<'_>> {
        let word = self.word(id);
        let refusal = match word.create(false) {
            Ok(exclusive) => return Ok(exclusive),
            Err(Refusal::Draining) => {
                // Whoever retired the page did so before we got the lock, hence before the snapshot.
                let _retiring = self.retiring.lock();
                let drained = !self.hazards.snapshot().contains(id);
                match word.create(drained) {
                    Ok(exclusive) => return Ok(exclusive),
                    Err(Refusal::Draining) => Refusal::Guarded,
                    Err(other) => other,
                }
            }
            Err(other) => other,
        };
        Err(refused(id, "created", refusal))
    }

    /// Takes a private page, for writing again.
    pub(crate) fn write(&self, id: PageId) -> Result<Exclusive<'_>> {
        let word = self.word(id);
        word.write()
            .map_err(|refusal| refused(id, "written", refusal))
    }

    /// Takes a private page, to end the time in which it is written.
    pub(crate) fn seal(&self, id: PageId) -> Result<Exclusive<'_>> {
        let word = self.word(id);
        word.write()
            .map_err(|refusal| refused(id, "sealed", refusal))
    }

    /// Ends the lives of these pages. One `membarrier`, and none if nobody can be reading them.
    ///
    /// # Errors
    /// `Guarded` if one of them is being written; the others are discarded nevertheless.
    pub(crate) fn discard(&self, pages: &[PageId]) -> Result<()> {
        let _retiring = self.retiring.lock();
        let mut outcome = Ok(());
        let mut draining = Vec::new();
        for &id in pages {
            match self.word(id).retire() {
                Ok(Retired::Free) => {}
                Ok(Retired::Draining) => draining.push(id),
                Err(refusal) => outcome = Err(refused(id, "discarded", refusal)),
            }
        }
        if !draining.is_empty() {
            let protected = self.hazards.snapshot();
            draining.retain(|&id| !protected.contains(id));
            for id in draining {
                self.word(id).reclaim();
            }
        }
        outcome
    }

    /// Marks pages that are about to be used, those that are sealed.
    pub(crate) fn mark_used(&self, pages: &[PageId]) {
        if self.marks_use {
            for &id in pages {
                drop(self.use_sealed(id));
            }
        }
    }

    /// Clears the mark of page `id`. Whether it was set.
    pub(crate) fn clear_used(&self, id: PageId) -> bool {
        self.words.get(id).is_some_and(Word::clear_used)
    }

    /// Whether page `id` was changed and not flushed since. It is dirty then, unless the kernel has
    /// written it meanwhile.
    pub(crate) fn is_unflushed(&self, id: PageId) -> bool {
        self.words.get(id).is_some_and(|word| {
            word.wants_checksum() || matches!(word.state(), State::Private | State::Writing)
        })
    }

    /// The word of a page that the caller has checked to be one.
    pub(crate) fn word(&self, id: PageId) -> &Word {
        assert!(id >= self.first, "{id:?} is part of the meta area");
        self.words
            .entry(id)
            .unwrap_or_else(|| panic!("{id:?} is past the end of the reservation"))
    }
}

#[cold]
fn refused(page: PageId, verb: &'static str, refusal: Refusal) -> Error {
    match refusal {
        Refusal::Guarded | Refusal::Draining => Error::Guarded { page },
        // Asking twice for what one has is a clash of guards, not a wrong state.
        Refusal::State(State::Writing) => Error::Guarded { page },
        Refusal::State(state) => Error::WrongState {
            page,
            verb,
            state: state.name(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: PageId = PageId::new(40);

    fn sealed() -> Pages {
        let pages = Pages::new(PageId::new(32), 100, false);
        pages.create(ID).unwrap().seal();
        pages
    }

    #[test]
    fn a_discarded_page_that_nobody_reads_is_free_at_once() {
        let pages = sealed();
        pages.discard(&[ID]).unwrap();
        assert_eq!(pages.word(ID).state(), State::Free);
    }

    #[test]
    fn a_discarded_page_that_somebody_reads_drains_until_it_is_asked_for_again() {
        let pages = sealed();
        let hold = pages.hold_sealed(ID).unwrap();
        pages.discard(&[ID]).unwrap();
        assert_eq!(pages.word(ID).state(), State::Draining);
        assert!(pages.hold_sealed(ID).is_none());
        assert!(matches!(pages.create(ID), Err(Error::Guarded { page }) if page == ID));
        drop(hold);
        assert_eq!(pages.word(ID).state(), State::Draining);
        pages.create(ID).unwrap().seal();
        assert!(pages.hold_sealed(ID).is_some());
    }

    #[test]
    fn a_page_that_fails_its_verification_stays_unknown() {
        let pages = Pages::new(PageId::new(32), 100, false);
        for _ in 0..2 {
            let outcome = pages.hold(ID, |_| Err(Error::corrupt(ID, "bad")));
            assert!(matches!(outcome, Err(Error::Corrupt { .. })));
            assert_eq!(pages.word(ID).state(), State::Unknown);
        }
        drop(pages.hold(ID, |_| Ok(())).unwrap());
        assert!(pages.hold_sealed(ID).is_some());
    }

    #[test]
    fn the_meta_area_is_never_held() {
        let pages = sealed();
        for number in [0, 1, 31] {
            assert!(pages.hold_sealed(PageId::new(number)).is_none());
        }
    }
}
