//! The mapping: one range of addresses over the file, from its first byte to as far as it may grow.
//!
//! The kernel lets a shared mapping be longer than its file, and what the file gains lies in the
//! mapping from then on. So the whole reservation is one mapping, made once: growth moves no page,
//! makes no system call here, and `madvise` of everything is one call however often the file grew.
//! (Anonymous address space with pieces of the file mapped over it would do the same with more
//! parts; it would also count as committed memory under `vm.overcommit_memory = 2`.)
//! What lies past the end of the file is never touched: callers check page numbers against the
//! length, which only grows.
//!
//! All `unsafe` access to pages is here. It rests on `state.rs`: a `Hold` or a `Latch` of a page
//! exists only while nobody may write the page, an `Exclusive` only while nobody else may look.
//! This module joins a token to its page's bytes, and hands out the bytes for the token's life.
//!
//! # What remains
//!
//! The file is shared with the machine. Another process that *writes* it changes bytes under live
//! references, which is undefined behaviour in Rust's terms as in C's; the exclusive lock that the
//! engine holds on the file is the whole defence. Another process that *truncates* it, or a device
//! that fails to bring a page in, raises `SIGBUS`, which `sigbus.rs` turns into a page of zeros and
//! a count that readers compare.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::{io, slice};

use bifolio_pager::page::CHECKSUM_LEN;
use bifolio_pager::{Error, PageId, PageSize, Result};
use memmap2::{Advice, MmapRaw};
use rustix::process::{PidfdFlags, getpid, pidfd_open};

use crate::buffers::Buffers;
use crate::sigbus;
use crate::state::{Exclusive, Hold, Latch};
use crate::watched::Watch;

/// The mapped file.
pub(crate) struct Map {
    /// Before `raw`: the handler must not know the range any more when it is unmapped.
    watch: Watch<'static>,
    raw: MmapRaw,
    /// Where private pages lie, if not in the mapping, which is then only read.
    buffers: Option<Buffers>,
    /// Where `raw` begins.
    base: NonNull<u8>,
    page_size: PageSize,
    /// Pages that the reservation has room for.
    capacity: u64,
    /// This process, for advice about many ranges at once.
    ourselves: Option<OwnedFd>,
    /// Such advice to bring in was refused.
    brings_in_one_by_one: AtomicBool,
    /// Such advice to drop was refused, as kernels before 6.13 do.
    drops_one_by_one: AtomicBool,
}

/// How pages come to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Writing {
    /// The file was opened for reading only.
    Never,
    /// Private pages are pages of the mapping.
    ThroughMapping,
    /// Private pages lie in buffers, in so many bytes of memory; the mapping is only read.
    InBuffers { bytes: u64 },
}

/// Pages of the system's in one of ours, at most.
const SYSTEM_PAGES_MAX: usize = 65_536 / 4096;

/// Ranges that the kernel takes in one call (`UIO_MAXIOV`).
const MOST_RANGES: usize = 1024;

/// The bytes of a page that is held for reading.
pub(crate) struct HeldPage<'p> {
    page: Place<'p>,
    hold: Hold<'p>,
}

/// The bytes of a page that is held for writing.
pub(crate) struct OwnPage<'p> {
    page: Place<'p>,
    exclusive: Exclusive<'p>,
}

/// Where a page lies. An address and no reference: what may be done there is the tokens' business.
#[derive(Clone, Copy)]
struct Place<'p> {
    start: NonNull<u8>,
    map: &'p Map,
}

// SAFETY: `base` is the address that `raw` has too, and `raw` may be used from any thread.
unsafe impl Send for Map {}
// SAFETY: as above; what happens behind the address is governed by tokens, as for `Place`.
unsafe impl Sync for Map {}
// SAFETY: a `Place` is an address inside a mapping that lives as long as `'p`, on whatever thread;
// the mapping belongs to no thread. Access through it is governed by the tokens stored beside it,
// which are atomics and are `Send` and `Sync` themselves.
unsafe impl Send for Place<'_> {}
// SAFETY: as above; a shared `Place` gives out shared references only, under the same tokens.
unsafe impl Sync for Place<'_> {}

