//! The state of a page, in one word: where its bytes are, and what may be done with them.
//!
// ANCHOR: word
//! | bits   | field      | meaning                                                              |
//! |-------:|------------|----------------------------------------------------------------------|
//! |  0..2  | phase      | where the bytes are: [`Phase`]                                       |
//! |  2     | DEAD       | the number's life has ended: the page is free                        |
//! |  3     | PRIVATE    | the page may be written; without it (and without DEAD) it is sealed  |
//! |  4     | DIRTY      | storage lacks what a flush of the page must put there                |
//! |  5     | WRITING    | one thread is writing the frame to storage                           |
//! |  6     | REFERENCED | used again since it was brought in, or since the policy last asked   |
//! |  7     | ASYNC      | (loading) the read was started and left; a ring brings its end       |
//! |  8     | EXCLUSIVE  | a write guard is alive                                               |
//! |  9     | SEALING    | private, and about to be sealed: takes no further guard              |
//! | 10     | FRESH      | (resident) brought in and not read yet: the first use is no re-use   |
//! | 11     | INNER      | (resident, taken) leads to other pages, by its kind                  |
//! | 12     | STORED     | (resident, taken) sealed after it was stolen, and as it was stolen   |
//! | 13..32 | latches    | read guards of a private page that are alive                         |
//! | 32..64 | frame      | (resident, taken) the frame that holds the page                      |
//! |        | note       | (absent, loading) what the policy noted when the page left; 0: none  |
// ANCHOR_END: word
//!
//! A word of zeros is a page that was not heard of since the file was opened: its bytes are in
//! storage, final. The phases and the arrows between them:
//!
//! ```text
//!            begin_load, begin_create              publish
//!   Absent ───────────────────────────▶ Loading ─────────────▶ Resident ◀──┐
//!    ▲  ▲                                  │                       │ take  │ put_back
//!    │  └──────────────────────────────────┘                       │ kill  │
//!    │                abandon                                      ▼       │
//!    └────────────────────────────────────────────────────────── Taken ────┘
//!                               let_go
//! ```
//!
//! What the life bits say in each phase:
//!
//! | bits          | Absent                                   | Resident                           |
//! |---------------|------------------------------------------|------------------------------------|
//! | none          | sealed or never heard of; storage has it | sealed, as in storage              |
//! | DIRTY         | sealed after it was stolen: storage has  | sealed; a flush has to write it    |
//! |               | it with the private checksum             |                                    |
//! | PRIVATE       | stolen: storage has it with the private  | private, as it was stolen          |
//! |               | checksum                                 |                                    |
//! | PRIVATE DIRTY | never                                    | private                            |
//! | DEAD          | free                                     | free; guards still expose the frame|
//!
//! Invariants:
//! 1. The memory of the frame in the word belongs to: whoever holds `Loading` (it is in no word yet);
//!    nobody who writes, while sealed; the write guard, while EXCLUSIVE; readers, while latches are
//!    counted or hazards protect the page; the one thread that holds `Taken`, once a snapshot of the
//!    hazards taken *after* `take` does not contain the page.
//! 2. While WRITING is set the bytes do not change and the frame is not given away: `take` and
//!    `latch_exclusive` (through which a resident page is sealed) start only where it is not set.
//! 3. A dirty page that is not DEAD is never taken: it is written first. Once nothing can be written any
//!    more, one that is STORED is, and is dirty still when it is Absent: storage has its bytes.
//!
//! Not here: the memory (`frames.rs`), the waiting (`parking.rs`).

use std::mem::ManuallyDrop;
use std::num::NonZeroU32;

use bifolio_pager::hazard::{Hazard, Protected};
use bifolio_pager::sync::atomic::{AtomicU64, Ordering};
use bifolio_pager::{PageId, Standing};

const PHASE: u64 = 0b11;
const DEAD: u64 = 1 << 2;
const PRIVATE: u64 = 1 << 3;
const DIRTY: u64 = 1 << 4;
const WRITING: u64 = 1 << 5;
const REFERENCED: u64 = 1 << 6;
const ASYNC: u64 = 1 << 7;
const EXCLUSIVE: u64 = 1 << 8;
const SEALING: u64 = 1 << 9;
const FRESH: u64 = 1 << 10;
const INNER: u64 = 1 << 11;
const STORED: u64 = 1 << 12;
const ONE_LATCH: u64 = 1 << 13;
const LATCHES: u64 = ((1 << 32) - 1) & !(ONE_LATCH - 1);
const FRAME_SHIFT: u32 = 32;
const NOTE: u64 = !0 << FRAME_SHIFT;
/// What a page keeps of its life on the way in.
const LIFE: u64 = PRIVATE | DIRTY | SEALING;

/// The fields, which cover the word without overlap.
const FIELDS: [u64; 14] = [
    PHASE, DEAD, PRIVATE, DIRTY, WRITING, REFERENCED, ASYNC, EXCLUSIVE, SEALING, FRESH, INNER,
    STORED, LATCHES, NOTE,
];
const _: () = {
    let (mut covered, mut index) = (0, 0);
    while index < FIELDS.len() {
        assert!(FIELDS[index] != 0 && covered & FIELDS[index] == 0);
        covered |= FIELDS[index];
        index += 1;
    }
    assert!(covered == u64::MAX);
};

