//! Writing beside a mapping that is only read ([`WriteStyle::Pwrite`](crate::WriteStyle)).
//!
//! Private pages live in buffers (`buffers.rs`). `seal` fills their checksums in and writes them
//! with `pwrite`, neighbours at once; from then on they are read through the mapping, which shows
//! the same page cache. When the buffers are used up, the oldest private page is *spilled*: written
//! with the checksum of a private page, and read back if it is written again.
//!
//! A full page that is written this way is never read first, and no store that goes astray can
//! damage the file: the mapping is `PROT_READ`. In exchange every page is copied once more.

use std::io::IoSlice;

use bifolio_pager::page::Standing;
use bifolio_pager::{Error, PageId, Result};

use crate::buffers::Buffers;
use crate::file::count;
use crate::map::OwnPage;
use crate::pager::MmapPager;
use crate::state::Exclusive;

impl MmapPager {
    /// The bytes of a page that is being written: in a buffer of its own where the style wants one.
    /// `fill_from_file`: its content is what the file has, if it has no buffer yet.
    pub(crate) fn own<'p>(
        &'p self,
        id: PageId,
        exclusive: Exclusive<'p>,
        fill_from_file: bool,
    ) -> Result<OwnPage<'p>> {
        let Some(buffers) = self.file.map.buffers() else {
            return Ok(self.file.map.owned(id, exclusive));
        };
        let is_spilled = buffers.of(id).is_none();
        while !buffers.take(id) {
            if let Err(error) = self.spill_one(buffers) {
                match fill_from_file {
                    true => drop(exclusive), // it stays private, and spilled
                    false => exclusive.free(),
                }
                return Err(error);
            }
        }
        let mut page = self.file.map.owned(id, exclusive);
        if is_spilled && fill_from_file {
            page.copy_from_file(id);
        }
        Ok(page)
    }

    /// Writes the oldest private page that nobody holds, to use its buffer for another.
    #[cold]
    fn spill_one(&self, buffers: &Buffers) -> Result<()> {
        let capacity = buffers.capacity();
        for _ in 0..=capacity {
            let Some(id) = buffers.oldest() else { break };
            let Ok(exclusive) = self.file.pages.write(id) else {
                continue;
            };
            let mut page = self.file.map.owned(id, exclusive);
            page.fill_checksum(self.geometry.checksum(page.bytes(), Standing::Private));
            self.file
                .storage
                .write_pages(id, &[IoSlice::new(page.image())])?;
            count(&self.file.tally.stolen, 1);
            count(&self.file.tally.written, 1);
            count(&self.file.tally.write_calls, 1);
            buffers.release(id);
            return Ok(());
        }
        Err(Error::NoFreeFrame { capacity })
    }

    /// Writes pages that are about to be sealed, and takes their buffers back. Of those that were
    /// spilled the file has all but the final checksum.
    pub(crate) fn write_sealed(
        &self,
        buffers: &Buffers,
        pages: &mut [(PageId, OwnPage<'_>)],
    ) -> Result<()> {
        pages.sort_unstable_by_key(|(id, _)| *id);
        let is_buffered = |id: PageId| buffers.of(id).is_some();
        for (id, page) in pages.iter_mut() {
            let checksum = self.geometry.checksum(page.bytes(), Standing::Final);
            if is_buffered(*id) {
                page.fill_checksum(checksum);
            } else {
                self.file.storage.write_checksum(*id, checksum)?;
                count(&self.file.tally.written, 1);
                count(&self.file.tally.write_calls, 1);
            }
        }
        let follows = |page: PageId, next: PageId| page.plus(1) == next;
        let together = |page, next| follows(page, next) && is_buffered(page) == is_buffered(next);
        for run in pages.chunk_by(|(id, _), (next, _)| together(*id, *next)) {
            if !is_buffered(run[0].0) {
                continue;
            }
            for run in run.chunks(MOST_PAGES) {
                let images: Vec<_> = run
                    .iter()
                    .map(|(_, page)| IoSlice::new(page.image()))
                    .collect();
                self.file.storage.write_pages(run[0].0, &images)?;
                count(&self.file.tally.written, run.len() as u64);
                count(&self.file.tally.write_calls, 1);
            }
        }
        for (id, _) in pages.iter() {
            buffers.release(*id);
        }
        Ok(())
    }

    /// Takes the buffers of private pages that nobody holds back, and frees the pages.
    pub(crate) fn discard_buffered(&self, buffers: &Buffers, pages: &[PageId]) {
        for &id in pages {
            if buffers.of(id).is_some()
                && let Ok(exclusive) = self.file.pages.write(id)
            {
                buffers.release(id);
                exclusive.free();
            }
        }
    }
}

/// Pages in one `pwritev` (`UIO_MAXIOV`).
const MOST_PAGES: usize = 1024;
