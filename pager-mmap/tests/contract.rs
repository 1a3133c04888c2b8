//! The mmap pager keeps the contract of `Pager`.

mod common;

use std::os::unix::fs::FileExt;

use bifolio_pager::conformance::Fixture;
use bifolio_pager::{Geometry, META_LEN, MetaSlot, PageId, Pager};
use bifolio_pager_mmap::{MmapOptions, SyncStyle, WriteStyle};
use common::{OnFile, options};

/// One of the styles of writing; with `private_bytes` so small that pages are spilled, or not.
struct Mapped {
    write_style: WriteStyle,
    private_bytes: u64,
}

const STORES: Mapped = Mapped {
    write_style: WriteStyle::Mapping,
    private_bytes: 0,
};
const PWRITE: Mapped = Mapped {
    write_style: WriteStyle::Pwrite,
    private_bytes: 16 << 20,
};
/// Room for eight to 128 private pages, by their size.
const PWRITE_SPILLING: Mapped = Mapped {
    write_style: WriteStyle::Pwrite,
    private_bytes: 512 << 10,
};

impl Mapped {
    fn options(&self) -> MmapOptions {
        MmapOptions {
            write_style: self.write_style,
            private_bytes: self.private_bytes,
            sync_style: match self.private_bytes {
                0 => SyncStyle::Msync,
                _ => SyncStyle::Fdatasync,
            },
            ..options()
        }
    }
}

impl Fixture for Mapped {
    type Pager = OnFile;

    fn create(&self, geometry: Geometry) -> OnFile {
        OnFile::new(tempfile::tempfile().unwrap(), geometry, self.options())
    }

    fn reopen(&self, pager: OnFile) -> OnFile {
        pager.reopen(self.options())
    }

    fn reopen_damaged(
        &self,
        pager: OnFile,
        id: PageId,
        damage: &mut dyn FnMut(&mut [u8]),
    ) -> Option<OnFile> {
        let closed = pager.reopen(self.options());
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

bifolio_pager::conformance!(mmap, STORES);
bifolio_pager::conformance!(mmap_pwrite, PWRITE);
bifolio_pager::conformance!(mmap_pwrite_spilling, PWRITE_SPILLING);
