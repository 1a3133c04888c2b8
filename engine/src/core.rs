//! The core of an open database: its versions, its one writer, and what happens after a failure.
//!
//! A *version* is one committed state: the root of the catalogue, and, where a checkpoint made it,
//! the root of the allocation map. Readers hold a version and need no lock, because nothing that it
//! reaches is ever modified.
//!
//! Invariants:
//! 1. `current` is the newest applied version, `durable` the newest one that survives a power cut,
//!    `checkpointed` the one that the newest meta refers to. Their numbers never rise in this order.
//! 2. A version lives as long as somebody holds its `Arc`: a reader, one of the three above, the list
//!    of applied versions that may be `durable` next, a running checkpoint. Every version that lives,
//!    other than `current`, stands in [`Writer::older`], so the writer knows what must not be reused.
//!    Of versions that one sync makes durable together only the last is in that list: small
//!    transactions that nobody waits for use the same few pages again and again.
//! 3. There is one [`Writer`]. Whoever has taken it out of its place is the write transaction, or
//!    the moment in which a checkpoint chooses its version.
//! 4. After a failed write nothing is written any more: `failed` holds the first failure, and new
//!    readers get the last durable version.
//! 5. Nothing after a barrier in the log is called durable before the barrier's version is
//!    checkpointed (DESIGN: replay onto an older base stops there). That holds for each of several.
//!
//! Locking: `metas` (checkpoint.rs; held for all of a checkpoint), then the writer's place, then
//! `versions`.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use bifolio_btree::Root;
use bifolio_pager::defect::{Defect, planted};
use bifolio_pager::sync::atomic::{AtomicU64, Ordering};
use bifolio_pager::sync::{Condvar, Mutex, RwLock, thread};
use bifolio_pager::{Geometry, MemPager, MetaSlot, PageRef, Pager, Version};
use bifolio_pager_bufpool::BufPool;
use bifolio_pager_mmap::{ForkMark, MmapPager};
use rustc_hash::FxHashSet;

use crate::checkpoint::{Bell, Metas};
use crate::error::{Error, Result};
use crate::log::{Log, Position, RecordWriter};
use crate::meta::Meta;
use crate::options::LogPlace;
use crate::overlay::Overlay;
use crate::pace::{Background, Tally};
use crate::space::{MapRoot, Space};
use crate::syncer::Syncer;

/// The pager that runs.
pub(crate) enum AnyPager {
    Mmap(MmapPager),
    Pool(BufPool),
    Memory(MemPager),
    /// Opened for reading, with the log replayed in memory.
    OverMmap(Overlay<MmapPager>),
    /// The same over the pool.
    OverPool(Overlay<BufPool>),
    /// A modelled disk that fails and loses power when a test says so.
    #[cfg(any(test, feature = "testkit"))]
    Modelled(bifolio_pager::Faulty<MemPager>),
    #[cfg(test)]
    OverModelled(Overlay<bifolio_pager::Faulty<MemPager>>),
}

/// Runs one expression on the pager that the database has, compiled for each.
macro_rules! with_pager {
    ($any:expr, $pager:ident => $body:expr) => {
        match $any {
            $crate::core::AnyPager::Mmap($pager) => $body,
            $crate::core::AnyPager::Pool($pager) => $body,
            $crate::core::AnyPager::Memory($pager) => $body,
            $crate::core::AnyPager::OverMmap($pager) => $body,
            $crate::core::AnyPager::OverPool($pager) => $body,
            #[cfg(any(test, feature = "testkit"))]
            $crate::core::AnyPager::Modelled($pager) => $body,
            #[cfg(test)]
            $crate::core::AnyPager::OverModelled($pager) => $body,
        }
    };
}
pub(crate) use with_pager;

impl AnyPager {
    /// The memory that replaying a log was to stay in, if it did not.
    pub fn exceeded(&self) -> Option<u64> {
        match self {
            AnyPager::OverMmap(pager) => pager.exceeded(),
            AnyPager::OverPool(pager) => pager.exceeded(),
            #[cfg(test)]
            AnyPager::OverModelled(pager) => pager.exceeded(),
            _ => None,
        }
    }
}

/// One committed state of the database.
pub(crate) struct Committed {
    pub version: Version,
    pub catalogue: Root,
    /// The allocation map that goes with it: of versions that a checkpoint made.
    pub map: Option<MapRoot>,
}

impl Committed {
    /// The allocation map of a version that a checkpoint made.
    pub fn map(&self) -> MapRoot {
        self.map.expect("a checkpoint stores the map")
    }
}

