//! A crash file system in its place in the tree of directories.

use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use fuser::{BackgroundSession, Config, INodeNo, MountOption, Session};
use rustix::mount::{UnmountFlags, unmount};

use super::control::Control;
use super::disk::Ino;
use super::server::Server;

/// How long an unmount waits for the last user to go. io_uring keeps a file for a moment after its
/// process has died.
const PATIENCE: Duration = Duration::from_secs(5);

/// A mounted file system; unmounted when it is dropped.
pub struct Mounted {
    directory: PathBuf,
    control: Control,
    session: Option<BackgroundSession>,
}

impl Mounted {
    /// Mounts a file system with these switches over `directory`, which exists.
    ///
    /// # Errors
    /// What the kernel says: that there is no `/dev/fuse`, or no permission.
    pub fn new(directory: &Path, control: Control) -> io::Result<Self> {
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("bifolio-crash".to_owned())];
        let session = Session::new(Server::new(control.clone()), directory, &config)?.spawn()?;
        Ok(Mounted {
            directory: directory.to_owned(),
            control,
            session: Some(session),
        })
    }

    /// Has the kernel write back what it holds of these bytes of a file, and forget it: as it may
    /// at any moment. Waits until it is done, so not while the world is stopped.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn evict(&self, ino: Ino, offset: u64, len: u64) -> io::Result<()> {
        let session = self.session.as_ref().expect("it is mounted");
        let notifier = session.notifier();
        notifier.inval_inode(INodeNo(ino), offset as i64, len as i64)
    }

    /// Unmounts it, which needs that nobody uses it any more.
    ///
    /// # Errors
    /// What the kernel says: `EBUSY` if somebody does.
    pub fn unmount(mut self) -> io::Result<()> {
        self.end()
    }

    fn end(&mut self) -> io::Result<()> {
        let Some(session) = self.session.take() else {
            return Ok(());
        };
        // What the kernel still holds may come and is swallowed.
        self.control.freeze();
        let give_up = Instant::now() + PATIENCE;
        loop {
            match unmount(&self.directory, UnmountFlags::empty()) {
                Ok(()) => return join(session),
                Err(rustix::io::Errno::BUSY) if Instant::now() < give_up => {
                    thread::sleep(Duration::from_millis(1));
                }
                Err(errno) => {
                    // It goes when its last user does; its thread ends then.
                    let _ = unmount(&self.directory, UnmountFlags::DETACH);
                    return Err(errno.into());
                }
            }
        }
    }
}