impl Map {
    /// Maps `file` from its beginning, `bytes` long, however long it is now.
    pub(crate) fn new(
        file: &File,
        bytes: usize,
        page_size: PageSize,
        writing: Writing,
    ) -> Result<Self> {
        let read_only = !matches!(writing, Writing::ThroughMapping);
        let capacity = (bytes / page_size.bytes()) as u64;
        let buffers = match writing {
            Writing::InBuffers { bytes } => Some(Buffers::new(bytes, page_size, capacity)?),
            Writing::ThroughMapping | Writing::Never => None,
        };
        let mut options = memmap2::MmapOptions::new();
        options.len(bytes);
        let mapped = if read_only {
            options.map_raw_read_only(file)
        } else {
            options.map_raw(file)
        };
        let raw = mapped.map_err(|error| Error::io("mapping the file", error))?;
        // A core dump of a crash need not hold the database. Old kernels refuse; never mind.
        let _ = raw.advise(Advice::DontDump);
        let base = NonNull::new(raw.as_mut_ptr());
        Ok(Map {
            base: base.expect("a mapping does not begin at address zero"),
            watch: sigbus::watch(raw.as_mut_ptr() as usize, bytes, read_only)?,
            raw,
            buffers,
            page_size,
            capacity,
            ourselves: pidfd_open(getpid(), PidfdFlags::empty()).ok(),
            brings_in_one_by_one: AtomicBool::new(false),
            drops_one_by_one: AtomicBool::new(false),
        })
    }

    /// Bytes of address space reserved.
    pub(crate) fn reserved_bytes(&self) -> u64 {
        self.raw.len() as u64
    }

