//! How much memory this process may use, as its control groups say.
//!
//! A limit set on a parent group binds all groups below, so the smallest one on the way up counts.
//! Both hierarchies are understood: version 1 (`memory.limit_in_bytes`) and version 2 (`memory.max`).

use std::fs;
use std::path::{Path, PathBuf};

use crate::memory::{MemoryReport, kib_field};

/// Left free beside an automatically sized pool: code, stacks, the tree's own small buffers.
const RESERVE_MIN: u64 = 16 << 20;
/// What is left free grows with the limit: a sixteenth of it.
const RESERVE_SHARE: u64 = 16;
/// The smallest automatic pool. Below this, a limit is better raised than met.
const AUTO_MIN: u64 = 1 << 20;

/// The smallest memory limit that binds this process, in bytes, or `None` if none does.
///
/// Reads `/proc/self/cgroup`, `/proc/self/mountinfo` and a few files of the control groups.
pub fn memory_limit_bytes() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    group_directories(&groups, &mounts)
        .iter()
        .filter_map(|(directory, file)| fs::read_to_string(directory.join(file)).ok())
        .filter_map(|limit| limit.trim().parse().ok()) // `max` is not a number: no limit
        .filter(|&limit: &u64| limit < physical_bytes().unwrap_or(u64::MAX))
        .min()
}

/// The size of an automatic pool, in bytes: see [`crate::PoolSize::Auto`].
pub(crate) fn automatic_pool_bytes() -> u64 {
    let bytes = match memory_limit_bytes() {
        Some(limit) => {
            let held = MemoryReport::of_process()
                .process_private_bytes
                .unwrap_or(0);
            let reserve = RESERVE_MIN.max(limit / RESERVE_SHARE);
            limit.saturating_sub(held).saturating_sub(reserve)
        }
        None => meminfo("MemAvailable:").map_or(64 << 20, |available| available / 4),
    };
    bytes.max(AUTO_MIN)
}

/// Every directory that may hold a memory limit for us, with the name of the file that does.
fn group_directories(groups: &str, mounts: &str) -> Vec<(PathBuf, &'static str)> {
    let mut found = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(group)) = (parts.next(), parts.next()) else {
            continue;
        };
        let (kind, file) = if controllers.is_empty() {
            ("cgroup2", "memory.max")
        } else if controllers.split(',').any(|name| name == "memory") {
            ("cgroup", "memory.limit_in_bytes")
        } else {
            continue;
        };
        for (root, mount) in mounts_of(mounts, kind) {
            // A container sees its own group as the root of the mount.
            let below = Path::new(group)
                .strip_prefix(&root)
                .unwrap_or(Path::new(""));
            found.extend(
                below
                    .ancestors()
                    .map(|directory| (mount.join(directory), file)),
            );
        }
    }
    found
}

/// `(root, mount point)` of each mount of this kind that carries the memory controller.
fn mounts_of(mounts: &str, kind: &str) -> Vec<(PathBuf, PathBuf)> {
    let parse = |line: &str| {
        let (left, right) = line.split_once(" - ")?;
        let mut left = left.split(' ').skip(3);
        let (root, mount) = (left.next()?, left.next()?);
        let mut right = right.split(' ');
        let fits = right.next()? == kind
            && (kind == "cgroup2" || right.nth(1)?.split(',').any(|option| option == "memory"));
        fits.then(|| (PathBuf::from(root), PathBuf::from(mount)))
    };
    mounts.lines().filter_map(parse).collect()
}

/// The machine's memory, in bytes, if it can be told.
pub(crate) fn physical_bytes() -> Option<u64> {
    meminfo("MemTotal:")
}

fn meminfo(field: &str) -> Option<u64> {
    kib_field(&fs::read_to_string("/proc/meminfo").ok()?, field)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_1_groups_are_looked_up_to_the_root_of_the_mount() {
        let groups = "5:devices:/\n4:memory:/jobs/7\n0::/\n";
        let mounts = "\
            31 30 0:26 / /sys/fs/cgroup/devices rw - cgroup cgroup rw,devices\n\
            32 30 0:27 / /sys/fs/cgroup/memory rw shared:5 - cgroup cgroup rw,memory\n";
        let file = "memory.limit_in_bytes";
        let expected = ["jobs/7", "jobs", ""]
            .map(|below| (Path::new("/sys/fs/cgroup/memory").join(below), file));
        assert_eq!(group_directories(groups, mounts), expected);
    }

    #[test]
    fn version_2_groups_are_looked_up_to_the_root_of_the_mount() {
        let mounts = "29 23 0:25 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
        let found = group_directories("0::/user.slice/app\n", mounts);
        let expected = ["user.slice/app", "user.slice", ""]
            .map(|below| (Path::new("/sys/fs/cgroup").join(below), "memory.max"));
        assert_eq!(found, expected);
    }

    #[test]
    fn a_group_seen_from_inside_a_container_is_the_root_of_its_mount() {
        let mounts = "40 30 0:27 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n";
        let found = group_directories("4:memory:/docker/abc\n", mounts);
        assert_eq!(found[0].0, Path::new("/sys/fs/cgroup/memory/"));
    }

    #[test]
    fn an_automatic_pool_is_never_nothing() {
        assert!(automatic_pool_bytes() >= AUTO_MIN);
    }
}
