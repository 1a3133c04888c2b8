//! Starting a measuring process and hearing its end.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::run::{Done, Report};
use crate::spec::RunConfig;
use crate::sys;

/// What a run may take beyond its warm-up and its window: for opening, for a last batch of cold
/// writes, for a busy machine.
const GRACE: Duration = Duration::from_secs(180);
/// How soon a request to end is noticed.
const POLL: Duration = Duration::from_millis(50);

/// Kills the process, if it still runs, when dropped: no run outlives its comparison.
pub(crate) struct Reaped(pub Child);

impl Drop for Reaped {
    fn drop(&mut self) {
        // Both fail only if it has ended and been waited for.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs `config` in a process of its own, inside of the group in `join`.
///
/// # Errors
/// [`Error::Child`] with what it said, or how it ended; [`Error::Interrupted`].
pub fn run(config: &RunConfig, join: Option<&Path>) -> Result<Done> {
    let mut command = Command::new("/proc/self/exe");
    command.arg("run");
    if let Some(dir) = join {
        command.arg("--join").arg(dir);
    }
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let child = command
        .spawn()
        .map_err(|source| Error::system("start a measuring process", source))?;
    let mut child = Reaped(child);
    send_config(&mut child.0, config)?;
    let budget = Duration::from_millis(config.warmup_ms_max + config.measure_ms) + GRACE;
    let (line, complaint) = listen(&mut child.0, budget)?;
    let status = child
        .0
        .wait()
        .map_err(|source| Error::system("wait for the measuring process", source))?;
    match serde_json::from_str(&line) {
        Ok(Report::Done(done)) if status.success() => Ok(*done),
        Ok(Report::Failed(why)) => Err(Error::Child(format!("failed: {why}"))),
        _ => Err(Error::Child(describe(status, &complaint))),
    }
}

pub(crate) fn send_config(child: &mut Child, config: &RunConfig) -> Result<()> {
    let json = serde_json::to_vec(config)
        .map_err(|source| Error::system("encode the configuration", source))?;
    let mut stdin = child.stdin.take().expect("it was asked for");
    // A process that died already is described by its status, not by this broken pipe.
    let _ = stdin.write_all(&json);
    Ok(())
}

/// The first line of output and all that was complained of, when both have come to their end.
fn listen(child: &mut Child, budget: Duration) -> Result<(String, String)> {
    let stdout = child.stdout.take().expect("it was asked for");
    let mut stderr = child.stderr.take().expect("it was asked for");
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut line = String::new();
        // An unreadable line is an empty one, which is described by the process's status.
        let _ = BufReader::new(stdout).read_line(&mut line);
        let _ = sender.send(line);
    });
    let complaints = thread::spawn(move || {
        let mut text = Vec::new();
        let _ = stderr.read_to_end(&mut text);
        String::from_utf8_lossy(&text).into_owned()
    });
    let deadline = Instant::now() + budget;
    loop {
        match receiver.recv_timeout(POLL) {
            Ok(line) => return Ok((line, complaints.join().unwrap_or_default())),
            Err(RecvTimeoutError::Disconnected) => {
                return Err(Error::Child("could not be listened to".to_owned()));
            }
            Err(RecvTimeoutError::Timeout) if sys::interrupted() => return Err(Error::Interrupted),
            Err(RecvTimeoutError::Timeout) if Instant::now() > deadline => {
                let seconds = budget.as_secs();
                return Err(Error::Child(format!(
                    "did not end within {seconds} s and was killed"
                )));
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

fn describe(status: ExitStatus, complaint: &str) -> String {
    let how = match status.signal() {
        Some(libc::SIGKILL) => "was killed, as happens when memory runs out".to_owned(),
        Some(signal) => format!("died of signal {signal}"),
        None => format!("ended with {status}"),
    };
    let said = complaint.trim();
    if said.is_empty() {
        how
    } else {
        format!("{how}: {said}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_process_is_described_by_its_signal_and_its_complaint() {
        assert!(describe(ExitStatus::from_raw(9), "").contains("memory"));
        assert!(describe(ExitStatus::from_raw(7), "").contains("signal 7"));
        let described = describe(ExitStatus::from_raw(256), "it said\n");
        assert!(described.ends_with(": it said"), "{described}");
    }
}
