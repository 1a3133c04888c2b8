//! The log while it is open: appending, and making durable in groups.
//!
//! A *group* is what was appended since the last group was taken. Whoever has to wait and finds no
//! leader becomes the *leader*: it takes the group, writes and syncs it, and wakes those who waited
//! for it, and one who waits for the next group, to lead that. What is appended meanwhile is the next
//! group, in the other buffer. Before it takes the group, a leader may wait a moment for company
//! (`gather.rs`).
//!
//! Where many commit and the device is fast, who waits *watches* at first: it gives way to other
//! threads and looks at `durable`, again and again, for a moment (`gather.rs` says when, and why).
//! Then it is parked: it stands in `waiters`, under `state`, before it parks, and whoever takes it
//! out unparks it. What woke it may be anything, so it looks again; most find what they wait for
//! durable without taking the lock.
//!
//! Invariants:
//! 1. At most one thread leads. `leading` is set and reset under `state`, and `writer` is locked
//!    only in between.
//! 2. Frames lie in the log in the order in which their commits were appended, and a commit's
//!    frames follow each other: `appender` is held for all of an append.
//! 3. `durable` only grows, and only after the sync of everything below it returned `Ok`.
//! 4. Once `failed` is set nothing is written any more. Nothing is written on drop either.
//! 5. Whoever watches is counted in `watching`, with its group, until the group has ended or it has
//!    the lock again, which it takes when it next runs after [`gather::WATCH`]. So where somebody watches
//!    for the next group, nobody needs to be woken to lead it.
//!
//! Locking: `appender`, then `state`, which is never held during I/O; the leader takes `writer`
//! with neither... unless it appends, and has to make room: then it holds `appender`, and whoever
//! appends after it waits.

use std::sync::Arc;
use std::time::Instant;

use bifolio_pager::Version;
use bifolio_pager::defect::{Defect, planted};
use bifolio_pager::sync::atomic::{AtomicU64, Ordering};
use bifolio_pager::sync::thread::{self, Thread};
use bifolio_pager::sync::{Condvar, Mutex, MutexGuard};

use super::buffer::AlignedBuf;
use super::error::{Error, Result};
use super::files::Files;
use super::gather::{self, Gathering};
use super::mark::LogMark;
use super::options::{LogCounters, SyncMethod};
use super::position::{Layout, Position};
use super::queue::{Progress, Queue};
use super::record_writer::RecordWriter;
use super::writer::Writer;

/// The redo log of an open database. Shared by all its threads.
pub struct Log {
    layout: Layout,
    salt: u64,
    /// Where this log's own frames begin: what is before was written under another salt.
    first: Position,
    files: Arc<Files>,
    appender: Mutex<Appender>,
    state: Mutex<State>,
    writer: Mutex<Writer>,
    method: SyncMethod,
    /// A copy of [`State::durable`] that can be read without the lock.
    durable: AtomicU64,
    /// A copy of [`State::group_end`], likewise.
    taken: AtomicU64,
    /// Those who append and wait for room.
    room: Condvar,
}

/// Who appends.
#[derive(Debug)]
struct Appender {
    /// The last commit that was appended.
    last: Version,
    /// A commit of which a part was appended.
    open: Option<Progress>,
    commits: u64,
    record_bytes: u64,
}

struct State {
    queue: Queue,
    /// The buffer that is not being filled; `None` while its group is written.
    idle: Option<AlignedBuf>,
    durable: Position,
    leading: bool,
    /// The number of the last group that was taken, and where it ends.
    group: u64,
    group_end: Position,
    /// Who is parked until the group with an even, and with an odd number is written.
    waiters: [Vec<Thread>; 2],
    /// How many watch for it instead.
    watching: [usize; 2],
    gathering: Gathering,
    failed: Option<Arc<str>>,
    largest_group: u64,
    bytes_written: u64,
    full_buffers: u64,
}

/// What a log is made of when creation or recovery has found out everything.
pub(super) struct Parts {
    pub layout: Layout,
    pub salt: u64,
    pub alignment: usize,
    pub buffer_bytes: usize,
    pub start: Position,
    pub last: Version,
    pub files: Arc<Files>,
    pub writer: Writer,
}

