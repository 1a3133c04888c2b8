//! Many threads: group commit, back-pressure, and what a failure tells those who wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use bifolio_pager::Version;
use parking_lot::Mutex;

use super::super::sim::{Fault, Survival};
use super::super::{Log, Options, Position, RecordWriter};
use super::{Op, append, create, encode, options, read};

/// What the engine's writer lock does: versions rise in the order of the log.
struct Writers {
    log: Log,
    version: Mutex<u64>,
}

impl Writers {
    fn commit(&self, records: &mut RecordWriter) -> Result<(u64, Position), super::Error> {
        let mut version = self.version.lock();
        let end = self.log.append(Version::new(*version + 1), records)?;
        *version += 1;
        Ok((*version, end))
    }
}

fn small(thread: u64, number: u64) -> Vec<Op> {
    vec![Op::Put(
        "t".into(),
        thread.to_be_bytes().to_vec(),
        number.to_be_bytes().to_vec(),
    )]
}

#[test]
fn threads_that_wait_share_syncs_and_lose_nothing() {
    const THREADS: u64 = 8;
    const EACH: u64 = 250;
    let (disk, log, mark) = create(1, options(64 << 10));
    // A sync takes time, during which the others queue up.
    disk.before_each(|_, _| thread::sleep(std::time::Duration::from_micros(50)));
    let syncs = disk.syncs();
    let writers = Writers {
        log,
        version: Mutex::new(0),
    };
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let writers = &writers;
            scope.spawn(move || {
                for number in 0..EACH {
                    let mut records = encode(&small(thread, number));
                    let (_, end) = writers.commit(&mut records).unwrap();
                    writers.log.wait_durable(end).unwrap();
                    assert!(writers.log.durable_position() >= end);
                }
            });
        }
    });
    disk.unhook();
    let counters = writers.log.counters();
    let syncs = disk.syncs() - syncs;
    println!(
        "{} commits, {syncs} syncs, largest group {}",
        THREADS * EACH,
        counters.largest_group
    );
    assert_eq!(counters.commits, THREADS * EACH);
    assert!(counters.largest_group > 1, "{counters:?}");
    assert!(counters.largest_group <= THREADS, "{counters:?}");

    let found = read(&disk.power_cut(1, Survival::Nothing), &mark).unwrap();
    assert_eq!(found.len() as u64, THREADS * EACH);
    let mut next = [0; THREADS as usize];
    for (index, (version, ops)) in found.iter().enumerate() {
        assert_eq!(version.get(), index as u64 + 1);
        let thread = (0..THREADS)
            .find(|&t| ops == &small(t, next[t as usize]))
            .unwrap();
        next[thread as usize] += 1; // each thread's own commits are in their order
    }
}

#[test]
fn a_power_cut_under_many_threads_keeps_every_acknowledged_commit() {
    let mut cuts = 0;
    for seed in 0..40 {
        let (disk, log, mark) = create(seed, options(8 << 10));
        disk.fail_at(disk.operations() + 20 + seed * 7, Fault::PowerOff);
        let writers = Writers {
            log,
            version: Mutex::new(0),
        };
        let acknowledged = AtomicU64::new(0);
        let told = AtomicU64::new(0);
        thread::scope(|scope| {
            for thread in 0..4_u64 {
                let (writers, acknowledged, told) = (&writers, &acknowledged, &told);
                scope.spawn(move || {
                    for number in 0.. {
                        let mut records = encode(&small(thread, number));
                        let done = writers.commit(&mut records).and_then(|(version, end)| {
                            writers.log.wait_durable(end).map(|()| version)
                        });
                        match done {
                            Ok(version) => acknowledged.fetch_max(version, Ordering::Relaxed),
                            Err(_) => {
                                told.fetch_add(1, Ordering::Relaxed);
                                break;
                            }
                        };
                    }
                });
            }
        });
        assert_eq!(told.load(Ordering::Relaxed), 4, "everybody gets the error");
        let image = disk.power_cut(seed, Survival::Garbage);
        let found = read(&image, &mark).unwrap();
        let versions: Vec<_> = found.iter().map(|(version, _)| version.get()).collect();
        assert_eq!(versions, (1..=found.len() as u64).collect::<Vec<_>>());
        assert!(
            found.len() as u64 >= acknowledged.load(Ordering::Relaxed),
            "seed {seed}"
        );
        cuts += 1;
    }
    println!("{cuts} cuts under 4 threads");
}

