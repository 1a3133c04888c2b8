//! What the allocation map promises, and what it says to damaged bytes.

mod damage;
mod model;
mod policy;
mod sparse;
mod stored;

use bifolio_pager::{Geometry, PageId, PageRef, PageSize, Pager, Version};

use super::format::Shape;
use super::{MapRoot, Space};

fn geometry(page_size: PageSize) -> Geometry {
    Geometry {
        page_size,
        seed: 42,
    }
}

fn v(number: u64) -> Version {
    Version::new(number)
}

fn page(number: u64, version: u64) -> PageRef {
    PageRef {
        id: PageId::new(number),
        version: v(version),
    }
}

fn new_space<P: Pager>(pager: &P) -> Space {
    let geometry = pager.geometry();
    Space::open(geometry, MapRoot::new(geometry)).unwrap()
}

/// The root of a map for `end` pages, all of them used.
fn full(shape: Shape, end: u64) -> MapRoot {
    MapRoot {
        page: None,
        level: shape.level_for(end),
        end,
        free: 0,
    }
}

/// A file of `end` used pages, of which version 1 wrote every one.
fn full_space<P: Pager>(pager: &P, end: u64) -> Space {
    pager.grow(end).unwrap();
    let mut space = Space::open(pager.geometry(), full(Shape::of(pager.geometry()), end)).unwrap();
    space.stored = v(1);
    space
}

/// Makes these pages available, as of `at`.
fn make_available<P: Pager>(
    space: &mut Space,
    pager: &P,
    pages: impl IntoIterator<Item = u64>,
    at: u64,
) {
    retire(space, pager, pages, at);
    space.release(pager, &[v(at)]).unwrap();
}

/// Retires these pages of version 1.
fn retire<P: Pager>(space: &mut Space, pager: &P, pages: impl IntoIterator<Item = u64>, at: u64) {
    let pages: Vec<_> = pages.into_iter().map(|number| page(number, 1)).collect();
    space.retire_all(pager, &pages, v(at)).unwrap();
}