/// How commits become durable.
pub(crate) enum Keeping {
    /// Not at all: a database in memory.
    Nothing,
    /// By a checkpoint each. Only tests of the checkpoint itself do without a log.
    #[cfg_attr(not(test), expect(dead_code, reason = "tests build it"))]
    Checkpoints,
    /// By the redo log that lies here.
    Log(LogPlace),
}

/// What only the write transaction touches.
pub(crate) struct Writer {
    /// The next transaction's version: never used before, in this process or any other.
    pub next_version: Version,
    pub space: Space,
    /// Versions before the current one that somebody held when it was last looked at.
    pub older: Vec<Arc<Committed>>,
    /// Sealed pages that the current version reaches and the last checkpoint chosen does not.
    pub pending: FxHashSet<PageRef>,
    /// Encodes the running transaction for the log; kept for its buffer.
    pub records: RecordWriter,
}

pub(crate) struct Core {
    pub path: PathBuf,
    pub pager: AnyPager,
    pub read_only: bool,
    /// Which process may use all this (fork.rs of the mmap pager).
    process: ForkMark,
    pub keeping: Keeping,
    /// Made by the first write transaction, or by recovery.
    pub log: OnceLock<Log>,
    pub metas: Mutex<Metas>,
    pub bell: Bell,
    pub syncer: Syncer,
    pub tally: Tally,
    /// What runs in the background, if anything does.
    pub background: Option<Background>,
    pub page_bytes: u64,
    /// A copy of the newest meta's floor: no version from here on may be used.
    pub floor: AtomicU64,
    /// Where in the log recovery would begin.
    pub log_start: AtomicU64,
    versions: RwLock<Versions>,
    writer: Mutex<Option<Box<Writer>>>,
    writer_is_back: Condvar,
    /// The thread that has the writer, by its [`thread_number`]; 0 if none has.
    holder: AtomicU64,
    failed: OnceLock<Arc<str>>,
}

struct Versions {
    current: Arc<Committed>,
    durable: Arc<Committed>,
    checkpointed: Arc<Committed>,
    /// Applied and not known to be durable, oldest first, each with where its log record ends. Those
    /// that cannot become `durable` are left out ([`Versions::note_applied`]).
    applied: VecDeque<(Position, Arc<Committed>)>,
    /// Barriers in the log that are not checkpointed yet, oldest first.
    barriers: VecDeque<Version>,
}

impl Core {
    /// The core of a database whose newest meta is `meta`. Reads nothing.
    pub fn new(
        path: PathBuf,
        pager: AnyPager,
        keeping: Keeping,
        read_only: bool,
        (meta, slot): (Meta, MetaSlot),
        background: Option<Background>,
    ) -> Result<Self> {
        let newest = Arc::new(Committed {
            version: meta.version,
            catalogue: meta.catalogue,
            map: Some(meta.map),
        });
        let writer = Writer {
            next_version: meta.floor,
            space: Space::open(meta.geometry(), meta.map)?,
            older: Vec::new(),
            pending: FxHashSet::default(),
            records: RecordWriter::new(),
        };
        Ok(Core {
            path,
            pager,
            read_only,
            process: ForkMark::new(),
            keeping,
            log: OnceLock::new(),
            metas: Mutex::new(Metas { meta, slot }),
            bell: Bell::default(),
            syncer: Syncer::default(),
            tally: Tally::default(),
            background,
            page_bytes: meta.page_size.bytes() as u64,
            floor: AtomicU64::new(meta.floor.get()),
            log_start: AtomicU64::new(0),
            versions: RwLock::new(Versions {
                current: Arc::clone(&newest),
                durable: Arc::clone(&newest),
                checkpointed: newest,
                applied: VecDeque::new(),
                barriers: VecDeque::new(),
            }),
            writer: Mutex::new(Some(Box::new(writer))),
            writer_is_back: Condvar::new(),
            holder: AtomicU64::new(0),
            failed: OnceLock::new(),
        })
    }

    pub fn geometry(&self) -> Geometry {
        with_pager!(&self.pager, pager => pager.geometry())
    }

    /// Whether this is a child that was forked from the process that opened the database. Costs a
    /// load.
    pub fn is_in_child(&self) -> bool {
        !self.process.is_ours()
    }

    /// In a forked child nothing may be done with the database: the file is the parent's, and its
    /// threads, which locks and reads may be waiting for, are not here.
    pub fn refuse_in_child(&self) -> Result<()> {
        if self.is_in_child() {
            let path = self.path.clone();
            return Err(Error::Forked { path });
        }
        Ok(())
    }

    /// The pager, for an operation of a caller's.
    pub fn pager(&self) -> Result<&AnyPager> {
        self.refuse_in_child()?;
        Ok(&self.pager)
    }

