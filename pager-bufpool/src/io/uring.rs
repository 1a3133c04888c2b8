//! io_uring: many operations with one system call.
//!
//! Two uses, two kinds of ring:
//!
//! * *Working rings* carry writes, all of which end before the call that began them. A thread takes a
//!   ring for the call, submits everything, waits for everything, and gives the ring back: nothing is
//!   shared while the kernel works, and there are at most [`WORKING_RINGS`].
//! * The *flight ring* carries reads that are started and left. Submitting and reaping have a lock
//!   each, so that a thread which waits for its page holds up nobody who starts reads.
//!
//! Invariants:
//! 1. An operation's memory is valid until its completion was seen: `run` does not return before,
//!    and the flight ring owns the frames until they have arrived, and waits for them when dropped.
//! 2. While the reaping lock is held, a flight that `arrived` was not called for is in flight: what
//!    leaves the completion queue is handed on before the lock is let go.
//! 3. Under way are never more operations than the submission queue has places, which is half of the
//!    completion queue's, so that none is lost. Neighbours are one operation.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use io_uring::{IoUring, Probe, opcode, squeue, types};
use parking_lot::{Condvar, Mutex, MutexGuard};

use super::flight::{FLIGHT_BYTES, FLIGHTS, FORMATION_BYTES, Formation, again, formations};
use super::{Arrived, Io, Run, read_all, write_all};
use crate::frames::Owned;

const WORKING_RINGS: usize = 8;
const WORKING_ENTRIES: u32 = 64;
/// Operations of the flight ring: as many as the block layer takes without making anybody wait.
const FLIGHT_ENTRIES: usize = 256;

/// What the rings hold, as the kernel allocates it: 64 bytes for a submission, 16 for each of twice
/// as many completions, in whole pages; and our own notes on flights.
pub(super) const OVERHEAD_BYTES: usize = WORKING_RINGS * (2 << 12)
    + (7 << 12)
    + FLIGHTS * FLIGHT_BYTES
    + FLIGHT_ENTRIES * FORMATION_BYTES;

pub(super) struct Uring {
    file: Arc<File>,
    working: Mutex<Working>,
    given_back: Condvar,
    flights: Flights,
}

struct Working {
    idle: Vec<IoUring>,
    made: usize,
}

impl Uring {
    pub(super) fn new(file: Arc<File>) -> io::Result<Self> {
        let first = working_ring()?;
        let mut probe = Probe::new();
        first.submitter().register_probe(&mut probe)?;
        for code in [
            opcode::Read::CODE,
            opcode::Readv::CODE,
            opcode::Writev::CODE,
        ] {
            if !probe.is_supported(code) {
                return Err(io::Error::from(rustix::io::Errno::OPNOTSUPP));
            }
        }
        Ok(Uring {
            file,
            working: Mutex::new(Working {
                idle: vec![first],
                made: 1,
            }),
            given_back: Condvar::new(),
            flights: Flights::new()?,
        })
    }

    fn fd(&self) -> types::Fd {
        types::Fd(self.file.as_raw_fd())
    }

    /// A ring for the use of this thread.
    fn take_ring(&self) -> io::Result<IoUring> {
        let mut working = self.working.lock();
        loop {
            if let Some(ring) = working.idle.pop() {
                return Ok(ring);
            }
            if working.made < WORKING_RINGS {
                match working_ring() {
                    Ok(ring) => {
                        working.made += 1;
                        return Ok(ring);
                    }
                    Err(error) if working.made == 0 => return Err(error),
                    Err(_) => {} // then with those there are
                }
            }
            self.given_back.wait(&mut working);
        }
    }

    fn give_ring_back(&self, ring: Option<IoUring>) {
        let mut working = self.working.lock();
        match ring {
            Some(ring) => working.idle.push(ring),
            None => working.made -= 1,
        }
        self.given_back.notify_one();
    }

    /// Runs the operations, of which each names its index in `user_data`; their results.
    ///
    /// # Safety
    /// What the entries point to must be valid until this function returns.
    unsafe fn run(&self, entries: &[squeue::Entry]) -> Vec<io::Result<usize>> {
        let mut results: Vec<_> = entries.iter().map(|_| Ok(0)).collect();
        let mut ring = match self.take_ring() {
            Ok(ring) => ring,
            Err(error) => {
                results.fill_with(|| Err(again(&error)));
                return results;
            }
        };
        let mut failed = None;
        for batch in entries.chunks(WORKING_ENTRIES as usize) {
            if failed.is_none() {
                // SAFETY: our caller's promise.
                failed = unsafe { run_batch(&mut ring, batch, &mut results) }.err();
            }
        }
        match failed {
            None => self.give_ring_back(Some(ring)),
            Some(error) => {
                // What was not submitted must never be: the ring goes, and its queue with it.
                drop(ring);
                self.give_ring_back(None);
                results.fill_with(|| Err(again(&error)));
            }
        }
        results
    }
}