#[test]
fn an_append_larger_than_the_buffer_makes_its_own_room() {
    let (disk, log, mark) = create(1, options(16 << 10));
    let ops = vec![Op::Put("t".into(), b"k".to_vec(), vec![7; 1 << 20])];
    let end = log.append(Version::new(1), &mut encode(&ops)).unwrap();
    let counters = log.counters();
    assert!(
        counters.full_buffers >= 7 && counters.groups >= 7,
        "{counters:?}"
    );
    log.wait_durable(end).unwrap();
    assert_eq!(read(&disk, &mark).unwrap(), [(Version::new(1), ops)]);
}

#[test]
fn appenders_that_outrun_the_disk_wait_and_do_not_fail() {
    let (disk, log, mark) = create(
        1,
        Options {
            spare_segments: 1,
            ..options(32 << 10)
        },
    );
    disk.before_each(|_, _| thread::sleep(std::time::Duration::from_micros(20)));
    let writers = Writers {
        log,
        version: Mutex::new(0),
    };
    thread::scope(|scope| {
        for thread in 0..3_u64 {
            let writers = &writers;
            scope.spawn(move || {
                for number in 0..40_u64 {
                    let value = vec![number as u8; 9000];
                    let ops = [Op::Put("t".into(), thread.to_be_bytes().to_vec(), value)];
                    writers.commit(&mut encode(&ops)).unwrap();
                }
            });
        }
    });
    writers.log.sync().unwrap();
    disk.unhook();
    assert!(writers.log.counters().full_buffers > 0);
    assert_eq!(read(&disk, &mark).unwrap().len(), 120);
}

#[test]
fn a_lone_commit_is_one_write_and_one_sync() {
    let (disk, log, _) = create(1, options(64 << 10));
    for version in 1..=50 {
        let (operations, syncs) = (disk.operations(), disk.syncs());
        let (_, end) = append(&log, version);
        assert_eq!(disk.operations(), operations, "an append touches no disk");
        log.wait_durable(end).unwrap();
        assert_eq!(
            (disk.operations(), disk.syncs()),
            (operations + 2, syncs + 1)
        );
        log.wait_durable(end).unwrap();
        assert_eq!(
            disk.operations(),
            operations + 2,
            "what is durable is not synced again"
        );
    }
}

#[test]
fn recycling_goes_on_beside_commits() {
    let (disk, log, first) = create(1, options(8 << 10));
    let meta = Mutex::new((first, 0));
    let writers = Writers {
        log,
        version: Mutex::new(0),
    };
    let running = std::sync::atomic::AtomicBool::new(true);
    thread::scope(|scope| {
        let checkpointer = scope.spawn(|| {
            loop {
                // One more pass when the writers are done, in case they were faster than the first.
                let last = !running.load(Ordering::Acquire);
                let (end, covered) = {
                    let version = writers.version.lock();
                    (writers.log.end(), *version)
                };
                writers.log.wait_durable(end).unwrap();
                *meta.lock() = (writers.log.mark(end), covered);
                writers.log.recycle(end).unwrap();
                writers.log.prepare(1).unwrap();
                if last {
                    break;
                }
                thread::yield_now();
            }
        });
        let threads: Vec<_> = (0..3_u64)
            .map(|thread| {
                let writers = &writers;
                scope.spawn(move || {
                    for number in 0..300 {
                        let (_, end) = writers.commit(&mut encode(&small(thread, number))).unwrap();
                        writers.log.wait_durable(end).unwrap();
                    }
                })
            })
            .collect();
        threads
            .into_iter()
            .for_each(|thread| thread.join().unwrap());
        running.store(false, Ordering::Release);
        checkpointer.join().unwrap();
    });
    let counters = writers.log.counters();
    assert!(
        counters.segments_recycled + counters.segments_removed > 0,
        "{counters:?}"
    );
    let (mark, covered) = *meta.lock();
    let found = read(&disk.power_cut(1, Survival::Nothing), &mark).unwrap();
    let versions: Vec<_> = found.iter().map(|(version, _)| version.get()).collect();
    assert_eq!(versions, (covered + 1..=900).collect::<Vec<_>>());
}

#[test]
#[should_panic = "was not appended"]
fn waiting_for_what_was_not_appended_is_a_mistake() {
    let (_, log, _) = create(1, options(8 << 10));
    let _ = log.wait_durable(Position::new(log.end().get() + 8));
}

#[test]
fn a_leader_that_panics_leaves_nobody_waiting() {
    let (disk, log, _) = create(1, options(8 << 10));
    let log = Arc::new(log);
    let (_, end) = append(&log, 1);
    disk.before_each(|_, _| panic!("the disk panics"));
    let leader = Arc::clone(&log);
    assert!(
        thread::spawn(move || leader.wait_durable(end))
            .join()
            .is_err()
    );
    assert!(matches!(
        log.wait_durable(end),
        Err(super::Error::Poisoned { .. })
    ));
}
