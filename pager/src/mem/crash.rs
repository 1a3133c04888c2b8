//! What is left of a [`MemPager`] when the power goes, the process ends, or a sector rots.
//!
//! Storage is modelled as clause 4 allows and no worse: a flushed page is there; any other page is
//! there or not, by sectors of 512 bytes; a length that was not flushed is there or not. Chances are
//! drawn from a seed by a generator of this file, so that a seed means the same for ever.

use std::sync::Arc;

use parking_lot::{Mutex, RwLock};

use super::slot::{Image, Life, Slot};
use super::{Keeps, MemPager, Storage};
use crate::page::PageId;
use crate::pager::{META_LEN, MetaSlot};

/// What a disk writes whole or not at all.
const SECTOR: usize = 512;

/// What a power cut does to what was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// All of it is gone.
    Drop,
    /// All of it is there, as after the death of the process alone.
    Keep,
    /// Any of the writes are there, whole ones, in any order.
    Reorder,
    /// Any sectors of any of the writes are there.
    Tear,
    /// The same, and every change of length is gone.
    LengthLost,
}

impl Cut {
    /// Every kind.
    pub const ALL: [Cut; 5] = [
        Cut::Drop,
        Cut::Keep,
        Cut::Reorder,
        Cut::Tear,
        Cut::LengthLost,
    ];

    /// Its name, for a count.
    pub const fn name(self) -> &'static str {
        match self {
            Cut::Drop => "dropped",
            Cut::Keep => "kept",
            Cut::Reorder => "reordered",
            Cut::Tear => "torn",
            Cut::LengthLost => "length lost",
        }
    }
}

