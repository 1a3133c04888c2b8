//! What the kernel counts for this process and for the device below a file.
//!
//! Every counter is optional: where a kernel or a container hides one, the row says `null`, not 0.

use std::fs;
use std::os::linux::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::sys::{self, Usage};

/// All counters at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Snapshot {
    usage: Usage,
    process_io: Option<ProcessIo>,
    device: Option<DeviceIo>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct ProcessIo {
    read_bytes: u64,
    write_bytes: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct DeviceIo {
    reads: u64,
    read_bytes: u64,
    writes: u64,
    write_bytes: u64,
}

/// What happened between two moments: the costs of a window.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Costs {
    /// Processor time in user space, all threads.
    pub cpu_user_ns: u64,
    /// Processor time in the kernel on behalf of the process, all threads.
    pub cpu_system_ns: u64,
    /// Page faults that found their page in memory.
    pub minor_faults: u64,
    /// Page faults that waited for storage.
    pub major_faults: u64,
    /// Times the process gave up the processor to wait.
    pub voluntary_switches: u64,
    /// Times the processor was taken from it.
    pub involuntary_switches: u64,
    /// Bytes that storage was asked to read for this process, the kernel's read-ahead included.
    pub process_read_bytes: Option<u64>,
    /// Bytes that this process caused to be written. For a map: counted when a page becomes dirty,
    /// whenever it is written.
    pub process_write_bytes: Option<u64>,
    /// Requests to read that the whole device completed, for everybody.
    pub device_reads: Option<u64>,
    /// Bytes that the whole device read, for everybody.
    pub device_read_bytes: Option<u64>,
    /// Requests to write that the whole device completed, for everybody.
    pub device_writes: Option<u64>,
    /// Bytes that the whole device wrote, for everybody.
    pub device_write_bytes: Option<u64>,
}

impl Snapshot {
    /// Reads all counters; `device` is from [`block_device`]. Costs some tens of microseconds.
    ///
    /// # Errors
    /// [`Error::System`] if the process cannot even be asked for its processor time.
    pub fn take(device: Option<&Path>) -> Result<Snapshot> {
        Ok(Snapshot {
            usage: sys::usage()
                .map_err(|source| Error::system("read this process's usage", source))?,
            process_io: fs::read_to_string("/proc/self/io")
                .ok()
                .and_then(|text| process_io(&text)),
            device: device
                .and_then(|dir| fs::read_to_string(dir.join("stat")).ok())
                .and_then(|text| device_io(&text)),
        })
    }

    /// What happened from `earlier` until this moment.
    pub fn since(&self, earlier: &Snapshot) -> Costs {
        let (from, to) = (&earlier.usage, &self.usage);
        let io = |get: fn(&ProcessIo) -> u64| {
            Some(get(self.process_io.as_ref()?).saturating_sub(get(earlier.process_io.as_ref()?)))
        };
        let device = |get: fn(&DeviceIo) -> u64| {
            Some(get(self.device.as_ref()?).saturating_sub(get(earlier.device.as_ref()?)))
        };
        Costs {
            cpu_user_ns: to.user_ns.saturating_sub(from.user_ns),
            cpu_system_ns: to.system_ns.saturating_sub(from.system_ns),
            minor_faults: to.minor_faults.saturating_sub(from.minor_faults),
            major_faults: to.major_faults.saturating_sub(from.major_faults),
            voluntary_switches: to
                .voluntary_switches
                .saturating_sub(from.voluntary_switches),
            involuntary_switches: to
                .involuntary_switches
                .saturating_sub(from.involuntary_switches),
            process_read_bytes: io(|io| io.read_bytes),
            process_write_bytes: io(|io| io.write_bytes),
            device_reads: device(|device| device.reads),
            device_read_bytes: device(|device| device.read_bytes),
            device_writes: device(|device| device.writes),
            device_write_bytes: device(|device| device.write_bytes),
        }
    }
}

fn process_io(text: &str) -> Option<ProcessIo> {
    let field = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok())
    };
    Some(ProcessIo {
        read_bytes: field("read_bytes:")?,
        write_bytes: field("write_bytes:")?,
    })
}

/// A block device's `stat`: reads, merged, sectors, ms, writes, merged, sectors, ms, ...
fn device_io(text: &str) -> Option<DeviceIo> {
    const SECTOR: u64 = 512;
    let numbers: Vec<u64> = text
        .split_whitespace()
        .map_while(|word| word.parse().ok())
        .collect();
    Some(DeviceIo {
        reads: *numbers.first()?,
        read_bytes: numbers.get(2)?.saturating_mul(SECTOR),
        writes: *numbers.get(4)?,
        write_bytes: numbers.get(6)?.saturating_mul(SECTOR),
    })
}

/// The directory in `/sys` of the block device that `path` is on; `None` where the file system has
/// none of its own, as overlay or tmpfs.
pub fn block_device(path: &Path) -> Option<PathBuf> {
    let (major, minor) = device_number(path)?;
    let link = PathBuf::from(format!("/sys/dev/block/{major}:{minor}"));
    link.canonicalize().ok()
}

/// Major and minor number of the device that `path` is on.
pub fn device_number(path: &Path) -> Option<(u32, u32)> {
    let device = fs::metadata(path).ok()?.st_dev();
    Some((rustix::fs::major(device), rustix::fs::minor(device)))
}

/// The most memory that this process ever had in its page tables, files it mapped included.
pub fn peak_resident_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim()
        .trim_end_matches("kB")
        .trim()
        .parse::<u64>()
        .ok()?
        .checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_s_io_file_is_read_by_its_names() {
        let text = "rchar: 9\nwchar: 8\nsyscr: 7\nsyscw: 6\nread_bytes: 4096\nwrite_bytes: 8192\n\
                    cancelled_write_bytes: 1\n";
        let io = process_io(text).unwrap();
        assert_eq!((io.read_bytes, io.write_bytes), (4096, 8192));
        assert!(process_io("rchar: 9\n").is_none());
    }

    #[test]
    fn a_device_s_stat_counts_sectors_of_512_bytes() {
        let text = "  100  5  800  30  50  2  1600  40  0  60  70  0  0  0  0  3  1\n";
        let io = device_io(text).unwrap();
        assert_eq!(
            io,
            DeviceIo {
                reads: 100,
                read_bytes: 409_600,
                writes: 50,
                write_bytes: 819_200
            }
        );
        assert!(device_io("").is_none());
    }

    #[test]
    fn costs_are_differences_and_unknown_stays_unknown() {
        let mut before = Snapshot::default();
        let mut after = Snapshot::default();
        before.usage.major_faults = 5;
        after.usage.major_faults = 12;
        after.process_io = Some(ProcessIo {
            read_bytes: 1,
            write_bytes: 1,
        });
        let costs = after.since(&before);
        assert_eq!(costs.major_faults, 7);
        assert_eq!(costs.process_read_bytes, None, "known at one end only");
    }

    #[test]
    fn this_process_has_a_peak() {
        assert!(peak_resident_bytes().unwrap() > 100_000);
    }
}