fn working_ring() -> io::Result<IoUring> {
    IoUring::builder().dontfork().build(WORKING_ENTRIES)
}

fn to_result(code: i32) -> io::Result<usize> {
    usize::try_from(code).map_err(|_| io::Error::from_raw_os_error(-code))
}

/// Whether the kernel asks to be asked again.
fn is_transient(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let code = error.raw_os_error();
    [Errno::INTR, Errno::AGAIN, Errno::BUSY]
        .iter()
        .any(|errno| code == Some(errno.raw_os_error()))
}

/// Submits a batch that fits the ring and waits for all of it. An error means that some were not
/// submitted; those that were have ended.
///
/// # Safety
/// What the entries point to must be valid until this function returns, and the ring must be dropped
/// after an error.
unsafe fn run_batch(
    ring: &mut IoUring,
    batch: &[squeue::Entry],
    results: &mut [io::Result<usize>],
) -> io::Result<()> {
    /// Refusals in a row, with a pause after each, before the kernel is taken at its word.
    const PATIENCE: usize = 1000;
    for entry in batch {
        // SAFETY: our caller's promise, and we do not return before the operation has ended.
        unsafe { ring.submission().push(entry) }.expect("a batch fits an empty ring");
    }
    let (mut submitted, mut ended, mut refusals) = (0, 0, 0);
    let mut failed = None;
    // After a failure only for what the kernel has: it still uses the memory.
    while ended
        < if failed.is_some() {
            submitted
        } else {
            batch.len()
        }
    {
        match ring.submit_and_wait(batch.len() - ended) {
            Ok(count) => {
                submitted += count;
                refusals = 0;
            }
            Err(error) if is_transient(&error) && refusals < PATIENCE => {
                if error.kind() != io::ErrorKind::Interrupted {
                    refusals += 1;
                    thread::sleep(Duration::from_millis(1));
                }
            }
            Err(error) => {
                failed.get_or_insert(error);
                thread::sleep(Duration::from_millis(1));
            }
        }
        for completion in ring.completion() {
            results[completion.user_data() as usize] = to_result(completion.result());
            ended += 1;
        }
    }
    failed.map_or(Ok(()), Err)
}

impl Io for Uring {
    fn name(&self) -> &'static str {
        "io_uring"
    }

    /// By `pread`: for a read that its thread waits for, one at a time, a ring costs half as much again,
    /// because the completion is one more event to handle.
    fn read(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        read_all(&self.file, offset, into)
    }

    fn write(&self, runs: &mut [Run<'_>]) -> Vec<io::Result<()>> {
        let entries: Vec<_> = runs
            .iter()
            .enumerate()
            .map(|(index, run)| {
                // `IoSlice` is an `iovec` by its documentation.
                let parts = run.parts.as_ptr().cast::<libc::iovec>();
                opcode::Writev::new(self.fd(), parts, run.parts.len() as u32)
                    .offset(run.offset)
                    .build()
                    .user_data(index as u64)
            })
            .collect();
        // SAFETY: the runs, and what their parts borrow, outlive the call.
        let results = unsafe { self.run(&entries) };
        results
            .into_iter()
            .zip(runs)
            .map(|(result, run)| match result {
                Ok(written) if written == run.len() => Ok(()),
                Ok(written) => {
                    let mut left = &mut run.parts[..];
                    std::io::IoSlice::advance_slices(&mut left, written);
                    write_all(&self.file, run.offset + written as u64, left)
                }
                Err(error) if is_transient(&error) => {
                    write_all(&self.file, run.offset, &mut run.parts)
                }
                Err(error) => Err(error),
            })
            .collect()
    }

    fn room(&self) -> usize {
        match self.flights.operations.load(Ordering::Acquire) {
            FLIGHT_ENTRIES.. => 0,
            _ => FLIGHTS - self.in_flight(),
        }
    }

    fn in_flight(&self) -> usize {
        self.flights.count.load(Ordering::Acquire)
    }

    fn start<'p>(&self, reads: Vec<(u64, Owned<'p>)>) -> Vec<Owned<'p>> {
        self.flights.start(self.fd(), reads)
    }

    fn reap(&self, more: &dyn Fn() -> bool, arrived: &mut dyn FnMut(Arrived, io::Result<usize>)) {
        self.flights.reap(more, arrived);
    }
}

/// The flight ring.
struct Flights {
    ring: IoUring,
    submitting: Mutex<()>,
    reaping: Mutex<()>,
    /// Flights. Raised under `submitting`, lowered under `reaping`.
    count: AtomicUsize,
    /// Operations that carry them; the same.
    operations: AtomicUsize,
}

impl Flights {
    fn new() -> io::Result<Self> {
        Ok(Flights {
            ring: IoUring::builder().dontfork().build(FLIGHT_ENTRIES as u32)?,
            submitting: Mutex::new(()),
            reaping: Mutex::new(()),
            count: AtomicUsize::new(0),
            operations: AtomicUsize::new(0),
        })
    }

