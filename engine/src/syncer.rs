//! The thread that syncs the log for commits that nobody waits for.
//!
//! A commit of [`Durability::Interval`](crate::Durability::Interval) *asks* here for a sync, and so does
//! a ticket, which may be dropped. The first one to ask since the last sync sets the time: one interval
//! later the thread syncs everything that was asked for by then. Where nobody asks, it sleeps.
//!
//! Its thread, and that of checkpoints, sleep on `forkable` locks: a process may fork while they do.
//!
//! It takes no lock but the log's, so neither a write transaction that stays open nor a checkpoint that
//! takes its time holds it up.

use std::time::{Duration, Instant};

use bifolio_pager::sync::forkable::{Condvar, Mutex};

use crate::core::Core;
use crate::log::Position;

/// Who asked for a sync, and since when.
#[derive(Default)]
pub(crate) struct Syncer {
    state: Mutex<State>,
    condvar: Condvar,
}

#[derive(Default)]
struct State {
    /// When the first one asked that was not served yet, and where the last one's record ends.
    asked: Option<(Instant, Position)>,
    stop: bool,
}

impl Syncer {
    /// The log is to be synced up to `end` within an interval from now.
    pub fn ask(&self, end: Position) {
        let mut state = self.state.lock();
        match &mut state.asked {
            Some((_, last)) => *last = end.max(*last),
            None => {
                state.asked = Some((Instant::now(), end));
                self.condvar.notify_one();
            }
        }
    }

    /// The database is about to be closed.
    pub fn stop(&self) {
        self.state.lock().stop = true;
        self.condvar.notify_one();
    }

    /// Whether a sync was asked for and not begun yet.
    #[cfg(test)]
    pub fn is_asked(&self) -> bool {
        self.state.lock().asked.is_some()
    }

    /// Waits until a sync is due, and returns up to where; `None` when it is time to stop.
    fn next(&self, interval: Duration) -> Option<Position> {
        let mut state = self.state.lock();
        loop {
            if state.stop {
                return None;
            }
            match state.asked {
                None => self.condvar.wait(&mut state),
                Some((since, end)) => {
                    let left = interval.saturating_sub(since.elapsed());
                    if left.is_zero() {
                        state.asked = None;
                        return Some(end);
                    }
                    self.condvar.wait_for(&mut state, left);
                }
            }
        }
    }
}

impl Core {
    /// The thread's work, until it is told to stop or something fails.
    pub fn run_syncs(&self, interval: Duration) {
        while let Some(end) = self.syncer.next(interval) {
            let Some(log) = self.log.get() else { continue };
            if let Err(error) = log.wait_durable(end) {
                self.poison(&error.into());
                return;
            }
            self.note_durable();
        }
    }
}
