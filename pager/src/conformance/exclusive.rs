//! Clause 2: only a private page is written, by one holder at a time, and a new page is zeros.

use std::sync::Barrier;
use std::thread;

use super::*;

/// Both the guard of `create` and a later reader see zeros.
pub fn a_created_page_is_zeros_but_for_its_reference<F: Fixture>(fixture: &F, geometry: Geometry) {
    let pager = with_room(fixture, geometry, 4);
    let at = nth(geometry, 2, 9);
    let expected = zeros(geometry, at);
    let page = pager.create(at).unwrap();
    assert_bytes(&page, &expected, at);
    drop(page);
    let guard = pager.read(at).unwrap();
    assert_bytes(&guard, &expected, at);
    guard.confirm().unwrap();
}

/// The former life may be in memory, in storage, or both.
pub fn a_reused_page_is_zeros_whatever_it_held<F: Fixture>(fixture: &F, geometry: Geometry) {
    let pages = firsts(geometry, 3, 1);
    let mut pager = with_room(fixture, geometry, 3);
    put_sealed(&pager, &pages, 0);
    let _ = pager.flush(&pages[..2]).unwrap();
    pager.discard(&[pages[0].id, pages[2].id]).unwrap();
    for index in [0, 2] {
        assert_created_as_zeros(&pager, nth(geometry, index, 2));
    }
    // Opened anew, the pager has heard nothing of the page; its caller knows it to be free.
    pager = fixture.reopen(pager);
    assert_created_as_zeros(&pager, nth(geometry, 1, 3));
}

fn assert_created_as_zeros(pager: &impl Pager, at: PageRef) {
    let expected = zeros(pager.geometry(), at);
    assert_bytes(&pager.create(at).unwrap(), &expected, at);
    assert_bytes(&pager.read(at).unwrap(), &expected, at);
}

fn zeros(geometry: Geometry, at: PageRef) -> Vec<u8> {
    let mut bytes = vec![0; geometry.page_size.usable()];
    bytes[SELF_REF].copy_from_slice(&at.encode());
    bytes
}

/// `write` is refused while a reader looks at the private page, and works once it is gone.
pub fn a_page_with_a_read_guard_cannot_be_written<F: Fixture>(fixture: &F, geometry: Geometry) {
    let (pager, at) = one_private_page(fixture, geometry);
    let (one, two) = (pager.read(at).unwrap(), pager.read(at).unwrap());
    assert_guarded(pager.write(at), at.id, "write");
    drop(one);
    assert_guarded(pager.write(at), at.id, "write");
    assert_exposes(&two, geometry, at, 0);
    drop(two);
    rewrite(&pager, at, 1);
    assert_reads(&pager, at, 1);
}

/// `seal` is refused likewise, and the page stays private.
pub fn a_page_with_a_read_guard_cannot_be_sealed<F: Fixture>(fixture: &F, geometry: Geometry) {
    let (pager, at) = one_private_page(fixture, geometry);
    let guard = pager.read(at).unwrap();
    assert_guarded(pager.seal(&[at]), at.id, "seal");
    drop(guard);
    rewrite(&pager, at, 1);
    pager.seal(&[at]).unwrap();
    assert_reads(&pager, at, 1);
}

/// `read` is refused while the page is written, and sees the writing once that is done.
pub fn a_page_being_written_cannot_be_read<F: Fixture>(fixture: &F, geometry: Geometry) {
    let (pager, at) = one_private_page(fixture, geometry);
    let mut page = pager.write(at).unwrap();
    fill(&mut page, at, 1);
    assert_guarded(pager.read(at), at.id, "read");
    drop(page);
    assert_reads(&pager, at, 1);
}

/// There is one write guard of a page at a time.
pub fn a_page_being_written_cannot_be_written_again<F: Fixture>(fixture: &F, geometry: Geometry) {
    let (pager, at) = one_private_page(fixture, geometry);
    let page = pager.write(at).unwrap();
    assert_guarded(pager.write(at), at.id, "write");
    drop(page);
    rewrite(&pager, at, 1);
    assert_reads(&pager, at, 1);
}

/// `seal` is refused while the page is written.
pub fn a_page_being_written_cannot_be_sealed<F: Fixture>(fixture: &F, geometry: Geometry) {
    let (pager, at) = one_private_page(fixture, geometry);
    let mut page = pager.write(at).unwrap();
    assert_guarded(pager.seal(&[at]), at.id, "seal");
    fill(&mut page, at, 1);
    drop(page);
    pager.seal(&[at]).unwrap();
    assert_reads(&pager, at, 1);
}

/// The guard of `create` is a write guard.
pub fn a_page_being_created_cannot_be_read_or_written<F: Fixture>(fixture: &F, geometry: Geometry) {
    let pager = with_room(fixture, geometry, 1);
    let at = nth(geometry, 0, 1);
    let mut page = pager.create(at).unwrap();
    assert_guarded(pager.read(at), at.id, "read");
    assert_guarded(pager.write(at), at.id, "write");
    assert_guarded(pager.seal(&[at]), at.id, "seal");
    fill(&mut page, at, 0);
    drop(page);
    assert_reads(&pager, at, 0);
}

