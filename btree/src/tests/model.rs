use bifolio_pager::PageSize;

use super::pager;
use crate::testkit::model;

#[test]
fn the_tree_does_what_a_map_does_whatever_its_keys_look_like() {
    for seed in 0..6 {
        model::run(&pager(PageSize::DEFAULT), seed, 3000);
    }
}

#[test]
fn the_tree_does_what_a_map_does_at_every_page_size() {
    for (seed, page_size) in (0..).zip(PageSize::ALL) {
        model::run(&pager(page_size), seed, 1000);
    }
}
