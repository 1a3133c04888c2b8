//! Pages that are free in the map to be stored, and that older versions may still read.
//!
//! A page *born* at version b and *retired* at version r is read by the versions v with
//! b <= v < r, and by no other. A *live* version is one that may still be read. The *guardian* of a
//! page is the latest live version before r: if that one does not reach the page (it is older than
//! b), then no live version does.
//!
//! Invariants:
//! 1. A page is in `fresh` from its retirement to the next settlement, then in one group until no live
//!    version reaches it, then in `let_go` until [`Quarantine::forget`].
//! 2. A page's group is that of its guardian in `live`, which is not older than the page.
//!
//! What a call of `settle` costs. Pages share a group if they share a guardian, whenever they were
//! retired, so the number of groups is at most the number of live versions, and as long as a
//! guardian lives its group is not looked at: a reader that stays for a million commits holds one
//! group, which grows. When a guardian goes, the next older live version is the guardian of what is
//! left of its group, so the two groups are merged, the smaller into the larger. A group is a heap
//! with the youngest page on top, so that what the older guardian does not reach is taken off
//! without a look at the rest. Together: O(live) for a call, and O(log² n) for a page in all the
//! time that it is held, where n pages are.
//!
//! Memory: 16 bytes for each page, beside its bit in the loaded map.
//!
//! Not here: bits (`map.rs`); telling the pager (`mod.rs`).

use std::collections::{BTreeMap, BinaryHeap};

use bifolio_pager::defect::{Defect, planted};
use bifolio_pager::{PageId, PageRef, Version};

/// The pages that are held for readers, by who reads them.
pub(super) struct Quarantine {
    /// Retired since the last settlement, and when.
    fresh: Vec<(PageRef, Version)>,
    /// Held pages, youngest first, by guardian.
    groups: BTreeMap<Version, BinaryHeap<(Version, PageId)>>,
    /// Pages that nobody reaches any more.
    let_go: Vec<PageRef>,
    /// The live versions of the last settlement.
    live: Vec<Version>,
    /// No page has been settled that was retired later than this.
    settled: Version,
}

impl Quarantine {
    /// Nothing held.
    pub fn new() -> Self {
        Quarantine {
            fresh: Vec::new(),
            groups: BTreeMap::new(),
            let_go: Vec::new(),
            live: Vec::new(),
            settled: Version::ZERO,
        }
    }

    /// Holds a page that versions from `at` on do not reach.
    pub fn hold(&mut self, page: PageRef, at: Version) {
        debug_assert!(page.version < at);
        if planted(Defect::ReuseEarly) {
            self.let_go.push(page);
            return;
        }
        self.fresh.push((page, at));
    }

    /// Lets go of every page that no version of `live` (sorted) reaches.
    ///
    /// # Panics
    /// If a version has come to life that may have needed what was let go: it was not live at the
    /// last call, and pages had been retired after it by then.
    pub fn settle(&mut self, live: &[Version]) {
        assert!(live.is_sorted(), "live versions come sorted");
        self.require_no_revival(live);
        self.settle_fresh(live);
        self.settle_orphans(live);
        self.live.clear();
        self.live.extend_from_slice(live);
    }

    /// Pages that were let go, up to `most` of them.
    pub fn let_go(&self, most: usize) -> &[PageRef] {
        let rest = self.let_go.len().saturating_sub(most);
        &self.let_go[rest..]
    }

    /// The last `count` pages of [`Quarantine::let_go`] are no longer held.
    pub fn forget(&mut self, count: usize) -> impl Iterator<Item = PageRef> {
        self.let_go.drain(self.let_go.len() - count..)
    }

    fn require_no_revival(&self, live: &[Version]) {
        let mut before = self.live.iter().peekable();
        for &version in live.iter().take_while(|&&version| version < self.settled) {
            while before.next_if(|&&earlier| earlier < version).is_some() {}
            assert!(
                before.peek() == Some(&&version),
                "{version:?} was given up, and pages that it may need were let go"
            );
        }
    }

    fn settle_fresh(&mut self, live: &[Version]) {
        for (page, retired) in self.fresh.drain(..) {
            self.settled = self.settled.max(retired);
            match latest_before(live, retired) {
                Some(guardian) if guardian >= page.version => {
                    let group = self.groups.entry(guardian).or_default();
                    group.push((page.version, page.id));
                }
                _ => self.let_go.push(page),
            }
        }
    }

