//! The conformance suite can fail: for each of its clauses, a pager that breaks it is caught.
//!
//! A [`Broken`] pager keeps the contract but for one [`Defect`]. A table says which defect each
//! clause must catch; it is compared with the suite's own list, so that no clause goes without.

use std::collections::{HashMap, HashSet};
use std::ops::{Deref, DerefMut};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::{self, ThreadId};

use bifolio_pager::conformance::{self, Fixture, run};
use bifolio_pager::faulty::{Operations, Plan};
use bifolio_pager::mem::{MemMut, MemRef};
use bifolio_pager::{
    Counters, Error, Faulty, Flushed, Geometry, MemPager, MetaSlot, PageGuard, PageId, PageRef,
    PageSize, Pager, Result, Version, first_page,
};
use parking_lot::Mutex;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Defect {
    None,
    /// A guard shows something else once a hundred pages were read or created after it.
    EvictsUnderGuards,
    DiscardsUnderGuards,
    FirstGuardDroppedFreesAll,
    GrowthMovesPages,
    CreatesWithoutZeros,
    ReusesWithoutZeros,
    WritesUnderGuards,
    SealsUnderGuards,
    ReadsUnderWriters,
    CreatesUnderGuards,
    GuardsEndOnTheirThreadOnly,
    OneGuardHoldsUpAll,
    LosesWrites,
    LosesRewrites,
    RewritesStartFromZeros,
    /// A page that stays private while five hundred others are created is lost.
    LosesStolenPages,
    LosesSealedPagesUnderPressure,
    OnlyItsThreadSeesAWrite,
    WritesSealedPages,
    CreatesAnything,
    SealsAnything,
    FlushesAnything,
    DiscardsOnlyOnce,
    IgnoresStamps,
    GrowSetsTheLength,
    BelievesEverything,
    FlushDoesNothing,
    FlushesOnlyOnce,
    RefusesToFlushNothing,
    RefusesToFlushAgain,
    RefusesToFlushWhileGuarded,
    MetasOverlapPages,
    PagesOverlapMetas,
    TriesAgainAfterAFailure,
    RefusesReadsAfterAFailure,
    ConfirmsNothing,
    PrefetchBringsTheOldLifeBack,
    LeaksFrames,
    OverrunsItsFrames,
    MiscountsCreations,
    WriteBackDamages,
    TrustsHints,
    Nameless,
}

use Defect as D;

/// Every clause of the suite, and a defect that it must catch.
macro_rules! catches {
    ($($clause:ident { $($name:ident: $defect:ident,)* })*) => {
        const CATCHES: &[(&str, fn(&FromScratch, Geometry), Defect)] = &[
            $($((stringify!($name), conformance::$clause::$name, D::$defect),)*)*
        ];
    };
}

