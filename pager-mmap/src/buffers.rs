//! Memory for pages while they are private, where the mapping is not written
//! ([`WriteStyle::Pwrite`](crate::WriteStyle)).
//!
//! A fixed number of buffers in one anonymous mapping, of which the kernel backs what was used. A
//! page has a buffer from its creation until it is sealed, discarded, or *spilled*: written to the
//! file while still private, because the buffers are used up.
//!
//! Invariants:
//! 1. No two pages have the same buffer: `take` hands out what is free, under the lock.
//! 2. A page is given a buffer, and loses it, only while its `Exclusive` is held (state.rs). So
//!    whoever holds the page in any way finds the same answer from [`Buffers::of`] all the while.
//!
//! Not here: what the bytes are and who may touch them (`map.rs`), when to spill (`pwrite.rs`).

use std::collections::VecDeque;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use bifolio_pager::table::PageTable;
use bifolio_pager::{Error, PageId, PageSize, Result};
use memmap2::{MmapOptions, MmapRaw};
use parking_lot::Mutex;

/// The buffers, and which page has which.
pub(crate) struct Buffers {
    /// Keeps the memory; used through `base` alone.
    _raw: MmapRaw,
    base: NonNull<u8>,
    page_size: PageSize,
    /// For each page the index of its buffer plus one; 0 for none.
    given: PageTable<AtomicU32>,
    books: Mutex<Books>,
}

struct Books {
    /// Buffers that no page has; the one given back last is used first.
    free: Vec<u32>,
    /// Buffers from this index on were never used.
    unused: u32,
    capacity: u32,
    /// Pages in the order in which they got their buffers; some have lost them since.
    queue: VecDeque<PageId>,
}

// SAFETY: `base` is where the anonymous mapping `_raw` begins, which belongs to no thread. Who may
// touch which buffer is governed by the tokens of state.rs, through map.rs.
unsafe impl Send for Buffers {}
// SAFETY: as above; what is shared here are atomics and a lock.
unsafe impl Sync for Buffers {}

impl Buffers {
    /// Buffers in `bytes` of memory, one at least, for pages below `pages`.
    pub(crate) fn new(bytes: u64, page_size: PageSize, pages: u64) -> Result<Self> {
        let capacity = (bytes / page_size.bytes() as u64).clamp(1, u64::from(u32::MAX) - 1) as u32;
        let refused = |error| Error::io("reserving memory for private pages", error);
        let raw = MmapOptions::new()
            .len(capacity as usize * page_size.bytes())
            .map_anon()
            .map_err(refused)?;
        let raw = MmapRaw::from(raw);
        Ok(Buffers {
            base: NonNull::new(raw.as_mut_ptr()).expect("a mapping does not begin at zero"),
            _raw: raw,
            page_size,
            given: PageTable::new(pages),
            books: Mutex::new(Books {
                free: Vec::new(),
                unused: 0,
                capacity,
                queue: VecDeque::new(),
            }),
        })
    }

    /// How many there are.
    pub(crate) fn capacity(&self) -> usize {
        self.books.lock().capacity as usize
    }

    /// Bytes of memory that were ever used, tables included.
    pub(crate) fn memory_bytes(&self) -> u64 {
        let used = u64::from(self.books.lock().unused) * self.page_size.bytes() as u64;
        used + self.given.memory_bytes() as u64
    }

    /// Where the buffer of page `id` begins, if it has one.
    #[inline]
    pub(crate) fn of(&self, id: PageId) -> Option<NonNull<u8>> {
        // Acquire: with the buffer, see that its former page was done with it.
        let index = self.given.get(id)?.load(Ordering::Acquire).checked_sub(1)?;
        let offset = index as usize * self.page_size.bytes();
        // SAFETY: `index` is below `capacity` (only `take` stores one), so the whole buffer lies in
        // the mapping that begins at `base`.
        Some(unsafe { self.base.add(offset) })
    }

