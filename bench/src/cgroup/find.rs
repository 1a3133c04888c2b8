//! Where this process's memory control group is, from two files of `/proc`.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Which cgroup interface has the memory controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    V1,
    V2,
}

/// This process's own group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    /// Which interface it has.
    pub version: Version,
    /// The top of the hierarchy that is visible here.
    pub mount: PathBuf,
    /// Our own group's directory, `mount` or below it.
    pub own: PathBuf,
}

/// Finds the group of the running process.
///
/// # Errors
/// [`Error::NoLimit`] if no hierarchy with a memory controller is mounted.
pub fn locate() -> Result<Located> {
    let read = |path: &str| {
        fs::read_to_string(path).map_err(|source| Error::io("read", PathBuf::from(path), source))
    };
    locate_in(&read("/proc/self/cgroup")?, &read("/proc/self/mountinfo")?)
        .map_err(|why| Error::NoLimit { tried: vec![why] })
}

/// [`locate`] on the text of `/proc/self/cgroup` and `/proc/self/mountinfo`.
fn locate_in(cgroup: &str, mountinfo: &str) -> Result<Located, String> {
    if let Some(own) = own_path(cgroup, |controllers| {
        controllers.split(',').any(|c| c == "memory")
    }) {
        let mount = mounts(mountinfo)
            .find(|mount| {
                mount.kind == "cgroup" && mount.super_options.split(',').any(|o| o == "memory")
            })
            .ok_or("the v1 memory controller is not mounted")?;
        return place(Version::V1, &mount, own);
    }
    let own = own_path(cgroup, str::is_empty).ok_or("this process is in no control group")?;
    let mount = mounts(mountinfo)
        .find(|mount| mount.kind == "cgroup2")
        .ok_or("no cgroup file system is mounted")?;
    place(Version::V2, &mount, own)
}

fn place(version: Version, mount: &Mount<'_>, own: &str) -> Result<Located, String> {
    let below = Path::new(own).strip_prefix(mount.root).map_err(|_| {
        format!(
            "group {own} lies outside of {}, which is mounted here",
            mount.root
        )
    })?;
    let top = PathBuf::from(mount.point);
    let own = if below.as_os_str().is_empty() {
        top.clone()
    } else {
        top.join(below)
    };
    Ok(Located {
        version,
        mount: top,
        own,
    })
}

/// The path in `/proc/self/cgroup` of the first line whose list of controllers passes.
fn own_path(cgroup: &str, is_wanted: impl Fn(&str) -> bool) -> Option<&str> {
    cgroup.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let controllers = fields.next()?;
        let path = fields.next()?;
        is_wanted(controllers).then_some(path)
    })
}

struct Mount<'t> {
    root: &'t str,
    point: &'t str,
    kind: &'t str,
    super_options: &'t str,
}

/// The mounts of a mountinfo file: `id parent dev root point options [tags] - type source options`.
fn mounts(mountinfo: &str) -> impl Iterator<Item = Mount<'_>> {
    mountinfo.lines().filter_map(|line| {
        let (head, tail) = line.split_once(" - ")?;
        let mut head = head.split(' ').skip(3);
        let mut tail = tail.split(' ');
        Some(Mount {
            root: head.next()?,
            point: head.next()?,
            kind: tail.next()?,
            super_options: tail.nth(1)?,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const V1_MOUNTS: &str = "\
23 1 254:0 / / rw,relatime - ext4 /dev/vda rw
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
34 31 0:31 / /sys/fs/cgroup/cpuset rw,relatime - cgroup cgroup rw,cpuset
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";
    const V2_MOUNTS: &str = "\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw,errors=remount-ro
30 24 0:26 / /sys/fs/cgroup rw,nosuid,nodev,noexec shared:9 - cgroup2 cgroup2 rw,nsdelegate
";

    #[test]
    fn v1_is_found_by_its_memory_line() {
        let cgroup = "9:name=systemd:/\n4:memory:/api/14a3\n1:cpu:/\n0::/\n";
        let located = locate_in(cgroup, V1_MOUNTS).unwrap();
        assert_eq!(located.version, Version::V1);
        assert_eq!(located.mount, Path::new("/sys/fs/cgroup/memory"));
        assert_eq!(located.own, Path::new("/sys/fs/cgroup/memory/api/14a3"));
    }

    #[test]
    fn v2_is_found_by_its_empty_list_of_controllers() {
        let cgroup = "0::/user.slice/user-1000.slice/session-3.scope\n";
        let located = locate_in(cgroup, V2_MOUNTS).unwrap();
        assert_eq!(located.version, Version::V2);
        let own = "/sys/fs/cgroup/user.slice/user-1000.slice/session-3.scope";
        assert_eq!(located.own, Path::new(own));
    }

    #[test]
    fn a_hybrid_whose_memory_is_on_v2_is_v2() {
        let cgroup = "2:name=systemd:/x\n1:cpu,cpuacct:/\n0::/x\n";
        let mounts = V1_MOUNTS.replace("cgroup rw,memory", "cgroup rw,hugetlb");
        let located = locate_in(cgroup, &mounts).unwrap();
        assert_eq!(located.version, Version::V2);
        assert_eq!(located.own, Path::new("/sys/fs/cgroup/unified/x"));
    }

    #[test]
    fn a_hybrid_whose_memory_is_on_v1_is_v1_though_it_has_v2_lines() {
        let cgroup = "3:cpu,memory:/both\n0::/init.scope\n";
        let mounts = V1_MOUNTS.replace("cgroup rw,memory", "cgroup rw,cpu,memory");
        let located = locate_in(cgroup, &mounts).unwrap();
        assert_eq!(
            (located.version, located.own.as_path()),
            (Version::V1, Path::new("/sys/fs/cgroup/memory/both"))
        );
    }

    #[test]
    fn a_container_that_sees_its_own_group_as_the_top_is_at_the_top() {
        let cgroup = "4:memory:/docker/abc\n0::/\n";
        let mounts = V1_MOUNTS.replace("0:32 / /sys", "0:32 /docker/abc /sys");
        let located = locate_in(cgroup, &mounts).unwrap();
        assert_eq!(located.own, located.mount);
        let located = locate_in("0::/\n", V2_MOUNTS).unwrap();
        assert_eq!(located.own, Path::new("/sys/fs/cgroup"));
    }

    #[test]
    fn a_group_outside_of_what_is_mounted_is_refused() {
        let mounts = V1_MOUNTS.replace("0:32 / /sys", "0:32 /docker/abc /sys");
        assert!(locate_in("4:memory:/elsewhere\n0::/\n", &mounts).is_err());
        assert!(locate_in("0::/\n", "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n").is_err());
        assert!(locate_in("", V1_MOUNTS).is_err());
        assert!(locate_in("nonsense", "nonsense").is_err());
    }
}
