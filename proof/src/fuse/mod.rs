//! Layers C and E: a file system of our own under a real kernel.
//!
//! The database lies in a FUSE file system that one process serves and another one uses: through the
//! page cache and shared maps, `O_DIRECT`, io_uring and real syncs. The file system knows what was
//! synced ([`disk`]), can stop the world and fail requests ([`control`]), and is reached through the
//! kernel ([`server`], [`mount`]).
//!
//! In `cuts.rs` the power is cut (layer C), in `failures.rs` requests fail (layer E). What the
//! database is used for says `plan.rs`; what it must hold afterwards, `oracle.rs`.

mod content;
pub mod control;
mod cuts;
pub mod disk;
pub mod failures;
pub mod mount;
pub mod oracle;
pub mod plan;
pub mod process;
mod server;
mod survivor;
pub mod worker;

pub use cuts::{Arguments, run};
pub use survivor::survive;