const fn inner_bit(inner: bool) -> u64 {
    if inner { INNER } else { 0 }
}

/// What a policy notes of a page that leaves, and is told when it comes back. Kept in the page's word,
/// so that remembering pages that are gone costs no memory.
pub(crate) type Note = Option<NonZeroU32>;

/// Which frame: an index into the pool's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct FrameId(pub(crate) u32);

impl FrameId {
    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

/// Where a page's bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// In storage, or nowhere (free).
    Absent = 0,
    /// On the way into a frame that is in no word yet.
    Loading = 1,
    /// In the frame.
    Resident = 2,
    /// In the frame, but the way to it is taken away: one thread decides what becomes of it.
    Taken = 3,
}

/// Who will end a load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loader {
    /// The thread that began it.
    Thread,
    /// Whoever takes the completion from the ring.
    Ring,
}

/// One value of a page's state.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Word(u64);

impl std::fmt::Debug for Word {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.phase())?;
        let names = [
            (DEAD, "dead"),
            (PRIVATE, "private"),
            (DIRTY, "dirty"),
            (WRITING, "writing"),
            (REFERENCED, "referenced"),
            (ASYNC, "async"),
            (EXCLUSIVE, "exclusive"),
            (SEALING, "sealing"),
            (FRESH, "fresh"),
            (INNER, "inner"),
            (STORED, "stored"),
        ];
        for (bit, name) in names.into_iter().filter(|&(bit, _)| self.has(bit)) {
            debug_assert_ne!(bit, 0);
            write!(f, "+{name}")?;
        }
        write!(f, " latches {} frame {}", self.latches(), self.frame().0)
    }
}

impl Word {
    #[inline]
    const fn has(self, bits: u64) -> bool {
        self.0 & bits != 0
    }

    /// Where the bytes are.
    #[inline]
    pub(crate) fn phase(self) -> Phase {
        match self.0 & PHASE {
            0 => Phase::Absent,
            1 => Phase::Loading,
            2 => Phase::Resident,
            _ => Phase::Taken,
        }
    }

    #[inline]
    fn is(self, phase: Phase) -> bool {
        self.0 & PHASE == phase as u64
    }

    const fn moved(self, phase: Phase) -> u64 {
        (self.0 & !PHASE) | phase as u64
    }

    /// The frame; only in `Resident` and `Taken` does it mean anything.
    #[inline]
    pub(crate) const fn frame(self) -> FrameId {
        FrameId((self.0 >> FRAME_SHIFT) as u32)
    }

    pub(crate) const fn latches(self) -> u64 {
        (self.0 & LATCHES) / ONE_LATCH
    }

    pub(crate) const fn is_dead(self) -> bool {
        self.has(DEAD)
    }

    pub(crate) const fn is_private(self) -> bool {
        self.has(PRIVATE)
    }

    pub(crate) const fn is_dirty(self) -> bool {
        self.has(DIRTY)
    }

    pub(crate) const fn is_writing(self) -> bool {
        self.has(WRITING)
    }

    #[inline]
    pub(crate) const fn is_referenced(self) -> bool {
        self.has(REFERENCED)
    }

    /// Leads to other pages.
    pub(crate) const fn is_inner(self) -> bool {
        self.has(INNER)
    }

    /// What the policy noted when the page last left memory; in `Absent` and `Loading`.
    pub(crate) const fn note(self) -> Note {
        NonZeroU32::new((self.0 >> FRAME_SHIFT) as u32)
    }

    pub(crate) const fn is_async(self) -> bool {
        self.has(ASYNC)
    }

    /// A guard of a private page is alive.
    pub(crate) const fn is_latched(self) -> bool {
        self.has(LATCHES | EXCLUSIVE)
    }

    /// About to be sealed, so that no guard is given.
    pub(crate) const fn is_sealing(self) -> bool {
        self.has(SEALING)
    }

    /// A write guard is alive.
    pub(crate) const fn is_exclusive(self) -> bool {
        self.has(EXCLUSIVE)
    }

    /// Sealed and in memory: read under a hazard, without a latch.
    #[inline]
    pub(crate) const fn is_sealed_resident(self) -> bool {
        self.0 & (PHASE | PRIVATE | DEAD) == Phase::Resident as u64
    }

    /// The checksum under which storage holds an absent page.
    pub(crate) const fn stored_standing(self) -> Standing {
        if self.has(PRIVATE | DIRTY) {
            Standing::Private
        } else {
            Standing::Final
        }
    }

    /// Absent, and no life would be overwritten by a new one.
    pub(crate) fn may_begin(self) -> bool {
        self.begin_create().is_some()
    }

