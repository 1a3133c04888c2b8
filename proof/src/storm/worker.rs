//! A process of a storm: opens the file, commits until it is killed, and says what became durable.

use std::collections::VecDeque;
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bifolio::{Database, Durability, Error, Result, Ticket};
use clap::Args;

use super::script::{Script, State, Step, TABLE};
use crate::pagers::Pager;

/// Tickets that are not waited for yet.
const PIPELINED: usize = 4;
/// Commits of the interval are synced this often: often enough to happen before the kill.
const SYNC_INTERVAL: Duration = Duration::from_millis(10);
/// Bytes of log between checkpoints: few, so that segments are used again.
const LOG_BYTES: u64 = 256 << 10;
/// A machine that is busy makes somebody late; nobody is late so many times.
const ATTEMPTS: u32 = 3;

/// What the process is told.
#[derive(Args, Clone, Debug)]
pub struct WorkerArguments {
    path: PathBuf,
    #[arg(long, value_enum)]
    pager: Pager,
    #[arg(long)]
    seed: u64,
    #[arg(long)]
    early_acks: bool,
}

/// Commits for ever.
pub fn work(arguments: &WorkerArguments) {
    let options = arguments
        .pager
        .options()
        .log_bytes(LOG_BYTES)
        .sync_interval(SYNC_INTERVAL);
    let mut quickest = u128::MAX;
    for _ in 0..ATTEMPTS {
        let begun = Instant::now();
        match options.create(&arguments.path) {
            Ok(db) => {
                say("open");
                if let Err(error) = commit_for_ever(&db, arguments) {
                    say(&format!("error {error}"));
                }
                return;
            }
            Err(Error::InUse { .. }) => quickest = quickest.min(begun.elapsed().as_millis()),
            Err(error) => return say(&format!("error {error}")),
        }
        if quickest < u128::from(super::TOLD_MS) {
            break;
        }
    }
    say(&format!("refused {quickest}"));
}

fn commit_for_ever(db: &Database, arguments: &WorkerArguments) -> Result<()> {
    let script = Script::new(arguments.seed);
    let mut waiting: VecDeque<(u64, Ticket)> = VecDeque::new();
    let mut number = State::read(db)?.commits;
    loop {
        number += 1;
        let mut txn = db.write()?;
        let mut table = txn.table(TABLE)?;
        for (key, value) in script.changes(number) {
            match value {
                Some(value) => table.insert(key, value)?,
                None => table.remove(key)?,
            };
        }
        let step = script.step(number);
        match step {
            Step::Sync | Step::ThenCheckpoint => {
                txn.commit()?;
                acknowledge(number);
            }
            Step::Ticket => waiting.push_back((number, txn.submit()?)),
            Step::Interval | Step::Checkpoint => {
                let level = match step {
                    Step::Interval => Durability::Interval,
                    _ => Durability::Checkpoint,
                };
                txn.commit_with(level)?;
                if arguments.early_acks {
                    acknowledge(number);
                }
            }
            Step::BulkLoad => {
                let mut bulk = txn.table("bulk")?;
                bulk.clear()?;
                bulk.bulk_load((0..300_u32).map(|key| (key.to_be_bytes(), number.to_le_bytes())))?;
                txn.commit()?;
                acknowledge(number);
            }
        }
        if step == Step::ThenCheckpoint {
            db.checkpoint()?;
        }
        while waiting.len() > PIPELINED
            && let Some((number, ticket)) = waiting.pop_front()
        {
            ticket.wait()?;
            acknowledge(number);
        }
    }
}

fn acknowledge(number: u64) {
    say(&format!("ack {number}"));
}

fn say(what: &str) {
    let mut out = std::io::stdout().lock();
    // Whoever listens is about to kill this process; that they are gone says the same.
    if writeln!(out, "{what}").and_then(|()| out.flush()).is_err() {
        std::process::exit(1);
    }
}