catches! {
    stable {
        what_a_guard_exposes_stays_while_many_other_pages_are_read: EvictsUnderGuards,
        what_a_guard_exposes_stays_after_the_page_is_discarded: DiscardsUnderGuards,
        a_guard_stays_good_while_other_pages_live_and_die: EvictsUnderGuards,
        many_guards_of_one_page_show_the_same_bytes: FirstGuardDroppedFreesAll,
    }
    exclusive {
        a_created_page_is_zeros_but_for_its_reference: CreatesWithoutZeros,
        a_reused_page_is_zeros_whatever_it_held: ReusesWithoutZeros,
        a_page_with_a_read_guard_cannot_be_written: WritesUnderGuards,
        a_page_with_a_read_guard_cannot_be_sealed: SealsUnderGuards,
        a_page_being_written_cannot_be_read: ReadsUnderWriters,
        a_page_being_written_cannot_be_written_again: WritesUnderGuards,
        a_page_being_written_cannot_be_sealed: SealsUnderGuards,
        a_page_being_created_cannot_be_read_or_written: WritesUnderGuards,
        a_number_is_not_reused_under_a_guard_of_its_former_life: CreatesUnderGuards,
        a_guard_dropped_on_another_thread_frees_its_page: GuardsEndOnTheirThreadOnly,
        a_guard_holds_up_no_other_page: OneGuardHoldsUpAll,
        of_several_writers_of_one_page_one_wins: CreatesUnderGuards,
    }
    own_writes {
        a_written_page_reads_as_written: LosesWrites,
        a_private_page_can_be_written_again_and_again: LosesRewrites,
        a_private_page_keeps_what_was_written_to_other_parts_of_it: RewritesStartFromZeros,
        thousands_of_private_pages_read_as_written: LosesStolenPages,
        thousands_of_sealed_pages_read_as_written: LosesSealedPagesUnderPressure,
        private_pages_can_be_rewritten_after_thousands_of_others: LosesStolenPages,
        threads_that_read_together_all_see_what_was_written: OnlyItsThreadSeesAWrite,
    }
    life {
        a_sealed_page_cannot_be_written: WritesSealedPages,
        a_live_page_cannot_be_created: CreatesAnything,
        only_a_private_page_can_be_sealed: SealsAnything,
        a_discarded_page_cannot_be_read_written_or_sealed: BelievesEverything,
        a_private_page_cannot_be_flushed: FlushesAnything,
        discarding_twice_changes_nothing: DiscardsOnlyOnce,
        a_new_life_has_a_new_stamp_and_the_old_one_is_refused: IgnoresStamps,
        a_page_is_not_written_under_another_stamp: IgnoresStamps,
        growth_makes_room_and_keeps_what_is_there: GrowthMovesPages,
        the_file_grows_while_others_read: OnlyItsThreadSeesAWrite,
        growing_to_less_changes_nothing: GrowSetsTheLength,
        a_page_past_the_end_cannot_be_created: CreatesAnything,
        a_page_of_the_meta_area_cannot_be_created_or_written: CreatesAnything,
    }
    unordered {
        an_unflushed_page_reads_after_reopening_as_itself_or_as_corrupt: BelievesEverything,
        a_page_that_was_never_sealed_is_not_believed_after_reopening: BelievesEverything,
    }
    durable {
        flushed_pages_are_there_after_reopening: FlushDoesNothing,
        a_reopened_file_has_room_for_every_flushed_page: FlushDoesNothing,
        flushing_nothing_succeeds: RefusesToFlushNothing,
        flushing_twice_changes_nothing: RefusesToFlushAgain,
        a_flush_leaves_pages_that_are_being_written_alone: RefusesToFlushWhileGuarded,
        a_flush_does_not_wait_for_guards: RefusesToFlushWhileGuarded,
        a_new_life_survives_reopening: FlushesOnlyOnce,
        metas_are_written_and_overlap_no_page: MetasOverlapPages,
        pages_overlap_no_meta: PagesOverlapMetas,
        after_a_failure_writes_are_refused_and_reads_go_on: TriesAgainAfterAFailure,
        after_a_failure_every_page_is_still_read: RefusesReadsAfterAFailure,
    }
    verified {
        an_intact_page_is_confirmed: ConfirmsNothing,
        a_page_past_the_end_is_corrupt: BelievesEverything,
        a_page_of_the_meta_area_is_corrupt: BelievesEverything,
        a_page_that_was_never_written_is_corrupt: BelievesEverything,
        a_page_of_another_stamp_is_corrupt: IgnoresStamps,
        a_damaged_page_is_corrupt: BelievesEverything,
        a_misplaced_page_is_corrupt: BelievesEverything,
        a_lost_write_is_corrupt: BelievesEverything,
        a_zeroed_page_is_corrupt: BelievesEverything,
    }
    one_life {
        a_new_life_wins_over_all_input_and_output_of_the_old_one: PrefetchBringsTheOldLifeBack,
        lives_come_and_go_while_others_read: OnlyItsThreadSeesAWrite,
    }
    bounded {
        many_guards_at_once_work_or_are_refused: LeaksFrames,
        many_write_guards_at_once_work_or_are_refused: LeaksFrames,
        readers_that_hold_guards_never_wait_for_each_other: LeaksFrames,
        frames_in_use_stay_within_their_number: OverrunsItsFrames,
        counters_tell_what_happened: MiscountsCreations,
    }
    hints {
        hints_change_no_content: WriteBackDamages,
        hints_for_pages_that_are_not_there_do_no_harm: TrustsHints,
        the_backend_has_a_name: Nameless,
    }
}

