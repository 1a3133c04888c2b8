//! The command line.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::compare;
use crate::error::{Error, Result};
use crate::record::VALUE_LEN_MIN;
use crate::recovery;
use crate::run;
use crate::settings::Settings;
use crate::simulate::{self, SimulateArgs};
use crate::spec::{PagerSpec, WorkloadKind};
use crate::units::{MIB, parse_bytes};

/// Runs one B+tree on a memory map and on a buffer pool, with data larger than memory, side by side.
///
/// Without arguments: the quick comparison, in under two minutes.
#[derive(Debug, Parser)]
#[command(
    name = "bifolio-bench",
    version,
    args_conflicts_with_subcommands = true
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Task>,
    #[command(flatten)]
    compare: CompareArgs,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Compare pagers under one memory limit (what happens without a command).
    Compare(CompareArgs),
    /// The smallest comparison, in seconds: shows that everything works, and measures nothing.
    Smoke(CompareArgs),
    /// What each eviction policy would have kept of a trace of page accesses, and the optimum.
    Simulate(SimulateArgs),
    /// One run, in a process of its own. For `compare` only.
    #[command(hide = true)]
    Run {
        /// The control group to join first.
        #[arg(long)]
        join: Option<PathBuf>,
    },
    /// Fills the redo log and kills itself. For `run` only.
    #[command(hide = true)]
    Crash {
        /// How long the log becomes.
        #[arg(long)]
        log_bytes: u64,
        /// What the first record is written as.
        #[arg(long)]
        generation: u64,
    },
}

/// How large a comparison is, unless single options say otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Profile {
    /// Seconds, for continuous integration.
    Smoke,
    /// Under two minutes on two processors: 64 MiB of memory, 256 MiB of data.
    Quick,
    /// About an hour: 1 GiB of memory, 4 GiB of data.
    Full,
}

#[derive(Clone, Debug, Args)]
struct CompareArgs {
    /// How large the comparison is; the options below change single things.
    #[arg(long, value_enum)]
    profile: Option<Profile>,
    /// Memory of each run, page cache included (64MiB; full: 1GiB; smoke: 32MiB).
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    limit: Option<u64>,
    /// Do not limit memory: compare on data larger than what the machine has free.
    #[arg(long, conflicts_with = "limit")]
    no_limit: bool,
    /// Bytes of keys and values for each byte of memory (4).
    #[arg(long, value_name = "FACTOR")]
    ratio: Option<f64>,
    /// Memory of the buffer pool (the limit less the reserve).
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    pool: Option<u64>,
    /// Memory of the limit that is left to the process beside the pool (8MiB; full: 16MiB).
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    reserve: Option<u64>,
    /// What is compared; the first is what ratios refer to.
    #[arg(
        long,
        value_name = "NAMES",
        value_delimiter = ',',
        default_value = "mmap-random,mmap-normal,pool-pread,pool-uring"
    )]
    pagers: Vec<PagerSpec>,
    /// What is done (all).
    #[arg(long, value_enum, value_name = "NAMES", value_delimiter = ',')]
    workloads: Vec<WorkloadKind>,
    /// Bytes of a database page; several make several comparisons.
    #[arg(
        long,
        value_name = "SIZES",
        value_delimiter = ',',
        default_value = "4096"
    )]
    page_size: Vec<u64>,
    /// Threads of reading workloads; writing ones have their own number.
    #[arg(long, default_value_t = 1)]
    threads: u32,
    /// Seconds that are measured in each run (0.6; full: 20; smoke: 0.1).
    #[arg(long)]
    seconds: Option<f64>,
    /// Seconds of warm-up at most; it ends sooner once memory is full (0.9; full: 30; smoke: 0.1).
    #[arg(long, value_name = "SECONDS")]
    warmup: Option<f64>,
    /// Repetitions of the whole set (2; full: 3; smoke: 1).
    #[arg(long, value_name = "N")]
    repeat: Option<u32>,
    /// Bytes of a value.
    #[arg(long, value_name = "BYTES", default_value_t = 120)]
    value_size: u64,
    /// What keys, values and choices are drawn from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where database files live while the comparison runs; must be on a disk.
    #[arg(long, value_name = "DIR", default_value = "results")]
    dir: PathBuf,
    /// Where results go (a new directory below results).
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Record every access to a page that a pool is asked for, one file in the results for each of its
    /// runs, for `simulate --trace`. Costs a lock at each access: the rates are not to be compared.
    #[arg(long)]
    trace: bool,
    /// Say what would be done, and what it needs, and stop.
    #[arg(long)]
    dry_run: bool,
}

