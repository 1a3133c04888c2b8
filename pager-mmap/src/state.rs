//! The state of one page in one atomic word, and the tokens that prove it.
//!
//! A *latch* is a count in the word: while it is not zero, nobody starts to write the page. It is
//! what readers of a private page and verifiers of an unknown one hold. Readers of a sealed page
//! hold none: they publish a hazard, which writes no shared memory.
//!
//! ```text
//!            believe: checksum and number are right
//!   Unknown ─────────────────────────────────────────▶ Sealed
//!      │                                               ▲    │
//!      │ create                   seal                 │    │ retire
//!      └────────▶ Writing ─────────────────────────────┘    ▼
//!                 ▲ ▲  │ ▲                               Draining ── reclaim ──▶ Free
//!                 │ │  ▼ │ write                            │   (no guard left)   │
//!                 │ │ Private ── retire, if latched ──▶     │                     │
//!                 │ └──────────────── create ───────────────┘                     │
//!                 └────────────────── create ─────────────────────────────────────┘
//! ```
//!
//! `retire` takes whatever nobody can be looking at, private or unknown, straight to `Free`.
//!
//! Invariants:
//! 1. The bytes of a page are written only by the holder of its one [`Exclusive`], which exists
//!    from `create` or `write` until it is dropped or sealed. The checksum word alone is filled later (by flush),
//!    and only while the page is sealed.
//! 2. While a [`Latch`] of a page lives, no `Exclusive` of it is given out.
//! 3. A `Draining` page becomes `Free`, or is created again, only with no latch, and after a
//!    snapshot of the hazards that was begun after it was retired and does not contain it
//!    (`pages.rs` holds a lock over these steps).
//! 4. So while a [`Hold`] of a page lives, no `Exclusive` of it is given out.
//! 5. `USED`, a mark for `budget.rs`, says nothing of the page's state. It is set only under a hazard
//!    or a latch that was found to protect the page, so never while an `Exclusive` lives.
//! 6. Only a `Sealed` page is `CHECKSUMMED`: its checksum word is right, or will not be written.
//!
//! Not here: hazards and where words are kept (`pages.rs`), what the bytes are (`map.rs`).

use bifolio_pager::hazard::Hazard;
use bifolio_pager::sync::atomic::{AtomicU32, Ordering};

const STATE: u32 = 0b111;
const CHECKSUMMED: u32 = 1 << 3;
const USED: u32 = 1 << 4;
const LATCH: u32 = 1 << 5;
const LATCHES_MAX: u32 = u32::MAX / LATCH;

/// What a page is. See the drawing above for how one becomes another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum State {
    /// Nothing is known since the file was opened.
    Unknown = 0,
    /// Immutable, and either verified or written by ourselves.
    Sealed = 1,
    /// May be written by its one writer, and read.
    Private = 2,
    /// Being written now; carries no latch.
    Writing = 3,
    /// Discarded, perhaps still under somebody's guard.
    Draining = 4,
    /// Discarded, under nobody's guard.
    Free = 5,
}

impl State {
    fn of(word: u32) -> State {
        match word & STATE {
            0 => State::Unknown,
            1 => State::Sealed,
            2 => State::Private,
            3 => State::Writing,
            4 => State::Draining,
            5 => State::Free,
            other => unreachable!("no state has the number {other}"),
        }
    }

    /// The state in words, for an error.
    pub(crate) fn name(self) -> &'static str {
        match self {
            State::Unknown => "not known to be private",
            State::Sealed => "sealed",
            State::Private => "private",
            State::Writing => "being written",
            State::Draining | State::Free => "free",
        }
    }
}

/// The state of one page.
#[derive(Default)]
pub(crate) struct Word(AtomicU32);

/// What `retire` left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Retired {
    /// Nobody can be looking at the page: it is free.
    Free,
    /// Somebody may be: look at the hazards, then [`Word::reclaim`].
    Draining,
}

/// Nobody writes the page while this lives (invariant 2).
#[must_use = "the page is latched only while this lives"]
pub(crate) struct Latch<'p>(&'p Word);

impl Drop for Latch<'_> {
    fn drop(&mut self) {
        // Release: what was read under the latch was read before the page is written again.
        self.0.0.fetch_sub(LATCH, Ordering::Release);
    }
}

