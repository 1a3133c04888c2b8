//! One system call for each read and each run of writes. Works everywhere.
//!
//! Reading ahead is left to the kernel's page cache (`POSIX_FADV_WILLNEED`). With `O_DIRECT` there is
//! no such cache, and threads read ahead.

use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::sync::Arc;

use rustix::fs::{Advice, fadvise};

use super::readers::Readers;
use super::{Arrived, Io, Run, read_all, write_all};
use crate::frames::Owned;

pub(super) struct Pread {
    file: Arc<File>,
    /// With `O_DIRECT`.
    readers: Option<Readers>,
}

impl Pread {
    pub(super) fn new(file: Arc<File>, direct: bool) -> Self {
        let readers = direct.then(|| Readers::new(Arc::clone(&file)));
        Pread { file, readers }
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

    fn room(&self) -> usize {
        self.readers.as_ref().map_or(0, Readers::room)
    }

    fn in_flight(&self) -> usize {
        self.readers.as_ref().map_or(0, Readers::in_flight)
    }

    fn start<'p>(&self, reads: Vec<(u64, Owned<'p>)>) -> Vec<Owned<'p>> {
        match &self.readers {
            Some(readers) => readers.start(reads),
            None => reads.into_iter().map(|(_, frame)| frame).collect(),
        }
    }

    fn reap(&self, more: &dyn Fn() -> bool, arrived: &mut dyn FnMut(Arrived, io::Result<usize>)) {
        if let Some(readers) = &self.readers {
            readers.reap(more, arrived);
        }
    }

    fn will_need(&self, offset: u64, len: u64) {
        if self.readers.is_none() {
            // A hint; where it is refused, the read itself will tell what is wrong.
            let _ = fadvise(&self.file, offset, NonZeroU64::new(len), Advice::WillNeed);
        }
    }
}