    /// What the page is, for an error message.
    pub(crate) const fn describe(self) -> &'static str {
        if self.has(DEAD) {
            "free"
        } else if self.has(PRIVATE) {
            "private"
        } else {
            "sealed"
        }
    }

    /// Absent to Loading; the life bits and the note stay.
    fn begin_load(self, loader: Loader) -> Option<Word> {
        let ring = match loader {
            Loader::Thread => 0,
            Loader::Ring => ASYNC,
        };
        (self.is(Phase::Absent) && !self.is_dead())
            .then(|| Word(Word(self.0 & (LIFE | NOTE)).moved(Phase::Loading) | ring))
    }

    /// Absent to Loading, as the beginning of a life.
    fn begin_create(self) -> Option<Word> {
        (self.is(Phase::Absent) && (self.is_dead() || !self.has(PRIVATE | DIRTY)))
            .then_some(Word(PRIVATE | Phase::Loading as u64))
    }

    /// Loading to Resident, with what storage holds.
    fn publish(self, frame: FrameId, inner: bool) -> Word {
        assert!(self.is(Phase::Loading), "published while {self:?}");
        let stored = if self.is_dirty() { STORED } else { 0 };
        let life = self.0 & LIFE | FRESH | stored | inner_bit(inner);
        Word((frame.0 as u64) << FRAME_SHIFT | life | Phase::Resident as u64)
    }

    /// One more use: the first one is what the page was brought in for.
    const fn used(self) -> Word {
        Word(if self.has(FRESH) {
            self.0 & !FRESH
        } else {
            self.0 | REFERENCED
        })
    }

    /// Loading to Absent: the load failed, and nothing has changed.
    fn abandon(self) -> Word {
        assert!(self.is(Phase::Loading), "abandoned while {self:?}");
        Word(self.0 & (LIFE | NOTE))
    }

    /// One more reader of a private page.
    fn latch_shared(self) -> Option<Word> {
        assert!(
            self.latches() < LATCHES / ONE_LATCH,
            "half a million guards of one page"
        );
        (self.is(Phase::Resident) && self.is_private() && !self.has(EXCLUSIVE | SEALING))
            .then_some(Word(self.used().0 + ONE_LATCH))
    }

    /// The one writer of a private page. Not a use by itself: sealing goes this way too.
    fn latch_exclusive(self) -> Option<Word> {
        (self.is(Phase::Resident)
            && self.is_private()
            && !self.has(LATCHES | EXCLUSIVE | SEALING | WRITING))
        .then_some(Word(self.0 | EXCLUSIVE | DIRTY))
    }

    /// No guard of the private page is alive, and none is given from now on. From a write guard, or
    /// from where the page was stolen to.
    fn begin_seal(self) -> Option<Word> {
        let alone = self.is(Phase::Absent) && !self.has(SEALING) || self.is_exclusive();
        (self.is_private() && alone).then_some(Word((self.0 & !EXCLUSIVE) | SEALING))
    }

    /// Private to sealed, wherever the page is, unless it is on its way.
    fn end_seal(self) -> Option<Word> {
        let still = self.is(Phase::Resident) || self.is(Phase::Absent);
        (still && self.has(SEALING) && !self.is_writing())
            .then_some(Word((self.0 & !(PRIVATE | SEALING)) | DIRTY))
    }

    /// One thread begins to write the frame out.
    fn begin_writing(self) -> Option<Word> {
        (self.is(Phase::Resident)
            && self.is_dirty()
            && !self.has(DEAD | WRITING | LATCHES | EXCLUSIVE))
        // From now on storage has the one image, the other, or a part of each.
        .then_some(Word((self.0 & !STORED) | WRITING))
    }

    /// The write has ended.
    fn end_writing(self, written: bool) -> Word {
        assert!(self.is_writing(), "{self:?} was not being written");
        Word(self.0 & !(WRITING | if written { DIRTY } else { 0 }))
    }

    /// Whether nothing but a hazard can hold the frame.
    pub(crate) fn is_takeable(self) -> bool {
        self.is(Phase::Resident)
            && (!self.is_dirty() || self.is_dead())
            && !self.has(WRITING | LATCHES | EXCLUSIVE)
    }

    /// Whether it is dirty, and still what storage gives when it is loaded.
    pub(crate) fn is_stored(self) -> bool {
        self.is(Phase::Resident) && self.has(STORED)
    }

    /// Resident to Taken, to evict what is dirty and stays so.
    fn take_stored(self) -> Option<Word> {
        self.is_stored().then(|| Word(self.moved(Phase::Taken)))
    }

    /// Resident to Taken, to evict it, or to free a dead page's frame.
    fn take(self) -> Option<Word> {
        self.is_takeable().then(|| Word(self.moved(Phase::Taken)))
    }

    const fn dead(self) -> Word {
        Word((self.0 & !(LIFE | STORED)) | DEAD)
    }

    /// The end of a life, wherever the bytes are.
    fn kill(self) -> Option<Word> {
        if self.is_dead() || self.is_exclusive() {
            return None;
        }
        let dead = self.dead();
        match self.phase() {
            Phase::Absent => Some(Word(DEAD)),
            Phase::Resident => Some(dead.take().unwrap_or(dead)),
            Phase::Loading | Phase::Taken => None,
        }
    }

    /// Taken to Absent: no guard has the page, and the frame goes.
    fn let_go(self, note: Note) -> Word {
        assert!(self.is(Phase::Taken), "let go while {self:?}");
        let note = note.map_or(0, |note| (note.get() as u64) << FRAME_SHIFT);
        let dirty = if self.has(STORED) { DIRTY } else { 0 };
        Word(self.0 & (DEAD | PRIVATE | SEALING) | dirty | note)
    }

    /// Taken to Resident: a guard has the page, so it is in use.
    fn put_back(self) -> Word {
        assert!(self.is(Phase::Taken), "put back while {self:?}");
        Word(self.moved(Phase::Resident) | REFERENCED)
    }
}

