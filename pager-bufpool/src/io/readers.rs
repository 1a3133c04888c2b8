//! Threads that read ahead, for a backend whose every read holds up the thread that makes it.
//!
//! A reader fills frames and does nothing else: verifying and publishing is left to whoever reaps, as
//! with io_uring. So a reader knows no pool, and waits for nothing but work and the device.
//!
//! Invariants:
//! 1. A frame's memory is valid while a reader fills it: the threads are joined when the backend is
//!    dropped, and a pool drops its backend before its frames.
//! 2. In flight are at most [`FLIGHTS`], so that the queue is bounded.
//! 3. Whoever waits in `reap` is woken after each landing: `count` and what `arrived` does change
//!    before the lock is taken under which he looked.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, IoSliceMut};
use std::sync::Arc;

use bifolio_pager::sync::atomic::{AtomicUsize, Ordering};
use bifolio_pager::sync::thread::{self, JoinHandle};
use bifolio_pager::sync::{Condvar, Mutex};

use super::Arrived;
use super::flight::{FLIGHT_BYTES, FLIGHTS, FORMATION_BYTES, Formation, formations};
use crate::frames::Owned;

/// Reads at once. A solid-state disk serves some tens of times as many as one after the other; but
/// each wakes a thread, so that more than a few gain nothing.
const READERS: usize = if cfg!(loom) { 1 } else { 8 };
/// Enough for a call of `preadv` many times over.
const STACK_BYTES: usize = 64 << 10;

/// What the threads hold: their stacks as far as they are touched, and the queue.
pub(super) const OVERHEAD_BYTES: usize =
    READERS * (16 << 10) + FLIGHTS * (FLIGHT_BYTES + FORMATION_BYTES);

/// What the threads read from.
pub(super) trait Device: Send + Sync + 'static {
    /// Fills the frames by one call; the bytes that it brought.
    fn read(&self, formation: &mut Formation) -> io::Result<usize>;
}

/// The threads, started when there is first something to read ahead.
pub(super) struct Readers<D: Device = File> {
    shared: Arc<Shared<D>>,
    threads: Mutex<Threads>,
}

#[derive(Default)]
struct Threads {
    started: bool,
    handles: Vec<JoinHandle<()>>,
}

struct Shared<D> {
    device: Arc<D>,
    queue: Mutex<Queue>,
    /// There is work, or the end has come.
    work: Condvar,
    /// A read has ended, or what one brought was handed on.
    news: Condvar,
    /// Raised before a flight is queued, lowered after it was handed on.
    count: AtomicUsize,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Formation>,
    ended: Vec<(Formation, io::Result<usize>)>,
    closed: bool,
}

impl<D: Device> Readers<D> {
    pub(super) fn new(device: Arc<D>) -> Self {
        Readers {
            shared: Arc::new(Shared {
                device,
                queue: Mutex::default(),
                work: Condvar::new(),
                news: Condvar::new(),
                count: AtomicUsize::new(0),
            }),
            threads: Mutex::default(),
        }
    }

    pub(super) fn in_flight(&self) -> usize {
        self.shared.count.load(Ordering::Acquire)
    }

    pub(super) fn room(&self) -> usize {
        FLIGHTS - self.in_flight()
    }

    pub(super) fn start<'p>(&self, mut reads: Vec<(u64, Owned<'p>)>) -> Vec<Owned<'p>> {
        let taken = if self.have_threads() {
            self.reserve(reads.len())
        } else {
            0
        };
        let back = reads.split_off(taken).into_iter().map(|(_, frame)| frame);
        let (formations, _) = formations(reads, usize::MAX);
        let wake = formations.len();
        self.shared.queue.lock().waiting.extend(formations);
        for _ in 0..wake.min(READERS) {
            self.shared.work.notify_one();
        }
        back.collect()
    }

    /// How many of `want` flights may be started.
    fn reserve(&self, want: usize) -> usize {
        let raised = |count: usize| Some(count + want.min(FLIGHTS - count));
        let before = self
            .shared
            .count
            .try_update(Ordering::AcqRel, Ordering::Acquire, raised)
            .expect("the count is always raised");
        want.min(FLIGHTS - before)
    }

    /// Whether there is at least one thread. Where the machine has none to give, nothing is read
    /// ahead, and that is not tried again.
    fn have_threads(&self) -> bool {
        let mut threads = self.threads.lock();
        if !threads.started {
            threads.started = true;
            threads.handles = (0..READERS)
                .map_while(|_| self.start_thread().ok())
                .collect();
        }
        !threads.handles.is_empty()
    }

    fn start_thread(&self) -> io::Result<JoinHandle<()>> {
        let shared = Arc::clone(&self.shared);
        thread::Builder::new()
            .name("bifolio-read".into())
            .stack_size(STACK_BYTES)
            .spawn(move || shared.read_all())
    }

    /// As [`super::Io::reap`].
    pub(super) fn reap(
        &self,
        more: &dyn Fn() -> bool,
        arrived: &mut dyn FnMut(Arrived, io::Result<usize>),
    ) {
        let shared = &*self.shared;
        if self.in_flight() == 0 {
            return;
        }
        let mut queue = shared.queue.lock();
        loop {
            let ended = std::mem::take(&mut queue.ended);
            if !ended.is_empty() {
                drop(queue);
                for (formation, result) in ended {
                    let landed = formation.flights.len();
                    formation.land(result, arrived);
                    shared.count.fetch_sub(landed, Ordering::AcqRel);
                }
                queue = shared.queue.lock();
                shared.news.notify_all();
            }
            if self.in_flight() == 0 || !more() {
                return;
            }
            if queue.ended.is_empty() {
                shared.news.wait(&mut queue);
            }
        }
    }
}

impl<D: Device> Drop for Readers<D> {
    fn drop(&mut self) {
        {
            let mut queue = self.shared.queue.lock();
            queue.closed = true;
            queue.waiting.clear();
        }
        self.shared.work.notify_all();
        for thread in self.threads.get_mut().handles.drain(..) {
            // A panic of the thread's has been reported by then, and a `drop` adds none to it.
            let _ = thread.join();
        }
    }
}

impl<D: Device> Shared<D> {
    /// What a thread does until the end.
    fn read_all(&self) {
        let mut queue = self.queue.lock();
        loop {
            if let Some(mut formation) = queue.waiting.pop_front() {
                drop(queue);
                let result = self.device.read(&mut formation);
                queue = self.queue.lock();
                queue.ended.push((formation, result));
                self.news.notify_all();
            } else if queue.closed {
                return;
            } else {
                self.work.wait(&mut queue);
            }
        }
    }
}

impl Device for File {
    // A short read leaves frames as they are: whoever wants their pages will read them himself.
    fn read(&self, formation: &mut Formation) -> io::Result<usize> {
        let mut parts: Vec<_> = formation
            .flights
            .iter_mut()
            .map(|flight| {
                let mut memory = flight.memory();
                // SAFETY: the memory is the flight's alone, which is borrowed exclusively for as long
                // as the slice; it is valid by invariant 1.
                IoSliceMut::new(unsafe { memory.as_mut() })
            })
            .collect();
        let read =
            rustix::io::retry_on_intr(|| rustix::io::preadv(self, &mut parts, formation.offset));
        Ok(read?)
    }
}
