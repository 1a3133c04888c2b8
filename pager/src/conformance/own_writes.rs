//! Clause 3: `read` sees what was last written, flushed or not, evicted in between or not.

use std::thread;

use super::*;

/// As private, as sealed, and as flushed.
pub fn a_written_page_reads_as_written<F: Fixture>(fixture: &F, geometry: Geometry) {
    let pager = with_room(fixture, geometry, 1);
    let at = nth(geometry, 0, 1);
    put(&pager, at, 0);
    assert_reads(&pager, at, 0);
    pager.seal(&[at]).unwrap();
    assert_reads(&pager, at, 0);
    let _ = pager.flush(&[at]).unwrap();
    assert_reads(&pager, at, 0);
}

/// Each rewriting is seen, however many there are.
pub fn a_private_page_can_be_written_again_and_again<F: Fixture>(fixture: &F, geometry: Geometry) {
    let pager = with_room(fixture, geometry, 1);
    let at = nth(geometry, 0, 1);
    put(&pager, at, 0);
    for salt in 1..50 {
        rewrite(&pager, at, salt);
        assert_reads(&pager, at, salt);
    }
}

/// `write` exposes the page as it is, so that a few bytes of it can be changed.
pub fn a_private_page_keeps_what_was_written_to_other_parts_of_it<F: Fixture>(
    fixture: &F,
    geometry: Geometry,
) {
    let pager = with_room(fixture, geometry, 1);
    let at = nth(geometry, 0, 1);
    put(&pager, at, 0);
    let mut expected = content(geometry, at, 0);
    for offset in (HEADER_LEN..expected.len()).step_by(777) {
        let mut page = pager.write(at).unwrap();
        assert_bytes(&page, &expected, at);
        page[offset] ^= 0xff;
        expected[offset] ^= 0xff;
    }
    pager.seal(&[at]).unwrap();
    assert_bytes(&pager.read(at).unwrap(), &expected, at);
}

/// Private pages, many more than a small pool has frames: they are stolen and come back.
pub fn thousands_of_private_pages_read_as_written<F: Fixture>(fixture: &F, geometry: Geometry) {
    let pages = firsts(geometry, many(geometry), 1);
    let pager = with_room(fixture, geometry, many(geometry));
    for &at in &pages {
        put(&pager, at, 0);
    }
    for &at in pages.iter().chain(pages.iter().rev()) {
        assert_reads(&pager, at, 0);
    }
}

/// Sealed pages, never flushed, in an order that suits no eviction policy.
pub fn thousands_of_sealed_pages_read_as_written<F: Fixture>(fixture: &F, geometry: Geometry) {
    let pages = firsts(geometry, many(geometry), 1);
    let pager = with_room(fixture, geometry, many(geometry));
    for group in pages.chunks(50) {
        put_sealed(&pager, group, 0);
    }
    for step in 0..pages.len() {
        let index = mix(step as u64) as usize % pages.len();
        assert_reads(&pager, pages[index], 0);
    }
}

/// What was stolen while private can be written again, by halves, and sealed.
pub fn private_pages_can_be_rewritten_after_thousands_of_others<F: Fixture>(
    fixture: &F,
    geometry: Geometry,
) {
    let pages = firsts(geometry, many(geometry), 1);
    let pager = with_room(fixture, geometry, many(geometry));
    for &at in &pages {
        put(&pager, at, 0);
    }
    for &at in pages.iter().step_by(3) {
        rewrite(&pager, at, 1);
    }
    pager.seal(&pages).unwrap();
    for (index, &at) in pages.iter().enumerate() {
        assert_reads(&pager, at, u64::from(index % 3 == 0));
    }
}

/// Concurrent misses on the same pages, by threads that go through them in different orders.
pub fn threads_that_read_together_all_see_what_was_written<F: Fixture>(
    fixture: &F,
    geometry: Geometry,
) {
    let pages = firsts(geometry, many(geometry) / 2, 1);
    let mut pager = with_room(fixture, geometry, many(geometry) / 2);
    put_sealed(&pager, &pages, 0);
    let _ = pager.flush(&pages).unwrap();
    pager = fixture.reopen(pager);
    thread::scope(|scope| {
        for thread in 0..4 {
            let (pager, pages) = (&pager, &pages);
            scope.spawn(move || {
                // Two threads go the same way at once, and so miss on the same page at once.
                let way: Box<dyn Iterator<Item = &PageRef>> = match thread {
                    0 | 1 => Box::new(pages.iter()),
                    2 => Box::new(pages.iter().rev()),
                    _ => Box::new(pages.iter().step_by(7).chain(pages.iter().step_by(5))),
                };
                for &at in way {
                    assert_exposes(&patiently(|| pager.read(at)), geometry, at, 0);
                }
            });
        }
    });
}
