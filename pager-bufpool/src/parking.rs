//! Where threads sleep until a page's state changes, or a frame comes free.
//!
//! The way out of every wait is the end of an I/O or of a short decision of another thread's, none
//! of which waits for anything in turn: *nobody waits while holding a mark (`Writing`) or a claim
//! (`Taken`)*, and who holds `Loading` waits for frames only. So there is no cycle.

use std::time::Duration;

use bifolio_pager::PageId;
use bifolio_pager::sync::atomic::{AtomicUsize, Ordering};
use bifolio_pager::sync::{Condvar, Mutex};
use crossbeam::utils::CachePadded;

use crate::word::{PageState, Word};

const LOTS: usize = 32;
/// Looks at the word before going to sleep: an eviction's decision takes a few microseconds, and in
/// a model any number of them shows nothing new.
const LOOKS: u32 = if cfg!(any(loom, shuttle)) { 0 } else { 64 };

#[derive(Default)]
struct Lot {
    mutex: Mutex<()>,
    changed: Condvar,
}

/// Sleeping threads, by page.
#[derive(Default)]
pub(crate) struct Parking {
    lots: [CachePadded<Lot>; LOTS],
}

impl Parking {
    fn lot(&self, id: PageId) -> &Lot {
        // Fibonacci hashing: neighbours, which are loaded together, sleep apart.
        let hash = id.get().wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
        &self.lots[hash as usize % LOTS]
    }

    /// Sleeps while `busy` holds of the page's state.
    pub(crate) fn wait_while(&self, id: PageId, state: &PageState, busy: impl Fn(Word) -> bool) {
        for _ in 0..LOOKS {
            if !busy(state.load()) {
                return;
            }
            std::hint::spin_loop();
        }
        let lot = self.lot(id);
        let mut guard = lot.mutex.lock();
        while busy(state.load()) {
            lot.changed.wait(&mut guard);
        }
    }

    /// Wakes whoever waits for the page. Called after its state was changed.
    pub(crate) fn wake(&self, id: PageId) {
        let lot = self.lot(id);
        // Through the mutex, so that a thread between its look and its sleep is not missed.
        drop(lot.mutex.lock());
        lot.changed.notify_all();
    }
}

/// Sleeping threads that need a frame, whichever.
#[derive(Default)]
pub(crate) struct Shortage {
    waiting: AtomicUsize,
    mutex: Mutex<()>,
    relieved: Condvar,
}

impl Shortage {
    /// Sleeps until somebody calls [`Shortage::relieve`], but not for longer than `most`.
    pub(crate) fn nap(&self, most: Duration) {
        let mut guard = self.mutex.lock();
        self.waiting.fetch_add(1, Ordering::SeqCst);
        self.relieved.wait_for(&mut guard, most);
        self.waiting.fetch_sub(1, Ordering::SeqCst);
    }

    /// Something has changed that may have made a frame free, or easy to make free.
    pub(crate) fn relieve(&self) {
        if self.waiting.load(Ordering::SeqCst) > 0 {
            self.relieved.notify_all();
        }
    }
}
