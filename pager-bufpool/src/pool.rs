//! The pool itself: its parts, and the [`Pager`] contract in terms of the page's word.
//!
//! Every operation is a loop over the page's state: look at the word, follow the arrow that leads on,
//! look again. The arrows are in [`crate::word`].

use bifolio_pager::sync::atomic::{AtomicUsize, Ordering};
use std::fs::File;
use std::path::PathBuf;

use bifolio_pager::hazard::{Hazard, Hazards};
use bifolio_pager::page::SELF_REF;
use bifolio_pager::table::PageTable;
use bifolio_pager::{
    Counters, Error, Flushed, Geometry, Kind, MetaSlot, PageId, PageRef, Pager, Result, first_page,
};
use parking_lot::Mutex;

use crate::background::{self, Signal};
use crate::disk::Disk;
use crate::frames::{Frames, Held, Occupant, ReadHold};
use crate::guard::{Mut, Ref};
use crate::options::{Budget, PoolOptions};
use crate::parking::Parking;
use crate::policy::{self, Replacement};
use crate::tally::{Counts, Tally, get};
use crate::trace::{Access, Event, Recorder};
use crate::word::{ExclusiveHold, FrameId, Killed, PageState, Phase, Taken, Word};

/// Memory that does not grow with the pool: the meta buffer, where threads sleep, counters, the lists of
/// a batch on its way out, and the thread that writes.
pub(crate) const FIXED_BYTES: usize =
    4096 + size_of::<Parking>() + Tally::MEMORY_BYTES + (32 << 10) + background::OVERHEAD_BYTES;

/// The most pages that a scan asks for ahead: 4 MiB of small ones, which a fast disk brings in some
/// milliseconds.
const READ_AHEAD_MOST: usize = 1024;

/// All of a pool but its thread.
pub(crate) struct Core {
    pub(crate) geometry: Geometry,
    first_page: PageId,
    pub(crate) table: PageTable<PageState>,
    pub(crate) hazards: Hazards,
    pub(crate) policy: Box<dyn Replacement>,
    trace: Option<Recorder>,
    /// Somebody wants to know of every hit: the policy, or the trace.
    every_hit: bool,
    /// Before `frames`: dropping it waits for the kernel, which writes into them.
    pub(crate) disk: Disk,
    pub(crate) frames: Frames,
    pub(crate) parking: Parking,
    pub(crate) sweeping: Mutex<()>,
    /// Pages in frames that lead to other pages.
    inner: AtomicUsize,
    pub(crate) counts: Counts,
    pub(crate) signal: Signal,
    /// Held while the number of frames changes.
    budget: Mutex<Budget>,
    /// What the pool was opened with, for which its tables are made.
    budget_most: u64,
}

impl Core {
    /// As [`BufPool::open`](crate::BufPool::open).
    pub(crate) fn open(file: File, geometry: Geometry, options: PoolOptions) -> Result<Self> {
        let budget = options.budget(geometry);
        budget.check()?;
        let disk = Disk::open(file, geometry, &options)?;
        let frames = Frames::new(budget.frames(disk.page_count()), geometry.page_size)?;
        let policy = policy::new(options.policy, frames.count());
        let begin =
            |path: &PathBuf| Recorder::create(path, geometry.page_size.bytes(), frames.usable());
        let trace = options.trace.as_ref().map(begin).transpose()?;
        Ok(Core {
            geometry,
            first_page: first_page(geometry),
            table: PageTable::new(options.max_bytes / geometry.page_size.bytes() as u64),
            hazards: Hazards::new(),
            every_hit: policy.wants_hits() || options.trace.is_some(),
            trace,
            policy,
            disk,
            frames,
            parking: Parking::default(),
            sweeping: Mutex::new(()),
            inner: AtomicUsize::new(0),
            counts: Counts::default(),
            signal: Signal::default(),
            budget: Mutex::new(budget),
            budget_most: options.budget_bytes,
        })
    }

