//! Hints start work and change nothing that can be read.

use super::*;
use crate::pager::Access;

/// Each hint, at each point of a page's life at which it is allowed.
pub fn hints_change_no_content<F: Fixture>(fixture: &F, geometry: Geometry) {
    let count = many(geometry) / 4;
    let pages = firsts(geometry, count, 1);
    let mut pager = with_room(fixture, geometry, count);
    put_sealed(&pager, &pages, 0);
    pager.write_back(&pages);
    for access in [Access::Sequential, Access::Random, Access::Normal] {
        pager.advise(access);
        pager.prefetch(&pages);
        for &at in &pages {
            assert_reads(&pager, at, 0);
        }
    }
    pager.write_back(&pages);
    let _ = pager.flush(&pages).unwrap();
    pager = fixture.reopen(pager);
    for group in pages.chunks(16) {
        pager.prefetch(group);
        pager.prefetch(group);
        for &at in group {
            assert_reads(&pager, at, 0);
        }
    }
}

/// A hint may come from a damaged page, or be late.
pub fn hints_for_pages_that_are_not_there_do_no_harm<F: Fixture>(fixture: &F, geometry: Geometry) {
    let pager = with_room(fixture, geometry, 3);
    let pages = firsts(geometry, 3, 1);
    put_sealed(&pager, &pages[..2], 0);
    pager.discard(&[pages[1].id]).unwrap();
    let version = Version::new(1);
    let nowhere: Vec<_> = [0, pager.page_count(), PageId::MAX.get()]
        .map(|number| PageRef {
            id: PageId::new(number),
            version,
        })
        .into_iter()
        .chain([pages[1], pages[2], nth(geometry, 0, 7)])
        .collect();
    pager.prefetch(&nowhere);
    pager.write_back(&nowhere);
    pager.prefetch(&[]);
    pager.write_back(&[]);
    assert_reads(&pager, pages[0], 0);
    assert_corrupt(pager.read(pages[1]), pages[1].id, "read");
    let _ = pager.flush(&pages[..1]).unwrap();
    put(&pager, nth(geometry, 1, 2), 1);
    assert_reads(&pager, nth(geometry, 1, 2), 1);
}

/// It is shown to people, and it does not change as the pager works.
pub fn the_backend_has_a_name<F: Fixture>(fixture: &F, geometry: Geometry) {
    let pager = fixture.create(geometry);
    assert!(!pager.effective_backend().trim().is_empty());
}
