//! The operations: where states, bytes and storage come together.
//!
//! The hit path is [`MmapPager::read`] through `hold_sealed`: a hazard, one word of state, twelve
//! bytes of the page. Everything behind it is out of line.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bifolio_pager::page::{SELF_REF, Standing};
use bifolio_pager::table::PageTable;
use bifolio_pager::{
    Access, Counters, Error, Flushed, Geometry, META_LEN, MetaSlot, PageId, PageRef, PageSize,
    Pager, Result, first_page,
};
use parking_lot::Mutex;

use crate::budget::Keeper;
use crate::buffers::Buffers;
use crate::file::{MappedFile, Tally, count};
use crate::guard::{PageMut, PageRead, confirm_after_faults};
use crate::map::{Map, Writing};
use crate::options::{self, Advice, MmapOptions, WriteStyle};
use crate::pages::Pages;
use crate::recent::Recent;
use crate::state::{Hold, Latch, State};
use crate::storage::{self, Span, Storage};
use crate::warm::Warm;

/// A file of pages, reached through one shared mapping. See the [crate].
///
/// # Sharing the file
///
/// While the pager lives nobody else may change the file. Another process that writes pages changes
/// what guards expose, which no code here can see or prevent: the caller holds an exclusive lock on
/// the file, and that is the whole defence. Another process that cuts the file off is noticed, by
/// `SIGBUS` or at the next flush, and gives errors.
pub struct MmapPager {
    /// Keeps the budget, if there is one. Before `file`, which it uses.
    _keeper: Option<Keeper>,
    pub(crate) file: Arc<MappedFile>,
    pub(crate) geometry: Geometry,
    options: MmapOptions,
    /// The pages whose checksum was filled in since the last successful sync; they lie in this span.
    unsynced: Mutex<Option<Span>>,
    /// `None` where the machine does not say what is in memory.
    warm: Option<Warm>,
    recent: Recent,
    /// Of the pages that the file had when it was opened, those that have been stored into since.
    stored: PageTable<AtomicBool>,
}

impl MmapPager {
    /// Maps `file`, which the caller has opened (for writing too, unless `read_only`), locked, and
    /// found to have this geometry. Its length says how many pages it has; bytes past the last whole
    /// page are no page. It may be empty, and is not read here.
    ///
    /// Installs the process's handler for `SIGBUS` on the first call.
    ///
    /// # Errors
    /// [`Error::BadOption`] if the page size is not a multiple of the machine's;
    /// [`Error::Unavailable`] if the machine refuses the mapping or the handler.
    pub fn open(file: File, geometry: Geometry, options: MmapOptions) -> Result<Self> {
        check_page_size(geometry.page_size, rustix::param::page_size())?;
        let map = reserve(&file, geometry.page_size, &options)?;
        let page_bytes = geometry.page_size.bytes() as u64;
        let capacity = map.reserved_bytes() / page_bytes;
        // Only a hint, and refused by kernels built without it: what they do then is correct too.
        let _ = map.advise(options.advice.for_kernel());
        let file_pages = storage::length(&file)?.div_ceil(page_bytes);
        let warm = map.tells_residency(file_pages).then(|| Warm::new(capacity));
        let budget = options.memory_bytes.filter(|_| warm.is_some());
        let file = Arc::new(MappedFile {
            pages: Pages::new(first_page(geometry), capacity, budget.is_some()),
            map,
            storage: Storage::open(file, geometry.page_size, &options)?,
            tally: Tally::default(),
        });
        Ok(MmapPager {
            _keeper: budget
                .map(|bytes| Keeper::start(Arc::clone(&file), bytes))
                .transpose()?,
            file,
            warm,
            recent: Recent::new(),
            stored: PageTable::new(file_pages),
            geometry,
            options,
            unsynced: Mutex::new(None),
        })
    }

    /// Bytes of address space reserved: the most that the file can grow to while it is open.
    pub fn reserved_bytes(&self) -> u64 {
        self.file.map.reserved_bytes()
    }

