//! A pager without a file: the contract as the simplest code that keeps it.
//!
//! It is three things. The *reference* that the two real pagers are compared with: where it and the
//! contract's words agree, they are right. A *test double* that models storage as well as memory:
//! it keeps, beside what a process sees, what a power cut would leave ([`MemPager::power_cut`] and
//! its relatives). And the store of a database that lives in memory only ([`MemPager::volatile`]).
//!
//! Locking: the list of slots is locked for reading by every call, and for writing by `grow` alone;
//! then one slot at a time, for a moment. No lock is held while a guard lives: a read guard shares
//! the page's bytes, a write guard has them with it and brings them back.
//!
//! Start at the implementation of [`Pager`]; `slot.rs` has the states, `crash.rs` the power cuts.

mod crash;
mod slot;

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock, RwLockReadGuard};

pub use self::crash::Cut;
use self::slot::{Held, Life, Slot};
use crate::error::{Error, Result};
use crate::page::{Geometry, PageId, PageRef, SELF_REF, Standing};
use crate::pager::{Counters, Flushed, META_LEN, MetaSlot, PageGuard, Pager, first_page};

/// A pager without a file; see the [module](self).
///
/// Its memory is bounded by nothing but the caller's `grow`, which takes 48 bytes a page at
/// once, and the pages themselves: it never answers [`Error::NoFreeFrame`].
pub struct MemPager {
    geometry: Geometry,
    keeps: Keeps,
    slots: RwLock<Vec<Mutex<Slot>>>,
    storage: Mutex<Storage>,
    tally: Tally,
}

/// Whether a pager remembers what was flushed when the page has gone on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keeps {
    Storage,
    Nothing,
}

const _: () = assert!(size_of::<Mutex<Slot>>() == 48);

#[derive(Default)]
struct Storage {
    /// Slots that the file has for certain after a power cut.
    slots_durable: usize,
    metas: [Option<Vec<u8>>; 2],
}

#[derive(Default)]
struct Tally {
    hits: AtomicU64,
    verified: AtomicU64,
    created: AtomicU64,
    flushed: AtomicU64,
    syncs: AtomicU64,
}

fn count(counter: &AtomicU64, more: usize) {
    counter.fetch_add(more as u64, Ordering::Relaxed);
}

impl MemPager {
    /// An empty file, whose storage is modelled too: for tests. A page that was flushed stays in
    /// memory, as what a power cut would leave, until the number's next life is flushed.
    pub fn new(geometry: Geometry) -> Self {
        Self::that_keeps(Keeps::Storage, geometry)
    }

    /// An empty file of which nothing outlives the pager, in as little memory as that takes: for a
    /// database in memory. After a power cut it is empty.
    pub fn volatile(geometry: Geometry) -> Self {
        Self::that_keeps(Keeps::Nothing, geometry)
    }

    fn that_keeps(keeps: Keeps, geometry: Geometry) -> Self {
        MemPager {
            geometry,
            keeps,
            slots: RwLock::default(),
            storage: Mutex::default(),
            tally: Tally::default(),
        }
    }

    /// What was last written to a meta slot, [`META_LEN`] bytes; `None` if nothing was.
    pub fn read_meta(&self, slot: MetaSlot) -> Option<Vec<u8>> {
        self.storage.lock().metas[slot as usize].clone()
    }

