//! The memory of the pool: one anonymous mapping cut into frames, and who may touch which.
//!
//! A *frame* is `page_size` bytes that hold one page. This module hands out its memory only to types
//! that prove a right to it; the proofs are made by the arrows of [`crate::word`], and nowhere else.
//!
//! | proof                    | right                                                          |
//! |--------------------------|----------------------------------------------------------------|
//! | [`Owned`]                | all of the frame, to write                                     |
//! | [`ExclusiveHold`]        | all but the checksum word, to write                            |
//! | [`SealedHold`], [`SharedHold`] | all but the checksum word, to read                       |
//! | [`Writing`]              | all of the frame to read, and the checksum word to write       |
//!
//! Invariants:
//! 1. Every frame is in exactly one place: the free list, an [`Owned`], a [`Flight`] (until it
//!    [`Arrived`]), withheld, or one page's word.
//! 2. At most one `Owned` or `ExclusiveHold` of a frame exists, and none beside any other proof: word
//!    invariant 1. A `Writing` exists beside readers only: word invariant 2.
//! 3. The mapping lives as long as `Frames`, which every proof borrows from.
//! 4. Until they are lent, at least [`SPARE`] frames are withheld: no page that has to be written is ever
//!    in all frames, so that reads go on when nothing can be written any more.
//!
//! Not here: which page is evicted (`evict.rs`), how a flight is filled (`io/uring.rs`, `io/readers.rs`).

use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut, Range};
use std::ptr::NonNull;
use std::slice;

use bifolio_pager::page::CHECKSUM_LEN;
use bifolio_pager::sync::Mutex;
use bifolio_pager::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use bifolio_pager::{Error, Geometry, PageId, PageSize, Result};
use memmap2::{Advice, MmapOptions, MmapRaw, UncheckedAdvice};

use crate::io::Arrived;
use crate::options::LEAST_FRAMES;
use crate::parking::Shortage;
use crate::word::{ExclusiveHold, FrameId, SealedHold, SharedHold, Vacated, Writing};

/// Bytes of a huge page.
pub(crate) const HUGE_PAGE: usize = 2 << 20;
/// Frames beside those that are asked for, for readers after a write has failed: what is dirty then can
/// never leave its frame. As many as a pool needs to work at all.
pub(crate) const SPARE: usize = LEAST_FRAMES;
/// No page is in the frame. (Page 0 is a meta slot and never in a frame.)
const NO_PAGE: u64 = 0;
/// The frame's memory was given back to the operating system.
const WITHHELD: u64 = u64::MAX;

/// What a frame is occupied by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Occupant {
    /// On the free list, or in some thread's hands.
    Nobody,
    /// This page, in its word or on its way there.
    Page(PageId),
    /// Not to be used any more.
    Withheld,
}

/// All frames of a pool.
pub(crate) struct Frames {
    map: MmapRaw,
    /// The first frame: `map`'s start, moved up to a huge page's boundary.
    base: NonNull<u8>,
    page_size: PageSize,
    count: usize,
    occupants: Box<[AtomicU64]>,
    free: Mutex<Vec<FrameId>>,
    withheld: Mutex<Vec<FrameId>>,
    usable: AtomicUsize,
    /// Whether the kernel was asked for huge pages and did not refuse.
    huge: bool,
    /// Frames that may be in use, the spare ones apart; what is above is withheld as it comes by.
    target: AtomicUsize,
    /// Of the spare frames, those that may be in use: none or all.
    lent: AtomicUsize,
    pub(crate) shortage: Shortage,
}

// SAFETY: `base` points into `map`, which is `Send`; access to the memory is by proof (header).
unsafe impl Send for Frames {}
// SAFETY: as above; all else in the struct is `Sync` by itself.
unsafe impl Sync for Frames {}

impl Frames {
    /// Bytes beside the page itself that each frame costs here.
    pub(crate) const OVERHEAD_BYTES: usize = size_of::<AtomicU64>() + size_of::<FrameId>();

