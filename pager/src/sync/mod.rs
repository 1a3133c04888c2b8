//! Locks, atomics and threads, for all code of ours that shares memory between threads: one place
//! that decides what they are.
//!
//! Normally they are what `std` and `parking_lot` have. Built with `--cfg loom` they are
//! [loom](https://docs.rs/loom)'s, which runs a small test under every execution that the memory
//! model allows; with `--cfg shuttle` they are [shuttle](https://docs.rs/shuttle)'s, which runs a
//! larger one under many random schedules. So the models run the code that ships, and no copy of it.
//! A model's types work only inside a model: in such a build, only the tests named `models::` run.
//!
//! What takes part in a model uses these types. `Arc` does not come from here: what it orders is not
//! what our protocols rest on.

#[cfg(any(loom, shuttle))]
mod explore;
#[cfg(any(loom, shuttle))]
mod modelled;
mod shaped;

#[cfg(any(loom, shuttle))]
pub use explore::explore;

#[cfg(loom)]
pub use loom::{self, sync::atomic, thread};
#[cfg(loom)]
pub use modelled::OnceLock;
#[cfg(loom)]
pub(crate) use modelled::thread_local;
#[cfg(any(loom, shuttle))]
pub use modelled::{RwLock, RwLockReadGuard, RwLockWriteGuard};
#[cfg(not(any(loom, shuttle)))]
pub use parking_lot::{Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};
#[cfg(any(loom, shuttle))]
pub use shaped::{Condvar, Mutex, MutexGuard};
#[cfg(shuttle)]
pub use shuttle::{self, sync::atomic, thread, thread_local};
#[cfg(not(loom))]
pub use std::sync::OnceLock;
#[cfg(not(any(loom, shuttle)))]
pub use std::{sync::atomic, thread, thread_local};

/// Locks for threads that may still wait when the process forks. `parking_lot` keeps a table of parked
/// threads for the whole process, where a forked child would find threads that it does not have; these
/// rest on `std`'s, each of which knows only its own.
pub mod forkable {
    pub use super::shaped::{Condvar, Mutex, MutexGuard};
}
