//! The file below the mapping: its length, its syncs, and what has failed.
//!
//! Everything that can fail for good goes through here, so that the first failure stops all later
//! writing (clause 5). That includes write-out that is only started: its errors must not be lost.
//!
//! Which sync? By default `msync` of the span in which pages were flushed. Beneath, it is an
//! `fdatasync` of a range: the writer beside a checkpoint has dirtied pages elsewhere, which a sync of
//! the whole file would write and wait for (the example `sync_figures` measures both). Pages that were dirtied and discarded inside the span are written too,
//! for nothing; scattered calls that spare them cost a device flush each, which is dearer.
//!
//! Not here: which pages have changed (`pager.rs`), and what they hold.

use std::fs::File;
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bifolio_pager::defect::{Defect, planted};
use bifolio_pager::witness::{Operation, witnessed};
use bifolio_pager::{Error, META_LEN, MetaSlot, PageId, PageSize, Result};
use parking_lot::Mutex;
use rustix::fs::FallocateFlags;

use crate::map::{Map, start_write_out};
use crate::options::{MmapOptions, SyncStyle};
use crate::poison::Poison;

/// The file, as far as it can fail.
pub(crate) struct Storage {
    file: File,
    page_size: PageSize,
    read_only: bool,
    sync_style: SyncStyle,
    poison: Poison,
    /// Whole pages that the file has room for. Never falls.
    page_count: AtomicU64,
    /// Pages that the file had when it was opened.
    opened_with: u64,
    /// One growth at a time.
    growing: Mutex<()>,
    /// Whether the file grew since its length was last made durable.
    grown: AtomicBool,
    /// Calls of `msync` and `fdatasync`.
    syncs: AtomicU64,
}

/// Pages from `first` up to but without `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    first: PageId,
    end: PageId,
}

impl Span {
    /// The smallest span with `other`, if there is one, and page `id` in it.
    pub(crate) fn with(other: Option<Span>, id: PageId) -> Span {
        let end = id.plus(1);
        match other {
            None => Span { first: id, end },
            Some(span) => Span {
                first: span.first.min(id),
                end: span.end.max(end),
            },
        }
    }
}

impl Storage {
    /// The file as it is now.
    pub(crate) fn open(file: File, page_size: PageSize, options: &MmapOptions) -> Result<Self> {
        let len = length(&file)?;
        Ok(Storage {
            file,
            page_size,
            read_only: options.read_only,
            sync_style: options.sync_style,
            poison: Poison::default(),
            page_count: AtomicU64::new(len / page_size.bytes() as u64),
            opened_with: len / page_size.bytes() as u64,
            growing: Mutex::new(()),
            grown: AtomicBool::new(false),
            syncs: AtomicU64::new(0),
        })
    }

    /// Whole pages that the file has room for.
    #[inline]
    pub(crate) fn page_count(&self) -> u64 {
        // Acquire: whoever sees the new count may touch what was allocated before it was set.
        self.page_count.load(Ordering::Acquire)
    }

    /// Calls of `msync` and `fdatasync` so far.
    pub(crate) fn syncs(&self) -> u64 {
        self.syncs.load(Ordering::Relaxed)
    }

    /// Refuses where nothing may be written: opened read-only, failed before, or part of the
    /// mapping lost, into which stores would go nowhere.
    #[inline]
    pub(crate) fn check_writable(&self, map: &Map) -> Result<()> {
        if self.read_only {
            return Err(Error::ReadOnly);
        }
        self.poison.check()?;
        if map.watch().any() {
            return Err(self.poison.record(map_lost()));
        }
        Ok(())
    }

    /// Whether the file had page `id` when it was opened, and so perhaps something in it. What was
    /// allocated since and never written is zeros without being read.
    pub(crate) fn was_there_at_open(&self, id: PageId) -> bool {
        id.get() < self.opened_with
    }

    /// Overwrites page `id` with zeros in the page cache. By `pwrite`, because the kernel then knows
    /// that all of the page is overwritten; a store through the mapping would first read it.
    pub(crate) fn write_zero_page(&self, id: PageId) -> Result<()> {
        static ZEROS: [u8; 65_536] = [0; 65_536];
        self.file
            .write_all_at(&ZEROS[..self.page_size.bytes()], self.page_size.offset(id))
            .map_err(|error| self.failed(format!("overwriting page {id} with zeros"), error))
    }