fn bytes(text: &str) -> Result<u64, String> {
    parse_bytes(text).map_err(|error| error.to_string())
}

/// What a profile sets.
struct Defaults {
    limit: u64,
    reserve: u64,
    ratio: f64,
    seconds: f64,
    warmup: f64,
    repeat: u32,
    time_budget: Option<Duration>,
}

impl Profile {
    fn defaults(self) -> Defaults {
        match self {
            Profile::Smoke => Defaults {
                limit: 32 * MIB,
                reserve: 8 * MIB,
                ratio: 1.5,
                seconds: 0.1,
                warmup: 0.1,
                repeat: 1,
                time_budget: None,
            },
            Profile::Quick => Defaults {
                limit: 64 * MIB,
                reserve: 8 * MIB,
                ratio: 4.0,
                seconds: 0.6,
                warmup: 0.9,
                repeat: 2,
                time_budget: Some(Duration::from_secs(118)),
            },
            Profile::Full => Defaults {
                limit: 1024 * MIB,
                reserve: 16 * MIB,
                ratio: 4.0,
                seconds: 20.0,
                warmup: 30.0,
                repeat: 3,
                time_budget: None,
            },
        }
    }
}

impl CompareArgs {
    fn settings(self, profile: Profile) -> Result<Settings> {
        let profile = self.profile.unwrap_or(profile);
        let defaults = profile.defaults();
        let positive = |name: &str, value: f64| match value {
            value if value.is_finite() && value > 0.0 => Ok(value),
            value => Err(Error::bad_option(
                format!("--{name} {value}"),
                "must be more than 0",
            )),
        };
        let seconds = positive("seconds", self.seconds.unwrap_or(defaults.seconds))?;
        let warmup = self.warmup.unwrap_or(defaults.warmup);
        if !(0.0..1e6).contains(&warmup) {
            return Err(Error::bad_option(
                format!("--warmup {warmup}"),
                "must be 0 or more",
            ));
        }
        for &page_size in &self.page_size {
            if ![4096, 8192, 16_384, 32_768, 65_536].contains(&page_size) {
                let why = "a page has 4096, 8192, 16384, 32768 or 65536 bytes";
                return Err(Error::bad_option(format!("--page-size {page_size}"), why));
            }
        }
        if self.value_size < VALUE_LEN_MIN as u64 || self.value_size > MIB {
            let why = format!("a value has from {VALUE_LEN_MIN} to {MIB} bytes");
            return Err(Error::bad_option(
                format!("--value-size {}", self.value_size),
                why,
            ));
        }
        let counts = [
            ("threads", self.threads),
            ("repeat", self.repeat.unwrap_or(1)),
        ];
        for (name, count) in counts {
            if !(1..=1024).contains(&count) {
                return Err(Error::bad_option(
                    format!("--{name} {count}"),
                    "is from 1 to 1024",
                ));
            }
        }
        let workloads = if self.workloads.is_empty() {
            WorkloadKind::ALL[..WorkloadKind::BY_DEFAULT].to_vec()
        } else {
            self.workloads
        };
        Ok(Settings {
            limit_bytes: (!self.no_limit).then_some(self.limit.unwrap_or(defaults.limit)),
            // A smoke test has to work wherever a compiler does.
            limit_is_optional: profile == Profile::Smoke,
            ratio: positive("ratio", self.ratio.unwrap_or(defaults.ratio))?,
            pool_bytes: self.pool,
            reserve_bytes: self.reserve.unwrap_or(defaults.reserve),
            pagers: self.pagers,
            workloads,
            page_sizes: self.page_size,
            threads: self.threads,
            measure: Duration::from_secs_f64(seconds),
            warmup_max: Duration::from_secs_f64(warmup),
            repetitions: self.repeat.unwrap_or(defaults.repeat),
            // Who asks for a number of repetitions gets it.
            time_budget: if self.repeat.is_none() {
                defaults.time_budget
            } else {
                None
            },
            seed: self.seed,
            value_bytes: self.value_size,
            dir: self.dir,
            out: self.out,
            trace: self.trace,
            dry_run: self.dry_run,
        })
    }
}

