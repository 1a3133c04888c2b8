//! The life of a page number, as drawn in [`Pager`]'s documentation, and the room for it.

use std::thread;

use super::*;

/// A sealed page never changes again.
pub fn a_sealed_page_cannot_be_written<F: Fixture>(fixture: &F, geometry: Geometry) {
    let pager = with_room(fixture, geometry, 1);
    let at = nth(geometry, 0, 1);
    put_sealed(&pager, &[at], 0);
    assert_wrong_state(pager.write(at), at.id, "write");
    let _ = pager.flush(&[at]).unwrap();
    assert_wrong_state(pager.write(at), at.id, "write");
    assert_reads(&pager, at, 0);
    let pager = fixture.reopen(pager);
    assert_wrong_state(pager.write(at), at.id, "write");
    assert_reads(&pager, at, 0);
    assert_wrong_state(pager.write(at), at.id, "write");
}

/// A number has one life at a time: `create` begins one only where there is none.
pub fn a_live_page_cannot_be_created<F: Fixture>(fixture: &F, geometry: Geometry) {
    let pager = with_room(fixture, geometry, 1);
    let (at, next) = (nth(geometry, 0, 1), nth(geometry, 0, 2));
    put(&pager, at, 0);
    assert_wrong_state(pager.create(next), at.id, "create");
    assert_reads(&pager, at, 0);
    pager.seal(&[at]).unwrap();
    assert_wrong_state(pager.create(next), at.id, "create");
    assert_reads(&pager, at, 0);
}

/// A page is sealed once.
pub fn only_a_private_page_can_be_sealed<F: Fixture>(fixture: &F, geometry: Geometry) {
    let pager = with_room(fixture, geometry, 2);
    let (at, never) = (nth(geometry, 0, 1), nth(geometry, 1, 1));
    put_sealed(&pager, &[at], 0);
    assert_mistake(pager.seal(&[at]), at.id, "seal");
    assert_mistake(pager.seal(&[never]), never.id, "seal");
    assert_reads(&pager, at, 0);
}

/// Whether it was private or sealed.
pub fn a_discarded_page_cannot_be_read_written_or_sealed<F: Fixture>(
    fixture: &F,
    geometry: Geometry,
) {
    let pager = with_room(fixture, geometry, 3);
    let pages = firsts(geometry, 3, 1);
    let [private, sealed, flushed] = [pages[0], pages[1], pages[2]];
    put(&pager, private, 0);
    put_sealed(&pager, &[sealed, flushed], 0);
    let _ = pager.flush(&[flushed]).unwrap();
    pager.discard(&[private.id, sealed.id, flushed.id]).unwrap();
    for at in pages {
        assert_corrupt(pager.read(at), at.id, "read");
        assert_mistake(pager.write(at), at.id, "write");
        assert_mistake(pager.seal(&[at]), at.id, "seal");
    }
}

/// Only what cannot change any more is made durable. The refusal poisons nothing.
pub fn a_private_page_cannot_be_flushed<F: Fixture>(fixture: &F, geometry: Geometry) {
    let pager = with_room(fixture, geometry, 1);
    let at = nth(geometry, 0, 1);
    put(&pager, at, 0);
    assert_mistake(pager.flush(&[at]), at.id, "flush");
    pager.seal(&[at]).unwrap();
    let _ = pager.flush(&[at]).unwrap();
    assert_reads(&pager, at, 0);
}

/// `discard` of a free page does nothing, to it or to others.
pub fn discarding_twice_changes_nothing<F: Fixture>(fixture: &F, geometry: Geometry) {
    let pager = with_room(fixture, geometry, 3);
    let pages = firsts(geometry, 2, 1);
    put_sealed(&pager, &pages, 0);
    pager.discard(&[pages[0].id, pages[0].id]).unwrap();
    pager.discard(&[pages[0].id]).unwrap();
    pager.discard(&[nth(geometry, 2, 1).id]).unwrap();
    pager.discard(&[]).unwrap();
    assert_corrupt(pager.read(pages[0]), pages[0].id, "read");
    assert_reads(&pager, pages[1], 0);
    put(&pager, nth(geometry, 0, 2), 1);
    assert_reads(&pager, nth(geometry, 0, 2), 1);
}