/// A guard from before a `discard` keeps `create` away, and sees the old life until it is dropped.
pub fn a_number_is_not_reused_under_a_guard_of_its_former_life<F: Fixture>(
    fixture: &F,
    geometry: Geometry,
) {
    let pager = with_room(fixture, geometry, 2);
    let (sealed, private) = (nth(geometry, 0, 1), nth(geometry, 1, 1));
    put_sealed(&pager, &[sealed], 0);
    put(&pager, private, 0);
    for old in [sealed, private] {
        let new = PageRef {
            version: Version::new(2),
            ..old
        };
        let guards = [pager.read(old).unwrap(), pager.read(old).unwrap()];
        pager.discard(&[old.id]).unwrap();
        for guard in guards {
            assert_guarded(pager.create(new), new.id, "create");
            assert_bytes(&guard, &content(geometry, old, 0), old);
        }
        put(&pager, new, 1);
        assert_reads(&pager, new, 1);
    }
}

/// Guards are `Send`: whoever drops one, the page is free from then on.
pub fn a_guard_dropped_on_another_thread_frees_its_page<F: Fixture>(
    fixture: &F,
    geometry: Geometry,
) {
    let (pager, at) = one_private_page(fixture, geometry);
    let guard = pager.read(at).unwrap();
    assert_guarded(pager.write(at), at.id, "write");
    thread::scope(|scope| {
        let moved = scope.spawn(move || assert_exposes(&guard, geometry, at, 0));
        moved.join().unwrap();
    });
    rewrite(&pager, at, 1);
    pager.seal(&[at]).unwrap();

    let guard = pager.read(at).unwrap();
    pager.discard(&[at.id]).unwrap();
    let new = nth(geometry, 0, 2);
    assert_guarded(pager.create(new), new.id, "create");
    thread::scope(|scope| {
        scope.spawn(move || drop(guard)).join().unwrap();
    });
    put(&pager, new, 2);
    assert_reads(&pager, new, 2);

    // Made on a thread that has ended, dropped here.
    let guard = thread::scope(|scope| scope.spawn(|| pager.read(new).unwrap()).join().unwrap());
    assert_guarded(pager.write(new), new.id, "write");
    drop(guard);
    rewrite(&pager, new, 3);
}

/// What is guarded is one page, and not its neighbours.
pub fn a_guard_holds_up_no_other_page<F: Fixture>(fixture: &F, geometry: Geometry) {
    let pager = with_room(fixture, geometry, 9);
    let pages = firsts(geometry, 9, 1);
    for &at in &pages {
        put(&pager, at, 0);
    }
    let guard = pager.read(pages[4]).unwrap();
    for &at in pages.iter().filter(|&&at| at != pages[4]) {
        rewrite(&pager, at, 1);
        pager.seal(&[at]).unwrap();
        pager.discard(&[at.id]).unwrap();
        put(
            &pager,
            PageRef {
                version: Version::new(2),
                ..at
            },
            2,
        );
    }
    assert_exposes(&guard, geometry, pages[4], 0);
}

/// Threads that ask for the same page at the same moment: one gets it, the others are told.
pub fn of_several_writers_of_one_page_one_wins<F: Fixture>(fixture: &F, geometry: Geometry) {
    const THREADS: u64 = 4;
    let pager = with_room(fixture, geometry, 1);
    let start = Barrier::new(THREADS as usize);
    for round in 1..20 {
        let at = nth(geometry, 0, round);
        let winners: u64 = thread::scope(|scope| {
            let racers: Vec<_> = (0..THREADS)
                .map(|racer| {
                    let (pager, start) = (&pager, &start);
                    scope.spawn(move || {
                        start.wait();
                        let won = match pager.create(at) {
                            Ok(mut page) => {
                                fill(&mut page, at, racer);
                                start.wait(); // the guard lives until all have tried
                                true
                            }
                            Err(error) => {
                                start.wait();
                                assert!(
                                    matches!(
                                        error,
                                        Error::Guarded { .. }
                                            | Error::WrongState { .. }
                                            | Error::NoFreeFrame { .. }
                                    ),
                                    "{error:?}"
                                );
                                false
                            }
                        };
                        u64::from(won)
                    })
                })
                .collect();
            racers.into_iter().map(|racer| racer.join().unwrap()).sum()
        });
        assert_eq!(winners, 1, "threads that created one page at once");
        let intact = {
            let guard = pager.read(at).unwrap();
            (0..THREADS).any(|racer| *guard == *content(geometry, at, racer))
        };
        assert!(intact, "the page is not what one thread wrote");
        pager.discard(&[at.id]).unwrap();
    }
}

fn one_private_page<F: Fixture>(fixture: &F, geometry: Geometry) -> (F::Pager, PageRef) {
    let pager = with_room(fixture, geometry, 1);
    let at = nth(geometry, 0, 1);
    put(&pager, at, 0);
    (pager, at)
}