    /// Gives page `id`, whose `Exclusive` the caller holds, a buffer if it has none. Whether it has
    /// one now: not if none is free.
    #[must_use]
    pub(crate) fn take(&self, id: PageId) -> bool {
        let entry = self.given.entry(id);
        let entry = entry.unwrap_or_else(|| panic!("{id:?} is past the end of the reservation"));
        if entry.load(Ordering::Acquire) != 0 {
            return true;
        }
        let mut books = self.books.lock();
        let Some(index) = books.next() else {
            return false;
        };
        books.queue.push_back(id);
        entry.store(index + 1, Ordering::Release);
        true
    }

    /// Takes the buffer of page `id`, whose `Exclusive` the caller holds, back.
    pub(crate) fn release(&self, id: PageId) {
        let Some(entry) = self.given.get(id) else {
            return;
        };
        if let Some(index) = entry.swap(0, Ordering::AcqRel).checked_sub(1) {
            let mut books = self.books.lock();
            books.free.push(index);
            books.forget_the_lost(|id| self.given.get(id));
        }
    }

    /// The page with a buffer whose turn it is: whose buffer is oldest, and each after all others.
    pub(crate) fn oldest(&self) -> Option<PageId> {
        let mut books = self.books.lock();
        loop {
            let id = books.queue.pop_front()?;
            if self.of(id).is_some() {
                books.queue.push_back(id);
                return Some(id);
            }
        }
    }
}

impl Books {
    fn next(&mut self) -> Option<u32> {
        if let Some(index) = self.free.pop() {
            return Some(index);
        }
        let index = self.unused;
        (index < self.capacity).then(|| {
            self.unused += 1;
            index
        })
    }

    /// Keeps the queue from growing beyond twice what can have a buffer.
    fn forget_the_lost<'t>(&mut self, entry: impl Fn(PageId) -> Option<&'t AtomicU32>) {
        if self.queue.len() > 2 * self.capacity as usize {
            self.queue
                .retain(|&id| entry(id).is_some_and(|given| given.load(Ordering::Relaxed) != 0));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn buffers(count: u64) -> Buffers {
        Buffers::new(count * 4096, PageSize::DEFAULT, 1 << 20).unwrap()
    }

    #[test]
    fn each_page_has_a_buffer_of_its_own_until_it_is_released() {
        let buffers = buffers(3);
        let pages = [40, 50, 60].map(PageId::new);
        for id in pages {
            assert!(buffers.take(id));
            assert!(buffers.take(id), "it has one");
        }
        assert!(!buffers.take(PageId::new(70)), "there are three");
        let mut places = pages.map(|id| buffers.of(id).unwrap());
        places.sort_unstable();
        assert_eq!(places[1].addr().get() - places[0].addr().get(), 4096);
        assert_eq!(places[2].addr().get() - places[1].addr().get(), 4096);
        let before = buffers.of(pages[1]);
        buffers.release(pages[1]);
        assert_eq!(buffers.of(pages[1]), None);
        assert!(buffers.take(PageId::new(70)));
        assert_eq!(buffers.of(PageId::new(70)), before);
    }

    #[test]
    fn the_oldest_is_asked_first_and_then_waits_its_turn() {
        let buffers = buffers(3);
        for id in [40, 50, 60].map(PageId::new) {
            assert!(buffers.take(id));
        }
        buffers.release(PageId::new(40));
        let asked: Vec<_> = (0..3).map_while(|_| buffers.oldest()).collect();
        assert_eq!(asked, [50, 60, 50].map(PageId::new));
    }

    #[test]
    fn a_page_that_comes_and_goes_does_not_fill_the_queue() {
        let buffers = buffers(2);
        for _ in 0..1000 {
            assert!(buffers.take(PageId::new(40)));
            buffers.release(PageId::new(40));
        }
        assert!(buffers.books.lock().queue.len() <= 5);
    }
}
