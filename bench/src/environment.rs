//! The machine and the program, as far as they bear on the numbers.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use crate::measure::kernel::{block_device, device_number};

/// The machine and the program. Null or empty where it cannot be known.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Environment {
    /// When the comparison began, UTC.
    pub started_utc: String,
    /// Version of this crate.
    pub version: String,
    /// Commit that the working directory is at, with `+` if files differ from it.
    pub commit: Option<String>,
    /// Whether the program was compiled with optimisation; if not, rates mean nothing.
    pub optimised: bool,
    /// Release of the kernel.
    pub kernel: Option<String>,
    /// Model of the processor.
    pub cpu: Option<String>,
    /// Processors that this process may use.
    pub cpus: u32,
    /// Memory of the machine.
    pub ram_bytes: Option<u64>,
    /// Swap of the machine.
    pub swap_bytes: Option<u64>,
    /// File system that the data is on.
    pub file_system: Option<String>,
    /// Its mount options.
    pub mount_options: Option<String>,
    /// Name of the block device below it.
    pub block_device: Option<String>,
    /// How far the kernel reads ahead on that device, in KiB.
    pub read_ahead_kib: Option<u64>,
    /// The device's I/O scheduler.
    pub scheduler: Option<String>,
    /// Whether transparent huge pages are `always`, `madvise` or `never`.
    pub transparent_huge_pages: Option<String>,
}

impl Environment {
    /// Looks around, for data in `dir`.
    pub fn look(dir: &Path, started_utc: String) -> Environment {
        let mount = mount_of(dir);
        let queue = block_device(dir).and_then(|device| queue_dir(&device));
        let in_queue = |file: &str| read_line(queue.as_ref()?.join(file));
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        Environment {
            started_utc,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            commit: commit(),
            optimised: !cfg!(debug_assertions),
            kernel: read_line("/proc/sys/kernel/osrelease"),
            cpu: cpu_model(),
            cpus: std::thread::available_parallelism().map_or(1, |n| n.get() as u32),
            ram_bytes: kib_field(&meminfo, "MemTotal:"),
            swap_bytes: kib_field(&meminfo, "SwapTotal:"),
            file_system: mount.as_ref().map(|mount| mount.kind.clone()),
            mount_options: mount.map(|mount| mount.options),
            block_device: block_device(dir)
                .and_then(|device| Some(device.file_name()?.to_string_lossy().into_owned())),
            read_ahead_kib: read_ahead_kib(dir),
            scheduler: in_queue("scheduler").map(|line| chosen(&line)),
            transparent_huge_pages: read_line("/sys/kernel/mm/transparent_hugepage/enabled")
                .map(|line| chosen(&line)),
        }
    }
}

/// Memory that can be had without swapping, in bytes.
pub fn available_memory_bytes() -> Option<u64> {
    kib_field(&fs::read_to_string("/proc/meminfo").ok()?, "MemAvailable:")
}

/// The kind of file system that `dir` is on.
pub fn file_system_of(dir: &Path) -> Option<String> {
    mount_of(dir).map(|mount| mount.kind)
}

struct Mount {
    kind: String,
    options: String,
}

fn mount_of(dir: &Path) -> Option<Mount> {
    let dir = dir.canonicalize().ok()?;
    longest_mount(&fs::read_to_string("/proc/self/mountinfo").ok()?, &dir)
}

/// The mount with the longest point above `dir`; the last one if several lie on each other.
fn longest_mount(mountinfo: &str, dir: &Path) -> Option<Mount> {
    let above = mountinfo.lines().filter_map(|line| {
        let (head, tail) = line.split_once(" - ")?;
        let mut head = head.split(' ').skip(4);
        let point = head.next()?;
        let options = head.next()?.to_owned();
        let mut tail = tail.split(' ');
        let kind = tail.next()?.to_owned();
        let super_options = tail.nth(1).unwrap_or_default();
        let options = format!("{options},{super_options}");
        dir.starts_with(point)
            .then_some((point.len(), Mount { kind, options }))
    });
    above.max_by_key(|(len, _)| *len).map(|(_, mount)| mount)
}

fn read_ahead_kib(dir: &Path) -> Option<u64> {
    let (major, minor) = device_number(dir)?;
    let of_file_system = format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb");
    read_line(of_file_system)?.parse().ok()
}

/// The queue of a block device, which a partition shares with its disk.
fn queue_dir(device: &Path) -> Option<std::path::PathBuf> {
    [device.join("queue"), device.parent()?.join("queue")]
        .into_iter()
        .find(|dir| dir.is_dir())
}

/// The word in brackets of a kernel file that lists choices: `always [madvise] never`.
fn chosen(line: &str) -> String {
    let inner = line
        .split_once('[')
        .and_then(|(_, rest)| rest.split_once(']'));
    inner.map_or(line, |(word, _)| word).to_owned()
}

fn cpu_model() -> Option<String> {
    let info = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = info.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn commit() -> Option<String> {
    let git = |arguments: &[&str]| -> Option<String> {
        let output = Command::new("git")
            .args(arguments)
            .stderr(Stdio::null())
            .output()
            .ok()?;
        output
            .status
            .success()
            .then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let commit = git(&["rev-parse", "--short=12", "HEAD"])?;
    let changed = git(&["status", "--porcelain", "--untracked-files=no"])?;
    Some(if changed.is_empty() {
        commit
    } else {
        commit + "+"
    })
}

fn read_line(path: impl AsRef<Path>) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.trim();
    (!line.is_empty()).then(|| line.to_owned())
}

fn kib_field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
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
    fn the_nearest_mount_above_a_directory_is_its_mount() {
        let mountinfo = "\
23 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,errors=continue
24 23 0:22 / /data rw,nosuid - xfs /dev/vdb rw,attr2
25 23 0:23 / /database rw - tmpfs tmpfs rw
";
        let mount = longest_mount(mountinfo, Path::new("/data/bench")).unwrap();
        assert_eq!(
            (mount.kind.as_str(), mount.options.as_str()),
            ("xfs", "rw,nosuid,rw,attr2")
        );
        let mount = longest_mount(mountinfo, Path::new("/home")).unwrap();
        assert_eq!(mount.kind, "ext4");
    }

    #[test]
    fn the_chosen_word_stands_in_brackets() {
        assert_eq!(chosen("always [madvise] never"), "madvise");
        assert_eq!(chosen("none"), "none");
    }

    #[test]
    fn this_machine_is_described() {
        let environment = Environment::look(Path::new("."), "now".to_owned());
        assert!(environment.kernel.is_some());
        assert!(environment.ram_bytes.unwrap() > 1 << 20);
        assert!(environment.cpus > 0);
    }
}