/// The old reference leads nowhere from then on, whatever becomes of the new page.
pub fn a_new_life_has_a_new_stamp_and_the_old_one_is_refused<F: Fixture>(
    fixture: &F,
    geometry: Geometry,
) {
    let pager = with_room(fixture, geometry, 1);
    let (old, new) = (nth(geometry, 0, 3), nth(geometry, 0, 5));
    put_sealed(&pager, &[old], 0);
    let _ = pager.flush(&[old]).unwrap();
    pager.discard(&[old.id]).unwrap();
    put(&pager, new, 1);
    assert_corrupt(pager.read(old), old.id, "read");
    assert_reads(&pager, new, 1);
    pager.seal(&[new]).unwrap();
    assert_corrupt(pager.read(old), old.id, "read");
    let _ = pager.flush(&[new]).unwrap();
    let pager = fixture.reopen(pager);
    assert_corrupt(pager.read(old), old.id, "read");
    assert_reads(&pager, new, 1);
}

/// A reference that does not match the private page writes, seals and changes nothing.
pub fn a_page_is_not_written_under_another_stamp<F: Fixture>(fixture: &F, geometry: Geometry) {
    let pager = with_room(fixture, geometry, 1);
    let (at, other) = (nth(geometry, 0, 3), nth(geometry, 0, 4));
    put(&pager, at, 0);
    assert_mistake(pager.write(other), at.id, "write");
    assert_mistake(pager.seal(&[other]), at.id, "seal");
    rewrite(&pager, at, 1);
    assert_reads(&pager, at, 1);
}

/// Pages and guards from before a growth stay good, and the new room can be used.
pub fn growth_makes_room_and_keeps_what_is_there<F: Fixture>(fixture: &F, geometry: Geometry) {
    let pager = with_room(fixture, geometry, 2);
    let (sealed, private) = (nth(geometry, 0, 1), nth(geometry, 1, 1));
    put_sealed(&pager, &[sealed], 0);
    put(&pager, private, 0);
    let guard = pager.read(sealed).unwrap();
    let place = guard.as_ptr();
    for doubling in 2..8 {
        make_room(&pager, 1 << doubling);
        put(&pager, nth(geometry, (1 << doubling) - 1, 1), 1);
    }
    assert_eq!(
        place,
        guard.as_ptr(),
        "growth moved the bytes of a live guard"
    );
    assert_exposes(&guard, geometry, sealed, 0);
    assert_reads(&pager, private, 0);
    for doubling in 2..8 {
        assert_reads(&pager, nth(geometry, (1 << doubling) - 1, 1), 1);
    }
}

/// Readers need not know that the file grows, nor `grow` that there are readers.
pub fn the_file_grows_while_others_read<F: Fixture>(fixture: &F, geometry: Geometry) {
    let pager = with_room(fixture, geometry, 8);
    let pages = firsts(geometry, 8, 1);
    put_sealed(&pager, &pages, 0);
    thread::scope(|scope| {
        for thread in 0..2 {
            let (pager, pages) = (&pager, &pages);
            scope.spawn(move || {
                let held = patiently(|| pager.read(pages[thread]));
                for step in 0..400 {
                    let at = pages[mix(step) as usize % pages.len()];
                    assert_exposes(&patiently(|| pager.read(at)), geometry, at, 0);
                    assert_exposes(&held, geometry, pages[thread], 0);
                }
            });
        }
        for count in (16..=256).step_by(16) {
            make_room(&pager, count);
            let at = nth(geometry, count - 1, 1);
            fill(&mut patiently(|| pager.create(at)), at, 1);
        }
    });
    assert_reads(&pager, nth(geometry, 255, 1), 1);
}

/// `grow` never shrinks.
pub fn growing_to_less_changes_nothing<F: Fixture>(fixture: &F, geometry: Geometry) {
    let pager = with_room(fixture, geometry, 8);
    let last = nth(geometry, 7, 1);
    put(&pager, last, 0);
    let before = pager.page_count();
    for page_count in [0, 1, before - 1, before] {
        pager.grow(page_count).unwrap();
        assert_eq!(pager.page_count(), before, "after grow({page_count})");
    }
    assert_reads(&pager, last, 0);
}

/// Numbers from `page_count` on need a `grow` first.
pub fn a_page_past_the_end_cannot_be_created<F: Fixture>(fixture: &F, geometry: Geometry) {
    let pager = with_room(fixture, geometry, 1);
    for id in [PageId::new(pager.page_count()), PageId::MAX] {
        let at = PageRef {
            id,
            version: Version::new(1),
        };
        assert_mistake(pager.create(at), id, "create");
        assert_mistake(pager.write(at), id, "write");
    }
}

/// The two meta slots are nobody's pages.
pub fn a_page_of_the_meta_area_cannot_be_created_or_written<F: Fixture>(
    fixture: &F,
    geometry: Geometry,
) {
    let pager = with_room(fixture, geometry, 1);
    for number in 0..first_page(geometry).get() {
        let id = PageId::new(number);
        let at = PageRef {
            id,
            version: Version::new(1),
        };
        assert_mistake(pager.create(at), id, "create");
        assert_mistake(pager.write(at), id, "write");
    }
}
