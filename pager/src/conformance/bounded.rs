//! Clause 8: the pager stays within its memory, and says so instead of waiting.

use std::sync::Barrier;
use std::thread;

use super::*;

/// A thousand guards at once: each is had or refused, none hangs, and afterwards all is well.
pub fn many_guards_at_once_work_or_are_refused<F: Fixture>(fixture: &F, geometry: Geometry) {
    let count = many(geometry).min(1000);
    let pages = firsts(geometry, count, 1);
    let mut pager = with_room(fixture, geometry, count);
    put_sealed(&pager, &pages, 0);
    let _ = pager.flush(&pages).unwrap();
    for _ in 0..2 {
        let mut guards = Vec::new();
        for &at in &pages {
            match pager.read(at) {
                Ok(guard) => guards.push((at, guard)),
                Err(error) => assert_no_free_frame(&error),
            }
        }
        assert!(!guards.is_empty(), "not one page can be read");
        for (at, guard) in &guards {
            assert_exposes(guard, geometry, *at, 0);
        }
        drop(guards);
        for &at in &pages {
            assert_reads(&pager, at, 0);
        }
        pager = fixture.reopen(pager);
    }
}

/// The same with private pages being written.
pub fn many_write_guards_at_once_work_or_are_refused<F: Fixture>(fixture: &F, geometry: Geometry) {
    let count = many(geometry).min(1000);
    let pager = with_room(fixture, geometry, count);
    let mut written = Vec::new();
    let mut guards = Vec::new();
    for at in firsts(geometry, count, 1) {
        match pager.create(at) {
            Ok(guard) => guards.push((at, guard)),
            Err(error) => assert_no_free_frame(&error),
        }
    }
    assert!(!guards.is_empty(), "not one page can be created");
    for (at, guard) in &mut guards {
        fill(guard, *at, 0);
        written.push(*at);
    }
    drop(guards);
    for &at in &written {
        assert_reads(&pager, at, 0);
    }
    // What was refused was not created, and can be now.
    for at in firsts(geometry, count, 1) {
        if !written.contains(&at) {
            put(&pager, at, 1);
            assert_reads(&pager, at, 1);
        }
    }
}

/// Each thread holds a page and asks for another, as a descent does: refused perhaps, never stuck.
pub fn readers_that_hold_guards_never_wait_for_each_other<F: Fixture>(
    fixture: &F,
    geometry: Geometry,
) {
    const THREADS: u64 = 8;
    let count = many(geometry).min(500);
    let pages = firsts(geometry, count, 1);
    let mut pager = with_room(fixture, geometry, count);
    put_sealed(&pager, &pages, 0);
    let _ = pager.flush(&pages).unwrap();
    pager = fixture.reopen(pager);
    let start = Barrier::new(THREADS as usize);
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let (pager, pages, start) = (&pager, &pages, &start);
            scope.spawn(move || {
                start.wait();
                let mut path = Vec::new();
                for step in 0..400 {
                    let at = pages[mix(thread * 1000 + step) as usize % pages.len()];
                    match pager.read(at) {
                        Ok(guard) => {
                            assert_exposes(&guard, geometry, at, 0);
                            path.push(guard);
                        }
                        Err(error) => assert_no_free_frame(&error),
                    }
                    if path.len() == 4 {
                        path.clear();
                    }
                }
            });
        }
    });
    for &at in &pages {
        assert_reads(&pager, at, 0);
    }
}

/// Asked after each of many operations.
pub fn frames_in_use_stay_within_their_number<F: Fixture>(fixture: &F, geometry: Geometry) {
    let pages = firsts(geometry, many(geometry), 1);
    let pager = with_room(fixture, geometry, many(geometry));
    if pager.counters().frames.is_none() {
        return; // no frames, no bound on them
    }
    let memory_before = pager.counters().memory_bytes;
    for group in pages.chunks(20) {
        put_sealed(&pager, group, 0);
        assert_frames_bounded(&pager);
    }
    for &at in pages.iter().step_by(3) {
        assert_reads(&pager, at, 0);
        assert_frames_bounded(&pager);
    }
    if let (Some(before), Some(after)) = (memory_before, pager.counters().memory_bytes) {
        // Tables may grow with the file, by much less than the pages themselves.
        let slack = (PRESSURE_BYTES / 4) as u64;
        assert!(after <= before + slack, "{before} bytes grew to {after}");
    }
}

fn assert_frames_bounded(pager: &impl Pager) {
    let counters = pager.counters();
    let frames = counters
        .frames
        .expect("a pager that has frames keeps having them");
    if let Some(used) = counters.frames_used {
        assert!(used <= frames, "{used} of {frames} frames are in use");
    }
    if let Some(dirty) = counters.frames_dirty {
        assert!(dirty <= frames, "{dirty} of {frames} frames are dirty");
    }
}

/// Where a pager counts, it counts what the caller did.
pub fn counters_tell_what_happened<F: Fixture>(fixture: &F, geometry: Geometry) {
    let pager = with_room(fixture, geometry, 40);
    let pages = firsts(geometry, 40, 1);
    let before = pager.counters();
    put_sealed(&pager, &pages, 0);
    let _ = pager.flush(&pages).unwrap();
    let after = pager.counters();
    let grown = |field: fn(&crate::Counters) -> Option<u64>| {
        Some(
            field(&after)?
                .checked_sub(field(&before)?)
                .expect("a counter does not fall"),
        )
    };
    assert!(
        grown(|c| c.pages_created).is_none_or(|n| n == 40),
        "{before:?} {after:?}"
    );
    assert!(
        grown(|c| c.pages_written).is_none_or(|n| n >= 40),
        "{before:?} {after:?}"
    );
    assert!(
        grown(|c| c.syncs).is_none_or(|n| n >= 1),
        "{before:?} {after:?}"
    );
    assert!(
        grown(|c| c.write_calls).is_none_or(
            |calls| calls >= 1 && grown(|c| c.pages_written).is_none_or(|pages| calls <= pages)
        ),
        "{before:?} {after:?}"
    );

    let pager = fixture.reopen(pager);
    let before = pager.counters();
    for &at in pages.iter().chain(&pages) {
        assert_reads(&pager, at, 0);
    }
    let after = pager.counters();
    let grown = |field: fn(&crate::Counters) -> Option<u64>| {
        Some(
            field(&after)?
                .checked_sub(field(&before)?)
                .expect("a counter does not fall"),
        )
    };
    assert!(
        grown(|c| c.pages_read).is_none_or(|n| (1..=80).contains(&n)),
        "{after:?}"
    );
    assert!(grown(|c| c.hits).is_none_or(|n| n <= 80), "{after:?}");
    assert!(
        grown(|c| c.pages_verified).is_none_or(|n| n >= 40),
        "{after:?}"
    );
    assert!(
        grown(|c| c.pages_written).is_none_or(|n| n == 0),
        "reading wrote: {after:?}"
    );
    assert!(
        grown(|c| c.pages_created).is_none_or(|n| n == 0),
        "reading created: {after:?}"
    );
}

fn assert_no_free_frame(error: &Error) {
    assert!(matches!(error, Error::NoFreeFrame { .. }), "{error:?}");
}