    /// Maps `usable` frames, and the spare ones. Their memory is taken from the system when they are
    /// first used.
    pub(crate) fn new(usable: usize, page_size: PageSize) -> Result<Self> {
        let count = usable + SPARE;
        let len = count * page_size.bytes();
        // Address space only: what lies before and behind the frames is never touched.
        let slack = if len >= HUGE_PAGE { HUGE_PAGE } else { 0 };
        let map: MmapRaw = MmapOptions::new()
            .len(len + slack)
            .no_reserve_swap()
            .map_anon()
            .map_err(|error| Error::io(format!("mapping {len} bytes for frames"), error))?
            .into();
        let start = map.as_mut_ptr();
        let skip = if slack == 0 {
            0
        } else {
            start.align_offset(HUGE_PAGE).min(slack)
        };
        let huge = advise_huge(&map, skip, len);
        // SAFETY: `skip <= slack`, so the result lies in the mapping of `len + slack` bytes.
        let base = unsafe { start.add(skip) };
        Ok(Frames {
            map,
            base: NonNull::new(base).expect("a mapping is not at address 0"),
            page_size,
            count,
            occupants: (0..count)
                .map(|frame| AtomicU64::new(if frame < usable { NO_PAGE } else { WITHHELD }))
                .collect(),
            // Popped from the end: low frames first, so that few huge pages are touched early.
            free: Mutex::new((0..usable as u32).rev().map(FrameId).collect()),
            withheld: Mutex::new((usable as u32..count as u32).map(FrameId).collect()),
            usable: AtomicUsize::new(usable),
            huge,
            target: AtomicUsize::new(usable),
            lent: AtomicUsize::new(0),
            shortage: Shortage::default(),
        })
    }

    /// Frames in the mapping, withheld and spare ones included.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Frames that may hold a page.
    pub(crate) fn usable(&self) -> usize {
        self.usable.load(Ordering::Relaxed)
    }

    /// Frames on the free list.
    pub(crate) fn free_len(&self) -> usize {
        self.free.lock().len()
    }

    /// Whether the frames are in huge pages, as far as can be told.
    pub(crate) fn is_huge(&self) -> bool {
        self.huge
    }

    /// The addresses of the frames.
    pub(crate) fn addresses(&self) -> Range<usize> {
        let start = self.base.as_ptr().addr();
        start..start + self.count * self.page_size.bytes()
    }

    /// Asks for `target` frames to be used from now on, or all there are. Surplus ones are withheld as
    /// they come free; if there are too few, withheld ones come back at once.
    pub(crate) fn retarget(&self, target: usize) {
        let mut withheld = self.withheld.lock();
        let most = self.count - SPARE;
        self.target.store(target.min(most), Ordering::Relaxed);
        self.bring_back(&mut withheld);
    }

    /// Lets the spare frames be used from now on, because no page can be written any more; whether they
    /// were kept back until now.
    pub(crate) fn lend_spare(&self) -> bool {
        let mut withheld = self.withheld.lock();
        if self.lent.swap(SPARE, Ordering::Relaxed) > 0 {
            return false;
        }
        self.bring_back(&mut withheld);
        true
    }

    fn bring_back(&self, withheld: &mut Vec<FrameId>) {
        while self.usable() < self.allowed()
            && let Some(frame) = withheld.pop()
        {
            self.usable.fetch_add(1, Ordering::Relaxed);
            drop(Owned {
                frames: self,
                frame,
            }); // to the free list
        }
    }

    /// Withholds free frames while more are usable than there are to be; whether that is enough.
    pub(crate) fn withhold_surplus(&self) -> bool {
        while self.has_surplus() {
            let Some(frame) = self.free.lock().pop() else {
                return false;
            };
            let owned = Owned {
                frames: self,
                frame,
            };
            drop(self.withhold_if_surplus(owned)); // to the free list, if it is none
        }
        true
    }

    /// Withholds the frame if there are too many; else it is given back.
    fn withhold_if_surplus<'p>(&'p self, owned: Owned<'p>) -> Option<Owned<'p>> {
        let mut withheld = self.withheld.lock();
        // Once more, under the lock: two threads may have seen the same surplus.
        if !self.has_surplus() {
            return Some(owned);
        }
        withheld.push(owned.withhold());
        self.usable.fetch_sub(1, Ordering::Relaxed);
        None
    }

    fn has_surplus(&self) -> bool {
        self.usable() > self.allowed()
    }

    /// Frames that may be in use.
    fn allowed(&self) -> usize {
        self.target.load(Ordering::Relaxed) + self.lent.load(Ordering::Relaxed)
    }