/// The state of one page, shared by all threads. `default()` is a page never heard of.
#[derive(Default)]
pub(crate) struct PageState(AtomicU64);

impl PageState {
    /// What the state is now.
    #[inline]
    pub(crate) fn load(&self) -> Word {
        Word(self.0.load(Ordering::Acquire))
    }

    fn swap(&self, from: Word, to: Word) -> bool {
        self.0
            .compare_exchange(from.0, to.0, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    /// Follows `arrow`, whatever bits other threads change meanwhile; the word before it, or the
    /// word from which the arrow does not start.
    fn follow(&self, arrow: impl Fn(Word) -> Option<Word>) -> Result<Word, Word> {
        let mut from = self.load();
        loop {
            let to = arrow(from).ok_or(from)?;
            match self
                .0
                .compare_exchange_weak(from.0, to.0, Ordering::AcqRel, Ordering::Acquire)
            {
                Ok(_) => return Ok(from),
                Err(now) => from = Word(now),
            }
        }
    }

    /// The right to read a sealed page, if `hazard` was published before it was seen to be one.
    #[inline]
    pub(crate) fn sealed<'p>(&self, hazard: Hazard<'p>) -> Result<SealedHold<'p>, Hazard<'p>> {
        let word = self.load();
        if !word.is_sealed_resident() {
            return Err(hazard);
        }
        if !word.is_referenced() {
            self.touch();
        }
        Ok(SealedHold {
            frame: word.frame(),
            _hazard: hazard,
        })
    }

    /// One use more. The caller holds the page, so that this cannot land on another state.
    #[cold]
    pub(crate) fn touch(&self) {
        let before = Word(self.0.fetch_and(!FRESH, Ordering::Relaxed));
        if !before.has(FRESH) {
            self.0.fetch_or(REFERENCED, Ordering::Relaxed);
        }
    }

    /// Takes the mark away; whether it was there.
    pub(crate) fn take_mark(&self, seen: Word) -> bool {
        seen.is_referenced() && self.swap(seen, Word(seen.0 & !REFERENCED))
    }

    /// Absent to Loading. `false`: the state is no longer `seen`.
    pub(crate) fn begin_load(&self, seen: Word, loader: Loader) -> bool {
        seen.begin_load(loader)
            .is_some_and(|to| self.swap(seen, to))
    }

    /// Absent to Loading for a new life. `false`: the state is no longer `seen`, or forbids it.
    pub(crate) fn begin_create(&self, seen: Word) -> bool {
        seen.begin_create().is_some_and(|to| self.swap(seen, to))
    }

    /// Loading to Resident. Only the holder of `Loading` calls this.
    pub(crate) fn publish(&self, frame: FrameId, inner: bool) {
        self.follow(|word| Some(word.publish(frame, inner)))
            .expect("publish always applies");
    }

    /// Loading to Resident at the beginning of a life, under its first write guard.
    pub(crate) fn publish_created(&self, frame: FrameId) -> ExclusiveHold<'_> {
        self.follow(|word| word.publish(frame, false).used().latch_exclusive())
            .expect("what is being created is private");
        ExclusiveHold { state: self, frame }
    }

    /// Loading to Absent. Only the holder of `Loading` calls this.
    pub(crate) fn abandon(&self) {
        self.follow(|word| Some(word.abandon()))
            .expect("abandon always applies");
    }

    /// Loading to what was before a creation that failed.
    pub(crate) fn abandon_create(&self, before: Word) {
        assert!(before.is(Phase::Absent), "created from {before:?}");
        self.follow(|word| word.is(Phase::Loading).then_some(before))
            .expect("the holder of Loading abandons it");
    }

