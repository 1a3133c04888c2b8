//! When a checkpoint is due, how fast it goes, when writers have to wait for it, and what it counts.
//!
//! Three things make one due: the *log*, which recovery would have to read; *dirty* pages, which no
//! checkpoint has written yet and which a pool would have to write when memory is short; and *time*. The
//! background thread then writes pages a few at a time with pauses, so that it takes a third of the
//! device at first, and more the nearer log or dirty pages come to twice their limit. There, whoever
//! begins to write waits for a checkpoint (*back-pressure*), which makes no pauses.
//!
//! So neither grows without bound. A transaction is not cut in two, so the log can pass twice its limit
//! by what one transaction logs, which is at most half of the limit (`write/`: a larger one is made
//! durable by a checkpoint alone), and by what is appended between two looks.

use std::time::{Duration, Instant};

use bifolio_pager::sync::atomic::{AtomicU64, Ordering};
use bifolio_pager::sync::thread;

use crate::core::{Core, Keeping};

/// The longest pause between two chunks.
const LONGEST_PAUSE: Duration = Duration::from_millis(20);
/// The longest pauses, in times of what the chunk before took.
const PAUSES: f64 = 2.0;

/// What runs in the background of a database.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Background {
    /// How long a commit that nobody waits for may remain without a sync.
    pub sync_interval: Duration,
    /// How long a version may remain without a checkpoint.
    pub checkpoint_interval: Duration,
    /// Bytes of pages not checkpointed after which a checkpoint is due.
    pub dirty_bytes: u64,
}

/// How much of a hurry a checkpoint is in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pace {
    /// Nobody waits: leave the device to others for most of the time.
    Relaxed,
    /// Somebody waits.
    Urgent,
}

/// What checkpoints did since the database was opened. See
/// [`Database::checkpoint_counters`](crate::Database::checkpoint_counters).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CheckpointCounters {
    /// Checkpoints that chose a version. One runs while this is more than `completed`.
    pub begun: u64,
    /// Checkpoints whose meta is durable.
    pub completed: u64,
    /// Pages that they made durable.
    pub pages_written: u64,
    /// Pages that were committed and replaced again before a checkpoint came: none wrote them. (Under
    /// memory pressure a pool may have, and the kernel may write any page of a map.)
    pub pages_died_unwritten: u64,
    /// Time from choosing a version to the durable meta, all checkpoints together.
    pub time: Duration,
    /// Write transactions that waited for a checkpoint before they could begin.
    pub writer_waits: u64,
    /// How long they waited, all together.
    pub writer_wait_time: Duration,
    /// Bytes of log that recovery would read now, if it came to that.
    pub log_bytes: u64,
    /// Bytes of committed pages that are not checkpointed now.
    pub dirty_bytes: u64,
}

/// The counters as they are kept.
#[derive(Default)]
pub(crate) struct Tally {
    begun: AtomicU64,
    completed: AtomicU64,
    pages_written: AtomicU64,
    died_unwritten: AtomicU64,
    ns: AtomicU64,
    writer_waits: AtomicU64,
    writer_wait_ns: AtomicU64,
    /// Pages that the current version has and no checkpoint has chosen.
    pending_pages: AtomicU64,
    /// Pages that the checkpoint under way is writing.
    chosen_pages: AtomicU64,
    /// Threads that wait for a checkpoint: one that is under way makes no more pauses.
    in_a_hurry: AtomicU64,
}

/// While it lives, its thread waits for a checkpoint.
pub(crate) struct Hurry<'t>(&'t Tally);

impl Drop for Hurry<'_> {
    fn drop(&mut self) {
        self.0.in_a_hurry.fetch_sub(1, Ordering::Relaxed);
    }
}

fn add(counter: &AtomicU64, value: u64) {
    counter.fetch_add(value, Ordering::Relaxed);
}

impl Tally {
    /// After a commit, with the writer in hand.
    pub fn note_pending(&self, pages: usize, died: u64) {
        self.pending_pages.store(pages as u64, Ordering::Relaxed);
        add(&self.died_unwritten, died);
    }

