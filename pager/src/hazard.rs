//! Which pages are being read right now, said without a shared write.
//!
//! A *hazard* is a slot in which a reader has published the number of a page it looks at. Whoever
//! wants to reuse the page's memory first takes away the way to it, then looks at all slots: a page
//! that stands in one is left alone until its guard is dropped. The idea is Michael's (*Hazard
//! Pointers*, IEEE TPDS 15(6), 2004).
//!
//! The reader's two steps, *publish* and *then look the page up*, must not change places, which on
//! every common processor takes a full fence, the dearest thing on a path this short. Where the
//! kernel has `membarrier(2)`, the side that reclaims, once for a batch of pages, makes all other
//! threads run a fence, and readers need none.
//!
//! Invariants:
//! 1. Only the thread that owns a line fills its slots; any thread may empty one, since guards are
//!    `Send`.
//! 2. If a reader's look-up (after [`Hazards::protect`]) still found the page, then every
//!    [`Hazards::snapshot`] begun after the way to the page was taken away contains the page, until
//!    the hazard is dropped.
//!
//! Not here: what is protected. To this module a page is a number.

use std::cell::{Cell, RefCell};
use std::sync::atomic::compiler_fence;
use std::sync::{Arc, Weak};

use rustix::thread::{MembarrierCommand, membarrier};

use crate::page::PageId;
use crate::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};
use crate::sync::{OnceLock, thread_local};

/// Slots in a line: a line is two cache lines (which x86 fetches in pairs) and holds its owner too.
/// In a model few, so that all executions can be tried.
const SLOTS: usize = if MODELLED { 2 } else { 15 };
/// Slots that the fast path looks at.
const SLOTS_IN_LINE: usize = if MODELLED { 1 } else { 3 };
/// Lines in the first segment; each further segment has twice as many as the one before.
const FIRST_SEGMENT: u32 = if MODELLED { 2 } else { 16 };
const MODELLED: bool = cfg!(any(loom, shuttle));
const SEGMENTS: usize = 16;
/// A slot that protects nothing. Page 0 holds a meta slot and is never read through a guard.
const EMPTY: u64 = 0;

#[repr(align(128))]
#[derive(Default)]
struct Line {
    owned: AtomicBool,
    slots: [AtomicU64; SLOTS],
}

const _: () = assert!(size_of::<Line>() == 128 || MODELLED);

/// The slots of all threads that read through one pager.
pub struct Hazards {
    shared: Arc<Shared>,
}

struct Shared {
    key: u64,
    /// [`register`]'s answer, kept where the fast path has it at hand.
    asymmetric: bool,
    /// The first segment, whose lines are found without asking which segment they are in.
    first: [Line; FIRST_SEGMENT as usize],
    /// The others.
    segments: [OnceLock<Box<[Line]>>; SEGMENTS - 1],
    /// Lines below this number have been given out at least once.
    lines: AtomicU32,
}

/// A page that stays where it is until this is dropped.
#[must_use = "the page is protected only while the hazard lives"]
pub struct Hazard<'h> {
    slot: &'h AtomicU64,
}

impl Drop for Hazard<'_> {
    #[inline]
    fn drop(&mut self) {
        // Release: what was read under the hazard was read before it is taken back.
        self.slot.store(EMPTY, Ordering::Release);
    }
}

/// The pages that were protected at one moment.
pub struct Protected(Vec<u64>);

impl Protected {
    /// Whether `id` stood in some slot.
    pub fn contains(&self, id: PageId) -> bool {
        self.0.binary_search(&id.get()).is_ok()
    }
}

impl Default for Hazards {
    fn default() -> Self {
        Self::new()
    }
}

