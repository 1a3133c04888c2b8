//! Damage: flipped bytes, truncation, files that are missing or not ours. It is reported, and never
//! taken for a shorter history but in the one case that the module's header names.

use std::ffi::OsString;

use super::super::disk::Disk;
use super::super::files::Names;
use super::super::sim::SimDisk;
use super::super::{Error, LogMark, Position};
use super::{Commit, append, create, options, prefix, read, recover};

const SEGMENT_BYTES: u64 = 4096;

/// A log of five segments, synced to its end, and where its last group begins.
struct Sample {
    disk: SimDisk,
    mark: LogMark,
    commits: Vec<Commit>,
    last_group: Position,
    end: Position,
    /// What lies between the end that a recovery found and the segment that it began.
    dead: (Position, Position),
}

fn sample(recovered_between: bool) -> Sample {
    let (disk, mut log, mark) = create(7, options(SEGMENT_BYTES));
    let mut commits = Vec::new();
    let mut last_group = log.end();
    let mut dead = (log.end(), log.end());
    for version in 1..=36 {
        if recovered_between && version == 21 {
            dead.0 = log.durable_position();
            drop(log);
            log = recover(&disk, &mark, options(SEGMENT_BYTES)).unwrap().0;
            dead.1 = Position::new(log.end().get() / SEGMENT_BYTES * SEGMENT_BYTES);
        }
        let (commit, position) = append(&log, version);
        commits.push(commit);
        if version % 2 == 0 {
            last_group = log.durable_position();
            log.wait_durable(position).unwrap();
        }
    }
    let end = log.durable_position();
    Sample {
        disk,
        mark,
        commits,
        last_group,
        end,
        dead,
    }
}

impl Sample {
    fn segments(&self) -> Vec<(u64, OsString)> {
        let names = Names::new(prefix());
        let numbers = self.disk.list().unwrap().into_iter();
        numbers
            .filter_map(|name| Some((names.number(&name)?, name)))
            .collect()
    }

    /// Whether the byte of the segment belongs to what was synced, and to the last group of it.
    fn place(&self, segment: u64, offset: usize) -> (bool, bool) {
        let position = segment * SEGMENT_BYTES + offset as u64;
        (position < self.end.get(), position >= self.last_group.get())
    }
}

#[test]
fn every_flipped_byte_below_the_last_group_is_reported() {
    for recovered_between in [false, true] {
        let sample = sample(recovered_between);
        assert_eq!(read(&sample.disk, &sample.mark).unwrap(), sample.commits);
        let (mut reported, mut shorter, mut harmless) = (0, 0, 0);
        for (segment, name) in sample.segments() {
            let content = sample.disk.content(&name);
            for offset in 0..content.len() {
                let mut damaged = content.clone();
                damaged[offset] ^= 1 << (offset % 8);
                sample.disk.damage(&name, damaged);
                let found = read(&sample.disk, &sample.mark);
                let position = Position::new(segment * SEGMENT_BYTES + offset as u64);
                let (synced, last) = sample.place(segment, offset);
                match found {
                    Err(_) => reported += 1,
                    Ok(found) if found == sample.commits => {
                        // Behind the end, in a spare, behind what a recovery found to be the
                        // end, or in the padding of the last group.
                        let dead = position >= sample.dead.0 && position < sample.dead.1;
                        let what = format!("segment {segment} byte {offset}");
                        assert!(!synced || dead || last, "{what} is missed");
                        harmless += 1;
                    }
                    Ok(found) => {
                        let what = format!("segment {segment} byte {offset}");
                        assert!(last && synced, "{what}: {} commits", found.len());
                        assert_eq!(found, sample.commits[..found.len()], "{what}");
                        assert!(found.len() >= sample.commits.len() - 2, "{what}");
                        shorter += 1;
                    }
                }
            }
            sample.disk.damage(&name, content);
        }
        println!(
            "flipped bytes: {reported} reported, {harmless} harmless, {shorter} in the last group"
        );
        assert!(
            shorter > 0,
            "the case that cannot be told apart is where it should be"
        );
    }
}

#[test]
fn with_the_mark_of_a_clean_close_even_the_last_group_is_safe() {
    let (disk, log, mark) = create(7, options(SEGMENT_BYTES));
    for version in 1..=10 {
        let (_, position) = append(&log, version);
        log.wait_durable(position).unwrap();
    }
    let mark = log.refresh(mark);
    let end = log.durable_position().get() as usize % SEGMENT_BYTES as usize;
    let last = log.durable_position().get() / SEGMENT_BYTES;
    let name = Names::new(prefix()).segment(last);
    let content = disk.content(&name);
    for offset in 0..end {
        let mut damaged = content.clone();
        damaged[offset] ^= 0x10;
        disk.damage(&name, damaged);
        assert!(read(&disk, &mark).is_err(), "byte {offset}");
    }
}

