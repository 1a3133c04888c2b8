//! Transactions, checkpoints and readers under many schedules. `--cfg shuttle`, see
//! `bifolio_pager::sync`.
//!
//! Every transaction raises a counter and inserts a key of that number, so a state says by itself
//! which prefix of the commits it is, and whether it is whole. Each operation on either modelled disk
//! is a point at which another thread may go on.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bifolio_pager::PageSize;
use bifolio_pager::sync::shuttle::rand::{Rng, thread_rng};
use bifolio_pager::sync::{explore, thread};

use super::logged::Machine;
use super::modelled;
use crate::database::Database;
use crate::durability::Ticket;
use crate::error::{Error, Result};
use crate::log::sim::{Fault, SimDisk, Survival};
use crate::read::ReadTxn;

/// A database on modelled disks, and what its callers were told.
struct Run {
    db: Database,
    log: SimDisk,
    /// The highest number whose commit was acknowledged as durable.
    acknowledged: AtomicU64,
}

impl Run {
    fn new() -> Arc<Self> {
        let (db, log) = Machine::new(PageSize::DEFAULT).open().unwrap();
        Arc::new(Run {
            db,
            log,
            acknowledged: AtomicU64::new(0),
        })
    }

    /// Applies one transaction; its number, and the ticket to wait on.
    fn submit(&self) -> Result<(u64, Ticket)> {
        let mut txn = self.db.write()?;
        let mut table = txn.table("t")?;
        let number = number_in(table.get("counter")?) + 1;
        table.insert("counter", number.to_be_bytes())?;
        table.insert(number.to_be_bytes(), [number as u8; 300])?;
        Ok((number, txn.submit()?))
    }

    fn commit(&self) -> Result<u64> {
        let (number, ticket) = self.submit()?;
        self.wait(number, ticket)?;
        Ok(number)
    }

    /// Waits until the commit is durable, and looks whether it is.
    fn wait(&self, number: u64, ticket: Ticket) -> Result<()> {
        ticket.wait()?;
        self.acknowledged.fetch_max(number, Ordering::SeqCst);
        let durable = number_of(&self.db.read_durable()?);
        assert!(
            durable >= number,
            "{number} was acknowledged, and {durable} is durable"
        );
        Ok(())
    }

    /// Takes snapshots of both kinds, which never go back, and looks at the first one to the end.
    fn read(&self, times: u64) {
        let first = self.db.read().unwrap();
        let before = number_of(&first);
        let mut newest = before;
        let mut durable = 0;
        for _ in 0..times {
            let now = number_of(&self.db.read_durable().unwrap());
            assert!(now >= durable, "{now} is durable after {durable}");
            durable = now;
            let now = number_of(&self.db.read().unwrap());
            assert!(now >= newest && now >= durable, "{now} after {newest}");
            newest = now;
        }
        assert_eq!(number_of(&first), before, "a snapshot has changed");
    }

    /// The disks as a power cut leaves them here and now, and what must be on them.
    fn cut(&self) -> (Machine, u64) {
        // No other thread runs between these, because none of them can wait.
        let acknowledged = self.acknowledged.load(Ordering::SeqCst);
        let seed = acknowledged + 1;
        let machine = Machine {
            pages: modelled(&self.db).inner().power_cut_torn(seed),
            log: self.log.power_cut(seed, Survival::Some),
        };
        (machine, acknowledged)
    }
}

fn number_in(value: Option<Vec<u8>>) -> u64 {
    value.map_or(0, |value| {
        u64::from_be_bytes(value.try_into().expect("8 bytes"))
    })
}

/// Which prefix of the commits a snapshot shows. Fails if it is no whole one.
fn number_of(snapshot: &ReadTxn) -> u64 {
    let table = match snapshot.table("t") {
        Ok(table) => table,
        Err(Error::NoSuchTable { .. }) => return 0,
        Err(error) => panic!("{error}"),
    };
    let number = number_in(table.get("counter").unwrap());
    assert_eq!(table.len(), number + 1, "commits are there by halves");
    for key in 1..=number {
        let value = table.get(key.to_be_bytes()).unwrap();
        assert_eq!(value, Some(vec![key as u8; 300]), "{key} of {number}");
    }
    number
}

