//! A budget for the pages of the file that are in memory.
//!
//! A mapping has no size of its own: what it takes is the page cache, which grows until the machine,
//! or the control group, is short of memory, and then takes from everybody. With a budget a thread
//! watches how much of the file is in memory and gives back what was not used for longest, behind a
//! clock: a hand goes round over the pages, clears the mark of those that
//! were used since it last came by, and drops the others. The mark is a bit of a page's word,
//! set by the first reader after the hand.
//!
//! The bound is *soft*. Memory is taken first and given back later, as fast as the thread comes to
//! it; dirty pages stay until the kernel has written them; and with read-ahead
//! ([`Advice::Normal`](crate::Advice)) the kernel brings in more than was asked for. A buffer pool's
//! bound is hard, because nothing comes in without a frame.
//!
//! To drop a stretch of pages takes three calls: `mincore`, which of them are in memory;
//! `process_madvise(MADV_DONTNEED)`, which takes the cold ones out of the page table with one TLB
//! flush; `fadvise(DONTNEED)`, which drops what is clean and in no page table. `MADV_PAGEOUT` would do
//! the last two at once, but with an interrupt on the other processors for every run of pages.
//!
//! How much is in memory is counted by `mincore` over the file, 2 ns for a page that is in the
//! page table and some 50 for others. That would cost more than dropping does, so in between, growth is
//! estimated from above: by this process's major faults, the pages that were hinted at, and those
//! that were created.
//!
//! Source: `MADV_DONTNEED`, `posix_fadvise` and `mincore` in their man pages; the clock is F. Corbató's
//! (1968). The example `budget_figures` shows how well the bound holds, and what it costs.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use bifolio_pager::{Error, PageId, Result};
use parking_lot::{Condvar, Mutex};

use crate::file::{MappedFile, count};

/// The thread that keeps the budget, until this is dropped.
pub(crate) struct Keeper {
    bell: Arc<Bell>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Bell {
    stop: Mutex<bool>,
    rung: Condvar,
}

/// Between two looks, while all is well.
const REST: Duration = Duration::from_millis(10);
/// The same after there was too much, because more is coming.
const SHORT_REST: Duration = Duration::from_millis(1);
/// How much longer to rest than to work where work did not help: what is there is dirty, or in use.
const REST_PER_WORK: u32 = 9;
/// What part of the limit may be guessed to have come in before it is counted.
const GUESSED_PART: u64 = 8;
/// Pages looked at in one system call.
const CHUNK: u64 = 512;

impl Keeper {
    /// Begins to keep the part of `file` that is in memory at `limit_bytes`.
    pub(crate) fn start(file: Arc<MappedFile>, limit_bytes: u64) -> Result<Self> {
        let bell = Arc::new(Bell::default());
        let mut clock = Clock::new(file, limit_bytes);
        let heard = Arc::clone(&bell);
        let thread = thread::Builder::new()
            .name("bifolio-mmap-budget".to_owned())
            .spawn(move || {
                let mut rest = REST;
                while heard.wait(rest) {
                    let begun = Instant::now();
                    rest = match clock.keep() {
                        Kept::Within => REST,
                        Kept::Restored => SHORT_REST,
                        Kept::Not => REST.max(begun.elapsed() * REST_PER_WORK),
                    };
                }
            })
            .map_err(|error| Error::io("starting the thread that keeps the budget", error))?;
        Ok(Keeper {
            bell,
            thread: Some(thread),
        })
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        *self.bell.stop.lock() = true;
        self.bell.rung.notify_one();
        if let Some(thread) = self.thread.take() {
            // If it panicked it has said so, and all that is lost is the budget.
            let _ = thread.join();
        }
    }
}

impl Bell {
    /// Rests; whether to go on.
    fn wait(&self, rest: Duration) -> bool {
        let mut stop = self.stop.lock();
        if !*stop {
            self.rung.wait_for(&mut stop, rest);
        }
        !*stop
    }
}

/// What came of a look.
enum Kept {
    /// There was not too much in memory.
    Within,
    /// There was, and there is not any more.
    Restored,
    /// There is still.
    Not,
}

/// The hand, and what is known of how much is in memory.
pub(crate) struct Clock {
    file: Arc<MappedFile>,
    /// In the file's pages, as everything here.
    limit: u64,
    hand: u64,
    /// In memory, at most: as counted, with what arrived since, less what was dropped since.
    in_memory: u64,
    /// What [`Clock::arrivals`] said when that was true.
    arrived: u64,
    /// How much of it was not counted.
    guessed: u64,
    /// When it was counted, and how long that took.
    last: Option<(Instant, Duration)>,
}

impl Clock {
    pub(crate) fn new(file: Arc<MappedFile>, limit_bytes: u64) -> Self {
        let limit = limit_bytes / file.map.page_size().bytes() as u64;
        Clock {
            file,
            limit: limit.max(1),
            hand: 0,
            in_memory: 0,
            arrived: 0,
            guessed: 0,
            last: None,
        }
    }