#[test]
fn every_clause_catches_a_pager_that_breaks_it() {
    let passed: Vec<_> = CATCHES
        .iter()
        .filter(|&&(_, clause, defect)| passes(clause, defect))
        .map(|(name, _, defect)| format!("{name} does not catch {defect:?}"))
        .collect();
    assert!(passed.is_empty(), "{passed:#?}");
}

#[test]
fn a_pager_without_a_defect_passes_every_clause() {
    let failed: Vec<_> = CATCHES
        .iter()
        .filter(|&&(_, clause, _)| !passes(clause, D::None))
        .map(|(name, ..)| name)
        .collect();
    assert!(failed.is_empty(), "{failed:#?}");
}

#[test]
fn no_clause_goes_without_a_defect_to_catch() {
    let suite = include_str!("../src/conformance/mod.rs");
    let list = suite.split("macro_rules! conformance").nth(1).unwrap();
    let list = list.split("#[doc(hidden)]").next().unwrap();
    let in_suite: HashSet<_> = list
        .lines()
        .filter_map(|line| line.trim().strip_suffix(','))
        .filter(|name| name.chars().all(|c| c.is_ascii_lowercase() || c == '_'))
        .collect();
    let caught: HashSet<_> = CATCHES.iter().map(|(name, ..)| *name).collect();
    assert!(in_suite.len() > 50, "the list was not found: {in_suite:?}");
    assert_eq!(in_suite, caught);
}

fn passes(clause: fn(&FromScratch, Geometry), defect: Defect) -> bool {
    let fixture = FromScratch { defect };
    let sizes = [PageSize::DEFAULT];
    catch_unwind(AssertUnwindSafe(|| run(&fixture, &sizes, clause))).is_ok()
}

struct FromScratch {
    defect: Defect,
}

impl FromScratch {
    fn over(&self, inner: MemPager) -> Broken {
        Broken {
            defect: self.defect,
            home: thread::current().id(),
            inner: Faulty::new(inner),
            ledger: Mutex::default(),
        }
    }
}

impl Fixture for FromScratch {
    type Pager = Broken;

    fn create(&self, geometry: Geometry) -> Broken {
        self.over(MemPager::new(geometry))
    }

    fn reopen(&self, pager: Broken) -> Broken {
        self.over(pager.inner.inner().power_cut())
    }

    fn reopen_damaged(
        &self,
        pager: Broken,
        id: PageId,
        damage: &mut dyn FnMut(&mut [u8]),
    ) -> Option<Broken> {
        let stored = pager.inner.inner().power_cut();
        stored.corrupt(id, damage);
        Some(self.over(stored))
    }

    fn stored_meta(&self, pager: &Broken, slot: MetaSlot) -> Option<Vec<u8>> {
        pager.inner.inner().read_meta(slot)
    }

    fn break_device(&self, pager: &Broken) -> bool {
        let next = pager.inner.performed(Operations::WRITES);
        pager.inner.arm(Plan::fail_from(Operations::WRITES, next));
        true
    }
}

struct Broken {
    defect: Defect,
    home: ThreadId,
    inner: Faulty<MemPager>,
    ledger: Mutex<Ledger>,
}

/// What a defect needs to remember.
#[derive(Default)]
struct Ledger {
    reads: u64,
    creates: u64,
    grows: u64,
    /// A flush or a growth was refused.
    failed: bool,
    asked_pages: u64,
    guards: u64,
    lives: HashMap<PageId, Life>,
    flushed: HashSet<PageId>,
    prefetched: HashMap<PageId, Version>,
    damaged: HashSet<PageId>,
}

#[derive(Default)]
struct Life {
    version: Option<Version>,
    /// Creations, of any page, when this one was created and when it was sealed.
    created: u64,
    sealed: Option<u64>,
    discards: u64,
    guards_dropped: u64,
}

/// What must not change under a guard.
#[derive(Clone, Copy, PartialEq)]
struct Moment {
    decade: u64,
    grows: u64,
    discards: u64,
    guards_dropped: u64,
}

impl Broken {
    fn has(&self, defect: Defect) -> bool {
        self.defect == defect
    }

