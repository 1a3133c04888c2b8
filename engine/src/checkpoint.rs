//! Checkpoints: making a version durable by its pages, so that the log before it is not needed.
//!
//! The steps, each of which relies on the one before:
//! 1. with the writer in hand, between two transactions: the allocation map of the current version
//!    is written to private pages (which makes a version of its own, with the same content), these
//!    are sealed, and the pages that were sealed since the last checkpoint are taken;
//! 2. the writer goes on; meanwhile these pages are written and synced. Pages that later
//!    transactions make are none of theirs;
//! 3. the log is durable up to where it was in step 1;
//! 4. the meta that refers to the version, and to that place in the log, is written over the
//!    older slot;
//! 5. log segments wholly before that place are used again.
//!
//! A failure leaves it unknown what reached storage, so it poisons the database.
//!
//! The background thread rests on a [`Bell`]: it wakes when somebody rings, or when a version has
//! been without a checkpoint for long. When one is due is decided in `pace.rs`. It also makes the
//! log's next segment, so that no commit has to; it syncs nothing (`syncer.rs`).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bifolio_pager::defect::{Defect, planted};
use bifolio_pager::sync::forkable::{Condvar, Mutex};
use bifolio_pager::{Flushed, MetaSlot, PageRef, Pager, Result as PagerResult, Version};

use crate::core::{Committed, Core, Keeping, Writer, with_pager};
use crate::error::{Error, Result};
use crate::file;
use crate::log::{Log, Position};
use crate::meta::Meta;
use crate::pace::Pace;

/// Pages that a paced checkpoint writes before it pauses: a commit that meets them waits for a
/// quarter of a megabyte.
const CHUNK_PAGES: usize = 64;

/// The newest durable meta, and the slot it is in.
pub(crate) struct Metas {
    pub meta: Meta,
    pub slot: MetaSlot,
}

/// What wakes the background thread. (Why these are `std`'s locks: `syncer.rs`.)
#[derive(Default)]
pub(crate) struct Bell {
    state: Mutex<Rung>,
    condvar: Condvar,
}

#[derive(Clone, Copy, Default)]
struct Rung {
    wanted: bool,
    nudged: bool,
    stop: bool,
}

impl Bell {
    /// A checkpoint is due.
    pub fn ring(&self) {
        self.state.lock().wanted = true;
        self.condvar.notify_one();
    }

    /// The log wants a spare segment.
    pub fn nudge(&self) {
        self.state.lock().nudged = true;
        self.condvar.notify_one();
    }

    /// The database is about to be closed.
    pub fn stop(&self) {
        self.state.lock().stop = true;
        self.condvar.notify_one();
    }

    fn wait(&self, patience: Duration) -> Rung {
        let mut state = self.state.lock();
        if !state.wanted && !state.nudged && !state.stop {
            self.condvar.wait_for(&mut state, patience);
        }
        let rung = *state;
        (state.wanted, state.nudged) = (false, false);
        rung
    }
}

/// What step 1 leaves for the others.
struct Chosen {
    at: Arc<Committed>,
    pages: Vec<PageRef>,
    log_end: Option<Position>,
    next_version: Version,
    begun: Instant,
}

impl Core {
    /// Makes the current version durable by its pages. Does nothing if it is already. Waits for a
    /// running checkpoint, and for the write transaction to end; refuses where that is this thread's.
    pub fn checkpoint(&self, pace: Pace) -> Result<()> {
        // First: a checkpoint that has the metas may be waiting for that very transaction.
        self.refuse_if_held_here()?;
        let _hurry = self.tally.hurry(pace);
        let mut metas = self.metas.lock();
        let writer = self.take_writer()?;
        self.checkpoint_with(&mut metas, writer, pace, false)
    }

    /// As [`Core::checkpoint`], even if nothing has changed: the meta takes over the new log.
    pub fn checkpoint_after_recovery(&self) -> Result<()> {
        let mut metas = self.metas.lock();
        let writer = self.take_writer()?;
        self.checkpoint_with(&mut metas, writer, Pace::Urgent, true)
    }

    /// As [`Core::checkpoint`], unless a checkpoint or a write transaction is under way.
    pub fn checkpoint_if_idle(&self) -> Result<()> {
        let Some(mut metas) = self.metas.try_lock() else {
            return Ok(());
        };
        match self.try_take_writer()? {
            Some(writer) => self.checkpoint_with(&mut metas, writer, Pace::Urgent, false),
            None => Ok(()),
        }
    }

