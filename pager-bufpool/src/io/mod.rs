//! Reading and writing pages of the file.
//!
//! Two kinds of operation: those that end before they return, given slices; and *flights*, reads
//! that are started and left, given the frame itself. What a flight has filled comes back by
//! [`Io::reap`], in whatever thread calls it.
//!
//! Every result is reported. An interrupted call is repeated; a short transfer is continued, and one
//! that makes no progress is an error.

mod flight;
#[cfg(all(test, loom))]
mod models;
mod pread;
mod readers;
mod uring;

use std::fs::File;
use std::io::{self, IoSlice};
use std::sync::Arc;

use bifolio_pager::{Error, Result};

use crate::frames::Owned;
use crate::options::IoBackend;
use crate::word::FrameId;

/// Neighbouring pages that are written by one call.
pub(crate) struct Run<'a> {
    /// Byte of the file at which the first begins.
    pub(crate) offset: u64,
    /// The pages' images.
    pub(crate) parts: Vec<IoSlice<'a>>,
}

impl Run<'_> {
    fn len(&self) -> usize {
        self.parts.iter().map(|part| part.len()).sum()
    }
}

/// A frame whose flight has ended: nobody but the holder has its memory.
pub(crate) struct Arrived(FrameId);

impl Arrived {
    pub(crate) fn into_frame(self) -> FrameId {
        self.0
    }
}

/// A way to read and write the file.
pub(crate) trait Io: Send + Sync {
    /// The backend's name, for a person.
    fn name(&self) -> &'static str;

    /// Fills `into` from `offset` on; `UnexpectedEof` where the file ends before.
    fn read(&self, offset: u64, into: &mut [u8]) -> io::Result<()>;

    /// Writes the runs, in any order; one result for each.
    fn write(&self, runs: &mut [Run<'_>]) -> Vec<io::Result<()>>;

    /// Flights that can be started now. 0 for a backend that has none.
    fn room(&self) -> usize {
        0
    }

    /// Flights that have not been reaped.
    fn in_flight(&self) -> usize {
        0
    }

    /// Starts reading into frames; at most as many as there is room for now, and no two threads at
    /// once get to use the same room: what does not fit is given back.
    fn start<'p>(&self, reads: Vec<(u64, Owned<'p>)>) -> Vec<Owned<'p>> {
        reads.into_iter().map(|(_, frame)| frame).collect()
    }

    /// Hands all flights that have ended to `arrived`, with the number of bytes read. While
    /// `more` says so, waits for further ones. Never waits where nothing is in flight.
    fn reap(&self, more: &dyn Fn() -> bool, arrived: &mut dyn FnMut(Arrived, io::Result<usize>)) {
        let _ = (more, arrived);
    }

    /// Hint: these bytes will be read soon.
    fn will_need(&self, offset: u64, len: u64) {
        let _ = (offset, len);
    }
}

/// The backend that is asked for, and whether it was `Auto` that settled for less.
///
/// # Errors
/// [`Error::Unavailable`] where io_uring was asked for by name and is not to be had.
pub(crate) fn open(backend: IoBackend, file: &Arc<File>, direct: bool) -> Result<Box<dyn Io>> {
    let pread = || Box::new(pread::Pread::new(Arc::clone(file), direct));
    if backend == IoBackend::Pread {
        return Ok(pread());
    }
    match uring::Uring::new(Arc::clone(file)) {
        Ok(uring) => Ok(Box::new(uring)),
        Err(_) if backend == IoBackend::Auto => Ok(pread()),
        Err(error) => Err(Error::Unavailable {
            what: "io_uring",
            why: format!(
                "{error}; the kernel may be older than 5.6, or forbid it (kernel.io_uring_disabled, \
                 a container's seccomp profile). `pread` works everywhere"
            ),
        }),
    }
}

/// Bytes of memory that a backend may hold at once.
pub(crate) fn overhead_bytes(backend: IoBackend) -> usize {
    match backend {
        IoBackend::Pread => readers::OVERHEAD_BYTES,
        IoBackend::IoUring => uring::OVERHEAD_BYTES,
        IoBackend::Auto => uring::OVERHEAD_BYTES.max(readers::OVERHEAD_BYTES),
    }
}