    /// Counts if it may be necessary, and drops pages if there are too many.
    fn keep(&mut self) -> Kept {
        let new = self.arrivals().saturating_sub(self.arrived);
        self.arrived += new;
        self.in_memory += new;
        self.guessed += new;
        let is_cheap = self
            .last
            .is_none_or(|(when, took)| when.elapsed() > 100 * took);
        let may_mislead = self.guessed > self.limit / GUESSED_PART;
        if is_cheap || self.in_memory > self.limit && may_mislead {
            self.count();
        }
        if self.in_memory <= self.limit {
            return Kept::Within;
        }
        // A little more than it has to be, so as not to be back at once.
        let excess = self.in_memory - self.limit + self.limit / 32;
        let dropped = self.drop_pages(excess);
        self.in_memory = self.in_memory.saturating_sub(dropped);
        match self.in_memory <= self.limit {
            true => Kept::Restored,
            false => Kept::Not,
        }
    }

    fn count(&mut self) {
        let begun = Instant::now();
        self.arrived = self.arrivals();
        self.in_memory = self.resident();
        self.guessed = 0;
        self.last = Some((begun, begun.elapsed()));
    }

    /// Pages of the file that are in memory.
    pub(crate) fn resident(&self) -> u64 {
        let end = self.file.storage.page_count();
        (0..end)
            .step_by(CHUNK as usize)
            .map(|first| {
                let residency = self
                    .file
                    .map
                    .residency(PageId::new(first), CHUNK.min(end - first));
                residency.iter().filter(|&&is_in| is_in).count() as u64
            })
            .sum()
    }

    /// Pages that may have come in since the process began: more than did, unless the kernel reads
    /// ahead.
    fn arrivals(&self) -> u64 {
        let tally = &self.file.tally;
        let ours = [&tally.hinted, &tally.created];
        let ours = ours.map(|counter| counter.load(Ordering::Relaxed));
        major_faults() + ours.iter().sum::<u64>()
    }

    /// Moves the hand until `excess` pages are dropped, or it has come round twice: the first time
    /// it clears the marks, and leaves alone what is likely to be dirty, which cannot be dropped but
    /// only begun to be written. How many were dropped.
    pub(crate) fn drop_pages(&mut self, excess: u64) -> u64 {
        let end = self.file.storage.page_count();
        let mut dropped = 0;
        let mut to_go = 2 * end;
        while dropped < excess && to_go > 0 {
            if self.hand >= end {
                self.hand = 0;
            }
            let len = CHUNK.min(end - self.hand);
            let chunk = PageId::new(self.hand);
            let spare_unflushed = to_go > end;
            let cold = self.cold(chunk, len, excess - dropped, spare_unflushed);
            if !cold.runs.is_empty() {
                dropped += self.let_go(&cold, (chunk, len));
            }
            self.hand += len;
            to_go = to_go.saturating_sub(len);
        }
        count(&self.file.tally.evicted, dropped);
        dropped
    }

