//! The buffer-pool pager of Bifolio: a fixed budget of frames between the tree and the file.
//!
//! Start at [`BufPool`], then read in this order: `word.rs` (the state of a page, and every arrow
//! between states), `frames.rs` (the memory, and what proves a right to it), `pool.rs` (the contract
//! in terms of the two), `load.rs`, `evict.rs`, `write.rs` (pages coming in, making room, going out),
//! `background.rs` (the thread that writes ahead of need), `disk.rs` and `io/` (the file). `policy/` says which page goes; `trace.rs` and `simulate.rs` are for
//! comparing what policies would have kept.
//!
//! `unsafe` is in `frames.rs`, `io/uring.rs` and `io/readers.rs` only.

#![deny(
    unsafe_code,
    unsafe_op_in_unsafe_fn,
    clippy::undocumented_unsafe_blocks,
    clippy::multiple_unsafe_ops_per_block
)]

mod background;
mod bufpool;
mod disk;
mod evict;
#[allow(unsafe_code)]
mod frames;
mod guard;
mod huge;
#[allow(unsafe_code)]
mod io;
mod load;
#[cfg(all(test, loom))]
mod models;
mod options;
mod parking;
mod policy;
mod pool;
mod simulate;
mod tally;
pub mod trace;
mod word;
mod write;

pub use bufpool::BufPool;
pub use guard::{Mut, Ref};
pub use options::{Direct, IoBackend, LEAST_FRAMES, Policy, PoolOptions};
pub use simulate::{Simulation, Tally};
