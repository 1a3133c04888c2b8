//! Whether a file lies on another machine.
//!
//! There a lock may bind only the programs of this machine, a shared mapping does not show what
//! another one writes, and a sync means what the server takes it to mean. SQLite and LMDB warn of
//! this in their documentation and leave it at that; here such a file is refused unless the options
//! say that nobody else reaches it.
//!
//! `statfs(2)` gives the kind of the file system as a number. FUSE is one number for many: most of
//! its file systems are local (NTFS, overlays of container engines, disks of tests), some
//! are not (sshfs, mounted object stores). The mount table has their names. One that is not known
//! to be remote is taken to be local.

use std::fs::{self, File, Metadata};
use std::os::unix::fs::MetadataExt;

use rustix::fs::{fstatfs, major, minor};

/// Kinds of file systems that lie on another machine, or are shared with one: `statfs(2)`, and the
/// kernel's `magic.h`.
const REMOTE: [(u32, &str); 17] = [
    (0x6969, "NFS"),
    (0x517B, "SMB"),
    (0xFE53_4D42, "SMB 2"),
    (0xFF53_4D42, "CIFS"),
    (0x564C, "NCP"),
    (0x0102_1997, "9P"),
    (0x00C3_6400, "Ceph"),
    (0x5346_414F, "AFS"),
    (0x6B41_4653, "AFS"),
    (0x7375_7245, "Coda"),
    (0x7461_636F, "OCFS2"),
    (0x0116_1970, "GFS2"),
    (0x0BD0_0BD0, "Lustre"),
    (0x4750_4653, "GPFS"),
    (0x2003_0528, "OrangeFS"),
    (0xBACB_ACBC, "a VMware share"),
    (0x786F_4256, "a VirtualBox share"),
];

const FUSE: u32 = 0x6573_5546;

/// What the mount table calls remote file systems that are served by FUSE.
const REMOTE_FUSE: [&str; 16] = [
    "virtiofs",
    "fuse.sshfs",
    "fuse.s3fs",
    "fuse.goofys",
    "fuse.mountpoint-s3",
    "fuse.gcsfuse",
    "fuse.blobfuse",
    "fuse.blobfuse2",
    "fuse.rclone",
    "fuse.glusterfs",
    "fuse.ceph",
    "fuse.ceph-fuse",
    "fuse.juicefs",
    "fuse.davfs",
    "fuse.curlftpfs",
    "fuse.gvfsd-fuse",
];

/// The kind of network file system that the file lies on; `None` if it is local, or nobody can tell.
pub(crate) fn kind_of_network(file: &File, inode: &Metadata) -> Option<String> {
    // The number has 32 bits in a field that is wider on some machines, with its sign or without.
    let magic = fstatfs(file).ok()?.f_type as u32;
    let mounts = || fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let dev = inode.dev();
    classify(magic, || mounted_as(&mounts(), major(dev), minor(dev)))
}

fn classify(magic: u32, name: impl FnOnce() -> Option<String>) -> Option<String> {
    if magic == FUSE {
        return name().filter(|name| REMOTE_FUSE.contains(&&**name));
    }
    let known = REMOTE.iter().find(|(number, _)| *number == magic);
    known.map(|(_, name)| (*name).to_owned())
}

/// The kind of the file system with this device number, by proc_pid_mountinfo(5): the third field of
/// its line is the number, and the first one behind ` - ` the kind.
fn mounted_as(mounts: &str, major: u32, minor: u32) -> Option<String> {
    let device = format!("{major}:{minor}");
    let line = mounts
        .lines()
        .find(|line| line.split(' ').nth(2) == Some(&device))?;
    let (_, behind) = line.split_once(" - ")?;
    behind.split(' ').next().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
31 22 0:44 / /mnt/far rw,nosuid shared:12 master:1 - fuse.sshfs host:/ rw,user_id=0
32 22 0:45 / /mnt/near rw,nosuid - fuse.unionfs unionfs rw
33 22 0:46 / /mnt/shared rw - virtiofs share rw
";

    fn fuse_on(minor: u32) -> Option<String> {
        classify(FUSE, || mounted_as(MOUNTS, 0, minor))
    }

    #[test]
    fn file_systems_of_other_machines_are_told_from_local_ones() {
        let unasked = || panic!("the mount table is read for FUSE alone");
        for (magic, name) in [(0x6969, "NFS"), (0xFF53_4D42, "CIFS"), (0x0102_1997, "9P")] {
            assert_eq!(classify(magic, unasked).as_deref(), Some(name));
        }
        let (ext4, xfs, btrfs, tmpfs, overlay, zfs) = (
            0xEF53,
            0x5846_5342,
            0x9123_683E,
            0x0102_1994,
            0x794C_7630,
            0x2FC1_2FC1,
        );
        for local in [ext4, xfs, btrfs, tmpfs, overlay, zfs, 0] {
            assert_eq!(classify(local, unasked), None, "{local:x}");
        }
    }

    #[test]
    fn of_fuse_the_mount_table_says_which_is_remote() {
        assert_eq!(fuse_on(44).as_deref(), Some("fuse.sshfs"));
        assert_eq!(fuse_on(45), None);
        assert_eq!(fuse_on(46).as_deref(), Some("virtiofs"));
        assert_eq!(fuse_on(47), None, "not in the table");
        assert_eq!(mounted_as(MOUNTS, 254, 0).as_deref(), Some("ext4"));
        for damaged in ["", "22", "1 2 0:44 / / rw", "1 2 0:44 - "] {
            let _ = mounted_as(damaged, 0, 44);
        }
    }
}