    /// Returns when `version` or a later one is checkpointed.
    pub fn checkpoint_through(&self, version: Version) -> Result<()> {
        while self.checkpointed().version < version {
            self.checkpoint(Pace::Urgent)?;
        }
        Ok(())
    }

    fn checkpoint_with(
        &self,
        metas: &mut Metas,
        mut writer: Box<Writer>,
        pace: Pace,
        force: bool,
    ) -> Result<()> {
        let newest = self.checkpointed();
        let unchanged = newest.version == self.newest().version && newest.map.is_some();
        // Before all of the log is replayed, a meta would have to name a place in the middle of it.
        let replaying = metas.meta.log.is_some() && self.log.get().is_none();
        if unchanged && !force || replaying {
            self.give_writer_back(writer);
            return Ok(());
        }
        with_pager!(&self.pager, pager => {
            // Poisoned, if at all, before anybody else gets the writer...
            let chosen = self.or_poison(|| self.choose(pager, metas, &mut writer));
            self.give_writer_back(writer);
            let chosen = chosen?;
            // ...and before the version is let go: the failed meta may be the one on storage.
            self.or_poison(|| self.carry_out(pager, metas, &chosen, pace))
        })
    }

    /// Step 1.
    fn choose<P: Pager>(
        &self,
        pager: &P,
        metas: &mut Metas,
        writer: &mut Writer,
    ) -> Result<Chosen> {
        if writer.next_version.get() >= self.floor.load(Ordering::Relaxed) {
            self.raise_floor(pager, metas, writer.next_version)?;
        }
        let begun = Instant::now();
        let current = self.newest();
        writer.release(pager, &current)?;
        let version = writer.next_version;
        writer.next_version = version.next();
        let stored = writer.space.store(pager, version)?;
        pager.seal(&stored.pages)?;
        let mut pages: Vec<_> = writer.pending.drain().collect();
        pages.extend(stored.pages);
        pages.sort_unstable();
        self.tally.note_chosen(pages.len());
        let log_end = self.log.get().map(Log::end);
        let map = Some(stored.root);
        let committed = Committed {
            version,
            catalogue: current.catalogue,
            map,
        };
        let at = self.publish(writer, committed, None);
        Ok(Chosen {
            at,
            pages,
            log_end,
            next_version: writer.next_version,
            begun,
        })
    }

    /// Steps 2 to 5.
    fn carry_out<P: Pager>(
        &self,
        pager: &P,
        metas: &mut Metas,
        chosen: &Chosen,
        pace: Pace,
    ) -> Result<()> {
        let Chosen {
            at,
            pages,
            log_end,
            next_version,
            begun,
        } = chosen;
        let log_end = *log_end;
        if pace == Pace::Relaxed {
            self.write_ahead(pager, pages);
        }
        let written = match pages.len() {
            _ if planted(Defect::SkipFlush) => 0,
            count if planted(Defect::LeaveOutPage) => count.saturating_sub(1),
            count => count,
        };
        let flushed = pager.flush(&pages[..written])?;
        let mut log = None;
        if let (Some(open), Some(end)) = (self.log.get(), log_end) {
            open.wait_durable(end)?;
            log = Some(open.mark(end));
            if planted(Defect::MarkTooFar) {
                log = Some(open.mark(open.durable_position()));
            }
            if planted(Defect::RecycleBeforeMeta) {
                open.recycle(end)?;
            }
        }
        let meta = Meta {
            version: at.version,
            catalogue: at.catalogue,
            map: match planted(Defect::OldMap) {
                true => metas.meta.map,
                false => at.map(),
            },
            log,
            ..metas.meta.successor(*next_version)
        };
        self.write_meta(pager, metas, flushed, meta)?;
        self.note_checkpoint(Arc::clone(at));
        self.tally.note_completed(*begun);
        if let (Some(open), Some(end)) = (self.log.get(), log_end) {
            self.log_start.store(end.get(), Ordering::Release);
            open.recycle(end)?;
        }
        Ok(())
    }

    /// Writes pages before the flush has to, with pauses.
    fn write_ahead<P: Pager>(&self, pager: &P, pages: &[PageRef]) {
        for chunk in pages.chunks(CHUNK_PAGES) {
            let begun = Instant::now();
            pager.write_back(chunk);
            self.pause(begun.elapsed());
        }
    }

