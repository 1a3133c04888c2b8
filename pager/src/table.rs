//! A flat table with one small word per page, for any page number, that costs memory only where it
//! is used.
//!
//! Both pagers look up a page's state by its number on every access. A hash map costs four times a
//! flat array there; a flat array for the largest file costs memory that a small file never needs.
//! So: a fixed array of chunks, each made when one of its pages is first written to.

use crate::page::PageId;
use crate::sync::OnceLock;

/// Entries in a chunk: 128 KiB of 8-byte words, 64 MiB of file in 4 KiB pages. In a model few.
const CHUNK_LEN: usize = if cfg!(any(loom, shuttle)) { 4 } else { 1 << 14 };

/// One `T` for each page number below a fixed capacity; `T::default()` where nothing was stored.
///
/// `T` is an atomic: entries are shared, and changed in place.
pub struct PageTable<T> {
    chunks: Box<[OnceLock<Box<[T]>>]>,
}

impl<T: Default> PageTable<T> {
    /// A table for pages `0 .. capacity`. Costs 24 bytes per 16,384 pages until it is used.
    pub fn new(capacity: u64) -> Self {
        let chunks = capacity.div_ceil(CHUNK_LEN as u64);
        PageTable {
            chunks: (0..chunks).map(|_| OnceLock::new()).collect(),
        }
    }

    /// The entry of `id`, if anybody has asked for one near it with [`PageTable::entry`].
    /// `None` also past the capacity, which is rounded up to a multiple of 16,384 pages.
    #[inline]
    pub fn get(&self, id: PageId) -> Option<&T> {
        let (chunk, index) = Self::split(id);
        Some(&self.chunks.get(chunk)?.get()?[index])
    }

    /// The entry of `id`, made if need be; `None` past the capacity, which is rounded up to a
    /// multiple of 16,384 pages.
    #[inline]
    pub fn entry(&self, id: PageId) -> Option<&T> {
        let (chunk, index) = Self::split(id);
        let chunk = self.chunks.get(chunk)?;
        Some(&chunk.get_or_init(|| (0..CHUNK_LEN).map(|_| T::default()).collect())[index])
    }

    /// Bytes of memory the table holds now.
    pub fn memory_bytes(&self) -> usize {
        let made = self
            .chunks
            .iter()
            .filter(|chunk| chunk.get().is_some())
            .count();
        made * CHUNK_LEN * size_of::<T>() + size_of_val(&*self.chunks)
    }

    #[inline]
    fn split(id: PageId) -> (usize, usize) {
        const LEN: u64 = CHUNK_LEN as u64;
        // A page number has 48 bits, so without the clamp two pages could share an entry where
        // `usize` has 32.
        let chunk = usize::try_from(id.get() / LEN).unwrap_or(usize::MAX);
        (chunk, (id.get() % LEN) as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[test]
    fn entries_start_as_default_and_keep_what_is_stored() {
        let table = PageTable::<AtomicU32>::new(1 << 20);
        assert!(
            table.get(PageId::new(70_000)).is_none(),
            "nothing was asked for yet"
        );
        table
            .entry(PageId::new(70_000))
            .unwrap()
            .store(5, Ordering::Relaxed);
        assert_eq!(
            table
                .get(PageId::new(70_000))
                .unwrap()
                .load(Ordering::Relaxed),
            5
        );
        assert_eq!(
            table
                .get(PageId::new(70_001))
                .unwrap()
                .load(Ordering::Relaxed),
            0
        );
    }

    #[test]
    fn only_touched_chunks_cost_memory() {
        let table = PageTable::<AtomicU32>::new(1 << 30);
        let empty = table.memory_bytes();
        table.entry(PageId::new(1 << 29)).unwrap();
        assert_eq!(table.memory_bytes() - empty, CHUNK_LEN * 4);
    }

    #[test]
    fn past_the_capacity_there_is_nothing() {
        let table = PageTable::<AtomicU32>::new(100);
        assert!(table.entry(PageId::MAX).is_none());
        assert!(table.get(PageId::MAX).is_none());
        let end = PageId::new(CHUNK_LEN as u64);
        assert!(
            table.entry(PageId::new(end.get() - 1)).is_some(),
            "rounded up"
        );
        assert!(table.entry(end).is_none());
        assert!(table.get(end).is_none());
    }

    #[test]
    fn a_table_of_no_pages_has_no_entry() {
        let table = PageTable::<AtomicU32>::new(0);
        assert!(table.entry(PageId::new(0)).is_none());
        assert_eq!(table.memory_bytes(), 0);
    }

    #[test]
    fn threads_that_make_a_chunk_at_once_share_it() {
        let table = PageTable::<AtomicU32>::new(1 << 16);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for number in 0..1 << 16 {
                        let entry = table.entry(PageId::new(number)).unwrap();
                        entry.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
        let all = (0..1 << 16).map(|number| table.get(PageId::new(number)).unwrap());
        assert!(
            all.map(|entry| entry.load(Ordering::Relaxed))
                .all(|count| count == 4)
        );
    }
}
