//! Running cases by the thousand, on several threads, and saying what was found.
//!
//! Case number n of a run has the seed `first + n`, so slices of a campaign are ranges of seeds. A
//! case that panics is a finding like any other. A finding prints its seed and the command that runs
//! just that case again, and its seed is kept in the corpus, which always runs first.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use clap::Args;

use crate::corpus;
use crate::defects;
use crate::machine::{self, Machine};
use crate::record::{Record, Slice};
use crate::tally::Tally;

/// A run ends early when it has found this much: more of the same tells nothing.
const ENOUGH_FINDINGS: usize = 10;

/// What every layer can be told.
#[derive(Args, Clone, Debug)]
pub struct Common {
    /// How much to do, in the layer's own unit.
    #[arg(long, visible_aliases = ["images", "cuts", "kills", "flips", "faults"])]
    pub count: Option<u64>,
    /// The first case's seed. By default one after the last of the record, or else a fresh one.
    #[arg(long)]
    pub seed: Option<u64>,
    /// Runs the case with this seed, and nothing else.
    #[arg(long, conflicts_with_all = ["count", "seed", "record"])]
    pub case: Option<u64>,
    /// Cases that run at a time. By default one for each processor.
    #[arg(long)]
    pub jobs: Option<usize>,
    /// Stops after so many seconds, even if there is more to do.
    #[arg(long)]
    pub seconds: Option<u64>,
    /// Appends what was run and counted to a results file.
    #[arg(long)]
    pub record: Option<PathBuf>,
}

/// A layer of the proof.
pub trait Layer: Sync {
    /// Its name, as its subcommand.
    fn name(&self) -> &'static str;

    /// What `--count` counts: a name in the tally.
    fn unit(&self) -> &'static str;

    /// How much is done when nobody says: the form that CI runs.
    fn default_count(&self) -> u64;

    /// What it was told besides [`Common`], as a replay needs it.
    fn arguments(&self) -> Vec<String>;

    /// Whether something is broken on purpose, so that a run without a finding is a failure.
    fn is_control(&self) -> bool;

    /// Runs the case of this seed and counts.
    ///
    /// # Errors
    /// What broke the claim, in words.
    fn case(&self, seed: u64, tally: &mut Tally) -> Result<(), String>;
}

/// Says that a layer cannot run here, and why: a failure, unless `BIFOLIO_ALLOW_SKIP` is 1.
pub fn skipped(layer: &str, why: &str) -> ExitCode {
    println!("SKIPPED {layer}: {why}");
    match std::env::var("BIFOLIO_ALLOW_SKIP") {
        Ok(allowed) if allowed == "1" => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

/// What is shared by the threads of a run.
struct Progress {
    waiting: VecDeque<u64>,
    next_seed: u64,
    tally: Tally,
    findings: Vec<(u64, String)>,
}

/// Runs a layer and prints what came of it. Success if nothing was found, or, of a control, if
/// something was.
pub fn run(layer: &dyn Layer, common: &Common) -> io::Result<ExitCode> {
    let mut record = common
        .record
        .as_ref()
        .map(|path| Record::load(path, layer.name(), &layer.arguments()))
        .transpose()?;
    let goes_on = record.as_ref().and_then(Record::next_seed);
    // Seeds of one run stay apart from those of another, and short enough to be typed.
    let fresh = || u64::from(rand::random::<u32>()) << 16;
    let first_seed = common
        .case
        .or(common.seed)
        .or(goes_on)
        .unwrap_or_else(fresh);
    let wanted = match common.case {
        Some(_) => 0,
        None => common.count.unwrap_or(layer.default_count()),
    };
    let mut waiting = VecDeque::new();
    if let Some(case) = common.case {
        waiting.push_back(case);
    } else if !layer.is_control() && !defects::is_planted() {
        waiting.extend(corpus::seeds(layer.name())?);
    }
    println!(
        "{} {}: seed {first_seed}",
        layer.name(),
        layer.arguments().join(" ")
    );
    io::stdout().flush()?;
    let (started, clock) = (machine::now(), Instant::now());
    let progress = Mutex::new(Progress {
        waiting,
        next_seed: first_seed,
        tally: Tally::default(),
        findings: Vec::new(),
    });
    let jobs = common
        .jobs
        .or(std::thread::available_parallelism().ok().map(usize::from))
        .unwrap_or(1);
    let time_is_up = || {
        let limit = common.seconds.map(Duration::from_secs);
        limit.is_some_and(|limit| clock.elapsed() >= limit)
    };
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while let Some(seed) = next_case(layer, &progress, wanted, time_is_up()) {
                    run_case(layer, seed, &progress);
                }
            });
        }
    });
    let done = progress
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    println!("{}: {} in {:?}", layer.name(), done.tally, clock.elapsed());
    if let (Some(record), Some(path)) = (&mut record, &common.record) {
        let slice = Slice {
            first_seed,
            next_seed: done.next_seed,
            counts: done.tally.clone(),
            commit: machine::commit(),
            machine: Machine::look(),
            started,
            seconds: clock.elapsed().as_secs(),
        };
        let findings = done.findings.iter();
        record.push(
            slice,
            findings.map(|(seed, what)| format!("case {seed}: {what}")),
        );
        record.save(path)?;
    }
    conclude(layer, &done)
}

