//! Layer C: the power is cut under a real kernel.
//!
//! Before an operation of the seed's choosing the world stops; what the process that uses the
//! database had reported by then is read; it is killed; and what a power cut leaves
//! ([`Disk::power_cut`]) is opened under both kinds of pagers. Meanwhile the kernel is made to write
//! back and forget random ranges, which maps then fault in again.
//!
//! A case is one database and some cuts, each of what the one before left: so recovery is cut too.
//! The seed decides the plan, the cuts and what they spare; how threads interleave it does not. The
//! image that broke the claim is therefore kept, and a replay repeats the case and not the instant.

use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use clap::{Args, ValueEnum};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::control::Control;
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

/// Power cuts in one case.
const CUTS: u32 = 10;
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
            oracle: Oracle::new(Plan::new(seed), !self.is_control()),
            disk: Disk::default(),
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
    oracle: Oracle,
    /// What the last cut left.
    disk: Disk,
    tally: &'t mut Tally,
}

impl History<'_> {
    fn cut(&mut self, told: &Arguments, seed: u64) -> Result<(), String> {
        let random = &mut self.random;
        let control = Control::new(self.disk.clone());
        let most = [40, 40, 500, 500, 500, 500, 500, 2500][random.random_range(0..8)];
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
        let new = acknowledged.saturating_sub(self.oracle.commits());
        self.tally.add("acknowledged commits", new);
        self.tally.add("early write-backs", evictions);
        self.tally.add("operations", control.operations());
        self.tally.add("cuts", 1);
        let survival = Survival::draw(&mut self.random);
        self.disk = control.disk().power_cut(survival, SECTOR, &mut self.random);
        self.oracle
            .look(&self.disk, acknowledged, &mut self.random, self.tally)
            .map_err(|what| format!("under {:?}, {survival:?}: {what}", arguments.pager))
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
    let mut worker =
        Worker::start("fuse-worker", arguments).map_err(|e| format!("starting a process: {e}"))?;
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
    worker.wait().map_err(|error| error.to_string())?;
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
