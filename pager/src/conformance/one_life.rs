//! Clause 7: at most one write of a page is in flight, and a new life owes nothing to the old one.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::*;

/// Write-back and prefetch of the former life are under way when the number is used again.
pub fn a_new_life_wins_over_all_input_and_output_of_the_old_one<F: Fixture>(
    fixture: &F,
    geometry: Geometry,
) {
    const PAGES: u64 = 64;
    const LIVES: u64 = 8;
    let pager = with_room(fixture, geometry, PAGES);
    for version in 1..=LIVES {
        let pages = firsts(geometry, PAGES, version);
        put_sealed(&pager, &pages, version);
        pager.write_back(&pages);
        pager.prefetch(&pages);
        if version < LIVES {
            let ids: Vec<_> = pages.iter().map(|at| at.id).collect();
            pager.discard(&ids).unwrap();
        }
    }
    let last = firsts(geometry, PAGES, LIVES);
    for &at in &last {
        assert_reads(&pager, at, LIVES);
    }
    let _ = pager.flush(&last).unwrap();
    let pager = fixture.reopen(pager);
    for &at in &last {
        assert_reads(&pager, at, LIVES);
    }
}

/// One thread creates, seals, flushes and discards; the others read what stays, and never see it
/// change. This is the engine at work: one writer, snapshots beside it.
pub fn lives_come_and_go_while_others_read<F: Fixture>(fixture: &F, geometry: Geometry) {
    let (kept, churned) = (many(geometry) / 8, many(geometry) / 4);
    let pager = with_room(fixture, geometry, kept + churned);
    let stay = firsts(geometry, kept, 1);
    put_sealed(&pager, &stay, 0);
    let _ = pager.flush(&stay).unwrap();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for thread in 0..3 {
            let (pager, stay, done) = (&pager, &stay, &done);
            scope.spawn(move || {
                let mut step = thread;
                let mut held = patiently(|| pager.read(stay[0]));
                while !done.load(Ordering::Relaxed) {
                    step += 1;
                    let at = stay[mix(step) as usize % stay.len()];
                    assert_exposes(&patiently(|| pager.read(at)), geometry, at, 0);
                    assert_exposes(&held, geometry, stay[0], 0);
                    held = patiently(|| pager.read(stay[0]));
                }
            });
        }
        // Told also when this thread panics, or the readers would go on for ever.
        let _tell = TellOnDrop(&done);
        for version in 2..8 {
            let lives: Vec<_> = (kept..kept + churned)
                .map(|index| nth(geometry, index, version))
                .collect();
            for &at in &lives {
                fill(&mut patiently(|| pager.create(at)), at, version);
                fill(&mut patiently(|| pager.write(at)), at, version + 100);
            }
            pager.seal(&lives).unwrap();
            let _ = patiently(|| pager.flush(&lives[..lives.len() / 2]));
            for &at in &lives {
                let guard = patiently(|| pager.read(at));
                assert_exposes(&guard, geometry, at, version + 100);
            }
            let ids: Vec<_> = lives.iter().map(|at| at.id).collect();
            pager.discard(&ids).unwrap();
        }
    });
}

struct TellOnDrop<'a>(&'a AtomicBool);

impl Drop for TellOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
