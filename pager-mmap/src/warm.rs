//! Which pages are probably in memory, so that hints for them can be saved.
//!
//! A hint is a system call, some 0.7 us for each page whether the page is in memory or not, which is
//! more than all the rest of a read that finds it there. The kernel does not say when it drops a
//! page. So: a page that was asked for counts as warm, and of each [`SAVED_PER_LOOK`] pages that
//! hints were saved for, one is looked up. If it is gone, the guess is out of date, and all pages
//! count as cold again. Where memory is short, the share of wrong guesses grows until one is found
//! out, the sooner the larger it is, and it starts again from nothing: of so many wrong guesses, one
//! is found out on average.
//!
//! A wrong guess costs a hint, never anything else.

use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

use bifolio_pager::PageId;
use bifolio_pager::table::PageTable;

/// Hints saved for each page that is looked up, which costs as much as a hint. A prime, so that of
/// batches of one size it is not always the page at one place.
const SAVED_PER_LOOK: usize = 61;

/// What is guessed of each page.
pub(crate) struct Warm {
    /// The age in which a page was last asked for. 0: never.
    asked: PageTable<AtomicU8>,
    /// Begins anew after 255 ages; what was not asked for since the first is then wrongly warm.
    age: AtomicU8,
    /// Hints saved so far.
    saved: AtomicUsize,
}

impl Warm {
    /// All pages below `capacity`, cold.
    pub(crate) fn new(capacity: u64) -> Self {
        Warm {
            asked: PageTable::new(capacity),
            age: AtomicU8::new(1),
            saved: AtomicUsize::new(0),
        }
    }

    /// Bytes of memory held by the table.
    pub(crate) fn memory_bytes(&self) -> u64 {
        self.asked.memory_bytes() as u64
    }

    /// Those of `pages` that have to be asked for; they are warm from now on. `in_memory` looks a
    /// page up, and is called at most once.
    pub(crate) fn cold(
        &self,
        pages: impl Iterator<Item = PageId> + Clone,
        in_memory: impl FnOnce(PageId) -> bool,
    ) -> Vec<PageId> {
        let age = self.age.load(Ordering::Relaxed);
        let is_warm = |id: &PageId| {
            let asked = self.asked.get(*id);
            asked.is_some_and(|asked| asked.load(Ordering::Relaxed) == age)
        };
        let mut cold: Vec<_> = pages.clone().filter(|id| !is_warm(id)).collect();
        let warm = pages.clone().count() - cold.len();
        if warm > 0 {
            // Each hint in its turn, so that no page that is always in memory vouches for the others.
            let saved = self.saved.fetch_add(warm, Ordering::Relaxed);
            let to_next = SAVED_PER_LOOK - 1 - saved % SAVED_PER_LOOK;
            let sample = pages.clone().filter(is_warm).nth(to_next);
            if sample.is_some_and(|sample| !in_memory(sample)) {
                self.begin_age(age);
                cold = pages.collect();
            }
        }
        let age = self.age.load(Ordering::Relaxed);
        for &id in &cold {
            if let Some(asked) = self.asked.entry(id) {
                asked.store(age, Ordering::Relaxed);
            }
        }
        cold
    }

    /// All pages are cold, unless somebody has said so since `age`.
    #[cold]
    fn begin_age(&self, age: u8) {
        let next = age.checked_add(1).unwrap_or(1);
        let (set, fetch) = (Ordering::Relaxed, Ordering::Relaxed);
        let _ = self.age.compare_exchange(age, next, set, fetch);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(numbers: std::ops::Range<u64>) -> impl Iterator<Item = PageId> + Clone {
        numbers.map(PageId::new)
    }

    /// Saves hints for warm pages until `in_memory` is asked, and says `false`, of one of them.
    fn find_out(warm: &Warm, numbers: std::ops::Range<u64>, in_memory: impl Fn(u64) -> bool) {
        for _ in 0..SAVED_PER_LOOK * numbers.clone().count() {
            if !(warm.cold(some(numbers.clone()), |id| in_memory(id.get()))).is_empty() {
                return;
            }
        }
        panic!("no page was found gone");
    }

    #[test]
    fn a_page_is_asked_for_once_while_it_stays_in_memory() {
        let warm = Warm::new(1000);
        assert!(warm.cold(some(10..20), |_| unreachable!()).len() == 10);
        assert_eq!(warm.cold(some(10..20), |_| true), []);
        assert_eq!(warm.cold(some(18..22), |_| true), [20, 21].map(PageId::new));
    }

    #[test]
    fn when_one_page_is_found_gone_all_are_asked_for_again() {
        let warm = Warm::new(1000);
        warm.cold(some(10..40), |_| true);
        find_out(&warm, 10..14, |_| false);
        assert_eq!(warm.cold(some(10..40), |_| true).len(), 26);
        assert_eq!(warm.cold(some(10..40), |_| true), []);
    }

    #[test]
    fn every_page_is_looked_up_in_the_end() {
        let warm = Warm::new(1000);
        warm.cold(some(10..20), |_| true);
        find_out(&warm, 10..20, |number| number != 17);
    }

    #[test]
    fn of_the_pages_whose_hints_are_saved_few_are_looked_up() {
        let warm = Warm::new(1000);
        warm.cold(some(0..64), |_| true);
        let looked_up = std::cell::RefCell::new(std::collections::BTreeSet::new());
        for _ in 0..SAVED_PER_LOOK {
            warm.cold(some(0..64), |id| looked_up.borrow_mut().insert(id.get()));
        }
        assert_eq!(looked_up.borrow().len(), 61, "each time another one");
    }

    #[test]
    fn ages_begin_anew() {
        let warm = Warm::new(1000);
        for _ in 0..1000 {
            warm.cold(some(10..11), |_| true);
            find_out(&warm, 10..11, |_| false);
            assert_ne!(warm.age.load(Ordering::Relaxed), 0);
        }
        assert_eq!(warm.cold(some(500..501), |_| true).len(), 1);
    }
}
