//! What is measured about a run, and when.
//!
//! The *window* is the time that counts: it begins after the warm-up, at a moment when nothing is
//! half done, and ends when the time is over and what was begun is finished. All costs of a row are
//! differences between its two ends.
//!
//! Start at [`meter::Meter`], which a workload drives.

pub mod device;
pub mod kernel;
pub mod latency;
pub mod meter;
