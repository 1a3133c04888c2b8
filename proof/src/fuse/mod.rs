//! Layer C: the power is cut under a real kernel.
//!
//! The database lies in a file system of our own (FUSE), which knows what was synced. One process
//! serves it; another one uses the database, through the page cache and shared maps, `O_DIRECT`,
//! io_uring and real syncs. Before an operation of the seed's choosing the world stops; what the
//! other process had reported by then is read; it is killed; and what a power cut leaves
//! ([`disk::Disk::power_cut`]) is opened under both kinds of pagers. Meanwhile the kernel is made to
//! write back and forget random ranges, which maps then fault in again.
//!
//! A case is one database and some cuts, each of what the one before left: so recovery is cut too.
//! The seed decides the plan, the cuts and what they spare; how threads interleave it does not. The
//! image that broke the claim is therefore kept, and a replay repeats the case and not the instant.

mod content;
#[allow(dead_code, reason = "what fails is told by tests alone so far")]
pub mod control;
pub mod disk;
pub mod mount;
mod plan;
pub mod server;
mod worker;

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use bifolio::Database;
use clap::{Args, ValueEnum};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tempfile::TempDir;

use self::control::Control;
use self::disk::{Disk, Survival};
use self::mount::Mounted;
use self::plan::{Model, Plan};
pub use self::worker::{WorkerArguments, work};
use crate::campaign::{self, Common, Layer};
use crate::pagers::Pager;
use crate::tally::Tally;

/// Power cuts in one case.
const CUTS: u32 = 10;
/// How long a process may need to get to an operation: far more than it needs.
const PATIENCE: Duration = Duration::from_secs(60);
/// The database's name in its file system.
const NAME: &str = "cut.bifolio";

/// What `bifolio-proof fuse` can be told.
#[derive(Args, Clone, Debug)]
pub struct Arguments {
    #[command(flatten)]
    common: Common,
    /// The pager of the process that is killed.
    #[arg(long, value_enum, default_value_t = Pager::Any)]
    pager: Pager,
    /// Breaks something on purpose.
    #[arg(long, value_enum)]
    control: Option<Broken>,
}

/// What can be broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Broken {
    /// Commits that are synced later are acknowledged at once.
    EarlyAcks,
    /// The disk says that it has synced, and has not.
    LyingSync,
}

/// Runs the layer, or says that it cannot run here.
///
/// # Errors
/// What keeps it from being run or recorded.
pub fn run(arguments: &Arguments) -> io::Result<ExitCode> {
    match mount::unavailable() {
        Some(why) => Ok(campaign::skipped("fuse", &why)),
        None => campaign::run(arguments, &arguments.common),
    }
}

impl Layer for Arguments {
    fn name(&self) -> &'static str {
        "fuse"
    }

    fn unit(&self) -> &'static str {
        "cuts"
    }

    fn default_count(&self) -> u64 {
        1500
    }

    fn arguments(&self) -> Vec<String> {
        vec!["--pager".to_owned(), self.pager.name().to_owned()]
    }

    fn is_control(&self) -> bool {
        self.control.is_some()
    }

    fn case(&self, seed: u64, tally: &mut Tally) -> Result<(), String> {
        let mut history = History {
            random: StdRng::seed_from_u64(seed),
            plan: Plan::new(seed),
            disk: Disk::default(),
            model: Model::new(),
            keeps: self.control.is_none(),
            tally,
        };
        for cut in 0..CUTS {
            let outcome = history.cut(self, seed);
            outcome.map_err(|what| format!("cut {cut}: {what}"))?;
        }
        Ok(())
    }
}

/// A case under way.
struct History<'t> {
    random: StdRng,
    plan: Plan,
    /// What the last cut left.
    disk: Disk,
    /// What the database in it holds, for certain.
    model: Model,
    /// Whether an image that breaks the claim is kept for a person to look at.
    keeps: bool,
    tally: &'t mut Tally,
}

