//! Counters. Those on the hot path are kept per thread, because a shared one costs more than the
//! work it counts.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam::utils::CachePadded;
use parking_lot::Mutex;

/// Threads with a cell of their own; further ones share the last cell, and pay for it.
const CELLS: usize = 64;
const SHARED: usize = CELLS;

/// A count that many threads raise at once.
pub(crate) struct Tally {
    /// An array, so that no index needs a check.
    cells: Box<[CachePadded<AtomicU64>; CELLS + 1]>,
}

impl Default for Tally {
    fn default() -> Self {
        Tally {
            cells: Box::new(std::array::from_fn(|_| CachePadded::default())),
        }
    }
}

impl Tally {
    pub(crate) const MEMORY_BYTES: usize = (CELLS + 1) * size_of::<CachePadded<AtomicU64>>();

    /// Counts one.
    #[inline]
    pub(crate) fn add_one(&self) {
        let number = NUMBER.get();
        if number < SHARED {
            // Ours alone: a load and a store are enough.
            let cell = &self.cells[number];
            cell.store(cell.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        } else {
            self.add_one_elsewhere(number);
        }
    }

    #[cold]
    fn add_one_elsewhere(&self, number: usize) {
        if number == UNASSIGNED {
            assign_number();
        }
        // This once, and for threads that share, with a read-modify-write.
        self.cells[SHARED].fetch_add(1, Ordering::Relaxed);
    }

    /// The count so far; exact when no other thread is counting.
    pub(crate) fn sum(&self) -> u64 {
        self.cells
            .iter()
            .map(|cell| cell.load(Ordering::Relaxed))
            .sum()
    }
}

const UNASSIGNED: usize = usize::MAX;

thread_local! {
    static NUMBER: Cell<usize> = const { Cell::new(UNASSIGNED) };
    /// Gives the number back when the thread ends.
    static TICKET: Ticket = const { Ticket };
}

/// Numbers that no living thread has. The mutex orders the last count of a thread that ended before
/// the first of the thread that takes its number over.
static FREE_NUMBERS: Mutex<Option<Vec<usize>>> = Mutex::new(None);

struct Ticket;

impl Drop for Ticket {
    fn drop(&mut self) {
        let number = NUMBER.replace(SHARED);
        if number < SHARED {
            FREE_NUMBERS.lock().get_or_insert_default().push(number);
        }
    }
}

fn assign_number() {
    let mut free = FREE_NUMBERS.lock();
    let free = free.get_or_insert_with(|| (0..CELLS).rev().collect());
    // Where the ticket is gone already, the thread is ending: it shares.
    let registered = TICKET.try_with(|_| ()).is_ok();
    NUMBER.set(if registered {
        free.pop().unwrap_or(SHARED)
    } else {
        SHARED
    });
}

/// What the pool did. Raised where an I/O or at least a miss is paid for anyway.
#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) hits: Tally,
    pub(crate) pages_read: AtomicU64,
    pub(crate) pages_prefetched: AtomicU64,
    pub(crate) pages_written: AtomicU64,
    pub(crate) write_calls: AtomicU64,
    pub(crate) pages_stolen: AtomicU64,
    pub(crate) waits_for_write: AtomicU64,
    pub(crate) evictions: AtomicU64,
    pub(crate) pages_verified: AtomicU64,
    pub(crate) pages_created: AtomicU64,
    pub(crate) syncs: AtomicU64,
}

pub(crate) fn add(counter: &AtomicU64, count: usize) {
    counter.fetch_add(count as u64, Ordering::Relaxed);
}

pub(crate) fn get(counter: &AtomicU64) -> Option<u64> {
    Some(counter.load(Ordering::Relaxed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn nothing_is_lost_when_more_threads_count_than_have_cells() {
        let tally = Tally::default();
        thread::scope(|scope| {
            for _ in 0..CELLS + 20 {
                scope.spawn(|| (0..1000).for_each(|_| tally.add_one()));
            }
        });
        assert_eq!(tally.sum(), 1000 * (CELLS as u64 + 20));
    }

    #[test]
    fn numbers_of_threads_that_ended_are_used_again() {
        let tally = Tally::default();
        for _ in 0..3 * CELLS {
            thread::scope(|scope| {
                scope.spawn(|| (0..10).for_each(|_| tally.add_one()));
            });
        }
        assert_eq!(tally.sum(), 30 * CELLS as u64);
    }
}
