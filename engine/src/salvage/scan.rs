//! Finding a catalogue in a file of which no meta can be read.
//!
//! What the meta said is looked for elsewhere. The seed of the checksums is the beginning of the
//! file's identity, which stands in each copy of the meta, and may be whole where the rest of the record
//! is not. The page size is the one with which a page has its checksum. The catalogue is a tree whose
//! values are roots of trees: of several, the newest of which nothing is lost, else the one of which
//! most is left.
//!
//! A page that nothing leads to is not believed to be of any state: it may be free, and old. So only
//! the tops of trees are looked for here, and what hangs from them is told by its stamps.

use std::cmp::Reverse;
use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::path::Path;

use bifolio_btree::{Root, Salvaged};
use bifolio_pager::page::{SELF_REF, Standing};
use bifolio_pager::{
    Geometry, Kind, META_LEN, MetaSlot, PageId, PageRef, PageSize, Pager, Version, first_page,
};

use crate::catalogue;
use crate::error::{Error, Result};
use crate::file;
use crate::meta;

/// Catalogues that are gone through whole before one is chosen.
const CANDIDATES_MAX: usize = 64;

/// What the file's pages can be checked with, if any page can.
pub(super) fn geometry(file: &File, path: &Path) -> Result<Option<Geometry>> {
    let mut seeds = Vec::new();
    for slot in [MetaSlot::A, MetaSlot::B] {
        let mut bytes = vec![0; META_LEN];
        read(file, path, &mut bytes, slot.offset())?;
        seeds.extend(meta::seeds(&bytes));
    }
    seeds.dedup();
    for page_size in PageSize::ALL {
        for &seed in &seeds {
            let geometry = Geometry { page_size, seed };
            let mut found = false;
            each_page(file, path, geometry, &mut |_| {
                found = true;
                ControlFlow::Break(())
            })?;
            if found {
                return Ok(Some(geometry));
            }
        }
    }
    Ok(None)
}

/// Every page that may be the top of a tree, the newest first, and of one commit the highest first.
pub(super) fn tops(file: &File, path: &Path, geometry: Geometry) -> Result<Vec<Root>> {
    let mut tops = Vec::new();
    each_page(file, path, geometry, &mut |page| {
        let level = match Kind::of(page) {
            Some(Kind::Leaf) => 0,
            Some(Kind::Branch) => page[KIND_LEVEL],
            _ => return ControlFlow::Continue(()),
        };
        let root = Root {
            page: Some(PageRef::decode(&page[SELF_REF])),
            depth: level.saturating_add(1),
            entries: 0,
        };
        // As it would be read from a file.
        tops.extend(Root::decode(&root.encode()));
        ControlFlow::Continue(())
    })?;
    tops.sort_by_key(|top| Reverse((version(top), top.depth)));
    Ok(tops)
}

/// Where a node says its level: the first byte that belongs to the page's kind.
const KIND_LEVEL: usize = bifolio_pager::page::KIND_HEADER.start;

fn version(top: &Root) -> Version {
    top.page.map_or(Version::ZERO, |page| page.version)
}

/// The catalogue to read out, of all that `tops` hold.
pub(super) fn best_catalogue<P: Pager>(pager: &P, tops: &[Root]) -> Option<(Version, Root)> {
    let catalogues = tops.iter().filter(|top| is_catalogue(pager, **top));
    let mut best: Option<(u64, Root)> = None;
    for &catalogue in catalogues.take(CANDIDATES_MAX) {
        let (mut entries, mut lost) = (0, 0);
        let tables = super::tables(pager, catalogue, &mut |_| lost += 1);
        for (_, root) in tables {
            let _ = bifolio_btree::salvage(pager, root, &mut |salvaged| {
                match salvaged {
                    Salvaged::Entry { .. } => entries += 1,
                    Salvaged::Lost(_) => lost += 1,
                }
                ControlFlow::Continue(())
            });
        }
        if lost == 0 {
            return Some((version(&catalogue), catalogue));
        }
        if best.is_none_or(|(most, _)| entries > most) {
            best = Some((entries, catalogue));
        }
    }
    best.map(|(_, catalogue)| (version(&catalogue), catalogue))
}

/// Whether the first entry of a tree, which is looked at alone, is that of a catalogue: a table's
/// name, and a root whose page is there.
fn is_catalogue<P: Pager>(pager: &P, top: Root) -> bool {
    let mut verdict = false;
    let _ = bifolio_btree::salvage(pager, top, &mut |salvaged| match salvaged {
        Salvaged::Entry { key, value } => {
            verdict = catalogue::decode(key, value)
                .is_ok_and(|(_, root)| root.page.is_none_or(|page| pager.read(page).is_ok()));
            ControlFlow::Break(())
        }
        Salvaged::Lost(_) => ControlFlow::Continue(()),
    });
    verdict
}

/// Shows every page whose checksum holds, without the checksum.
fn each_page(
    file: &File,
    path: &Path,
    geometry: Geometry,
    look: &mut dyn FnMut(&[u8]) -> ControlFlow<()>,
) -> Result<()> {
    const PAGES: usize = 64;
    let bytes = geometry.page_size.bytes();
    let pages = file::inspect(file, path)?.len() / bytes as u64;
    let mut buffer = vec![0; PAGES * bytes];
    let mut number = first_page(geometry).get();
    while number < pages {
        let count = PAGES.min(usize::try_from(pages - number).unwrap_or(PAGES));
        let part = &mut buffer[..count * bytes];
        read(file, path, part, number * bytes as u64)?;
        for image in part.chunks_exact(bytes) {
            let sound = number <= PageId::MAX.get()
                && geometry
                    .verify_image(image, PageId::new(number), Standing::Final)
                    .is_ok();
            if sound && look(&image[..geometry.page_size.usable()]).is_break() {
                return Ok(());
            }
            number += 1;
        }
    }
    Ok(())
}

/// Reads what can be read: what cannot is zeros.
fn read(file: &File, path: &Path, to: &mut [u8], offset: u64) -> Result<()> {
    to.fill(0);
    let mut at = 0;
    while at < to.len() {
        match file.read_at(&mut to[at..], offset + at as u64) {
            Ok(0) => break,
            Ok(count) => at += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // A bad sector. On with the next one.
            Err(error) if error.raw_os_error() == Some(EIO) => at = to.len().min(at + 512),
            Err(error) => return Err(Error::file("read", path, error)),
        }
    }
    Ok(())
}

const EIO: i32 = 5;
