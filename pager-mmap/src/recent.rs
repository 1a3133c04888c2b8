//! Which pages were written lately, and so are in memory in all likelihood: to create one of them
//! again, nobody need ask the kernel (`mincore`, 0.7 us, more than the creation itself).
//!
//! Small transactions go round among a few pages, so a few are remembered, each in the one slot that
//! its number gives it. A slot may grow old: then at most as many pages as there are slots are read
//! from storage to be overwritten. A wrong guess costs such a read, never anything else.

use std::sync::atomic::{AtomicU64, Ordering};

use bifolio_pager::PageId;

/// Pages remembered: what small transactions go round among (`YOUNG_MAX` of the allocation map).
const SLOTS: usize = 256;
/// No page: page 0 holds metas, and is never created.
const NONE: u64 = 0;

/// The pages created last.
pub(crate) struct Recent {
    slots: [AtomicU64; SLOTS],
}

impl Recent {
    /// Remembers nothing.
    pub(crate) fn new() -> Self {
        Recent {
            slots: [const { AtomicU64::new(NONE) }; SLOTS],
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
}