/// Runs the program with the process's arguments and returns its exit status: 0, or 1 after an
/// error, which is printed.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let (arguments, profile) = match cli.command {
        Some(Task::Run { join }) => return run::main(join.as_deref()),
        Some(Task::Crash {
            log_bytes,
            generation,
        }) => return recovery::crash(log_bytes, generation),
        Some(Task::Simulate(arguments)) => return exit(simulate::run(&arguments)),
        Some(Task::Compare(arguments)) => (arguments, Profile::Quick),
        Some(Task::Smoke(arguments)) => (arguments, Profile::Smoke),
        None => (cli.compare, Profile::Quick),
    };
    exit(
        arguments
            .settings(profile)
            .and_then(|settings| compare::run(&settings)),
    )
}

fn exit(result: Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn settings(arguments: &[&str]) -> Result<Settings> {
        let arguments = ["bifolio-bench"].iter().chain(arguments);
        let cli = Cli::try_parse_from(arguments).expect("parses");
        match cli.command {
            Some(Task::Compare(arguments)) => arguments.settings(Profile::Quick),
            Some(Task::Smoke(arguments)) => arguments.settings(Profile::Smoke),
            Some(Task::Run { .. } | Task::Crash { .. } | Task::Simulate(_)) => {
                panic!("no settings")
            }
            None => cli.compare.settings(Profile::Quick),
        }
    }

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn no_arguments_mean_the_quick_comparison_of_everything() {
        let settings = settings(&[]).unwrap();
        assert_eq!(
            (settings.limit_bytes, settings.ratio),
            (Some(64 * MIB), 4.0)
        );
        assert_eq!((settings.pagers.len(), settings.workloads.len()), (4, 10));
        assert!(!settings.limit_is_optional);
    }

    #[test]
    fn options_work_with_and_without_the_command() {
        for arguments in [
            &["--limit", "1GiB", "--pagers", "pool-uring-lru"][..],
            &["compare", "--limit", "1GiB", "--pagers", "pool-uring-lru"],
            &["smoke", "--limit", "1GiB", "--pagers", "pool-uring-lru"],
        ] {
            let settings = settings(arguments).unwrap();
            assert_eq!(settings.limit_bytes, Some(1 << 30));
            assert_eq!(settings.pagers[0].to_string(), "pool-uring-lru");
        }
    }

    #[test]
    fn an_option_that_makes_no_sense_is_refused() {
        for arguments in [
            &["--ratio", "0"][..],
            &["--ratio", "NaN"],
            &["--seconds=-1"],
            &["--warmup=-1"],
            &["--page-size", "5000"],
            &["--value-size", "8"],
            &["--threads", "0"],
            &["--repeat", "0"],
        ] {
            assert!(settings(arguments).is_err(), "{arguments:?}");
        }
    }

    #[test]
    fn what_does_not_parse_is_refused() {
        for arguments in [
            ["--limit", "lots"],
            ["--pagers", "lmdb"],
            ["--workloads", "nap"],
            ["--profile", "huge"],
        ] {
            let arguments = ["bifolio-bench"].iter().chain(&arguments);
            assert!(Cli::try_parse_from(arguments).is_err());
        }
    }
}