    /// The right to read a private page; else the state that refuses it.
    pub(crate) fn latch_shared(&self) -> Result<SharedHold<'_>, Word> {
        let before = self.follow(Word::latch_shared)?;
        Ok(SharedHold {
            state: self,
            frame: before.frame(),
        })
    }

    /// The right to write a private page; else the state that refuses it.
    pub(crate) fn latch_exclusive(&self) -> Result<ExclusiveHold<'_>, Word> {
        let before = self.follow(Word::latch_exclusive)?;
        Ok(ExclusiveHold {
            state: self,
            frame: before.frame(),
        })
    }

    /// Keeps guards away from a stolen page, which is then sealed or released; else the state that
    /// forbids it.
    pub(crate) fn begin_seal_stolen(&self) -> Result<(), Word> {
        self.follow(|word| word.is(Phase::Absent).then(|| word.begin_seal())?)
            .map(drop)
    }

    /// Private to sealed, if the page is neither on its way nor being written; else the state that
    /// has to end first.
    pub(crate) fn end_seal(&self) -> Result<(), Word> {
        self.follow(Word::end_seal).map(drop)
    }

    /// Lets guards come again: the page is not to be sealed after all.
    pub(crate) fn release_seal(&self) {
        self.0.fetch_and(!SEALING, Ordering::Release);
    }

    /// The duty to write a dirty page out; else the state that refuses it.
    pub(crate) fn begin_writing(&self, id: PageId) -> Result<Writing<'_>, Word> {
        let before = self.follow(Word::begin_writing)?;
        Ok(Writing {
            state: self,
            id,
            frame: before.frame(),
            standing: if before.is_private() {
                Standing::Private
            } else {
                Standing::Final
            },
        })
    }

    /// Takes the way to the page away, if the state is still `seen`.
    pub(crate) fn take(&self, seen: Word, id: PageId) -> Option<Taken<'_>> {
        self.take_along(seen, seen.take()?, id)
    }

    /// The same for a page that is dirty and stored: only where nothing can be written any more, else
    /// whoever loads it to write it has to load it again.
    pub(crate) fn take_stored(&self, seen: Word, id: PageId) -> Option<Taken<'_>> {
        self.take_along(seen, seen.take_stored()?, id)
    }

    fn take_along(&self, seen: Word, to: Word, id: PageId) -> Option<Taken<'_>> {
        self.swap(seen, to).then(|| Taken {
            state: self,
            id,
            frame: seen.frame(),
        })
    }

    /// Ends the page's life.
    pub(crate) fn kill(&self, id: PageId) -> Killed<'_> {
        match self.follow(Word::kill) {
            Err(word) if word.is_dead() => Killed::Done,
            Err(word) if word.is_exclusive() => Killed::Guarded,
            Err(_) => Killed::Later,
            Ok(before) if before.is(Phase::Resident) => {
                // `kill` takes the page exactly where its dead word can be taken.
                let dead = before.dead();
                if dead.is_takeable() {
                    Killed::Taken(Taken {
                        state: self,
                        id,
                        frame: before.frame(),
                    })
                } else {
                    Killed::Done
                }
            }
            Ok(_) => Killed::Done,
        }
    }
}

/// What [`PageState::kill`] has led to.
pub(crate) enum Killed<'p> {
    /// The page is free, or will be when its last guard goes.
    Done,
    /// The page is free, and its frame too once no hazard protects it.
    Taken(Taken<'p>),
    /// Somebody writes the page, so it lives on.
    Guarded,
    /// Somebody loads or evicts the page; wait and try again.
    Later,
}

/// The right to read a sealed page.
pub(crate) struct SealedHold<'p> {
    frame: FrameId,
    _hazard: Hazard<'p>,
}

/// The right to read a private page.
pub(crate) struct SharedHold<'p> {
    state: &'p PageState,
    frame: FrameId,
}

/// The right to write a private page.
pub(crate) struct ExclusiveHold<'p> {
    state: &'p PageState,
    frame: FrameId,
}

/// The duty to write a page out, and the promise that its bytes do not change meanwhile.
#[must_use = "a page that is being written stays so until the mark is ended"]
pub(crate) struct Writing<'p> {
    state: &'p PageState,
    id: PageId,
    frame: FrameId,
    standing: Standing,
}

/// The right to decide what becomes of a page that nobody can reach any more.
#[must_use = "a page that was taken is lost until it is settled"]
pub(crate) struct Taken<'p> {
    state: &'p PageState,
    id: PageId,
    frame: FrameId,
}

/// A frame whose page was let go: proof that nobody else has its memory.
#[must_use = "a frame that nobody owns is lost"]
pub(crate) struct Vacated(FrameId);

impl Vacated {
    pub(crate) fn frame(&self) -> FrameId {
        self.0
    }
}

impl SealedHold<'_> {
    #[inline]
    pub(crate) fn frame(&self) -> FrameId {
        self.frame
    }
}

impl SharedHold<'_> {
    pub(crate) fn frame(&self) -> FrameId {
        self.frame
    }
}

impl Drop for SharedHold<'_> {
    fn drop(&mut self) {
        // Release: what was read under the latch was read before it is given back.
        let before = Word(self.state.0.fetch_sub(ONE_LATCH, Ordering::Release));
        debug_assert!(before.latches() > 0, "a latch given back twice: {before:?}");
    }
}

