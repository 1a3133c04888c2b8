//! When it pays to wait for company before a group is taken, and to watch for a group's end.
//!
//! Of the threads that commit all the time, the first one that the end of a group wakes would lead the
//! next group alone or nearly so, and all others the one after it: half of the commits would be in each
//! of two groups that take turns. So a leader waits until as many threads have come as there were
//! lately, for a fraction of what the sync will take in any case. A lone committer has had no company,
//! and never waits; where nobody came, nobody waits for a while.
//!
//! To be parked and woken takes a thread some ten microseconds, and a processor that has gone idle
//! meanwhile takes a few times as long to come back, more so in a virtual machine. Where eight threads
//! wait for a device that syncs in a hundred, that doubles the way from one sync to the next. So those
//! who wait give way to any other thread that can run instead, and
//! look again (RocksDB's writers do the same: `enable_write_thread_adaptive_yield`). They do so where
//! several commit all the time and the last sync was short, a few threads at once, for a moment; on a
//! slow device what parking costs does not count. This costs about as much processor time per commit as
//! a lone committer's. A leader who gathers others gives way too, on any device, for at most a
//! millisecond.

use std::time::{Duration, Instant};

use bifolio_pager::sync::thread;

/// For so long one who waits for a group looks at it before it sleeps: twice the longest sync that
/// counts as short.
pub(super) const WATCH: Duration = Duration::from_micros(400);

/// Lets other threads run until `done`, for so long at the most.
pub(super) fn give_way_until(most: Duration, done: impl Fn() -> bool) {
    let begin = Instant::now();
    while !done() && begin.elapsed() < most {
        thread::yield_now();
        if cfg!(any(loom, shuttle)) {
            return; // what is right must not depend on how long a moment takes
        }
    }
}

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
    const LONGEST: Duration = Duration::from_millis(1);
    /// Where fewer commit, parking costs less than watching.
    const MANY: usize = if cfg!(any(loom, shuttle)) { 0 } else { 4 };
    /// More than these have their turn late in any case.
    const WATCHERS: usize = 8;

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

    /// Whether a leader waits, and is to go on with so many threads here.
    pub fn goes_on(&self, here: usize) -> bool {
        self.wanted.is_some_and(|wanted| here < wanted)
    }

    /// Whether one more may watch where so many watch already.
    pub fn may_watch(&self, watching: usize) -> bool {
        // In a model no time says anything.
        let fast = self.last_io <= WATCH / 2 || cfg!(any(loom, shuttle));
        self.lately >= Self::MANY && fast && watching < Self::WATCHERS
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
        assert!(gathering.goes_on(7));
        assert!(!gathering.goes_on(8));
        gathering.end(true);
        assert!(!gathering.goes_on(7), "nobody waits now");
        assert_eq!(gathering.begin(8), None, "all are here");
        assert!(gathering.begin(2).is_some());
        gathering.end(false);
        for _ in 0..Gathering::SKIP {
            assert_eq!(gathering.begin(2), None, "nobody came the last time");
        }
        assert!(gathering.begin(2).is_some(), "try again");
        gathering.cut_short();
        assert!(!gathering.goes_on(3));
    }

    #[test]
    fn who_waits_watches_where_many_commit_to_a_fast_device() {
        let mut gathering = Gathering::default();
        assert!(!gathering.may_watch(0), "nobody is known to commit");
        gathering.group_done(Duration::from_micros(100), 8);
        assert!(gathering.may_watch(0) && gathering.may_watch(7));
        assert!(!gathering.may_watch(8), "enough watch");
        gathering.group_done(Duration::from_micros(100), 2);
        assert!(!gathering.may_watch(0), "two are few");
        gathering.group_done(Duration::from_millis(3), 8);
        assert!(!gathering.may_watch(0), "a slow device");
    }

    #[test]
    fn a_slow_device_does_not_make_a_long_wait() {
        let mut gathering = Gathering::default();
        gathering.group_done(Duration::from_secs(1), 8);
        assert_eq!(gathering.begin(1), Some(Gathering::LONGEST));
    }
}
