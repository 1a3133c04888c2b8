//! Which mappings the handler of `SIGBUS` looks after, and what each has lost: a table of atomics, which
//! a handler may walk at any instant of any thread's.
//!
//! A reader asks [`Watch::lost`] after it has used the bytes. The entry is made before the zeros
//! appear, so whoever saw zeros finds the entry. One entry, from whatever access, also ends writing
//! ([`Watch::any`]).
//!
//! Invariants:
//! 1. A slot's range is empty unless its [`Watch`] lives. A handler that meets a slot in between finds no
//!    range there, or one that was whole: `len` is the last to be stored and the first to be read, and a
//!    `start` that is newer than `len` shows in the generation.
//! 2. Entries are never taken back while the watch lives.
//! 3. What the handler runs ([`Table::lose`]) takes no lock, allocates nothing and does not panic.
//!
//! Not here: the signal itself (`sigbus.rs`).

use std::ops::Range;

use bifolio_pager::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
use bifolio_pager::{Error, Result};

/// Lost pages that a mapping keeps count of. Past that, all of it counts as lost.
const ENTRIES: usize = if cfg!(loom) { 1 } else { 64 };

/// What the handler has to know of one mapping.
#[cfg_attr(loom, derive(Default))]
struct Slot {
    taken: AtomicBool,
    /// Rises whenever the slot is given to another mapping.
    generation: AtomicU64,
    start: AtomicUsize,
    len: AtomicUsize,
    writable: AtomicBool,
    /// Faults met so far.
    faults: AtomicUsize,
    /// For each of the first faults the address in the mapping, plus one; 0 while it is being entered.
    entries: [AtomicUsize; ENTRIES],
}

/// Room for `SLOTS` mappings.
pub(crate) struct Table<const SLOTS: usize>([Slot; SLOTS]);

/// A mapping under the handler's care, until this is dropped.
pub(crate) struct Watch<'t>(&'t Slot);

impl<const SLOTS: usize> Table<SLOTS> {
    /// No mapping.
    #[cfg(not(loom))]
    pub(crate) const fn new() -> Self {
        Table([const { Slot::empty() }; SLOTS])
    }

    /// No mapping.
    #[cfg(loom)]
    pub(crate) fn new() -> Self {
        Table(std::array::from_fn(|_| Slot::default()))
    }

    /// Puts `len` bytes from the address `start` under the handler's care.
    ///
    /// # Errors
    /// `Unavailable` if all slots are taken.
    pub(crate) fn watch(&self, start: usize, len: usize, writable: bool) -> Result<Watch<'_>> {
        let free = self
            .0
            .iter()
            .find(|slot| !slot.taken.swap(true, Ordering::AcqRel));
        let Some(slot) = free else {
            return Err(Error::Unavailable {
                what: "another mapping",
                why: format!("{SLOTS} files are mapped already; close some"),
            });
        };
        slot.generation.fetch_add(1, Ordering::AcqRel);
        for entry in &slot.entries {
            entry.store(0, Ordering::Relaxed);
        }
        slot.faults.store(0, Ordering::Relaxed);
        slot.writable.store(writable, Ordering::Relaxed);
        // Release: a handler that sees the start, beside the length of the mapping before, sees that the
        // generation has changed.
        slot.start.store(start, Ordering::Release);
        // Release: a handler that sees the length sees all of the above.
        slot.len.store(len, Ordering::Release);
        Ok(Watch(slot))
    }

    /// Enters the loss of the page at `address`, of `page_bytes`, if it lies in a mapping of ours; then has
    /// `zeros` put zeros over it: given an address, a length, and whether they are to be writable. Whether
    /// both was done. Runs in the handler.
    pub(crate) fn lose(
        &self,
        address: usize,
        page_bytes: usize,
        zeros: impl Fn(usize, usize, bool) -> bool,
    ) -> bool {
        let lost = self
            .0
            .iter()
            .find_map(|slot| Some((slot, slot.offset_of(address)?)));
        lost.is_some_and(|(slot, offset)| slot.lose(offset & !(page_bytes - 1), page_bytes, zeros))
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        self.0.len.store(0, Ordering::Release);
        self.0.taken.store(false, Ordering::Release);
    }
}

