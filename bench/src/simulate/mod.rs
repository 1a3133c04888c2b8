//! What each eviction policy of the pool would have kept: traces, recorded or made up, replayed through
//! all of them and through the optimum.
//!
//! A hit ratio here is 1 less loads per read. The policies are the pool's own, in the batches it evicts
//! in; a test of the pool's holds its counters against the same simulation.

mod made;
mod optimum;
mod picture;

use std::collections::HashSet;
use std::fs;
use std::path::PathBuf;

use bifolio_pager_bufpool::trace::{Access, Event, Trace};
use bifolio_pager_bufpool::{Policy, Simulation};

use crate::error::{Error, Result};
use made::Made;

/// What is replayed, and what it is called.
pub struct Replayed {
    pub name: String,
    /// Frames of the pool that recorded it, if one did.
    pub frames: Option<usize>,
    pub events: Vec<Event>,
}

/// Hit ratios of one trace in pools of one size: a policy's each, and the best there could be.
pub struct Outcome {
    pub frames: usize,
    pub policies: Vec<(Policy, f64)>,
    pub optimum: f64,
}

/// What is asked for on the command line.
#[derive(Clone, Debug, clap::Args)]
pub struct SimulateArgs {
    /// A trace that a pool has recorded (`compare --trace`, or the option `trace` of a pool).
    #[arg(long, value_name = "FILE")]
    trace: Vec<PathBuf>,
    /// Traces that are made up.
    #[arg(long, value_enum, value_name = "NAMES", value_delimiter = ',')]
    made: Vec<Made>,
    /// Sizes of the pools, in frames (that of the pool which recorded the trace; a twentieth, a tenth, a
    /// quarter and half of the trace's pages).
    #[arg(long, value_name = "N", value_delimiter = ',')]
    frames: Vec<usize>,
    /// Policies (all).
    #[arg(long, value_name = "NAMES", value_delimiter = ',', value_parser = policy)]
    policies: Vec<Policy>,
    /// Accesses in a trace that is made up.
    #[arg(long, default_value_t = 1_000_000)]
    length: usize,
    /// What made-up traces are drawn from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where a picture of the ratios goes, as SVG.
    #[arg(long, value_name = "FILE")]
    chart: Option<PathBuf>,
}

fn policy(name: &str) -> Result<Policy, String> {
    let names = || Policy::ALL.map(Policy::name).join(", ");
    Policy::from_name(name).ok_or_else(|| format!("a policy is one of {}", names()))
}

/// Replays what was asked for, and prints a table for each trace.
///
/// # Errors
/// [`Error::Io`] for a trace that cannot be read or a chart that cannot be written,
/// [`Error::BadOption`] for pools without frames or no trace at all.
pub fn run(arguments: &SimulateArgs) -> Result<()> {
    if arguments.frames.contains(&0) {
        return Err(Error::bad_option("--frames 0", "a pool has frames"));
    }
    if arguments.trace.is_empty() && arguments.made.is_empty() {
        let why = "give --trace FILE, or --made with zipf, scan, loop, uniform or shift";
        return Err(Error::bad_option("simulate", why));
    }
    let policies = match &arguments.policies[..] {
        [] => Policy::ALL.to_vec(),
        some => some.to_vec(),
    };
    let mut results = Vec::new();
    for path in &arguments.trace {
        let trace = Trace::read(path)
            .map_err(|source| Error::io("read the trace", path.clone(), source))?;
        results.push(replay(
            Replayed {
                name: path.display().to_string(),
                frames: Some(trace.frames as usize),
                events: trace.events,
            },
            &arguments.frames,
            &policies,
        ));
    }
    for made in &arguments.made {
        let trace = made.trace(arguments.length, arguments.seed);
        results.push(replay(trace, &arguments.frames, &policies));
    }
    if let Some(path) = &arguments.chart {
        fs::write(path, picture::render(&results))
            .map_err(|source| Error::io("write", path.clone(), source))?;
        println!("picture {}", path.display());
    }
    Ok(())
}