/// The seed of the case to run now; `None` if this was all.
fn next_case(
    layer: &dyn Layer,
    progress: &Mutex<Progress>,
    wanted: u64,
    time_is_up: bool,
) -> Option<u64> {
    let mut progress = lock(progress);
    let enough = match layer.is_control() || defects::is_planted() {
        true => 1,
        false => ENOUGH_FINDINGS,
    };
    if progress.findings.len() >= enough || time_is_up {
        return None;
    }
    if let Some(seed) = progress.waiting.pop_front() {
        return Some(seed);
    }
    if progress.tally.get(layer.unit()) >= wanted {
        return None;
    }
    let seed = progress.next_seed;
    progress.next_seed = seed.wrapping_add(1);
    Some(seed)
}

fn run_case(layer: &dyn Layer, seed: u64, progress: &Mutex<Progress>) {
    let mut tally = Tally::default();
    tally.add("cases", 1);
    let outcome = catch_unwind(AssertUnwindSafe(|| layer.case(seed, &mut tally)));
    let finding = match outcome {
        Ok(Ok(())) => None,
        Ok(Err(finding)) => Some(finding),
        Err(panic) => Some(format!("it panicked: {}", words_of(&*panic))),
    };
    let mut progress = lock(progress);
    progress.tally.merge(&tally);
    if let Some(finding) = finding {
        progress.findings.push((seed, finding));
    }
}

fn conclude(layer: &dyn Layer, done: &Progress) -> io::Result<ExitCode> {
    if layer.is_control() {
        return Ok(match done.findings.first() {
            Some((seed, finding)) => {
                println!("found, as it must be: case {seed}: {finding}");
                ExitCode::SUCCESS
            }
            None => {
                println!("FAILED: nothing was found, though something is broken on purpose");
                ExitCode::FAILURE
            }
        });
    }
    for (seed, finding) in &done.findings {
        println!("FINDING, case {seed}: {finding}");
        let arguments = layer.arguments().join(" ");
        println!(
            "  replay: bifolio-proof {} --case {seed} {arguments}",
            layer.name()
        );
        if !defects::is_planted() {
            let kept = corpus::keep(layer.name(), *seed, finding)?;
            println!("  kept as {}", kept.display());
        }
    }
    Ok(match done.findings.len() {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}

fn lock(progress: &Mutex<Progress>) -> MutexGuard<'_, Progress> {
    // Nothing panics while it is held; and if so, what was counted still counts.
    progress.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a panic said.
fn words_of(panic: &(dyn std::any::Any + Send)) -> String {
    let literal = panic.downcast_ref::<&str>().map(|&words| words.to_owned());
    literal
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "without words".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts two a case; breaks at one seed, or everywhere.
    struct Fake {
        control: bool,
        breaks: bool,
    }

    impl Layer for Fake {
        fn name(&self) -> &'static str {
            "fake"
        }
        fn unit(&self) -> &'static str {
            "things"
        }
        fn default_count(&self) -> u64 {
            10
        }
        fn arguments(&self) -> Vec<String> {
            Vec::new()
        }
        fn is_control(&self) -> bool {
            self.control
        }
        fn case(&self, seed: u64, tally: &mut Tally) -> Result<(), String> {
            tally.add("things", 2);
            assert!(!self.breaks, "seed {seed} breaks");
            Ok(())
        }
    }

    fn common() -> Common {
        Common {
            count: None,
            seed: Some(5),
            case: None,
            jobs: Some(2),
            seconds: None,
            record: None,
        }
    }

    #[test]
    fn a_run_does_as_much_as_it_was_asked_for_and_records_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("fake.json");
        let fake = Fake {
            control: false,
            breaks: false,
        };
        let common = Common {
            record: Some(path.clone()),
            ..common()
        };
        assert_eq!(run(&fake, &common).unwrap(), ExitCode::SUCCESS);
        let record = Record::load(&path, "fake", &[]).unwrap();
        assert!((10..=12).contains(&record.counts.get("things")));
        assert_eq!(record.slices[0].first_seed, 5);
    }

    #[test]
    fn a_control_succeeds_only_if_something_was_found() {
        let control = |breaks| Fake {
            control: true,
            breaks,
        };
        assert_eq!(run(&control(true), &common()).unwrap(), ExitCode::SUCCESS);
        assert_eq!(run(&control(false), &common()).unwrap(), ExitCode::FAILURE);
    }

    #[test]
    fn a_panic_is_a_finding_in_its_own_words() {
        let progress = Mutex::new(Progress {
            waiting: VecDeque::new(),
            next_seed: 0,
            tally: Tally::default(),
            findings: Vec::new(),
        });
        let fake = Fake {
            control: false,
            breaks: true,
        };
        run_case(&fake, 9, &progress);
        assert_eq!(
            lock(&progress).findings,
            [(9, "it panicked: seed 9 breaks".to_owned())]
        );
    }
}
