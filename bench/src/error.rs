//! What can stop a comparison, and what to do about it.

use std::io;
use std::path::PathBuf;

/// The result of a step of the benchmark.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of the benchmark. Its text says what happened, where, and what would help.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused an operation on a file.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The operating system refused something that has no file.
    #[error("cannot {action}: {source}")]
    System {
        /// What was tried.
        action: &'static str,
        /// What the operating system said.
        source: io::Error,
    },
    /// An option is not one of those there are.
    #[error("{what}: {why}")]
    BadOption {
        /// The option, as the user wrote it.
        what: String,
        /// What it should be.
        why: String,
    },
    /// No control group could be made, so memory cannot be limited.
    #[error(
        "memory cannot be limited here:\n{}\nEither run as root, or under a delegated control \
         group (systemd-run --user --scope -p Delegate=yes COMMAND), or give --no-limit to compare \
         on data larger than the machine's memory",
        tried.iter().map(|line| format!("  - {line}")).collect::<Vec<_>>().join("\n")
    )]
    NoLimit {
        /// Every group that was tried, and why not.
        tried: Vec<String>,
    },
    /// The limit has no room for the buffer pool and the process beside it.
    #[error(
        "a memory limit of {limit_mib} MiB has no room for a pool of {pool_mib} MiB and the \
         {reserve_mib} MiB that the process itself needs: raise --limit, or lower --pool or --reserve"
    )]
    LimitTooSmall {
        /// The limit asked for.
        limit_mib: u64,
        /// The pool asked for, or the smallest that works.
        pool_mib: u64,
        /// What is set aside for the process.
        reserve_mib: u64,
    },
    /// A group above ours allows less than was asked for.
    #[error(
        "a control group above this process allows {allowed_mib} MiB only: give --limit {allowed_mib}MiB \
         or less"
    )]
    LimitAbove {
        /// What the group above allows.
        allowed_mib: u64,
    },
    /// The data directory lives in memory, where a limit on memory says nothing about a disk.
    #[error("{} is on {file_system}, which lives in memory: give --dir on a disk", path.display())]
    NotOnDisk {
        /// The directory.
        path: PathBuf,
        /// Its file system.
        file_system: String,
    },
    /// The data would not fit on the disk.
    #[error(
        "{} has {free_mib} MiB free and the data needs {needed_mib} MiB: give another --dir, or \
         lower --limit or --ratio",
        path.display()
    )]
    DiskFull {
        /// The directory.
        path: PathBuf,
        /// Free there.
        free_mib: u64,
        /// Needed for the database and one copy.
        needed_mib: u64,
    },
    /// The engine refused an operation.
    #[error("the engine could not {action}: {source}")]
    Store {
        /// What was tried.
        action: &'static str,
        /// What the engine said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The engine returned something other than what was written. Keep the file: this is a bug.
    #[error("WRONG DATA: key {key:#018x}: {what}")]
    WrongData {
        /// The key, as the number it encodes.
        key: u64,
        /// What was expected, and what came.
        what: String,
    },
    /// A measuring process did not come to its end.
    #[error("the measuring process {0}")]
    Child(String),
    /// Some runs failed; the rows and the report say which.
    #[error("{failed} of {total} runs failed; the first: {first}")]
    RunsFailed {
        /// Runs that failed.
        failed: usize,
        /// Runs that were made.
        total: usize,
        /// Why the first one failed.
        first: String,
    },
    /// The user interrupted the comparison. What was measured so far is in the rows.
    #[error("interrupted")]
    Interrupted,
}

impl Error {
    /// A refusal of the operating system's about the file at `path`.
    pub fn io(
        action: &'static str,
        path: impl Into<PathBuf>,
        source: impl Into<io::Error>,
    ) -> Self {
        Error::Io {
            action,
            path: path.into(),
            source: source.into(),
        }
    }

    /// A refusal of the operating system's that concerns no file.
    pub fn system(action: &'static str, source: impl Into<io::Error>) -> Self {
        Error::System {
            action,
            source: source.into(),
        }
    }

    /// An option that is not one of those there are.
    pub fn bad_option(what: impl Into<String>, why: impl Into<String>) -> Self {
        Error::BadOption {
            what: what.into(),
            why: why.into(),
        }
    }
}