/// The right to write the page (invariant 1). Dropping it makes the page private.
#[must_use = "the page can be written only while this lives"]
pub(crate) struct Exclusive<'p>(&'p Word);

impl Exclusive<'_> {
    /// `Writing` → `Sealed`.
    pub(crate) fn seal(self) {
        self.end(State::Sealed as u32);
    }

    /// `Writing` → `Sealed`, with the checksum in the file already.
    pub(crate) fn seal_checksummed(self) {
        self.end(State::Sealed as u32 | CHECKSUMMED);
    }

    /// `Writing` → `Free`.
    pub(crate) fn free(self) {
        self.end(State::Free as u32);
    }

    fn end(self, word: u32) {
        self.0.finish(word);
        std::mem::forget(self);
    }
}

impl Drop for Exclusive<'_> {
    fn drop(&mut self) {
        self.0.finish(State::Private as u32);
    }
}

/// Nobody writes the page while this lives (invariant 4).
#[must_use = "the page is held only while this lives"]
pub(crate) enum Hold<'p> {
    /// The page was found sealed after the hazard was published.
    Sealed(#[expect(dead_code, reason = "held for its drop")] Hazard<'p>),
    /// The page was private and is latched.
    Latched(#[expect(dead_code, reason = "held for its drop")] Latch<'p>),
}

impl Word {
    /// What the page is now.
    #[inline]
    pub(crate) fn state(&self) -> State {
        State::of(self.0.load(Ordering::Acquire))
    }

    /// Whether the page may be read under a hazard that was published before this call.
    #[inline]
    pub(crate) fn is_sealed(&self) -> bool {
        // Acquire: the reader sees the bytes as they were when the page was sealed.
        self.0.load(Ordering::Acquire) & STATE == State::Sealed as u32
    }

    /// As [`Word::is_sealed`], and marks the page as used if it is. The mark is set while the page
    /// is protected, so never on one that is being written.
    #[inline]
    pub(crate) fn is_sealed_and_used(&self) -> bool {
        let word = self.0.load(Ordering::Acquire);
        let sealed = word & STATE == State::Sealed as u32;
        if sealed && word & USED == 0 {
            self.0.fetch_or(USED, Ordering::Relaxed);
        }
        sealed
    }

    /// Clears the mark. Whether it was set.
    pub(crate) fn clear_used(&self) -> bool {
        let marked = self.0.load(Ordering::Relaxed) & USED != 0;
        if marked {
            self.0.fetch_and(!USED, Ordering::Relaxed);
        }
        marked
    }

    /// Whether the page is sealed and its checksum word was not filled in yet.
    pub(crate) fn wants_checksum(&self) -> bool {
        self.0.load(Ordering::Acquire) & (STATE | CHECKSUMMED) == State::Sealed as u32
    }

    /// Says that the checksum word is filled in, if the page is still sealed.
    pub(crate) fn set_checksummed(&self) {
        let _ = self.change(|word| match State::of(word) {
            State::Sealed => Ok(word | CHECKSUMMED),
            other => Err(other),
        });
    }

    /// Latches the page, if it is in state `only`.
    pub(crate) fn latch(&self, only: State) -> Result<Latch<'_>, State> {
        self.change(|word| match State::of(word) {
            state if state == only => {
                assert!(word / LATCH < LATCHES_MAX, "too many latches of one page");
                Ok(word + LATCH)
            }
            other => Err(other),
        })?;
        Ok(Latch(self))
    }

    /// `Unknown` → `Sealed`: the holder of `latch` found the page to be right. Whether the page may
    /// now be read under a hazard published before this call: not if it was retired meanwhile.
    pub(crate) fn believe(&self, latch: Latch<'_>) -> bool {
        debug_assert!(std::ptr::eq(self, latch.0), "a latch of another page");
        std::mem::forget(latch); // its count is taken back in the same step as the state changes
        let before = self.change_always(|word| match State::of(word) {
            // Another verifier may have been faster.
            State::Unknown | State::Sealed => {
                ((word & !STATE) | State::Sealed as u32 | CHECKSUMMED) - LATCH
            }
            _ => word - LATCH,
        });
        matches!(State::of(before), State::Unknown | State::Sealed)
    }

    /// `Unknown | Free` → `Writing`. Also `Draining` → `Writing` if `drained`: the caller has a
    /// snapshot of the hazards, taken after it saw `Draining`, that lacks the page.
    pub(crate) fn create(&self, drained: bool) -> Result<Exclusive<'_>, Refusal> {
        self.change(|word| match State::of(word) {
            State::Unknown | State::Free | State::Draining if word / LATCH > 0 => {
                Err(Refusal::Guarded)
            }
            State::Unknown | State::Free => Ok(State::Writing as u32),
            State::Draining if drained => Ok(State::Writing as u32),
            State::Draining => Err(Refusal::Draining),
            other => Err(Refusal::State(other)),
        })?;
        Ok(Exclusive(self))
    }

    /// `Private` → `Writing`.
    pub(crate) fn write(&self) -> Result<Exclusive<'_>, Refusal> {
        self.change(|word| match State::of(word) {
            State::Private if word / LATCH == 0 => Ok(State::Writing as u32),
            State::Private | State::Writing => Err(Refusal::Guarded),
            other => Err(Refusal::State(other)),
        })?;
        Ok(Exclusive(self))
    }

    /// Anything but `Writing` → `Free`, or `Draining` where somebody may hold the page. Nobody gets
    /// at it anew.
    pub(crate) fn retire(&self) -> Result<Retired, Refusal> {
        let retired = |word: u32| match State::of(word) {
            State::Writing => None,
            // Only a sealed page is read without a latch.
            State::Unknown | State::Private | State::Free if word / LATCH == 0 => Some(State::Free),
            _ => Some(State::Draining),
        };
        let before = self.change(|word| match retired(word) {
            Some(state) => Ok((word & !(STATE | CHECKSUMMED)) | state as u32),
            None => Err(Refusal::Guarded),
        })?;
        match retired(before) {
            Some(State::Free) => Ok(Retired::Free),
            _ => Ok(Retired::Draining),
        }
    }

    /// `Draining` → `Free`, unless it is latched. The caller has a snapshot of the hazards, taken
    /// after the page was retired, that lacks it.
    pub(crate) fn reclaim(&self) {
        let _ = self.change(|word| match State::of(word) {
            State::Draining if word / LATCH == 0 => Ok(State::Free as u32),
            other => Err(other),
        });
    }

    /// `Writing` → `Private | Sealed | Free`.
    fn finish(&self, word: u32) {
        // Release: whoever finds the new state finds the bytes too. Nobody else changes the word of
        // a page being written, so there is nothing to keep of the old one.
        let before = self.0.swap(word, Ordering::Release);
        let writing = State::Writing as u32;
        assert_eq!(before, writing, "the page's word changed under its writer");
    }

    /// Replaces the word by what `f` makes of it, and returns what it was.
    fn change<E>(&self, f: impl Fn(u32) -> Result<u32, E>) -> Result<u32, E> {
        let mut word = self.0.load(Ordering::Acquire);
        loop {
            // AcqRel: a state is believed together with all that was done before it was set.
            let new = f(word)?;
            match (self.0).compare_exchange_weak(word, new, Ordering::AcqRel, Ordering::Acquire) {
                Ok(before) => return Ok(before),
                Err(now) => word = now,
            }
        }
    }

    /// As [`Word::change`], where no state refuses.
    fn change_always(&self, f: impl Fn(u32) -> u32) -> u32 {
        let Ok(before) = self.change(|word| Ok::<_, std::convert::Infallible>(f(word)));
        before
    }
}