    /// Drops what is cold in this chunk. How many pages are gone: what was dirty is not.
    fn let_go(&self, cold: &Cold, chunk: (PageId, u64)) -> u64 {
        let MappedFile { map, storage, .. } = &*self.file;
        // Zeros that stand for a lost page are memory of ours, which would be lost once more, under whoever
        // stores into it.
        if map.watch().any() {
            return 0;
        }
        map.unmap(&cold.runs);
        // Either call also begins to write what is dirty. In one for all of the chunk that would be
        // pages of the running transaction, over and over.
        let spans = match cold.has_unflushed {
            true => &cold.runs[..],
            false => &[chunk][..],
        };
        for &(first, count) in spans {
            storage.drop_unmapped(map, first, count);
        }
        let residency = map.residency(chunk.0, chunk.1);
        let is_gone = |id: &PageId| !residency[(id.get() - chunk.0.get()) as usize];
        let runs = cold.runs.iter();
        let ids = runs.flat_map(|&(first, count)| (0..count).map(move |index| first.plus(index)));
        ids.filter(is_gone).count() as u64
    }

    /// What in this chunk is in memory and was not used since the last time, at most `most` pages.
    /// Clears the marks of the others.
    fn cold(&self, chunk: PageId, len: u64, most: u64, spare_unflushed: bool) -> Cold {
        let pages = &self.file.pages;
        let mut cold = Cold::default();
        let mut found = 0;
        for (index, is_in) in self.file.map.residency(chunk, len).into_iter().enumerate() {
            let id = chunk.plus(index as u64);
            if !is_in {
                continue;
            }
            // Of all the chunk, whether cold or not: a call for all of it would begin to write it.
            let is_unflushed = pages.is_unflushed(id);
            cold.has_unflushed |= is_unflushed;
            if pages.clear_used(id) || found == most {
                continue;
            }
            if is_unflushed && spare_unflushed {
                continue;
            }
            found += 1;
            match cold.runs.last_mut() {
                Some((first, len)) if first.plus(*len) == id => *len += 1,
                _ => cold.runs.push((id, 1)),
            }
        }
        cold
    }
}

/// What may be dropped of a chunk.
#[derive(Default)]
struct Cold {
    /// As first page and length, in page order.
    runs: Vec<(PageId, u64)>,
    /// Whether there is a page in the chunk that was changed and not flushed.
    has_unflushed: bool,
}

/// Faults of this process for which something was read (`majflt` in proc(5)); 0 if it is not told.
fn major_faults() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The second field is the program's name in brackets, which may hold anything.
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let majflt = fields.split_ascii_whitespace().nth(9);
    majflt.and_then(|faults| faults.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{MmapOptions, MmapPager};
    use bifolio_pager::{Geometry, PageRef, PageSize, Pager, Version, first_page};

    const GEOMETRY: Geometry = Geometry {
        page_size: PageSize::DEFAULT,
        seed: 7,
    };
    const PAGES: u64 = 4000;

    fn at(index: u64) -> PageRef {
        PageRef {
            id: first_page(GEOMETRY).plus(index),
            version: Version::new(1),
        }
    }

    /// A file of [`PAGES`] flushed pages, all in memory, whose budget nobody has enforced yet.
    fn filled() -> Option<(MmapPager, Clock)> {
        let options = MmapOptions {
            max_bytes: 1 << 30,
            memory_bytes: Some(1 << 40),
            ..MmapOptions::default()
        };
        let pager = MmapPager::open(tempfile::tempfile().unwrap(), GEOMETRY, options).unwrap();
        pager.grow(at(PAGES).id.get()).unwrap();
        let pages: Vec<_> = (0..PAGES).map(at).collect();
        for &at in &pages {
            drop(pager.create(at).unwrap());
        }
        pager.seal(&pages).unwrap();
        let _ = pager.flush(&pages).unwrap();
        let clock = Clock::new(Arc::clone(&pager.file), 1 << 20);
        if clock.resident() < PAGES {
            println!("SKIPPED: the kernel does not say what is in memory");
            return None;
        }
        Some((pager, clock))
    }

    fn read(pager: &MmapPager, indices: impl Iterator<Item = u64>) {
        for index in indices {
            let _ = std::hint::black_box(pager.read(at(index)).unwrap()[20]);
        }
    }

    #[test]
    fn what_was_used_since_the_hand_came_by_stays() {
        let Some((pager, mut clock)) = filled() else {
            return;
        };
        read(&pager, 1000..1500);
        let dropped = clock.drop_pages(PAGES - 500);
        if dropped == 0 || clock.resident() > PAGES - 100 {
            println!("SKIPPED: the kernel drops nothing");
            return;
        }
        let hot = pager.file.map.residency(at(1000).id, 500);
        assert!(hot.iter().all(|&is_in| is_in));
        assert_eq!(pager.counters().evictions, Some(dropped));
    }

    #[test]
    fn a_hand_that_goes_round_twice_drops_what_was_used_once() {
        let Some((pager, mut clock)) = filled() else {
            return;
        };
        read(&pager, 0..PAGES);
        let before = clock.resident();
        let dropped = clock.drop_pages(before);
        assert!(dropped >= PAGES, "{dropped} of {before}");
    }

    #[test]
    fn what_was_dropped_is_read_again_unchanged() {
        let Some((pager, mut clock)) = filled() else {
            return;
        };
        clock.drop_pages(u64::MAX);
        for index in 0..PAGES {
            let page = pager.read(at(index)).unwrap();
            assert_eq!(PageRef::decode(&page[..PageRef::LEN]), at(index));
        }
    }

    #[test]
    fn what_was_changed_and_not_flushed_goes_last() {
        let Some((pager, mut clock)) = filled() else {
            return;
        };
        let changed: Vec<_> = (1000..1500).map(at).collect();
        let again = |at: PageRef| PageRef {
            version: Version::new(2),
            ..at
        };
        pager
            .discard(&changed.iter().map(|at| at.id).collect::<Vec<_>>())
            .unwrap();
        for &at in &changed {
            drop(pager.create(again(at)).unwrap());
        }
        clock.drop_pages(PAGES - 500);
        let in_table = |at: &PageRef| clock.file.pages.is_unflushed(at.id);
        assert!(changed.iter().all(in_table));
        let residency = pager.file.map.residency(at(0).id, PAGES);
        if residency[0] {
            println!("SKIPPED: the kernel drops nothing");
            return;
        }
        let stayed = residency.iter().filter(|&&is_in| is_in).count();
        assert!(residency[1000..1500].iter().all(|&is_in| is_in));
        assert!(stayed < 600, "{stayed} pages");
    }

    #[test]
    fn a_guess_that_is_far_off_is_counted_before_pages_are_dropped_for_it() {
        let Some((pager, mut clock)) = filled() else {
            return;
        };
        let _ = clock.keep();
        let (resident, dropped) = (clock.resident(), pager.counters().evictions);
        if resident > clock.limit {
            println!("SKIPPED: the kernel drops nothing");
            return;
        }
        // Hints for pages that were in memory all along.
        count(&pager.file.tally.hinted, PAGES);
        assert!(matches!(clock.keep(), Kept::Within));
        assert_eq!(pager.counters().evictions, dropped);
        assert_eq!((clock.in_memory, clock.guessed), (resident, 0));
    }

    #[test]
    fn the_keeper_comes_back_to_the_budget_by_itself() {
        let Some((pager, clock)) = filled() else {
            return;
        };
        let limit = 1000 * 4096;
        let _keeper = Keeper::start(Arc::clone(&pager.file), limit).unwrap();
        let given_up = Instant::now() + Duration::from_secs(30);
        while clock.resident() > 1000 && Instant::now() < given_up {
            thread::sleep(REST);
        }
        assert!(clock.resident() <= 1000, "{} pages", clock.resident());
    }
}
