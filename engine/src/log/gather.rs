//! When it pays to wait for company before a group is taken.
//!
//! Of the threads that commit all the time, the first one that the end of a group wakes would lead the
//! next group alone or nearly so, and all others the one after it: half of the commits would be in each
//! of two groups that take turns. So a leader waits until as many threads have come as there were
//! lately, for a fraction of what the sync will take in any case. A lone committer has had no company,
//! and never waits; where nobody came, nobody waits for a while.

use std::time::Duration;

/// What a leader knows of the groups before.
#[derive(Debug, Default)]
pub(super) struct Gathering {
    /// Threads that waited when the last group ended, for it or for the next: so many may come again.
    lately: usize,
    last_io: Duration,
    /// Groups for which not to wait, because nobody came the last time.
    skip: u32,
    /// Threads that a leader waits for at this moment, itself included.
    wanted: Option<usize>,
}

impl Gathering {
    /// After a wait that was in vain, so many groups are taken without one.
    const SKIP: u32 = 16;
    /// However slow the device is.
    const LONGEST: Duration = Duration::from_millis(2);

    /// A leader is about to take a group that serves `here` threads. Returns how long it is to wait for
    /// others at the most, if at all.
    pub fn begin(&mut self, here: usize) -> Option<Duration> {
        if self.lately <= here {
            return None;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return None;
        }
        self.wanted = Some(self.lately);
        Some((self.last_io / 2).min(Self::LONGEST))
    }

    /// Whether a leader waits, and need not any longer with so many threads here.
    pub fn is_complete(&self, here: usize) -> bool {
        self.wanted.is_some_and(|wanted| here >= wanted)
    }

    /// Whether a leader waits.
    pub fn is_on(&self) -> bool {
        self.wanted.is_some()
    }

    /// The leader is to wait no longer, because it would hold somebody up.
    pub fn cut_short(&mut self) {
        self.wanted = None;
    }

    /// The leader waits no longer, and somebody came meanwhile, or not.
    pub fn end(&mut self, somebody_came: bool) {
        self.wanted = None;
        if !somebody_came {
            self.skip = Self::SKIP;
        }
    }

    /// A group took this long to write, and so many threads waited when it was done.
    pub fn group_done(&mut self, io: Duration, lately: usize) {
        (self.last_io, self.lately) = (io, lately);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lone_committer_never_waits() {
        let mut gathering = Gathering::default();
        for _ in 0..100 {
            assert_eq!(gathering.begin(1), None);
            gathering.group_done(Duration::from_millis(9), 1);
        }
    }

    #[test]
    fn a_leader_waits_for_as_many_as_there_were_and_not_when_nobody_comes() {
        let mut gathering = Gathering::default();
        gathering.group_done(Duration::from_micros(160), 8);
        assert_eq!(gathering.begin(1), Some(Duration::from_micros(80)));
        assert!(gathering.is_on() && !gathering.is_complete(7));
        assert!(gathering.is_complete(8));
        gathering.end(true);
        assert!(!gathering.is_complete(8), "nobody waits now");
        assert_eq!(gathering.begin(8), None, "all are here");
        assert!(gathering.begin(2).is_some());
        gathering.end(false);
        for _ in 0..Gathering::SKIP {
            assert_eq!(gathering.begin(2), None, "nobody came the last time");
        }
        assert!(gathering.begin(2).is_some(), "try again");
        gathering.cut_short();
        assert!(!gathering.is_on());
    }

    #[test]
    fn a_slow_device_does_not_make_a_long_wait() {
        let mut gathering = Gathering::default();
        gathering.group_done(Duration::from_secs(1), 8);
        assert_eq!(gathering.begin(1), Some(Gathering::LONGEST));
    }
}
