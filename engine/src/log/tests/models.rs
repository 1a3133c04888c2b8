//! The leader and its followers under many schedules. `--cfg shuttle`, see `bifolio_pager::sync`.

use std::sync::Arc;

use bifolio_pager::Version;
use bifolio_pager::sync::shuttle::rand::{Rng, thread_rng};
use bifolio_pager::sync::{Mutex, explore, thread};

use super::super::sim::{Fault, SimDisk, Survival};
use super::super::{Log, LogMark, Position};
use super::{Error, Op, create, encode, options, read};

/// A log, and what the engine's writer lock does: versions rise in the order of the log.
struct Run {
    log: Log,
    disk: SimDisk,
    mark: LogMark,
    version: Mutex<u64>,
}

impl Run {
    fn new() -> Arc<Self> {
        let (disk, log, mark) = create(1, options(16 << 10));
        Arc::new(Run {
            log,
            disk,
            mark,
            version: Mutex::new(0),
        })
    }

    fn append(&self, len: usize) -> Result<(u64, Position), Error> {
        let mut version = self.version.lock();
        let ops = [Op::Put("t".into(), vec![1], vec![2; len])];
        let end = self
            .log
            .append(Version::new(*version + 1), &mut encode(&ops))?;
        *version += 1;
        Ok((*version, end))
    }

    /// Commits, and looks whether a power cut would leave what is acknowledged.
    fn commit(&self, len: usize) -> Result<(), Error> {
        let (version, end) = self.append(len)?;
        self.log.wait_durable(end)?;
        assert!(self.log.durable_position() >= end);
        let left = read(&self.disk.power_cut(version, Survival::Nothing), &self.mark)?;
        assert!(left.len() as u64 >= version, "{version}: {}", left.len());
        for (at, (version, _)) in left.iter().enumerate() {
            assert_eq!(version.get(), at as u64 + 1, "in the order of the commits");
        }
        Ok(())
    }
}

fn side_by_side(run: &Arc<Run>, work: Vec<fn(&Run)>) {
    let threads: Vec<_> = work
        .into_iter()
        .map(|work| {
            let run = Arc::clone(run);
            thread::spawn(move || work(&run))
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
}

fn commit_twice(run: &Run) {
    run.commit(100).unwrap();
    run.commit(100).unwrap();
}

#[test]
fn each_who_waits_is_woken_and_finds_its_commit_durable() {
    explore("log: leader and followers", || {
        let run = Run::new();
        side_by_side(&run, vec![commit_twice, commit_twice, commit_twice]);
    });
}

#[test]
fn who_needs_room_is_woken_when_there_is_some() {
    explore("log: back-pressure", || {
        let run = Run::new();
        let large: fn(&Run) = |run| {
            run.commit(60_000).unwrap();
            run.commit(60_000).unwrap();
        };
        side_by_side(&run, vec![large, large, commit_twice]);
    });
}

#[test]
fn a_sync_takes_along_what_nobody_waits_for() {
    explore("log: sync", || {
        let run = Run::new();
        let (_, end) = run.append(10).unwrap();
        side_by_side(
            &run,
            vec![|run| run.log.sync().unwrap(), commit_twice, |run| {
                run.log.prepare(2).unwrap()
            }],
        );
        assert!(run.log.durable_position() >= end);
    });
}

#[test]
fn a_failure_is_told_to_everybody_and_nobody_waits_for_ever() {
    explore("log: failure", || {
        let run = Run::new();
        let at = run.disk.operations() + thread_rng().gen_range(0..6);
        run.disk.fail_at(at, Fault::Partly);
        let commit_twice: fn(&Run) = |run| {
            for _ in 0..2 {
                match run.commit(100) {
                    Ok(()) | Err(Error::Io { .. } | Error::Poisoned { .. }) => {}
                    Err(other) => panic!("{other}"),
                }
            }
        };
        side_by_side(&run, vec![commit_twice; 3]);
    });
}