    /// The soft bound on what of the file is in memory, if there is one that can be kept.
    fn budget(&self) -> Option<u64> {
        self.options.memory_bytes.filter(|_| self.warm.is_some())
    }

    /// Whether `id` is a page of the file as it is now.
    fn has(&self, id: PageId) -> bool {
        (first_page(self.geometry).get()..self.page_count()).contains(&id.get())
    }

    fn check_has(&self, page: PageId, verb: &'static str) -> Result<()> {
        if self.has(page) {
            return Ok(());
        }
        Err(Error::WrongState {
            page,
            verb,
            state: "outside the file",
        })
    }

    /// Whether nobody has asked this of the page since the file was opened. It was there then.
    fn is_first_store(&self, id: PageId) -> bool {
        let stored = self.stored.entry(id).expect("the table has its capacity");
        !stored.swap(true, Ordering::Relaxed)
    }

    /// Holds a page that is known to be sealed and carries the right stamp.
    #[inline(always)]
    fn hold_sealed(&self, at: PageRef) -> Option<Hold<'_>> {
        let hold = self.file.pages.use_sealed(at.id)?;
        let found = PageRef::decode(&self.file.map.bytes(at.id, &hold)[SELF_REF]);
        (found == at).then_some(hold)
    }

    /// Holds a page that is not known to be sealed, or says why it cannot be had.
    #[cold]
    fn hold_slowly(&self, at: PageRef) -> Result<Hold<'_>> {
        if at.id < first_page(self.geometry) {
            return Err(Error::corrupt(at.id, "it lies in the file's meta area"));
        }
        if !self.has(at.id) {
            return Err(Error::corrupt(at.id, "it lies past the end of the file"));
        }
        let hold = self
            .file
            .pages
            .hold(at.id, |latch| self.verify(at.id, latch))?;
        let verdict = self.geometry.expect(self.file.map.bytes(at.id, &hold), at);
        // A page that was lost is zeros: that is a failed read, and not damage.
        confirm_after_faults(&self.file.map, at.id)?;
        verdict.map(|()| hold)
    }

    fn verify(&self, id: PageId, latch: &Latch<'_>) -> Result<()> {
        count(&self.file.tally.verified, 1);
        let image = self.file.map.image(id, latch);
        let verdict = self.geometry.verify_image(image, id, Standing::Final);
        confirm_after_faults(&self.file.map, id)?;
        verdict
    }

    /// Checks that a page of our own making is the one that the caller means.
    fn expect_own(&self, page: &[u8], at: PageRef, verb: &'static str) -> Result<()> {
        if self.geometry.expect(page, at).is_ok() {
            return Ok(());
        }
        // A page that was lost is zeros: that is a failure, and not a mistake of the caller's.
        self.file.storage.check_writable(&self.file.map)?;
        Err(wrong_state(at.id, verb, "of another version"))
    }

    /// Fills in the checksum of a sealed page, unless that was done or the page came from the file
    /// with it. Whether the page may be newer in the page cache than on storage.
    fn fill_checksum(&self, at: PageRef) -> Result<bool> {
        self.check_has(at.id, "flushed")?;
        let word = self.file.pages.word(at.id);
        let is_written = self.file.map.buffers().is_some();
        let Some(hold) = self.file.pages.hold_sealed(at.id) else {
            return match word.state() {
                // Nothing was heard of it since the file was opened, so it is as the file has it.
                State::Unknown => Ok(false),
                state => Err(wrong_state(at.id, "flushed", state.name())),
            };
        };
        if !is_written && !word.wants_checksum() {
            return Ok(false);
        }
        let page = self.file.map.held(at.id, hold);
        self.expect_own(page.bytes(), at, "flushed")?;
        if is_written {
            return Ok(true); // with its checksum, when it was sealed
        }
        page.fill_checksum(self.geometry.checksum(page.bytes(), Standing::Final));
        word.set_checksummed();
        Ok(true)
    }
}

