//! A pager over a temporary file that the test can reach too.

#![allow(dead_code, reason = "each test binary uses some of it")]

use std::fs::File;
use std::os::unix::fs::FileExt;

use bifolio_pager::{
    Access, Counters, Flushed, Geometry, Kind, MetaSlot, PageId, PageRef, PageSize, Pager, Result,
    Version, first_page, page,
};
use bifolio_pager_mmap::{MmapOptions, MmapPager, PageMut, PageRead};

/// Small enough that a test does not reserve the address space of a machine.
pub const MAX_BYTES: u64 = 1 << 30;

pub fn options() -> MmapOptions {
    MmapOptions {
        max_bytes: MAX_BYTES,
        ..MmapOptions::default()
    }
}

pub fn geometry() -> Geometry {
    Geometry {
        page_size: PageSize::DEFAULT,
        seed: 0xb1f0_110f,
    }
}

/// The `index`-th page that a file can have.
pub fn nth(index: u64, version: u64) -> PageRef {
    PageRef {
        id: first_page(geometry()).plus(index),
        version: Version::new(version),
    }
}

/// A file of `count` pages, all flushed and filled with their index.
pub fn filled(count: u64) -> OnFile {
    let pager = OnFile::new(tempfile::tempfile().unwrap(), geometry(), options());
    fill(&pager, count);
    pager
}

pub fn fill(pager: &impl Pager, count: u64) {
    pager
        .grow(first_page(pager.geometry()).get() + count)
        .unwrap();
    let pages: Vec<_> = (0..count).map(|index| nth(index, 1)).collect();
    for (index, &at) in pages.iter().enumerate() {
        let mut page = pager.create(at).unwrap();
        page[page::KIND.start] = Kind::Leaf as u8;
        page[page::HEADER_LEN..].fill(index as u8);
    }
    pager.seal(&pages).unwrap();
    let _ = pager.flush(&pages).unwrap();
}

/// The pager, and the file that it maps.
pub struct OnFile {
    pub pager: MmapPager,
    pub file: File,
}

impl OnFile {
    pub fn new(file: File, geometry: Geometry, options: MmapOptions) -> Self {
        OnFile {
            pager: MmapPager::open(file.try_clone().unwrap(), geometry, options).unwrap(),
            file,
        }
    }

    /// The same file opened anew.
    pub fn reopen(self, options: MmapOptions) -> Self {
        let geometry = self.geometry();
        drop(self.pager);
        OnFile::new(self.file, geometry, options)
    }

    /// Changes the stored image of a page, while nobody may be looking at it.
    pub fn damage(&self, id: PageId, damage: &mut dyn FnMut(&mut [u8])) {
        let page_size = self.geometry().page_size;
        let mut image = vec![0; page_size.bytes()];
        self.file
            .read_exact_at(&mut image, page_size.offset(id))
            .unwrap();
        damage(&mut image);
        self.file
            .write_all_at(&image, page_size.offset(id))
            .unwrap();
    }
}

impl Pager for OnFile {
    type Ref<'p> = PageRead<'p>;
    type Mut<'p> = PageMut<'p>;

    fn geometry(&self) -> Geometry {
        self.pager.geometry()
    }

    fn page_count(&self) -> u64 {
        self.pager.page_count()
    }

    fn grow(&self, page_count: u64) -> Result<()> {
        self.pager.grow(page_count)
    }

    fn read(&self, at: PageRef) -> Result<PageRead<'_>> {
        self.pager.read(at)
    }

    fn create(&self, at: PageRef) -> Result<PageMut<'_>> {
        self.pager.create(at)
    }

    fn write(&self, at: PageRef) -> Result<PageMut<'_>> {
        self.pager.write(at)
    }

    fn seal(&self, pages: &[PageRef]) -> Result<()> {
        self.pager.seal(pages)
    }

    fn discard(&self, pages: &[PageId]) -> Result<()> {
        self.pager.discard(pages)
    }

    fn flush(&self, pages: &[PageRef]) -> Result<Flushed> {
        self.pager.flush(pages)
    }

    fn write_meta(&self, after: Flushed, slot: MetaSlot, meta: &[u8]) -> Result<()> {
        self.pager.write_meta(after, slot, meta)
    }

    fn prefetch(&self, pages: &[PageRef]) {
        self.pager.prefetch(pages);
    }

    fn write_back(&self, pages: &[PageRef]) {
        self.pager.write_back(pages);
    }

    fn advise(&self, access: Access) {
        self.pager.advise(access);
    }

    fn counters(&self) -> Counters {
        self.pager.counters()
    }

    fn effective_backend(&self) -> String {
        self.pager.effective_backend()
    }
}