    /// What new readers get.
    pub fn current(&self) -> Arc<Committed> {
        if self.failed.get().is_some() {
            return self.durable();
        }
        self.newest()
    }

    /// The newest applied version, on which the next one is built. Whoever has the writer asks for
    /// this and not for [`Core::current`], which goes back when something fails meanwhile.
    pub fn newest(&self) -> Arc<Committed> {
        Arc::clone(&self.versions.read().current)
    }

    /// The newest version that survives a power cut.
    pub fn durable(&self) -> Arc<Committed> {
        self.note_durable();
        Arc::clone(&self.versions.read().durable)
    }

    /// The version that the newest meta refers to.
    pub fn checkpointed(&self) -> Arc<Committed> {
        Arc::clone(&self.versions.read().checkpointed)
    }

    /// Makes `committed` what readers get from now on, and keeps the one before for those that
    /// still read it. `logged` is where its log record ends.
    pub fn publish(
        &self,
        writer: &mut Writer,
        committed: Committed,
        logged: Option<Position>,
    ) -> Arc<Committed> {
        let committed = Arc::new(committed);
        let mut versions = self.versions.write();
        let before = std::mem::replace(&mut versions.current, Arc::clone(&committed));
        if let (Some(end), Some(log)) = (logged, self.log.get()) {
            versions.note_applied(end, Arc::clone(&committed), log.taken_position());
        }
        if matches!(self.keeping, Keeping::Nothing) {
            versions.durable = Arc::clone(&committed);
            versions.checkpointed = Arc::clone(&committed);
        }
        writer.older.push(before);
        committed
    }

    /// The meta that refers to `chosen` is durable.
    pub fn note_checkpoint(&self, chosen: Arc<Committed>) {
        let mut versions = self.versions.write();
        let reached = |version: &Arc<Committed>| version.version <= chosen.version;
        while versions
            .applied
            .front()
            .is_some_and(|(_, version)| reached(version))
        {
            versions.applied.pop_front();
        }
        while versions
            .barriers
            .front()
            .is_some_and(|barrier| *barrier <= chosen.version)
        {
            versions.barriers.pop_front();
        }
        if versions.durable.version < chosen.version {
            versions.durable = Arc::clone(&chosen);
        }
        versions.checkpointed = chosen;
        drop(versions);
        self.note_durable();
    }

    /// Moves `durable` as far as the log is durable, and not past a barrier (invariant 5).
    pub fn note_durable(&self) {
        let Some(log) = self.log.get() else { return };
        let durable = log.durable_position();
        let nothing_new = |versions: &Versions| {
            versions
                .applied
                .front()
                .is_none_or(|(end, _)| *end > durable)
        };
        if nothing_new(&self.versions.read()) {
            return;
        }
        let mut versions = self.versions.write();
        while let Some((end, version)) = versions.applied.front()
            && *end <= durable
            && !versions.is_behind_barrier(version.version)
        {
            versions.durable = Arc::clone(version);
            versions.applied.pop_front();
        }
    }

    /// A barrier for `version` is about to enter the log.
    pub fn note_barrier(&self, version: Version) {
        if planted(Defect::ForgetBarrier) {
            return;
        }
        self.versions.write().barriers.push_back(version);
    }

    /// Returns when `version`, whose log record ends at `logged`, survives a power cut.
    pub fn wait_durable(&self, version: Version, logged: Option<Position>) -> Result<()> {
        match (logged, self.log.get()) {
            (Some(end), Some(log)) => {
                log.wait_durable(end)
                    .map_err(|error| self.poison(&error.into()))?;
                let behind = self.versions.read().is_behind_barrier(version);
                if behind {
                    self.checkpoint_through(version)?;
                }
                self.note_durable();
                Ok(())
            }
            _ => self.checkpoint_through(version),
        }
    }

    /// Takes the writer, waiting until it is there.
    ///
    /// # Errors
    /// [`Error::WouldDeadlock`] if this thread has it; [`Error::Poisoned`].
    pub fn take_writer(&self) -> Result<Box<Writer>> {
        /// Most transactions are short: to sleep and be woken takes longer.
        const YIELDS: u32 = 8;
        for _ in 0..YIELDS {
            if let Some(writer) = self.try_take_writer()? {
                return Ok(writer);
            }
            self.refuse_if_held_here()?;
            thread::yield_now();
        }
        let mut place = self.writer.lock();
        loop {
            self.refuse_if_failed()?;
            if let Some(writer) = place.take() {
                self.note_holder();
                return Ok(writer);
            }
            self.writer_is_back.wait(&mut place);
        }
    }