impl Log {
    /// A log that goes on at `start`, the beginning of a spare segment, which it begins: when this
    /// returns, the segment's header is durable.
    pub(super) fn begin(parts: Parts) -> Result<Log> {
        let Parts {
            layout,
            salt,
            alignment,
            buffer_bytes,
            start,
            last,
            files,
            writer,
        } = parts;
        let buffer = AlignedBuf::new(buffer_bytes);
        let state = State {
            queue: Queue::new(layout, alignment, start, buffer),
            idle: Some(AlignedBuf::new(buffer_bytes)),
            durable: start,
            leading: false,
            group: 0,
            group_end: start,
            waiters: [Vec::new(), Vec::new()],
            watching: [0; 2],
            gathering: Gathering::default(),
            failed: None,
            largest_group: 0,
            bytes_written: 0,
            full_buffers: 0,
        };
        let log = Log {
            layout,
            salt,
            first: start,
            files,
            appender: Mutex::new(Appender {
                last,
                open: None,
                commits: 0,
                record_bytes: 0,
            }),
            state: Mutex::new(state),
            method: writer.method(),
            writer: Mutex::new(writer),
            durable: AtomicU64::new(start.get()),
            taken: AtomicU64::new(start.get()),
            room: Condvar::new(),
        };
        let mut state = log.state.lock();
        state.queue.push_header();
        let end = state.queue.end();
        drop(state);
        log.wait_durable(end)?;
        Ok(log)
    }

    /// Appends a commit, after all that were appended before it, and leaves `records` empty. What
    /// it appends is in memory; [`wait_durable`](Self::wait_durable) on the position returned makes
    /// it durable, and everything before it.
    ///
    /// Copies the records under a short lock. When the buffer is full it waits for a write to end,
    /// or writes itself.
    ///
    /// # Errors
    /// [`Error::Poisoned`].
    ///
    /// # Panics
    /// If `version` is not above the last commit's.
    pub fn append(&self, version: Version, records: &mut RecordWriter) -> Result<Position> {
        let mut appender = self.appender.lock();
        assert!(
            version > appender.last,
            "{version:?} after {:?}",
            appender.last
        );
        let end = self.append_frames(&mut appender, version, records.bytes(), true)?;
        appender.last = version;
        appender.open = None;
        appender.commits += 1;
        records.clear();
        Ok(end)
    }

    /// Appends the records so far of a commit that is still being made, so that they need not be
    /// kept in memory. They count for nothing until [`append`](Self::append) completes the commit;
    /// a commit of another version, or [`abandon`](Self::abandon), drops them.
    ///
    /// # Errors
    /// [`Error::Poisoned`].
    ///
    /// # Panics
    /// If `version` is not above the last commit's.
    pub fn append_piece(&self, version: Version, records: &mut RecordWriter) -> Result<()> {
        let mut appender = self.appender.lock();
        assert!(
            version > appender.last,
            "{version:?} after {:?}",
            appender.last
        );
        if !records.is_empty() {
            self.append_frames(&mut appender, version, records.bytes(), false)?;
            records.forget_bytes();
        }
        Ok(())
    }

    /// Drops the pieces of a commit that will not be completed, if there are any. Writes nothing.
    pub fn abandon(&self) {
        self.appender.lock().open = None;
    }

    fn append_frames(
        &self,
        appender: &mut Appender,
        version: Version,
        bytes: &[u8],
        complete: bool,
    ) -> Result<Position> {
        let mut progress = match appender.open.take() {
            Some(open) if open.version == version => open,
            _ => Progress { version, pieces: 0 },
        };
        let mut rest = bytes;
        loop {
            let mut state = self.room_for(rest.len())?;
            let pieces = progress.pieces;
            let taken = state.queue.push(&mut progress, rest, complete);
            rest = &rest[taken..];
            if rest.is_empty() && progress.pieces > pieces {
                appender.open = Some(progress);
                appender.record_bytes += bytes.len() as u64;
                return Ok(state.queue.end());
            }
        }
    }

