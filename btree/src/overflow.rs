//! Values too large for a leaf: chains of overflow pages.
//!
// ANCHOR: overflow
//! | offset | size | field      | meaning                                                         |
//! |-------:|-----:|------------|-----------------------------------------------------------------|
//! |      0 |   12 | own        | the page's own reference                                        |
//! |     12 |    1 | kind       | 3                                                               |
//! |     13 |    3 | (reserved) | zero                                                            |
//! |     16 |   12 | next       | reference to the next page of the value; zeros in the last      |
//! |     28 |    4 | len        | bytes of the value on this page                                 |
//! |     32 |    4 | run        | pages after this one in the chain that are its next neighbours  |
//! |     36 |  len | payload    | every page but the last is full                                 |
//! |      … |    … |            | zero                                                            |
// ANCHOR_END: overflow
//!
//! All pages of a chain carry the stamp of the transaction that wrote the value; a chain is never
//! changed, only replaced. `run` tells a reader what to prefetch and a writer what it can retire
//! without reading it.

use std::ops::Range;

use bifolio_pager::page::{HEADER_LEN as FRAME_LEN, KIND, KIND_HEADER};
use bifolio_pager::{self as pager, Kind, PageId, PageRef, Pager, Version};

use crate::error::Result;
use crate::node::{Damage, Overflow};
use crate::source::PageSource;
use crate::tree::visit;

const fn field(after: &Range<usize>, size: usize) -> Range<usize> {
    after.end..after.end + size
}

const NEXT: Range<usize> = FRAME_LEN..FRAME_LEN + PageRef::LEN;
const LEN: Range<usize> = field(&NEXT, 4);
const RUN: Range<usize> = field(&LEN, 4);
const HEADER_LEN: usize = RUN.end;

const _: () = assert!(HEADER_LEN == 36);

/// The longest value, in bytes: 1 GiB.
pub const MAX_VALUE_LEN: usize = 1 << 30;

/// Pages asked for at once.
const WINDOW: u64 = 64;

/// Bytes of a value that a page takes.
fn capacity(usable: usize) -> usize {
    usable - HEADER_LEN
}

/// An overflow page, for reading: its header agrees with where in the chain it was met.
pub(crate) struct Piece<'a> {
    pub(crate) payload: &'a [u8],
    /// The next page; `None` if nothing is left after this one.
    pub(crate) next: Option<PageRef>,
    /// Pages that follow as neighbours.
    pub(crate) run: u64,
}

fn get_u32(bytes: &[u8], at: Range<usize>) -> u32 {
    u32::from_le_bytes(bytes[at].try_into().expect("four bytes"))
}

impl<'a> Piece<'a> {
    /// The page as the piece of a value of which `remaining` bytes are still to come.
    pub(crate) fn parse(page: &'a [u8], remaining: usize) -> Result<Self, Damage> {
        if page[KIND.start] != Kind::Overflow as u8 || page[KIND_HEADER] != [0; 3] {
            return Err("a page of a value is not an overflow page");
        }
        let len = remaining.min(capacity(page.len()));
        if get_u32(page, LEN) as usize != len {
            return Err("an overflow page has more or less of the value than it should");
        }
        let next = PageRef::decode(&page[NEXT]);
        let is_last = len == remaining;
        let links_nowhere = page[NEXT] == [0; PageRef::LEN];
        if is_last != links_nowhere {
            return Err("a chain of overflow pages is longer or shorter than its value");
        }
        let run = u64::from(get_u32(page, RUN));
        let pages_left = (remaining - len).div_ceil(capacity(page.len())) as u64;
        if run > pages_left {
            return Err("a run of overflow pages is longer than the chain");
        }
        Ok(Piece {
            payload: &page[HEADER_LEN..HEADER_LEN + len],
            next: (!is_last).then_some(next),
            run,
        })
    }

    /// The page after the payload: zeros.
    pub(crate) fn rest<'b>(&self, page: &'b [u8]) -> &'b [u8] {
        &page[HEADER_LEN + self.payload.len()..]
    }
}

/// Pages of a chain for a value of this length.
fn page_count(len: usize, usable: usize) -> u64 {
    len.div_ceil(capacity(usable)) as u64
}

/// The neighbours `from .. from + count` of a page that carry the same stamp.
fn neighbours(of: PageRef, from: u64, count: u64) -> impl Iterator<Item = PageRef> {
    (from..from + count)
        .map_while(move |step| of.id.get().checked_add(step))
        .take_while(|&number| number <= PageId::MAX.get())
        .map(move |number| PageRef {
            id: PageId::new(number),
            version: of.version,
        })
}

/// A length that a chain in this file can have; a damaged one is refused before anything of that
/// size is allocated.
pub(crate) fn bounded_len<P: Pager>(pager: &P, overflow: Overflow) -> Result<usize> {
    let len = overflow.len as usize;
    let usable = pager.geometry().page_size.usable();
    if len > MAX_VALUE_LEN || page_count(len, usable) > pager.page_count() {
        let what = "the first of more overflow pages than the file has";
        return Err(pager::Error::corrupt(overflow.first.id, what).into());
    }
    Ok(len)
}

