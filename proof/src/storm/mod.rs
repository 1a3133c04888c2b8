//! Layer J: processes that commit at every level, killed at random instants, several at once.
//!
//! A case is one database file and a number of rounds. In a round one process, or several at once,
//! open the file; one of them gets it and commits until it is killed, at an instant of the seed's
//! choosing: while it opens, recovers, commits or checkpoints. What it reported is read through a
//! pipe to its end. Then the file is opened under any pager, and must hold exactly the state after n
//! commits, for an n that leaves out no commit that was acknowledged; the processes that did not get
//! the file must have been told so, and in time.

mod script;
mod worker;

use std::io::{self, BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use bifolio::{Database, Options};
use clap::{Args, ValueEnum};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use self::script::{Script, State};
pub use self::worker::{WorkerArguments, work};
use crate::campaign::{self, Common, Layer};
use crate::pagers::Pager;
use crate::tally::Tally;

/// Kills in one case.
const ROUNDS: u64 = 5;
/// How long a process may take to say that it has the file, or has not: far more than it needs.
const PATIENCE: Duration = Duration::from_secs(30);
/// Within how many milliseconds somebody who cannot have the file must be told.
const TOLD_MS: u64 = 300;

/// What `bifolio-proof storm` can be told.
#[derive(Args, Clone, Debug)]
pub struct Arguments {
    #[command(flatten)]
    common: Common,
    /// The pager of the processes that are killed.
    #[arg(long, value_enum, default_value_t = Pager::Any)]
    pager: Pager,
    /// Breaks something on purpose.
    #[arg(long, value_enum)]
    control: Option<Control>,
}

/// What can be broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Control {
    /// Commits that are synced later are acknowledged at once.
    EarlyAcks,
}

/// Runs the layer.
pub fn run(arguments: &Arguments) -> io::Result<ExitCode> {
    campaign::run(arguments, &arguments.common)
}

impl Layer for Arguments {
    fn name(&self) -> &'static str {
        "storm"
    }

    fn unit(&self) -> &'static str {
        "kills"
    }

    fn default_count(&self) -> u64 {
        200
    }

    fn arguments(&self) -> Vec<String> {
        vec!["--pager".to_owned(), self.pager.name().to_owned()]
    }

    fn is_control(&self) -> bool {
        self.control.is_some()
    }

    fn case(&self, seed: u64, tally: &mut Tally) -> Result<(), String> {
        let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
        let mut storm = Storm {
            random: StdRng::seed_from_u64(seed),
            script: Script::new(seed),
            state: State::default(),
            acknowledged: 0,
            tally,
        };
        for round in 0..ROUNDS {
            let path = directory.path().join("storm.bifolio");
            storm
                .round(self, seed, &path)
                .map_err(|what| format!("round {round}: {what}"))?;
        }
        Ok(())
    }
}

/// A case under way.
struct Storm<'t> {
    random: StdRng,
    script: Script,
    /// What the file holds, for certain, and after how many commits.
    state: State,
    acknowledged: u64,
    tally: &'t mut Tally,
}

/// A process and what it says.
struct Worker {
    child: Child,
    lines: Receiver<String>,
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Storm<'_> {
    fn round(&mut self, told: &Arguments, seed: u64, path: &Path) -> Result<(), String> {
        let pager = told.pager.of_case(self.random.random());
        let crowd = [1, 1, 1, 2, 4][self.random.random_range(0..5)];
        let mut workers = Vec::new();
        for _ in 0..crowd {
            let control = told.control;
            workers.push(Worker::start(path, pager, seed, control).map_err(|e| e.to_string())?);
        }
        self.tally.add("processes", crowd);
        if crowd > 1 {
            self.expect_one_winner(&mut workers)?;
        }
        self.let_work(&mut workers[0])?;
        for worker in &mut workers {
            worker.child.kill().map_err(|error| error.to_string())?;
        }
        for worker in workers {
            self.hear_out(worker)?;
        }
        self.tally.add("kills", 1);
        self.look(path)
    }

    /// Leaves the winner as the only worker; the others must have been told, and in time.
    fn expect_one_winner(&mut self, workers: &mut Vec<Worker>) -> Result<(), String> {
        let mut winner = None;
        for worker in std::mem::take(workers) {
            let line = worker.line()?;
            if line == "open" {
                if winner.replace(worker).is_some() {
                    return Err("two processes have the file at once".to_owned());
                }
            } else if let Some(milliseconds) = line.strip_prefix("refused ") {
                self.tally.add("refusals", 1);
                if milliseconds.parse::<u64>().map_err(|_| line.clone())? >= TOLD_MS {
                    return Err(format!("told only after {milliseconds} ms, three times"));
                }
            } else {
                return Err(format!("a process that opened said {line:?}"));
            }
        }
        workers.push(winner.ok_or("nobody got the file")?);
        Ok(())
    }