/// Waits for the thread that serves an unmounted file system.
fn join(session: BackgroundSession) -> io::Result<()> {
    match session.join() {
        // How the device ends, if it was being read at that moment.
        Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => Ok(()),
        outcome => outcome,
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

/// Why no file system can be mounted here; `None` if one can.
pub fn unavailable() -> Option<String> {
    let attempt = tempfile::tempdir().and_then(|directory| {
        Mounted::new(directory.path(), Control::new(Default::default()))?.unmount()
    });
    attempt
        .err()
        .map(|error| format!("no FUSE file system can be mounted: {error}"))
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::fs::{self, File};
    use std::os::unix::fs::FileExt;

    use rand::SeedableRng;
    use rand::rngs::StdRng;
    use rustix::fs::{CWD, RenameFlags, renameat_with};

    use super::super::control::{Failure, Fault, Kind};
    use super::super::disk::{Disk, SECTOR, Survival};
    use super::*;

    /// A mounted file system; `None`, and a word about it, where there can be none.
    fn mounted(name: &str) -> Option<(tempfile::TempDir, Control, Mounted)> {
        if let Some(why) = unavailable() {
            println!("SKIPPED {name}: {why}");
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let control = Control::new(Disk::default());
        let mounted = Mounted::new(directory.path(), control.clone()).unwrap();
        Some((directory, control, mounted))
    }

    /// What the file of this name holds after a cut that spares nothing it need not spare.
    fn left(control: &Control, name: &str) -> Option<Vec<u8>> {
        let disk = control.disk();
        let left = disk.power_cut(Survival::Nothing, SECTOR, &mut StdRng::seed_from_u64(1));
        let content = left.content(left.find(OsStr::new(name))?)?;
        Some(content.read(0, 1 << 20))
    }

    #[test]
    fn the_kernel_makes_durable_what_is_synced_and_nothing_else() {
        let Some((directory, control, mounted)) = mounted("the_kernel_makes_durable") else {
            return;
        };
        let file = File::create(directory.path().join("a")).unwrap();
        file.write_all_at(&[1; 5000], 0).unwrap();
        file.sync_all().unwrap();
        assert_eq!(left(&control, "a"), None, "its name is not synced");
        File::open(directory.path()).unwrap().sync_all().unwrap();
        assert_eq!(left(&control, "a").unwrap(), [1; 5000]);
        file.write_all_at(&[2; 5000], 0).unwrap();
        assert_eq!(left(&control, "a").unwrap(), [1; 5000]);
        let ino = control.disk().find(OsStr::new("a")).unwrap();
        mounted.evict(ino, 0, 1 << 20).unwrap();
        assert_eq!(
            left(&control, "a").unwrap(),
            [1; 5000],
            "written is not synced"
        );
        assert_eq!(fs::read(directory.path().join("a")).unwrap(), [2; 5000]);
        file.sync_data().unwrap();
        assert_eq!(left(&control, "a").unwrap(), [2; 5000]);
        drop(file);
        mounted.unmount().unwrap();
    }

    #[test]
    fn names_change_as_in_any_other_file_system() {
        let Some((directory, control, mounted)) = mounted("names_change") else {
            return;
        };
        let path = |name: &str| directory.path().join(name);
        fs::write(path("a"), "1").unwrap();
        fs::write(path("b"), "2").unwrap();
        let kept = renameat_with(CWD, path("a"), CWD, path("b"), RenameFlags::NOREPLACE);
        assert_eq!(kept, Err(rustix::io::Errno::EXIST));
        fs::rename(path("a"), path("b")).unwrap();
        fs::hard_link(path("b"), path("c")).unwrap();
        fs::remove_file(path("b")).unwrap();
        let entries = fs::read_dir(directory.path()).unwrap();
        let names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["c"]);
        assert_eq!(fs::read(path("c")).unwrap(), b"1");
        control.freeze();
        assert!(
            fs::remove_file(path("c")).is_err(),
            "nobody changes a frozen world"
        );
        mounted.unmount().unwrap();
    }

    #[test]
    fn what_a_frozen_world_is_told_it_forgets() {
        let Some((directory, control, mounted)) = mounted("what_a_frozen_world") else {
            return;
        };
        let file = File::create(directory.path().join("a")).unwrap();
        file.write_all_at(&[1; 512], 0).unwrap();
        file.sync_all().unwrap();
        File::open(directory.path()).unwrap().sync_all().unwrap();
        control.freeze();
        file.write_all_at(&[2; 512], 0).unwrap();
        file.sync_all().unwrap();
        assert_eq!(left(&control, "a").unwrap(), [1; 512]);
        drop(file);
        mounted.unmount().unwrap();
    }

    #[test]
    fn the_second_sync_after_a_failed_one_succeeds_and_saves_nothing() {
        let Some((directory, control, mounted)) = mounted("the_second_sync") else {
            return;
        };
        let file = File::create(directory.path().join("a")).unwrap();
        File::open(directory.path()).unwrap().sync_all().unwrap();
        for (kind, first) in [(Kind::Write, 0), (Kind::Sync, 1)] {
            file.write_all_at(&[1; 512], 0).unwrap();
            let failure = Failure::Error(libc_eio());
            let lasts = false;
            control.fail(Fault {
                kind,
                first,
                lasts,
                failure,
            });
            assert!(file.sync_all().is_err(), "{kind:?}");
            file.sync_all().unwrap();
            assert!(left(&control, "a").unwrap().iter().all(|&byte| byte == 0));
        }
        assert_eq!(
            control.failed(),
            [("a".into(), 2)].into(),
            "one of each kind"
        );
        drop(file);
        mounted.unmount().unwrap();
    }

    fn libc_eio() -> i32 {
        rustix::io::Errno::IO.raw_os_error()
    }
}
