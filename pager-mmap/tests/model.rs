//! The tree on the mmap pager against a `BTreeMap`, at every page size.

mod common;

use bifolio_btree::testkit::model;
use bifolio_pager::{Geometry, PageSize};
use bifolio_pager_mmap::WriteStyle;
use common::{OnFile, options};

#[test]
fn the_tree_agrees_with_a_map_at_every_page_size() {
    for page_size in PageSize::ALL {
        for round in 0..3 {
            let seed = rand::random();
            println!(
                "page size {}, round {round}, seed {seed}",
                page_size.bytes()
            );
            let geometry = Geometry { page_size, seed };
            let mut options = options();
            if round == 2 {
                options.write_style = WriteStyle::Pwrite;
                options.private_bytes = 20 * page_size.bytes() as u64; // so that pages are spilled
            }
            let pager = OnFile::new(tempfile::tempfile().unwrap(), geometry, options);
            model::run(&pager, seed, 1000);
        }
    }
}