    /// Waits until the instant of the kill: some commits, and then a moment; or just a moment.
    fn let_work(&mut self, worker: &mut Worker) -> Result<(), String> {
        if self.random.random_bool(0.7) {
            for _ in 0..self.random.random_range(1..20) {
                self.note(&worker.line()?)?;
            }
        }
        let moment = self.random.random_range(0..6000);
        thread::sleep(Duration::from_micros(moment));
        Ok(())
    }

    /// Reads what a killed process said to the end.
    fn hear_out(&mut self, mut worker: Worker) -> Result<(), String> {
        worker.child.wait().map_err(|error| error.to_string())?;
        while let Ok(line) = worker.lines.recv() {
            self.note(&line)?;
        }
        Ok(())
    }

    fn note(&mut self, line: &str) -> Result<(), String> {
        match line.split_once(' ') {
            Some(("ack", number)) => {
                let number = number.parse().map_err(|_| line.to_owned())?;
                self.acknowledged = self.acknowledged.max(number);
                self.tally.add("acknowledged commits", 1);
                Ok(())
            }
            // The last line may be cut short by the kill; a whole one of this kind is a finding.
            Some(("error", _)) => Err(line.to_owned()),
            _ => Ok(()),
        }
    }

    /// What the file must hold after a kill.
    fn look(&mut self, path: &Path) -> Result<(), String> {
        if !path.exists() && self.acknowledged == 0 && self.state.commits == 0 {
            self.tally.add("killed before there was a file", 1);
            return Ok(());
        }
        let pager = Pager::Any.of_case(self.random.random());
        let options = pager.options();
        if self.random.random_bool(0.3) {
            self.look_without_writing(&options.clone().read_only(true), path)?;
        }
        let db = options
            .open(path)
            .map_err(|error| format!("it cannot be opened: {error}"))?;
        if db
            .recovery_report()
            .is_some_and(|report| report.commits > 0)
        {
            self.tally.add("recoveries", 1);
        }
        let least = self.acknowledged.max(self.state.commits);
        let found = expect_a_prefix(&db, &self.script, &mut self.state, least)?;
        self.tally.add("surviving commits", found);
        db.close()
            .map_err(|error| format!("it cannot be closed: {error}"))?;
        // A clean close is looked at too.
        if self.random.random_bool(0.3) {
            let again = options.open(path).map_err(|error| error.to_string())?;
            let commits = self.state.commits;
            expect_a_prefix(&again, &self.script, &mut self.state, commits)?;
        }
        Ok(())
    }

    /// What is opened for reading only holds what recovery would find.
    fn look_without_writing(&mut self, options: &Options, path: &Path) -> Result<(), String> {
        let db = options
            .open(path)
            .map_err(|error| format!("it cannot be opened for reading only: {error}"))?;
        let least = self.acknowledged.max(self.state.commits);
        let found = expect_a_prefix(&db, &self.script, &mut self.state, least)
            .map_err(|what| format!("opened for reading only: {what}"))?;
        self.tally.add("openings for reading only", 1);
        self.tally.add("surviving commits", found);
        Ok(())
    }
}

/// The database must be whole and hold the state after n commits, for one n from `least` on, to
/// which `state` is brought. Returns by how many commits that was.
fn expect_a_prefix(
    db: &Database,
    script: &Script,
    state: &mut State,
    least: u64,
) -> Result<u64, String> {
    let report = db.check().map_err(|error| error.to_string())?;
    if !report.is_clean() {
        return Err(format!("the check found: {report}"));
    }
    let found = State::read(db).map_err(|error| error.to_string())?;
    if found.commits < least {
        let said = found.commits;
        return Err(format!(
            "{said} commits are there; {least} were acknowledged"
        ));
    }
    let before = state.commits;
    state.advance(script, found.commits);
    if *state != found {
        let (there, due) = (found.entries.len(), state.entries.len());
        return Err(format!(
            "after {} commits there should be {due} entries; there are {there}, and not the same",
            found.commits
        ));
    }
    Ok(found.commits - before)
}

impl Worker {
    fn start(path: &Path, pager: Pager, seed: u64, control: Option<Control>) -> io::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("storm-worker").arg(path);
        command.args(["--pager", pager.name(), "--seed", &seed.to_string()]);
        if control == Some(Control::EarlyAcks) {
            command.arg("--early-acks");
        }
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let (send, lines) = mpsc::channel();
        let out = child.stdout.take().expect("it was piped");
        thread::spawn(move || {
            let mut out = BufReader::new(out);
            let mut line = String::new();
            // A line that the kill cut short has no end, and does not count.
            while out.read_line(&mut line).is_ok() && line.ends_with('\n') {
                if send.send(line.trim_end().to_owned()).is_err() {
                    return;
                }
                line.clear();
            }
        });
        Ok(Worker { child, lines })
    }

    fn line(&self) -> Result<String, String> {
        let line = self.lines.recv_timeout(PATIENCE);
        line.map_err(|error| format!("a process said nothing more: {error}"))
    }
}