impl History<'_> {
    fn cut(&mut self, told: &Arguments, seed: u64) -> Result<(), String> {
        let random = &mut self.random;
        let control = Control::new(self.disk.clone());
        let most = if random.random_bool(0.2) { 40 } else { 500 };
        control.stop_at(random.random_range(0..most));
        if told.control == Some(Broken::LyingSync) {
            control.lie();
        }
        let directory = scratch()?;
        let arguments = WorkerArguments {
            path: directory.path().join(NAME),
            pager: told.pager.of_case(random.random()),
            seed,
            writers: [1, 1, 2, 4][random.random_range(0..4)],
            early_acks: told.control == Some(Broken::EarlyAcks),
        };
        let evictions = random.random();
        let (acknowledged, evictions) =
            until_stopped(directory.path(), &control, &arguments, evictions)?;
        let before = plan::commits_in(&self.model);
        self.tally
            .add("acknowledged commits", acknowledged.saturating_sub(before));
        self.tally.add("early write-backs", evictions);
        let survival = Survival::draw(&mut self.random);
        let left = control.disk().power_cut(survival, &mut self.random);
        self.tally.add("cuts", 1);
        self.tally.add("operations", control.operations());
        self.look(left, acknowledged.max(before))
            .map_err(|what| format!("under {:?}, {survival:?}: {what}", arguments.pager))
    }

    /// What a cut left must hold the state after n commits, for an n from `least` on.
    fn look(&mut self, left: Disk, least: u64) -> Result<(), String> {
        let first = Pager::Any.of_case(self.random.random());
        let others = [Pager::Mmap, Pager::Pread, Pager::Uring];
        let second = if first == Pager::Mmap {
            others[self.random.random_range(1..3)]
        } else {
            Pager::Mmap
        };
        self.disk = left;
        if self.disk.find(OsStr::new(NAME)).is_none() {
            self.tally.add("cuts before there was a file", 1);
            return match least {
                0 => Ok(()),
                _ => Err(format!(
                    "there is no file; {least} commits were acknowledged"
                )),
            };
        }
        let outcome = self.recover(first, second, least);
        outcome.map_err(|what| match self.keeps.then(|| keep(&self.disk)) {
            None => what,
            Some(Ok(kept)) => format!("{what} (kept in {})", kept.display()),
            Some(Err(error)) => format!("{what} (not kept: {error})"),
        })
    }

    fn recover(&mut self, first: Pager, second: Pager, least: u64) -> Result<(), String> {
        let (one, other) = (scratch()?, scratch()?);
        for directory in [&one, &other] {
            self.disk
                .save(directory.path())
                .map_err(|e| e.to_string())?;
        }
        let before = plan::commits_in(&self.model);
        let after = self.expect_a_prefix(one.path(), first, least)?;
        self.tally.add("surviving commits", after - before);
        // Recovery is decided by the image, and is done once and for all.
        for (directory, pager) in [(&other, second), (&one, second)] {
            let again = self.expect_a_prefix(directory.path(), pager, after)?;
            if again != after {
                return Err(format!(
                    "{after} commits under {first:?}, {again} under {second:?}"
                ));
            }
        }
        Ok(())
    }

    /// Opens the database, checks it, and brings the model to what it holds. Returns how many
    /// commits it has.
    fn expect_a_prefix(
        &mut self,
        directory: &Path,
        pager: Pager,
        least: u64,
    ) -> Result<u64, String> {
        let open = || -> bifolio::Result<Database> { pager.options().open(directory.join(NAME)) };
        let db = open().map_err(|error| format!("{pager:?} cannot open it: {error}"))?;
        if db.recovery_report().is_some() {
            self.tally.add("recoveries", 1);
        }
        let report = db.check().map_err(|error| error.to_string())?;
        if !report.is_clean() {
            return Err(format!("the check under {pager:?} found: {report}"));
        }
        let found = plan::content(&db).map_err(|error| error.to_string())?;
        let commits = plan::commits_in(&found);
        if commits < least {
            return Err(format!(
                "{commits} commits are there; {least} were acknowledged"
            ));
        }
        for number in plan::commits_in(&self.model)..commits {
            self.plan.apply_to_model(number, &mut self.model);
        }
        if found != self.model {
            return Err(format!(
                "it does not hold what {commits} commits made: {}",
                differences(&found, &self.model)
            ));
        }
        db.close()
            .map_err(|error| format!("it cannot be closed: {error}"))?;
        Ok(commits)
    }
}