    fn moment(&self, id: PageId) -> Moment {
        let mut ledger = self.ledger.lock();
        let (reads, creates, grows) = (ledger.reads, ledger.creates, ledger.grows);
        let life = ledger.lives.entry(id).or_default();
        Moment {
            decade: reads + creates,
            grows,
            discards: life.discards,
            guards_dropped: life.guards_dropped,
        }
    }

    /// Whether a guard made at `then` no longer shows its page.
    fn has_lost(&self, id: PageId, then: Moment) -> bool {
        let now = self.moment(id);
        match self.defect {
            D::EvictsUnderGuards => now.decade > then.decade + 100,
            D::GrowthMovesPages => now.grows > then.grows,
            D::DiscardsUnderGuards => now.discards > then.discards,
            D::FirstGuardDroppedFreesAll => now.guards_dropped > then.guards_dropped,
            _ => false,
        }
    }

    /// Whether the page reads as something else from the start.
    fn has_lost_page(&self, at: PageRef) -> bool {
        let ledger = self.ledger.lock();
        let Some(life) = ledger.lives.get(&at.id) else {
            return self.has(D::OnlyItsThreadSeesAWrite) && thread::current().id() != self.home;
        };
        let prefetched = ledger.prefetched.get(&at.id);
        match self.defect {
            D::LosesStolenPages => life.sealed.unwrap_or(ledger.creates) > life.created + 500,
            D::LosesSealedPagesUnderPressure => life
                .sealed
                .is_some_and(|sealed| ledger.creates > sealed + 500),
            D::OnlyItsThreadSeesAWrite => thread::current().id() != self.home,
            D::PrefetchBringsTheOldLifeBack => prefetched.is_some_and(|&old| old != at.version),
            D::WriteBackDamages => ledger.damaged.contains(&at.id),
            _ => false,
        }
    }

    fn true_ref(&self, at: PageRef) -> PageRef {
        let ledger = self.ledger.lock();
        let known = ledger.lives.get(&at.id).and_then(|life| life.version);
        match known {
            Some(version) if self.has(D::IgnoresStamps) => PageRef { version, ..at },
            _ => at,
        }
    }

    fn expect_frames(&self) -> Result<()> {
        let ledger = self.ledger.lock();
        if self.has(D::LeaksFrames) && ledger.reads + ledger.creates > 1500 {
            return Err(Error::NoFreeFrame { capacity: 1500 });
        }
        Ok(())
    }

    fn expect_no_guard(&self, page: PageId) -> Result<()> {
        if self.has(D::OneGuardHoldsUpAll) && self.ledger.lock().guards > 0 {
            return Err(Error::Guarded { page });
        }
        Ok(())
    }

    fn scratch(&self) -> Vec<u8> {
        vec![0xee; self.geometry().page_size.usable()]
    }

    /// A guard of the real page, or of nothing where the defect ignores the refusal.
    fn loosely<'p>(
        &'p self,
        real: Result<MemMut<'p>>,
        ignores: impl Fn(&Error) -> bool,
    ) -> Result<BrokenMut<'p>> {
        let real = match real {
            Ok(page) => Some(page),
            Err(error) if ignores(&error) => None,
            Err(error) => return Err(error),
        };
        self.ledger.lock().guards += 1;
        Ok(BrokenMut {
            pager: self,
            scratch: self.scratch(),
            real,
        })
    }
}

fn is_guarded(error: &Error) -> bool {
    matches!(error, Error::Guarded { .. })
}

fn is_state(error: &Error) -> bool {
    matches!(error, Error::WrongState { .. })
}

impl Pager for Broken {
    type Ref<'p> = BrokenRef<'p>;
    type Mut<'p> = BrokenMut<'p>;

    fn geometry(&self) -> Geometry {
        self.inner.geometry()
    }

    fn page_count(&self) -> u64 {
        match self.defect {
            D::GrowSetsTheLength => self.ledger.lock().asked_pages,
            _ => self.inner.page_count(),
        }
    }

    fn grow(&self, page_count: u64) -> Result<()> {
        let mut ledger = self.ledger.lock();
        ledger.grows += 1;
        ledger.asked_pages = page_count;
        let grown = self.inner.grow(page_count);
        ledger.failed |= grown.is_err();
        grown
    }

