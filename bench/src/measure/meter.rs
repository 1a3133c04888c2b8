//! The clock that a workload runs by, and what it counts.
//!
//! A run is *warming*, then *measuring*, then *over*. The changes happen only in
//! [`Meter::at_boundary`], which a workload calls where it has nothing half done: between reads,
//! between transactions. Hence the window begins and ends on whole transactions, and what was
//! written in it was also committed in it.
//!
//! With several threads, one meter *leads*: it decides when phases change, and reads the counters
//! of the whole process at both ends. The others follow.
//!
//! The loop is closed: the next operation begins when the last one has ended, so a stall delays
//! operations instead of queueing them (its length is in the maximum and in the time line).

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use crate::error::Result;
use crate::measure::latency::Latencies;

/// When phases change.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    /// Warm up at least this long.
    pub warmup_min: Duration,
    /// Warm up at most this long, full or not.
    pub warmup_max: Duration,
    /// The window's length, but for what is being done when it ends.
    pub measure: Duration,
}

impl Schedule {
    /// The width of a bar of the time line: a fiftieth of the window, between 10 ms and 1 s.
    pub fn bucket(&self) -> Duration {
        (self.measure / 50).clamp(Duration::from_millis(10), Duration::from_secs(1))
    }
}

/// What the leading meter asks of its surroundings.
pub trait Observer {
    /// Called at the beginning of the window (`false`) and at its end (`true`).
    ///
    /// # Errors
    /// Whatever makes the measurement worthless.
    fn edge(&mut self, is_end: bool) -> Result<()>;

    /// Whether the memory for pages is full, so that waiting longer warms nothing.
    fn memory_is_full(&mut self) -> bool;
}

const WARMING: u8 = 0;
const MEASURING: u8 = 1;
const OVER: u8 = 2;

/// The phase that all meters of a run are in.
#[derive(Debug, Default)]
pub struct Phase {
    now: AtomicU8,
    begin: OnceLock<Instant>,
}

/// What one thread counted in the window.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Durations of operations.
    pub latencies: Latencies,
    /// Durations of commits.
    pub commits: Latencies,
    /// Units done: lookups, scans or records, as the workload says.
    pub units: u64,
    /// Values that were read and found right.
    pub values_checked: u64,
    /// Units done in each bar of the time line.
    pub timeline: Vec<u64>,
}

impl Counts {
    /// Adds what another thread counted.
    pub fn add(&mut self, other: &Counts) {
        self.latencies.add(&other.latencies);
        self.commits.add(&other.commits);
        self.units += other.units;
        self.values_checked += other.values_checked;
        if self.timeline.len() < other.timeline.len() {
            self.timeline.resize(other.timeline.len(), 0);
        }
        for (sum, units) in self.timeline.iter_mut().zip(&other.timeline) {
            *sum += units;
        }
    }

    fn clear(&mut self) {
        self.latencies.clear();
        self.commits.clear();
        (self.units, self.values_checked) = (0, 0);
        self.timeline.clear();
    }
}

/// How often a leading meter asks whether memory is full.
const FULL_CHECK_EVERY: Duration = Duration::from_millis(20);

struct Leader<'r> {
    observer: &'r mut dyn Observer,
    next_full_check: Instant,
}

/// One thread's clock and counts.
pub struct Meter<'r> {
    phase: &'r Phase,
    schedule: Schedule,
    leader: Option<Leader<'r>>,
    /// The phase as this thread has last seen it.
    seen: u8,
    started: Instant,
    window_begin: Instant,
    window_end: Instant,
    /// When the last operation ended.
    last: Instant,
    bucket: Duration,
    counts: Counts,
}

impl<'r> Meter<'r> {
    /// The meter that decides.
    pub fn leading(phase: &'r Phase, schedule: Schedule, observer: &'r mut dyn Observer) -> Self {
        let mut meter = Meter::following(phase, schedule);
        meter.leader = Some(Leader {
            observer,
            next_full_check: Instant::now(),
        });
        meter
    }

    /// A meter that does as the leading one says.
    pub fn following(phase: &'r Phase, schedule: Schedule) -> Self {
        let now = Instant::now();
        Meter {
            phase,
            schedule,
            leader: None,
            seen: WARMING,
            started: now,
            window_begin: now,
            window_end: now,
            last: now,
            bucket: schedule.bucket(),
            counts: Counts::default(),
        }
    }

