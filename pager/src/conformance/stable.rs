//! Clause 1: what a read guard exposes neither moves nor changes while the guard lives.

use super::*;

/// Many more pages than a small pool has frames are read while one guard is held.
pub fn what_a_guard_exposes_stays_while_many_other_pages_are_read<F: Fixture>(
    fixture: &F,
    geometry: Geometry,
) {
    let pages = firsts(geometry, many(geometry), 1);
    let pager = with_room(fixture, geometry, many(geometry));
    put_sealed(&pager, &pages, 0);
    let guard = pager.read(pages[0]).unwrap();
    let place = guard.as_ptr();
    for &at in &pages[1..] {
        assert_reads(&pager, at, 0);
    }
    assert_eq!(place, guard.as_ptr(), "the bytes of a live guard moved");
    assert_exposes(&guard, geometry, pages[0], 0);
}

/// Discarding a page does not take it from under a guard, whatever happens to other pages after.
pub fn what_a_guard_exposes_stays_after_the_page_is_discarded<F: Fixture>(
    fixture: &F,
    geometry: Geometry,
) {
    let count = many(geometry);
    let pager = with_room(fixture, geometry, count);
    let held = nth(geometry, 0, 1);
    put_sealed(&pager, &[held], 0);
    let guard = pager.read(held).unwrap();
    let place = guard.as_ptr();
    pager.discard(&[held.id]).unwrap();
    for index in 1..count {
        put(&pager, nth(geometry, index, 2), 0);
    }
    assert_eq!(place, guard.as_ptr(), "the bytes of a live guard moved");
    let expected = content(geometry, held, 0);
    assert_bytes(&guard, &expected, held);
}

/// Its neighbours are created, sealed, flushed, discarded and created again; the guard sees nothing.
pub fn a_guard_stays_good_while_other_pages_live_and_die<F: Fixture>(
    fixture: &F,
    geometry: Geometry,
) {
    let pager = with_room(fixture, geometry, 64);
    let held = nth(geometry, 31, 1);
    put_sealed(&pager, &[held], 0);
    let _ = pager.flush(&[held]).unwrap();
    let guard = pager.read(held).unwrap();
    for version in 2..8 {
        let others: Vec<_> = firsts(geometry, 64, version)
            .into_iter()
            .filter(|other| other.id != held.id)
            .collect();
        put_sealed(&pager, &others, version);
        let _ = pager.flush(&others).unwrap();
        let ids: Vec<_> = others.iter().map(|other| other.id).collect();
        pager.discard(&ids).unwrap();
        assert_exposes(&guard, geometry, held, 0);
    }
}

/// Guards of one page are independent: dropping one leaves the others as they are.
pub fn many_guards_of_one_page_show_the_same_bytes<F: Fixture>(fixture: &F, geometry: Geometry) {
    let pages = firsts(geometry, many(geometry), 1);
    let pager = with_room(fixture, geometry, many(geometry));
    put_sealed(&pager, &pages, 0);
    let mut guards: Vec<_> = (0..32).map(|_| pager.read(pages[0]).unwrap()).collect();
    while let Some(guard) = guards.pop() {
        drop(guard);
        for &at in pages[1..].iter().take(100) {
            assert_reads(&pager, at, 0);
        }
        for guard in &guards {
            assert_exposes(guard, geometry, pages[0], 0);
        }
    }
}