    /// The faults that the handler met in this mapping.
    #[inline]
    pub(crate) fn watch(&self) -> &Watch<'static> {
        &self.watch
    }

    /// Bytes of the file that page `id` lies at: where to look in the list of faults.
    pub(crate) fn bytes_of(&self, id: PageId) -> std::ops::Range<usize> {
        let start = self.page_size.offset(id) as usize;
        start..start + self.page_size.bytes()
    }

    /// The page `id` for reading, for as long as it is held. `hold` must be of this page.
    #[inline]
    pub(crate) fn held<'p>(&'p self, id: PageId, hold: Hold<'p>) -> HeldPage<'p> {
        let page = self.place_held(id, &hold);
        HeldPage { page, hold }
    }

    /// The page `id` for writing. `exclusive` must be of this page.
    #[inline]
    pub(crate) fn owned<'p>(&'p self, id: PageId, exclusive: Exclusive<'p>) -> OwnPage<'p> {
        OwnPage {
            page: self.place_of_private(id),
            exclusive,
        }
    }

    /// The page `id` but for its checksum word, while it is held. `hold` must be of this page.
    #[inline]
    pub(crate) fn bytes<'h>(&'h self, id: PageId, hold: &'h Hold<'_>) -> &'h [u8] {
        self.place_held(id, hold).bytes(hold)
    }

    /// Where private pages lie, if not in the mapping.
    pub(crate) fn buffers(&self) -> Option<&Buffers> {
        self.buffers.as_ref()
    }

    /// The whole page with its checksum word, while it is latched. `_latch` must be of this page.
    pub(crate) fn image<'l>(&'l self, id: PageId, _latch: &'l Latch<'_>) -> &'l [u8] {
        let start = self.place(id).start.as_ptr();
        // SAFETY: the page lies inside the mapping, by `place`. While the latch lives nobody writes
        // the page (state.rs, invariants 1 and 2), and the checksum word neither: that is filled
        // only in a sealed page of our own making, and such a page is never latched as unknown.
        unsafe { slice::from_raw_parts(start, self.page_size.bytes()) }
    }

    /// A page that was private when it was latched has its place for as long (buffers.rs, 2).
    #[inline]
    fn place_held(&self, id: PageId, hold: &Hold<'_>) -> Place<'_> {
        match hold {
            Hold::Sealed(_) => self.place(id),
            Hold::Latched(_) => self.place_of_private(id),
        }
    }

    fn place_of_private(&self, id: PageId) -> Place<'_> {
        match self.buffers().and_then(|buffers| buffers.of(id)) {
            Some(start) => Place { start, map: self },
            None => self.place(id),
        }
    }

    #[inline]
    fn place(&self, id: PageId) -> Place<'_> {
        assert!(id.get() < self.capacity, "a page past the reservation");
        let offset = self.page_size.offset(id) as usize;
        // SAFETY: by the assertion, the page lies inside the one mapping that begins at `base`.
        let start = unsafe { self.base.add(offset) };
        Place { start, map: self }
    }

    /// Tells the kernel how the mapping will be read.
    pub(crate) fn advise(&self, advice: Advice) -> io::Result<()> {
        self.raw.advise(advice)
    }

    /// Starts reading these runs of pages, each given as its first page and its length. Past the end
    /// of the mapping nothing happens. A hint: where it is refused, the reads will tell what is wrong.
    pub(crate) fn will_need(&self, runs: &[(PageId, u64)]) {
        self.advise_runs(runs, libc::MADV_WILLNEED, &self.brings_in_one_by_one);
    }

    /// Takes these runs of pages out of the page table, so that the kernel can drop those that are
    /// clean. Their content stays what it is: the mapping is shared, so that `MADV_DONTNEED` forgets
    /// nothing. A hint.
    pub(crate) fn unmap(&self, runs: &[(PageId, u64)]) {
        self.advise_runs(runs, libc::MADV_DONTNEED, &self.drops_one_by_one);
    }

    /// Gives one of two advices about runs of pages: bring them in, or drop them. `one_by_one`
    /// remembers that many at once were refused.
    fn advise_runs(&self, runs: &[(PageId, u64)], advice: libc::c_int, one_by_one: &AtomicBool) {
        if runs.len() > 1 && self.advise_at_once(runs, advice, one_by_one) {
            return;
        }
        for &(first, count) in runs {
            let (offset, len) = self.span(first, count);
            let start = self.raw.as_mut_ptr().wrapping_add(offset);
            // SAFETY: `span` lies in the mapping, which is shared, so that neither advice changes a byte
            // of it. (Zeros in the place of a page that was lost are not shared. Whoever drops pages asks
            // first whether any was: `Clock::let_go`.)
            let _ = unsafe { libc::madvise(start.cast(), len, advice) };
        }
    }

    /// By `process_madvise`, if the kernel lets us; otherwise nothing is done, and `false` returned.
    fn advise_at_once(
        &self,
        runs: &[(PageId, u64)],
        advice: libc::c_int,
        one_by_one: &AtomicBool,
    ) -> bool {
        let Some(ourselves) = &self.ourselves else {
            return false;
        };
        if one_by_one.load(Ordering::Relaxed) {
            return false;
        }
        for runs in runs.chunks(MOST_RANGES) {
            let ranges: Vec<_> = runs
                .iter()
                .map(|&(first, count)| self.span(first, count))
                .map(|(offset, len)| libc::iovec {
                    iov_base: self.raw.as_mut_ptr().wrapping_add(offset).cast(),
                    iov_len: len,
                })
                .collect();
            // SAFETY: the kernel reads the list, which is alive. Neither advice changes a byte of
            // the mapping, as above.
            let advised = unsafe {
                libc::syscall(
                    libc::SYS_process_madvise,
                    ourselves.as_raw_fd(),
                    ranges.as_ptr(),
                    ranges.len(),
                    advice,
                    0,
                )
            };
            if advised < 0 {
                // An old kernel, or forbidden: it will be so the next time.
                one_by_one.store(true, Ordering::Relaxed);
                return false;
            }
        }
        true
    }

    /// Whether the page `id` is in memory, as far as the kernel says; it is when in doubt.
    pub(crate) fn in_memory(&self, id: PageId) -> bool {
        let start = self.place(id).start.as_ptr();
        let mut states = [1; SYSTEM_PAGES_MAX];
        // SAFETY: the page lies in the mapping, by `place`. One byte is written for each of the
        // system's pages in it, and the array has room for those of the largest page.
        let looked =
            unsafe { libc::mincore(start.cast(), self.page_size.bytes(), states.as_mut_ptr()) };
        looked != 0 || states.iter().all(|state| state & 1 != 0)
    }

    /// Of each of `count` pages from `first` on, whether some of it is in memory; as far as the kernel
    /// says, and none when in doubt.
    pub(crate) fn residency(&self, first: PageId, count: u64) -> Vec<bool> {
        let (offset, len) = self.span(first, count);
        let per_page = self.page_size.bytes() / rustix::param::page_size();
        let mut states = vec![0_u8; len / rustix::param::page_size()];
        let start = self.raw.as_mut_ptr().wrapping_add(offset);
        // SAFETY: `span` lies in the mapping. One byte is written for each of the system's pages in
        // it, for which the vector has room.
        if unsafe { libc::mincore(start.cast(), len, states.as_mut_ptr()) } != 0 {
            states.fill(0);
        }
        let pages = states.chunks(per_page);
        pages
            .map(|page| page.iter().any(|state| state & 1 != 0))
            .collect()
    }

    /// Bytes in a page of ours.
    pub(crate) fn page_size(&self) -> PageSize {
        self.page_size
    }

    /// Whether [`Map::in_memory`] can be believed: the kernel answers yes for every page of a file
    /// that the process neither owns nor may write.
    pub(crate) fn tells_residency(&self, file_pages: u64) -> bool {
        // No page past the end of the file is in memory.
        file_pages < self.capacity && !self.in_memory(PageId::new(self.capacity - 1))
    }

    /// Writes what is dirty in these bytes of the file and waits until it is durable.
    pub(crate) fn sync(&self, offset: usize, len: usize) -> io::Result<()> {
        self.raw.flush_range(offset, len)
    }

    /// Where pages lie in the mapping, as offset and length.
    pub(crate) fn span(&self, first: PageId, count: u64) -> (usize, usize) {
        let count = count.min(self.capacity.saturating_sub(first.get()));
        let len = count as usize * self.page_size.bytes();
        (self.page_size.offset(first) as usize, len)
    }
}