/// Which of the images that storage may have it does have.
enum Fate<'a> {
    /// Only what was flushed.
    Flushed,
    /// All of them.
    Newest,
    /// Each sector for itself, or all of a page alike, as the dice say.
    Torn(&'a mut Dice),
    /// As one kind of cut leaves it.
    Cut(Cut, &'a mut Dice),
}

impl MemPager {
    /// The file as a power cut now would leave it if nothing was written early: what was flushed,
    /// and nothing else. Costs a reference per page. This pager goes on undisturbed, also while
    /// other threads use it.
    pub fn power_cut(&self) -> MemPager {
        self.after(Fate::Flushed)
    }

    /// The file as a power cut now may leave it: what was flushed, and of what was not, any part.
    /// Private pages too, under their own checksum; a page under a write guard is not torn.
    ///
    /// The same state and the same seed give the same file. Seeds differ in kind, not only in
    /// detail: some lose all, some keep all, some tear most pages.
    pub fn power_cut_torn(&self, seed: u64) -> MemPager {
        self.after(Fate::Torn(&mut Dice(seed)))
    }

    /// As [`power_cut_torn`](MemPager::power_cut_torn), in the middle of a
    /// [`write_meta`](crate::Pager::write_meta) of `meta` into `slot`: some sectors of it are there.
    ///
    /// # Panics
    /// If `meta` is not [`META_LEN`] bytes.
    pub fn power_cut_in_meta(&self, slot: MetaSlot, meta: &[u8], seed: u64) -> MemPager {
        let mut dice = Dice(!seed);
        let left = self.power_cut_torn(seed);
        left.tear_meta(slot, meta, |_| dice.one_in(2));
        left
    }

    /// The file as a power cut of this kind now may leave it.
    pub fn power_cut_as(&self, cut: Cut, seed: u64) -> MemPager {
        self.after(Fate::Cut(cut, &mut Dice(seed)))
    }

    /// As [`power_cut_as`](MemPager::power_cut_as), in the middle of a
    /// [`write_meta`](crate::Pager::write_meta) of `meta` into `slot`, of which all, nothing, or any
    /// sectors are there.
    ///
    /// # Panics
    /// If `meta` is not [`META_LEN`] bytes.
    pub fn power_cut_in_meta_as(
        &self,
        slot: MetaSlot,
        meta: &[u8],
        cut: Cut,
        seed: u64,
    ) -> MemPager {
        let mut dice = Dice(!seed);
        let left = self.power_cut_as(cut, seed);
        let whole = dice.one_in(2);
        left.tear_meta(slot, meta, |_| match cut {
            Cut::Drop => false,
            Cut::Keep => true,
            Cut::Reorder => whole,
            Cut::Tear | Cut::LengthLost => dice.one_in(2),
        });
        left
    }

    fn tear_meta(&self, slot: MetaSlot, meta: &[u8], mut written: impl FnMut(usize) -> bool) {
        assert_eq!(meta.len(), META_LEN, "a meta has one length");
        let mut storage = self.storage.lock();
        let stored = storage.metas[slot as usize].get_or_insert_with(|| vec![0; META_LEN]);
        let sectors = meta.chunks(SECTOR).zip(stored.chunks_mut(SECTOR));
        for (index, (new, old)) in sectors.enumerate() {
            if written(index) {
                old.copy_from_slice(new);
            }
        }
    }

    /// The file as the end of this process leaves it to the next one: everything that was written
    /// is there, since the operating system has it. The same as a power cut right after the kernel
    /// wrote all of a shared mapping back.
    pub fn process_exit(&self) -> MemPager {
        self.after(Fate::Newest)
    }

    /// Damages a page where it is stored: `damage` is given the whole image to change. The page is
    /// verified again at its next read (clause 6); guards that live go on showing what they showed.
    /// A page that was never written is zeros.
    ///
    /// # Panics
    /// If the page lies outside the file or is being written.
    pub fn corrupt(&self, id: PageId, damage: impl FnOnce(&mut [u8])) {
        let slots = self.slots.read();
        let slot = self
            .slot(&slots, id)
            .expect("only a page of the file can be damaged");
        let mut slot = slot.lock();
        assert_ne!(
            slot.life,
            Life::Writing,
            "page {id} is being written, not stored"
        );
        let found = slot
            .unflushed(&self.geometry)
            .or_else(|| slot.durable.clone());
        let mut image = match found {
            Some(image) => image.as_ref().clone(),
            None => vec![0; self.geometry.page_size.bytes()].into(),
        };
        damage(&mut image);
        let image = Arc::new(image);
        let flushed = match (&slot.image, &slot.durable) {
            (Some(live), Some(durable)) => Arc::ptr_eq(live, durable),
            (live, _) => live.is_none(),
        };
        if flushed {
            slot.durable = Some(image.clone());
        }
        if slot.life != Life::Free {
            slot.image = Some(image);
            slot.verified = false;
        }
    }

    fn after(&self, mut fate: Fate<'_>) -> MemPager {
        let slots = self.slots.read();
        let storage = self.storage.lock();
        let page_count = match &mut fate {
            _ if self.keeps == Keeps::Nothing => 0,
            Fate::Flushed => storage.slots_durable,
            Fate::Newest => slots.len(),
            Fate::Torn(dice) => match dice.one_in(2) {
                true => storage.slots_durable,
                false => slots.len(),
            },
            Fate::Cut(Cut::Drop | Cut::LengthLost, _) => storage.slots_durable,
            Fate::Cut(Cut::Keep, _) => slots.len(),
            Fate::Cut(Cut::Reorder | Cut::Tear, dice) => match dice.one_in(4) {
                true => storage.slots_durable,
                false => slots.len(),
            },
        };
        let temper = match &mut fate {
            Fate::Torn(dice) => Temper::draw(dice),
            Fate::Cut(Cut::Drop, _) => Temper::LoseAll,
            Fate::Cut(Cut::Reorder, _) => Temper::Whole,
            Fate::Cut(Cut::Tear | Cut::LengthLost, _) => Temper::Mix,
            _ => Temper::KeepAll,
        };
        let left = slots[..page_count]
            .iter()
            .map(|slot| {
                Mutex::new(Slot::stored(self.stored_image(
                    &slot.lock(),
                    &mut fate,
                    temper,
                )))
            })
            .collect();
        MemPager {
            geometry: self.geometry,
            keeps: self.keeps,
            slots: RwLock::new(left),
            storage: Mutex::new(Storage {
                slots_durable: page_count,
                metas: storage.metas.clone(),
            }),
            tally: Default::default(),
        }
    }

    fn stored_image(&self, slot: &Slot, fate: &mut Fate<'_>, temper: Temper) -> Option<Image> {
        let durable = slot.durable.clone();
        let newest = slot.unflushed(&self.geometry);
        match fate {
            Fate::Flushed => durable,
            Fate::Newest => newest.or(slot.late.clone()).or(durable),
            Fate::Torn(dice) | Fate::Cut(_, dice) => {
                let candidates: Vec<_> =
                    [slot.late.clone(), newest].into_iter().flatten().collect();
                candidates
                    .into_iter()
                    .fold(durable, |below, above| match temper.page(dice) {
                        PageFate::Lost => below,
                        PageFate::Kept => Some(above),
                        PageFate::Torn => Some(torn(below, &above, dice)),
                    })
            }
        }
    }
}

/// Sectors of `above` over `below`, or over zeros where nothing was ever written.
fn torn(below: Option<Image>, above: &[u8], dice: &mut Dice) -> Image {
    let mut image = match below {
        Some(below) => below.as_ref().clone(),
        None => vec![0; above.len()].into(),
    };
    for (new, old) in above.chunks(SECTOR).zip(image.chunks_mut(SECTOR)) {
        if dice.one_in(2) {
            old.copy_from_slice(new);
        }
    }
    Arc::new(image)
}

/// How kind one power cut is to pages. Drawn once per cut, because a cut that treats every page
/// alike finds other mistakes than one that mixes.
#[derive(Clone, Copy)]
enum Temper {
    LoseAll,
    KeepAll,
    /// Pages are there or not, and none is torn.
    Whole,
    Mix,
}

enum PageFate {
    Lost,
    Kept,
    Torn,
}

impl Temper {
    fn draw(dice: &mut Dice) -> Self {
        match dice.next() % 8 {
            0 => Temper::LoseAll,
            1 => Temper::KeepAll,
            _ => Temper::Mix,
        }
    }

    fn page(self, dice: &mut Dice) -> PageFate {
        match (self, dice.next() % 3) {
            (Temper::LoseAll, _) | (Temper::Mix | Temper::Whole, 0) => PageFate::Lost,
            (Temper::KeepAll | Temper::Whole, _) | (Temper::Mix, 1) => PageFate::Kept,
            (Temper::Mix, _) => PageFate::Torn,
        }
    }
}

/// The splitmix64 generator: the same numbers from the same seed, on every machine, for ever.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let value = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ (value >> 31)
    }

    fn one_in(&mut self, sides: u64) -> bool {
        self.next().is_multiple_of(sides)
    }
}