    fn read(&self, at: PageRef) -> Result<BrokenRef<'_>> {
        self.expect_frames()?;
        self.ledger.lock().reads += 1;
        if self.has(D::RefusesReadsAfterAFailure) && self.ledger.lock().failed {
            let first = "something failed".into();
            return Err(Error::Poisoned { first });
        }
        let real = match self.inner.read(self.true_ref(at)) {
            Ok(guard) => Some(guard),
            Err(Error::Corrupt { .. }) if self.has(D::BelievesEverything) => None,
            Err(Error::Guarded { .. }) if self.has(D::ReadsUnderWriters) => None,
            Err(error) => return Err(error),
        };
        self.ledger.lock().guards += 1;
        Ok(BrokenRef {
            pager: self,
            at,
            lost: self.has_lost_page(at),
            then: self.moment(at.id),
            thread: thread::current().id(),
            scratch: self.scratch(),
            real,
        })
    }

    fn create(&self, at: PageRef) -> Result<BrokenMut<'_>> {
        self.expect_frames()?;
        self.expect_no_guard(at.id)?;
        let real = self.inner.create(at);
        let mut reused = false;
        if real.is_ok() {
            let mut ledger = self.ledger.lock();
            ledger.creates += 1;
            let created = ledger.creates;
            let life = ledger.lives.entry(at.id).or_default();
            reused = life.version.is_some();
            *life = Life {
                version: Some(at.version),
                created,
                discards: life.discards,
                guards_dropped: life.guards_dropped,
                ..Life::default()
            };
        }
        let mut page = self.loosely(real, |error| match self.defect {
            D::CreatesUnderGuards => is_guarded(error),
            D::CreatesAnything => is_state(error),
            _ => false,
        })?;
        if self.has(D::CreatesWithoutZeros) || self.has(D::ReusesWithoutZeros) && reused {
            page[100] = 1;
        }
        Ok(page)
    }

    fn write(&self, at: PageRef) -> Result<BrokenMut<'_>> {
        self.expect_no_guard(at.id)?;
        let at = self.true_ref(at);
        if self.has(D::LosesRewrites) && self.inner.write(at).is_ok() {
            return self.loosely(Err(Error::Guarded { page: at.id }), |_| true);
        }
        let mut page = self.loosely(self.inner.write(at), |error| match self.defect {
            D::WritesUnderGuards => is_guarded(error),
            D::WritesSealedPages => is_state(error),
            _ => false,
        })?;
        if self.has(D::RewritesStartFromZeros) {
            page[16..].fill(0);
        }
        Ok(page)
    }

    fn seal(&self, pages: &[PageRef]) -> Result<()> {
        for at in pages {
            self.expect_no_guard(at.id)?;
        }
        let pages: Vec<_> = pages.iter().map(|&at| self.true_ref(at)).collect();
        match self.inner.seal(&pages) {
            Err(error) if is_guarded(&error) && self.has(D::SealsUnderGuards) => Ok(()),
            Err(error) if is_state(&error) && self.has(D::SealsAnything) => Ok(()),
            Err(error) => Err(error),
            Ok(()) => {
                let mut ledger = self.ledger.lock();
                let sealed = ledger.creates;
                for at in pages {
                    ledger.lives.entry(at.id).or_default().sealed = Some(sealed);
                }
                Ok(())
            }
        }
    }

    fn discard(&self, pages: &[PageId]) -> Result<()> {
        for &page in pages {
            let mut ledger = self.ledger.lock();
            let life = ledger.lives.entry(page).or_default();
            life.discards += 1;
            if self.has(D::DiscardsOnlyOnce) && life.discards > 1 {
                return Err(Error::WrongState {
                    page,
                    verb: "discarded",
                    state: "free",
                });
            }
        }
        self.inner.discard(pages)
    }

    fn flush(&self, pages: &[PageRef]) -> Result<Flushed> {
        let mut ledger = self.ledger.lock();
        let nobody = PageId::MAX;
        let refused = match self.defect {
            D::RefusesToFlushNothing => pages.is_empty(),
            D::RefusesToFlushAgain => pages.iter().any(|at| ledger.flushed.contains(&at.id)),
            D::RefusesToFlushWhileGuarded => ledger.guards > 0,
            _ => false,
        };
        if refused {
            return Err(Error::Guarded { page: nobody });
        }
        let mut pages = pages.to_vec();
        match self.defect {
            D::FlushDoesNothing => return Ok(Flushed::proven()),
            D::FlushesOnlyOnce => pages.retain(|at| !ledger.flushed.contains(&at.id)),
            _ => {}
        }
        ledger.flushed.extend(pages.iter().map(|at| at.id));
        if self.has(D::PagesOverlapMetas) && !pages.is_empty() {
            let zeros = [0; bifolio_pager::META_LEN];
            self.inner
                .inner()
                .write_meta(Flushed::proven(), MetaSlot::B, &zeros)?;
        }
        let flushed = self.inner.flush(&pages);
        ledger.failed |= flushed.is_err();
        match flushed {
            Err(error) if is_state(&error) && self.has(D::FlushesAnything) => Ok(Flushed::proven()),
            Err(Error::Poisoned { .. }) if self.has(D::TriesAgainAfterAFailure) => {
                self.inner.inner().flush(&pages)
            }
            other => other,
        }
    }

    fn write_meta(&self, after: Flushed, slot: MetaSlot, meta: &[u8]) -> Result<()> {
        if self.has(D::MetasOverlapPages) {
            let first = first_page(self.geometry());
            self.inner
                .inner()
                .corrupt(first, |image| image[..4].fill(meta[0]));
        }
        self.inner.write_meta(after, slot, meta)
    }

    fn prefetch(&self, pages: &[PageRef]) {
        let count = self.page_count();
        let mut ledger = self.ledger.lock();
        for at in pages {
            assert!(
                !self.has(D::TrustsHints) || at.id.get() < count,
                "no page {at:?}"
            );
            ledger.prefetched.entry(at.id).or_insert(at.version);
        }
    }

    fn write_back(&self, pages: &[PageRef]) {
        self.ledger
            .lock()
            .damaged
            .extend(pages.iter().map(|at| at.id));
    }

    fn counters(&self) -> Counters {
        let counters = self.inner.counters();
        match self.defect {
            D::OverrunsItsFrames => Counters {
                frames: Some(8),
                frames_used: Some(9),
                ..counters
            },
            D::MiscountsCreations => Counters {
                pages_created: Some(1),
                ..counters
            },
            _ => counters,
        }
    }

    fn effective_backend(&self) -> String {
        match self.defect {
            D::Nameless => String::new(),
            _ => self.inner.effective_backend(),
        }
    }
}