impl Hazards {
    /// No threads, no hazards.
    pub fn new() -> Self {
        // Not of the model: it orders nothing, and a static outlives a model's execution.
        static NEXT_KEY: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
        Hazards {
            shared: Arc::new(Shared {
                key: NEXT_KEY.fetch_add(1, Ordering::Relaxed),
                asymmetric: register(),
                first: std::array::from_fn(|_| Line::default()),
                segments: Default::default(),
                lines: AtomicU32::new(0),
            }),
        }
    }

    /// Publishes that this thread is about to look at `id`.
    ///
    /// The caller must look up *after* this call whether the page is still to be had, and may use
    /// it for the life of the hazard if it is. Costs two loads and a store to memory that no other
    /// thread writes, about 2 ns.
    #[inline]
    pub fn protect(&self, id: PageId) -> Hazard<'_> {
        debug_assert_ne!(id.get(), EMPTY, "page 0 is not read through guards");
        let slot = self.free_slot();
        // Release: who finds this page in the slot, and so not the one before it, must know that
        // the one before is no longer read. (The release in `Hazard::drop` does not reach a reader
        // of a later store.) The order against the look-up is the fence's business.
        slot.store(id.get(), Ordering::Release);
        self.shared.light_fence();
        Hazard { slot }
    }

    /// All pages that are protected now: the reclaiming side's half of invariant 2.
    ///
    /// Costs one `membarrier` (some microseconds where other threads run) and a look at every slot,
    /// so ask once for many pages.
    pub fn snapshot(&self) -> Protected {
        self.shared.heavy_fence();
        let mut pages = Vec::new();
        for line in self.shared.all_lines() {
            // Acquire pairs with the release in `Hazard::drop`: a page seen as free is no longer read.
            pages.extend(line.slots.iter().map(|slot| slot.load(Ordering::Acquire)));
        }
        pages.retain(|&page| page != EMPTY);
        pages.sort_unstable();
        Protected(pages)
    }

    #[inline]
    fn free_slot(&self) -> &AtomicU64 {
        let (key, line) = LAST_LINE.with(Cell::get);
        if key == self.shared.key
            && let Some(slot) = self.shared.line(line).free_slot()
        {
            return slot;
        }
        self.free_slot_elsewhere()
    }

    #[cold]
    fn free_slot_elsewhere(&self) -> &AtomicU64 {
        let found = OWNED_LINES.try_with(|owned| {
            let owned = &mut owned.borrow_mut().0;
            owned.retain(|(shared, _)| shared.strong_count() > 0);
            owned
                .iter()
                .filter(|(shared, _)| shared.as_ptr() == Arc::as_ptr(&self.shared))
                .find_map(|&(_, line)| Some((line, self.shared.line(line).free_slot()?)))
        });
        if let Ok(Some((line, slot))) = found {
            LAST_LINE.with(|last| last.set((self.shared.key, line)));
            return slot;
        }
        self.free_slot_in_new_line()
    }

    fn free_slot_in_new_line(&self) -> &AtomicU64 {
        loop {
            let line = self.shared.claim();
            // Fails in a thread that is ending and has given its lines back: then this line is
            // never given back, which wastes it and does no other harm.
            let _ = OWNED_LINES.try_with(|owned| {
                owned
                    .borrow_mut()
                    .0
                    .push((Arc::downgrade(&self.shared), line))
            });
            // A line can come with slots that guards of its former owner, moved to other
            // threads, still fill; hardly ever with all of them.
            if let Some(slot) = self.shared.line(line).free_slot() {
                LAST_LINE.with(|last| last.set((self.shared.key, line)));
                return slot;
            }
        }
    }
}

impl Line {
    /// Looks at the few slots that a descent needs in line, and at the rest out of line: this
    /// stands in every read.
    #[inline]
    fn free_slot(&self) -> Option<&AtomicU64> {
        Self::first_free(&self.slots[..SLOTS_IN_LINE]).or_else(|| self.free_slot_beyond())
    }

    #[inline(never)]
    fn free_slot_beyond(&self) -> Option<&AtomicU64> {
        Self::first_free(&self.slots[SLOTS_IN_LINE..])
    }