/// Visits the chain's pages in order, prefetching along each run.
pub(crate) fn for_each_piece<P: Pager>(
    pager: &P,
    overflow: Overflow,
    mut look: impl FnMut(PageRef, &Piece<'_>, &[u8]) -> Result<(), Damage>,
) -> Result<()> {
    let mut remaining = bounded_len(pager, overflow)?;
    let mut next = Some(overflow.first);
    let mut ahead = 0; // pages after this one that were already asked for
    while let Some(at) = next {
        let (len, following, run) = visit(pager, at, |page| {
            let piece = Piece::parse(page, remaining)?;
            look(at, &piece, page)?;
            Ok((piece.payload.len(), piece.next, piece.run))
        })?;
        if run > ahead && ahead <= WINDOW / 2 {
            let count = (run - ahead).min(WINDOW);
            let wanted: Vec<PageRef> = neighbours(at, ahead + 1, count).collect();
            pager.prefetch(&wanted);
            ahead += count;
        }
        ahead = ahead.min(run).saturating_sub(1);
        remaining -= len;
        next = following;
    }
    Ok(())
}

/// Appends the value to `to`.
#[cold]
pub(crate) fn read<P: Pager>(pager: &P, overflow: Overflow, to: &mut Vec<u8>) -> Result<()> {
    to.reserve(bounded_len(pager, overflow)?);
    for_each_piece(pager, overflow, |_, piece, _| {
        to.extend_from_slice(piece.payload);
        Ok(())
    })
}

/// Writes a value to a new chain.
#[cold]
pub(crate) fn write<P: Pager, S: PageSource>(
    pager: &P,
    source: &mut S,
    value: &[u8],
) -> Result<Overflow> {
    let usable = pager.geometry().page_size.usable();
    let version = source.version();
    let mut runs = Vec::new();
    let mut missing = page_count(value.len(), usable);
    while missing > 0 {
        let (first, count) = source.allocate_run(missing)?;
        assert!((1..=missing).contains(&count), "{count} pages of {missing}");
        runs.push((first, count));
        missing -= count;
    }
    let mut chunks = value.chunks(capacity(usable));
    for (index, &(first, count)) in runs.iter().enumerate() {
        let after_run = runs.get(index + 1).map(|&(id, _)| id);
        for step in 0..count {
            let id = first.plus(step);
            let rest = count - step - 1;
            let next = if rest > 0 {
                Some(id.plus(1))
            } else {
                after_run
            };
            let at = PageRef { id, version };
            let mut page = pager.create(at)?;
            let payload = chunks.next().expect("there is a page for each chunk");
            let next = next.map(|id| PageRef { id, version });
            fill(&mut page, next, rest, payload);
            drop(page);
            source.finish(at)?;
        }
    }
    let (id, _) = runs[0];
    Ok(Overflow {
        len: u32::try_from(value.len()).expect("values are shorter than 4 GiB"),
        first: PageRef { id, version },
    })
}

fn fill(page: &mut [u8], next: Option<PageRef>, run: u64, payload: &[u8]) {
    page[KIND.start] = Kind::Overflow as u8;
    if let Some(next) = next {
        page[NEXT].copy_from_slice(&next.encode());
    }
    let len = u32::try_from(payload.len()).expect("a page is shorter than 4 GiB");
    page[LEN].copy_from_slice(&len.to_le_bytes());
    let run = u32::try_from(run).expect("a value has fewer than 2^32 pages");
    page[RUN].copy_from_slice(&run.to_le_bytes());
    page[HEADER_LEN..HEADER_LEN + payload.len()].copy_from_slice(payload);
}

/// Tells every page of a chain to `tell`, reading only what it must: the first and the last page
/// of each run.
#[cold]
pub(crate) fn for_each_page<P: Pager>(
    pager: &P,
    overflow: Overflow,
    mut tell: impl FnMut(PageRef) -> Result<()>,
) -> Result<()> {
    let capacity = capacity(pager.geometry().page_size.usable());
    let mut remaining = bounded_len(pager, overflow)?;
    let mut next = Some(overflow.first);
    while let Some(at) = next {
        let (len, following, run) = visit(pager, at, |page| {
            let piece = Piece::parse(page, remaining)?;
            Ok((piece.payload.len(), piece.next, piece.run))
        })?;
        remaining -= len;
        next = following;
        if run > 0 {
            // The run's last page is read for its link, unless the chain ends there.
            let ends = run == remaining.div_ceil(capacity) as u64;
            let unread = if ends { run } else { run - 1 };
            for page in neighbours(at, 1, unread) {
                tell(page)?;
            }
            remaining -= remaining.min(unread as usize * capacity);
            next = if ends {
                None
            } else {
                neighbours(at, run, 1).next()
            };
        }
        tell(at)?;
    }
    Ok(())
}

/// An overflow page in words.
pub(crate) fn describe(page: &[u8]) -> String {
    if page.len() < HEADER_LEN {
        return "Overflow, too short".into();
    }
    let next = PageRef::decode(&page[NEXT]);
    let (len, run) = (get_u32(page, LEN), get_u32(page, RUN));
    if next.version == Version::ZERO {
        format!("Overflow, {len} bytes, the last")
    } else {
        format!("Overflow, {len} bytes, next {next:?}, {run} neighbours follow")
    }
}
