//! The device's own rate: reads with a number in flight, by io_uring and past the page cache, with
//! no engine above it. What `fio` would say of the same file.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use io_uring::{IoUring, opcode, types};
use rand::{RngExt, SeedableRng, rngs::SmallRng};

/// Blocks of 4 KiB, aligned as reading past the page cache asks for.
#[repr(C, align(4096))]
#[derive(Clone, Copy)]
struct Block([u8; 4096]);

/// Reads of `len` bytes a second from `path`, `depth` in flight: at random places, or one after the
/// other where `len` is more than a block. Returns the reads done and the seconds they took.
///
/// # Errors
/// What the system says; `UnexpectedEof` for a file that is shorter than one read.
pub fn read(
    path: &Path,
    depth: u32,
    len: usize,
    duration: Duration,
    seed: u64,
) -> io::Result<(u64, f64)> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECT)
        .open(path)?;
    let places = file.metadata()?.len() / len as u64;
    if places == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let mut random = SmallRng::seed_from_u64(seed);
    let mut next = 0;
    let mut place = || {
        next = match len {
            4096 => random.random_range(0..places),
            _ => (next + 1) % places,
        };
        next * len as u64
    };
    let blocks = len / size_of::<Block>();
    let mut buffers = vec![Block([0; 4096]); blocks * depth as usize];
    let mut ring = IoUring::new(depth)?;
    let begin = Instant::now();
    let (mut in_flight, mut done) = (0, 0);
    let mut idle: Vec<u32> = (0..depth).collect();
    loop {
        let over = begin.elapsed() >= duration;
        while let Some(slot) = idle.pop_if(|_| !over) {
            let buffer = buffers[slot as usize * blocks..].as_mut_ptr().cast();
            let read = opcode::Read::new(types::Fd(file.as_raw_fd()), buffer, len as u32)
                .offset(place())
                .build()
                .user_data(u64::from(slot));
            // SAFETY: the buffer has `len` bytes, is read into by this one request until it is
            // completed, and `buffers` and `file` live until no request is in flight: the loop
            // below is left only then, on success and on failure.
            unsafe { ring.submission().push(&read) }.expect("there is an entry for each slot");
            in_flight += 1;
        }
        if in_flight == 0 {
            return Ok((done, begin.elapsed().as_secs_f64()));
        }
        while let Err(error) = ring.submit_and_wait(1) {
            // Nothing but a signal may end the wait while the kernel writes into our buffers.
            assert_eq!(
                error.kind(),
                io::ErrorKind::Interrupted,
                "waiting for reads: {error}"
            );
        }
        for completion in ring.completion() {
            assert!(
                completion.result() > 0,
                "a read failed: {}",
                completion.result()
            );
            idle.push(completion.user_data() as u32);
            in_flight -= 1;
            done += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_at_every_depth_and_size() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, vec![1; 3 << 20]).unwrap();
        for (depth, len) in [(1, 4096), (8, 4096), (4, 1 << 20)] {
            match read(&path, depth, len, Duration::from_millis(20), 1) {
                Ok((reads, seconds)) => assert!(reads > 0 && seconds >= 0.02),
                Err(error) => {
                    println!("SKIPPED a_file_is_read_at_every_depth_and_size: {error}");
                    return;
                }
            }
        }
        std::fs::write(&path, b"short").unwrap();
        assert!(read(&path, 1, 4096, Duration::from_millis(1), 1).is_err());
    }
}
