//! The [`Pager`] contract as tests: one function per sentence that a pager must keep.
//!
//! A pager's crate says how to make one, in a [`Fixture`], and runs everything with one line of
//! [`conformance!`](crate::conformance!). The functions are public, so that one can also be called
//! alone, from a debugger or on a pager in an unusual state. Each is named by the sentence it proves
//! and panics when the sentence is false; the modules are the clauses.
//!
//! ```
//! use bifolio_pager::conformance::Fixture;
//! use bifolio_pager::{Geometry, MemPager};
//!
//! struct InMemory;
//!
//! impl Fixture for InMemory {
//!     type Pager = MemPager;
//!
//!     fn create(&self, geometry: Geometry) -> MemPager {
//!         MemPager::new(geometry)
//!     }
//!
//!     fn reopen(&self, pager: MemPager) -> MemPager {
//!         pager.power_cut()
//!     }
//! }
//!
//! bifolio_pager::conformance!(in_memory, crate::InMemory);
//! # fn main() {}
//! ```
//!
//! What the suite cannot see through the trait it asks of the fixture: damage to a stored page, a
//! stored meta, a device that fails. These hooks have defaults, and a clause that needs one which is
//! missing prints that it was skipped.
//!
//! Not here: speed, and what the pagers do beyond the contract.

use crate::error::{Error, Result};
use crate::page::{Geometry, HEADER_LEN, KIND, Kind, PageId, PageRef, PageSize, SELF_REF, Version};
use crate::pager::{MetaSlot, PageGuard, Pager, first_page};

pub mod bounded;
pub mod durable;
pub mod exclusive;
pub mod hints;
pub mod life;
pub mod one_life;
pub mod own_writes;
pub mod stable;
pub mod unordered;
pub mod verified;

/// How the suite makes the pager under test. One fixture may serve several files at once.
pub trait Fixture {
    /// The pager under test.
    type Pager: Pager;

    /// An empty pager over a new file.
    fn create(&self, geometry: Geometry) -> Self::Pager;

    /// The same file opened anew, as after a process exit: it holds what storage and page cache
    /// hold, and none of the pager's memory. Drops the given pager first.
    fn reopen(&self, pager: Self::Pager) -> Self::Pager;

    /// Like [`reopen`](Fixture::reopen), but between closing and opening, `damage` is given the
    /// stored image of page `id`, whole, to change. `None` where the fixture cannot do it.
    fn reopen_damaged(
        &self,
        pager: Self::Pager,
        id: PageId,
        damage: &mut dyn FnMut(&mut [u8]),
    ) -> Option<Self::Pager> {
        let _ = (pager, id, damage);
        None
    }

    /// What storage holds in a meta slot. `None` where the fixture cannot tell.
    fn stored_meta(&self, pager: &Self::Pager, slot: MetaSlot) -> Option<Vec<u8>> {
        let _ = (pager, slot);
        None
    }

    /// Makes every later write, sync and growth of this pager fail. `false` where it cannot.
    fn break_device(&self, pager: &Self::Pager) -> bool {
        let _ = pager;
        false
    }
}

/// Runs one clause on every page size in `sizes`, saying which, so that a failure names it.
pub fn run<F: Fixture>(fixture: &F, sizes: &[PageSize], clause: fn(&F, Geometry)) {
    for &page_size in sizes {
        println!("page size {}", page_size.bytes());
        let seed = 0x5eed_f11e ^ page_size.bytes() as u64;
        clause(fixture, Geometry { page_size, seed });
    }
}

/// The page sizes at the ends of the range, for clauses that move many megabytes.
pub const ENDS: &[PageSize] = &[PageSize::ALL[0], PageSize::ALL[4]];

