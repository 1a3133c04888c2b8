//! Hazards under every execution that the memory model allows. `--cfg loom`, see `sync`.
//!
//! What stands for a page's memory is a loom `UnsafeCell`, which fails the model when a read and a
//! write of it are not ordered. `membarrier` is modelled as what it stands in for: a full fence on
//! either side. So these models show that the protocol is right if there are such fences; that the
//! kernel's call amounts to one in every reader, at a moment between the reader's two steps or
//! outside of them, is what membarrier(2) promises, and is not shown here.

use std::sync::Arc;

use crate::hazard::{Hazard, Hazards};
use crate::page::PageId;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::loom::cell::UnsafeCell;
use crate::sync::{explore, thread};
use crate::table::PageTable;

const ONE: PageId = PageId::new(1);
const TWO: PageId = PageId::new(2);

/// A page that readers find as long as `present` says so.
struct Page {
    present: AtomicBool,
    memory: UnsafeCell<u64>,
}

struct Shelf {
    hazards: Hazards,
    one: Page,
    two: Page,
}

fn shelf() -> Arc<Shelf> {
    let page = || Page {
        present: AtomicBool::new(true),
        memory: UnsafeCell::new(7),
    };
    Arc::new(Shelf {
        hazards: Hazards::new(),
        one: page(),
        two: page(),
    })
}

impl Page {
    /// The reader's second step: looks the page up, and reads it while `hazard` lives.
    fn read(&self, hazard: Hazard<'_>) {
        if self.present.load(Ordering::Acquire) {
            self.memory.with(|_| ());
        }
        drop(hazard);
    }

    /// Takes the way to the page away; then, unless it is protected, its memory.
    fn reclaim(&self, hazards: &Hazards, id: PageId) {
        self.present.store(false, Ordering::Release);
        if !hazards.snapshot().contains(id) {
            self.memory.with_mut(|_| ());
        }
    }
}

#[test]
fn what_a_reader_found_is_not_reclaimed_under_it() {
    explore("hazard: one reader", 4, || {
        let shelf = shelf();
        let reader = thread::spawn({
            let shelf = shelf.clone();
            move || shelf.one.read(shelf.hazards.protect(ONE))
        });
        shelf.one.reclaim(&shelf.hazards, ONE);
        reader.join().unwrap();
    });
}

#[test]
fn two_readers_who_claim_their_first_lines_are_both_seen() {
    explore("hazard: two readers", 2, || {
        let shelf = shelf();
        let readers = [(); 2].map(|()| {
            let shelf = shelf.clone();
            thread::spawn(move || shelf.one.read(shelf.hazards.protect(ONE)))
        });
        shelf.one.reclaim(&shelf.hazards, ONE);
        readers
            .into_iter()
            .for_each(|reader| reader.join().unwrap());
    });
}

#[test]
fn a_slot_that_is_filled_anew_tells_that_the_page_before_is_no_longer_read() {
    explore("hazard: one slot, two pages", 3, || {
        let shelf = shelf();
        let reader = thread::spawn({
            let shelf = shelf.clone();
            move || {
                shelf.one.read(shelf.hazards.protect(ONE));
                shelf.two.read(shelf.hazards.protect(TWO));
            }
        });
        shelf.one.reclaim(&shelf.hazards, ONE);
        reader.join().unwrap();
    });
}

#[test]
fn a_hazard_that_another_thread_drops_protects_until_then() {
    explore("hazard: dropped elsewhere", 3, || {
        let shelf: &'static Shelf = Box::leak(Box::new(Arc::into_inner(shelf()).unwrap()));
        let hazard = shelf.hazards.protect(ONE);
        let elsewhere = thread::spawn(move || shelf.one.read(hazard));
        let reclaimer = thread::spawn(move || shelf.one.reclaim(&shelf.hazards, ONE));
        // The slot may be empty again by now, and is then ours to fill.
        shelf.two.read(shelf.hazards.protect(TWO));
        elsewhere.join().unwrap();
        reclaimer.join().unwrap();
    });
}

#[test]
fn a_line_given_back_by_its_thread_is_claimed_by_one_other() {
    explore("hazard: lines given back", 3, || {
        let shelf = shelf();
        let threads = [ONE, TWO].map(|id| {
            let shelf = shelf.clone();
            thread::spawn(move || {
                let hazard = shelf.hazards.protect(id);
                assert!(shelf.hazards.snapshot().contains(id));
                drop(hazard);
            })
        });
        threads
            .into_iter()
            .for_each(|thread| thread.join().unwrap());
        drop(shelf.hazards.protect(ONE));
    });
}

#[test]
fn threads_that_make_a_chunk_of_the_table_at_once_share_it() {
    explore("table: one chunk", 4, || {
        let table = Arc::new(PageTable::<AtomicBool>::new(4));
        let threads = [(); 2].map(|()| {
            let table = table.clone();
            thread::spawn(move || table.entry(ONE).unwrap().swap(true, Ordering::AcqRel))
        });
        let seen = threads.map(|thread| thread.join().unwrap());
        assert_ne!(seen[0], seen[1], "one was first");
    });
}
