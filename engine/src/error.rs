//! What can go wrong for a user of the engine, and what to do about it.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use bifolio_pager::PageId;

/// The result of an engine operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of the engine. Each variant is here because some caller does something different with it.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused something about the file itself.
    #[error("cannot {operation} {}: {source}", path.display())]
    File {
        /// What was tried.
        operation: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the operating system said.
        source: Arc<io::Error>,
    },
    /// The file is not a database of ours. It was not changed.
    #[error("{} is not a Bifolio database: {why}", path.display())]
    NotADatabase {
        /// The file.
        path: PathBuf,
        /// What gave it away.
        why: String,
    },
    /// The file was written by a later release. Open it with that one. It was not changed.
    #[error("{} has format {found}, written by a later release; this one reads format {supported}", path.display())]
    NewerFormat {
        /// The file.
        path: PathBuf,
        /// The format number in the file.
        found: u32,
        /// The newest format number that this release knows.
        supported: u32,
    },
    /// The file has another page size than the one asked for. Ask for none to take the file's.
    #[error("{} has pages of {found} bytes, not of {asked}", path.display())]
    OtherPageSize {
        /// The file.
        path: PathBuf,
        /// The page size of the file, in bytes.
        found: usize,
        /// The page size of the options, in bytes.
        asked: usize,
    },
    /// The file ends before the pages that it says it has. Restore it from a copy.
    #[error("{} is truncated: {expected} bytes are in use, {found} are there; restore a copy", path.display())]
    Truncated {
        /// The file.
        path: PathBuf,
        /// Bytes that the newest meta relies on.
        expected: u64,
        /// Bytes in the file.
        found: u64,
    },
    /// Neither copy of a meta record can be read: the newest commit may be lost. Restore a copy.
    #[error("{}: the meta slot at byte {offset} is damaged: {why}; restore a copy", path.display())]
    DamagedMeta {
        /// The file.
        path: PathBuf,
        /// Where the slot begins.
        offset: u64,
        /// What is wrong with it.
        why: String,
    },
    /// Somebody has the database open. Try again when they are done.
    #[error("{} is open already, {}; close it there", path.display(), in_which_process(*holder))]
    InUse {
        /// The file.
        path: PathBuf,
        /// The number of the process that has it open, where it can be told. It may be this one.
        holder: Option<u32>,
    },
    /// This process was forked from the one that opened the database. Open it here, when it is closed
    /// there.
    #[error("{} was opened by the process that this one was forked from; it cannot be used here", path.display())]
    Forked {
        /// The file; empty for a database in memory.
        path: PathBuf,
    },
    /// The file lies on another machine, where locks and syncs may not do what they promise. If
    /// nobody else reaches it, open it with
    /// [`Options::allow_network_file_system`](crate::Options::allow_network_file_system).
    #[error("{} lies on a network file system ({kind}), which the options do not allow", path.display())]
    NetworkFileSystem {
        /// The file.
        path: PathBuf,
        /// What kind of file system it is.
        kind: String,
    },
    /// The database was opened for reading only.
    #[error("the database was opened for reading only")]
    ReadOnly,
    /// No table has this name.
    #[error("there is no table {name:?}")]
    NoSuchTable {
        /// The name asked for.
        name: String,
    },
    /// A table name must have from 1 to [`MAX_NAME_LEN`](crate::MAX_NAME_LEN) bytes.
    #[error("a table name has from 1 to {max} bytes, not {len}")]
    BadTableName {
        /// Bytes of the name given.
        len: usize,
        /// The most bytes a name may have.
        max: usize,
    },
    /// A bulk load needs an empty table. Insert one by one, or clear the table first.
    #[error("table {name:?} is not empty; a bulk load needs an empty one")]
    TableNotEmpty {
        /// The table.
        name: String,
    },
    /// A catalogue entry or another record of the engine's own is not what was written.
    #[error("{what} is corrupt: {why}")]
    CorruptRecord {
        /// Which record.
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// A write failed: of a commit, so that its outcome is unknown until the database is reopened,
    /// or before. Nothing more is written until then. What was committed before can be read.
    #[error("the database accepts no further write until it is reopened, because {first}")]
    Poisoned {
        /// The first failure, in words.
        first: Arc<str>,
    },
    /// The database was not closed, and replaying its log takes more memory than opening for reading
    /// only may use. Open it for writing once, or allow more with
    /// [`Options::recovery_memory_bytes`](crate::Options::recovery_memory_bytes).
    #[error("{} was not closed cleanly, and replaying its log takes more than {limit_bytes} bytes of memory; open it for writing once, to recover it", path.display())]
    NeedsRecovery {
        /// The file.
        path: PathBuf,
        /// What the options allow.
        limit_bytes: u64,
    },
    /// An error of the redo log: it is missing, not this database's, damaged, or storage refused.
    #[error(transparent)]
    Log(crate::log::Error),
    /// This thread holds the write transaction, and would have to wait for it to end: to begin
    /// another, for a checkpoint, or for a ticket that only a checkpoint makes durable. Commit it or
    /// drop it first.
    #[error("this thread holds the write transaction, for whose end it would have to wait")]
    WouldDeadlock,
    /// A panic went through an operation of this transaction, which is half done. Roll back.
    #[error("a panic interrupted this transaction; it can only be rolled back")]
    Interrupted,
    /// An option cannot be used.
    #[error("unusable option: {0}")]
    BadOption(String),
    /// An error of the tree: a key or value over the limit, entries out of order.
    #[error(transparent)]
    Tree(bifolio_btree::Error),
    /// An error of the pager: storage refused, a page is corrupt, no frame is free.
    #[error(transparent)]
    Pager(bifolio_pager::Error),
}

fn in_which_process(holder: Option<u32>) -> String {
    match holder {
        Some(pid) if pid == std::process::id() => "in this process".to_owned(),
        Some(pid) => format!("in process {pid}"),
        None => "in another process".to_owned(),
    }
}

impl From<bifolio_pager::Error> for Error {
    fn from(error: bifolio_pager::Error) -> Self {
        match error {
            // Whoever found it out first, it is the same to the caller.
            bifolio_pager::Error::Poisoned { first } => Error::Poisoned { first },
            bifolio_pager::Error::ReadOnly => Error::ReadOnly,
            error => Error::Pager(error),
        }
    }
}

impl From<crate::log::Error> for Error {
    fn from(error: crate::log::Error) -> Self {
        match error {
            crate::log::Error::Poisoned { first } => Error::Poisoned { first },
            error => Error::Log(error),
        }
    }
}

impl From<bifolio_btree::Error> for Error {
    fn from(error: bifolio_btree::Error) -> Self {
        match error {
            bifolio_btree::Error::Pager(error) => error.into(),
            error => Error::Tree(error),
        }
    }
}

impl Error {
    /// The page that is damaged, if the error is about one.
    pub fn corrupt_page(&self) -> Option<PageId> {
        match self {
            Error::Pager(bifolio_pager::Error::Corrupt { page, .. }) => Some(*page),
            _ => None,
        }
    }

    pub(crate) fn file(
        operation: &'static str,
        path: impl Into<PathBuf>,
        source: impl Into<io::Error>,
    ) -> Self {
        Error::File {
            operation,
            path: path.into(),
            source: Arc::new(source.into()),
        }
    }
}