/// Expands to a module with one `#[test]` for each clause of the [`Pager`] contract.
///
/// `conformance!(name, fixture)`: `name` is the module's, `fixture` an expression of a type that is
/// a [`Fixture`](crate::conformance::Fixture), evaluated once per test, in which names of the
/// enclosing module are in scope. Clauses run at the smallest and the largest page size, or at all
/// five where that is cheap.
#[macro_export]
macro_rules! conformance {
    ($module:ident, $fixture:expr) => {
        mod $module {
            #[allow(unused_imports)]
            use super::*;

            $crate::__conformance_tests! { $fixture,
                stable: ENDS {
                    what_a_guard_exposes_stays_while_many_other_pages_are_read,
                    what_a_guard_exposes_stays_after_the_page_is_discarded,
                    a_guard_stays_good_while_other_pages_live_and_die,
                    many_guards_of_one_page_show_the_same_bytes,
                }
                exclusive: ALL {
                    a_created_page_is_zeros_but_for_its_reference,
                    a_reused_page_is_zeros_whatever_it_held,
                    a_page_with_a_read_guard_cannot_be_written,
                    a_page_with_a_read_guard_cannot_be_sealed,
                    a_page_being_written_cannot_be_read,
                    a_page_being_written_cannot_be_written_again,
                    a_page_being_written_cannot_be_sealed,
                    a_page_being_created_cannot_be_read_or_written,
                    a_number_is_not_reused_under_a_guard_of_its_former_life,
                    a_guard_dropped_on_another_thread_frees_its_page,
                    a_guard_holds_up_no_other_page,
                    of_several_writers_of_one_page_one_wins,
                }
                own_writes: ENDS {
                    a_written_page_reads_as_written,
                    a_private_page_can_be_written_again_and_again,
                    a_private_page_keeps_what_was_written_to_other_parts_of_it,
                    thousands_of_private_pages_read_as_written,
                    thousands_of_sealed_pages_read_as_written,
                    private_pages_can_be_rewritten_after_thousands_of_others,
                    threads_that_read_together_all_see_what_was_written,
                }
                life: ALL {
                    a_sealed_page_cannot_be_written,
                    a_live_page_cannot_be_created,
                    only_a_private_page_can_be_sealed,
                    a_discarded_page_cannot_be_read_written_or_sealed,
                    a_private_page_cannot_be_flushed,
                    discarding_twice_changes_nothing,
                    a_new_life_has_a_new_stamp_and_the_old_one_is_refused,
                    a_page_is_not_written_under_another_stamp,
                    growth_makes_room_and_keeps_what_is_there,
                    the_file_grows_while_others_read,
                    growing_to_less_changes_nothing,
                    a_page_past_the_end_cannot_be_created,
                    a_page_of_the_meta_area_cannot_be_created_or_written,
                }
                unordered: ENDS {
                    an_unflushed_page_reads_after_reopening_as_itself_or_as_corrupt,
                    a_page_that_was_never_sealed_is_not_believed_after_reopening,
                }
                durable: ENDS {
                    flushed_pages_are_there_after_reopening,
                    a_reopened_file_has_room_for_every_flushed_page,
                    flushing_nothing_succeeds,
                    flushing_twice_changes_nothing,
                    a_flush_leaves_pages_that_are_being_written_alone,
                    a_flush_does_not_wait_for_guards,
                    a_new_life_survives_reopening,
                    metas_are_written_and_overlap_no_page,
                    pages_overlap_no_meta,
                    after_a_failure_writes_are_refused_and_reads_go_on,
                    after_a_failure_every_page_is_still_read,
                }
                verified: ALL {
                    an_intact_page_is_confirmed,
                    a_page_past_the_end_is_corrupt,
                    a_page_of_the_meta_area_is_corrupt,
                    a_page_that_was_never_written_is_corrupt,
                    a_page_of_another_stamp_is_corrupt,
                    a_damaged_page_is_corrupt,
                    a_misplaced_page_is_corrupt,
                    a_lost_write_is_corrupt,
                    a_zeroed_page_is_corrupt,
                }
                one_life: ENDS {
                    a_new_life_wins_over_all_input_and_output_of_the_old_one,
                    lives_come_and_go_while_others_read,
                }
                bounded: ENDS {
                    many_guards_at_once_work_or_are_refused,
                    many_write_guards_at_once_work_or_are_refused,
                    readers_that_hold_guards_never_wait_for_each_other,
                    frames_in_use_stay_within_their_number,
                    counters_tell_what_happened,
                }
                hints: ENDS {
                    hints_change_no_content,
                    hints_for_pages_that_are_not_there_do_no_harm,
                    the_backend_has_a_name,
                }
            }
        }
    };
}