    /// A frame from the free list.
    pub(crate) fn pop(&self) -> Option<Owned<'_>> {
        loop {
            let frame = self.free.lock().pop()?;
            let owned = Owned {
                frames: self,
                frame,
            };
            if !self.has_surplus() {
                return Some(owned);
            }
            if let Some(owned) = self.withhold_if_surplus(owned) {
                return Some(owned);
            }
        }
    }

    /// The frame of a page that was let go.
    pub(crate) fn own(&self, vacated: Vacated) -> Owned<'_> {
        let frame = vacated.frame();
        self.occupant_of(frame).store(NO_PAGE, Ordering::Release);
        Owned {
            frames: self,
            frame,
        }
    }

    /// The frame of a flight that has ended.
    pub(crate) fn land(&self, arrived: Arrived) -> Owned<'_> {
        Owned {
            frames: self,
            frame: arrived.into_frame(),
        }
    }

    /// What the frame is occupied by; out of date as soon as it is known, so check the page's word.
    pub(crate) fn occupant(&self, frame: FrameId) -> Occupant {
        match self.occupant_of(frame).load(Ordering::Acquire) {
            NO_PAGE => Occupant::Nobody,
            WITHHELD => Occupant::Withheld,
            number => Occupant::Page(PageId::new(number)),
        }
    }

    fn occupant_of(&self, frame: FrameId) -> &AtomicU64 {
        &self.occupants[frame.index()]
    }

    #[inline]
    fn start(&self, frame: FrameId) -> NonNull<u8> {
        assert!(frame.index() < self.count, "{frame:?} of {}", self.count);
        // SAFETY: by the assert, the whole frame lies in the mapping.
        unsafe { self.base.add(frame.index() * self.page_size.bytes()) }
    }

    #[inline]
    fn body(&self, frame: FrameId) -> NonNull<[u8]> {
        NonNull::slice_from_raw_parts(self.start(frame), self.page_size.usable())
    }

    /// The page that `hold` gives a right to.
    #[inline]
    pub(crate) fn hold<'p, H: Hold + 'p>(&'p self, hold: H) -> Held<'p, H> {
        Held {
            body: self.body(hold.frame()),
            hold,
            _frames: std::marker::PhantomData,
        }
    }

    /// The page that is being written out, without its checksum.
    pub(crate) fn written_body<'w>(&'w self, writing: &'w Writing<'_>) -> &'w [u8] {
        // SAFETY: by invariant 2 nobody writes these bytes while the `Writing` exists.
        unsafe { self.body(writing.frame()).as_ref() }
    }

    /// The whole image that is being written out.
    pub(crate) fn written_image<'w>(&'w self, writing: &'w Writing<'_>) -> &'w [u8] {
        let start = self.start(writing.frame());
        // SAFETY: as above, and the checksum word is written only by `fill_checksum`, which needs
        // the `Writing` that is borrowed here mutably.
        unsafe { slice::from_raw_parts(start.as_ptr(), self.page_size.bytes()) }
    }

    /// Fills in the checksum, just before the page is written out.
    pub(crate) fn fill_checksum(&self, writing: &mut Writing<'_>, geometry: Geometry) {
        let checksum = geometry.checksum(self.written_body(writing), writing.standing());
        // SAFETY: `usable` bytes into a frame of `usable + CHECKSUM_LEN` bytes.
        let word = unsafe { self.start(writing.frame()).add(self.page_size.usable()) };
        // SAFETY: the word lies outside what readers are shown, and only the holder of the one
        // `Writing` touches it.
        unsafe {
            word.cast::<[u8; CHECKSUM_LEN]>()
                .write(checksum.to_le_bytes())
        };
    }
}

/// Asks for huge pages; whether there is anything to ask for, and the kernel did not refuse.
fn advise_huge(map: &MmapRaw, skip: usize, len: usize) -> bool {
    // Whole huge pages only: a huge page that reaches past the frames would cost more than the
    // budget. A kernel without huge pages says no, and then there are none.
    let huge = len / HUGE_PAGE * HUGE_PAGE;
    let had = huge > 0 && map.advise_range(Advice::HugePage, skip, huge).is_ok();
    if len > huge {
        let _ = map.advise_range(Advice::NoHugePage, skip + huge, len - huge);
    }
    had && !are_huge_pages_off()
}

/// Whether the administrator has turned them off, in which case the kernel takes the advice and does
/// nothing.
fn are_huge_pages_off() -> bool {
    std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled")
        .is_ok_and(|text| text.contains("[never]"))
}