    /// As [`BufPool::resize`](crate::BufPool::resize).
    pub(crate) fn resize(&self, bytes: u64) -> Result<()> {
        if bytes > self.budget_most {
            return Err(Error::BadOption(format!(
                "a pool of {bytes} bytes: it was opened with {}, and cannot have more",
                self.budget_most
            )));
        }
        let mut budget = self.budget.lock();
        let new = budget.with_bytes(bytes);
        new.check()?;
        let page_count = self.disk.page_count();
        self.frames.retarget(new.frames(page_count));
        if let Err(error) = self.evict_surplus() {
            self.frames.retarget(budget.frames(page_count));
            return Err(error);
        }
        *budget = new;
        Ok(())
    }

    fn is_page(&self, id: PageId) -> bool {
        id >= self.first_page && id.get() < self.disk.page_count()
    }

    /// The state of a page that may be read: it lies in the file.
    pub(crate) fn readable_state(&self, id: PageId) -> Option<&PageState> {
        if self.is_page(id) {
            self.table.entry(id)
        } else {
            None
        }
    }

    /// The state of a page, or the error for a reference to what is no page.
    fn existing_state(&self, id: PageId) -> Result<&PageState> {
        self.readable_state(id).ok_or_else(|| {
            Error::corrupt(
                id,
                if id < self.first_page {
                    "it is part of the meta area, not a page"
                } else {
                    "it lies past the end of the file"
                },
            )
        })
    }

    /// Pages in frames that lead to other pages.
    pub(crate) fn inner_count(&self) -> usize {
        self.inner.load(Ordering::Relaxed)
    }

