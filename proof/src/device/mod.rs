//! Layer D: the power is cut below a real file system.
//!
//! One file of our own file system (FUSE) is the disk of a loop device, and on that lies ext4, XFS or
//! btrfs with the database in it. So what reaches the disk, and in what order, is decided by a real
//! file system; what of it survives, by our disk model, in blocks of 4 KiB, which is what these
//! file systems ask of a disk. The world stops before an operation of the disk, the process that uses
//! the database is killed, and what the disk then has is mounted again: the file system replays its
//! journal, and the files it comes up with are opened as after any other cut.
//!
//! A case is one file system and some cuts, each of what the one before left.

mod rig;

use std::io;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use self::rig::Rig;
use crate::campaign::{self, Common, Layer};
use crate::fuse::control::Control;
use crate::fuse::disk::{Disk, Survival};
use crate::fuse::oracle::{NAME, Oracle};
use crate::fuse::plan::Plan;
use crate::fuse::process::Worker;
use crate::fuse::worker::WorkerArguments;
use crate::pagers::Pager;
use crate::tally::Tally;

/// Power cuts in one case.
const CUTS: u32 = 5;
/// Operations of the disk before a cut: fewer than this.
const OPERATIONS: u64 = 1500;
/// What the file systems need a disk to write whole or not at all, in bytes.
const BLOCK: usize = 4096;

/// What `bifolio-proof loop` can be told.
#[derive(Args, Clone, Debug)]
pub struct Arguments {
    #[command(flatten)]
    common: Common,
    /// The pager of the process that is killed.
    #[arg(long, value_enum, default_value_t = Pager::Any)]
    pager: Pager,
    /// The file system below the database.
    #[arg(long, value_enum)]
    fs: Kind,
    /// Breaks something on purpose.
    #[arg(long, value_enum)]
    control: Option<Broken>,
}

/// A file system that the kernel has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// With its journal, data ordered.
    Ext4,
    /// With its log.
    Xfs,
    /// Copy on write.
    Btrfs,
}

impl Kind {
    /// Its name, for `mount` as for the command line.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Ext4 => "ext4",
            Kind::Xfs => "xfs",
            Kind::Btrfs => "btrfs",
        }
    }
}

/// What can be broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Broken {
    /// Commits that are synced later are acknowledged at once.
    EarlyAcks,
}

/// Runs the layer, or says that it cannot run here.
///
/// # Errors
/// What keeps it from being run or recorded.
pub fn run(arguments: &Arguments) -> io::Result<ExitCode> {
    match rig::unavailable(arguments.fs) {
        Some(why) => Ok(campaign::skipped(
            &format!("loop {}", arguments.fs.name()),
            &why,
        )),
        None => {
            // One case at a time: the kernel keeps one list of the disks that btrfs may be on, and
            // holds those of one case while it looks for those of another.
            let jobs = arguments.common.jobs.or(Some(1));
            let common = arguments.common.clone();
            campaign::run(arguments, &Common { jobs, ..common })
        }
    }
}

impl Layer for Arguments {
    fn name(&self) -> &'static str {
        "loop"
    }

    fn unit(&self) -> &'static str {
        "cuts"
    }

    fn default_count(&self) -> u64 {
        30
    }

    fn arguments(&self) -> Vec<String> {
        let told = ["--fs", self.fs.name(), "--pager", self.pager.name()];
        told.map(str::to_owned).to_vec()
    }

    fn is_control(&self) -> bool {
        self.control.is_some()
    }

    fn case(&self, seed: u64, tally: &mut Tally) -> Result<(), String> {
        let random = &mut StdRng::seed_from_u64(seed);
        let mut oracle = Oracle::new(Plan::new(seed), !self.is_control());
        let mut disk = rig::formatted(self.fs).map_err(|e| format!("formatting: {e}"))?;
        let mut acknowledged = 0;
        for cut in 0..=CUTS {
            let control = Control::new(disk);
            let rig = Rig::new(self.fs, &control).map_err(|e| format!("cut {cut}: {e}"))?;
            if cut > 0 {
                let found = Disk::load(rig.directory()).map_err(|e| e.to_string())?;
                oracle
                    .look(&found, acknowledged, random, tally)
                    .map_err(|what| format!("cut {cut}: {what}"))?;
            }
            if cut == CUTS {
                return rig.dismantle().map_err(|e| e.to_string());
            }
            control.stop_at(control.operations() + random.random_range(0..OPERATIONS));
            let arguments = WorkerArguments {
                path: rig.directory().join(NAME),
                pager: self.pager.of_case(random.random()),
                seed,
                writers: [1, 2][random.random_range(0..2)],
                early_acks: self.control == Some(Broken::EarlyAcks),
            };
            let mut worker =
                Worker::start("fuse-worker", &arguments).map_err(|e| format!("starting: {e}"))?;
            let stopped = worker.wait_for_stop(&control);
            let durable = stopped.and_then(|()| worker.durable());
            worker.kill();
            let survival = Survival::draw(random);
            disk = control.disk().power_cut(survival, BLOCK, random);
            // What comes now goes to a disk that nobody looks at any more.
            control.go_on();
            worker.wait().map_err(|error| error.to_string())?;
            rig.dismantle().map_err(|e| format!("cut {cut}: {e}"))?;
            acknowledged = durable
                .map_err(|what| format!("cut {cut}: {what}"))?
                .max(oracle.commits());
            tally.add("acknowledged commits", acknowledged - oracle.commits());
            tally.add("operations", control.operations());
            tally.add("cuts", 1);
        }
        Ok(())
    }
}
