//! Pages, and the trait through which everything above reaches them.
//!
//! Start at [`Pager`]: its contract is what the two real pagers keep and what the tree relies on.
//! [`page`] has the frame that every page of a file shares. [`mod@conformance`] is the contract as
//! tests; [`MemPager`] is the contract as the simplest code that keeps it. [`Mirror`] runs two
//! pagers side by side and compares; [`Faulty`] makes one fail on purpose. [`table`] and [`hazard`]
//! are what the two real pagers have in common; [`sync`] is where locks and atomics come from.

#![forbid(unsafe_code)]

pub mod conformance;
pub mod defect;
mod error;
pub mod faulty;
pub mod hazard;
pub mod mem;
pub mod mirror;
#[cfg(all(test, loom))]
mod models;
pub mod page;
mod pager;
pub mod sync;
pub mod table;
pub mod witness;

pub use error::{Error, Result};
pub use faulty::Faulty;
pub use mem::{Cut, MemPager};
pub use mirror::Mirror;
pub use page::{Geometry, Kind, PageId, PageRef, PageSize, Standing, Version};
pub use pager::{
    Access, Counters, Flushed, META_AREA_LEN, META_LEN, MetaSlot, PageGuard, Pager, first_page,
};
