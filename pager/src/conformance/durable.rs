//! Clause 5: what was flushed survives, and after a failure nothing more is promised.

use super::*;
use crate::pager::META_LEN;

/// Every byte of many pages, flushed in several calls.
pub fn flushed_pages_are_there_after_reopening<F: Fixture>(fixture: &F, geometry: Geometry) {
    let pages = firsts(geometry, many(geometry), 1);
    let pager = with_room(fixture, geometry, many(geometry));
    for group in pages.chunks(pages.len() / 4) {
        put_sealed(&pager, group, 0);
        let _ = pager.flush(group).unwrap();
    }
    let mut pager = fixture.reopen(pager);
    for &at in &pages {
        assert_reads(&pager, at, 0);
    }
    pager = fixture.reopen(pager);
    for &at in pages.iter().rev() {
        assert_reads(&pager, at, 0);
    }
}

/// The length is durable with the flush, and the file can grow on.
pub fn a_reopened_file_has_room_for_every_flushed_page<F: Fixture>(
    fixture: &F,
    geometry: Geometry,
) {
    let pager = with_room(fixture, geometry, 100);
    let last = nth(geometry, 99, 1);
    put_sealed(&pager, &[last], 0);
    let _ = pager.flush(&[last]).unwrap();
    let pager = fixture.reopen(pager);
    assert!(
        pager.page_count() > last.id.get(),
        "the last page lies past the end"
    );
    assert_reads(&pager, last, 0);
    make_room(&pager, 200);
    put(&pager, nth(geometry, 199, 2), 0);
    assert_reads(&pager, last, 0);
}

/// A commit may have no page of its own to flush.
pub fn flushing_nothing_succeeds<F: Fixture>(fixture: &F, geometry: Geometry) {
    let pager = fixture.create(geometry);
    let proof = pager.flush(&[]).unwrap();
    pager
        .write_meta(proof, MetaSlot::A, &[1; META_LEN])
        .unwrap();
    let _ = pager.flush(&[]).unwrap();
}

/// A page that is durable already may be named again, also by a pager that has only read it.
pub fn flushing_twice_changes_nothing<F: Fixture>(fixture: &F, geometry: Geometry) {
    let pager = with_room(fixture, geometry, 2);
    let pages = firsts(geometry, 2, 1);
    put_sealed(&pager, &pages, 0);
    let _ = pager.flush(&pages).unwrap();
    let _ = pager.flush(&pages).unwrap();
    let pager = fixture.reopen(pager);
    assert_reads(&pager, pages[0], 0);
    let _ = pager.flush(&pages[..1]).unwrap();
    assert_reads(&pager, pages[0], 0);
    assert_reads(&pager, pages[1], 0);
}

/// Other pages go on being written, before, while and after.
pub fn a_flush_leaves_pages_that_are_being_written_alone<F: Fixture>(
    fixture: &F,
    geometry: Geometry,
) {
    let pager = with_room(fixture, geometry, 3);
    let pages = firsts(geometry, 3, 1);
    put_sealed(&pager, &pages[..1], 0);
    put(&pager, pages[1], 0);
    let mut page = pager.create(pages[2]).unwrap();
    fill(&mut page[..200], pages[2], 7);
    let _ = pager.flush(&pages[..1]).unwrap();
    fill(&mut page, pages[2], 0);
    drop(page);
    rewrite(&pager, pages[1], 1);
    assert_reads(&pager, pages[1], 1);
    assert_reads(&pager, pages[2], 0);
    pager.seal(&pages[1..]).unwrap();
    let _ = pager.flush(&pages[1..]).unwrap();
    let pager = fixture.reopen(pager);
    assert_reads(&pager, pages[0], 0);
    assert_reads(&pager, pages[1], 1);
    assert_reads(&pager, pages[2], 0);
}

/// A page that is being read can be made durable, and is not disturbed.
pub fn a_flush_does_not_wait_for_guards<F: Fixture>(fixture: &F, geometry: Geometry) {
    let pager = with_room(fixture, geometry, 3);
    let pages = firsts(geometry, 3, 1);
    put_sealed(&pager, &pages, 0);
    let guard = pager.read(pages[1]).unwrap();
    let place = guard.as_ptr();
    let _ = pager.flush(&pages).unwrap();
    assert_eq!(
        place,
        guard.as_ptr(),
        "a flush moved the bytes of a live guard"
    );
    assert_exposes(&guard, geometry, pages[1], 0);
    drop(guard);
    let pager = fixture.reopen(pager);
    for at in pages {
        assert_reads(&pager, at, 0);
    }
}

/// A number that lived, was flushed, died and lives again: the flushed life is the one that counts.
pub fn a_new_life_survives_reopening<F: Fixture>(fixture: &F, geometry: Geometry) {
    let mut pager = with_room(fixture, geometry, 16);
    for version in 1..5 {
        let pages = firsts(geometry, 16, version);
        put_sealed(&pager, &pages, version);
        let _ = pager.flush(&pages).unwrap();
        if version % 2 == 0 {
            pager = fixture.reopen(pager);
        }
        for &at in &pages {
            assert_reads(&pager, at, version);
        }
        let ids: Vec<_> = pages.iter().map(|at| at.id).collect();
        pager.discard(&ids).unwrap();
    }
}