impl Pager for MmapPager {
    type Ref<'p> = PageRead<'p>;
    type Mut<'p> = PageMut<'p>;

    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn page_count(&self) -> u64 {
        self.file.storage.page_count()
    }

    fn grow(&self, page_count: u64) -> Result<()> {
        self.file.storage.check_writable(&self.file.map)?;
        let limit = self.reserved_bytes() / self.geometry.page_size.bytes() as u64;
        self.file.storage.grow(page_count, limit)
    }

    /// A page known to be sealed costs a store to memory of this thread's own, a load of its state
    /// and a look at its header: about 6 ns more than touching the page.
    // Always: out of line, the guard comes back through memory, stored by words and loaded by pairs
    // of words, for which the processor waits longer than for all the rest (15 ns instead of 6).
    #[inline(always)]
    fn read(&self, at: PageRef) -> Result<PageRead<'_>> {
        // Two words from either path, so that the guard is put together in registers.
        let hold = match self.hold_sealed(at) {
            Some(hold) => hold,
            None => self.hold_slowly(at)?,
        };
        Ok(PageRead(self.file.map.held(at.id, hold)))
    }

    /// Zeros the page through the mapping. Where the file has old content there, this costs a look at
    /// whether that is in memory (`mincore`; saved where recent.rs guesses so), and if not, a `pwrite`;
    /// if it is, the page is parted from its neighbours in the page cache, once since the file was opened.
    fn create(&self, at: PageRef) -> Result<PageMut<'_>> {
        self.file.storage.check_writable(&self.file.map)?;
        self.check_has(at.id, "created")?;
        let is_new = self.file.pages.word(at.id).state() == State::Unknown;
        let mut page = self.own(at.id, self.file.pages.create(at.id)?, false)?;
        let has_old_content = !is_new || self.file.storage.was_there_at_open(at.id);
        let in_place = self.file.map.buffers().is_none();
        let is_recent = in_place && self.recent.note(at.id);
        if in_place && has_old_content && !is_recent {
            if !self.recent.guess(|| self.file.map.in_memory(at.id)) {
                self.file.storage.write_zero_page(at.id)?;
                count(&self.file.tally.overwritten_unread, 1);
            } else if self.file.storage.was_there_at_open(at.id) && self.is_first_store(at.id) {
                page.part_from_neighbours();
            }
        }
        page.zero();
        page.bytes_mut()[SELF_REF].copy_from_slice(&at.encode());
        count(&self.file.tally.created, 1);
        Ok(PageMut(page))
    }

    fn write(&self, at: PageRef) -> Result<PageMut<'_>> {
        self.file.storage.check_writable(&self.file.map)?;
        self.check_has(at.id, "written")?;
        let page = self.own(at.id, self.file.pages.write(at.id)?, true)?;
        self.expect_own(page.bytes(), at, "written")?;
        Ok(PageMut(page))
    }

    /// All or none: a refusal changes nothing.
    fn seal(&self, pages: &[PageRef]) -> Result<()> {
        self.file.storage.check_writable(&self.file.map)?;
        let mut owned = Vec::with_capacity(pages.len());
        for &at in pages {
            self.check_has(at.id, "sealed")?;
            let page = self.file.map.owned(at.id, self.file.pages.seal(at.id)?);
            self.expect_own(page.bytes(), at, "sealed")?;
            owned.push((at.id, page));
        }
        if let Some(buffers) = self.file.map.buffers() {
            self.write_sealed(buffers, &mut owned)?;
            owned.into_iter().for_each(|(_, page)| page.seal_written());
        } else {
            owned.into_iter().for_each(|(_, page)| page.seal());
        }
        Ok(())
    }

    /// Never gives space back to the file system: a hole would have to be allocated again, and the
    /// number is used again soon. One `membarrier`, however many pages.
    fn discard(&self, pages: &[PageId]) -> Result<()> {
        self.file.storage.check_writable(&self.file.map)?;
        for &id in pages {
            self.check_has(id, "discarded")?;
        }
        if let Some(buffers) = self.file.map.buffers() {
            self.discard_buffered(buffers, pages);
        }
        self.file.pages.discard(pages)
    }

    fn flush(&self, pages: &[PageRef]) -> Result<Flushed> {
        self.file.storage.check_writable(&self.file.map)?;
        // One at a time: the second finds checksums filled in and must not return before they are
        // durable.
        let mut unsynced = self.unsynced.lock();
        self.file.storage.check_writable(&self.file.map)?;
        for &at in pages {
            if self.fill_checksum(at)? {
                *unsynced = Some(Span::with(*unsynced, at.id));
            }
        }
        self.file.storage.sync(&self.file.map, *unsynced)?;
        *unsynced = None;
        Ok(Flushed::proven())
    }

    fn write_meta(&self, _after: Flushed, slot: MetaSlot, meta: &[u8]) -> Result<()> {
        assert_eq!(meta.len(), META_LEN, "a meta has one length");
        self.file.storage.check_writable(&self.file.map)?;
        self.file.storage.write_meta(&self.file.map, slot, meta)
    }

    /// One system call that names each run of neighbours, where the kernel has it; else one call for
    /// each run. For pages that are probably in memory none, but one look at one of them.
    fn prefetch(&self, pages: &[PageRef]) {
        let first = first_page(self.geometry);
        let end = PageId::new(self.page_count());
        let pages = pages.iter().map(|at| at.id);
        let pages = pages.filter(|&id| first <= id && id < end);
        let cold = match &self.warm {
            Some(warm) => warm.cold(pages.clone(), |id| self.file.map.in_memory(id)),
            None => pages.clone().collect(),
        };
        count(&self.file.tally.prefetched, pages.count() as u64);
        if !cold.is_empty() {
            count(&self.file.tally.hinted, cold.len() as u64);
            self.file.pages.mark_used(&cold);
            self.file.map.will_need(&runs(cold));
        }
    }

    /// Fills checksums in, and starts one write for each run of neighbours.
    fn write_back(&self, pages: &[PageRef]) {
        if self.file.storage.check_writable(&self.file.map).is_err() {
            return;
        }
        // A flush under way may be writing them already.
        let Some(mut unsynced) = self.unsynced.try_lock() else {
            return;
        };
        let mut filled = Vec::with_capacity(pages.len());
        for &at in pages {
            if self.fill_checksum(at).unwrap_or(false) {
                *unsynced = Some(Span::with(*unsynced, at.id));
                filled.push(at.id);
            }
        }
        for (first, len) in runs(filled) {
            self.file
                .storage
                .start_write_out(&self.file.map, first, len);
        }
    }

    fn advise(&self, access: Access) {
        let advice = match access {
            Access::Normal => self.options.advice,
            Access::Random => Advice::Random,
            Access::Sequential => Advice::Sequential,
        };
        let _ = self.file.map.advise(advice.for_kernel());
    }

    /// The kernel reads, writes and evicts unseen, so that most fields stay `None`.
    fn counters(&self) -> Counters {
        let get = |counter: &AtomicU64| Some(counter.load(Ordering::Relaxed));
        let (tally, buffers) = (&self.file.tally, self.file.map.buffers());
        Counters {
            pages_prefetched: get(&tally.prefetched),
            pages_verified: get(&tally.verified),
            pages_created: get(&tally.created),
            pages_written: buffers.and_then(|_| get(&tally.written)),
            write_calls: buffers.and_then(|_| get(&tally.write_calls)),
            pages_stolen: buffers.and_then(|_| get(&tally.stolen)),
            overwrites_unread: get(&tally.overwritten_unread),
            evictions: self.budget().and_then(|_| get(&tally.evicted)),
            syncs: Some(self.file.storage.syncs()),
            memory_bytes: Some(
                self.file.pages.memory_bytes()
                    + self.stored.memory_bytes() as u64
                    + self.warm.as_ref().map_or(0, Warm::memory_bytes)
                    + buffers.map_or(0, Buffers::memory_bytes),
            ),
            ..Counters::default()
        }
    }

    fn effective_backend(&self) -> String {
        let advice = self.options.advice.name();
        let how = if self.options.read_only {
            "read-only".to_owned()
        } else {
            format!(
                "{}, {}",
                self.options.write_style.name(),
                self.options.sync_style.name()
            )
        };
        let mib = self.reserved_bytes() >> 20;
        let reserved = match mib >> 10 {
            0 => format!("{mib} MiB reserved"),
            gib => format!("{gib} GiB reserved"),
        };
        let budget = match (self.budget(), self.options.memory_bytes) {
            (Some(bytes), _) => format!(", {} MiB soft budget", bytes >> 20),
            (None, Some(_)) => ", no budget: the kernel does not say what is in memory".to_owned(),
            (None, None) => String::new(),
        };
        format!("mmap, {advice}, {how}, {reserved}{budget}")
    }
}