/// A frame that is in no page's word and that nobody else can reach. Goes to the free list when
/// dropped.
#[must_use]
pub(crate) struct Owned<'p> {
    frames: &'p Frames,
    frame: FrameId,
}

impl<'p> Owned<'p> {
    pub(crate) fn frame(&self) -> FrameId {
        self.frame
    }

    /// The whole image.
    pub(crate) fn image(&self) -> &[u8] {
        let start = self.frames.start(self.frame);
        // SAFETY: invariant 2: the memory is ours alone, and borrowed for as long as the slice.
        unsafe { slice::from_raw_parts(start.as_ptr(), self.frames.page_size.bytes()) }
    }

    /// The whole image, to be filled.
    pub(crate) fn image_mut(&mut self) -> &mut [u8] {
        let start = self.frames.start(self.frame);
        // SAFETY: as above, and borrowed exclusively.
        unsafe { slice::from_raw_parts_mut(start.as_ptr(), self.frames.page_size.bytes()) }
    }

    /// Notes for which page the frame is.
    pub(crate) fn occupy(&self, page: PageId) {
        let occupant = self.frames.occupant_of(self.frame);
        occupant.store(page.get(), Ordering::Release);
    }

    /// Gives the frame up to the page's word, which the caller stores it in.
    pub(crate) fn into_word(self) -> FrameId {
        ManuallyDrop::new(self).frame
    }

    /// Gives the frame up to a backend, which fills it and then lets it arrive.
    pub(crate) fn into_flight(self) -> Flight {
        let this = ManuallyDrop::new(self);
        Flight {
            frame: this.frame,
            start: this.frames.start(this.frame),
            len: this.frames.page_size.bytes(),
        }
    }

    /// Gives the memory back to the system: something else needs its part of the budget.
    fn withhold(self) -> FrameId {
        let this = ManuallyDrop::new(self);
        let frames = this.frames;
        let start = this.frame.index() * frames.page_size.bytes();
        let offset = start + (frames.base.as_ptr() as usize - frames.map.as_mut_ptr() as usize);
        // SAFETY: nobody has the frame's memory: it is ours, and then on the list of withheld frames.
        // Whoever gets it from there fills it before it reads it.
        let advised = unsafe {
            let len = frames.page_size.bytes();
            frames
                .map
                .unchecked_advise_range(UncheckedAdvice::DontNeed, offset, len)
        };
        debug_assert!(advised.is_ok(), "{advised:?}");
        frames
            .occupant_of(this.frame)
            .store(WITHHELD, Ordering::Release);
        this.frame
    }
}

impl Drop for Owned<'_> {
    fn drop(&mut self) {
        let occupant = self.frames.occupant_of(self.frame);
        occupant.store(NO_PAGE, Ordering::Release);
        self.frames.free.lock().push(self.frame);
        self.frames.shortage.relieve();
    }
}

/// A frame in the hands of an I/O backend: nobody else has its memory until it arrives. Unlike an
/// [`Owned`] it can outlive the borrow of the pool, which drops its I/O, and with it all flights,
/// before its frames.
#[must_use = "a frame that does not arrive is lost"]
pub(crate) struct Flight {
    frame: FrameId,
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the memory belongs to no thread, and by invariant 2 this is the only way to it.
unsafe impl Send for Flight {}

impl Flight {
    pub(crate) fn frame(&self) -> FrameId {
        self.frame
    }

    /// The memory to be filled, valid for as long as the `Frames` that it came from.
    pub(crate) fn memory(&mut self) -> NonNull<[u8]> {
        NonNull::slice_from_raw_parts(self.start, self.len)
    }
}

/// A proof that a page's bytes may be read.
///
/// # Safety
/// While a value of the type lives, nobody writes the frame's bytes (all but the checksum word),
/// unless through that value.
pub(crate) unsafe trait Hold {
    fn frame(&self) -> FrameId;
}

/// A proof that a page's bytes may be written.
///
/// # Safety
/// While a value of the type lives, nobody else reads or writes the frame's bytes.
pub(crate) unsafe trait HoldMut: Hold {}

/// The right to read a page, sealed or private.
pub(crate) enum ReadHold<'p> {
    Sealed(SealedHold<'p>),
    Private(SharedHold<'p>),
}

// SAFETY: a sealed page is never written, and word invariant 1 keeps its frame while the hazard in
// the `SealedHold` lives; a private page is written under EXCLUSIVE only, which excludes latches.
unsafe impl Hold for ReadHold<'_> {
    #[inline]
    fn frame(&self) -> FrameId {
        match self {
            ReadHold::Sealed(hold) => hold.frame(),
            ReadHold::Private(hold) => hold.frame(),
        }
    }
}

// SAFETY: EXCLUSIVE is set while the hold lives: no latch, no eviction, no write-back.
unsafe impl Hold for ExclusiveHold<'_> {
    fn frame(&self) -> FrameId {
        ExclusiveHold::frame(self)
    }
}

