//! A pager for very large files of which hardly anything is touched, and that can be full.

use std::collections::HashMap;
use std::sync::Arc;

use bifolio_pager::{
    Counters, Error, Flushed, Geometry, MetaSlot, PageGuard, PageId, PageRef, Pager, Result,
};
use std::ops::{Deref, DerefMut};
use std::sync::Mutex;

pub struct Sparse {
    geometry: Geometry,
    pub limit: u64,
    /// Discards that succeed before the rest of them fails.
    pub discards: Mutex<u64>,
    count: Mutex<u64>,
    pages: Mutex<HashMap<PageId, Arc<[u8]>>>,
    pub reads: Mutex<Vec<PageId>>,
    pub grown: Mutex<Vec<u64>>,
}

pub struct Ref(Arc<[u8]>);

pub struct Mut<'p> {
    pager: &'p Sparse,
    at: PageRef,
    bytes: Vec<u8>,
}

impl Sparse {
    pub fn new(geometry: Geometry) -> Self {
        Sparse {
            geometry,
            limit: u64::MAX,
            discards: Mutex::new(u64::MAX),
            count: Mutex::new(bifolio_pager::first_page(geometry).get()),
            pages: Mutex::default(),
            reads: Mutex::default(),
            grown: Mutex::default(),
        }
    }

    /// Changes the stored bytes of a page.
    pub fn damage(&self, id: PageId, change: impl FnOnce(&mut [u8])) {
        let mut pages = self.pages.lock().unwrap();
        let page = pages.get_mut(&id).expect("only stored pages are damaged");
        let mut bytes = page.to_vec();
        change(&mut bytes);
        *page = bytes.into();
    }

    pub fn bytes(&self, id: PageId) -> Vec<u8> {
        self.pages.lock().unwrap()[&id].to_vec()
    }

    /// How many pages were read since the last call.
    pub fn take_reads(&self) -> usize {
        std::mem::take(&mut *self.reads.lock().unwrap()).len()
    }
}

impl Pager for Sparse {
    type Ref<'p> = Ref;
    type Mut<'p> = Mut<'p>;

    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn page_count(&self) -> u64 {
        *self.count.lock().unwrap()
    }

    fn grow(&self, page_count: u64) -> Result<()> {
        if page_count > self.limit {
            let limit_bytes = self.geometry.page_size.bytes() as u64 * self.limit;
            return Err(Error::Full { limit_bytes });
        }
        let mut count = self.count.lock().unwrap();
        *count = page_count.max(*count);
        self.grown.lock().unwrap().push(page_count);
        Ok(())
    }

    fn read(&self, at: PageRef) -> Result<Ref> {
        self.reads.lock().unwrap().push(at.id);
        let pages = self.pages.lock().unwrap();
        let bytes = pages.get(&at.id);
        let bytes = bytes.ok_or_else(|| Error::corrupt(at.id, "the page is free"))?;
        self.geometry.expect(bytes, at)?;
        Ok(Ref(bytes.clone()))
    }

    fn create(&self, at: PageRef) -> Result<Mut<'_>> {
        assert!(at.id.get() < self.page_count(), "{at:?} is past the end");
        assert!(
            !self.pages.lock().unwrap().contains_key(&at.id),
            "{at:?} is created, but was not discarded"
        );
        let mut bytes = vec![0; self.geometry.page_size.usable()];
        bytes[..PageRef::LEN].copy_from_slice(&at.encode());
        let pager = self;
        Ok(Mut { pager, at, bytes })
    }

    fn write(&self, _: PageRef) -> Result<Mut<'_>> {
        unimplemented!("a map page is written once")
    }

    fn seal(&self, _: &[PageRef]) -> Result<()> {
        Ok(())
    }

    fn discard(&self, pages: &[PageId]) -> Result<()> {
        let mut left = self.discards.lock().unwrap();
        *left = left
            .checked_sub(1)
            .ok_or_else(|| Error::Guarded { page: pages[0] })?;
        let mut stored = self.pages.lock().unwrap();
        for id in pages {
            stored.remove(id);
        }
        Ok(())
    }

    fn flush(&self, _: &[PageRef]) -> Result<Flushed> {
        Ok(Flushed::proven())
    }

    fn write_meta(&self, _: Flushed, _: MetaSlot, _: &[u8]) -> Result<()> {
        Ok(())
    }

    fn counters(&self) -> Counters {
        Counters::default()
    }

    fn effective_backend(&self) -> String {
        "sparse".into()
    }
}

impl Deref for Ref {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl PageGuard for Ref {
    fn confirm(&self) -> Result<()> {
        Ok(())
    }
}

impl Deref for Mut<'_> {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl DerefMut for Mut<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl Drop for Mut<'_> {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes).into();
        self.pager.pages.lock().unwrap().insert(self.at.id, bytes);
    }
}
