//! The mapped file as the pager and the keeper of its budget share it.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::map::Map;
use crate::pages::Pages;
use crate::storage::Storage;

/// The states of the pages, the mapping they lie in, and the file below.
pub(crate) struct MappedFile {
    /// Before `map`, whose bytes the states speak of.
    pub pages: Pages,
    pub map: Map,
    pub storage: Storage,
    pub tally: Tally,
}

/// Counts of pages, and of calls.
#[derive(Default)]
pub(crate) struct Tally {
    pub prefetched: AtomicU64,
    /// Of those, the ones that the kernel was asked for.
    pub hinted: AtomicU64,
    pub verified: AtomicU64,
    pub created: AtomicU64,
    pub overwritten_unread: AtomicU64,
    /// These three with `WriteStyle::Pwrite` only.
    pub written: AtomicU64,
    pub write_calls: AtomicU64,
    pub stolen: AtomicU64,
    /// With a budget only.
    pub evicted: AtomicU64,
}

pub(crate) fn count(counter: &AtomicU64, more: u64) {
    counter.fetch_add(more, Ordering::Relaxed);
}
