//! The redo log: every commit, in order, before it is acknowledged.
//!
//! Start at [`Log`] for writing and at [`History`] for recovery.

mod buffer;
mod cursor;
mod disk;
mod error;
mod files;
mod frame;
mod gather;
mod history;
#[expect(clippy::module_inception, reason = "it is the log's main type")]
mod log;
mod mark;
mod options;
mod position;
mod queue;
mod real_disk;
mod record;
mod record_reader;
mod record_writer;
mod recover;
mod segment;
#[cfg(any(test, fuzzing, feature = "testkit"))]
#[cfg_attr(fuzzing, allow(dead_code, reason = "fuzzing uses half of it"))]
pub(crate) mod sim;
#[cfg(test)]
mod tests;
mod writer;

pub use disk::Disk;
pub use error::Error;
#[cfg(test)]
pub use error::Result;
pub use history::{History, Replay};
pub use log::Log;
pub use mark::LogMark;
pub use options::{LogCounters, Options, SyncMethod};
pub use position::Position;
pub use real_disk::{DirectIo, RealDisk};
pub use record::Record;
pub use record_reader::RecordReader;
pub use record_writer::RecordWriter;
#[cfg(test)]
pub use recover::Recovered;