    /// Takes the writer if it is there.
    pub fn try_take_writer(&self) -> Result<Option<Box<Writer>>> {
        self.refuse_if_failed()?;
        let writer = self.writer.lock().take();
        if writer.is_some() {
            self.note_holder();
        }
        Ok(writer)
    }

    pub fn give_writer_back(&self, writer: Box<Writer>) {
        let mut place = self.writer.lock();
        self.holder.store(0, Ordering::Relaxed);
        let before = place.replace(writer);
        drop(place);
        assert!(before.is_none(), "there is one writer");
        self.writer_is_back.notify_one();
    }

    /// The writer is in this thread's hands: it was taken here, or its transaction moved here.
    pub fn note_holder(&self) {
        self.holder.store(thread_number(), Ordering::Relaxed);
    }

    /// Before waiting for the writer: who has it waits for ever.
    pub fn refuse_if_held_here(&self) -> Result<()> {
        // Only this thread stores its own number, so it is not mistaken about itself.
        if self.holder.load(Ordering::Relaxed) == thread_number() {
            Err(Error::WouldDeadlock)
        } else {
            Ok(())
        }
    }

    /// From now on nothing is written (invariant 4). Returns what callers are told.
    pub fn poison(&self, failure: &Error) -> Error {
        let first = self.failed.get_or_init(|| match failure {
            Error::Poisoned { first } => Arc::clone(first),
            failure => failure.to_string().into(),
        });
        // With the place locked, nobody is between looking at `failed` and beginning to wait.
        let _place = self.writer.lock();
        self.writer_is_back.notify_all();
        Error::Poisoned {
            first: Arc::clone(first),
        }
    }

    /// Does `work`, which leaves things half done if it fails or panics: both poison.
    pub fn or_poison<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        struct Unfinished<'c>(&'c Core);
        impl Drop for Unfinished<'_> {
            fn drop(&mut self) {
                let _ = self.0.poison(&Error::Interrupted);
            }
        }
        let unfinished = Unfinished(self);
        let outcome = work();
        std::mem::forget(unfinished);
        if planted(Defect::NoPoison) {
            return outcome;
        }
        outcome.map_err(|error| self.poison(&error))
    }

    /// The first failure, after which nothing is written.
    pub fn failure(&self) -> Option<&str> {
        self.failed.get().map(|first| &**first)
    }

    pub fn refuse_if_failed(&self) -> Result<()> {
        match self.failed.get() {
            Some(first) => Err(Error::Poisoned {
                first: Arc::clone(first),
            }),
            None => Ok(()),
        }
    }
}

impl Versions {
    /// `version` is applied, and its record ends at `end`. The log has handed out for writing, some
    /// time after that record was appended, what lies below `taken`.
    fn note_applied(&mut self, end: Position, version: Arc<Committed>, taken: Position) {
        if let Some((before, last)) = self.applied.back() {
            assert!(*before < end, "{before:?} is not before {end:?}");
            // If the record of the one before is still to be handed out, this one goes with it: no
            // sync makes the one without the other durable. A barrier may.
            let together = *before > taken;
            let barrier = self.barriers.back().is_some_and(|at| *at > last.version);
            if together && !barrier {
                self.applied.pop_back();
            }
        }
        self.applied.push_back((end, version));
    }

    fn is_behind_barrier(&self, version: Version) -> bool {
        self.barriers
            .front()
            .is_some_and(|barrier| *barrier <= version)
    }
}

impl Writer {
    /// As [`Writer::release`], if there is much to release, or little to be had.
    pub fn release_if_due<P: Pager>(&mut self, pager: &P, current: &Committed) -> Result<()> {
        if self.space.wants_release(pager) {
            self.release(pager, current)
        } else {
            Ok(())
        }
    }

    /// Ends the quarantine of what nobody reads any more. `current` is the newest version.
    pub fn release<P: Pager>(&mut self, pager: &P, current: &Committed) -> Result<()> {
        // `get_mut` succeeds when we hold the only reference left, and then nobody can make another.
        self.older
            .retain_mut(|version| Arc::get_mut(version).is_none());
        let mut live: Vec<_> = self.older.iter().map(|older| older.version).collect();
        if planted(Defect::ForgetOlder) {
            live.clear();
        }
        live.push(current.version);
        self.space.release(pager, &live)?;
        Ok(())
    }
}

/// A number of this thread that no other thread of the process has or had; never 0.
fn thread_number() -> u64 {
    static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
    bifolio_pager::sync::thread_local! {
        static NUMBER: u64 = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }
    NUMBER.with(|number| *number)
}
