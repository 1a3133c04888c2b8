//! Tests of the tree as a whole, on the pager that is the contract as the simplest code.

mod model;

use bifolio_pager::{Geometry, MemPager, PageSize};

fn pager(page_size: PageSize) -> MemPager {
    MemPager::new(Geometry { page_size, seed: 7 })
}
