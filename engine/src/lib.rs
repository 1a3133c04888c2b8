//! Bifolio: an embedded, transactional, ordered key-value store.
//!
//! One file, any number of named tables, each an ordered map from bytes to bytes. Transactions are
//! atomic, isolated (a reader sees a snapshot) and durable when `commit` returns. The same file is
//! reached through either of two pagers, chosen when it is opened: a memory map, or a buffer pool
//! of a fixed size.
//!
//! ```
//! # let directory = tempfile::tempdir()?;
//! # let path = directory.path().join("fruit.bifolio");
//! use bifolio::Database;
//!
//! let db = Database::create(path)?;
//!
//! let mut txn = db.write()?;
//! let mut fruit = txn.table("fruit")?;
//! fruit.insert("apple", "red")?;
//! fruit.insert("banana", "yellow")?;
//! txn.commit()?;
//!
//! let snapshot = db.read()?;
//! let fruit = snapshot.table("fruit")?;
//! assert_eq!(fruit.get("apple")?.as_deref(), Some(&b"red"[..]));
//! for entry in fruit.range("b"..) {
//!     let (key, value) = entry?;
//!     println!("{key:?}: {value:?}");
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Limits
//!
//! A key has up to [`max_key_len`] bytes (960 in 4 KiB pages), a value up to [`MAX_VALUE_LEN`]
//! (1 GiB), a table's name up to [`MAX_NAME_LEN`] (255). A longer one is an error and changes
//! nothing. The empty key and the empty value are a key and a value.
//!
//! # Where to start reading
//!
//! `database.rs` says what a version is and who holds it; `write/` has the steps of a commit;
//! `space/` is the allocation map; `meta.rs` and `file.rs` are how a file is found to be ours.

#![forbid(unsafe_code)]

mod catalogue;
mod check;
mod checkpoint;
mod core;
mod database;
mod durability;
mod error;
mod file;
#[cfg(fuzzing)]
pub mod fuzzing;
mod limits;
mod lock;
mod log;
mod memory;
mod meta;
mod network;
mod options;
mod overlay;
mod pace;
mod range;
mod read;
mod recovery;
mod registry;
mod salvage;
mod space;
mod stats;
mod syncer;
#[cfg(any(test, feature = "testkit"))]
pub mod testkit;
#[cfg(test)]
mod tests;
mod write;

pub use bifolio_btree::{Error as TreeError, Finding, KeyRange, MAX_VALUE_LEN, max_key_len};
pub use bifolio_pager::{Counters, Error as PagerError, PageId, PageSize, Version};
pub use catalogue::MAX_NAME_LEN;
pub use check::{CheckFinding, CheckReport};
pub use database::Database;
pub use durability::{Durability, Ticket};
pub use error::{Error, Result};
pub use limits::memory_limit_bytes;
pub use log::{Error as LogError, LogCounters, SyncMethod};
pub use memory::MemoryReport;
pub use options::{
    Advice, Direct, IoBackend, MmapConfig, Options, PagerChoice, Policy, PoolConfig, PoolSize,
    WriteStyle,
};
pub use pace::CheckpointCounters;
pub use range::{Entry, Range};
pub use read::{ReadTxn, Table};
pub use recovery::{RecoveryProgress, RecoveryReport};
pub use salvage::{SalvageReport, SalvagedFrom, salvage};
pub use stats::Stats;
pub use write::{TableMut, WriteBatch, WriteTxn};