/// One `#[test]` per name; the list of names is in [`conformance!`].
#[doc(hidden)]
#[macro_export]
macro_rules! __conformance_tests {
    ($fixture:expr, $($clause:ident: $sizes:ident { $($name:ident,)* })*) => {$($(
        #[test]
        fn $name() {
            let fixture = $fixture;
            $crate::conformance::run(
                &fixture,
                $crate::__conformance_sizes!($sizes),
                $crate::conformance::$clause::$name,
            );
        }
    )*)*};
}

/// The page sizes that a group of clauses runs at.
#[doc(hidden)]
#[macro_export]
macro_rules! __conformance_sizes {
    (ENDS) => {
        $crate::conformance::ENDS
    };
    (ALL) => {
        &$crate::PageSize::ALL
    };
}

/// Bytes of pages that a clause moves to put a small pool under pressure: 3,000 pages of 4 KiB,
/// 187 of 64 KiB.
const PRESSURE_BYTES: usize = 3000 * 4096;

fn many(geometry: Geometry) -> u64 {
    (PRESSURE_BYTES / geometry.page_size.bytes()) as u64
}

/// The `index`-th page that a file can have, as version `version`.
fn nth(geometry: Geometry, index: u64, version: u64) -> PageRef {
    PageRef {
        id: first_page(geometry).plus(index),
        version: Version::new(version),
    }
}

/// The first `count` pages, all of one version.
fn firsts(geometry: Geometry, count: u64, version: u64) -> Vec<PageRef> {
    (0..count)
        .map(|index| nth(geometry, index, version))
        .collect()
}

/// A new pager with room for `count` pages.
fn with_room<F: Fixture>(fixture: &F, geometry: Geometry, count: u64) -> F::Pager {
    let pager = fixture.create(geometry);
    assert_eq!(
        pager.geometry(),
        geometry,
        "the pager has the geometry it was made with"
    );
    make_room(&pager, count);
    pager
}

fn make_room(pager: &impl Pager, count: u64) {
    let page_count = first_page(pager.geometry()).get() + count;
    pager.grow(page_count).expect("the file grows");
    let now = pager.page_count();
    assert!(
        now >= page_count,
        "grew to {now} pages, not to {page_count}"
    );
}

/// What [`fill`] makes of a page: its reference, a kind, and bytes that differ from page to page,
/// version to version, salt to salt and sector to sector.
fn content(geometry: Geometry, at: PageRef, salt: u64) -> Vec<u8> {
    let mut bytes = vec![0; geometry.page_size.usable()];
    bytes[SELF_REF].copy_from_slice(&at.encode());
    fill(&mut bytes, at, salt);
    bytes
}

fn fill(page: &mut [u8], at: PageRef, salt: u64) {
    page[KIND.start] = Kind::Leaf as u8;
    let life = mix(at.id.get() ^ at.version.get().rotate_left(20) ^ salt.rotate_left(40));
    for (sector, bytes) in page[HEADER_LEN..].chunks_mut(512).enumerate() {
        bytes.fill(life as u8);
        let word = mix(life ^ sector as u64).to_le_bytes();
        let len = word.len().min(bytes.len());
        bytes[..len].copy_from_slice(&word[..len]);
    }
}