    /// A checkpoint has chosen its version, and these pages.
    pub fn note_chosen(&self, pages: usize) {
        self.pending_pages.store(0, Ordering::Relaxed);
        self.chosen_pages.store(pages as u64, Ordering::Relaxed);
        add(&self.begun, 1);
    }

    /// The meta of the checkpoint is durable.
    pub fn note_completed(&self, begun: Instant) {
        let pages = self.chosen_pages.swap(0, Ordering::Relaxed);
        add(&self.pages_written, pages);
        add(&self.ns, begun.elapsed().as_nanos() as u64);
        add(&self.completed, 1);
    }

    /// This thread waits for a checkpoint, if `pace` says so.
    pub fn hurry(&self, pace: Pace) -> Option<Hurry<'_>> {
        (pace == Pace::Urgent).then(|| {
            add(&self.in_a_hurry, 1);
            Hurry(self)
        })
    }

    fn note_wait(&self, begun: Instant) {
        add(&self.writer_waits, 1);
        add(&self.writer_wait_ns, begun.elapsed().as_nanos() as u64);
    }

    fn dirty_pages(&self) -> u64 {
        self.pending_pages.load(Ordering::Relaxed) + self.chosen_pages.load(Ordering::Relaxed)
    }
}

impl Core {
    /// What checkpoints did.
    pub fn checkpoint_counters(&self) -> CheckpointCounters {
        let tally = &self.tally;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let completed = read(&tally.completed); // before `begun`, so that it is never more
        CheckpointCounters {
            begun: read(&tally.begun),
            completed,
            pages_written: read(&tally.pages_written),
            pages_died_unwritten: read(&tally.died_unwritten),
            time: Duration::from_nanos(read(&tally.ns)),
            writer_waits: read(&tally.writer_waits),
            writer_wait_time: Duration::from_nanos(read(&tally.writer_wait_ns)),
            log_bytes: self.log_bytes(),
            dirty_bytes: self.dirty_bytes(),
        }
    }

    /// Bytes of log that recovery would have to replay now.
    fn log_bytes(&self) -> u64 {
        let Some(log) = self.log.get() else { return 0 };
        // First where it begins: a checkpoint may move that, to where the end was at some time.
        let start = self.log_start.load(Ordering::Acquire);
        log.end().get() - start
    }

    fn dirty_bytes(&self) -> u64 {
        self.tally.dirty_pages() * self.page_bytes
    }

    /// How full log and dirty memory are, whichever is fuller: at 1 a checkpoint is due, at 2 writers
    /// wait.
    fn fullness(&self) -> f64 {
        let Keeping::Log(place) = &self.keeping else {
            return 0.0;
        };
        let log = self.log_bytes() as f64 / place.limit_bytes.max(1) as f64;
        let dirty = self.background.map_or(0.0, |background| {
            self.dirty_bytes() as f64 / background.dirty_bytes.max(1) as f64
        });
        log.max(dirty)
    }

    /// Before a write transaction: waits for a checkpoint if there is too much for the next one.
    pub fn wait_under_pressure(&self) -> crate::Result<()> {
        if self.fullness() <= 2.0 {
            return Ok(());
        }
        let begun = Instant::now();
        let checkpointed = self.checkpoint(Pace::Urgent);
        self.tally.note_wait(begun);
        checkpointed
    }

    /// After a commit: rings if there is something to do for the background thread.
    pub fn ring_if_due(&self) {
        if self.fullness() > 1.0 {
            self.bell.ring();
        } else if self.log.get().is_some_and(|log| log.wants_spare()) {
            self.bell.nudge();
        }
    }

    /// After a chunk of pages that took `took`: leaves the device to others for a while.
    pub fn pause(&self, took: Duration) {
        if self.tally.in_a_hurry.load(Ordering::Relaxed) > 0 {
            return;
        }
        let hurry = (self.fullness() - 1.0).clamp(0.0, 1.0);
        let pause = took.mul_f64(PAUSES * (1.0 - hurry)).min(LONGEST_PAUSE);
        if !pause.is_zero() {
            thread::sleep(pause);
        }
    }
}
