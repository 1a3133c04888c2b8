//! Bifolio beside the engines that people use today, on the same work.
//!
//! A *run* is one engine doing one workload in a process of its own, inside of a control group where
//! memory is limited. A *row* is its record. Runs are interleaved: for each workload and repetition
//! every engine has its turn before the next repetition begins, and tables show medians.
//!
//! What is the same for all: keys (8 bytes, scrambled), values (120 bytes, computed from the key and
//! a generation, and checked when read), the order in which they are loaded and asked for, the memory
//! limit, one read transaction for all reads of a thread, and what a commit promises.
//!
//! What cannot be the same is said in the header of each module in `engine/`.
//!
//! Where to start reading: `workload.rs` (what is done), `drive.rs` (how it is done to any engine),
//! `parent.rs` (the order of events), `report.rs` (the tables and the targets).

#![deny(unsafe_code)]

mod child;
mod cli;
mod dataset;
#[allow(unsafe_code, reason = "io_uring is given addresses of buffers")]
mod device;
mod drive;
#[allow(unsafe_code, reason = "heed asks for it; see engine/lmdb.rs")]
mod engine;
mod parent;
mod report;
mod row;
mod targets;
mod workload;

/// Whatever goes wrong ends the run it happened in, and is shown to a person.
type Failure = Box<dyn std::error::Error + Send + Sync>;
type Result<T, E = Failure> = std::result::Result<T, E>;

fn main() -> std::process::ExitCode {
    cli::main()
}
