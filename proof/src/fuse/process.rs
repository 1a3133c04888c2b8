//! The process that uses the database, from outside.

use std::io::{self, Read};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::control::Control;
use super::worker::WorkerArguments;

/// How long a process may need for anything: far more than it needs.
const PATIENCE: Duration = Duration::from_secs(60);

/// A process that uses the database, and what it says.
pub struct Worker {
    child: Child,
    out: ChildStdout,
}

impl Worker {
    /// Starts this program again, as this subcommand.
    ///
    /// # Errors
    /// What the system says.
    pub fn start(subcommand: &str, arguments: &WorkerArguments) -> io::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg(subcommand)
            .arg(&arguments.path)
            .args(arguments.to_command_line())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let out = child.stdout.take().expect("it was piped");
        rustix::io::ioctl_fionbio(&out, true)?;
        Ok(Worker { child, out })
    }

    /// Waits until the world has stopped.
    ///
    /// # Errors
    /// If the process ends before, or it takes too long.
    pub fn wait_for_stop(&mut self, control: &Control) -> Result<(), String> {
        let give_up = Instant::now() + PATIENCE;
        while !control.wait_for_stop(Duration::from_millis(20)) {
            if let Ok(Some(status)) = self.child.try_wait() {
                let said = self.said().unwrap_or_default();
                let last = said.lines().last().unwrap_or("nothing");
                return Err(format!("the process ended ({status}) and said {last:?}"));
            }
            if Instant::now() > give_up {
                return Err("the process hangs".to_owned());
            }
        }
        Ok(())
    }

    /// Everything it has said and that was not read before.
    ///
    /// # Errors
    /// What the pipe says.
    pub fn said(&mut self) -> io::Result<String> {
        let mut said = Vec::new();
        match self.out.read_to_end(&mut said) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
            _ => {}
        }
        Ok(String::from_utf8_lossy(&said).into_owned())
    }

    /// The most commits that it called durable.
    ///
    /// # Errors
    /// Anything else that it said.
    pub fn durable(&mut self) -> Result<u64, String> {
        let mut most = 0;
        for line in self.said().map_err(|error| error.to_string())?.lines() {
            match line.split_once(' ') {
                Some(("durable", number)) => {
                    most = most.max(number.parse().map_err(|_| line.to_owned())?);
                }
                _ => return Err(format!("the process said {line:?}")),
            }
        }
        Ok(most)
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// What the system says.
    pub fn wait(&mut self) -> io::Result<ExitStatus> {
        self.child.wait()
    }

    /// Waits for its end, but not for ever; `None` if it hangs.
    ///
    /// # Errors
    /// What the system says.
    pub fn wait_patiently(&mut self) -> io::Result<Option<ExitStatus>> {
        let give_up = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(Some(status));
            }
            if Instant::now() > give_up {
                return Ok(None);
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Whether it has not ended yet.
    pub fn runs(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Kills it.
    pub fn kill(&mut self) {
        // That it is gone already is found elsewhere.
        let _ = self.child.kill();
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.kill();
        let _ = self.child.wait();
    }
}