    fn start<'p>(&self, fd: types::Fd, mut reads: Vec<(u64, Owned<'p>)>) -> Vec<Owned<'p>> {
        let _submitting = self.submitting.lock();
        let room = FLIGHTS - self.count.load(Ordering::Acquire);
        let back = reads.split_off(reads.len().min(room));
        let places = FLIGHT_ENTRIES - self.operations.load(Ordering::Acquire);
        let started = reads.len();
        let (formations, stay) = formations(reads, places);
        self.count.fetch_add(started - stay.len(), Ordering::AcqRel);
        self.operations
            .fetch_add(formations.len(), Ordering::AcqRel);
        // SAFETY: the only submission queue there is: it is made under the lock alone.
        let mut queue = unsafe { self.ring.submission_shared() };
        for formation in formations {
            let entry = Airborne::take_off(fd, formation);
            // SAFETY: the frames are the flights' until they arrive (invariant 1), and the mapping
            // outlives us: a pool drops its I/O, which waits, before its frames. The list of them
            // stays where it is until the completion.
            unsafe { queue.push(&entry) }.expect("the queue has a place for each operation");
        }
        drop(queue); // shows the kernel what was pushed
        // What the kernel does not take now, it takes when somebody waits for it.
        while let Err(error) = self.ring.submit()
            && error.kind() == io::ErrorKind::Interrupted
        {}
        let back = back.into_iter().map(|(_, frame)| frame);
        back.chain(stay).collect()
    }

    fn reap(&self, more: &dyn Fn() -> bool, arrived: &mut dyn FnMut(Arrived, io::Result<usize>)) {
        if self.count.load(Ordering::Acquire) == 0 {
            return;
        }
        if !more() {
            // Only what has ended; somebody who is reaping already does that for us.
            if let Some(reaping) = self.reaping.try_lock() {
                self.drain(&reaping, arrived);
            }
            return;
        }
        loop {
            let reaping = self.reaping.lock();
            self.drain(&reaping, arrived);
            if self.count.load(Ordering::Acquire) == 0 || !more() {
                return;
            }
            match self.ring.submit_and_wait(1) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The kernel is short of something. What is in flight ends all the same.
                Err(_) => thread::sleep(Duration::from_millis(1)),
            }
            self.drain(&reaping, arrived);
            // Whoever waits for a page that has just arrived goes next, and finds it there.
            MutexGuard::unlock_fair(reaping);
        }
    }

    /// Hands on what has ended (invariant 2).
    fn drain(
        &self,
        _reaping: &MutexGuard<'_, ()>,
        arrived: &mut dyn FnMut(Arrived, io::Result<usize>),
    ) {
        // SAFETY: the only completion queue there is: it is made under the lock alone.
        let queue = unsafe { self.ring.completion_shared() };
        for completion in queue {
            // SAFETY: the number comes from `take_off`, and an operation completes once.
            let airborne = unsafe { Airborne::landed(completion.user_data()) };
            let landed = airborne.formation.flights.len();
            airborne
                .formation
                .land(to_result(completion.result()), arrived);
            self.count.fetch_sub(landed, Ordering::AcqRel);
            self.operations.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

/// What the kernel works on; the operation's `user_data` is its address.
struct Airborne {
    formation: Formation,
    /// Where the kernel reads to; it may look at this list for as long as it works.
    parts: Vec<libc::iovec>,
}

impl Airborne {
    /// The operation that fills the formation.
    fn take_off(fd: types::Fd, mut formation: Formation) -> squeue::Entry {
        let offset = formation.offset;
        let mut parts: Vec<libc::iovec> = Vec::new();
        for flight in &mut formation.flights {
            let memory = flight.memory();
            let (start, len) = (memory.cast::<u8>().as_ptr(), memory.len());
            match parts.last_mut() {
                // Frames that lie side by side are one piece of memory, which costs the kernel less.
                Some(last) if last.iov_base.addr() + last.iov_len == start.addr() => {
                    last.iov_len += len;
                }
                _ => parts.push(libc::iovec {
                    iov_base: start.cast(),
                    iov_len: len,
                }),
            }
        }
        let airborne = Box::new(Airborne { formation, parts });
        let entry = match &airborne.parts[..] {
            [one] => opcode::Read::new(fd, one.iov_base.cast(), one.iov_len as u32)
                .offset(offset)
                .build(),
            parts => opcode::Readv::new(fd, parts.as_ptr(), parts.len() as u32)
                .offset(offset)
                .build(),
        };
        entry.user_data(Box::into_raw(airborne) as u64)
    }

    /// # Safety
    /// `user_data` is that of an operation made by `take_off`, which has completed, and this is
    /// called once for it.
    unsafe fn landed(user_data: u64) -> Box<Airborne> {
        // SAFETY: our caller's promise.
        unsafe { Box::from_raw(user_data as *mut Airborne) }
    }
}

impl Drop for Flights {
    fn drop(&mut self) {
        // The kernel writes into the frames until then.
        self.reap(&|| true, &mut |_, _| {});
    }
}
