//! The files that this process has open as databases.
//!
//! The lock on the file would refuse a second opener in this process too, but only after waiting for
//! a process that may be about to end, and without saying that the holder is this very program. A
//! file is known by its device and inode, so links of both kinds are the same file.
//!
//! A forked child begins with an empty registry: what its parent has open is not open here, and the
//! lock says whether it still is there.

use std::collections::HashMap;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::sync::LazyLock;
use std::time::Duration;

use bifolio_pager_mmap::ForkMark;
use parking_lot::{Mutex, MutexGuard};

use crate::lock::Share;

/// In a child that was forked while a thread of its parent held the registry, nobody gives it back.
const PATIENCE: Duration = Duration::from_millis(250);

static REGISTRY: LazyLock<Mutex<Registry>> = LazyLock::new(|| Mutex::new(Registry::new()));

struct Registry {
    process: ForkMark,
    open: HashMap<Inode, Holders>,
}

/// Which file: device and inode.
type Inode = (u64, u64);

#[derive(Clone, Copy)]
enum Holders {
    One,
    Readers(usize),
}

/// A file's place in the registry, until it is dropped.
#[derive(Debug)]
pub(crate) struct Claim {
    inode: Inode,
}

impl Registry {
    fn new() -> Self {
        Registry {
            process: ForkMark::new(),
            open: HashMap::new(),
        }
    }
}

fn registry() -> Option<MutexGuard<'static, Registry>> {
    let mut registry = REGISTRY.try_lock_for(PATIENCE)?;
    if !registry.process.is_ours() {
        *registry = Registry::new();
    }
    Some(registry)
}

impl Claim {
    /// Enters the file, or says that it is open already in a way that excludes `share`.
    pub fn on(file: &Metadata, share: Share) -> Option<Self> {
        let inode = (file.dev(), file.ino());
        let mut registry = registry()?;
        let holders = match (registry.open.get(&inode), share) {
            (None, Share::Alone) => Holders::One,
            (None, Share::Readers) => Holders::Readers(1),
            (Some(Holders::Readers(count)), Share::Readers) => Holders::Readers(count + 1),
            (Some(_), _) => return None,
        };
        registry.open.insert(inode, holders);
        Some(Claim { inode })
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let Some(mut registry) = registry() else {
            return;
        };
        // In a child that was forked meanwhile there is no such entry.
        match registry.open.get_mut(&self.inode) {
            Some(Holders::Readers(count)) if *count > 1 => *count -= 1,
            _ => _ = registry.open.remove(&self.inode),
        }
    }
}
