//! The device's own rate: random reads of one page, and synced writes of one sector, without any
//! engine, cache or tree.
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

/// Synced writes a second that the device gave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SyncRate {
    /// Overwrites of 512 bytes, each followed by `fdatasync`.
    pub overwrite_fdatasync_per_s: f64,
    /// Overwrites of 512 bytes through a descriptor with `O_DSYNC`.
    pub overwrite_dsync_per_s: f64,
}

impl SyncRate {
    /// Of two moments that took equally long.
    pub fn mean(self, other: SyncRate) -> SyncRate {
        let mean = |of: fn(SyncRate) -> f64| f64::midpoint(of(self), of(other));
        SyncRate {
            overwrite_fdatasync_per_s: mean(|rate| rate.overwrite_fdatasync_per_s),
            overwrite_dsync_per_s: mean(|rate| rate.overwrite_dsync_per_s),
        }
    }
}

/// Bytes of one synced write.
const SYNC_LEN: usize = 512;
/// The file that is overwritten, again and again from its beginning.
const SYNC_FILE_LEN: usize = 1 << 20;

/// Writes in a file of its own in `dir` for twice `duration`; `None` where that fails.
pub fn probe_syncs(dir: &Path, duration: Duration) -> Option<SyncRate> {
    let path = dir.join("sync-probe");
    let rate = sync_rate(&path, duration);
    // What cannot be removed goes with its directory.
    let _ = std::fs::remove_file(&path);
    rate.ok()
}

fn sync_rate(path: &Path, duration: Duration) -> io::Result<SyncRate> {
    // Written once and not only allocated: the first write of an allocated block changes metadata.
    std::fs::write(path, vec![0; SYNC_FILE_LEN])?;
    let file = OpenOptions::new().write(true).open(path)?;
    file.sync_all()?;
    let with_fdatasync = overwrites_per_s(&file, duration, true)?;
    let dsync = OpenOptions::new()
        .write(true)
        .custom_flags(libc::O_DSYNC)
        .open(path)?;
    Ok(SyncRate {
        overwrite_fdatasync_per_s: with_fdatasync,
        overwrite_dsync_per_s: overwrites_per_s(&dsync, duration, false)?,
    })
}

fn overwrites_per_s(file: &File, duration: Duration, sync: bool) -> io::Result<f64> {
    let sector = [1; SYNC_LEN];
    let begin = Instant::now();
    let mut writes: u64 = 0;
    while begin.elapsed() < duration {
        let at = writes * SYNC_LEN as u64 % SYNC_FILE_LEN as u64;
        file.write_all_at(&sector, at)?;
        if sync {
            file.sync_data()?;
        }
        writes += 1;
    }
    Ok(writes as f64 / begin.elapsed().as_secs_f64())
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
    fn syncs_are_counted_and_the_file_for_them_is_gone_afterwards() {
        let dir = tempfile::tempdir().unwrap();
        let rate = probe_syncs(dir.path(), Duration::from_millis(5)).unwrap();
        assert!(rate.overwrite_fdatasync_per_s > 0.0 && rate.overwrite_dsync_per_s > 0.0);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        let absent = dir.path().join("absent");
        assert_eq!(probe_syncs(&absent, Duration::from_millis(1)), None);
    }

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
