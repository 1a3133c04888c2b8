//! Machines whose power can be cut, for tests of this crate and of others. Not for use in programs.
//!
//! A [`Machine`] is what two disks hold, one of pages and one of the log, and nothing else: it has no
//! power. [`Machine::open`] boots it: the database runs, on a modelled disk or on one of the real
//! pagers over a file in memory. [`Running::watch`] has a test look before every operation that
//! changes either disk, and take from that [`Moment`] what a power cut there and then would leave:
//! another machine. [`Running::fail_pages`] and [`Running::fail_log`] make an operation fail.
//!
//! The disk model is the one in docs/TESTING.md. What the log does not sync is in
//! [`SimDisk`]; pages that are not synced in [`MemPager`](bifolio_pager::MemPager) or, of a real
//! pager, in the shadow of its file (`shadow.rs`).

mod machine;
mod running;
mod shadow;

pub use bifolio_pager::Cut;

pub use crate::log::sim::{Fault, SimDisk, Survival};
pub use machine::{Machine, On, Stored};
pub use running::{Failing, Moment, Operations, Running};
pub use shadow::Content;