    #[inline]
    fn first_free(slots: &[AtomicU64]) -> Option<&AtomicU64> {
        // Acquire: a guard dropped by another thread is done with the slot before we reuse it.
        slots
            .iter()
            .find(|slot| slot.load(Ordering::Acquire) == EMPTY)
    }
}

impl Shared {
    #[inline]
    fn line(&self, number: u32) -> &Line {
        match self.first.get(number as usize) {
            Some(line) => line,
            None => self.line_beyond(number),
        }
    }

    #[inline(never)]
    fn line_beyond(&self, number: u32) -> &Line {
        let (segment, index) = place(number);
        let lines = self.segments[segment - 1].get();
        &lines.expect("a line is given out after its segment is made")[index]
    }

    fn all_lines(&self) -> impl Iterator<Item = &Line> {
        // SeqCst, as in `claim`: a line that is missed here was claimed after our fence, and its
        // reader looks its page up later still.
        (0..self.lines.load(Ordering::SeqCst)).map(|number| self.line(number))
    }

    fn claim(&self) -> u32 {
        for (number, line) in (0..).zip(self.all_lines()) {
            if !line.owned.swap(true, Ordering::AcqRel) {
                return number;
            }
        }
        // The segment must exist before `lines` says so; both sides of a race make the same one.
        loop {
            let number = self.lines.load(Ordering::SeqCst);
            let (segment, index) = place(number);
            let lines = match segment.checked_sub(1) {
                None => &self.first[..],
                Some(beyond) => self.segments[beyond].get_or_init(|| {
                    (0..FIRST_SEGMENT << segment)
                        .map(|_| Line::default())
                        .collect()
                }),
            };
            if self
                .lines
                .compare_exchange(number, number + 1, Ordering::SeqCst, Ordering::SeqCst)
                .is_ok()
                && !lines[index].owned.swap(true, Ordering::AcqRel)
            {
                return number;
            }
        }
    }
}

impl Shared {
    #[inline]
    fn light_fence(&self) {
        if self.asymmetric {
            compiler_fence(Ordering::SeqCst);
        } else {
            fence(Ordering::SeqCst);
        }
    }

    fn heavy_fence(&self) {
        fence(Ordering::SeqCst);
        if self.asymmetric {
            membarrier(MembarrierCommand::PrivateExpedited)
                .expect("the kernel accepted the registration for this command");
        }
    }
}

/// The segment of a line, and its index there. Segment `s` begins at line `FIRST * (2^s - 1)`.
#[inline]
fn place(number: u32) -> (usize, usize) {
    let segment = (number / FIRST_SEGMENT + 1).ilog2();
    (
        segment as usize,
        (number - FIRST_SEGMENT * ((1 << segment) - 1)) as usize,
    )
}

thread_local! {
    /// The line this thread used last, and of which registry: one comparison on the fast path.
    static LAST_LINE: Cell<(u64, u32)> = const { Cell::new((0, 0)) };
    /// Every line this thread owns; given back when the thread ends.
    static OWNED_LINES: RefCell<OwnedLines> = const { RefCell::new(OwnedLines(Vec::new())) };
}

struct OwnedLines(Vec<(Weak<Shared>, u32)>);

impl Drop for OwnedLines {
    fn drop(&mut self) {
        // Other destructors of this thread may read pages yet, and the line is another's by then.
        let _ = LAST_LINE.try_with(|last| last.set((0, 0)));
        for (shared, line) in &self.0 {
            if let Some(shared) = shared.upgrade() {
                shared.line(*line).owned.store(false, Ordering::Release);
            }
        }
    }
}

