//! The machine and the program, as a record of a campaign names them, and what a case may have of them.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tempfile::TempDir;

/// Where a campaign ran. Empty where it cannot be known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Release of the kernel.
    pub kernel: String,
    /// Model of the processor, and how many of them.
    pub cpu: String,
    /// File system that the scratch files lie on.
    pub file_system: String,
}

impl Machine {
    /// Looks around.
    pub fn look() -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = info
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
            .map_or("unknown", |(_, model)| model.trim());
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Machine {
            kernel: kernel.trim().to_owned(),
            cpu: format!("{cpus} x {model}"),
            file_system: file_system_of(&std::env::temp_dir()),
        }
    }
}

/// The kind of the file system that `directory` is on: that of the longest mount point above it.
fn file_system_of(directory: &Path) -> String {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let directory = directory.canonicalize().unwrap_or_default();
    let above = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        let (point, kind) = (words.next()?, words.next()?);
        directory
            .starts_with(point)
            .then(|| (point.len(), kind.to_owned()))
    });
    above.max().map_or_else(String::new, |(_, kind)| kind)
}

/// The commit that the program was run from, with `+` if files differ from it.
pub fn commit() -> String {
    let git = |arguments: &[&str]| -> Option<String> {
        let directory = ["-C", env!("CARGO_MANIFEST_DIR")];
        let output = Command::new("git")
            .args(directory)
            .args(arguments)
            .output()
            .ok()?;
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        output.status.success().then_some(text)
    };
    let commit = git(&["rev-parse", "--short=12", "HEAD"]).unwrap_or_default();
    match git(&["status", "--porcelain", "--untracked-files=no"]) {
        Some(changes) if changes.is_empty() => commit,
        _ => commit + "+",
    }
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// A directory in memory, where there is one: what lies here need not survive anything.
///
/// # Errors
/// What the file system says.
pub fn scratch() -> Result<TempDir, String> {
    let builder = || tempfile::Builder::new().prefix("bifolio-proof-").to_owned();
    let in_memory = builder().tempdir_in("/dev/shm");
    in_memory
        .or_else(|_| builder().tempdir())
        .map_err(|error| format!("making a directory: {error}"))
}

/// Bounds the address space of this process.
pub fn limit_memory(bytes: u64) -> std::io::Result<()> {
    let limit = rustix::process::Rlimit {
        current: Some(bytes),
        maximum: Some(bytes),
    };
    Ok(rustix::process::setrlimit(
        rustix::process::Resource::As,
        limit,
    )?)
}
