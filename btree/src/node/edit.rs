//! Changing a node in place.

use std::marker::PhantomData;

use bifolio_pager::PageRef;

use super::{
    Branch, CELLS_START, COUNT, DEAD, Damage, Key, LEFTMOST, LEVEL, Layout, PREFIX_LEN, SLOT_LEN,
    View, cell_offset, get_u16, no_cell, put_u16,
};

/// A private leaf or branch, for changing. Every method leaves the page as the invariants of a
/// node ask, given that it was; where it was not, the page may end up otherwise wrong.
pub(crate) struct Edit<'a, L> {
    bytes: &'a mut [u8],
    count: usize,
    slots_start: usize,
    layout: PhantomData<L>,
}

impl<'a, L: Layout> Edit<'a, L> {
    pub(crate) fn new(bytes: &'a mut [u8], level: u8) -> Result<Self, Damage> {
        let count = View::<L>::parse(bytes, level)?.count();
        let slots_start = L::HEADER_LEN + get_u16(bytes, PREFIX_LEN);
        Ok(Edit {
            bytes,
            count,
            slots_start,
            layout: PhantomData,
        })
    }

    /// Puts an entry before slot `index`; `false`, and no change, if the page has no room for it.
    pub(crate) fn insert(
        &mut self,
        index: usize,
        key: Key<'_>,
        payload: &L::Payload<'_>,
    ) -> Result<bool, Damage> {
        assert!(index <= self.count, "slot {index} of {}", self.count);
        let prefix_len = self.slots_start - L::HEADER_LEN;
        if key.len() < prefix_len {
            return Err("the prefix is longer than a key between the fences");
        }
        let suffix = key.skip(prefix_len);
        let len = L::encoded_len(suffix.len(), payload);
        if !self.make_room(len + SLOT_LEN)? {
            return Ok(false);
        }
        let start = (get_u16(self.bytes, CELLS_START).checked_sub(len)).ok_or_else(no_cell)?;
        L::encode(&mut self.bytes[start..start + len], suffix, payload);
        put_u16(self.bytes, CELLS_START, start);
        self.insert_slot(index, suffix.head(), start);
        Ok(true)
    }

    /// Takes the entry of slot `index` out.
    pub(crate) fn remove(&mut self, index: usize) -> Result<(), Damage> {
        let (start, len) = self.cell(index)?;
        let dead = get_u16(self.bytes, DEAD);
        let cells_start = get_u16(self.bytes, CELLS_START);
        if start < cells_start || cells_start + dead + len > self.bytes.len() {
            return Err("a cell lies outside the cell area, or overlaps dead bytes");
        }
        // No trace of what was removed stays in the file, and `check` can tell dead from alive.
        self.bytes[start..start + len].fill(0);
        if self.count == 1 {
            put_u16(self.bytes, CELLS_START, self.bytes.len());
            put_u16(self.bytes, DEAD, 0);
        } else if start == cells_start {
            put_u16(self.bytes, CELLS_START, start + len);
        } else {
            put_u16(self.bytes, DEAD, dead + len);
        }
        self.remove_slot(index);
        Ok(())
    }

    /// Overwrites the payload of slot `index` if the new one takes as many bytes as the old;
    /// `false`, and no change, if it does not.
    pub(crate) fn replace_same_len(
        &mut self,
        index: usize,
        payload: &L::Payload<'_>,
    ) -> Result<bool, Damage> {
        let (start, len) = self.cell(index)?;
        let cell = &mut self.bytes[start..start + len];
        let suffix_len = L::suffix(cell).ok_or_else(no_cell)?.len();
        if L::encoded_len(suffix_len, payload) != len {
            return Ok(false);
        }
        L::encode_payload(cell, suffix_len, payload);
        Ok(true)
    }

