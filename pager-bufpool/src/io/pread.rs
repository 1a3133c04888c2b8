//! One system call for each read and each run of writes. Works everywhere.
//!
//! Reading ahead is left to the kernel's page cache (`POSIX_FADV_WILLNEED`). With `O_DIRECT` there is
//! no such cache, and reading ahead does nothing.

use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::sync::Arc;

use rustix::fs::{Advice, fadvise};

use super::{Io, Run, read_all, write_all};

pub(super) struct Pread {
    file: Arc<File>,
    direct: bool,
}

impl Pread {
    pub(super) fn new(file: Arc<File>, direct: bool) -> Self {
        Pread { file, direct }
    }
}

impl Io for Pread {
    fn name(&self) -> &'static str {
        "pread"
    }

    fn read(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        read_all(&self.file, offset, into)
    }

    fn write(&self, runs: &mut [Run<'_>]) -> Vec<io::Result<()>> {
        runs.iter_mut()
            .map(|run| write_all(&self.file, run.offset, &mut run.parts))
            .collect()
    }

    fn will_need(&self, offset: u64, len: u64) {
        if !self.direct {
            // A hint; where it is refused, the read itself will tell what is wrong.
            let _ = fadvise(&self.file, offset, NonZeroU64::new(len), Advice::WillNeed);
        }
    }
}