    pub(crate) fn inner_came(&self) {
        self.inner.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn inner_left(&self) {
        let before = self.inner.fetch_sub(1, Ordering::Relaxed);
        assert!(before > 0, "an inner page left that had not come");
    }

    #[inline]
    fn hit(&self, id: PageId, frame: FrameId) {
        self.counts.hits.add_one();
        if self.every_hit {
            self.tell_of_hit(id, frame);
        }
    }

    #[cold]
    fn tell_of_hit(&self, id: PageId, frame: FrameId) {
        if self.policy.wants_hits() {
            self.policy.on_hit(frame);
        }
        self.record(Access::Read, id);
    }

    /// Notes in the trace, if there is one, what was done with a page.
    pub(crate) fn record(&self, access: Access, page: PageId) {
        if let Some(trace) = &self.trace {
            let state = self.table.get(page);
            trace.record(Event {
                access,
                page,
                inner: state.is_some_and(|state| state.load().is_inner()),
            });
        }
    }

    fn found(&self, id: PageId, frame: FrameId, missed: bool) {
        if missed {
            self.record(Access::Read, id);
        } else {
            self.hit(id, frame);
        }
    }

    /// The right to a page that is sealed and in memory: no lock, no shared write.
    #[inline(always)]
    fn hold_hot(&self, at: PageRef) -> std::result::Result<ReadHold<'_>, Hazard<'_>> {
        let hazard = self.hazards.protect(at.id);
        let Some(state) = self.table.get(at.id) else {
            return Err(hazard);
        };
        let hold = state.sealed(hazard)?;
        self.hit(at.id, hold.frame());
        Ok(ReadHold::Sealed(hold))
    }

    #[cold]
    fn hold_cold<'p>(&'p self, at: PageRef, mut hazard: Hazard<'p>) -> Result<ReadHold<'p>> {
        let state = self.existing_state(at.id)?;
        let mut missed = false;
        loop {
            // The hazard was published before every look, so that each look counts.
            hazard = match state.sealed(hazard) {
                Ok(hold) => {
                    self.found(at.id, hold.frame(), missed);
                    return Ok(ReadHold::Sealed(hold));
                }
                Err(hazard) => hazard,
            };
            let word = state.load();
            if word.is_dead() {
                return Err(Error::corrupt(
                    at.id,
                    "it is free, and something refers to it",
                ));
            }
            match word.phase() {
                Phase::Absent => {
                    missed = true;
                    self.load(at.id, state, word)?;
                }
                Phase::Loading => {
                    missed = true;
                    self.wait_loaded(at.id, state);
                }
                Phase::Taken => self.wait_decided(at.id, state),
                Phase::Resident if !word.is_private() => {} // sealed since we looked
                Phase::Resident => match state.latch_shared() {
                    Ok(hold) => {
                        self.found(at.id, hold.frame(), missed);
                        return Ok(ReadHold::Private(hold));
                    }
                    Err(word) if word.is_exclusive() || word.is_sealing() => {
                        return Err(Error::Guarded { page: at.id });
                    }
                    Err(_) => {}
                },
            }
        }
    }

    fn wait_decided(&self, id: PageId, state: &PageState) {
        self.parking
            .wait_while(id, state, |word| word.phase() == Phase::Taken);
    }

    fn wait_written(&self, id: PageId, state: &PageState) {
        self.parking.wait_while(id, state, Word::is_writing);
    }

    /// The state of a page that is to be changed.
    pub(crate) fn own_state(&self, id: PageId, verb: &'static str) -> Result<&PageState> {
        self.readable_state(id).ok_or(Error::WrongState {
            page: id,
            verb,
            state: "no page of this file",
        })
    }

    /// Whether the page is the one that its caller means.
    pub(crate) fn is_meant(&self, body: &[u8], at: PageRef, verb: &'static str) -> Result<()> {
        if PageRef::decode(&body[SELF_REF]) == at {
            return Ok(());
        }
        Err(Error::WrongState {
            page: at.id,
            verb,
            state: "of another version",
        })
    }

    /// The right to write a private page, from memory or from where it was stolen to. `Ok(None)`:
    /// the page is stolen, and `bring_in` says to leave it there.
    fn latch<'p>(
        &'p self,
        at: PageRef,
        verb: &'static str,
        bring_in: bool,
    ) -> Result<Option<Held<'p, ExclusiveHold<'p>>>> {
        let state = self.own_state(at.id, verb)?;
        loop {
            let word = match state.latch_exclusive() {
                Ok(hold) => {
                    let page = self.frames.hold(hold);
                    self.is_meant(&page, at, verb)?;
                    return Ok(Some(page));
                }
                Err(word) => word,
            };
            let wrong = || Error::WrongState {
                page: at.id,
                verb,
                state: word.describe(),
            };
            match word.phase() {
                _ if word.is_dead() => return Err(wrong()),
                Phase::Loading => self.wait_loaded(at.id, state),
                Phase::Taken => self.wait_decided(at.id, state),
                _ if !word.is_private() => return Err(wrong()),
                _ if word.is_latched() || word.is_sealing() => {
                    return Err(Error::Guarded { page: at.id });
                }
                Phase::Absent if !bring_in => return Ok(None),
                Phase::Absent => self.load(at.id, state, word)?,
                Phase::Resident => self.wait_written(at.id, state),
            }
        }
    }

    /// The first half of a seal: the page is private, the one that is meant, and gives no guard.
    fn begin_seal(&self, at: PageRef) -> Result<&PageState> {
        loop {
            let state = self.own_state(at.id, "sealed")?;
            match self.latch(at, "sealed", false)? {
                Some(page) => {
                    let inner = is_inner(&page);
                    if inner {
                        self.inner_came(); // first: once it is sealed it can leave
                    }
                    if page.into_hold().begin_seal(inner) {
                        self.inner_left(); // as which it was counted already
                    }
                }
                // Its stamp is checked when it comes in again, to be flushed.
                None if state.begin_seal_stolen().is_ok() => {}
                None => continue,
            }
            return Ok(state);
        }
    }

    /// The second half, which does not fail.
    fn end_seal(&self, id: PageId, state: &PageState) {
        while let Err(word) = state.end_seal() {
            match word.phase() {
                _ if word.is_dead() => return,
                Phase::Loading => self.wait_loaded(id, state),
                Phase::Taken => self.wait_decided(id, state),
                Phase::Absent | Phase::Resident => self.wait_written(id, state),
            }
        }
    }

