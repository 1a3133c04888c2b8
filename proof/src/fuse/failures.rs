//! Layer E: requests fail, and the file is cut off, under a real kernel.
//!
//! A case is one request that fails: of a kind, the k-th of it, once or from then on, with an error
//! or half done, under one pager, on a new database or one that there was. The case's number says
//! which, so that numbers in a row go through all of them, k slowest.
//!
//! The process that uses the database must end by itself, without a signal or a panic, and with no
//! wrong data. Every failure must have been told as an error that is not called damage, but for the
//! loss of a name, and for a full disk that is met by the file of a log's segment that is made ahead of
//! need: whoever needs it tries again. After a refusal to write any more, no commit succeeds. Then the power is cut, and what is left is as of any
//! other cut: a failed sync lost for good what it was to write.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use clap::{Args, ValueEnum};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rustix::io::Errno;

use super::control::{Control, Failure, Fault, Kind};
use super::disk::{Disk, SECTOR, Survival};
use super::mount::{self, Mounted};
use super::oracle::{NAME, Oracle};
use super::plan::Plan;
use super::process::Worker;
use super::worker::WorkerArguments;
use crate::campaign::{self, Common, Layer};
use crate::machine::scratch;
use crate::pagers::Pager;
use crate::tally::Tally;

/// What `bifolio-proof kernel` can be told.
#[derive(Args, Clone, Debug)]
pub struct Arguments {
    #[command(flatten)]
    common: Common,
    /// The pager of the process that meets the failure.
    #[arg(long, value_enum, default_value_t = Pager::Any)]
    pager: Pager,
    /// Breaks something on purpose.
    #[arg(long, value_enum)]
    control: Option<Broken>,
}

/// What can be broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Broken {
    /// Requests that fail say that they are done.
    Silent,
}

/// Runs the layer, or says that it cannot run here.
///
/// # Errors
/// What keeps it from being run or recorded.
pub fn run(arguments: &Arguments) -> io::Result<ExitCode> {
    match mount::unavailable() {
        Some(why) => Ok(campaign::skipped("kernel", &why)),
        None => campaign::run(arguments, &arguments.common),
    }
}

/// What happens to the process that uses the database.
#[derive(Clone, Copy, Debug)]
enum Blow {
    /// Requests of a kind fail; whether all from the k-th on.
    Fails(Kind, Failure, bool),
    /// Somebody else cuts the file off, after so many operations.
    CutOff,
}

const IO: Failure = Failure::Error(Errno::IO.raw_os_error());
const FULL: Failure = Failure::Error(Errno::NOSPC.raw_os_error());

const BLOWS: [Blow; 16] = [
    Blow::Fails(Kind::Read, IO, false),
    Blow::Fails(Kind::Read, IO, true),
    Blow::Fails(Kind::Write, IO, false),
    Blow::Fails(Kind::Write, IO, true),
    Blow::Fails(Kind::Write, FULL, false),
    Blow::Fails(Kind::Write, FULL, true),
    Blow::Fails(Kind::Write, Failure::Short, false),
    Blow::Fails(Kind::Write, Failure::Short, true),
    Blow::Fails(Kind::Sync, IO, false),
    Blow::Fails(Kind::Sync, IO, true),
    Blow::Fails(Kind::Allocate, FULL, false),
    Blow::Fails(Kind::Allocate, FULL, true),
    Blow::Fails(Kind::Name, IO, false),
    Blow::Fails(Kind::SyncNames, IO, false),
    Blow::Fails(Kind::SyncNames, IO, true),
    Blow::CutOff,
];

/// What a segment of the log is called until it has its length.
const SEGMENT_IN_THE_MAKING: &str = "cut.bifolio-log.tmp";

/// Commits of the database that there was.
const BEFORE: u64 = 60;

impl Layer for Arguments {
    fn name(&self) -> &'static str {
        "kernel"
    }

    fn unit(&self) -> &'static str {
        "cases"
    }

    fn default_count(&self) -> u64 {
        1536
    }

    fn arguments(&self) -> Vec<String> {
        vec!["--pager".to_owned(), self.pager.name().to_owned()]
    }

    fn is_control(&self) -> bool {
        self.control.is_some()
    }

    fn case(&self, seed: u64, tally: &mut Tally) -> Result<(), String> {
        let number = seed % (1 << 16);
        let (number, pager) = (number / 3, self.pager.of_case(number % 3));
        let (number, new) = (number / 2, number % 2 == 0);
        let mut blow = BLOWS[number as usize % BLOWS.len()];
        if let (Some(Broken::Silent), Blow::Fails(_, failure, _)) = (self.control, &mut blow) {
            *failure = Failure::Silent;
        }
        let case = Case {
            seed,
            pager,
            new,
            blow,
            at: number / BLOWS.len() as u64,
        };
        let outcome = case.run(tally);
        outcome.map_err(|what| format!("{case:?}: {what}"))
    }
}

#[derive(Debug)]
struct Case {
    seed: u64,
    pager: Pager,
    /// Whether there is no database before.
    new: bool,
    blow: Blow,
    /// At which request or operation.
    at: u64,
}