#[test]
fn a_zeroed_or_misplaced_or_stale_sector_is_reported() {
    let sample = sample(false);
    let segments = sample.segments();
    let (mut reported, mut last_group) = (0, 0);
    for (segment, name) in &segments {
        let content = sample.disk.content(name);
        for at in (0..content.len()).step_by(512) {
            let (synced, last) = sample.place(*segment, at);
            if !synced {
                continue;
            }
            let (_, other) = &segments[(*segment as usize) % 2];
            let other = sample.disk.content(other);
            let elsewhere = &content[(at + 512) % content.len()..][..512];
            for sector in [&[0; 512][..], elsewhere, &other[at..at + 512]] {
                if sector == &content[at..at + 512] {
                    continue;
                }
                let mut damaged = content.clone();
                damaged[at..at + 512].copy_from_slice(sector);
                sample.disk.damage(name, damaged);
                match read(&sample.disk, &sample.mark) {
                    Err(_) => reported += 1,
                    Ok(found) => {
                        assert!(last, "segment {segment} at {at}: {} commits", found.len());
                        assert_eq!(found, sample.commits[..found.len()]);
                        last_group += 1;
                    }
                }
            }
        }
        sample.disk.damage(name, content);
    }
    println!("replaced sectors: {reported} reported, {last_group} in the last group");
}

#[test]
fn a_truncated_log_is_reported_at_every_length() {
    let sample = sample(false);
    for (segment, name) in sample.segments() {
        let content = sample.disk.content(&name);
        for len in 0..content.len() {
            sample.disk.damage(&name, content[..len].to_vec());
            let found = read(&sample.disk, &sample.mark);
            assert!(
                matches!(found, Err(Error::WrongLength { segment: at, found, .. })
                    if at == segment && found == len as u64),
                "segment {segment}, {len} bytes: {:?}",
                found.map(|found| found.len())
            );
        }
        sample.disk.damage(&name, content);
    }
}

#[test]
fn a_missing_segment_is_reported() {
    let sample = sample(false);
    let segments = sample.segments();
    let (_, spares): (Vec<_>, Vec<_>) = segments
        .iter()
        .partition(|(number, _)| *number <= sample.end.get() / SEGMENT_BYTES);
    for (segment, name) in &segments {
        let disk = sample.disk.copy();
        disk.remove(name).unwrap();
        let found = read(&disk, &sample.mark);
        if spares.last().is_some_and(|(last, _)| last == segment) {
            continue; // the last spare is nobody's loss
        }
        let last_begun = *segment == sample.end.get() / SEGMENT_BYTES;
        assert!(
            matches!(found, Err(Error::Missing { segment: at }) if at == *segment)
                || last_begun && spares.is_empty(),
            "segment {segment}: {found:?}"
        );
    }
    let empty = SimDisk::new(1);
    assert!(matches!(
        read(&empty, &sample.mark),
        Err(Error::Missing { segment: 1 })
    ));
}

#[test]
fn a_segment_of_another_database_is_reported() {
    let sample = sample(false);
    let mut history = super::History::read(
        std::sync::Arc::new(sample.disk.copy()),
        prefix(),
        *b"another database",
        &sample.mark,
    );
    assert!(
        matches!(history, Err(Error::Foreign { segment: 1 })),
        "{:?}",
        history.err()
    );

    let (other, log, _) = create(8, options(SEGMENT_BYTES));
    drop(log);
    let name = Names::new(prefix()).segment(2);
    let mut foreign = other.content(&Names::new(prefix()).segment(1));
    foreign[16] ^= 1; // another file_id, with the checksum it takes
    let checksum = xxhash_rust::xxh3::xxh3_64(&foreign[..504]).to_le_bytes();
    foreign[504..512].copy_from_slice(&checksum);
    sample.disk.damage(&name, foreign);
    history = super::History::read(
        std::sync::Arc::new(sample.disk.clone()),
        prefix(),
        super::ID,
        &sample.mark,
    );
    assert!(
        matches!(history, Err(Error::Foreign { segment: 2 })),
        "{:?}",
        history.err()
    );
}

#[test]
fn a_segment_of_a_later_release_is_reported() {
    let sample = sample(false);
    let name = Names::new(prefix()).segment(3);
    let mut content = sample.disk.content(&name);
    content[8] = 2;
    sample.disk.damage(&name, content);
    assert!(matches!(
        read(&sample.disk, &sample.mark),
        Err(Error::NewerFormat {
            segment: 3,
            found: 2,
            supported: 1
        })
    ));
}