    /// What the cell of slot `index` holds beside its key.
    pub(crate) fn payload(&self, index: usize) -> Result<L::Payload<'_>, Damage> {
        let (start, len) = self.cell(index)?;
        L::payload(&self.bytes[start..start + len]).ok_or_else(no_cell)
    }

    /// Makes the gap at least `need` bytes wide if the page has that many to spare.
    fn make_room(&mut self, need: usize) -> Result<bool, Damage> {
        if need <= self.gap() {
            return Ok(true);
        }
        if need > self.gap() + get_u16(self.bytes, DEAD) {
            return Ok(false);
        }
        self.compact()?;
        if need > self.gap() {
            return Err("the page has fewer dead bytes than it says");
        }
        Ok(true)
    }

    fn gap(&self) -> usize {
        let slots_end = self.slots_start + self.count * SLOT_LEN;
        get_u16(self.bytes, CELLS_START).saturating_sub(slots_end)
    }

    /// Moves all cells to the end of the page, in key order, so that no dead bytes are left.
    fn compact(&mut self) -> Result<(), Damage> {
        let old = self.bytes.to_vec();
        let old = View::<L>::parse(&old, self.bytes[LEVEL.start])?;
        let lens = (0..self.count)
            .map(|index| L::cell_len(old.cell(index)?).ok_or_else(no_cell))
            .collect::<Result<Vec<usize>, Damage>>()?;
        let slots_end = self.slots_start + self.count * SLOT_LEN;
        let cells_start = (self.bytes.len().checked_sub(lens.iter().sum()))
            .filter(|&start| start >= slots_end)
            .ok_or("the cells are longer than the page")?;
        self.bytes[slots_end..cells_start].fill(0);
        let mut to = cells_start;
        for (index, len) in lens.into_iter().enumerate() {
            self.bytes[to..to + len].copy_from_slice(&old.cell(index)?[..len]);
            let slot = self.slots_start + index * SLOT_LEN;
            put_u16(self.bytes, slot + 4..slot + 6, to);
            to += len;
        }
        put_u16(self.bytes, CELLS_START, cells_start);
        put_u16(self.bytes, DEAD, 0);
        Ok(())
    }

    /// Where the cell of slot `index` begins, and how long it is.
    fn cell(&self, index: usize) -> Result<(usize, usize), Damage> {
        assert!(index < self.count, "slot {index} of {}", self.count);
        let at = self.slots_start + index * SLOT_LEN;
        let slot = self.bytes[at..]
            .first_chunk()
            .expect("slots lie within the page");
        let start = cell_offset(slot);
        let cell = self.bytes.get(start..).ok_or_else(no_cell)?;
        let len = L::cell_len(cell).ok_or_else(no_cell)?;
        if start < self.slots_start + self.count * SLOT_LEN {
            return Err("a cell overlaps the slots");
        }
        Ok((start, len))
    }

    fn insert_slot(&mut self, index: usize, head: u32, offset: usize) {
        let at = self.slots_start + index * SLOT_LEN;
        let end = self.slots_start + self.count * SLOT_LEN;
        self.bytes.copy_within(at..end, at + SLOT_LEN);
        self.bytes[at..at + 4].copy_from_slice(&head.to_le_bytes());
        put_u16(self.bytes, at + 4..at + 6, offset);
        self.set_count(self.count + 1);
    }

    fn remove_slot(&mut self, index: usize) {
        let at = self.slots_start + index * SLOT_LEN;
        let end = self.slots_start + self.count * SLOT_LEN;
        self.bytes.copy_within(at + SLOT_LEN..end, at);
        self.bytes[end - SLOT_LEN..end].fill(0);
        self.set_count(self.count - 1);
    }

    fn set_count(&mut self, count: usize) {
        self.count = count;
        put_u16(self.bytes, COUNT, count);
    }
}

impl Edit<'_, Branch> {
    /// Replaces the reference to child `index`.
    pub(crate) fn set_child(&mut self, index: usize, child: PageRef) -> Result<(), Damage> {
        let start = match index.checked_sub(1) {
            Some(slot) => self.cell(slot)?.0,
            None => LEFTMOST.start,
        };
        self.bytes[start..start + PageRef::LEN].copy_from_slice(&child.encode());
        Ok(())
    }
}
