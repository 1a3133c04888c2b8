//! Writing pages out: in batches, in page order, neighbours merged.
//!
//! A page is written under its WRITING mark, by the one thread that set it. Sealed pages get the final
//! checksum, private ones (stolen because memory is short) the private one. Marks are set without
//! waiting and never held while waiting, so that whoever waits for one waits for a device only.

use std::io::IoSlice;

use bifolio_pager::{Error, PageId, PageRef, Result, Standing};

use crate::io::Run;
use crate::pool::Core;
use crate::tally::add;
use crate::word::{Phase, Word, Writing};

/// The most pages that are marked at once.
pub(crate) const BATCH_PAGES: usize = 256;
/// The most bytes in one call.
const RUN_BYTES: usize = 256 << 10;

/// How far beside a page that must be written others are looked for that are written with it.
const REACH: u64 = 64;

/// Pages that this thread has marked. Unmarked, unwritten, when dropped.
pub(crate) struct Batch<'p> {
    pool: &'p Core,
    marks: Vec<Writing<'p>>,
}

impl<'p> Batch<'p> {
    /// Marks a page if it is dirty and nobody is at it; else leaves it alone.
    pub(crate) fn mark(&mut self, id: PageId) {
        if let Some(state) = self.pool.table.get(id)
            && let Ok(mark) = state.begin_writing(id)
        {
            self.marks.push(mark);
        }
    }

    /// Marks these pages, which are in the way, and with each the sealed and dirty ones beside it, until
    /// there is enough for one batch: pages that were made together are written together, in few
    /// long writes, wherever their frames are. The others' turn comes later.
    pub(crate) fn mark_runs(&mut self, pages: &[PageId]) {
        for &page in pages {
            if self.marks.len() >= BATCH_PAGES {
                break;
            }
            self.mark(page);
            let below = (page.get().saturating_sub(REACH)..page.get()).rev();
            let above = page.get() + 1..page.get() + REACH;
            self.mark_while_dirty(below);
            self.mark_while_dirty(above);
        }
    }

    fn mark_while_dirty(&mut self, numbers: impl Iterator<Item = u64>) {
        for id in numbers.map(PageId::new) {
            let state = self.pool.table.get(id);
            let wanted = state.is_some_and(|state| {
                let word = state.load();
                word.phase() == Phase::Resident && word.is_dirty() && !word.is_private()
            });
            if !wanted || self.marks.len() >= BATCH_PAGES {
                break;
            }
            self.mark(id);
        }
    }

    /// Writes what is marked; the number of pages written.
    ///
    /// # Errors
    /// [`Error::Io`] for the first run that failed; the others were tried all the same.
    pub(crate) fn write(&mut self) -> Result<usize> {
        let mut marks = std::mem::take(&mut self.marks);
        if marks.is_empty() {
            return Ok(0);
        }
        marks.sort_unstable_by_key(Writing::id);
        for mark in &mut marks {
            self.pool.frames.fill_checksum(mark, self.pool.geometry);
        }
        let results = self.pool.write_runs(&marks);
        let mut marks = marks.into_iter();
        let (mut written, mut failed) = (0, None);
        for (len, result) in results {
            let run = marks.by_ref().take(len);
            match result {
                Ok(()) => {
                    self.pool.wrote_run(run);
                    written += len;
                }
                Err(error) => {
                    run.for_each(|mark| self.pool.end_writing(mark, false));
                    failed.get_or_insert(error);
                }
            }
        }
        failed.map_or(Ok(written), Err)
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        for mark in self.marks.drain(..) {
            self.pool.end_writing(mark, false);
        }
    }
}