/// The finalizer of splitmix64: every bit of the input changes about half of the output.
fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// Creates a page and fills it; it stays private.
fn put(pager: &impl Pager, at: PageRef, salt: u64) {
    let mut page = pager
        .create(at)
        .unwrap_or_else(|error| panic!("create {at:?}: {error}"));
    fill(&mut page, at, salt);
}

/// Creates, fills and seals pages.
fn put_sealed(pager: &impl Pager, pages: &[PageRef], salt: u64) {
    for &at in pages {
        put(pager, at, salt);
    }
    pager
        .seal(pages)
        .expect("private pages without guards can be sealed");
}

/// Writes a private page again.
fn rewrite(pager: &impl Pager, at: PageRef, salt: u64) {
    let mut page = pager
        .write(at)
        .unwrap_or_else(|error| panic!("write {at:?}: {error}"));
    fill(&mut page, at, salt);
}

/// Reads a page and compares every byte with what [`fill`] made of it.
fn assert_reads(pager: &impl Pager, at: PageRef, salt: u64) {
    let guard = pager
        .read(at)
        .unwrap_or_else(|error| panic!("read {at:?}: {error}"));
    assert_exposes(&guard, pager.geometry(), at, salt);
}

fn assert_exposes(guard: &impl PageGuard, geometry: Geometry, at: PageRef, salt: u64) {
    let expected = content(geometry, at, salt);
    assert_bytes(guard, &expected, at);
    guard
        .confirm()
        .unwrap_or_else(|error| panic!("confirm {at:?}: {error}"));
}

fn assert_bytes(found: &[u8], expected: &[u8], at: PageRef) {
    assert_eq!(
        found.len(),
        expected.len(),
        "{at:?}: guards expose all but the checksum"
    );
    // As slices first: byte by byte is slow in a debug build.
    if found != expected {
        let byte = (0..found.len())
            .find(|&byte| found[byte] != expected[byte])
            .unwrap();
        panic!(
            "{at:?}: byte {byte} is {:#04x}, not {:#04x}",
            found[byte], expected[byte]
        );
    }
}

/// The error of a call that must not succeed.
fn refused<T>(result: Result<T>, call: &str) -> Error {
    match result {
        Ok(_) => panic!("{call} succeeded and should have been refused"),
        Err(error) => error,
    }
}

fn assert_guarded<T>(result: Result<T>, id: PageId, call: &str) {
    let error = refused(result, call);
    let named = matches!(error, Error::Guarded { page } if page == id);
    assert!(named, "{call} of page {id}: not Guarded, but {error:?}");
}

fn assert_corrupt<T>(result: Result<T>, id: PageId, call: &str) {
    let error = refused(result, call);
    let named = matches!(error, Error::Corrupt { page, .. } if page == id);
    assert!(named, "{call} of page {id}: not Corrupt, but {error:?}");
}

fn assert_wrong_state<T>(result: Result<T>, id: PageId, call: &str) {
    let error = refused(result, call);
    let named = matches!(error, Error::WrongState { page, .. } if page == id);
    assert!(named, "{call} of page {id}: not WrongState, but {error:?}");
}

/// A caller's mistake about a page that may also be damage: the pager may call it either.
fn assert_mistake<T>(result: Result<T>, id: PageId, call: &str) {
    let error = refused(result, call);
    let named = matches!(
        error,
        Error::WrongState { page, .. } | Error::Corrupt { page, .. } if page == id
    );
    assert!(
        named,
        "{call} of page {id}: neither WrongState nor Corrupt, but {error:?}"
    );
}

/// A small pool may be full for a moment while other threads are at work (clause 8): ask again.
fn patiently<T>(mut call: impl FnMut() -> Result<T>) -> T {
    loop {
        match call() {
            Ok(value) => return value,
            Err(Error::NoFreeFrame { .. }) => std::thread::yield_now(),
            Err(error) => panic!("{error}"),
        }
    }
}

fn skipped(hook: &str) {
    println!("SKIPPED: the fixture has no {hook}");
}