impl Watch<'_> {
    /// Whether any page of the mapping was lost.
    #[inline]
    pub(crate) fn any(&self) -> bool {
        // The bytes were read before this asks about them.
        fence(Ordering::Acquire);
        self.0.faults.load(Ordering::Relaxed) != 0
    }

    /// Whether something in these bytes of the mapping was lost, to the reader's harm or not.
    #[inline]
    pub(crate) fn lost(&self, bytes: impl FnOnce() -> Range<usize>) -> bool {
        self.any() && self.0.entered(bytes())
    }
}

impl Slot {
    #[cfg(not(loom))]
    const fn empty() -> Self {
        Slot {
            taken: AtomicBool::new(false),
            generation: AtomicU64::new(0),
            start: AtomicUsize::new(0),
            len: AtomicUsize::new(0),
            writable: AtomicBool::new(false),
            faults: AtomicUsize::new(0),
            entries: [const { AtomicUsize::new(0) }; ENTRIES],
        }
    }

    #[cold]
    fn entered(&self, bytes: Range<usize>) -> bool {
        let faults = self.faults.load(Ordering::Acquire);
        let Some(entries) = self.entries.get(..faults) else {
            return true;
        };
        entries.iter().any(|entry| {
            // An entry that is still being made may be any page: assume the worst.
            let at = entry.load(Ordering::Acquire);
            at == 0 || bytes.contains(&(at - 1))
        })
    }

    /// The handler's question: where `address` lies in this slot's mapping.
    fn offset_of(&self, address: usize) -> Option<usize> {
        let generation = self.generation.load(Ordering::Acquire);
        let len = self.len.load(Ordering::Acquire);
        let start = self.start.load(Ordering::Acquire);
        let offset = address.checked_sub(start)?;
        let ours = offset < len && self.generation.load(Ordering::Acquire) == generation;
        ours.then_some(offset)
    }

    /// Enters the loss of the page at `page` in the mapping, and then puts zeros in its place.
    fn lose(
        &self,
        page: usize,
        page_bytes: usize,
        zeros: impl Fn(usize, usize, bool) -> bool,
    ) -> bool {
        let number = self.faults.fetch_add(1, Ordering::AcqRel);
        let start = self.start.load(Ordering::Relaxed);
        let writable = self.writable.load(Ordering::Relaxed);
        match self.entries.get(number) {
            Some(entry) => entry.store(page + 1, Ordering::Release),
            // The list is full, so all of the mapping counts as lost. Each page of zeros splits
            // the mapping, of which the kernel allows some ten thousand parts; so all at once.
            None if zeros(start, self.len.load(Ordering::Relaxed), writable) => return true,
            None => {}
        }
        zeros(start + page, page_bytes, writable)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_full_list_means_that_everything_is_lost() {
        let slot = Slot::empty();
        slot.faults.store(2, Ordering::Relaxed);
        for (entry, page) in slot.entries.iter().zip([0, 8192]) {
            entry.store(page + 1, Ordering::Relaxed);
        }
        assert!(slot.entered(0..4096));
        assert!(!slot.entered(4096..8192));
        assert!(slot.entered(8192..65536));
        slot.faults.store(ENTRIES + 1, Ordering::Relaxed);
        assert!(slot.entered(4096..8192));
    }

    #[test]
    fn an_entry_that_is_still_being_made_may_be_any_page() {
        let slot = Slot::empty();
        slot.faults.store(1, Ordering::Relaxed);
        assert!(slot.entered(4096..8192));
    }

    #[test]
    fn an_address_is_ours_only_inside_a_live_range() {
        let slot = Slot::empty();
        assert_eq!(slot.offset_of(1000), None);
        slot.start.store(1000, Ordering::Relaxed);
        slot.len.store(10, Ordering::Relaxed);
        assert_eq!(slot.offset_of(999), None);
        assert_eq!(slot.offset_of(1009), Some(9));
        assert_eq!(slot.offset_of(1010), None);
    }
}