    /// Frees the frames of dead pages that nobody protects: one snapshot for all.
    fn bury(&self, taken: &mut Vec<Taken<'_>>) {
        if taken.is_empty() {
            return;
        }
        let protected = self.hazards.snapshot();
        for taken in taken.drain(..) {
            drop(self.settle(taken, &protected)); // to the free list
        }
    }

    fn count_dirty(&self) -> u64 {
        let is_dirty = |&frame: &u32| match self.frames.occupant(FrameId(frame)) {
            Occupant::Page(id) => self.table.get(id).is_some_and(|state| {
                let word = state.load();
                word.phase() == Phase::Resident && word.frame().0 == frame && word.is_dirty()
            }),
            Occupant::Nobody | Occupant::Withheld => false,
        };
        (0..self.frames.count() as u32).filter(is_dirty).count() as u64
    }
}

/// Whether a page leads to others, by its kind: the one part of a page beyond the frame's own that the
/// pool looks at, and only to know what to keep.
pub(crate) fn is_inner(page: &[u8]) -> bool {
    matches!(Kind::of(page), Some(Kind::Branch | Kind::MapBranch))
}

impl Pager for Core {
    type Ref<'p> = Ref<'p>;
    type Mut<'p> = Mut<'p>;

    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn page_count(&self) -> u64 {
        self.disk.page_count()
    }

    fn grow(&self, page_count: u64) -> Result<()> {
        if self.disk.grow(page_count)? {
            let budget = self.budget.lock();
            self.frames.retarget(budget.frames(self.disk.page_count()));
        }
        Ok(())
    }

