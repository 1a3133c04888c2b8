//! Clause 6: every page from storage is verified before it is believed.

use super::*;

/// `confirm` says so as often as it is asked.
pub fn an_intact_page_is_confirmed<F: Fixture>(fixture: &F, geometry: Geometry) {
    let pager = one_flushed_page(fixture, geometry);
    let pager = fixture.reopen(pager);
    let guard = pager.read(nth(geometry, 0, 1)).unwrap();
    for _ in 0..3 {
        guard.confirm().unwrap();
    }
}

/// Only a damaged file refers past its end.
pub fn a_page_past_the_end_is_corrupt<F: Fixture>(fixture: &F, geometry: Geometry) {
    let mut pager = one_flushed_page(fixture, geometry);
    for _ in 0..2 {
        for id in [PageId::new(pager.page_count()), PageId::MAX] {
            let at = PageRef {
                id,
                version: Version::new(1),
            };
            assert_corrupt(pager.read(at), id, "read");
        }
        pager = fixture.reopen(pager);
    }
}

/// A number below the first page is no page, whatever lies there.
pub fn a_page_of_the_meta_area_is_corrupt<F: Fixture>(fixture: &F, geometry: Geometry) {
    let pager = one_flushed_page(fixture, geometry);
    for number in 0..first_page(geometry).get() {
        let id = PageId::new(number);
        for version in [Version::ZERO, Version::new(1)] {
            assert_corrupt(pager.read(PageRef { id, version }), id, "read");
        }
    }
}

/// Room that was never used holds no page.
pub fn a_page_that_was_never_written_is_corrupt<F: Fixture>(fixture: &F, geometry: Geometry) {
    let pager = one_flushed_page(fixture, geometry);
    make_room(&pager, 4);
    for version in [0, 1] {
        let at = nth(geometry, 2, version);
        assert_corrupt(pager.read(at), at.id, "read");
    }
}

/// An older and a newer one, of a page in memory and of one in storage.
pub fn a_page_of_another_stamp_is_corrupt<F: Fixture>(fixture: &F, geometry: Geometry) {
    let mut pager = with_room(fixture, geometry, 1);
    let at = nth(geometry, 0, 5);
    put_sealed(&pager, &[at], 0);
    let _ = pager.flush(&[at]).unwrap();
    for _ in 0..2 {
        for version in [4, 6] {
            let other = nth(geometry, 0, version);
            assert_corrupt(pager.read(other), at.id, "read");
        }
        assert_reads(&pager, at, 0);
        assert_corrupt(pager.read(nth(geometry, 0, 4)), at.id, "read");
        pager = fixture.reopen(pager);
    }
}

/// One flipped bit: in the header, in the body, at the end of it, in the checksum.
pub fn a_damaged_page_is_corrupt<F: Fixture>(fixture: &F, geometry: Geometry) {
    let page_size = geometry.page_size;
    let bytes = [
        13,
        300,
        page_size.usable() - 1,
        page_size.usable(),
        page_size.bytes() - 1,
    ];
    for byte in bytes {
        assert_refused_after(fixture, geometry, &mut |image| image[byte] ^= 0x10);
    }
}

/// The intact image of another page does not pass for this one.
pub fn a_misplaced_page_is_corrupt<F: Fixture>(fixture: &F, geometry: Geometry) {
    let other = nth(geometry, 1, 1);
    let mut intact = content(geometry, other, 0);
    intact.resize(geometry.page_size.bytes(), 0);
    geometry.seal_image(&mut intact, crate::page::Standing::Final);
    assert_refused_after(fixture, geometry, &mut |image| {
        image.copy_from_slice(&intact)
    });
}

/// The page as it was before its last write: right in itself, and not what its parent expects.
pub fn a_lost_write_is_corrupt<F: Fixture>(fixture: &F, geometry: Geometry) {
    let older = nth(geometry, 0, 0);
    let mut stale = content(geometry, older, 0);
    stale.resize(geometry.page_size.bytes(), 0);
    geometry.seal_image(&mut stale, crate::page::Standing::Final);
    assert_refused_after(fixture, geometry, &mut |image| {
        image.copy_from_slice(&stale)
    });
}

/// A page that a device has lost altogether.
pub fn a_zeroed_page_is_corrupt<F: Fixture>(fixture: &F, geometry: Geometry) {
    assert_refused_after(fixture, geometry, &mut |image| image.fill(0));
}

fn one_flushed_page<F: Fixture>(fixture: &F, geometry: Geometry) -> F::Pager {
    let pager = with_room(fixture, geometry, 2);
    let pages = firsts(geometry, 2, 1);
    put_sealed(&pager, &pages, 0);
    let _ = pager.flush(&pages).unwrap();
    pager
}

/// Damages the first page in storage: it is refused, each time, and its neighbour is not.
fn assert_refused_after<F: Fixture>(
    fixture: &F,
    geometry: Geometry,
    damage: &mut dyn FnMut(&mut [u8]),
) {
    let pager = one_flushed_page(fixture, geometry);
    let at = nth(geometry, 0, 1);
    let Some(pager) = fixture.reopen_damaged(pager, at.id, damage) else {
        return skipped("reopen_damaged");
    };
    for _ in 0..3 {
        assert_corrupt(pager.read(at), at.id, "read");
    }
    assert_reads(&pager, nth(geometry, 1, 1), 0);
}