impl ExclusiveHold<'_> {
    pub(crate) fn frame(&self) -> FrameId {
        self.frame
    }

    /// Gives the latch back, and keeps further guards away. `inner`: by its final bytes the page
    /// leads to others. Whether it was known to.
    pub(crate) fn begin_seal(self, inner: bool) -> bool {
        let this = ManuallyDrop::new(self);
        let known = |word: Word| Word(word.0 & !INNER | inner_bit(inner));
        let before = this
            .state
            .follow(|word| Some(known(word.begin_seal()?)))
            .expect("what is written is private");
        before.is_inner()
    }

    /// Counts as a use of the page.
    pub(crate) fn touch(&self) {
        self.state.touch();
    }
}

impl Drop for ExclusiveHold<'_> {
    fn drop(&mut self) {
        // Release: what was written is seen by whoever latches the page next.
        let before = Word(self.state.0.fetch_and(!EXCLUSIVE, Ordering::Release));
        debug_assert!(
            before.is_exclusive(),
            "a latch given back twice: {before:?}"
        );
    }
}

impl Writing<'_> {
    pub(crate) fn id(&self) -> PageId {
        self.id
    }

    pub(crate) fn frame(&self) -> FrameId {
        self.frame
    }

    pub(crate) fn standing(&self) -> Standing {
        self.standing
    }

    /// Says how the write ended. Wake the page's waiters after this.
    pub(crate) fn end(self, written: bool) {
        self.state
            .follow(|word| Some(word.end_writing(written)))
            .expect("the end of a write always applies");
    }
}

