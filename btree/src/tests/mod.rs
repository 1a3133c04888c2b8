//! Tests of the tree as a whole, on the pager that is the contract as the simplest code.

mod bulk;
mod cursor;
mod damage;
mod format;
mod limits;
mod model;
mod prefetch;
mod rigged;

use bifolio_pager::{Geometry, MemPager, PageSize, Pager};

use crate::testkit::TestSource;
use crate::testkit::model::Model;
use crate::{Root, TreeMut};

fn pager(page_size: PageSize) -> MemPager {
    MemPager::new(Geometry { page_size, seed: 7 })
}

fn small_pages() -> MemPager {
    pager(PageSize::DEFAULT)
}

/// Inserts all entries in their order.
fn insert_all<P: Pager>(pager: &P, source: &mut TestSource<'_, P>, root: &mut Root, model: &Model) {
    let mut tree = TreeMut::new(pager, source, root);
    for (key, value) in model {
        tree.insert(key, value).unwrap();
    }
}

/// Entries with keys of 8 bytes, `0, 2, 4, ...`, and values of `value_len`.
fn even_numbers(count: u64, value_len: usize) -> Model {
    let entry = |number: u64| {
        let value = number.to_be_bytes().into_iter().cycle().take(value_len);
        ((2 * number).to_be_bytes().to_vec(), value.collect())
    };
    (0..count).map(entry).collect()
}