/// Writes what is left of a run by `pwritev`.
fn write_all(file: &File, mut offset: u64, parts: &mut [IoSlice<'_>]) -> io::Result<()> {
    let mut left = parts;
    while !left.is_empty() {
        let written = rustix::io::retry_on_intr(|| rustix::io::pwritev(file, left, offset))?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        offset += written as u64;
        IoSlice::advance_slices(&mut left, written);
    }
    Ok(())
}

/// Reads the rest of what `into` has room for, by `pread`.
fn read_all(file: &File, mut offset: u64, mut into: &mut [u8]) -> io::Result<()> {
    while !into.is_empty() {
        let read = rustix::io::retry_on_intr(|| rustix::io::pread(file, &mut *into, offset))?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        offset += read as u64;
        into = &mut into[read..];
    }
    Ok(())
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::frames::Frames;
    use bifolio_pager::PageSize;
    use std::collections::HashMap;

    const PAGE: usize = 4096;

    /// All backends over one file of numbered pages.
    fn backends(pages: u8) -> Vec<Box<dyn Io>> {
        let file = tempfile::tempfile().unwrap();
        let content: Vec<u8> = (0..pages).flat_map(|page| [page; PAGE]).collect();
        std::os::unix::fs::FileExt::write_all_at(&file, &content, 0).unwrap();
        let file = Arc::new(file);
        // The readers do not mind that the file is not in direct mode.
        let pread = [false, true].map(|direct| open(IoBackend::Pread, &file, direct).unwrap());
        let mut backends = Vec::from(pread);
        match open(IoBackend::IoUring, &file, false) {
            Ok(uring) => backends.push(uring),
            Err(error) => println!("SKIPPED: {error}"),
        }
        backends
    }

    #[test]
    fn what_is_written_in_runs_is_read_back() {
        for io in backends(0) {
            let images: Vec<_> = (0..200u8).map(|page| vec![page; PAGE]).collect();
            let mut runs: Vec<_> = images
                .chunks(3)
                .enumerate()
                .map(|(index, pages)| Run {
                    offset: (index * 4 * PAGE) as u64,
                    parts: pages.iter().map(|page| IoSlice::new(page)).collect(),
                })
                .collect();
            assert!(io.write(&mut runs).into_iter().all(|result| result.is_ok()));
            for (index, pages) in images.chunks(3).enumerate() {
                for (place, page) in pages.iter().enumerate() {
                    let mut found = vec![0xee; PAGE];
                    io.read(((index * 4 + place) * PAGE) as u64, &mut found)
                        .unwrap();
                    assert!(found == *page, "{}: run {index} page {place}", io.name());
                }
            }
        }
    }

    #[test]
    fn a_read_past_the_end_of_the_file_is_an_error() {
        for io in backends(2) {
            let mut page = vec![0; 2 * PAGE];
            for offset in [PAGE, 2 * PAGE, 100 * PAGE] {
                let error = io.read(offset as u64, &mut page).unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{}", io.name());
            }
        }
    }

    #[test]
    fn a_write_that_fails_is_an_error_of_its_own_run() {
        let file = Arc::new(File::open("/proc/self/exe").unwrap()); // open for reading only
        for backend in [IoBackend::Pread, IoBackend::IoUring] {
            let Ok(io) = open(backend, &file, false) else {
                println!("SKIPPED: io_uring");
                continue;
            };
            let page = [0; PAGE];
            let run = |offset| Run {
                offset,
                parts: vec![IoSlice::new(&page)],
            };
            let results = io.write(&mut [run(0), run(8192)]);
            assert!(results.len() == 2 && results.iter().all(|result| result.is_err()));
        }
    }

    #[test]
    fn every_flight_arrives_once_with_what_storage_holds() {
        for io in backends(200) {
            let frames = Frames::new(300, PageSize::DEFAULT).unwrap();
            let mut started = HashMap::new();
            for page in 0..210u64 {
                while io.room() == 0 && io.in_flight() > 0 {
                    io.reap(&|| io.room() == 0, &mut |arrived, result| {
                        check(&frames, &mut started, arrived, result)
                    });
                }
                if io.room() == 0 {
                    break; // a backend without flights
                }
                let owned = frames.pop().unwrap();
                started.insert(owned.frame(), page);
                assert!(io.start(vec![(page * PAGE as u64, owned)]).is_empty());
            }
            io.reap(&|| io.in_flight() > 0, &mut |arrived, result| {
                check(&frames, &mut started, arrived, result)
            });
            assert!(
                started.is_empty(),
                "{}: {} are still out",
                io.name(),
                started.len()
            );
        }
    }

    fn check(
        frames: &Frames,
        started: &mut HashMap<FrameId, u64>,
        arrived: Arrived,
        result: io::Result<usize>,
    ) {
        let owned = frames.land(arrived);
        let page = started.remove(&owned.frame()).unwrap();
        if page < 200 {
            assert_eq!(result.unwrap(), PAGE);
            assert!(
                owned.image().iter().all(|&byte| byte == page as u8),
                "page {page}"
            );
        } else {
            assert_eq!(result.unwrap(), 0, "the file ends at page 200");
        }
    }

    #[test]
    fn threads_share_a_backend() {
        for io in backends(64) {
            std::thread::scope(|scope| {
                for thread in 0..12u64 {
                    let io = &io;
                    scope.spawn(move || {
                        let mut found = vec![0; PAGE];
                        for step in 0..100 {
                            let page = (thread * 31 + step * 7) % 64;
                            io.read(page * PAGE as u64, &mut found).unwrap();
                            assert!(found.iter().all(|&byte| byte == page as u8));
                        }
                    });
                }
            });
        }
    }
}