impl Case {
    fn run(&self, tally: &mut Tally) -> Result<(), String> {
        let random = &mut StdRng::seed_from_u64(self.seed);
        let mut oracle = Oracle::new(Plan::new(self.seed), true);
        let mut disk = Disk::default();
        if !self.new {
            let directory = scratch()?;
            self.prepare(directory.path()).map_err(|e| e.to_string())?;
            disk = Disk::load(directory.path()).map_err(|e| e.to_string())?;
            oracle.expect_a_prefix(directory.path(), self.pager, BEFORE, tally)?;
        }
        let control = Control::new(disk);
        let said = self.strike(&control)?;
        let failed = control.failed();
        let durable = self.judge(&said, &failed)?;
        tally.add("errors told", said.matches("refused ").count() as u64);
        match self.blow {
            Blow::CutOff => {
                tally.add("files cut off", 1);
                // What was cut off is gone; what is left is right or an error.
                return Ok(());
            }
            Blow::Fails(..) if failed.is_empty() => tally.add("cases that met no failure", 1),
            Blow::Fails(..) => tally.add("failed requests", failed.values().sum()),
        }
        let survival = Survival::draw(random);
        let left = control.disk().power_cut(survival, SECTOR, random);
        let outcome = oracle.look(&left, durable, random, tally);
        outcome.map_err(|what| format!("after a cut, {survival:?}: {what}"))
    }

    /// A database with some commits, closed.
    fn prepare(&self, directory: &Path) -> bifolio::Result<()> {
        let db = self.pager.options().create(directory.join(NAME))?;
        for _ in 0..BEFORE {
            let mut txn = db.write()?;
            Plan::new(self.seed).apply(&mut txn)?;
            txn.commit_with(bifolio::Durability::Interval)?;
        }
        db.close()
    }

    /// Lets a process use the database, has it meet the blow, and returns what it said.
    fn strike(&self, control: &Control) -> Result<String, String> {
        let directory = scratch()?;
        if let Blow::Fails(kind, failure, lasts) = self.blow {
            let first = self.at;
            control.fail(Fault {
                kind,
                first,
                lasts,
                failure,
            });
        }
        let arguments = WorkerArguments {
            path: directory.path().join(NAME),
            pager: self.pager,
            seed: self.seed,
            writers: 1,
            early_acks: false,
        };
        let mounted = Mounted::new(directory.path(), control.clone()).map_err(|e| e.to_string())?;
        let mut worker =
            Worker::start("fuse-survivor", &arguments).map_err(|e| format!("starting: {e}"))?;
        if let Blow::CutOff = self.blow {
            self.cut_off(control, &arguments.path, &mut worker);
        }
        let ended = worker.wait_patiently().map_err(|e| e.to_string())?;
        if ended.is_none() {
            worker.kill();
        }
        control.freeze();
        worker.wait().map_err(|e| e.to_string())?;
        mounted.unmount().map_err(|e| format!("unmounting: {e}"))?;
        let said = worker.said().map_err(|e| e.to_string())?;
        let last = said.lines().last().unwrap_or("nothing");
        match ended {
            None => Err(format!("it hangs; its last words: {last}")),
            Some(status) if status.success() && last == "end" => Ok(said),
            Some(status) => Err(match status.signal() {
                Some(signal) => format!("it died of signal {signal}; its last words: {last}"),
                None => format!("it ended with {status}; its last words: {last}"),
            }),
        }
    }

    /// Cuts the file to half its length when so many operations were done.
    fn cut_off(&self, control: &Control, path: &Path, worker: &mut Worker) {
        while control.operations() < self.at * 8 && worker.runs() {
            thread::sleep(Duration::from_micros(200));
        }
        // There may be no file yet, or no process any more.
        let _ = fs::metadata(path).and_then(|found| {
            File::options()
                .write(true)
                .open(path)?
                .set_len(found.len() / 2)
        });
    }

    /// Whether what the process said is right; how many commits it called durable.
    fn judge(&self, said: &str, failed: &BTreeMap<OsString, u64>) -> Result<u64, String> {
        let mut durable = 0;
        let mut told = false;
        for line in said.lines() {
            match line.split_once(' ') {
                Some(("durable", number)) => {
                    durable = number.parse().map_err(|_| line.to_owned())?;
                }
                Some(("refused", _)) => told = true,
                // Half a file is damaged; a failed request damages nothing.
                _ if line.starts_with("damaged") && matches!(self.blow, Blow::CutOff) => {}
                _ if line == "end" => {}
                _ => return Err(line.to_owned()),
            }
        }
        let must_tell = match self.blow {
            Blow::CutOff | Blow::Fails(Kind::Name, ..) => false,
            // The kernel reads ahead, and reads again what it could not; but not all of a database.
            Blow::Fails(Kind::Read, _, lasts) => lasts && self.at == 0 && !self.new,
            // Nobody depends yet on what is made under this name, ahead of need.
            Blow::Fails(Kind::Allocate | Kind::Write, FULL, _) => {
                failed.keys().any(|name| *name != *SEGMENT_IN_THE_MAKING)
            }
            Blow::Fails(..) => !failed.is_empty(),
        };
        if must_tell && !told {
            return Err(format!("requests failed, and nobody was told: {failed:?}"));
        }
        Ok(durable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_need_not_be_told_only_where_room_was_made_ahead_of_need() {
        let case = |blow| Case {
            seed: 0,
            pager: Pager::Mmap,
            new: true,
            blow,
            at: 0,
        };
        let ahead = BTreeMap::from([(SEGMENT_IN_THE_MAKING.into(), 2)]);
        let needed = BTreeMap::from([(SEGMENT_IN_THE_MAKING.into(), 2), (NAME.into(), 1)]);
        for kind in [Kind::Allocate, Kind::Write] {
            let full = case(Blow::Fails(kind, FULL, true));
            full.judge("durable 3\nend\n", &ahead).unwrap();
            full.judge("end\n", &needed).unwrap_err();
            full.judge("refused full\nend\n", &needed).unwrap();
            let broken = case(Blow::Fails(kind, IO, true));
            broken.judge("end\n", &ahead).unwrap_err();
        }
    }
}
