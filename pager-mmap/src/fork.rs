//! Telling a process from its forked children.
//!
//! After `fork` a child has the parent's memory, files and locks, and none of its threads: what it
//! would write goes into the parent's file, and what waits for a thread waits for ever. So whoever
//! owns such things asks first whether this is still the process that made them. A process number
//! would cost a system call each time, and can be the same in another namespace; a page of memory that
//! the kernel clears in every child (`MADV_WIPEONFORK`, see madvise(2)) costs a load, and cannot.
//!
//! Not here: `vfork` and `clone` with shared memory, whose children may do nothing but `exec`.

use std::sync::atomic::{AtomicU8, Ordering};

use memmap2::{MmapMut, MmapRaw};

/// Remembers the process that made it. One page of memory.
#[derive(Debug)]
pub struct ForkMark {
    /// A page whose first byte is 1 in the process that made it, and 0 in its children.
    page: Option<MmapRaw>,
    process: u32,
}

impl ForkMark {
    /// A mark of this process. Where the kernel cannot clear a page in children (before Linux 4.14,
    /// or out of memory) the process number serves instead.
    pub fn new() -> Self {
        ForkMark {
            page: wiped_in_children(),
            process: std::process::id(),
        }
    }

    /// Whether this is the process that made the mark, and not a child of it. Costs a load.
    #[inline]
    pub fn is_ours(&self) -> bool {
        match &self.page {
            Some(page) => {
                // SAFETY: the byte lies in a mapping that `page` owns, readable and writable and at
                // least one byte long; after `new` nobody in this process writes it, and all
                // access is atomic.
                let ours = unsafe { AtomicU8::from_ptr(page.as_mut_ptr()) };
                ours.load(Ordering::Relaxed) == 1
            }
            None => self.process == std::process::id(),
        }
    }
}

impl Default for ForkMark {
    fn default() -> Self {
        Self::new()
    }
}

fn wiped_in_children() -> Option<MmapRaw> {
    let mut page = MmapMut::map_anon(rustix::param::page_size()).ok()?;
    page[0] = 1;
    let page = MmapRaw::from(page);
    // SAFETY: the range is a private anonymous mapping that we own, whole. The advice changes
    // nothing in this process; it makes the page zeros in its children.
    let wiped =
        unsafe { libc::madvise(page.as_mut_ptr().cast(), page.len(), libc::MADV_WIPEONFORK) };
    (wiped == 0).then_some(page)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_that_made_a_mark_knows_it() {
        let mark = ForkMark::new();
        assert!(mark.page.is_some(), "this kernel clears pages in children");
        assert!(mark.is_ours());
    }

    #[test]
    fn a_forked_child_is_told_from_its_parent() {
        let mark = ForkMark::new();
        let by_number = ForkMark {
            page: None,
            process: std::process::id(),
        };
        // SAFETY: between here and `_exit` the child does nothing but load from memory and make
        // system calls.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let code = i32::from(mark.is_ours()) + 2 * i32::from(by_number.is_ours());
            // SAFETY: it ends this process and returns to nobody.
            unsafe { libc::_exit(code) };
        }
        assert!(child > 0);
        let mut status = 0;
        // SAFETY: `child` is ours and was not waited for; `status` is a place for its status.
        let waited = unsafe { libc::waitpid(child, &raw mut status, 0) };
        assert_eq!(waited, child);
        assert_eq!(status, 0, "the child took itself for its parent");
        assert!(mark.is_ours() && by_number.is_ours());
    }
}
