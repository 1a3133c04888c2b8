//! A memory limit around one process, by a control group of its own.
//!
//! A *group* is a directory of the kernel's cgroup file system; the *base* is the group below which
//! we make ours. Version 1 and version 2 of the interface differ in file names and in one rule: a v2
//! group that hands a controller to its children may hold no processes itself.
//!
//! A group is removed when its [`Group`] is dropped. One whose process was killed with SIGKILL stays
//! behind, empty, and is removed by the next comparison that starts ([`remove_leftovers`]).
//!
//! Start at `find.rs` (where groups are), then [`Group::create`].

mod find;
mod group;

pub use find::{Located, locate};
pub use group::{Group, GroupPath, MemoryNow, ancestor_limit_bytes, remove_leftovers};
