//! The copy-on-write B+tree of Bifolio, on any pager.
//!
//! A tree lives in pages of a [`Pager`](bifolio_pager::Pager) and begins at a [`Root`]. A page that
//! a committed root can reach is never changed, so a [`Tree`] reads what it reads without latches
//! and sees no later change. A [`TreeMut`] writes for one transaction: what it changes it copies to
//! pages of its own, which come from a [`PageSource`].
//!
//! Keys and values are byte strings; keys are ordered as such. A key has at most [`max_key_len`]
//! bytes, a value at most [`MAX_VALUE_LEN`].
//!
//! This crate names no pager, makes no system call, and knows no transaction: what is free, what is
//! durable and who may still read an old page is the engine's business.
//!
//! Start at `node/mod.rs` for the pages, at `tree.rs` for reading them, at `write.rs` for changing
//! them. [`check()`] proves what the format promises; [`dump()`] prints a page.

#![forbid(unsafe_code)]

mod ahead;
mod batch;
mod bulk;
mod check;
mod cursor;
mod dump;
mod error;
mod insert;
mod node;
mod overflow;
mod range;
mod remove;
mod root;
mod salvage;
mod search;
mod source;
#[cfg(any(test, feature = "testkit"))]
pub mod testkit;
#[cfg(test)]
mod tests;
mod tree;
mod walk;
mod warm;
mod write;

pub use bulk::bulk_load;
pub use check::{Finding, KeyRange, Report, check};
pub use cursor::Cursor;
pub use dump::dump;
pub use error::{Error, Result};
pub use node::max_key_len;
pub use overflow::MAX_VALUE_LEN;
pub use range::Range;
pub use root::Root;
pub use salvage::{Salvaged, salvage};
pub use source::PageSource;
pub use tree::{Entry, Tree};
pub use walk::{retire_all, walk};
pub use write::TreeMut;
