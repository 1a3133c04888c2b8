//! The mmap pager keeps the contract of `Pager`.

mod common;

use std::os::unix::fs::FileExt;

use bifolio_pager::conformance::Fixture;
use bifolio_pager::{Geometry, META_LEN, MetaSlot, PageId, Pager};
use common::{OnFile, options};

struct Mapped;

impl Fixture for Mapped {
    type Pager = OnFile;

    fn create(&self, geometry: Geometry) -> OnFile {
        OnFile::new(tempfile::tempfile().unwrap(), geometry, options())
    }

    fn reopen(&self, pager: OnFile) -> OnFile {
        pager.reopen(options())
    }

    fn reopen_damaged(
        &self,
        pager: OnFile,
        id: PageId,
        damage: &mut dyn FnMut(&mut [u8]),
    ) -> Option<OnFile> {
        let closed = pager.reopen(options());
        closed.damage(id, damage); // nobody has read it since it was mapped
        Some(closed)
    }

    fn stored_meta(&self, pager: &OnFile, slot: MetaSlot) -> Option<Vec<u8>> {
        let mut meta = vec![0; META_LEN];
        pager.file.read_exact_at(&mut meta, slot.offset()).unwrap();
        Some(meta)
    }

    /// Cuts off a part of the last page, which the next sync finds out.
    fn break_device(&self, pager: &OnFile) -> bool {
        let len = pager.page_count() * pager.geometry().page_size.bytes() as u64;
        pager.file.set_len(len - 1).unwrap();
        true
    }
}

bifolio_pager::conformance!(mmap, Mapped);