    /// Looks at the groups whose guardian is no longer live.
    fn settle_orphans(&mut self, live: &[Version]) {
        let gone = |guardian: &Version, _: &mut _| live.binary_search(guardian).is_err();
        let orphans: Vec<_> = self.groups.extract_if(.., gone).collect();
        for (gone, mut group) in orphans {
            // No version between `gone` and the retirement of its pages was live, and none of
            // these comes to life again: so the next older one is the guardian now.
            let Some(guardian) = latest_before(live, gone) else {
                let pages = group
                    .into_iter()
                    .map(|(version, id)| PageRef { id, version });
                self.let_go.extend(pages);
                continue;
            };
            while let Some(&(version, id)) = group.peek()
                && version > guardian
            {
                group.pop();
                self.let_go.push(PageRef { id, version });
            }
            if !group.is_empty() {
                self.groups.entry(guardian).or_default().append(&mut group);
            }
        }
    }

    /// Pages retired since the last settlement.
    pub fn fresh(&self) -> usize {
        self.fresh.len()
    }

    /// Pages held, for the assertion that the map counts the same.
    pub fn len(&self) -> usize {
        let grouped: usize = self.groups.values().map(BinaryHeap::len).sum();
        self.fresh.len() + grouped + self.let_go.len()
    }
}

fn latest_before(live: &[Version], version: Version) -> Option<Version> {
    let later = live.partition_point(|&v| v < version);
    later.checked_sub(1).map(|index| live[index])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn v(number: u64) -> Version {
        Version::new(number)
    }

    fn page(number: u64, born: u64) -> PageRef {
        PageRef {
            id: PageId::new(number),
            version: v(born),
        }
    }

    fn settle(quarantine: &mut Quarantine, live: &[Version]) -> Vec<PageId> {
        quarantine.settle(live);
        let count = quarantine.let_go(usize::MAX).len();
        quarantine.forget(count).map(|page| page.id).collect()
    }

    #[test]
    fn a_long_reader_holds_one_group_however_many_commits_go_by() {
        let mut quarantine = Quarantine::new();
        let mut held = 0;
        // Looking at every page, or every commit, each time would take days.
        for version in 10..100_000 {
            quarantine.hold(page(version * 2, version - 1), v(version));
            quarantine.hold(page(version * 2 + 1, 4), v(version));
            held += 1;
            let released = settle(&mut quarantine, &[v(5), v(version)]).len();
            assert_eq!(released, 1, "what the reader does not reach is let go");
            assert!(quarantine.groups.len() <= 2);
        }
        assert_eq!(quarantine.len(), held);
        assert_eq!(settle(&mut quarantine, &[v(100_000)]).len(), held);
        assert_eq!(quarantine.len(), 0);
    }

    #[test]
    fn readers_that_end_youngest_first_hand_their_pages_down() {
        let mut quarantine = Quarantine::new();
        let mut live: Vec<_> = vec![v(1)];
        for version in 2..1000 {
            // One page that only the last reader sees, one that all of them see.
            quarantine.hold(page(version * 2, version - 1), v(version));
            quarantine.hold(page(version * 2 + 1, 1), v(version));
            live.push(v(version));
            assert_eq!(settle(&mut quarantine, &live), []);
        }
        live.pop();
        while live.len() > 1 {
            live.pop();
            assert_eq!(settle(&mut quarantine, &live).len(), 1);
        }
        assert_eq!(quarantine.len(), 999, "all that version 1 wrote");
    }

    #[test]
    #[should_panic(expected = "v3 was given up")]
    fn a_version_that_was_given_up_does_not_come_back() {
        let mut quarantine = Quarantine::new();
        quarantine.hold(page(9, 2), v(5));
        settle(&mut quarantine, &[v(1), v(5)]);
        settle(&mut quarantine, &[v(3), v(5)]);
    }

    proptest! {
        #[test]
        fn a_page_is_held_exactly_as_long_as_a_live_version_reaches_it(
            steps in prop::collection::vec(
                (prop::collection::vec(any::<prop::sample::Index>(), 0..6), 0..4_u8, any::<prop::sample::Index>()),
                1..60,
            ),
        ) {
            let mut quarantine = Quarantine::new();
            let (mut live, mut held, mut next) = (vec![v(1)], Vec::new(), 0);
            for (version, (born, what, which)) in (2..).map(v).zip(steps) {
                for at in born {
                    let born = 1 + at.index(version.get() as usize - 1) as u64;
                    next += 1;
                    quarantine.hold(page(next, born), version);
                    held.push((page(next, born), version));
                }
                match what {
                    0 => continue, // several commits before the next settlement
                    1 => drop(live.remove(which.index(live.len()))),
                    _ => {}
                }
                live.push(version);
                let mut free = settle(&mut quarantine, &live);
                let reached = |(page, retired): &(PageRef, Version)| {
                    live.iter().any(|version| (page.version..*retired).contains(version))
                };
                let (still, gone): (Vec<_>, Vec<_>) = held.into_iter().partition(reached);
                held = still;
                free.sort();
                prop_assert_eq!(free, gone.iter().map(|(page, _)| page.id).collect::<Vec<_>>());
                prop_assert_eq!(quarantine.len(), held.len());
            }
        }
    }
}
