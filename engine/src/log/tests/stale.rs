//! What lies in a recycled segment, or beyond a torn end, is never replayed.

use std::sync::Arc;

use bifolio_pager::Version;
use proptest::prelude::*;

use super::super::disk::Disk;
use super::super::files::Names;
use super::super::history;
use super::super::sim::{SimDisk, Survival};
use super::super::{Error, Log, Replay};
use super::{ID, Op, Random, append, collect, create, encode, options, prefix, read, recover};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Segments go round many times, so that behind the end there are always old frames of this
    /// very log, whole and sound but for their position.
    #[test]
    fn frames_of_a_recycled_segment_are_never_replayed(
        seed in any::<u64>(),
        sizes in prop::collection::vec(0_u64..3000, 20..60),
        checkpoint_every in 2_usize..9,
    ) {
        let (disk, log, mut mark) = create(seed, options(4096));
        let mut random = Random(seed);
        let mut since = Vec::new();
        for (index, size) in sizes.iter().enumerate() {
            let version = Version::new(index as u64 + 1);
            let ops = vec![Op::Put("t".into(), random.bytes(8), random.bytes(*size))];
            let end = log.append(version, &mut encode(&ops)).unwrap();
            log.wait_durable(end).unwrap();
            since.push((version, ops));
            if index % checkpoint_every == 0 {
                mark = log.mark(end);
                log.recycle(end).unwrap();
                since.clear();
            }
            prop_assert_eq!(&read(&disk, &mark).unwrap(), &since);
        }
    }
}

#[test]
fn recycled_segments_do_hold_old_frames_when_they_are_used_again() {
    let (disk, log, _) = create(1, options(4096));
    for version in 1..=40 {
        let (_, end) = append(&log, version);
        log.wait_durable(end).unwrap();
        log.recycle(end).unwrap();
    }
    let counters = log.counters();
    assert!(counters.segments_recycled >= 3, "{counters:?}");
    let current = log.durable_position().get() / 4096;
    let at = log.durable_position().get() as usize % 4096;
    let content = disk.content(&Names::new(prefix()).segment(current));
    assert!(
        content[at..].iter().any(|&byte| byte != 0),
        "old frames lie behind the end"
    );
}

/// A sector of the torn group that reaches storage may lie exactly where the next recovery's log
/// ends. Its frames are sound, at their place and linked to each other: only the salt is not right.
#[test]
fn sound_frames_behind_a_torn_end_never_join_a_later_chain() {
    let (mut torn, mut stale) = (0, 0);
    for seed in 0..200 {
        let (disk, log, mark) = create(seed, options(4096));
        let mut random = Random(seed);
        let mut version = 0;
        let mut commits = Vec::new();
        for _ in 0..random.below(12) {
            version += 1;
            let (commit, end) = append(&log, version);
            log.wait_durable(end).unwrap();
            commits.push(commit);
        }
        // A group over several sectors, and over the end of the segment, is cut off.
        for _ in 0..14 {
            version += 1;
            append(&log, version);
        }
        let cut = Arc::new(parking_lot::Mutex::new(Vec::new()));
        let cuts = Arc::clone(&cut);
        disk.before_each(move |disk, _| cuts.lock().push(disk.power_cut(seed, Survival::Some)));
        log.sync().unwrap();
        disk.unhook();
        for image in cut.lock().drain(..) {
            let (log, recovered, found) = recover(&image, &mark, options(4096)).unwrap();
            assert_eq!(found[..commits.len()], commits);
            torn += u64::from(recovered.torn_at.is_some());
            let mut expected = found;
            let first = expected.len() as u64 + 1000;
            for version in first..first + random.below(12) {
                let (commit, end) = append(&log, version);
                log.wait_durable(end).unwrap();
                expected.push(commit);
                let name = Names::new(prefix()).segment(end.get() / 4096);
                let content = image.content(&name);
                let at = log.durable_position().get() as usize % 4096;
                stale += u64::from(content[at..].iter().any(|&byte| byte != 0));
                assert_eq!(read(&image, &mark).unwrap(), expected);
                // From a mark at the very end, too.
                let here = log.mark(end);
                assert_eq!(read(&image, &here).unwrap(), []);
            }
        }
    }
    println!("{torn} torn tails, {stale} times stale bytes behind the end");
    assert!(torn > 0 && stale > 0, "{torn} torn, {stale} stale");
}

/// The story: recovery begins a new segment, and leaves behind what lies between the end of the
/// history and there. A power cut tore that segment's first block, on a device that writes 4096
/// bytes at once: its header was lost and the padding behind it was not, and that said that everything
/// below its own segment was synced. So the history's end passed for damage.
#[test]
fn a_first_header_that_is_lost_while_its_padding_survives_is_a_crash_like_another() {
    let mut lost = 0;
    for seed in 0..300 {
        let disk = SimDisk::new(seed);
        disk.set_alignment(4096);
        let shared = Arc::new(disk.clone());
        let log = Log::create(shared, prefix(), ID, options(16 << 10)).unwrap();
        let mark = log.mark(log.end());
        let (commit, end) = append(&log, 1);
        log.wait_durable(end).unwrap();
        let after = disk.copy();
        drop(log);
        let cuts = Arc::new(parking_lot::Mutex::new(Vec::new()));
        let taken = Arc::clone(&cuts);
        after.before_each(move |disk, index| {
            taken
                .lock()
                .push(disk.power_cut(seed << 8 | index, Survival::Some));
        });
        let _ = recover(&after, &mark, options(16 << 10)).unwrap();
        after.unhook();
        for image in cuts.lock().drain(..) {
            let name = Names::new(prefix()).segment(2);
            if image.list().unwrap().contains(&name) {
                let next = image.content(&name);
                lost += u32::from(next[..512] == [0; 512] && next[512..1024] != [0; 512]);
            }
            assert_eq!(
                read(&image, &mark).unwrap(),
                std::slice::from_ref(&commit),
                "seed {seed}"
            );
        }
    }
    assert!(lost > 0, "the case itself was not reached");
}