/// Why a page cannot be had for writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Somebody holds it.
    Guarded,
    /// Somebody may hold it by a hazard; ask the hazards and try again.
    Draining,
    /// It is not in a state that allows it.
    State(State),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_state(state: State) -> Word {
        Word(AtomicU32::new(state as u32))
    }

    fn sealed() -> Word {
        let word = Word::default();
        word.create(false).ok().unwrap().seal();
        word
    }

    #[test]
    fn a_page_lives_from_unknown_through_private_and_sealed_to_free() {
        let word = Word::default();
        assert_eq!(word.state(), State::Unknown);
        let writer = word.create(false).ok().unwrap();
        assert_eq!(word.state(), State::Writing);
        drop(writer);
        assert_eq!(word.state(), State::Private);
        word.write().ok().unwrap().seal();
        assert!(word.is_sealed());
        assert_eq!(word.retire(), Ok(Retired::Draining));
        word.reclaim();
        assert_eq!(word.state(), State::Free);
        drop(word.create(false).ok().unwrap());
        assert_eq!(word.state(), State::Private);
    }

    #[test]
    fn a_private_page_under_readers_is_not_written() {
        let word = in_state(State::Private);
        let readers = [word.latch(State::Private), word.latch(State::Private)];
        assert_eq!(word.write().err(), Some(Refusal::Guarded));
        drop(readers);
        word.write().ok().unwrap().seal();
    }

    #[test]
    fn a_page_being_written_is_not_latched_written_or_retired() {
        let word = Word::default();
        let _writer = word.create(false).ok().unwrap();
        assert_eq!(word.latch(State::Private).err(), Some(State::Writing));
        assert_eq!(word.write().err(), Some(Refusal::Guarded));
        assert_eq!(word.retire(), Err(Refusal::Guarded));
        let again = word.create(false).err();
        assert_eq!(again, Some(Refusal::State(State::Writing)));
    }

    #[test]
    fn a_sealed_page_is_never_written_again() {
        let word = sealed();
        assert_eq!(word.write().err(), Some(Refusal::State(State::Sealed)),);
        assert_eq!(word.create(true).err(), Some(Refusal::State(State::Sealed)),);
    }

    #[test]
    fn a_draining_page_is_created_only_after_a_look_at_the_hazards() {
        let word = sealed();
        assert_eq!(word.retire(), Ok(Retired::Draining));
        assert_eq!(word.create(false).err(), Some(Refusal::Draining));
        assert!(word.create(true).is_ok());
    }

    #[test]
    fn a_latch_outlives_the_discard_and_keeps_the_page_from_being_created() {
        let word = in_state(State::Private);
        let reader = word.latch(State::Private).ok().unwrap();
        assert_eq!(word.retire(), Ok(Retired::Draining));
        word.reclaim();
        assert_eq!(word.state(), State::Draining);
        assert_eq!(word.create(true).err(), Some(Refusal::Guarded));
        drop(reader);
        assert!(word.create(true).is_ok());
    }

    #[test]
    fn an_unknown_page_under_verification_is_not_created() {
        let word = Word::default();
        let verifier = word.latch(State::Unknown).ok().unwrap();
        assert_eq!(word.create(true).err(), Some(Refusal::Guarded));
        drop(verifier); // it found damage
        assert_eq!(word.state(), State::Unknown);
        assert!(word.create(false).is_ok());
    }

    #[test]
    fn two_verifiers_of_one_page_both_succeed() {
        let word = Word::default();
        let (one, two) = (
            word.latch(State::Unknown).ok().unwrap(),
            word.latch(State::Unknown).ok().unwrap(),
        );
        assert!(word.believe(one));
        assert!(word.is_sealed());
        assert!(word.believe(two));
        assert_eq!(word.0.load(Ordering::Relaxed) / LATCH, 0);
        assert!(!word.wants_checksum());
    }

    #[test]
    fn a_page_retired_while_it_was_verified_is_not_believed() {
        let word = Word::default();
        let verifier = word.latch(State::Unknown).ok().unwrap();
        assert_eq!(word.retire(), Ok(Retired::Draining));
        assert!(!word.believe(verifier));
        assert_eq!(word.state(), State::Draining);
    }

    #[test]
    fn only_a_sealed_page_remembers_its_checksum() {
        let word = sealed();
        assert!(word.wants_checksum());
        word.set_checksummed();
        assert!(!word.wants_checksum());
        word.retire().unwrap();
        word.set_checksummed();
        word.create(true).ok().unwrap().seal();
        assert!(word.wants_checksum(), "a new life, a new checksum");
    }

    #[test]
    fn discarding_what_nobody_reads_without_a_latch_frees_it_at_once() {
        for state in [State::Unknown, State::Private, State::Free] {
            let word = in_state(state);
            assert_eq!(word.retire(), Ok(Retired::Free), "{state:?}");
            assert_eq!(word.state(), State::Free);
        }
    }
}