    /// Nothing is half done here: the phase may change. `false` when the run is over.
    ///
    /// # Errors
    /// What the observer returned.
    pub fn at_boundary(&mut self) -> Result<bool> {
        if self.seen == WARMING && self.warmup_is_over() {
            self.begin_window()?;
        } else if self.seen == MEASURING && self.window_is_over() {
            self.end_window()?;
        }
        Ok(self.seen != OVER)
    }

    /// Whether what is done now counts for nothing yet.
    pub fn is_warming(&self) -> bool {
        self.seen == WARMING
    }

    /// Whether the time of this phase is up, so that a transaction should come to its commit.
    pub fn phase_is_over(&self) -> bool {
        match self.seen {
            WARMING => self.last - self.started >= self.schedule.warmup_max,
            _ => self.last - self.window_begin >= self.schedule.measure,
        }
    }

    /// Runs and times one operation that does `units` units.
    ///
    /// # Errors
    /// What `operation` returned; it is not counted then.
    pub fn time<R>(&mut self, units: u64, operation: impl FnOnce() -> Result<R>) -> Result<R> {
        let from = Instant::now();
        let result = operation()?;
        self.last = Instant::now();
        self.counts.latencies.record(self.last - from);
        self.count(units);
        Ok(result)
    }

    /// Runs one operation of one unit and times it from `from`, when it was due. Returns the time.
    ///
    /// # Errors
    /// As [`Meter::time`].
    pub fn time_from(
        &mut self,
        from: Instant,
        operation: impl FnOnce() -> Result<()>,
    ) -> Result<Duration> {
        operation()?;
        self.last = Instant::now();
        let took = self.last.saturating_duration_since(from);
        self.counts.latencies.record(took);
        self.count(1);
        Ok(took)
    }

    /// From the beginning of the window to the end of the last operation.
    pub fn since_window_began(&self) -> Duration {
        self.last.saturating_duration_since(self.window_begin)
    }

    /// Runs and times a commit. Its time belongs to the window, and to no single unit.
    ///
    /// # Errors
    /// What `commit` returned.
    pub fn time_commit(&mut self, commit: impl FnOnce() -> Result<()>) -> Result<()> {
        let from = Instant::now();
        commit()?;
        self.last = Instant::now();
        self.counts.commits.record(self.last - from);
        Ok(())
    }

    /// Says that the operation timed last spent `duration` in its commit.
    pub fn committed(&mut self, duration: Duration) {
        self.counts.commits.record(duration);
    }

    /// Says that `count` values were read and were right.
    pub fn checked(&mut self, count: u64) {
        self.counts.values_checked += count;
    }

    /// What was counted in the window.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// How long the warm-up was, and the window.
    pub fn durations(&self) -> (Duration, Duration) {
        (
            self.window_begin - self.started,
            self.window_end - self.window_begin,
        )
    }

    fn count(&mut self, units: u64) {
        self.counts.units += units;
        if self.seen == MEASURING {
            let since = self.last - self.window_begin;
            let bar = (since.as_nanos() / self.bucket.as_nanos()) as usize;
            if self.counts.timeline.len() <= bar {
                self.counts.timeline.resize(bar + 1, 0);
            }
            self.counts.timeline[bar] += units;
        }
    }

    fn warmup_is_over(&mut self) -> bool {
        let Some(leader) = &mut self.leader else {
            return self.phase.now.load(Ordering::Acquire) != WARMING;
        };
        let warming_for = self.last - self.started;
        if warming_for < self.schedule.warmup_min {
            return false;
        }
        if warming_for >= self.schedule.warmup_max {
            return true;
        }
        if self.last < leader.next_full_check {
            return false;
        }
        leader.next_full_check = self.last + FULL_CHECK_EVERY;
        leader.observer.memory_is_full()
    }

    fn begin_window(&mut self) -> Result<()> {
        self.counts.clear();
        if let Some(leader) = &mut self.leader {
            leader.observer.edge(false)?;
            let _ = self.phase.begin.set(Instant::now());
            self.phase.now.store(MEASURING, Ordering::Release);
        }
        self.seen = MEASURING;
        self.window_begin = self.phase.begin.get().copied().unwrap_or_else(Instant::now);
        self.last = self.window_begin.max(self.last);
        self.window_end = self.last;
        Ok(())
    }

