//! The command line.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};

use crate::parent::{Comparison, Plan};
use crate::report::{Medians, markdown};
use crate::row::Row;
use crate::workload::{ENGINES, EngineChoice, Workload};
use crate::{Result, child};

/// Bifolio beside LMDB, redb, SQLite and fjall, on the same work under the same memory limit.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measures, adds to the rows, and shows the tables.
    Run(RunArgs),
    /// Shows the tables of rows that were measured before.
    Report {
        /// The rows.
        #[arg(long, default_value = "results/peers/rows.jsonl")]
        rows: PathBuf,
        /// Writes the tables into this file, between its two marks, and leaves the rest as it is.
        #[arg(long)]
        into: Option<PathBuf>,
    },
    /// The process of one run.
    #[command(hide = true)]
    Child {
        #[arg(long)]
        join: Option<PathBuf>,
    },
}

#[derive(clap::Args)]
struct RunArgs {
    /// How much data, and how long.
    #[arg(long, value_enum, default_value_t = Profile::Small)]
    profile: Profile,
    /// Engines, separated by commas; all that take part if absent.
    #[arg(long, value_delimiter = ',')]
    engines: Vec<String>,
    /// Workloads, separated by commas; all if absent.
    #[arg(long, value_delimiter = ',')]
    workloads: Vec<String>,
    /// Turns of each engine at each workload.
    #[arg(long)]
    repeat: Option<u32>,
    /// Seconds that a run measures.
    #[arg(long)]
    seconds: Option<f64>,
    /// Where rows are added.
    #[arg(long, default_value = "results/peers/rows.jsonl")]
    rows: PathBuf,
    /// Where databases are filled, and kept for the next time. Must be on the disk to be measured.
    #[arg(long, default_value = "results/peers/data")]
    data: PathBuf,
}

#[derive(Clone, Copy, ValueEnum)]
enum Profile {
    /// To see that everything runs: a minute.
    Smoke,
    /// 2 M records, 80 MiB where memory is limited: about half an hour.
    Small,
    /// 8 M records in memory, 30 M under 1 GiB: hours, and 60 GiB of disk.
    Full,
}

impl Profile {
    fn plan(self) -> Plan {
        let (records, cold_records, limit_bytes, seconds, repetitions) = match self {
            Profile::Smoke => (20_000, 200_000, 32 << 20, 0.2, 1),
            Profile::Small => (2_000_000, 2_000_000, 80 << 20, 2.0, 3),
            Profile::Full => (8_000_000, 30_000_000, 1 << 30, 20.0, 3),
        };
        Plan {
            engines: ENGINES.to_vec(),
            workloads: Workload::ALL.to_vec(),
            records,
            cold_records,
            limit_bytes,
            seconds,
            repetitions,
        }
    }
}

/// The program.
pub fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Run(args) => run(args),
        Command::Report { rows, into } => report(&rows, into.as_deref()),
        Command::Child { join } => child::main(join.as_deref()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bifolio-peers: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: RunArgs) -> Result<()> {
    let mut plan = args.profile.plan();
    if !args.engines.is_empty() {
        let named = |name: &String| {
            EngineChoice::named(name).ok_or_else(|| format!("there is no engine {name:?}"))
        };
        plan.engines = args.engines.iter().map(named).collect::<Result<_, _>>()?;
    }
    if !args.workloads.is_empty() {
        let named = |name: &String| {
            Workload::named(name).ok_or_else(|| format!("there is no workload {name:?}"))
        };
        plan.workloads = args.workloads.iter().map(named).collect::<Result<_, _>>()?;
    }
    plan.repetitions = args.repeat.unwrap_or(plan.repetitions);
    plan.seconds = args.seconds.unwrap_or(plan.seconds);
    if let Some(parent) = args.rows.parent() {
        fs::create_dir_all(parent)?;
    }
    let mut comparison = Comparison::new(plan, &args.data)?;
    comparison.run(&args.rows, |row| match &row.outcome {
        Ok(measured) => println!(
            "{:<18} {:<14} {:>12.0} {}/s",
            row.workload,
            row.engine,
            measured.per_s,
            row.workload.unit()
        ),
        Err(why) => println!("{:<18} {:<14} {why}", row.workload, row.engine),
    })?;
    report(&args.rows, None)
}

const BEGIN: &str = "<!-- tables: begin -->";
const END: &str = "<!-- tables: end -->";

fn report(rows: &Path, into: Option<&Path>) -> Result<()> {
    let text = fs::read_to_string(rows).map_err(|error| format!("{}: {error}", rows.display()))?;
    let rows = text
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<Vec<Row>, _>>()?;
    let tables = markdown(&Medians::new(rows));
    let Some(page) = into else {
        println!("\n{tables}");
        return Ok(());
    };
    let old = fs::read_to_string(page)?;
    let (Some(begin), Some(end)) = (old.find(BEGIN), old.find(END)) else {
        return Err(format!("{} has no {BEGIN} and {END}", page.display()).into());
    };
    let (before, after) = (&old[..begin + BEGIN.len()], &old[end..]);
    Ok(fs::write(page, format!("{before}\n\n{tables}\n{after}"))?)
}
