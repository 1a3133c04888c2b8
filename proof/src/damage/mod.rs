//! Layer F: files that are damaged in any way, opened and read on the real pagers.
//!
//! A case is a process of its own, which damages a database file, or its log, some hundred times, and
//! opens and reads it after each: what is read is right, or an error, and never more memory than a
//! bound. The process that started it sees what the other cannot: a signal, a panic, a hang.

mod sample;
mod worker;

use std::io::{self, BufRead, BufReader};
use std::process::{Command, ExitCode, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use clap::{Args, ValueEnum};

pub use self::worker::{WorkerArguments, work};
use crate::campaign::{self, Common, Layer};
use crate::pagers::Pager;
use crate::tally::Tally;

/// Damages in one case.
const FLIPS: u64 = 250;
/// How long one damaged file may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// What `bifolio-proof damage` can be told.
#[derive(Args, Clone, Debug)]
pub struct Arguments {
    #[command(flatten)]
    common: Common,
    /// The pager that reads.
    #[arg(long, value_enum, default_value_t = Pager::Any)]
    pager: Pager,
    /// Breaks something on purpose.
    #[arg(long, value_enum)]
    control: Option<Control>,
}

/// What can be broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Control {
    /// The checksums of damaged pages are made good.
    Forge,
}

/// Runs the layer.
///
/// # Errors
/// As [`campaign::run`].
pub fn run(arguments: &Arguments) -> io::Result<ExitCode> {
    campaign::run(arguments, &arguments.common)
}

impl Layer for Arguments {
    fn name(&self) -> &'static str {
        "damage"
    }

    fn unit(&self) -> &'static str {
        "flips"
    }

    fn default_count(&self) -> u64 {
        5000
    }

    fn arguments(&self) -> Vec<String> {
        vec!["--pager".to_owned(), self.pager.name().to_owned()]
    }

    fn is_control(&self) -> bool {
        self.control.is_some()
    }

    /// Runs the process and listens: a line for each damage, and one for what came of it.
    fn case(&self, seed: u64, tally: &mut Tally) -> Result<(), String> {
        let words = |error: io::Error| error.to_string();
        let mut command = Command::new(std::env::current_exe().map_err(words)?);
        command.args(["damage-worker", "--pager", self.pager.name()]);
        command.args(["--seed", &seed.to_string(), "--count", &FLIPS.to_string()]);
        if self.control == Some(Control::Forge) {
            command.arg("--forge");
        }
        let command = command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.stderr(Stdio::null()).spawn().map_err(words)?;
        let out = child.stdout.take().expect("it was piped");
        let (send, lines) = mpsc::channel();
        let listener = thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                if send.send(line).is_err() {
                    return;
                }
            }
        });
        let mut last = "before the first".to_owned();
        let finding = loop {
            match lines.recv_timeout(PATIENCE) {
                Ok(line) => match line.split_once(' ') {
                    Some(("begin", what)) => last = what.to_owned(),
                    Some(("end", outcome)) => {
                        tally.add("flips", 1);
                        tally.add(outcome, 1);
                    }
                    Some(("wrong", what)) => break Some(what.to_owned()),
                    _ => break Some(format!("it said {line:?}")),
                },
                Err(mpsc::RecvTimeoutError::Disconnected) => break None,
                Err(mpsc::RecvTimeoutError::Timeout) => break Some("it hangs".to_owned()),
            }
        };
        let _ = child.kill();
        let status = child.wait().map_err(words)?;
        let _ = listener.join();
        match finding {
            Some(what) => Err(format!("{last}: {what}")),
            None if status.success() => Ok(()),
            None => Err(format!("{last}: the process ended by {status}")),
        }
    }
}