struct BrokenRef<'p> {
    pager: &'p Broken,
    at: PageRef,
    real: Option<MemRef>,
    scratch: Vec<u8>,
    lost: bool,
    then: Moment,
    thread: ThreadId,
}

impl Deref for BrokenRef<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.real {
            Some(real) if !self.lost && !self.pager.has_lost(self.at.id, self.then) => real,
            _ => &self.scratch,
        }
    }
}

impl PageGuard for BrokenRef<'_> {
    fn confirm(&self) -> Result<()> {
        match self.pager.has(D::ConfirmsNothing) {
            true => Err(Error::corrupt(self.at.id, "no")),
            false => Ok(()),
        }
    }
}

impl Drop for BrokenRef<'_> {
    fn drop(&mut self) {
        let mut ledger = self.pager.ledger.lock();
        ledger.guards -= 1;
        ledger.lives.entry(self.at.id).or_default().guards_dropped += 1;
        if self.pager.has(D::GuardsEndOnTheirThreadOnly) && thread::current().id() != self.thread {
            std::mem::forget(self.real.take());
        }
    }
}

struct BrokenMut<'p> {
    real: Option<MemMut<'p>>,
    scratch: Vec<u8>,
    pager: &'p Broken,
}

impl Deref for BrokenMut<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.real {
            Some(real) => real,
            None => &self.scratch,
        }
    }
}

impl DerefMut for BrokenMut<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        match &mut self.real {
            Some(real) => real,
            None => &mut self.scratch,
        }
    }
}

impl Drop for BrokenMut<'_> {
    fn drop(&mut self) {
        self.pager.ledger.lock().guards -= 1;
        if self.pager.has(D::LosesWrites)
            && let Some(real) = &mut self.real
        {
            real[16..].fill(0);
        }
    }
}