    /// Before the first version at or above the floor: writes a meta that raises it, and says that
    /// the database is open, and where its log is. Makes the log if there is none yet.
    pub fn mark_open(&self) -> Result<()> {
        let mut metas = self.metas.lock();
        self.refuse_if_failed()?;
        let writer = self.take_writer()?;
        let next_version = writer.next_version;
        self.give_writer_back(writer);
        if next_version.get() < self.floor.load(Ordering::Relaxed) {
            return Ok(()); // somebody else was here
        }
        with_pager!(&self.pager, pager => self.raise_floor(pager, &mut metas, next_version))
            .map_err(|error| self.poison(&error))
    }

    fn raise_floor<P: Pager>(
        &self,
        pager: &P,
        metas: &mut Metas,
        next_version: Version,
    ) -> Result<()> {
        let mut meta = metas.meta.successor(next_version);
        if let Some(log) = self.log.get() {
            meta.log = meta.log.map(|mark| log.refresh(mark));
        } else if let Keeping::Log(place) = &self.keeping
            && meta.log.is_none()
        {
            if !place.files()?.is_empty() {
                self.write_clean_mark_again(pager, metas)?;
            }
            let log = place.create(meta.file_id)?;
            meta.log = Some(log.mark(log.end()));
            self.log_start.store(log.end().get(), Ordering::Release);
            assert!(
                self.log.set(log).is_ok(),
                "metas is locked, so nobody else makes the log"
            );
        }
        let flushed = pager.flush(&[])?;
        self.write_meta(pager, metas, flushed, meta)
    }

    /// Writes the newest meta over itself, and makes it durable. A log that is still there beside a clean
    /// mark says that its last user got no further than to write the mark: if the sync of it failed, the mark
    /// may be in the system's cache and nowhere else, and no later sync would tell. Once more, it is
    /// durable before the log is removed that the older meta needs; or this fails too.
    fn write_clean_mark_again<P: Pager>(&self, pager: &P, metas: &Metas) -> Result<()> {
        let flushed = pager.flush(&[])?;
        let written: PagerResult<()> =
            pager.write_meta(flushed, metas.slot, &metas.meta.encode_slot());
        Ok(written?)
    }

    /// Writes `meta` over the older slot and makes it durable, after everything flushed before.
    fn write_meta<P: Pager>(
        &self,
        pager: &P,
        metas: &mut Metas,
        after: Flushed,
        meta: Meta,
    ) -> Result<()> {
        let slot = match planted(Defect::MetaOverNewest) {
            true => metas.slot,
            false => metas.slot.other(),
        };
        let mut stored = meta;
        if planted(Defect::FloorNotRaised) {
            stored.floor = meta.version.next();
        }
        let written: PagerResult<()> = pager.write_meta(after, slot, &stored.encode_slot());
        written?;
        *metas = Metas { meta, slot };
        self.floor.store(meta.floor.get(), Ordering::Relaxed);
        Ok(())
    }

    /// Makes everything durable by a checkpoint, marks the file as cleanly closed, and removes the
    /// log, which is no longer needed. Nothing is written after a failure, nor if nothing was.
    pub fn close(&self) -> Result<()> {
        let untouched = self.metas.lock().meta.clean;
        if self.read_only || untouched || matches!(self.keeping, Keeping::Nothing) {
            return Ok(());
        }
        self.checkpoint(Pace::Urgent)?;
        let mut metas = self.metas.lock();
        let writer = self.take_writer()?;
        let closed = Meta {
            clean: true,
            boot: file::boot().unwrap_or(0),
            floor: writer.next_version,
            log: None,
            ..metas.meta.successor(writer.next_version)
        };
        self.give_writer_back(writer);
        with_pager!(&self.pager, pager => {
            let flushed = pager.flush(&[])?;
            self.write_meta(pager, &mut metas, flushed, closed)
        })
        .map_err(|error| self.poison(&error))?;
        match &self.keeping {
            Keeping::Log(place) => place.remove(),
            _ => Ok(()),
        }
    }

    /// The background thread's work, until it is told to stop or something fails.
    pub fn run_checkpoints(&self, interval: Duration) {
        let mut last = Instant::now();
        loop {
            let rung = self.bell.wait(interval.saturating_sub(last.elapsed()));
            if rung.stop || self.refuse_if_failed().is_err() {
                return;
            }
            // With a segment ready, no commit has to wait until one is made.
            let prepared = self.log.get().map_or(Ok(()), |log| log.prepare(1));
            if let Err(error) = prepared {
                self.poison(&Error::from(error));
                return;
            }
            if rung.wanted || last.elapsed() >= interval {
                last = Instant::now();
                if self.checkpoint(Pace::Relaxed).is_err() {
                    return; // the database is poisoned, and whoever writes next is told
                }
            }
        }
    }
}