impl Core {
    /// No pages yet.
    pub(crate) fn batch(&self) -> Batch<'_> {
        Batch {
            pool: self,
            marks: Vec::new(),
        }
    }

    /// Writes marked pages, sorted by number; pages in each run, and what became of it.
    fn write_runs(&self, marks: &[Writing<'_>]) -> Vec<(usize, Result<()>)> {
        let most = RUN_BYTES / self.geometry.page_size.bytes();
        let mut runs: Vec<_> = marks
            .chunk_by(|left, right| left.id().get() + 1 == right.id().get())
            .flat_map(|neighbours| neighbours.chunks(most))
            .map(|pages| Run {
                offset: self.geometry.page_size.offset(pages[0].id()),
                parts: pages
                    .iter()
                    .map(|mark| IoSlice::new(self.frames.written_image(mark)))
                    .collect(),
            })
            .collect();
        let lens: Vec<_> = runs
            .iter()
            .map(|run| (run.offset, run.parts.len()))
            .collect();
        let results = self.disk.write(&mut runs);
        lens.into_iter()
            .zip(results)
            .map(|((offset, len), result)| {
                let failed = |error| {
                    self.disk
                        .poison(format!("writing {len} pages at byte {offset}"), error)
                };
                (len, result.map_err(failed))
            })
            .collect()
    }

    fn wrote_run<'p>(&self, run: impl Iterator<Item = Writing<'p>>) {
        self.disk.wrote(); // before a page is called clean
        add(&self.counts.write_calls, 1);
        for mark in run {
            add(&self.counts.pages_written, 1);
            if mark.standing() == Standing::Private {
                add(&self.counts.pages_stolen, 1);
            }
            self.end_writing(mark, true);
        }
    }

    fn end_writing(&self, mark: Writing<'_>, written: bool) {
        let id = mark.id();
        mark.end(written);
        self.parking.wake(id);
        self.frames.shortage.relieve();
    }

    /// Writes out what is dirty of these sealed pages.
    ///
    /// # Errors
    /// As [`bifolio_pager::Pager::flush`]; nothing is synced.
    pub(crate) fn write_out(&self, pages: &[PageRef]) -> Result<()> {
        let mut sorted = pages.to_vec();
        sorted.sort_unstable();
        sorted.dedup();
        for group in sorted.chunks(BATCH_PAGES) {
            self.read_ahead_unfinished(group);
            let mut batch = self.batch();
            for &at in group {
                self.mark_sealed(at, &mut batch)?;
            }
            batch.write()?;
        }
        Ok(())
    }

    /// Pages that were sealed after they were stolen have to come in, to go out as final.
    fn read_ahead_unfinished(&self, group: &[PageRef]) {
        let unfinished: Vec<_> = group
            .iter()
            .copied()
            .filter(|at| {
                self.table.get(at.id).is_some_and(|state| {
                    let word = state.load();
                    word.phase() == Phase::Absent && word.is_dirty()
                })
            })
            .collect();
        self.read_ahead(&unfinished);
    }

    /// Marks a sealed page if it is dirty. Writes the batch out before it waits for anything.
    fn mark_sealed<'p>(&'p self, at: PageRef, batch: &mut Batch<'p>) -> Result<()> {
        let state = self.own_state(at.id, "flushed")?;
        loop {
            let word = state.load();
            if word.is_dead() || word.is_private() {
                return Err(Error::WrongState {
                    page: at.id,
                    verb: "flushed",
                    state: word.describe(),
                });
            }
            match word.phase() {
                Phase::Absent | Phase::Resident if !word.is_dirty() => return Ok(()),
                Phase::Resident if !word.is_writing() => {
                    let Ok(mark) = state.begin_writing(at.id) else {
                        continue;
                    };
                    batch.marks.push(mark);
                    let mark = batch.marks.last().expect("just pushed");
                    return self.is_meant(self.frames.written_body(mark), at, "flushed");
                }
                Phase::Absent => {
                    batch.write()?;
                    self.load(at.id, state, word)?;
                }
                Phase::Loading => {
                    batch.write()?;
                    self.wait_loaded(at.id, state);
                }
                Phase::Resident | Phase::Taken => {
                    batch.write()?;
                    let busy = |word: Word| word.is_writing() || word.phase() == Phase::Taken;
                    self.parking.wait_while(at.id, state, busy);
                }
            }
        }
    }
}