    fn window_is_over(&self) -> bool {
        match self.leader {
            Some(_) => self.phase_is_over(),
            None => self.phase.now.load(Ordering::Acquire) == OVER,
        }
    }

    fn end_window(&mut self) -> Result<()> {
        self.window_end = Instant::now();
        self.seen = OVER;
        if let Some(leader) = &mut self.leader {
            self.phase.now.store(OVER, Ordering::Release);
            leader.observer.edge(true)?;
        }
        Ok(())
    }
}

impl Drop for Meter<'_> {
    /// A leader that failed takes the others along.
    fn drop(&mut self) {
        if self.leader.is_some() {
            self.phase.now.store(OVER, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Edges {
        seen: Vec<bool>,
        is_full: bool,
    }

    impl Observer for Edges {
        fn edge(&mut self, is_end: bool) -> Result<()> {
            self.seen.push(is_end);
            Ok(())
        }

        fn memory_is_full(&mut self) -> bool {
            self.is_full
        }
    }

    const NO_WARMUP: Schedule = Schedule {
        warmup_min: Duration::ZERO,
        warmup_max: Duration::ZERO,
        measure: Duration::from_millis(5),
    };

    #[test]
    fn what_was_done_while_warming_is_not_counted() {
        let (phase, mut edges) = (
            Phase::default(),
            Edges {
                is_full: true,
                ..Edges::default()
            },
        );
        let schedule = Schedule {
            warmup_max: Duration::from_secs(60),
            ..NO_WARMUP
        };
        let mut meter = Meter::leading(&phase, schedule, &mut edges);
        meter.time(7, || Ok(())).unwrap();
        assert!(meter.is_warming());
        assert!(
            meter.at_boundary().unwrap(),
            "memory is full: the window begins"
        );
        assert!(!meter.is_warming());
        meter.time(2, || Ok(())).unwrap();
        meter.checked(2);
        assert_eq!(
            (meter.counts().units, meter.counts().values_checked),
            (2, 2)
        );
    }

    #[test]
    fn a_window_has_two_edges_and_its_time_line_adds_up() {
        let (phase, mut edges) = (Phase::default(), Edges::default());
        let mut meter = Meter::leading(&phase, NO_WARMUP, &mut edges);
        while meter.at_boundary().unwrap() {
            meter.time(3, || Ok(())).unwrap();
        }
        let counts = meter.counts().clone();
        assert_eq!(counts.timeline.iter().sum::<u64>(), counts.units);
        assert!(meter.durations().1 >= NO_WARMUP.measure);
        drop(meter);
        assert_eq!(edges.seen, [false, true]);
    }

    #[test]
    fn a_transaction_that_overruns_is_part_of_the_window() {
        let (phase, mut edges) = (Phase::default(), Edges::default());
        let mut meter = Meter::leading(&phase, NO_WARMUP, &mut edges);
        assert!(meter.at_boundary().unwrap());
        while !meter.phase_is_over() {
            meter.time(1, || Ok(())).unwrap();
        }
        let inserted = meter.counts().units;
        meter
            .time_commit(|| {
                std::thread::sleep(Duration::from_millis(3));
                Ok(())
            })
            .unwrap();
        assert!(!meter.at_boundary().unwrap());
        assert_eq!(meter.counts().units, inserted);
        assert!(meter.durations().1 >= NO_WARMUP.measure + Duration::from_millis(3));
    }

    #[test]
    fn a_follower_measures_while_the_leader_does() {
        let (phase, mut edges) = (Phase::default(), Edges::default());
        let mut leader = Meter::leading(&phase, NO_WARMUP, &mut edges);
        let mut follower = Meter::following(&phase, NO_WARMUP);
        assert!(follower.at_boundary().unwrap());
        assert!(follower.is_warming());
        assert!(leader.at_boundary().unwrap());
        assert!(follower.at_boundary().unwrap());
        assert!(!follower.is_warming());
        drop(leader);
        assert!(
            !follower.at_boundary().unwrap(),
            "a leader that is gone ends the run"
        );
    }

    #[test]
    fn threads_counts_add_up() {
        let mut a = Counts {
            units: 3,
            timeline: vec![1, 2],
            ..Counts::default()
        };
        let b = Counts {
            units: 4,
            timeline: vec![1, 1, 2],
            ..Counts::default()
        };
        a.add(&b);
        assert_eq!((a.units, a.timeline.as_slice()), (7, [2, 3, 2].as_slice()));
    }
}