    /// The slot of a page; `None` below the first page and past the end.
    fn slot<'s>(&self, slots: &'s [Mutex<Slot>], id: PageId) -> Option<&'s Mutex<Slot>> {
        let index = id.get().checked_sub(first_page(self.geometry).get())?;
        slots.get(usize::try_from(index).ok()?)
    }

    /// Calls `work` with the slot of a page that the caller claims to exist.
    fn with_slot<T>(
        &self,
        id: PageId,
        verb: &'static str,
        work: impl FnOnce(&mut Slot) -> Result<T>,
    ) -> Result<T> {
        let slots = self.slots.read();
        match self.slot(&slots, id) {
            Some(slot) => work(&mut slot.lock()),
            None => Err(Error::WrongState {
                page: id,
                verb,
                state: "outside the file",
            }),
        }
    }

    fn seal_one(&self, at: PageRef) -> Result<()> {
        self.with_slot(at.id, "sealed", |slot| {
            slot.expect_private(&self.geometry, at, "sealed")?;
            let image = slot.image.as_mut().and_then(Arc::get_mut);
            let image = image.expect("a private page without guards is not shared");
            self.geometry.seal_image(image, Standing::Final);
            slot.life = Life::Sealed;
            Ok(())
        })
    }

    fn expect_flushable(&self, at: PageRef) -> Result<()> {
        self.with_slot(at.id, "flushed", |slot| match slot.life {
            // Nobody changed it since it was stored.
            Life::Unknown => Ok(()),
            Life::Sealed if slot.own_ref() == Some(at) => Ok(()),
            other => Err(Error::WrongState {
                page: at.id,
                verb: "flushed",
                state: match other {
                    Life::Sealed => "of another version",
                    other => other.in_words(),
                },
            }),
        })
    }

    fn lock_slots(&self) -> RwLockReadGuard<'_, Vec<Mutex<Slot>>> {
        self.slots.read()
    }
}

impl Pager for MemPager {
    type Ref<'p> = MemRef;
    type Mut<'p> = MemMut<'p>;

    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn page_count(&self) -> u64 {
        first_page(self.geometry).get() + self.lock_slots().len() as u64
    }

    fn grow(&self, page_count: u64) -> Result<()> {
        let wanted = page_count.saturating_sub(first_page(self.geometry).get());
        let wanted = usize::try_from(wanted).unwrap_or(usize::MAX);
        let mut slots = self.slots.write();
        let more = wanted.saturating_sub(slots.len());
        slots
            .try_reserve(more)
            .map_err(|error| Error::io("grow", std::io::Error::other(error)))?;
        let len = slots.len() + more;
        slots.resize_with(len, Default::default);
        Ok(())
    }

    fn read(&self, at: PageRef) -> Result<MemRef> {
        let slots = self.lock_slots();
        let Some(slot) = self.slot(&slots, at.id) else {
            return Err(Error::corrupt(at.id, "the file has no such page"));
        };
        let mut slot = slot.lock();
        match slot.life {
            Life::Free => return Err(Error::corrupt(at.id, "the page is free")),
            Life::Writing => return Err(Error::Guarded { page: at.id }),
            Life::Unknown | Life::Private | Life::Sealed => {}
        }
        if slot.verify(&self.geometry, at.id)? {
            count(&self.tally.verified, 1);
        } else {
            count(&self.tally.hits, 1);
        }
        if slot.life == Life::Unknown {
            slot.life = Life::Sealed;
        }
        let held = slot.hold();
        self.geometry.expect(&held.image, at)?;
        let usable = self.geometry.page_size.usable();
        Ok(MemRef { held, usable })
    }