/// Lets a process use the database until the world stops, kills it, and returns how many commits it
/// had reported as durable, and how often the kernel was made to write back.
fn until_stopped(
    directory: &Path,
    control: &Control,
    arguments: &WorkerArguments,
    evictions: u64,
) -> Result<(u64, u64), String> {
    let mounted = Mounted::new(directory, control.clone()).map_err(|e| format!("mounting: {e}"))?;
    let mut worker = Worker::start(arguments).map_err(|e| format!("starting a process: {e}"))?;
    let outcome = thread::scope(|scope| {
        let evictor = scope.spawn(|| evict(&mounted, control, evictions));
        let stopped = worker.wait_for_stop(control);
        let durable = stopped.and_then(|()| worker.durable());
        // The process must be gone before the frozen world lets it go on, and the kernel waits with
        // that for the answers that it is still owed.
        worker.kill();
        control.freeze();
        let evictions = evictor.join().expect("it does not panic");
        durable.map(|durable| (durable, evictions))
    });
    worker.child.wait().map_err(|error| error.to_string())?;
    mounted
        .unmount()
        .map_err(|error| format!("unmounting: {error}"))?;
    outcome
}

/// Has the kernel write back and forget random ranges of random files while the world runs; how
/// often it has.
fn evict(mounted: &Mounted, control: &Control, seed: u64) -> u64 {
    let mut random = StdRng::seed_from_u64(seed);
    let mut done = 0;
    while control.runs() {
        let files = control.lengths();
        if !files.is_empty() {
            let (ino, len) = files[random.random_range(0..files.len())];
            let offset = random.random_range(0..len.max(1));
            // The file may be gone by now.
            let evicted = mounted.evict(ino, offset, random.random_range(1..1 << 18));
            done += u64::from(evicted.is_ok());
        }
        thread::sleep(Duration::from_micros(random.random_range(0..4000)));
    }
    done
}

/// A process that uses the database, and what it says.
struct Worker {
    child: Child,
    out: ChildStdout,
}

impl Worker {
    fn start(arguments: &WorkerArguments) -> io::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("fuse-worker")
            .arg(&arguments.path)
            .args(arguments.to_command_line())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let out = child.stdout.take().expect("it was piped");
        rustix::io::ioctl_fionbio(&out, true)?;
        Ok(Worker { child, out })
    }

    fn wait_for_stop(&mut self, control: &Control) -> Result<(), String> {
        let give_up = Instant::now() + PATIENCE;
        while !control.wait_for_stop(Duration::from_millis(20)) {
            if let Ok(Some(status)) = self.child.try_wait() {
                let said = self.said().unwrap_or_default();
                let last = said.lines().last().unwrap_or("nothing");
                return Err(format!("the process ended ({status}) and said {last:?}"));
            }
            if Instant::now() > give_up {
                return Err("the process hangs".to_owned());
            }
        }
        Ok(())
    }

    /// Everything it has said and that was not read before.
    fn said(&mut self) -> io::Result<String> {
        let mut said = Vec::new();
        match self.out.read_to_end(&mut said) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
            _ => {}
        }
        Ok(String::from_utf8_lossy(&said).into_owned())
    }

    /// The most commits that it called durable.
    fn durable(&mut self) -> Result<u64, String> {
        let mut most = 0;
        for line in self.said().map_err(|error| error.to_string())?.lines() {
            match line.split_once(' ') {
                Some(("durable", number)) => {
                    most = most.max(number.parse().map_err(|_| line.to_owned())?);
                }
                _ => return Err(format!("the process said {line:?}")),
            }
        }
        Ok(most)
    }

    fn kill(&mut self) {
        // That it is gone already is found elsewhere.
        let _ = self.child.kill();
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.kill();
        let _ = self.child.wait();
    }
}

/// A directory in memory, where there is one: what lies here need not survive anything.
fn scratch() -> Result<TempDir, String> {
    let builder = || tempfile::Builder::new().prefix("bifolio-proof-").to_owned();
    let in_memory = builder().tempdir_in("/dev/shm");
    in_memory
        .or_else(|_| builder().tempdir())
        .map_err(|error| format!("making a directory: {error}"))
}

/// Keeps what broke the claim, where a person can look at it.
fn keep(disk: &Disk) -> io::Result<PathBuf> {
    let kept = tempfile::Builder::new()
        .prefix("bifolio-finding-")
        .tempdir()?
        .keep();
    disk.save(&kept)?;
    File::open(&kept)?.sync_all()?;
    Ok(kept)
}

/// In which tables two contents differ, in words.
fn differences(found: &Model, expected: &Model) -> String {
    let names = found.keys().chain(expected.keys());
    let mut words: Vec<_> = names
        .filter(|name| found.get(*name) != expected.get(*name))
        .map(|name| {
            let len = |model: &Model| model.get(name).map(|table| table.len());
            format!(
                "{name:?}: {:?} entries and not {:?}",
                len(found),
                len(expected)
            )
        })
        .collect();
    words.dedup();
    words.join("; ")
}