/// Whether the kernel runs a fence on all our threads when asked, so that readers need none.
/// Registers the process for that, once, before the first reader relies on it.
fn register() -> bool {
    static ASYMMETRIC: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    // A model knows no `membarrier`: there, both sides run a fence.
    let available = || membarrier(MembarrierCommand::RegisterPrivateExpedited).is_ok();
    *ASYMMETRIC.get_or_init(|| !MODELLED && available())
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::thread;

    fn page(number: u64) -> PageId {
        PageId::new(number)
    }

    #[test]
    fn a_page_is_protected_until_its_hazard_is_dropped() {
        let hazards = Hazards::new();
        let one = hazards.protect(page(1));
        let two = hazards.protect(page(2));
        assert!(hazards.snapshot().contains(page(1)));
        drop(one);
        assert!(!hazards.snapshot().contains(page(1)));
        assert!(hazards.snapshot().contains(page(2)));
        drop(two);
    }

    #[test]
    fn a_page_protected_twice_needs_both_dropped() {
        let hazards = Hazards::new();
        let (one, two) = (hazards.protect(page(1)), hazards.protect(page(1)));
        drop(one);
        assert!(hazards.snapshot().contains(page(1)));
        drop(two);
        assert!(!hazards.snapshot().contains(page(1)));
    }

    #[test]
    fn a_thread_may_hold_any_number_of_hazards() {
        let hazards = Hazards::new();
        let many: Vec<_> = (1..=1000)
            .map(|number| hazards.protect(page(number)))
            .collect();
        let protected = hazards.snapshot();
        assert!((1..=1000).all(|number| protected.contains(page(number))));
        drop(many);
        assert!(hazards.snapshot().0.is_empty());
    }

    #[test]
    fn lines_of_threads_that_ended_are_used_again() {
        let hazards = Hazards::new();
        for _ in 0..100 {
            thread::scope(|scope| {
                scope
                    .spawn(|| drop(hazards.protect(page(1))))
                    .join()
                    .unwrap();
            });
        }
        assert!(hazards.shared.lines.load(Ordering::SeqCst) <= 2);
    }

    #[test]
    fn a_hazard_may_outlive_the_thread_that_made_it() {
        let hazards = Hazards::new();
        let moved = thread::scope(|scope| scope.spawn(|| hazards.protect(page(5))).join().unwrap());
        assert!(hazards.snapshot().contains(page(5)));
        drop(moved);
        assert!(!hazards.snapshot().contains(page(5)));
    }

    #[test]
    fn a_slot_emptied_by_another_thread_is_used_again() {
        let hazards = Hazards::new();
        for number in 1..1000 {
            let moved = hazards.protect(page(number));
            thread::scope(|scope| scope.spawn(move || drop(moved)).join().unwrap());
        }
        assert_eq!(hazards.shared.lines.load(Ordering::SeqCst), 1);
        assert!(hazards.snapshot().0.is_empty());
    }

    #[test]
    fn a_thread_that_is_ending_fills_no_slot_of_a_line_it_gave_back() {
        // A destructor of a thread-local that was made before the thread's first hazard runs after
        // the thread's lines were given back; one that was made later runs before. Both may read.
        struct AtTheEnd(Arc<Hazards>);
        impl Drop for AtTheEnd {
            fn drop(&mut self) {
                let hazards = &self.0;
                let (protected, wait) = mpsc::channel();
                let (done, finish) = mpsc::channel::<()>();
                thread::scope(|scope| {
                    scope.spawn(move || {
                        let theirs = hazards.protect(page(7));
                        protected.send(line_of(&theirs)).unwrap();
                        let _ = finish.recv();
                    });
                    let theirs = wait.recv().unwrap();
                    let ours = line_of(&hazards.protect(page(8)));
                    drop(done);
                    assert_ne!(ours, theirs, "two threads fill one line");
                });
            }
        }
        fn line_of(hazard: &Hazard<'_>) -> usize {
            std::ptr::from_ref(hazard.slot).addr() / size_of::<Line>()
        }
        thread_local! {
            static EARLY: RefCell<Option<AtTheEnd>> = const { RefCell::new(None) };
            static LATE: RefCell<Option<AtTheEnd>> = const { RefCell::new(None) };
        }
        let hazards = Arc::new(Hazards::new());
        thread::scope(|scope| {
            let ending = scope.spawn(|| {
                EARLY.set(Some(AtTheEnd(hazards.clone())));
                drop(hazards.protect(page(1)));
                LATE.set(Some(AtTheEnd(hazards.clone())));
            });
            // Joined, because the scope alone does not wait for the destructors.
            ending.join().unwrap();
        });
        assert!(hazards.snapshot().0.is_empty());
    }

    #[test]
    fn one_thread_may_read_through_two_registries_in_turn() {
        let (left, right) = (Hazards::new(), Hazards::new());
        let mut live = Vec::new();
        for number in 1..100 {
            live.push(left.protect(page(number)));
            live.push(right.protect(page(1000 + number)));
        }
        assert_eq!(left.snapshot().0, (1..100).collect::<Vec<_>>());
        assert_eq!(right.snapshot().0, (1001..1100).collect::<Vec<_>>());
        drop(live);
        assert!(left.snapshot().0.is_empty());
        assert!(right.snapshot().0.is_empty());
    }

    #[test]
    fn threads_that_claim_lines_at_once_share_none() {
        const THREADS: u64 = 8;
        const EACH: u64 = 200; // more than the first segment has slots for, together
        let hazards = Hazards::new();
        let start = std::sync::Barrier::new(THREADS as usize);
        thread::scope(|scope| {
            let claimers: Vec<_> = (0..THREADS)
                .map(|thread| {
                    let (hazards, start) = (&hazards, &start);
                    scope.spawn(move || {
                        start.wait();
                        (1..=EACH)
                            .map(|number| hazards.protect(page(thread * EACH + number)))
                            .collect::<Vec<_>>()
                    })
                })
                .collect();
            let live: Vec<_> = claimers
                .into_iter()
                .map(|claimer| claimer.join().unwrap())
                .collect();
            assert_eq!(
                hazards.snapshot().0,
                (1..=THREADS * EACH).collect::<Vec<_>>()
            );
            drop(live);
        });
        assert!(hazards.snapshot().0.is_empty());
    }

    #[test]
    fn lines_lie_in_segments_without_gap_or_overlap() {
        let mut expected = (0, 0);
        for number in 0..FIRST_SEGMENT * 255 {
            assert_eq!(place(number), expected, "line {number}");
            expected.1 += 1;
            if expected.1 == (FIRST_SEGMENT << expected.0) as usize {
                expected = (expected.0 + 1, 0);
            }
        }
    }

    #[test]
    fn registries_do_not_mix() {
        let (left, right) = (Hazards::new(), Hazards::new());
        let _one = left.protect(page(1));
        let _two = right.protect(page(2));
        assert!(!left.snapshot().contains(page(2)));
        assert!(!right.snapshot().contains(page(1)));
    }

    #[test]
    fn a_page_that_is_still_found_is_never_reclaimed() {
        // The page's memory is a cell that is `ALIVE` while the page may be read. A reader that
        // protects and then finds `present` must never see the cell die under it.
        const ALIVE: u64 = 7;
        let hazards = Hazards::new();
        let present = AtomicBool::new(true);
        let memory = AtomicU64::new(ALIVE);
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        let _hazard = hazards.protect(page(1));
                        if present.load(Ordering::Acquire) {
                            for _ in 0..10 {
                                assert_eq!(memory.load(Ordering::Relaxed), ALIVE);
                            }
                        }
                    }
                });
            }
            for _ in 0..20_000 {
                present.store(false, Ordering::SeqCst);
                if !hazards.snapshot().contains(page(1)) {
                    memory.store(0, Ordering::Relaxed);
                    memory.store(ALIVE, Ordering::Relaxed);
                }
                present.store(true, Ordering::Release);
            }
            done.store(true, Ordering::Relaxed);
        });
    }
}