    fn create(&self, at: PageRef) -> Result<MemMut<'_>> {
        self.with_slot(at.id, "created", |slot| {
            slot.expect_unguarded(at.id)?;
            if matches!(slot.life, Life::Private | Life::Sealed) {
                return Err(Error::WrongState {
                    page: at.id,
                    verb: "created",
                    state: slot.life.in_words(),
                });
            }
            let mut image = vec![0; self.geometry.page_size.bytes()].into_boxed_slice();
            image[SELF_REF].copy_from_slice(&at.encode());
            slot.image = None;
            slot.life = Life::Writing;
            count(&self.tally.created, 1);
            Ok(self.lend(at.id, image))
        })
    }

    fn write(&self, at: PageRef) -> Result<MemMut<'_>> {
        self.with_slot(at.id, "written", |slot| {
            slot.expect_private(&self.geometry, at, "written")?;
            let image = slot.image.take().and_then(Arc::into_inner);
            slot.life = Life::Writing;
            Ok(self.lend(
                at.id,
                image.expect("a private page without guards is not shared"),
            ))
        })
    }

    fn seal(&self, pages: &[PageRef]) -> Result<()> {
        // All are asked before one is changed, so that a refusal changes nothing.
        for &at in pages {
            self.with_slot(at.id, "sealed", |slot| {
                slot.expect_private(&self.geometry, at, "sealed")
            })?;
        }
        pages.iter().try_for_each(|&at| self.seal_one(at))
    }

    fn discard(&self, pages: &[PageId]) -> Result<()> {
        for &id in pages {
            self.with_slot(id, "discarded", |slot| {
                if slot.life == Life::Writing {
                    return Err(Error::Guarded { page: id });
                }
                if self.keeps == Keeps::Storage {
                    let late = slot.unflushed(&self.geometry);
                    slot.late = late.or(slot.late.take());
                }
                slot.image = None;
                slot.verified = false;
                slot.life = Life::Free;
                Ok(())
            })?;
        }
        Ok(())
    }

    fn flush(&self, pages: &[PageRef]) -> Result<Flushed> {
        for &at in pages {
            self.expect_flushable(at)?;
        }
        let slots = self.lock_slots();
        if self.keeps == Keeps::Storage {
            for at in pages {
                let mut slot = self
                    .slot(&slots, at.id)
                    .expect("it was there just now")
                    .lock();
                slot.durable = slot.image.clone();
                slot.late = None;
            }
            self.storage.lock().slots_durable = slots.len();
        }
        count(&self.tally.flushed, pages.len());
        count(&self.tally.syncs, 1);
        Ok(Flushed::proven())
    }

    fn write_meta(&self, _after: Flushed, slot: MetaSlot, meta: &[u8]) -> Result<()> {
        assert_eq!(meta.len(), META_LEN, "a meta has one length");
        self.storage.lock().metas[slot as usize] = Some(meta.to_vec());
        count(&self.tally.syncs, 1);
        Ok(())
    }

    /// Counts memory by looking at every slot: about 10 ns per page of the file.
    fn counters(&self) -> Counters {
        let get = |counter: &AtomicU64| Some(counter.load(Ordering::Relaxed));
        Counters {
            hits: get(&self.tally.hits),
            pages_read: get(&self.tally.verified),
            pages_written: get(&self.tally.flushed),
            pages_verified: get(&self.tally.verified),
            pages_created: get(&self.tally.created),
            syncs: get(&self.tally.syncs),
            memory_bytes: Some(self.memory_bytes()),
            ..Counters::default()
        }
    }

    fn effective_backend(&self) -> String {
        match self.keeps {
            Keeps::Storage => "memory, with a model of storage".into(),
            Keeps::Nothing => "memory".into(),
        }
    }
}

impl MemPager {
    fn lend(&self, id: PageId, image: Box<[u8]>) -> MemMut<'_> {
        MemMut {
            pager: self,
            id,
            usable: self.geometry.page_size.usable(),
            image,
        }
    }

    fn memory_bytes(&self) -> u64 {
        let slots = self.lock_slots();
        let images: usize = slots.iter().map(|slot| slot.lock().images()).sum();
        (images * self.geometry.page_size.bytes() + slots.capacity() * size_of::<Mutex<Slot>>())
            as u64
    }
}

/// A page of a [`MemPager`], being read.
pub struct MemRef {
    held: Held,
    usable: usize,
}

impl Deref for MemRef {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.held.image[..self.usable]
    }
}

impl PageGuard for MemRef {
    fn confirm(&self) -> Result<()> {
        Ok(())
    }
}

/// A private page of a [`MemPager`], being written.
pub struct MemMut<'p> {
    pager: &'p MemPager,
    id: PageId,
    usable: usize,
    image: Box<[u8]>,
}

impl Deref for MemMut<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.image[..self.usable]
    }
}

impl DerefMut for MemMut<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.image[..self.usable]
    }
}

impl Drop for MemMut<'_> {
    fn drop(&mut self) {
        let slots = self.pager.lock_slots();
        let slot = self
            .pager
            .slot(&slots, self.id)
            .expect("a file never shrinks");
        let mut slot = slot.lock();
        assert_eq!(
            slot.life,
            Life::Writing,
            "page {} changed under its writer",
            self.id
        );
        slot.image = Some(Arc::new(std::mem::take(&mut self.image)));
        slot.verified = true;
        slot.life = Life::Private;
    }
}
