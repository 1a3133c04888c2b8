//! The thread that writes pages out before their frames are needed.
//!
//! It keeps a few per cent of the frames free, so that a miss finds one at once and hardly ever waits for
//! a write. It works only while there is something to write: a frame whose page is clean is had faster
//! than a thread is woken, so while nothing is dirty whoever needs a frame evicts for himself.
//!
//! It is woken when a search for a frame meets a dirty page; and, as long as it finds something to write
//! or pages are being created, whenever half of the reserve is used up. Where a write fails, the disk is poisoned as by
//! any other write, and nothing more is written.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use parking_lot::{Condvar, Mutex};

use crate::pool::Core;

/// The thread's name, as a debugger shows it.
const NAME: &str = "bifolio-write";
/// Enough for a batch's lists, which are on the heap, many times over.
const STACK_BYTES: usize = 64 << 10;
/// What the thread holds: its stack as far as it is touched.
pub(crate) const OVERHEAD_BYTES: usize = 16 << 10;

/// In pools smaller than this the reserve would be a few frames, and each of them is missed.
const LEAST_FRAMES: usize = 256;
/// Frames kept free: one in so many, about 3 %, ...
const RESERVE_PART: usize = 32;
/// ... and never more than these: what one second's writes of a fast disk bring is enough.
const RESERVE_MOST: usize = 4096;

/// How the thread and those who need frames talk to each other.
#[derive(Default)]
pub(crate) struct Signal {
    state: Mutex<State>,
    changed: Condvar,
    /// The thread runs: there is somebody to wake.
    runs: AtomicBool,
    /// When it last worked, it wrote something.
    found_dirt: AtomicBool,
    /// Pages that had been created when it last began to work.
    created: AtomicU64,
}

#[derive(Default)]
struct State {
    wanted: bool,
    stopped: bool,
}

impl Signal {
    pub(crate) fn runs(&self) -> bool {
        self.runs.load(Ordering::Relaxed)
    }

    pub(crate) fn wake(&self) {
        if self.runs() {
            self.state.lock().wanted = true;
            self.changed.notify_one();
        }
    }

    fn is_stopped(&self) -> bool {
        self.state.lock().stopped
    }

    /// Sleeps until there is work; whether there is, and not the end.
    fn wait(&self) -> bool {
        let mut state = self.state.lock();
        while !state.wanted && !state.stopped {
            self.changed.wait(&mut state);
        }
        state.wanted = false;
        !state.stopped
    }
}

/// The running thread; dropping this ends it, after the batch that it is writing.
pub(crate) struct Background {
    core: Arc<Core>,
    thread: Option<JoinHandle<()>>,
}

impl Background {
    /// Starts the thread, if the pool writes at all and is large enough. Where the machine has no thread
    /// to give, whoever needs a frame writes for himself.
    pub(crate) fn start(core: &Arc<Core>) -> Self {
        let worth_it = core.reserve() > 0 && core.disk.writable().is_ok();
        let thread = worth_it.then(|| {
            let core = Arc::clone(core);
            thread::Builder::new()
                .name(NAME.into())
                .stack_size(STACK_BYTES)
                .spawn(move || {
                    while core.signal.wait() {
                        core.refill();
                    }
                })
                .ok()
        });
        let thread = thread.flatten();
        core.signal.runs.store(thread.is_some(), Ordering::Relaxed);
        Background {
            core: Arc::clone(core),
            thread,
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.core.signal.state.lock().stopped = true;
        self.core.signal.changed.notify_one();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread's has been reported by then, and a `drop` adds none to it.
            let _ = thread.join();
        }
    }
}

impl Core {
    /// Frames to keep free while there is something to write.
    pub(crate) fn reserve(&self) -> usize {
        match self.frames.usable() {
            0..LEAST_FRAMES => 0,
            usable => (usable / RESERVE_PART).min(RESERVE_MOST),
        }
    }

    /// Wakes the thread when the reserve runs low.
    pub(crate) fn watch_reserve(&self) {
        let created = self.counts.pages_created.load(Ordering::Relaxed);
        let may_find_dirt = self.signal.found_dirt.load(Ordering::Relaxed)
            || self.signal.created.load(Ordering::Relaxed) != created;
        if may_find_dirt && self.frames.free_len() <= self.reserve() / 2 {
            self.signal.wake();
        }
    }

    /// Frees frames up to the reserve, writing what has to be written.
    fn refill(&self) {
        let created = self.counts.pages_created.load(Ordering::Relaxed);
        self.signal.created.store(created, Ordering::Relaxed);
        let mut found = false;
        loop {
            let lacking = self.reserve().saturating_sub(self.frames.free_len());
            if lacking == 0 || self.signal.is_stopped() || self.disk.writable().is_err() {
                break;
            }
            let sweep = self.sweep(lacking.min(self.cleaning_batch()));
            let freed = sweep.frames.len();
            drop(sweep.frames); // to the free list
            let wrote = self.clean(&sweep.dirty);
            found |= wrote;
            if freed == 0 && !wrote {
                break;
            }
        }
        self.signal.found_dirt.store(found, Ordering::Relaxed);
    }
}
