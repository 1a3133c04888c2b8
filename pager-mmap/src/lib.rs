//! The mmap pager of Bifolio: the file is memory, and the kernel is the buffer manager.
//!
//! [`MmapPager`] keeps the contract of [`bifolio_pager::Pager`] over one shared mapping. A page that
//! is in the page cache costs an address computation and a look at one word of state to read; no
//! copy, no lock, no write to shared memory. What it gives up for that is said where it shows:
//!
//! - **When** a page is written is the kernel's choice. Any page, private ones too, may reach the
//!   file at any time (clause 4), so the protocol above must not care, and copy-on-write does not.
//! - **A page is verified once**, when it is first read after the file was opened. The kernel may
//!   drop it later and read it again, and nobody sees that moment. The stamp is compared on every
//!   read; a page that rots on the device after it was verified is not found out until reopening.
//! - **A read can fail after it was granted**, by `SIGBUS`. The handler in `sigbus` makes zeros of the
//!   page and takes a note; `confirm` on the guard reads the note.
//! - **A new page that reuses a number would be read first.** To store into a page that is not in
//!   memory, the kernel brings in the old content that is about to be overwritten. A system call more
//!   for each such page avoids the read: see `Storage::write_zero_page`. A buffer pool needs neither.
//! - **The memory bound is soft.** The pages in memory are the page cache, which the kernel bounds;
//!   a budget of the pager's own (`budget.rs`) takes back what came in too much.
//!
//! Where to start: `pager.rs` has the operations, `state.rs` the state machine they share, `map.rs`
//! the mapping and all `unsafe` access to it, `storage.rs` what can fail for good, `warm.rs` which
//! hints are worth a system call, `sigbus.rs` the signal, `watched.rs` what
//! it leaves behind, `pwrite.rs` the other style of writing.
//! [`ForkMark`], which serves the engine under every pager, is here because it owns a mapping.

#![deny(
    unsafe_code,
    unsafe_op_in_unsafe_fn,
    clippy::undocumented_unsafe_blocks,
    clippy::multiple_unsafe_ops_per_block
)]

mod budget;
#[expect(unsafe_code, reason = "owns the memory of private pages")]
mod buffers;
mod file;
#[expect(unsafe_code, reason = "owns a page that the kernel clears in children")]
mod fork;
mod guard;
#[expect(unsafe_code, reason = "owns the mapping")]
mod map;
#[cfg(all(test, loom))]
mod models;
mod options;
mod pager;
mod pages;
mod poison;
mod pwrite;
mod recent;
#[expect(unsafe_code, reason = "asks the kernel about a mapping of its own")]
mod residency;
#[expect(unsafe_code, reason = "is a signal handler")]
mod sigbus;
mod state;
mod storage;
mod warm;
mod watched;

pub use fork::ForkMark;
pub use guard::{PageMut, PageRead};
pub use options::{Advice, MmapOptions, SyncStyle, WriteStyle};
pub use pager::MmapPager;
pub use residency::cached_bytes;
