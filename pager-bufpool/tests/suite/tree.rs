//! The tree on the pool against a `BTreeMap`, with pools of a handful of frames and more.

use bifolio_btree::testkit::model;
use bifolio_pager::conformance::Fixture;
use bifolio_pager::{Geometry, PageSize};
use bifolio_pager_bufpool::{Direct, IoBackend, Policy};

use crate::support::Kind;

/// The fewest there can be; the tree pins four pages at most.
const HANDFUL: usize = 8;

fn agree(io: IoBackend, direct: Direct, policy: Policy, frames: usize) {
    for page_size in PageSize::ALL {
        let seed = rand::random();
        println!("page size {}, seed {seed}", page_size.bytes());
        let kind = Kind::new(io, direct, policy, frames);
        let pool = kind.create(Geometry { page_size, seed });
        model::run(&pool, seed, 600);
    }
}

#[test]
fn the_tree_agrees_with_a_map_on_a_handful_of_frames_by_pread() {
    agree(IoBackend::Pread, Direct::On, Policy::Lru, HANDFUL);
}

#[test]
fn the_tree_agrees_with_a_map_on_a_handful_of_frames_by_io_uring() {
    agree(IoBackend::IoUring, Direct::On, Policy::Clock, HANDFUL);
}

#[test]
fn the_tree_agrees_with_a_map_in_a_pool_that_holds_it() {
    agree(IoBackend::Auto, Direct::Auto, Policy::Clock, 2000);
}