impl<'p> Place<'p> {
    #[inline]
    fn bytes<'h>(self, _hold: &'h Hold<'_>) -> &'h [u8]
    where
        'p: 'h,
    {
        let usable = self.map.page_size.usable();
        // SAFETY: the bytes lie inside the mapping or in a buffer, which live for `'p`. Nobody writes
        // them, and the buffer stays this page's (buffers.rs, invariant 2), while the hold lives (state.rs, invariant 4); the checksum word, which flush may fill at any
        // time, lies behind them.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), usable) }
    }
}

impl HeldPage<'_> {
    /// The page but for its checksum word.
    #[inline]
    pub(crate) fn bytes(&self) -> &[u8] {
        self.page.bytes(&self.hold)
    }

    /// The mapping that the page lies in.
    #[inline]
    pub(crate) fn map(&self) -> &Map {
        self.page.map
    }

    /// Which page of the mapping this is; none if it lies in a buffer.
    #[cold]
    pub(crate) fn mapped_id(&self) -> Option<PageId> {
        let map = self.page.map;
        let offset = self
            .page
            .start
            .addr()
            .get()
            .checked_sub(map.base.addr().get())?;
        let index = (offset / map.page_size.bytes()) as u64;
        (index < map.capacity).then(|| PageId::new(index))
    }

    /// Fills the checksum word of a sealed page. Others may do so at once with the same value.
    pub(crate) fn fill_checksum(&self, checksum: u64) {
        let usable = self.page.map.page_size.usable();
        // SAFETY: the word lies inside the page, hence inside the mapping.
        let word = unsafe { self.page.start.as_ptr().add(usable) };
        // SAFETY: pages start at multiples of their size and the word is the last eight bytes, so it
        // is aligned. The mapping is writable: where it is only read, pages get their checksum in
        // their buffer, and none is found sealed without. No reference covers the word (`bytes` ends before it; `image` and `bytes_mut`
        // exist only while the page is not sealed), and all other access to it is atomic.
        let word = unsafe { AtomicU64::from_ptr(word.cast()) };
        word.store(checksum.to_le(), Ordering::Relaxed);
    }
}