#[test]
fn replay_stops_at_a_barrier_for_good() {
    for after in [0, 3, 60] {
        let (disk, log, mark) = create(3, options(4096));
        let before: Vec<_> = (1..=5).map(|version| append(&log, version).0).collect();
        let mut records = encode(&[Op::Barrier(9)]);
        log.append(Version::new(6), &mut records).unwrap();
        (7..7 + after).for_each(|version| _ = append(&log, version));
        log.sync().unwrap();
        drop(log);

        // The meta of generation 9 was never written: its base is older.
        let mut commits = Vec::new();
        let (log, recovered) = Log::recover(
            Arc::new(disk.clone()),
            prefix(),
            ID,
            &mark,
            options(4096),
            |version, reader| {
                let ops = collect(reader)?;
                if ops == [Op::Barrier(9)] {
                    return Ok::<_, Error>(Replay::Stop);
                }
                commits.push((version, ops));
                Ok(Replay::Continue)
            },
        )
        .unwrap();
        assert_eq!((&commits, recovered.last), (&before, Version::new(5)));

        // From now on neither the barrier nor what followed it is there, whoever asks.
        let (next, end) = append(&log, 6);
        log.wait_durable(end).unwrap();
        drop(log);
        let expected: Vec<_> = before.iter().cloned().chain([next]).collect();
        for survival in [Survival::Nothing, Survival::Everything, Survival::Some] {
            let image = disk.power_cut(after, survival);
            assert_eq!(
                read(&image, &mark).unwrap(),
                expected,
                "{after} after, {survival:?}"
            );
        }
    }
}

#[test]
fn a_cut_while_a_barrier_is_left_behind_changes_nothing() {
    let (disk, log, mark) = create(3, options(4096));
    (1..=5).for_each(|version| _ = append(&log, version));
    log.append(Version::new(6), &mut encode(&[Op::Barrier(9)]))
        .unwrap();
    (7..70).for_each(|version| _ = append(&log, version));
    log.sync().unwrap();
    drop(log);
    let stop_at_barrier = |disk: &SimDisk| {
        let mut count = 0;
        let disk = Arc::new(disk.clone());
        Log::recover(disk, prefix(), ID, &mark, options(4096), |_, reader| {
            if collect(reader)? == [Op::Barrier(9)] {
                return Ok::<_, Error>(Replay::Stop);
            }
            count += 1;
            Ok(Replay::Continue)
        })
        .unwrap();
        count
    };
    let images = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let kept = Arc::clone(&images);
    let work = disk.copy();
    work.before_each(move |disk, index| {
        for seed in 0..4 {
            kept.lock()
                .push(disk.power_cut(index << 8 | seed, Survival::Garbage));
        }
    });
    assert_eq!(stop_at_barrier(&work), 5);
    work.unhook();
    for image in images.lock().iter() {
        assert_eq!(stop_at_barrier(image), 5);
    }
}

#[test]
fn a_commit_that_was_given_up_is_not_replayed() {
    let (disk, log, mark) = create(4, options(4096));
    let (first, _) = append(&log, 1);
    let long = vec![Op::Put("t".into(), vec![1], vec![7; 20_000])];
    log.append_piece(Version::new(2), &mut encode(&long))
        .unwrap();
    let (second, _) = append(&log, 3); // another version: the pieces are dropped
    log.append_piece(Version::new(4), &mut encode(&long))
        .unwrap();
    log.abandon();
    let (third, end) = append(&log, 4); // the same version, begun anew
    log.wait_durable(end).unwrap();
    assert_eq!(
        read(&disk, &mark).unwrap(),
        [first.clone(), second.clone(), third.clone()]
    );
    // One that is not complete when the power goes is none either, nor in any later recovery.
    log.append_piece(Version::new(5), &mut encode(&long))
        .unwrap();
    log.sync().unwrap();
    drop(log);
    let (log, _, found) = recover(&disk, &mark, options(4096)).unwrap();
    assert_eq!(found, [first, second, third]);
    let (next, end) = append(&log, 5);
    log.wait_durable(end).unwrap();
    assert_eq!(read(&disk, &mark).unwrap().last(), Some(&next));
}

#[test]
fn leftovers_of_a_segment_being_made_are_removed() {
    let (disk, log, mark) = create(5, options(4096));
    drop(log);
    disk.create(&Names::new(prefix()).temporary()).unwrap();
    disk.sync_directory().unwrap();
    let (log, ..) = recover(&disk, &mark, options(4096)).unwrap();
    assert!(
        !disk
            .list()
            .unwrap()
            .contains(&Names::new(prefix()).temporary())
    );
    drop(log);
    let refused = Log::create(Arc::new(disk.clone()), prefix(), ID, options(4096));
    assert!(matches!(refused.err(), Some(Error::Exists { .. })));
    Log::remove_all(&disk, prefix()).unwrap();
    assert_eq!(disk.list().unwrap(), Vec::<std::ffi::OsString>::new());
}

#[test]
fn the_checksums_of_two_databases_frames_have_different_seeds() {
    let mut other = ID;
    other[15] ^= 1;
    assert_ne!(history::seed(ID), history::seed(other));
}
