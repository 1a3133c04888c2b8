//! The process that uses the database while requests fail, and says how it is told.

use std::process::ExitCode;

use bifolio::{Database, Error, LogError, Result};

use super::plan::{self, How, Model, Plan};
use super::worker::{LOG_BYTES, SYNC_INTERVAL, WorkerArguments, say};

/// Times that the database is opened.
const SESSIONS: u32 = 2;
/// Commits tried in one of them.
const ATTEMPTS: u32 = 10;
/// Errors of one session after which no more is tried.
const ENOUGH: u32 = 3;

/// Opens, commits, reads and closes, and says every error. Ends well whatever fails: it is a signal,
/// a panic, wrong data, or a commit after the end of all writing that is wrong.
pub fn survive(arguments: &WorkerArguments) -> ExitCode {
    std::panic::set_hook(Box::new(|panic| {
        say(&format!("wrong: {}", panic.to_string().replace('\n', " ")));
        std::process::abort();
    }));
    for _ in 0..SESSIONS {
        if let Err(error) = session(arguments) {
            refused(&error);
        }
    }
    say("end");
    ExitCode::SUCCESS
}

fn session(arguments: &WorkerArguments) -> Result<()> {
    let options = arguments.pager.options();
    let options = options.log_bytes(LOG_BYTES).sync_interval(SYNC_INTERVAL);
    let db = options.create(&arguments.path)?;
    let plan = Plan::new(arguments.seed);
    let (mut errors, mut poisoned) = (0, false);
    for _ in 0..ATTEMPTS {
        match commit(&db, plan) {
            Ok(()) if poisoned => say("wrong: a commit after the end of all writing"),
            Ok(()) => {}
            Err(error) => {
                refused(&error);
                poisoned |= matches!(error, Error::Poisoned { .. });
                errors += 1;
            }
        }
        if errors == ENOUGH {
            break;
        }
    }
    read(&db, plan)?;
    if !db.check()?.is_clean() {
        say("damaged");
    }
    db.close()
}

fn commit(db: &Database, plan: Plan) -> Result<()> {
    let mut txn = db.write()?;
    let (number, commit) = plan.apply(&mut txn)?;
    match commit.how {
        How::Sync | How::Ticket => txn.commit().map(drop)?,
        How::Interval | How::Checkpoint => {
            txn.commit_with(bifolio::Durability::Interval).map(drop)?
        }
    }
    if matches!(commit.how, How::Sync | How::Ticket) {
        say(&format!("durable {}", number + 1));
    }
    if commit.checkpoint_after || number % 4 == 0 {
        db.checkpoint()?;
    }
    Ok(())
}

/// Whatever has failed, what can be read is what was committed.
fn read(db: &Database, plan: Plan) -> Result<()> {
    let content = plan::content(db)?;
    let mut model = Model::new();
    for number in 0..plan::commits_in(&content) {
        plan.apply_to_model(number, &mut model);
    }
    if content != model {
        say("wrong: what is read is not what was committed");
    }
    Ok(())
}

fn refused(error: &Error) {
    let damage = error.corrupt_page().is_some()
        || matches!(
            error,
            Error::CorruptRecord { .. } | Error::Log(LogError::Corrupt { .. })
        );
    let what = if damage { "damaged" } else { "refused" };
    say(&format!("{what} {error}").replace('\n', " "));
}