const _: () = assert!(CHECKSUM_LEN == size_of::<u64>());

impl OwnPage<'_> {
    /// The page but for its checksum word.
    #[inline]
    pub(crate) fn bytes(&self) -> &[u8] {
        let usable = self.page.map.page_size.usable();
        // SAFETY: as in `bytes_mut`, and `&self` keeps our own holder from writing meanwhile.
        unsafe { slice::from_raw_parts(self.page.start.as_ptr(), usable) }
    }

    /// The page but for its checksum word, to be written.
    #[inline]
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        let usable = self.page.map.page_size.usable();
        // SAFETY: the bytes lie inside the mapping or in a buffer, both of which outlive `self`, and
        // are writable: a read-only pager gives out no `Exclusive`, and where the mapping alone is
        // read-only, pages are written in buffers only (pwrite.rs). Nobody else reads or writes them while the
        // `Exclusive` in `self` lives (state.rs, invariants 1, 2 and 4).
        unsafe { slice::from_raw_parts_mut(self.page.start.as_ptr(), usable) }
    }

    /// Makes the page immutable.
    pub(crate) fn seal(self) {
        self.exclusive.seal();
    }

    /// Makes the page, whose checksum is in the file, immutable.
    pub(crate) fn seal_written(self) {
        self.exclusive.seal_checksummed();
    }

    /// The whole page with its checksum word.
    pub(crate) fn image(&self) -> &[u8] {
        let len = self.page.map.page_size.bytes();
        // SAFETY: as in `bytes`. The checksum word is ours too: it is filled by others in sealed
        // pages only.
        unsafe { slice::from_raw_parts(self.page.start.as_ptr(), len) }
    }

    /// Fills the checksum word in.
    pub(crate) fn fill_checksum(&mut self, checksum: u64) {
        let usable = self.page.map.page_size.usable();
        // SAFETY: the word lies inside the page.
        let word = unsafe { self.page.start.as_ptr().add(usable) };
        // SAFETY: as in `bytes_mut`, for the eight bytes behind those, which nobody else touches in
        // a page that is being written.
        unsafe {
            word.cast::<[u8; CHECKSUM_LEN]>()
                .write(checksum.to_le_bytes())
        };
    }

    /// Makes the page what the file has at `id`, its number; the page lies in a buffer.
    pub(crate) fn copy_from_file(&mut self, id: PageId) {
        let map = self.page.map;
        let from = map.place(id).start;
        assert_ne!(from, self.page.start, "the page lies in the mapping itself");
        let len = map.page_size.bytes();
        // SAFETY: both are whole pages in mappings that live as long as `self`, and not the same. The
        // one written is ours, as in `bytes_mut`; the one read is written by nobody, since private
        // pages are not written through this mapping and nobody else has an `Exclusive`.
        unsafe {
            self.page
                .start
                .as_ptr()
                .copy_from_nonoverlapping(from.as_ptr(), len)
        }
    }

    /// Makes the kernel keep the page, which lies in the mapping and is in memory, by itself.
    ///
    /// It may keep it together with its neighbours in a *large folio* (ext4 does since Linux 6.16), if
    /// whole stretches of the file were read or written by somebody's system calls. A store into
    /// one page makes all of a folio dirty, and all of it is written: 64 pages for one, say.
    /// `MADV_COLD` for a part of a folio splits it, if the part is in the page table. A hint: 2 us,
    /// and some 50 where there is something to split.
    pub(crate) fn part_from_neighbours(&self) {
        let start = self.page.start.as_ptr();
        let len = self.page.map.page_size.bytes();
        for offset in (0..len).step_by(rustix::param::page_size()) {
            // SAFETY: the byte lies in the page.
            let place = unsafe { start.add(offset) };
            // SAFETY: as in `bytes_mut`. Volatile, because nothing but the page table needs the read.
            let _ = unsafe { place.read_volatile() };
        }
        // SAFETY: the page lies in the mapping, of which the advice changes no byte.
        let _ = unsafe { libc::madvise(start.cast(), len, libc::MADV_COLD) };
    }

    /// Makes the whole page zeros, its checksum word too.
    pub(crate) fn zero(&mut self) {
        let len = self.page.map.page_size.bytes();
        // SAFETY: as in `bytes_mut`. The checksum word is ours too: it is filled in sealed pages only.
        unsafe { self.page.start.as_ptr().write_bytes(0, len) }
    }
}