// SAFETY: as above.
unsafe impl HoldMut for ExclusiveHold<'_> {}

impl<H> Held<'_, H> {
    /// The right.
    pub(crate) fn hold(&self) -> &H {
        &self.hold
    }

    /// The right, without the bytes.
    pub(crate) fn into_hold(self) -> H {
        self.hold
    }
}

/// The bytes of a page, without its checksum, together with the right to them.
pub(crate) struct Held<'p, H> {
    /// A pointer and not a reference: the right ends inside `drop`, before the struct does.
    body: NonNull<[u8]>,
    hold: H,
    _frames: std::marker::PhantomData<&'p Frames>,
}

// SAFETY: the pointer stands for a borrow of memory that any thread may read, with the right `H`.
unsafe impl<H: Send> Send for Held<'_, H> {}
// SAFETY: through `&Held` the bytes are only read.
unsafe impl<H: Sync> Sync for Held<'_, H> {}

impl<H: Hold> Deref for Held<'_, H> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: `Hold`: nobody writes the bytes while `self` lives; invariant 3 keeps them mapped.
        unsafe { self.body.as_ref() }
    }
}

impl<H: HoldMut> DerefMut for Held<'_, H> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: `HoldMut`: the bytes are ours alone while `self` lives.
        unsafe { self.body.as_mut() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(count: usize) -> Frames {
        Frames::new(count, PageSize::DEFAULT).unwrap()
    }

    #[test]
    fn every_frame_is_handed_out_once_and_comes_back() {
        let frames = frames(9);
        let mut owned: Vec<_> = std::iter::from_fn(|| frames.pop()).collect();
        assert_eq!(owned.len(), 9);
        for (number, owned) in owned.iter_mut().enumerate() {
            owned.image_mut().fill(number as u8);
        }
        for (number, owned) in owned.iter().enumerate() {
            assert!(owned.image().iter().all(|&byte| byte == number as u8));
        }
        drop(owned);
        assert_eq!(frames.free_len(), 9);
    }

    #[test]
    fn frames_are_aligned_for_direct_io() {
        for count in [1, 600] {
            let frames = frames(count);
            while let Some(owned) = frames.pop() {
                assert_eq!(owned.image().as_ptr().addr() % 4096, 0);
                let _ = owned.into_word();
            }
        }
    }

    #[test]
    fn a_smaller_target_withholds_frames_as_they_come_by() {
        let frames = frames(600);
        let held = frames.pop().unwrap();
        frames.retarget(590);
        drop(held);
        let owned: Vec<_> = std::iter::from_fn(|| frames.pop()).collect();
        assert_eq!(owned.len(), 590);
        assert_eq!(frames.usable(), 590);
        drop(owned);
        assert_eq!(frames.free_len(), 590);
        frames.retarget(595);
        assert_eq!((frames.usable(), frames.free_len()), (595, 595));
        frames.retarget(10);
        assert!(frames.withhold_surplus());
        frames.retarget(usize::MAX);
        assert_eq!((frames.usable(), frames.free_len()), (600, 600));
    }

    #[test]
    fn spare_frames_are_had_once_they_are_lent_and_stay_whatever_the_target() {
        let frames = frames(10);
        frames.retarget(usize::MAX);
        assert_eq!((frames.usable(), frames.count()), (10, 10 + SPARE));
        assert!(frames.lend_spare());
        assert!(!frames.lend_spare(), "once");
        assert_eq!(
            (frames.usable(), frames.free_len()),
            (10 + SPARE, 10 + SPARE)
        );
        frames.retarget(4);
        assert!(frames.withhold_surplus());
        assert_eq!(frames.usable(), 4 + SPARE);
        frames.retarget(usize::MAX);
        assert_eq!(frames.usable(), 10 + SPARE);
    }
}