impl Taken<'_> {
    pub(crate) fn id(&self) -> PageId {
        self.id
    }

    pub(crate) fn frame(&self) -> FrameId {
        self.frame
    }

    /// Whether the page's life has ended, so that this is no eviction.
    pub(crate) fn is_dead(&self) -> bool {
        self.state.load().is_dead()
    }

    /// Whether it leads to other pages.
    pub(crate) fn is_inner(&self) -> bool {
        self.state.load().is_inner()
    }

    /// Lets the page go, with what `note` says of it, or puts it back if it is protected. `protected`
    /// was asked for after the page was taken. Wake the page's waiters after this.
    pub(crate) fn settle(
        self,
        protected: &Protected,
        note: impl FnOnce() -> Note,
    ) -> Option<Vacated> {
        let free = !protected.contains(self.id);
        let note = if free { note() } else { None };
        self.state
            .follow(|word| {
                Some(if free {
                    word.let_go(note)
                } else {
                    word.put_back()
                })
            })
            .expect("settling always applies");
        free.then_some(Vacated(self.frame))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bifolio_pager::hazard::Hazards;

    const FRAME: FrameId = FrameId(7);
    const NEW: Word = Word(0);

    fn page() -> PageId {
        PageId::new(40)
    }

    fn loaded() -> Word {
        NEW.begin_load(Loader::Thread)
            .unwrap()
            .publish(FRAME, false)
    }

    fn created() -> Word {
        let word = NEW.begin_create().unwrap().publish(FRAME, false).used();
        Word(word.latch_exclusive().unwrap().0 & !EXCLUSIVE)
    }

    #[test]
    fn a_page_never_heard_of_is_absent_and_final() {
        let word = PageState::default().load();
        assert_eq!(word.phase(), Phase::Absent);
        assert_eq!(word.stored_standing(), Standing::Final);
        assert!(!word.is_dead() && !word.is_dirty() && !word.is_private());
    }

    #[test]
    fn a_loaded_page_is_sealed_and_clean_in_its_frame() {
        let word = loaded();
        assert!(word.is_sealed_resident());
        assert!(!word.is_dirty());
        assert_eq!(word.frame(), FRAME);
    }

    #[test]
    fn each_phase_says_what_may_be_done_in_it() {
        let absent = NEW;
        let loading = absent.begin_load(Loader::Thread).unwrap();
        let resident = loading.publish(FRAME, false);
        let taken = resident.take().unwrap();
        let phases = [absent, loading, resident, taken].map(Word::phase);
        let expected = [Phase::Absent, Phase::Loading, Phase::Resident, Phase::Taken];
        assert_eq!(phases, expected);
        let readable = [absent, loading, resident, taken].map(Word::is_sealed_resident);
        assert_eq!(readable, [false, false, true, false]);
        let may_begin = [absent, loading, resident, taken].map(Word::may_begin);
        assert_eq!(may_begin, [true, false, false, false]);
        assert!(!created().is_sealed_resident(), "it is private");
        assert!(!Word(resident.0 | DEAD).is_sealed_resident(), "it is dead");
    }

    #[test]
    fn a_word_tells_who_ends_a_load_and_who_holds_the_page() {
        assert!(!NEW.begin_load(Loader::Thread).unwrap().is_async());
        assert!(NEW.begin_load(Loader::Ring).unwrap().is_async());
        assert!(!created().is_latched() && !created().is_sealing());
        assert!(created().latch_shared().unwrap().is_latched());
        let written = created().latch_exclusive().unwrap();
        assert!(written.is_latched());
        assert!(written.begin_seal().unwrap().is_sealing());
        let used = created().latch_shared().unwrap();
        assert!(used.is_referenced() && !loaded().is_referenced());
    }

    #[test]
    fn a_failed_load_leaves_the_state_as_it_was() {
        for before in [NEW, Word(PRIVATE), Word(DIRTY)] {
            for loader in [Loader::Thread, Loader::Ring] {
                assert_eq!(before.begin_load(loader).unwrap().abandon(), before);
            }
        }
    }

    #[test]
    fn a_free_page_is_not_loaded() {
        assert_eq!(Word(DEAD).begin_load(Loader::Thread), None);
    }

    #[test]
    fn only_a_free_or_unknown_page_is_created() {
        assert!(Word(DEAD).begin_create().is_some());
        assert!(NEW.begin_create().is_some());
        for word in [Word(PRIVATE), Word(DIRTY), loaded(), created()] {
            assert_eq!(word.begin_create(), None, "{word:?}");
        }
    }

    #[test]
    fn a_dirty_page_is_written_before_it_is_taken() {
        let dirty = created();
        assert_eq!(dirty.take(), None);
        let writing = dirty.begin_writing().unwrap();
        assert_eq!(writing.take(), None);
        assert_eq!(
            writing.end_writing(false).take(),
            None,
            "a failed write cleans nothing"
        );
        let stolen = writing.end_writing(true).take().unwrap().let_go(None);
        assert_eq!(stolen, Word(PRIVATE));
        assert_eq!(stolen.stored_standing(), Standing::Private);
    }

    #[test]
    fn a_page_sealed_after_it_was_stolen_stays_dirty_through_eviction_and_load() {
        let sealed = Word(PRIVATE).begin_seal().unwrap().end_seal().unwrap();
        assert_eq!(sealed.stored_standing(), Standing::Private);
        let back = sealed
            .begin_load(Loader::Ring)
            .unwrap()
            .publish(FRAME, false);
        assert!(back.is_sealed_resident() && back.is_dirty());
        let final_ = back.begin_writing().unwrap().end_writing(true);
        assert_eq!(final_.take().unwrap().let_go(None), NEW);
    }

    #[test]
    fn what_is_dirty_and_stored_can_go_and_come_back_until_a_write_of_it_begins() {
        let back = || {
            let loading = Word(DIRTY).begin_load(Loader::Thread).unwrap();
            loading.publish(FRAME, false)
        };
        assert_eq!(back().take(), None, "not while it can be written");
        let taken = back().take_stored().unwrap();
        assert!(taken.put_back().is_stored());
        assert_eq!(taken.let_go(None), Word(DIRTY));
        for written in [false, true] {
            let after = back().begin_writing().unwrap().end_writing(written);
            assert_eq!(after.take_stored(), None, "{after:?}");
        }
        assert_eq!(created().take_stored(), None);
        assert_eq!(loaded().take_stored(), None);
        let killed = back().kill().unwrap();
        assert_eq!(killed.let_go(None), Word(DEAD));
    }

    #[test]
    fn a_stolen_page_that_is_read_back_and_sealed_is_dirty() {
        let back = Word(PRIVATE)
            .begin_load(Loader::Thread)
            .unwrap()
            .publish(FRAME, false);
        assert!(!back.is_dirty() && back.is_private());
        let sealing = back.latch_exclusive().unwrap().begin_seal().unwrap();
        assert!(sealing.end_seal().unwrap().is_dirty());
    }

    #[test]
    fn latches_exclude_each_other() {
        let read = created().latch_shared().unwrap();
        assert!(read.latch_shared().is_some());
        assert_eq!(read.latch_exclusive(), None);
        assert_eq!(read.begin_writing(), None);
        let written = created().latch_exclusive().unwrap();
        assert_eq!(written.latch_shared(), None);
        assert_eq!(written.latch_exclusive(), None);
        assert_eq!(written.begin_writing(), None);
    }

    #[test]
    fn what_is_being_written_does_not_change() {
        let writing = created().begin_writing().unwrap();
        assert_eq!(writing.latch_exclusive(), None);
        assert_eq!(writing.begin_writing(), None, "one write at a time");
        assert!(writing.latch_shared().is_some(), "but it may be read");
    }

    #[test]
    fn a_page_about_to_be_sealed_takes_no_guard_wherever_it_goes() {
        let sealing = created().latch_exclusive().unwrap().begin_seal().unwrap();
        assert_eq!(sealing.latch_shared(), None);
        assert_eq!(sealing.latch_exclusive(), None);
        let writing = sealing.begin_writing().unwrap();
        assert_eq!(writing.end_seal(), None, "the image on its way is private");
        let stolen = writing.end_writing(true).take().unwrap();
        assert_eq!(stolen.end_seal(), None);
        assert_eq!(stolen.let_go(None).begin_seal(), None, "once is enough");
        assert_eq!(stolen.let_go(None).end_seal().unwrap(), Word(DIRTY));
        let loading = stolen.let_go(None).begin_load(Loader::Ring).unwrap();
        assert_eq!(loading.end_seal(), None);
        let sealed = loading.publish(FRAME, false).end_seal().unwrap();
        assert!(sealed.is_sealed_resident() && sealed.is_dirty());
    }

    #[test]
    fn a_page_being_written_is_not_discarded() {
        assert_eq!(created().latch_exclusive().unwrap().kill(), None);
    }

    #[test]
    fn a_sealed_page_takes_no_latch() {
        assert_eq!(loaded().latch_shared(), None);
        assert_eq!(loaded().latch_exclusive(), None);
        assert_eq!(loaded().begin_seal(), None);
    }

    #[test]
    fn discarding_drops_dirt_and_takes_the_frame_unless_somebody_has_it() {
        let killed = created().kill().unwrap();
        assert_eq!(killed.phase(), Phase::Taken);
        assert_eq!(killed.let_go(None), Word(DEAD));
        let latched = created().latch_shared().unwrap().kill().unwrap();
        assert_eq!(latched.phase(), Phase::Resident);
        assert!(latched.is_dead() && !latched.is_dirty());
        assert_eq!(latched.take(), None);
        let unlatched = Word(latched.0 - ONE_LATCH);
        assert_eq!(unlatched.take().unwrap().let_go(None), Word(DEAD));
        let writing = created().begin_writing().unwrap().kill().unwrap();
        assert_eq!(writing.take(), None, "the device still reads the frame");
        assert!(writing.end_writing(true).take().is_some());
    }

    #[test]
    fn a_page_without_bytes_in_memory_is_freed_at_once() {
        for word in [NEW, Word(PRIVATE), Word(DIRTY)] {
            assert_eq!(word.kill(), Some(Word(DEAD)));
        }
        assert_eq!(Word(DEAD).kill(), None);
    }

    #[test]
    fn a_protected_page_is_put_back_and_counts_as_used() {
        let hazards = Hazards::new();
        let state = PageState(AtomicU64::new(loaded().0));
        let Ok(hold) = state.sealed(hazards.protect(page())) else {
            panic!("the page is sealed and resident");
        };
        state.take_mark(state.load());
        let taken = state.take(state.load(), page()).unwrap();
        assert!(taken.settle(&hazards.snapshot(), || None).is_none());
        assert!(state.load().is_sealed_resident() && state.load().is_referenced());
        drop(hold);
        let taken = state.take(state.load(), page()).unwrap();
        assert_eq!(
            taken.settle(&hazards.snapshot(), || None).unwrap().frame(),
            FRAME
        );
        assert_eq!(state.load(), NEW);
    }

    #[test]
    fn the_first_use_of_a_page_that_was_brought_in_is_no_reuse() {
        let state = PageState(AtomicU64::new(loaded().0));
        state.touch();
        assert!(!state.load().is_referenced());
        state.touch();
        assert!(state.load().is_referenced());
        let private = Word(PRIVATE).begin_load(Loader::Thread).unwrap();
        let read = private.publish(FRAME, false).latch_shared().unwrap();
        assert!(!read.is_referenced());
        assert!(read.latch_shared().unwrap().is_referenced());
        assert!(!created().is_referenced(), "nor is writing a new page");
    }

    #[test]
    fn a_note_stays_with_an_absent_page_until_it_is_in_memory_again() {
        let note = NonZeroU32::new(77);
        let left = loaded().take().unwrap().let_go(note);
        assert_eq!(left.note(), note);
        assert!(left.may_begin() && !left.is_sealed_resident());
        let loading = left.begin_load(Loader::Ring).unwrap();
        assert_eq!(loading.note(), note);
        assert_eq!(loading.abandon(), left, "a failed load changes nothing");
        assert_eq!(loading.publish(FRAME, false).frame(), FRAME);
        assert_eq!(left.kill(), Some(Word(DEAD)));
        assert_eq!(left.begin_create().unwrap().note(), None);
    }

    #[test]
    fn a_page_is_inner_by_its_bytes_when_it_comes_in_or_is_sealed() {
        assert!(loaded().take().is_some_and(|taken| !taken.is_inner()));
        let state = PageState(AtomicU64::new(created().0));
        assert!(!state.latch_exclusive().unwrap().begin_seal(true));
        state.release_seal();
        assert!(state.load().is_inner());
        assert!(state.latch_exclusive().unwrap().begin_seal(false));
        state.release_seal();
        assert!(!state.load().is_inner());
        assert!(
            NEW.begin_load(Loader::Thread)
                .unwrap()
                .publish(FRAME, true)
                .is_inner()
        );
    }

    #[test]
    fn holds_give_their_latches_back() {
        let state = PageState(AtomicU64::new(created().0));
        let (one, two) = (state.latch_shared().unwrap(), state.latch_shared().unwrap());
        assert_eq!(state.load().latches(), 2);
        assert!(state.latch_exclusive().is_err());
        drop((one, two));
        drop(state.latch_exclusive().unwrap());
        assert!(!state.load().is_latched());
    }
}