fn wrong_state(page: PageId, verb: &'static str, state: &'static str) -> Error {
    Error::WrongState { page, verb, state }
}

fn check_page_size(page_size: PageSize, system: usize) -> Result<()> {
    if page_size.bytes().is_multiple_of(system) {
        return Ok(());
    }
    Err(Error::BadOption(format!(
        "pages of {} bytes cannot be mapped on a machine whose own are {system}; use the buffer pool",
        page_size.bytes()
    )))
}

/// Maps as much as was asked for, or as much as can be had.
fn reserve(file: &File, page_size: PageSize, options: &MmapOptions) -> Result<Map> {
    let file_len = storage::length(file)?;
    let page_bytes = page_size.bytes() as u64;
    let least = options::least_reservation(file_len, page_bytes);
    let mut bytes = options::reservation(options.max_bytes, file_len, page_bytes);
    let writing = match options.write_style {
        _ if options.read_only => Writing::Never,
        WriteStyle::Mapping => Writing::ThroughMapping,
        WriteStyle::Pwrite => Writing::InBuffers {
            bytes: options.private_bytes,
        },
    };
    loop {
        let len = usize::try_from(bytes).unwrap_or(usize::MAX);
        match Map::new(file, len, page_size, writing) {
            Err(Error::Io { .. }) if bytes > least => {
                bytes = (bytes / 2 / page_bytes * page_bytes).max(least);
            }
            Err(Error::Io { source, .. }) => {
                return Err(Error::Unavailable {
                    what: "the mmap pager",
                    why: format!("mapping {bytes} bytes of the file failed: {source}"),
                });
            }
            other => return other,
        }
    }
}

/// Runs of neighbouring pages, as first page and length, in page order.
fn runs(mut pages: Vec<PageId>) -> Vec<(PageId, u64)> {
    pages.sort_unstable();
    pages.dedup();
    let mut runs: Vec<(PageId, u64)> = Vec::new();
    for page in pages {
        match runs.last_mut() {
            Some((first, len)) if first.plus(*len) == page => *len += 1,
            _ => runs.push((page, 1)),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_become_runs() {
        let pages = [9, 3, 4, 7, 3, 8].map(PageId::new).to_vec();
        let expected = [(3, 2), (7, 3)].map(|(first, len)| (PageId::new(first), len));
        assert_eq!(runs(pages), expected);
        assert_eq!(runs(Vec::new()), []);
    }

    #[test]
    fn a_page_that_the_machine_cannot_map_is_refused() {
        check_page_size(PageSize::DEFAULT, 4096).unwrap();
        let refusal = check_page_size(PageSize::DEFAULT, 16384).unwrap_err();
        assert!(matches!(refusal, Error::BadOption(why) if why.contains("16384")));
    }
}
