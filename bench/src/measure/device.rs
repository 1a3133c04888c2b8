//! The device's own rate: random reads of one page without any engine, cache or tree.
//!
//! Measured between the runs on the file that they read, it is the ceiling that a row is held
//! against, and it shows when somebody else was using the device.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};

/// Bytes of one read.
const READ_LEN: usize = 4096;
/// Readers of the second number.
pub const DEEP_READERS: u32 = 16;

/// What the device gave at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DeviceRate {
    /// Random 4 KiB reads a second with one in flight.
    pub one_in_flight_reads_per_s: f64,
    /// Random 4 KiB reads a second with sixteen in flight.
    pub sixteen_in_flight_reads_per_s: f64,
}

/// Aligned for `O_DIRECT`.
#[repr(C, align(4096))]
struct Aligned([u8; READ_LEN]);

/// Reads at random from `path` for twice `duration`; `None` where the file system has no
/// `O_DIRECT`, or the file is smaller than a page.
pub fn probe(path: &Path, duration: Duration, seed: u64) -> Option<DeviceRate> {
    let one = reads_per_s(path, duration, 1, seed).ok()?;
    let deep = reads_per_s(path, duration, DEEP_READERS, seed ^ 1).ok()?;
    Some(DeviceRate {
        one_in_flight_reads_per_s: one,
        sixteen_in_flight_reads_per_s: deep,
    })
}

fn reads_per_s(path: &Path, duration: Duration, readers: u32, seed: u64) -> io::Result<f64> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECT)
        .open(path)?;
    let pages = file.metadata()?.len() / READ_LEN as u64;
    if pages == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let begin = Instant::now();
    let file = &file;
    let counts: Vec<io::Result<u64>> = thread::scope(|scope| {
        let reader = |n| {
            let seed = seed.wrapping_add(n);
            scope.spawn(move || read_for(file, pages, begin, duration, seed))
        };
        let readers: Vec<_> = (0..u64::from(readers)).map(reader).collect();
        readers
            .into_iter()
            .map(|r| r.join().expect("a reader does not panic"))
            .collect()
    });
    let elapsed = begin.elapsed().as_secs_f64();
    let reads: u64 = counts.into_iter().sum::<io::Result<u64>>()?;
    Ok(reads as f64 / elapsed)
}

fn read_for(
    file: &File,
    pages: u64,
    begin: Instant,
    duration: Duration,
    seed: u64,
) -> io::Result<u64> {
    let mut random = rand::rngs::SmallRng::seed_from_u64(seed);
    let mut page = Box::new(Aligned([0; READ_LEN]));
    let mut reads = 0;
    while begin.elapsed() < duration {
        let at = random.random_range(0..pages) * READ_LEN as u64;
        file.read_exact_at(&mut page.0, at)?;
        reads += 1;
    }
    Ok(reads)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_a_page_has_no_rate() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("small");
        std::fs::write(&path, b"small").unwrap();
        assert_eq!(probe(&path, Duration::from_millis(1), 0), None);
        assert_eq!(
            probe(&dir.path().join("absent"), Duration::from_millis(1), 0),
            None
        );
    }
}