/// Opens what a power cut left: a prefix, with all that was acknowledged, and nothing wrong.
fn expect_whole((machine, acknowledged): (Machine, u64)) {
    let (db, _) = machine.open().unwrap();
    let report = db.check().unwrap();
    assert!(report.is_clean(), "{report}");
    let left = number_of(&db.read().unwrap());
    assert!(
        left >= acknowledged,
        "{left} are left of {acknowledged} that were acknowledged"
    );
    db.open.poison(&Error::Interrupted); // nothing to be learned from its closing
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

#[test]
fn readers_see_prefixes_while_writers_commit_and_checkpoints_run() {
    explore("readers, writers, checkpoints", || {
        let run = Run::new();
        run.commit().unwrap();
        let commit_twice = |run: &Run| {
            run.commit().unwrap();
            run.commit().unwrap();
        };
        side_by_side(
            &run,
            vec![commit_twice, commit_twice, |run| run.read(3), |run| {
                run.db.checkpoint().unwrap()
            }],
        );
        assert_eq!(number_of(&run.db.read_durable().unwrap()), 5);
    });
}

#[test]
fn a_power_cut_at_any_moment_leaves_a_prefix_with_what_was_acknowledged() {
    explore("power cuts", || {
        let run = Run::new();
        let commit_twice = |run: &Run| {
            run.commit().unwrap();
            run.commit().unwrap();
        };
        side_by_side(
            &run,
            vec![
                commit_twice,
                commit_twice,
                |run| run.db.checkpoint().unwrap(),
                |run| {
                    for _ in 0..thread_rng().gen_range(0..60) {
                        thread::yield_now();
                    }
                    expect_whole(run.cut());
                },
            ],
        );
        expect_whole(run.cut());
    });
}

/// A limit of a wait that never comes, in a model: only who is woken goes on.
const NEVER: Duration = Duration::from_secs(1 << 20);

#[test]
fn tickets_may_be_waited_for_in_any_order_beside_the_background_thread() {
    explore("tickets, background", || {
        let run = Run::new();
        let background = thread::spawn({
            let run = Arc::clone(&run);
            move || run.db.open.run_checkpoints(NEVER)
        });
        let pipeline = |run: &Run| {
            let tickets = [run.submit().unwrap(), run.submit().unwrap()];
            for (number, ticket) in tickets.into_iter().rev() {
                run.wait(number, ticket).unwrap();
            }
        };
        side_by_side(
            &run,
            vec![pipeline, pipeline, |run| {
                run.commit().unwrap();
                // Rung for once, the checkpoint comes, whatever the thread was doing.
                let version = run.db.open.newest().version;
                run.db.open.bell.ring();
                while run.db.open.checkpointed().version < version {
                    thread::yield_now();
                }
            }],
        );
        run.db.open.bell.stop();
        background.join().unwrap();
        expect_whole(run.cut());
    });
}

#[test]
fn a_sync_that_nobody_waits_for_is_made_by_the_background_thread() {
    explore("syncs, background", || {
        let run = Run::new();
        let background = thread::spawn({
            let run = Arc::clone(&run);
            move || run.db.open.run_syncs(Duration::ZERO)
        });
        let ask_twice = |run: &Run| {
            for _ in 0..2 {
                let (number, ticket) = run.submit().unwrap();
                ticket.ask_for_sync();
                while number_of(&run.db.read_durable().unwrap()) < number {
                    thread::yield_now();
                }
            }
        };
        side_by_side(&run, vec![ask_twice, ask_twice, |run| run.read(2)]);
        run.db.open.syncer.stop();
        background.join().unwrap();
        expect_whole(run.cut());
    });
}

#[test]
fn commits_around_a_bulk_load_wait_for_its_checkpoint() {
    explore("bulk load", || {
        let run = Run::new();
        let load = |run: &Run| {
            let mut txn = run.db.write().unwrap();
            let mut table = txn.table("loaded").unwrap();
            table.bulk_load([("a", "b")]).unwrap();
            txn.commit().unwrap();
            assert!(run.db.read_durable().unwrap().table("loaded").is_ok());
        };
        side_by_side(
            &run,
            vec![load, |run| _ = run.commit().unwrap(), |run| {
                _ = run.commit().unwrap()
            }],
        );
        expect_whole(run.cut());
    });
}

#[test]
fn after_a_failure_nobody_waits_for_ever_and_nothing_acknowledged_is_lost() {
    explore("a failing log", || {
        let run = Run::new();
        run.commit().unwrap();
        let at = run.log.operations() + thread_rng().gen_range(0..12);
        run.log
            .fail_at(at, Fault::Error(std::io::ErrorKind::StorageFull));
        let commit_twice = |run: &Run| {
            for _ in 0..2 {
                match run.commit() {
                    Ok(_) | Err(Error::Poisoned { .. }) => {}
                    Err(other) => panic!("{other}"),
                }
            }
        };
        side_by_side(
            &run,
            vec![commit_twice, commit_twice, |run| {
                let _ = run.db.checkpoint();
                // What is durable never goes back; what is merely applied does, at a failure.
                number_of(&run.db.read().unwrap());
            }],
        );
        expect_whole(run.cut());
    });
}