    /// Drops those of `count` pages from `first` on that are in the page cache, clean, and in no page
    /// table. A hint.
    pub(crate) fn drop_unmapped(&self, map: &Map, first: PageId, count: u64) {
        let (offset, len) = map.span(first, count);
        let len = std::num::NonZeroU64::new(len as u64);
        let advice = rustix::fs::Advice::DontNeed;
        let _ = rustix::fs::fadvise(&self.file, offset as u64, len, advice);
    }

    /// Writes the checksum word of page `id`, whose other bytes the file has.
    pub(crate) fn write_checksum(&self, id: PageId, checksum: u64) -> Result<()> {
        let offset = self.page_size.offset(id) + self.page_size.usable() as u64;
        self.file
            .write_all_at(&checksum.to_le_bytes(), offset)
            .map_err(|error| self.failed(format!("writing the checksum of page {id}"), error))
    }

    /// Writes the images of pages `first` and following into the page cache.
    pub(crate) fn write_pages(&self, first: PageId, images: &[IoSlice<'_>]) -> Result<()> {
        let len: usize = images.iter().map(|image| image.len()).sum();
        let offset = self.page_size.offset(first);
        let failed = |error| self.failed(format!("writing {len} bytes at {offset}"), error);
        let written = loop {
            match rustix::io::pwritev(&self.file, images, offset) {
                Err(rustix::io::Errno::INTR) => {}
                written => break written.map_err(|error| failed(error.into()))?,
            }
        };
        if written == len {
            return Ok(());
        }
        // What is left after a short write has an error to tell, or is written now.
        let mut start = 0;
        for image in images {
            let done = written.saturating_sub(start).min(image.len());
            let rest = offset + (start + done) as u64;
            self.file
                .write_all_at(&image[done..], rest)
                .map_err(failed)?;
            start += image.len();
        }
        Ok(())
    }

    /// Makes room for `page_count` pages, at most `limit`.
    pub(crate) fn grow(&self, page_count: u64, limit: u64) -> Result<()> {
        let _growing = self.growing.lock();
        let now = self.page_count();
        if page_count <= now {
            return Ok(());
        }
        let page_bytes = self.page_size.bytes() as u64;
        if page_count > limit {
            return Err(Error::Full {
                limit_bytes: limit * page_bytes,
            });
        }
        let (old_len, new_len) = (now * page_bytes, page_count * page_bytes);
        self.allocate(old_len, new_len - old_len)
            .map_err(|error| self.failed(format!("growing the file to {new_len} bytes"), error))?;
        self.check_length(new_len)?;
        // Before the count: whoever flushes a page of the new room finds this set.
        self.grown.store(true, Ordering::Release);
        self.page_count.store(page_count, Ordering::Release);
        Ok(())
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        loop {
            let growth = || Operation::Allocate { len: offset + len };
            let allocated = witnessed(&self.file, growth, || {
                let flags = FallocateFlags::empty();
                Ok(rustix::fs::fallocate(&self.file, flags, offset, len)?)
            });
            match allocated {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The file system cannot allocate without writing. Then zeros are written.
                Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                    return self.write_zeros(offset, len);
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn write_zeros(&self, offset: u64, len: u64) -> io::Result<()> {
        let zeros = vec![0; (1 << 20).min(len as usize)];
        let mut done = 0;
        while done < len {
            let piece = (len - done).min(zeros.len() as u64) as usize;
            self.file.write_all_at(&zeros[..piece], offset + done)?;
            done += piece as u64;
        }
        Ok(())
    }

    /// Makes what was written in `span` durable, and the file's length if that has changed.
    pub(crate) fn sync(&self, map: &Map, span: Option<Span>) -> Result<()> {
        if let Some(Span { first, end }) = span {
            let (offset, len) = map.span(first, end.get() - first.get());
            self.sync_bytes(map, offset, len)?;
        }
        // Cleared before the sync: a growth during it is left to the next one. That this one may
        // fail does not matter, since there is no next one then.
        if self.grown.swap(false, Ordering::AcqRel) && !planted(Defect::MmapSkipsLengthSync) {
            self.syncs.fetch_add(1, Ordering::Relaxed);
            let sync = || Ok(rustix::fs::fdatasync(&self.file)?);
            retried(|| witnessed(&self.file, || Operation::SyncAll, sync))
                .map_err(|error| self.failed("syncing the file's length (fdatasync)", error))?;
        }
        self.check_after_sync(map)
    }

    /// Writes a meta slot and makes it durable.
    ///
    /// By `pwrite` and not through the mapping: a full disk or a short file is an error here and no
    /// signal, and the page cache that the mapping shows is the same one.
    pub(crate) fn write_meta(&self, map: &Map, slot: MetaSlot, meta: &[u8]) -> Result<()> {
        let write = || self.file.write_all_at(meta, slot.offset());
        witnessed(&self.file, || Operation::Write, write)
            .map_err(|error| self.failed(format!("writing meta slot {slot:?}"), error))?;
        self.sync_bytes(map, slot.offset() as usize, META_LEN)?;
        self.check_after_sync(map)
    }

    /// Starts writing `count` pages from `first` on out.
    pub(crate) fn start_write_out(&self, map: &Map, first: PageId, count: u64) {
        let (offset, len) = map.span(first, count);
        match retried(|| start_write_out(&self.file, offset, len)) {
            Ok(()) => {}
            // Forbidden here, so that nothing happened.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)) => {}
            // The hint promises nothing, but a failed write may have marked pages clean.
            Err(error) => _ = self.failed("starting to write pages out", error),
        }
    }

    fn sync_bytes(&self, map: &Map, offset: usize, len: usize) -> Result<()> {
        self.syncs.fetch_add(1, Ordering::Relaxed);
        if planted(Defect::MmapSkipsSync) {
            return Ok(());
        }
        let len = match planted(Defect::MmapSyncsHalf) {
            true => (len / 2).next_multiple_of(4096),
            false => len,
        };
        let operation = || match self.sync_style {
            SyncStyle::Msync => Operation::SyncData {
                range: offset as u64..(offset + len) as u64,
            },
            SyncStyle::Fdatasync => Operation::SyncAll,
        };
        let sync = || match self.sync_style {
            SyncStyle::Msync => map.sync(offset, len),
            SyncStyle::Fdatasync => rustix::fs::fdatasync(&self.file).map_err(Into::into),
        };
        let synced = retried(|| witnessed(&self.file, operation, sync));
        if planted(Defect::MmapIgnoresSyncError) {
            return Ok(());
        }
        synced.map_err(|error| {
            let how = self.sync_style.name();
            self.failed(format!("syncing {len} bytes at {offset} ({how})"), error)
        })
    }

    /// What a sync cannot tell: dirty pages past the end of a file that somebody cut off are dropped
    /// and the sync succeeds, and stores into a lost page never were in the file.
    fn check_after_sync(&self, map: &Map) -> Result<()> {
        self.check_length(self.page_count() * self.page_size.bytes() as u64)?;
        if map.watch().any() {
            return Err(self.poison.record(map_lost()));
        }
        Ok(())
    }

    fn check_length(&self, at_least: u64) -> Result<()> {
        let len = length(&self.file).map_err(|error| self.poison.record(error))?;
        if len >= at_least {
            return Ok(());
        }
        let cut = format!("it has {len} bytes and should have {at_least}: somebody cut it off");
        Err(self.failed("checking the file's length", io::Error::other(cut)))
    }

    fn failed(&self, operation: impl Into<std::borrow::Cow<'static, str>>, e: io::Error) -> Error {
        self.poison.record(Error::io(operation, e))
    }
}

/// Calls again what a signal interrupted. No failure is retried: only a call that did not happen.
fn retried(mut call: impl FnMut() -> io::Result<()>) -> io::Result<()> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// Bytes in the file now.
pub(crate) fn length(file: &File) -> Result<u64> {
    let stat = rustix::fs::fstat(file).map_err(|error| Error::io("reading the length", error))?;
    Ok(u64::try_from(stat.st_size).unwrap_or(0))
}

#[cold]
fn map_lost() -> Error {
    let why = "the kernel could not bring a page in (SIGBUS), so the mapping is no longer the file";
    Error::io("writing through the mapping", io::Error::other(why))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_the_smallest_with_all_its_pages() {
        let one = Span::with(None, PageId::new(40));
        let two = Span::with(Some(one), PageId::new(50));
        let span = Span::with(Some(two), PageId::new(35));
        assert_eq!(span.first, PageId::new(35));
        assert_eq!(span.end, PageId::new(51));
    }
}
