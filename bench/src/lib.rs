//! Runs one B+tree on a memory map and on a buffer pool, with data larger than memory, side by side.
//!
//! A *run* is one pager doing one workload in a process of its own, inside of a control group that
//! limits its memory, page cache included. A *comparison* is every pager with every workload, some
//! times over, in interleaved order, on the same file with the same choices. A *row* is the record
//! of one run, of which the table and the report are made.
//!
//! What makes it fair:
//! 1. Everything but the pager is shared: tree, file, transactions, keys, choices.
//! 2. One limit covers everything that a run holds. A map may use all of it as page cache; a pool
//!    gets it less what the process itself needs, and bypasses the page cache.
//! 3. A run begins with nothing of the file in the page cache, and is warmed up before it counts.
//! 4. Every value that is read is checked, and what was written is read back through the other pager.
//! 5. A row says what really ran, and counts what explains the rate: faults, bytes, processor time.
//!
//! Where to start reading: `compare.rs` (the order of events), then `run.rs` (one run), `workload/`
//! (what is done), `measure/` (what is counted), `cgroup/` (the limit), `report/` (what is shown).

#![deny(unsafe_code)]

pub mod cgroup;
mod child;
mod cli;
mod compare;
mod dataset;
mod environment;
mod error;
pub mod measure;
pub mod record;
pub mod recovery;
mod report;
pub mod row;
mod run;
mod settings;
mod simulate;
mod spec;
mod stats;
mod store;
#[allow(unsafe_code, reason = "system calls that no safe crate offers")]
mod sys;
mod units;
mod workload;

pub use cli::main;
pub use dataset::evict;
pub use error::{Error, Result};
