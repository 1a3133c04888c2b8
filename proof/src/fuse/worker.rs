//! The process that uses the database until the power is cut, and says what is durable.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use bifolio::{Database, Durability, Result};
use clap::Args;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::plan::{How, Plan};
use crate::pagers::Pager;

/// Bytes of log between checkpoints: few, so that segments are used again.
pub const LOG_BYTES: u64 = 256 << 10;
/// Commits of the interval are synced this often: often enough to happen before the cut.
pub const SYNC_INTERVAL: Duration = Duration::from_millis(10);

/// What the process is told.
#[derive(Args, Clone, Debug)]
pub struct WorkerArguments {
    /// The database.
    pub path: PathBuf,
    /// Its pager.
    #[arg(long, value_enum)]
    pub pager: Pager,
    /// The seed of the plan.
    #[arg(long)]
    pub seed: u64,
    /// Threads that commit.
    #[arg(long, default_value_t = 1)]
    pub writers: u64,
    /// Says of every commit that it is durable: a lie that must be found.
    #[arg(long)]
    pub early_acks: bool,
}

impl WorkerArguments {
    /// The command line that makes these arguments again, but for the path.
    pub fn to_command_line(&self) -> Vec<String> {
        let mut line = vec!["--pager".to_owned(), self.pager.name().to_owned()];
        line.extend(["--seed".to_owned(), self.seed.to_string()]);
        line.extend(["--writers".to_owned(), self.writers.to_string()]);
        if self.early_acks {
            line.push("--early-acks".to_owned());
        }
        line
    }
}

/// Commits until it is killed, or something fails.
pub fn work(arguments: &WorkerArguments) -> ExitCode {
    match commit_for_ever(arguments) {
        Ok(never) => match never {},
        Err(error) => {
            say(&format!("error {error}"));
            ExitCode::FAILURE
        }
    }
}

/// What does not return.
enum Never {}

fn commit_for_ever(arguments: &WorkerArguments) -> Result<Never> {
    let options = arguments.pager.options();
    let options = options.log_bytes(LOG_BYTES).sync_interval(SYNC_INTERVAL);
    let mut random = StdRng::seed_from_u64(arguments.seed);
    loop {
        let db = options.create(&arguments.path)?;
        // Now and then it is closed cleanly and opened again.
        let left = AtomicU64::new(random.random_range(20..300));
        thread::scope(|scope| {
            let writer = || commit(&db, arguments, &left);
            let writers: Vec<_> = (0..arguments.writers)
                .map(|_| scope.spawn(writer))
                .collect();
            writers
                .into_iter()
                .try_for_each(|writer| writer.join().expect("a writer does not panic"))
        })?;
        db.close()?;
    }
}

/// Commits until all together have made as many commits as are `left`.
fn commit(db: &Database, arguments: &WorkerArguments, left: &AtomicU64) -> Result<()> {
    let plan = Plan::new(arguments.seed);
    // An old reader: what it reaches must stay, whatever is written.
    let mut old = db.read()?;
    while left
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
            left.checked_sub(1)
        })
        .is_ok()
    {
        let mut txn = db.write()?;
        let (number, commit) = plan.apply(&mut txn)?;
        let durable = match commit.how {
            How::Sync => txn.commit().map(|_| true)?,
            How::Ticket => txn.submit()?.wait().map(|_| true)?,
            How::Interval => txn.commit_with(Durability::Interval).map(|_| false)?,
            How::Checkpoint => txn.commit_with(Durability::Checkpoint).map(|_| false)?,
        };
        if durable || arguments.early_acks {
            say(&format!("durable {}", number + 1));
        }
        if commit.checkpoint_after {
            db.checkpoint()?;
            // It waited for the commits that were there when it began, so for this one.
            say(&format!("durable {}", number + 1));
        }
        if number % 16 == 0 {
            old = db.read()?;
        }
    }
    drop(old);
    Ok(())
}

/// Says a line, in one write.
pub fn say(what: &str) {
    let line = format!("{what}\n");
    let mut out = std::io::stdout().lock();
    // Whoever listens is about to kill this process; that they are gone says the same.
    if out
        .write_all(line.as_bytes())
        .and_then(|()| out.flush())
        .is_err()
    {
        std::process::exit(1);
    }
}