fn replay(trace: Replayed, frames: &[usize], policies: &[Policy]) -> (String, Vec<Outcome>) {
    let pages: HashSet<_> = trace.events.iter().map(|event| event.page).collect();
    let frames = match frames {
        [] => {
            let parts = [20, 10, 4, 2].map(|part| (pages.len() / part).max(1));
            let own = trace.frames.filter(|&frames| frames > 0);
            own.into_iter().chain(parts).collect()
        }
        some => some.to_vec(),
    };
    let reads = trace
        .events
        .iter()
        .filter(|event| event.access == Access::Read);
    println!(
        "{}: {} reads of {} pages",
        trace.name,
        reads.count(),
        pages.len()
    );
    let outcomes: Vec<_> = frames
        .into_iter()
        .map(|frames| outcome(&trace.events, frames, policies))
        .collect();
    print!("{}", table(&outcomes));
    (trace.name, outcomes)
}

fn outcome(events: &[Event], frames: usize, policies: &[Policy]) -> Outcome {
    let ratio = |policy: Policy| {
        let mut simulation = Simulation::new(policy, frames);
        for &event in events {
            simulation.step(event);
        }
        simulation.tally().hit_ratio()
    };
    Outcome {
        frames,
        policies: policies
            .iter()
            .map(|&policy| (policy, ratio(policy)))
            .collect(),
        optimum: optimum::replay(events, frames).hit_ratio(),
    }
}

/// Per cent of reads that hit, a line for each size.
fn table(outcomes: &[Outcome]) -> String {
    let Some(first) = outcomes.first() else {
        return String::new();
    };
    let mut text = format!("{:>10}", "frames");
    for (policy, _) in &first.policies {
        text += &format!("{policy:>9}");
    }
    text += "  optimum\n";
    for outcome in outcomes {
        text += &format!("{:>10}", outcome.frames);
        for (_, ratio) in &outcome.policies {
            text += &format!("{:>8.1}%", 100.0 * ratio);
        }
        text += &format!("{:>8.1}%\n", 100.0 * outcome.optimum);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_policy_beats_the_optimum_on_any_trace() {
        for made in Made::ALL {
            let trace = made.trace(30_000, 3);
            for frames in [50, 1000] {
                let outcome = outcome(&trace.events, frames, &Policy::ALL);
                for (policy, ratio) in outcome.policies {
                    assert!(
                        ratio <= outcome.optimum,
                        "{policy}, {}, {frames} frames: {ratio}",
                        trace.name
                    );
                }
            }
        }
    }

    #[test]
    fn a_table_has_a_column_for_each_policy_and_a_line_for_each_size() {
        let trace = Made::Loop.trace(5_000, 1);
        let outcomes: Vec<_> = [10, 20]
            .map(|frames| outcome(&trace.events, frames, &[Policy::Lru, Policy::Sieve]))
            .into();
        let table = table(&outcomes);
        let lines: Vec<_> = table.lines().collect();
        assert_eq!(lines.len(), 3);
        let words = |line: &str| line.split_whitespace().count();
        assert!(lines.iter().all(|line| words(line) == 4), "{table}");
    }

    #[test]
    fn what_cannot_be_simulated_is_refused() {
        let arguments = SimulateArgs {
            trace: vec!["no such file".into()],
            made: vec![],
            frames: vec![10],
            policies: vec![],
            length: 10,
            seed: 1,
            chart: None,
        };
        assert!(matches!(run(&arguments), Err(Error::Io { .. })));
        for (trace, frames) in [(arguments.trace.clone(), 0), (vec![], 1)] {
            let frames = vec![frames];
            let arguments = SimulateArgs {
                trace,
                frames,
                ..arguments.clone()
            };
            assert!(matches!(run(&arguments), Err(Error::BadOption { .. })));
        }
    }
}