/// Starts writing these bytes of the file out, and does not wait.
///
/// Only `SYNC_FILE_RANGE_WRITE`: the flags that wait also take an error away that the next sync
/// would have reported. This one reports only what goes wrong as it submits.
pub(crate) fn start_write_out(file: &File, offset: usize, len: usize) -> io::Result<()> {
    let (offset, len) = (offset as libc::off64_t, len as libc::off64_t);
    let flags = libc::SYNC_FILE_RANGE_WRITE;
    // SAFETY: the call takes numbers only, and the descriptor is open while `file` is borrowed.
    match unsafe { libc::sync_file_range(file.as_raw_fd(), offset, len, flags) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{Advice as FileAdvice, fadvise};
    use std::os::unix::fs::FileExt;
    use std::time::{Duration, Instant};

    const PAGES: u64 = 100;
    const PAGE: usize = PageSize::DEFAULT.bytes();

    /// A file of [`PAGES`] pages, and a mapping of a few more.
    fn mapped(writing: Writing) -> (File, Map) {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&vec![7; PAGES as usize * PAGE], 0)
            .unwrap();
        file.sync_data().unwrap();
        let len = (PAGES as usize + 8) * PAGE;
        let map = Map::new(&file, len, PageSize::DEFAULT, writing).unwrap();
        (file, map)
    }

    fn in_memory(map: &Map, runs: &[(PageId, u64)]) -> bool {
        runs.iter()
            .flat_map(|&(first, count)| (0..count).map(move |index| first.plus(index)))
            .all(|id| map.in_memory(id))
    }

    #[test]
    fn pages_past_the_end_of_the_file_are_not_in_memory() {
        let (_file, map) = mapped(Writing::Never);
        assert!(!map.in_memory(PageId::new(PAGES)));
        assert!(map.tells_residency(PAGES));
        assert!(!map.tells_residency(PAGES + 8), "nowhere to find it out");
    }

    #[test]
    fn every_run_that_is_asked_for_comes_in_by_one_call_or_by_many() {
        let runs = [(3, 4), (20, 1), (70, 30)].map(|(first, len)| (PageId::new(first), len));
        for one_by_one in [false, true] {
            let (file, map) = mapped(Writing::Never);
            map.brings_in_one_by_one
                .store(one_by_one, Ordering::Relaxed);
            fadvise(&file, 0, None, FileAdvice::DontNeed).unwrap();
            if map.in_memory(PageId::new(3)) {
                return println!("SKIPPED: the file system drops no pages");
            }
            map.will_need(&runs);
            let start = Instant::now();
            while !in_memory(&map, &runs) && start.elapsed() < Duration::from_secs(60) {
                std::thread::yield_now();
            }
            assert!(in_memory(&map, &runs));
        }
    }
    #[test]
    fn what_leaves_the_page_table_keeps_what_was_stored_in_it() {
        let runs = [(3, 4), (20, 1), (70, 30)].map(|(first, len)| (PageId::new(first), len));
        for one_by_one in [false, true] {
            let (_file, map) = mapped(Writing::ThroughMapping);
            map.drops_one_by_one.store(one_by_one, Ordering::Relaxed);
            let pages = crate::pages::Pages::new(PageId::new(1), PAGES, false);
            let id = PageId::new(20);
            let mut page = map.owned(id, pages.create(id).unwrap());
            page.bytes_mut().fill(9);
            map.unmap(&runs);
            assert!(page.bytes().iter().all(|&byte| byte == 9));
            page.seal();
        }
    }
}
