//! Which pages were written lately, and so are in memory in all likelihood: to create one of them
//! again, nobody need ask the kernel (`mincore`, 0.7 us, more than the creation itself).
//!
//! Small transactions go round among a few pages, so a few are remembered, each in the one slot that
//! its number gives it. A slot may grow old: then at most as many pages as there are slots are read
//! from storage to be overwritten.
//!
//! Of the others, once `SURE` in a row were in memory, one in `SAMPLE` is asked about, until one is not.
//! Where all of a file stays in memory that saves most of the questions. Elsewhere, on average
//! `SAMPLE` - 1 pages are read in vain before one is found out; where more than a few in a hundred are
//! gone, no row is ever that long.
//!
//! A wrong guess costs a read of the page, some 100 us, never anything else.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use bifolio_pager::PageId;

/// Pages remembered: what small transactions go round among (`YOUNG_MAX` of the allocation map).
const SLOTS: usize = 256;
/// Answers in a row after which a sample is enough.
const SURE: u32 = 128;
/// One of so many is in the sample.
const SAMPLE: u32 = 8;
/// No page: page 0 holds metas, and is never created.
const NONE: u64 = 0;

/// The pages created last.
pub(crate) struct Recent {
    slots: [AtomicU64; SLOTS],
    /// Pages not among them that were in memory, or taken to be, since the last that was not.
    streak: AtomicU32,
}

impl Recent {
    /// Remembers nothing.
    pub(crate) fn new() -> Self {
        Recent {
            slots: [const { AtomicU64::new(NONE) }; SLOTS],
            streak: AtomicU32::new(0),
        }
    }

    /// Whether the page was created a short time ago. From now on it was.
    pub(crate) fn note(&self, id: PageId) -> bool {
        let slot = &self.slots[id.get() as usize % SLOTS];
        if slot.load(Ordering::Relaxed) == id.get() {
            return true;
        }
        slot.store(id.get(), Ordering::Relaxed);
        false
    }

    /// Whether a page that was not created lately is in memory, as far as can be guessed; `look` asks
    /// the kernel.
    pub(crate) fn guess(&self, look: impl FnOnce() -> bool) -> bool {
        // Threads that create at once may lose each other's counts: it is a guess.
        let streak = self.streak.load(Ordering::Relaxed);
        let is_sure = streak >= SURE && !streak.is_multiple_of(SAMPLE);
        let in_memory = is_sure || look();
        let next = if in_memory {
            streak.checked_add(1).unwrap_or(SURE)
        } else {
            0
        };
        self.streak.store(next, Ordering::Relaxed);
        in_memory
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_recent_until_another_one_takes_its_slot() {
        let recent = Recent::new();
        let page = PageId::new(1 << 40);
        assert!(!recent.note(page), "never created");
        assert!(recent.note(page));
        assert!(!recent.note(page.plus(1)));
        assert!(recent.note(page), "its neighbour has another slot");
        assert!(!recent.note(page.plus(SLOTS as u64)));
        assert!(!recent.note(page));
    }
    #[test]
    fn a_sample_is_asked_about_while_all_are_in_memory_and_every_page_after_one_is_not() {
        let recent = Recent::new();
        let looks = |pages: u32, is_there: bool| {
            let mut looks = 0;
            for _ in 0..pages {
                recent.guess(|| {
                    looks += 1;
                    is_there
                });
            }
            looks
        };
        assert_eq!(looks(SURE, true), SURE);
        assert_eq!(looks(100 * SAMPLE, true), 100);
        assert_eq!(
            looks(SAMPLE, false),
            1 + (SAMPLE - 1),
            "the first is in the sample"
        );
        assert_eq!(looks(SURE, true), SURE);
        assert_eq!(looks(SAMPLE, true), 1);
    }
}