    // Always, and with nothing but the right coming from either path, so that the guard is put
    // together in registers: fewer instructions, so that the processor's window holds more reads that
    // wait for memory at once.
    #[inline(always)]
    fn read(&self, at: PageRef) -> Result<Ref<'_>> {
        if at.id < self.first_page {
            return Err(self.existing_state(at.id).err().expect("it is no page"));
        }
        let hold = match self.hold_hot(at) {
            Ok(hold) => hold,
            Err(hazard) => self.hold_cold(at, hazard)?,
        };
        let page = self.frames.hold(hold);
        self.geometry.expect(&page, at)?;
        Ok(Ref(page))
    }

    fn create(&self, at: PageRef) -> Result<Mut<'_>> {
        self.disk.writable()?;
        let state = self.own_state(at.id, "created")?;
        let mut spare = None;
        loop {
            let word = state.load();
            match word.phase() {
                Phase::Loading => self.wait_loaded(at.id, state),
                Phase::Taken => self.wait_decided(at.id, state),
                Phase::Absent if word.may_begin() => {
                    if let Some(page) = self.begin_life(at, state, word, &mut spare)? {
                        return Ok(Mut(page));
                    }
                }
                Phase::Resident if word.is_dead() && word.is_latched() => {
                    return Err(Error::Guarded { page: at.id });
                }
                Phase::Resident if word.is_dead() && word.is_writing() => {
                    self.wait_written(at.id, state);
                }
                Phase::Resident if word.is_dead() => {
                    if let Some(taken) = state.take(word, at.id) {
                        spare = self.settle(taken, &self.hazards.snapshot());
                        if spare.is_none() {
                            return Err(Error::Guarded { page: at.id });
                        }
                    }
                }
                Phase::Absent | Phase::Resident => {
                    return Err(Error::WrongState {
                        page: at.id,
                        verb: "created",
                        state: word.describe(),
                    });
                }
            }
        }
    }

    fn write(&self, at: PageRef) -> Result<Mut<'_>> {
        self.disk.writable()?;
        let page = self.latch(at, "written", true)?;
        let page = page.expect("a page that is brought in is there");
        page.hold().touch();
        Ok(Mut(page))
    }

    fn seal(&self, pages: &[PageRef]) -> Result<()> {
        self.disk.writable()?;
        let mut begun = Vec::with_capacity(pages.len());
        for &at in pages {
            match self.begin_seal(at) {
                Ok(state) => begun.push(state),
                Err(error) => {
                    begun.into_iter().for_each(PageState::release_seal);
                    return Err(error);
                }
            }
        }
        for (at, state) in pages.iter().zip(begun) {
            self.end_seal(at.id, state);
        }
        Ok(())
    }

    fn discard(&self, pages: &[PageId]) -> Result<()> {
        let mut taken = Vec::new();
        let mut refused = Ok(());
        for &id in pages {
            let Some(state) = self.readable_state(id) else {
                continue;
            };
            self.record(Access::Discard, id);
            loop {
                match state.kill(id) {
                    Killed::Done => break,
                    Killed::Guarded => {
                        refused = refused.and(Err(Error::Guarded { page: id }));
                        break;
                    }
                    Killed::Taken(page) => {
                        taken.push(page);
                        break;
                    }
                    Killed::Later => {
                        self.bury(&mut taken); // nobody waits while holding a claim
                        match state.load().phase() {
                            Phase::Loading => self.wait_loaded(id, state),
                            _ => self.wait_decided(id, state),
                        }
                    }
                }
            }
        }
        self.bury(&mut taken);
        refused
    }

    fn flush(&self, pages: &[PageRef]) -> Result<Flushed> {
        self.disk.writable()?;
        self.write_out(pages)?;
        if self.disk.sync()? {
            crate::tally::add(&self.counts.syncs, 1);
        }
        Ok(Flushed::proven())
    }

    fn write_meta(&self, _after: Flushed, slot: MetaSlot, meta: &[u8]) -> Result<()> {
        self.disk.write_meta(slot, meta)?;
        crate::tally::add(&self.counts.syncs, 1);
        Ok(())
    }

    fn prefetch(&self, pages: &[PageRef]) {
        crate::tally::add(&self.counts.pages_prefetched, pages.len());
        self.read_ahead(pages);
    }

    fn read_ahead_most(&self) -> usize {
        (self.frames.usable() / 16).clamp(2, READ_AHEAD_MOST)
    }

    /// Writes what is dirty of these pages before it returns, and syncs nothing.
    fn write_back(&self, pages: &[PageRef]) {
        if self.disk.writable().is_err() {
            return;
        }
        for group in pages.chunks(crate::write::BATCH_PAGES) {
            let mut batch = self.batch();
            for at in group {
                if self
                    .table
                    .get(at.id)
                    .is_some_and(|state| !state.load().is_private())
                {
                    batch.mark(at.id);
                }
            }
            // A failure is kept by the disk, and told at the flush.
            let _ = batch.write();
        }
    }

    fn counters(&self) -> Counters {
        let counts = &self.counts;
        let usable = self.frames.usable();
        let used = usable.saturating_sub(self.frames.free_len());
        let held = self
            .budget
            .lock()
            .held_bytes(usable, self.table.memory_bytes());
        Counters {
            hits: Some(counts.hits.sum()),
            pages_read: get(&counts.pages_read),
            pages_prefetched: get(&counts.pages_prefetched),
            pages_written: get(&counts.pages_written),
            write_calls: get(&counts.write_calls),
            pages_stolen: get(&counts.pages_stolen),
            waits_for_write: get(&counts.waits_for_write),
            evictions: get(&counts.evictions),
            pages_verified: get(&counts.pages_verified),
            pages_created: get(&counts.pages_created),
            overwrites_unread: None,
            syncs: get(&counts.syncs),
            frames: Some(usable as u64),
            frames_used: Some(used as u64),
            frames_dirty: Some(self.count_dirty()),
            memory_bytes: Some(held),
        }
    }

    fn effective_backend(&self) -> String {
        format!(
            "pool, {}, {}, {}, {} frames of {} KiB{}",
            self.disk.io.name(),
            if self.disk.is_direct() {
                "O_DIRECT"
            } else {
                "page cache"
            },
            self.policy.name(),
            self.frames.usable(),
            self.geometry.page_size.bytes() / 1024,
            if self.frames.is_huge() {
                " in huge pages"
            } else {
                ""
            },
        )
    }
}
