//! `bifolio-proof`: the recorded proof of Bifolio's claim.
//!
//! The claim, the disk model and what each layer compares are in docs/TESTING.md. Here each layer is
//! a subcommand that runs numbered cases until it has done as many as it was asked for. A *case* is
//! decided by its seed alone; a *finding* is a case that broke the claim.
//!
//! ```text
//! bifolio-proof storm --count 200                   the form that CI runs
//! bifolio-proof storm --count 1000 --record FILE    a slice of the recorded form; again for the next
//! bifolio-proof storm --case 17                     one case again, as a finding prints it
//! bifolio-proof storm --control early-acks          something is broken on purpose: it must be found
//! ```
//!
//! `campaign.rs` runs the cases; each layer is a module that implements [`campaign::Layer`].

#![forbid(unsafe_code)]

mod campaign;
mod corpus;
mod damage;
mod defects;
mod device;
mod failures;
mod fuse;
mod machine;
mod pagers;
mod record;
mod simulate;
mod storm;
mod tally;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The recorded proof that Bifolio loses nothing.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    layer: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Layer F: files that are damaged in any way are opened and read.
    Damage(damage::Arguments),
    /// A process that `damage` starts.
    #[command(hide = true)]
    DamageWorker(damage::WorkerArguments),
    /// Layer K: mistakes are planted in the engine, and the other layers have to find them.
    Defects(defects::Arguments),
    /// Layer B: every operation of small workloads fails.
    Failures(failures::Arguments),
    /// Layer C: the power is cut under a real kernel, in a file system of our own.
    Fuse(fuse::Arguments),
    /// A process that `fuse` starts and kills.
    #[command(hide = true)]
    FuseWorker(fuse::worker::WorkerArguments),
    /// Layer D: the power is cut below ext4, XFS or btrfs.
    Loop(device::Arguments),
    /// Layer E: requests fail under a real kernel, and files are cut off.
    Kernel(fuse::failures::Arguments),
    /// A process that `kernel` starts.
    #[command(hide = true)]
    FuseSurvivor(fuse::worker::WorkerArguments),
    /// Layer A: the power is cut at every operation of small workloads, on modelled disks.
    Simulate(simulate::Arguments),
    /// Layer J: processes are killed while they commit, and several open at once.
    Storm(storm::Arguments),
    /// A process that `storm` starts and kills.
    #[command(hide = true)]
    StormWorker(storm::WorkerArguments),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().layer {
        Command::Fuse(arguments) => fuse::run(&arguments),
        Command::FuseWorker(arguments) => Ok(fuse::worker::work(&arguments)),
        Command::Loop(arguments) => device::run(&arguments),
        Command::Kernel(arguments) => fuse::failures::run(&arguments),
        Command::FuseSurvivor(arguments) => Ok(fuse::survive(&arguments)),
        Command::Damage(arguments) => damage::run(&arguments),
        Command::DamageWorker(arguments) => damage::work(&arguments).map(|()| ExitCode::SUCCESS),
        Command::Defects(arguments) => defects::run(&arguments),
        Command::Failures(arguments) => failures::run(&arguments),
        Command::Simulate(arguments) => simulate::run(&arguments),
        Command::Storm(arguments) => storm::run(&arguments),
        Command::StormWorker(arguments) => {
            storm::work(&arguments);
            Ok(ExitCode::SUCCESS)
        }
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {error}");
        ExitCode::from(2)
    })
}
