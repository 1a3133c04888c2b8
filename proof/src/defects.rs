//! Layer K: mistakes are planted in the engine, one at a time, and some layer has to find each.
//!
//! The mistakes are listed in `bifolio_pager::defect`. A process has the one that its environment
//! names, so each layer runs in a process of its own, in a small form; the first that finds something
//! is noted. Of some mistakes no power cut, failure or damage of the model shows anything, because
//! another precaution covers them; those are left to a test of the part itself ([`TESTS`]), which has to
//! pass without the mistake and to fail with it. A mistake that nobody finds is a missing test.

use std::io;
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use bifolio_pager::defect::Defect;
use clap::Args;
use rand::seq::IndexedRandom;

/// What `bifolio-proof defects` can be told.
#[derive(Args, Clone, Debug)]
pub struct Arguments {
    /// Plants only these.
    #[arg(long)]
    only: Vec<String>,
    /// Plants so many, drawn at random; all if not given.
    #[arg(long)]
    sample: Option<usize>,
    /// Goes through all layers even when one has found the mistake.
    #[arg(long)]
    every_layer: bool,
}

/// The environment variable that names the planted mistake.
pub const VARIABLE: &str = "BIFOLIO_DEFECT";
/// A process that is not done by then hangs, which is a finding.
const PATIENCE: Duration = Duration::from_secs(150);

/// The layers in the form that looks for mistakes, the quickest first.
const LAYERS: [(&str, &str); 8] = [
    (
        "A model",
        "simulate --on model --images 12000 --seed 0 --seconds 60",
    ),
    ("J", "storm --kills 60 --seed 1 --seconds 40"),
    ("F", "damage --flips 1000 --seed 1 --seconds 40"),
    (
        "B model",
        "failures --on model --faults 1500 --seed 0 --seconds 40",
    ),
    (
        "A mmap",
        "simulate --on mmap --images 1200 --seed 0 --seconds 40",
    ),
    (
        "A pool",
        "simulate --on pread --images 1200 --seed 0 --seconds 40",
    ),
    (
        "B mmap",
        "failures --on mmap --faults 300 --seed 0 --seconds 40",
    ),
    (
        "B pool",
        "failures --on pread --faults 300 --seed 0 --seconds 40",
    ),
];

/// The mistakes that only a test of the part itself sees: in which package, and which one.
const TESTS: [(Defect, &str, &str); 5] = [
    (
        Defect::MetaOverNewest,
        "bifolio",
        "tests::metas::a_meta_is_never_written_over_the_newest_one",
    ),
    (
        Defect::FloorNotRaised,
        "bifolio",
        "tests::stamps::after_a_crash_no_stamp_is_used_that_is_on_the_disk",
    ),
    (
        Defect::NoPoison,
        "bifolio",
        "tests::logged::any_log_write_that_fails_poisons_and_loses_nothing_that_was_synced",
    ),
    (
        Defect::AcceptShortLog,
        "bifolio",
        "log::tests::damage::with_the_mark_of_a_clean_close_even_the_last_group_is_safe",
    ),
    (
        Defect::StolenIsFinal,
        "bifolio-pager",
        "page::tests::a_stolen_page_does_not_pass_for_a_final_one",
    ),
];

/// Whether this process has a mistake planted. Then nothing is kept of what it finds.
pub fn is_planted() -> bool {
    cfg!(feature = "defects") && std::env::var_os(VARIABLE).is_some()
}

/// Plants the mistakes and prints who found them.
///
/// # Errors
/// If a process cannot be run, or the program was built without the feature.
pub fn run(arguments: &Arguments) -> io::Result<ExitCode> {
    if !cfg!(feature = "defects") {
        let how = "build it with `--features defects`";
        return Err(io::Error::other(how));
    }
    let mut chosen: Vec<Defect> = Defect::ALL.to_vec();
    if !arguments.only.is_empty() {
        chosen.retain(|defect| arguments.only.iter().any(|name| name == defect.name()));
    }
    if let Some(count) = arguments.sample {
        chosen = chosen.sample(&mut rand::rng(), count).copied().collect();
    }
    let mut missed = 0;
    println!("| defect | what it does | found by |\n|---|---|---|");
    for &defect in &chosen {
        let found_by = hunt(defect, arguments.every_layer)?;
        missed += u64::from(found_by.is_empty());
        let names = match found_by.is_empty() {
            true => "**nobody**".to_owned(),
            false => found_by.join(", "),
        };
        let what = defect.what().trim();
        println!("| `{}` | {what} | {names} |", defect.name());
    }
    println!(
        "\ndefects: {} planted, {} found, {missed} missed",
        chosen.len(),
        chosen.len() as u64 - missed
    );
    Ok(match missed {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}

/// The layers that find a mistake: the first, or all that do.
fn hunt(defect: Defect, every_layer: bool) -> io::Result<Vec<String>> {
    let mut found_by = Vec::new();
    if let Some((_, package, test)) = TESTS.iter().find(|(of, ..)| *of == defect) {
        if fails_with(defect, package, test)? {
            found_by.push(format!(
                "the test `{}`",
                test.rsplit("::").next().unwrap_or(test)
            ));
        }
        if !every_layer {
            return Ok(found_by);
        }
    }
    for (name, arguments) in LAYERS {
        let mut child = Command::new(std::env::current_exe()?)
            .args(arguments.split(' '))
            .env(VARIABLE, defect.name())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        if finds(&mut child)? {
            found_by.push(name.to_owned());
            if !every_layer {
                break;
            }
        }
    }
    Ok(found_by)
}

/// Whether a test passes, and fails with the mistake planted. The package is built with the mistakes.
fn fails_with(defect: Defect, package: &str, test: &str) -> io::Result<bool> {
    let mut command = Command::new("cargo");
    command.current_dir(env!("CARGO_MANIFEST_DIR"));
    command.args(["test", "--locked", "--lib", "--features", "defects"]);
    command.args(["--package", package, "--", "--exact", test]);
    let calm = command.env_remove(VARIABLE).output()?;
    let said = String::from_utf8_lossy(&calm.stdout);
    if !calm.status.success() || !said.contains("1 passed") {
        let said = said + String::from_utf8_lossy(&calm.stderr);
        return Err(io::Error::other(format!("{test} does not pass: {said}")));
    }
    Ok(!command
        .env(VARIABLE, defect.name())
        .output()?
        .status
        .success())
}

/// Whether a layer's process found something, died or hangs.
fn finds(child: &mut Child) -> io::Result<bool> {
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        if let Some(status) = child.try_wait()? {
            return Ok(!status.success());
        }
        thread::sleep(Duration::from_millis(20));
    }
    child.kill()?;
    child.wait()?;
    Ok(true)
}
