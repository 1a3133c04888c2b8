//! A pager whose pages go wrong on purpose, and which counts guards.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use bifolio_pager::{
    Counters, Error, Flushed, Geometry, MemPager, MetaSlot, PageGuard, PageId, PageRef, Pager,
    Result,
};

/// A `MemPager` whose reads can be rigged. What is read is damaged after it was verified, as if
/// the checksum had not seen it.
pub struct Rigged {
    inner: MemPager,
    rig: Mutex<Rig>,
    guards: Arc<AtomicUsize>,
    guards_max: usize,
    /// What was asked for ahead, and what was read, in order; cleared by whoever looks.
    pub log: Mutex<Vec<Access>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    Prefetch(Vec<PageId>),
    Read(PageId),
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, Default)]
pub enum Rig {
    #[default]
    Nothing,
    /// A byte of a page has these bits flipped.
    Flip(PageId, usize, u8),
    /// A page shows zeros.
    Blank(PageId),
    /// The so many-th read from now on shows zeros, and `confirm` says so: what a memory map does
    /// when the kernel cannot bring a page back.
    Vanish(usize),
}

/// Counts itself among the guards that live.
struct Token(Arc<AtomicUsize>);

impl Drop for Token {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

pub struct Ref {
    bytes: Vec<u8>,
    vanished: Option<PageId>,
    _token: Token,
}

pub struct Mut<'p> {
    page: <MemPager as Pager>::Mut<'p>,
    _token: Token,
}

impl Rigged {
    /// # Panics
    /// Later, when more than `guards_max` guards live at once.
    pub fn new(inner: MemPager, guards_max: usize) -> Self {
        Rigged {
            inner,
            rig: Mutex::default(),
            guards: Arc::default(),
            guards_max,
            log: Mutex::default(),
        }
    }

    pub fn rig(&self, rig: Rig) {
        *self.rig.lock().unwrap() = rig;
    }

    fn token(&self) -> Token {
        let others = self.guards.fetch_add(1, Relaxed);
        assert!(others < self.guards_max, "{} guards at once", others + 1);
        Token(self.guards.clone())
    }
}

impl Deref for Ref {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl PageGuard for Ref {
    fn confirm(&self) -> Result<()> {
        match self.vanished {
            Some(page) => Err(Error::corrupt(page, "the page vanished")),
            None => Ok(()),
        }
    }
}

impl Deref for Mut<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.page
    }
}

impl DerefMut for Mut<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.page
    }
}

impl Pager for Rigged {
    type Ref<'p> = Ref;
    type Mut<'p> = Mut<'p>;

    fn geometry(&self) -> Geometry {
        self.inner.geometry()
    }

    fn page_count(&self) -> u64 {
        self.inner.page_count()
    }

    fn grow(&self, page_count: u64) -> Result<()> {
        self.inner.grow(page_count)
    }

    fn read(&self, at: PageRef) -> Result<Ref> {
        self.log.lock().unwrap().push(Access::Read(at.id));
        let mut bytes = self.inner.read(at)?.to_vec();
        let mut vanished = None;
        match &mut *self.rig.lock().unwrap() {
            Rig::Flip(page, offset, bits) if *page == at.id => bytes[*offset] ^= *bits,
            Rig::Blank(page) if *page == at.id => bytes.fill(0),
            Rig::Vanish(0) => {
                bytes.fill(0);
                vanished = Some(at.id);
            }
            Rig::Vanish(reads) => *reads -= 1,
            _ => {}
        }
        Ok(Ref {
            bytes,
            vanished,
            _token: self.token(),
        })
    }

    fn create(&self, at: PageRef) -> Result<Mut<'_>> {
        Ok(Mut {
            page: self.inner.create(at)?,
            _token: self.token(),
        })
    }

    fn write(&self, at: PageRef) -> Result<Mut<'_>> {
        Ok(Mut {
            page: self.inner.write(at)?,
            _token: self.token(),
        })
    }

    fn seal(&self, pages: &[PageRef]) -> Result<()> {
        self.inner.seal(pages)
    }

    fn discard(&self, pages: &[PageId]) -> Result<()> {
        self.inner.discard(pages)
    }

    fn flush(&self, pages: &[PageRef]) -> Result<Flushed> {
        self.inner.flush(pages)
    }

    fn write_meta(&self, after: Flushed, slot: MetaSlot, meta: &[u8]) -> Result<()> {
        self.inner.write_meta(after, slot, meta)
    }

    fn prefetch(&self, pages: &[PageRef]) {
        let pages = pages.iter().map(|page| page.id).collect();
        self.log.lock().unwrap().push(Access::Prefetch(pages));
    }

    fn counters(&self) -> Counters {
        self.inner.counters()
    }

    fn effective_backend(&self) -> String {
        "a rigged pager".into()
    }
}
