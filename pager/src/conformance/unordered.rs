//! Clause 4: a page may reach storage at any moment, half-changed; order comes from `flush` alone.

use super::*;

/// What nobody flushed may be lost, and may be there; it is never something else.
pub fn an_unflushed_page_reads_after_reopening_as_itself_or_as_corrupt<F: Fixture>(
    fixture: &F,
    geometry: Geometry,
) {
    let pages = firsts(geometry, many(geometry), 1);
    let pager = with_room(fixture, geometry, many(geometry));
    put_sealed(&pager, &pages, 0);
    let _ = pager.flush(&pages[..1]).unwrap(); // so that the file has its length
    let pager = fixture.reopen(pager);
    assert_reads(&pager, pages[0], 0);
    for &at in &pages[1..] {
        match pager.read(at) {
            Ok(guard) => assert_exposes(&guard, geometry, at, 0),
            Err(error) => {
                let named = matches!(error, Error::Corrupt { page, .. } if page == at.id);
                assert!(named, "{at:?}: {error:?}");
            }
        }
    }
}

/// A page that was stolen while private never passes for a page of a commit.
pub fn a_page_that_was_never_sealed_is_not_believed_after_reopening<F: Fixture>(
    fixture: &F,
    geometry: Geometry,
) {
    let pages = firsts(geometry, many(geometry), 1);
    let pager = with_room(fixture, geometry, many(geometry));
    for &at in &pages {
        put(&pager, at, 0);
    }
    let _ = pager.flush(&[]).unwrap();
    let pager = fixture.reopen(pager);
    for &at in &pages {
        assert_corrupt(pager.read(at), at.id, "read");
    }
}