/// Each slot keeps what was written to it, and no page changes by it.
pub fn metas_are_written_and_overlap_no_page<F: Fixture>(fixture: &F, geometry: Geometry) {
    let pager = with_room(fixture, geometry, 4);
    let pages = firsts(geometry, 4, 1);
    put_sealed(&pager, &pages, 0);
    let proof = pager.flush(&pages).unwrap();
    pager
        .write_meta(proof, MetaSlot::A, &[0xaa; META_LEN])
        .unwrap();
    let proof = pager.flush(&[]).unwrap();
    pager
        .write_meta(proof, MetaSlot::B, &[0xbb; META_LEN])
        .unwrap();
    for &at in &pages {
        assert_reads(&pager, at, 0);
    }
    let pager = fixture.reopen(pager);
    for at in pages {
        assert_reads(&pager, at, 0);
    }
    assert_meta(fixture, &pager, MetaSlot::A, 0xaa);
    assert_meta(fixture, &pager, MetaSlot::B, 0xbb);
}

/// Writing the first pages leaves both metas as they were.
pub fn pages_overlap_no_meta<F: Fixture>(fixture: &F, geometry: Geometry) {
    let pager = with_room(fixture, geometry, 4);
    for (slot, byte) in [(MetaSlot::A, 0xaa), (MetaSlot::B, 0xbb)] {
        let proof = pager.flush(&[]).unwrap();
        pager.write_meta(proof, slot, &[byte; META_LEN]).unwrap();
    }
    let pages = firsts(geometry, 4, 1);
    put_sealed(&pager, &pages, 0);
    let _ = pager.flush(&pages).unwrap();
    let pager = fixture.reopen(pager);
    assert_meta(fixture, &pager, MetaSlot::A, 0xaa);
    assert_meta(fixture, &pager, MetaSlot::B, 0xbb);
}

fn assert_meta<F: Fixture>(fixture: &F, pager: &F::Pager, slot: MetaSlot, byte: u8) {
    match fixture.stored_meta(pager, slot) {
        Some(found) => assert_eq!(found, [byte; META_LEN], "meta slot {slot:?}"),
        None => skipped("stored_meta"),
    }
}

/// The first failure is told as it is, every later write is refused with it, and reads go on.
pub fn after_a_failure_writes_are_refused_and_reads_go_on<F: Fixture>(
    fixture: &F,
    geometry: Geometry,
) {
    let pager = with_room(fixture, geometry, 4);
    let pages = firsts(geometry, 2, 1);
    put_sealed(&pager, &pages, 0);
    let proof = pager.flush(&pages[..1]).unwrap();
    if !fixture.break_device(&pager) {
        return skipped("break_device");
    }
    let first = refused(pager.flush(&pages), "flush on a broken device");
    assert!(
        matches!(first, Error::Io { .. }),
        "the first failure is {first:?}"
    );
    for _ in 0..2 {
        assert_poisoned(pager.flush(&pages), "flush");
        assert_poisoned(pager.flush(&[]), "flush of nothing");
        assert_poisoned(pager.grow(pager.page_count() + 1), "grow");
    }
    assert_poisoned(
        pager.write_meta(proof, MetaSlot::A, &[1; META_LEN]),
        "write_meta",
    );
    for at in pages {
        assert_reads(&pager, at, 0);
    }
}

/// When no page can be written any more, every page is still read: the durable ones, however full memory
/// is of pages that are not, and those as well.
pub fn after_a_failure_every_page_is_still_read<F: Fixture>(fixture: &F, geometry: Geometry) {
    let count = many(geometry) / 4;
    let pager = with_room(fixture, geometry, 2 * count);
    let (durable, newer): (Vec<_>, Vec<_>) = firsts(geometry, 2 * count, 1)
        .into_iter()
        .partition(|at| at.id < nth(geometry, count, 1).id);
    put_sealed(&pager, &durable, 0);
    let _ = pager.flush(&durable).unwrap();
    let (sealed, private) = newer.split_at(newer.len() / 2);
    put_sealed(&pager, sealed, 0);
    private.iter().for_each(|&at| put(&pager, at, 0));
    if !fixture.break_device(&pager) {
        return skipped("break_device");
    }
    // A pager may have written all of these, or may have room for one page more.
    let failed = pager.flush(sealed).is_err() || pager.grow(pager.page_count() + 1).is_err();
    assert!(failed, "flush and growth on a broken device succeeded");
    for _ in 0..2 {
        durable.iter().for_each(|&at| assert_reads(&pager, at, 0));
        newer.iter().for_each(|&at| assert_reads(&pager, at, 0));
    }
}

fn assert_poisoned<T>(result: Result<T>, call: &str) {
    let error = refused(result, call);
    assert!(
        matches!(error, Error::Poisoned { .. }),
        "{call}: not Poisoned, but {error:?}"
    );
}
