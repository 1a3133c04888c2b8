//! Layer B: every operation of the workloads of layer A fails, once or from then on.
//!
//! A case is one workload on one kind of machine. It runs once with nothing wrong, which counts its
//! operations, and then once for each of them, with that one failing: with an input or output error,
//! with a full disk, interrupted, or done in part and reported as failed. Whoever called is told, by an
//! error that says so; no commit succeeds after it; what is committed can still be read; and what a
//! power cut then leaves is as layer A wants it, and goes on.

use std::io::{self, ErrorKind};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};

use bifolio::testkit::{Cut, Failing, Machine, On, Operations};
use bifolio::{Database, Error, LogError, PageSize, PagerError};
use clap::Args;
use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::campaign::{self, Common, Layer};
use crate::simulate::film::{self, Fault, Film, Marks, lock};
use crate::simulate::steps::{self, State, Step};
use crate::simulate::{Target, page_size, workloads};
use crate::tally::Tally;

/// What `bifolio-proof failures` can be told.
#[derive(Args, Clone, Debug)]
pub struct Arguments {
    #[command(flatten)]
    common: Common,
    /// On what pages are reached.
    #[arg(long, value_enum, default_value_t = Target::Any)]
    on: Target,
}

/// How an operation fails, in turn.
const WAYS: [Failing; 7] = [
    Failing::Once(ErrorKind::Other),
    Failing::FromThen(ErrorKind::Other),
    Failing::Late(ErrorKind::Other),
    Failing::Once(ErrorKind::StorageFull),
    Failing::FromThen(ErrorKind::StorageFull),
    Failing::Late(ErrorKind::WriteZero),
    Failing::Once(ErrorKind::Interrupted),
];

/// Runs the layer.
///
/// # Errors
/// As [`campaign::run`].
pub fn run(arguments: &Arguments) -> io::Result<ExitCode> {
    campaign::run(arguments, &arguments.common)
}

impl Layer for Arguments {
    fn name(&self) -> &'static str {
        "failures"
    }

    fn unit(&self) -> &'static str {
        "faults"
    }

    fn default_count(&self) -> u64 {
        8000
    }

    fn arguments(&self) -> Vec<String> {
        self.on.arguments()
    }

    fn is_control(&self) -> bool {
        false
    }

    fn case(&self, seed: u64, tally: &mut Tally) -> Result<(), String> {
        let mut random = StdRng::seed_from_u64(seed);
        let on = self.on.of_case(&mut random);
        let page_size = page_size(on, &mut random);
        let (name, steps) = workloads::of_seed(seed, &mut random);
        let case = Case {
            seed,
            on,
            page_size,
            states: Arc::new(steps::states(&steps)),
            steps,
        };
        let context = |what: String| format!("{name:?} on {on:?}, {page_size:?}: {what}");
        let operations = case.calm().map_err(context)?;
        for (of_log, count) in [(false, operations.pages), (true, operations.log)] {
            for at in 0..count {
                let failing = WAYS[((at + seed) % WAYS.len() as u64) as usize];
                let fault = Fault {
                    of_log,
                    at,
                    failing,
                };
                case.with(fault, tally)
                    .map_err(|what| context(format!("{fault:?}: {what}")))?;
            }
        }
        Ok(())
    }
}

struct Case {
    seed: u64,
    on: On,
    page_size: PageSize,
    steps: Vec<Step>,
    states: Arc<Vec<State>>,
}

impl Case {
    fn film(&self, fault: Option<Fault>) -> Film {
        Film {
            on: self.on,
            steps: self.steps.clone(),
            states: Arc::clone(&self.states),
            early_acks: false,
            lying: false,
            fault,
            first_boot: Mutex::default(),
        }
    }

    /// The operations of the machine's first boot, with nothing wrong.
    fn calm(&self) -> Result<Operations, String> {
        let film = self.film(None);
        let machine = Machine::new(self.page_size, self.on);
        let outcome = film.run(machine, &Marks::default(), None);
        if let Some(error) = &outcome.error
            && !outcome.lost_its_tail()
        {
            return Err(format!("with nothing wrong: {error}"));
        }
        let at_end = outcome.running.map(|running| running.operations());
        let first = lock(&film.first_boot).or(at_end);
        first.ok_or_else(|| "it did not boot".to_owned())
    }

    fn with(&self, fault: Fault, tally: &mut Tally) -> Result<(), String> {
        tally.add("faults", 1);
        let film = self.film(Some(fault));
        let marks = Marks::default();
        let outcome = film.run(Machine::new(self.page_size, self.on), &marks, None);
        let interrupted = fault.failing == Failing::Once(ErrorKind::Interrupted);
        let rebooted = lock(&film.first_boot).is_some();
        let Some(running) = &outcome.running else {
            return Err("it does not boot any more".to_owned());
        };
        match &outcome.error {
            // A call that was interrupted may be made again.
            None if interrupted || rebooted => {}
            _ if outcome.lost_its_tail() => {}
            None => expect_no_commit(&running.db, "nobody was told, and")?,
            Some(error) => {
                tally.add("errors told", 1);
                expect_typed(error)?;
                if !rebooted {
                    expect_no_commit(&running.db, "after an error")?;
                }
            }
        }
        let allowed = &self.states[marks.durable()..=marks.begun()];
        let found = steps::content(&running.db)
            .map_err(|error| format!("what is committed cannot be read: {error}"))?;
        if !allowed.contains(&found) {
            return Err("what can be read is in none of the states allowed".to_owned());
        }
        let cut = Cut::ALL[(fault.at % 5) as usize];
        let left = running.power_cut(cut, self.seed ^ fault.at);
        let expected = film::verify(left.copy(), self.on, allowed)
            .map_err(|what| format!("after a cut ({}): {what}", cut.name()))?;
        drop(outcome);
        self.goes_on(left, &expected)
    }

    /// After space was made, or the device mended.
    fn goes_on(&self, left: Machine, before: &State) -> Result<(), String> {
        let again = left.open(self.on).map_err(|error| error.to_string())?;
        try_to_commit(&again.db).map_err(|error| format!("it does not go on: {error}"))?;
        let found = film::look_through(&again)?;
        let mut expected = before.clone();
        steps::advance(&mut expected, &[on_and_on()]);
        match found == expected {
            true => Ok(()),
            false => Err("what it goes on with is not what was there".to_owned()),
        }
    }
}

fn on_and_on() -> steps::Change {
    steps::Change::Put("on", b"and".to_vec(), b"on".to_vec())
}

fn try_to_commit(db: &Database) -> Result<(), Error> {
    let mut txn = db.write()?;
    steps::apply(&mut txn, &[on_and_on()])?;
    txn.commit().map(drop)
}

fn expect_no_commit(db: &Database, when: &str) -> Result<(), String> {
    match try_to_commit(db) {
        Ok(()) => Err(format!("{when} a commit was accepted")),
        Err(error) => expect_typed(&error),
    }
}

fn expect_typed(error: &Error) -> Result<(), String> {
    match error {
        Error::Poisoned { .. }
        | Error::Pager(PagerError::Io { .. } | PagerError::Poisoned { .. })
        | Error::Log(LogError::Io { .. } | LogError::Poisoned { .. })
        | Error::File { .. } => Ok(()),
        other => Err(format!("it is told as {other:?}")),
    }
}