    /// The state, with room for a frame of the next `rest_len` bytes.
    fn room_for(&self, rest_len: usize) -> Result<MutexGuard<'_, State>> {
        let mut state = self.state.lock();
        loop {
            state.check()?;
            if state.queue.has_room(rest_len) {
                return Ok(state);
            }
            state.full_buffers += 1;
            if state.leading {
                state.gathering.cut_short();
                self.room.wait(&mut state);
            } else {
                self.lead(&mut state);
            }
        }
    }

    /// Returns when everything below `position` survives a power cut. The first to wait writes all
    /// that is queued, with one sync, for everybody.
    ///
    /// # Errors
    /// [`Error::Poisoned`]: whether it survives is unknown until the database is reopened.
    ///
    /// # Panics
    /// If nothing was appended up to `position` yet.
    pub fn wait_durable(&self, position: Position) -> Result<()> {
        if self.durable_position() >= position || planted(Defect::AckBeforeWrite) {
            return Ok(());
        }
        let mut state = self.state.lock();
        assert!(
            position <= state.queue.end(),
            "{position:?} was not appended"
        );
        let mut has_watched = false;
        loop {
            if state.durable >= position {
                return Ok(());
            }
            state.check()?;
            if !state.leading {
                self.gather(&mut state);
                self.lead(&mut state);
                continue;
            }
            let group = state.group + u64::from(position > state.group_end);
            let parity = (group % 2) as usize;
            let watches = !has_watched && state.gathering.may_watch(state.all_watching());
            if watches {
                has_watched = true;
                state.watching[parity] += 1;
                self.watch(state);
            } else {
                state.add_waiter(parity, thread::current());
                drop(state);
                thread::park();
            }
            if self.durable_position() >= position {
                return Ok(());
            }
            state = self.state.lock();
            if watches && state.durable < position && state.failed.is_none() {
                state.watching[parity] -= 1;
            }
        }
    }

    /// Returns when more is durable than before, or a moment has passed.
    fn watch(&self, state: MutexGuard<'_, State>) {
        let before = state.durable;
        drop(state);
        gather::give_way_until(gather::WATCH, || self.durable_position() != before);
    }

    /// Makes everything durable that was appended before the call.
    ///
    /// # Errors
    /// [`Error::Poisoned`].
    #[cfg(test)]
    pub fn sync(&self) -> Result<()> {
        self.wait_durable(self.end())
    }

    /// Waits a moment for others to commit, if they were many just now: those whom the last group has
    /// woken would otherwise miss this one. Nobody leads when this is called, nor when it returns.
    fn gather(&self, state: &mut MutexGuard<'_, State>) {
        let before = state.company();
        let Some(patience) = state.gathering.begin(before) else {
            return;
        };
        state.leading = true;
        MutexGuard::unlocked(state, || {
            gather::give_way_until(patience, || {
                let state = self.state.lock();
                !state.gathering.goes_on(state.company()) || state.failed.is_some()
            });
        });
        state.leading = false;
        let came = state.company() > before;
        state.gathering.end(came);
    }

    /// Writes and syncs what is queued. Nobody leads when this is called, and nobody when it
    /// returns; in between the lock is released. Does nothing after a failure.
    fn lead(&self, state: &mut MutexGuard<'_, State>) {
        if state.failed.is_some() {
            return;
        }
        state.queue.close();
        let idle = state
            .idle
            .take()
            .expect("nobody leads, so no group is being written");
        let (start, mut group, commits) = state.queue.replace(idle);
        let end = state.queue.end();
        state.leading = true;
        state.group += 1;
        state.group_end = end;
        self.taken.store(end.get(), Ordering::Release);
        self.room.notify_all();

        let begin = Instant::now();
        let result = MutexGuard::unlocked(state, || {
            let unfinished = Unfinished(self);
            let result = self.writer.lock().write_group(&mut group, start);
            std::mem::forget(unfinished);
            result
        });

        state.leading = false;
        let parked: usize = state.waiters.iter().map(Vec::len).sum();
        let lately = 1 + parked + state.all_watching();
        state.gathering.group_done(begin.elapsed(), lately);
        match result {
            Err(error) if !planted(Defect::IgnoreLogError) => self.fail(state, &error.to_string()),
            _ if state.failed.is_some() => {}
            _ => {
                state.durable = end;
                state.bytes_written += group.len() as u64;
                state.largest_group = state.largest_group.max(commits);
                self.durable.store(end.get(), Ordering::Release);
            }
        }
        group.clear();
        state.idle = Some(group);
        self.room.notify_all();
        let this = (state.group % 2) as usize;
        state.watching[this] = 0;
        let next_leader = match state.watching[1 - this] {
            0 => state.waiters[1 - this].pop(),
            _ => None, // invariant 5
        };
        let done = std::mem::take(&mut state.waiters[this]);
        MutexGuard::unlocked(state, || {
            next_leader.iter().chain(&done).for_each(Thread::unpark);
        });
    }

    /// Sets the first failure, for good, and wakes everybody.
    fn fail(&self, state: &mut State, first: &str) {
        state.failed.get_or_insert_with(|| first.into());
        let waiters = state
            .waiters
            .iter_mut()
            .flat_map(|waiting| waiting.drain(..));
        waiters.for_each(|waiter| waiter.unpark());
        self.room.notify_all();
    }

    /// Where the next commit will lie.
    pub fn end(&self) -> Position {
        self.state.lock().queue.end()
    }

    /// Everything below survives a power cut.
    pub fn durable_position(&self) -> Position {
        Position::new(self.durable.load(Ordering::Acquire))
    }

    /// Where the last group that was taken ends, be it written or not. What was appended and lies above
    /// goes into one group, with all that is appended before that is taken: so it becomes durable at
    /// once, or not at all.
    pub fn taken_position(&self) -> Position {
        Position::new(self.taken.load(Ordering::Acquire))
    }

    /// What the meta stores so that recovery replays what was appended after `position`, which an
    /// [`append`](Self::append) or [`end`](Self::end) of this log returned.
    ///
    /// # Panics
    /// If the log is not durable up to `position`: a meta must not be written before it is.
    pub fn mark(&self, position: Position) -> LogMark {
        let durable = self.durable_position();
        assert!(
            position <= durable,
            "the log is durable up to {durable:?}, not to {position:?}"
        );
        assert!(
            position >= self.first,
            "{position:?} is older than this opening of the log"
        );
        LogMark {
            salt: self.salt,
            position,
            durable,
            segment_bytes: self.layout.segment_bytes(),
        }
    }

    /// The same mark as of now, for a meta that is written without a checkpoint: it says how far
    /// the log is durable *now*, so that a shorter one is found out.
    pub fn refresh(&self, mark: LogMark) -> LogMark {
        LogMark {
            durable: self.durable_position().max(mark.durable),
            ..mark
        }
    }

    /// Uses the segments that lie wholly below `up_to` again, or removes them: no meta that may
    /// still be read begins to replay in them. Slow (it syncs the directory); others go on meanwhile.
    ///
    /// # Errors
    /// The first operation that failed. The log is poisoned then.
    pub fn recycle(&self, up_to: Position) -> Result<()> {
        assert!(
            up_to <= self.durable_position(),
            "{up_to:?} is not durable yet"
        );
        self.maintain(|files| files.recycle(self.layout.segment(up_to)))
    }

    /// Makes spare segments until `count` are ready, so that no commit has to. Slow; others go on
    /// meanwhile. Where the disk is full it makes none, and nothing is lost: the commit that needs the
    /// segment tries again, and fails if it must.
    ///
    /// # Errors
    /// The first operation that failed. The log is poisoned then.
    pub fn prepare(&self, count: usize) -> Result<()> {
        self.maintain(|files| files.prepare(count))
    }

    fn maintain(&self, work: impl FnOnce(&Files) -> Result<()>) -> Result<()> {
        self.state.lock().check()?;
        work(&self.files).inspect_err(|error| {
            self.fail(&mut self.state.lock(), &error.to_string());
        })
    }

    /// Whether [`prepare`](Self::prepare) would help: a segment was begun, and no spare is left.
    pub fn wants_spare(&self) -> bool {
        self.files.wants_spare()
    }

    /// How commits are made durable: what was asked for, or what the probe chose.
    pub fn sync_method(&self) -> SyncMethod {
        self.method
    }

    /// The first failure, if there was one: the log is poisoned then.
    #[cfg(test)]
    pub fn failure(&self) -> Option<Arc<str>> {
        self.state.lock().failed.clone()
    }

    /// What happened since the log was opened.
    pub fn counters(&self) -> LogCounters {
        let (commits, record_bytes) = {
            let appender = self.appender.lock();
            (appender.commits, appender.record_bytes)
        };
        let state = self.state.lock();
        LogCounters {
            commits,
            record_bytes,
            bytes_written: state.bytes_written,
            groups: state.group,
            largest_group: state.largest_group,
            full_buffers: state.full_buffers,
            segments_created: self.files.created.load(Ordering::Relaxed),
            segments_recycled: self.files.recycled.load(Ordering::Relaxed),
            segments_removed: self.files.removed.load(Ordering::Relaxed),
        }
    }
}

impl State {
    /// `waiter` waits for the group of this parity, which is being written or comes next.
    fn add_waiter(&mut self, parity: usize, waiter: Thread) {
        let waiters = &mut self.waiters[parity];
        // Something else may have woken it while it stood here.
        if waiters.iter().all(|other| other.id() != waiter.id()) {
            waiters.push(waiter);
        }
    }

    /// Threads that the next group would serve: its leader, and who waits for it.
    fn company(&self) -> usize {
        let next = ((self.group + 1) % 2) as usize;
        1 + self.waiters[next].len() + self.watching[next]
    }

    fn all_watching(&self) -> usize {
        self.watching.iter().sum()
    }

    fn check(&self) -> Result<()> {
        match &self.failed {
            None => Ok(()),
            Some(first) => Err(Error::Poisoned {
                first: Arc::clone(first),
            }),
        }
    }
}

/// Poisons the log if the leader panics, so that nobody waits for it.
struct Unfinished<'l>(&'l Log);

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.leading = false;
        self.0
            .fail(&mut state, "a thread panicked while it wrote the log");
    }
}
