//! A file system on a loop device on a file of our own file system, put up and taken down.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::Kind;
use crate::fuse::control::Control;
use crate::fuse::disk::Disk;
use crate::fuse::mount::{self, Mounted};
use crate::machine::scratch;

/// The file that is the disk.
const DISK: &str = "disk";
/// How long a process that was killed may keep the file system from being unmounted.
const PATIENCE: Duration = Duration::from_secs(10);

/// A mounted file system on a loop device. Taken down when it is dropped, as far as that goes.
pub struct Rig {
    kind: Kind,
    control: Control,
    /// Where the file system is mounted.
    inner: TempDir,
    device: Option<String>,
    mounted: bool,
    outer: Option<Mounted>,
    /// Where ours is.
    _outer: TempDir,
}

impl Rig {
    /// Puts it up, on the disk that `control` has.
    ///
    /// # Errors
    /// What the tools and the kernel say.
    pub fn new(kind: Kind, control: &Control) -> io::Result<Self> {
        let outer = directory()?;
        let mut rig = Rig {
            kind,
            control: control.clone(),
            inner: directory()?,
            device: None,
            mounted: false,
            outer: Some(Mounted::new(outer.path(), control.clone())?),
            _outer: outer,
        };
        let file = rig._outer.path().join(DISK);
        let direct = ["--direct-io=on", "--sector-size", "4096"];
        let device = tool("losetup", &["--find", "--show"], &direct, Some(&file))?;
        let device = rig.device.insert(device.trim().to_owned());
        let options = ["-t", kind.name(), device];
        tool("mount", &options, &[], Some(rig.inner.path()))?;
        rig.mounted = true;
        Ok(rig)
    }

    /// Where the file system is mounted.
    pub fn directory(&self) -> &Path {
        self.inner.path()
    }

    /// Takes it down, waiting until nobody uses it any more.
    ///
    /// # Errors
    /// What the tools and the kernel say.
    pub fn dismantle(mut self) -> io::Result<()> {
        self.take_down()
    }

    fn take_down(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.mounted) {
            let give_up = Instant::now() + PATIENCE;
            while let Err(error) = tool("umount", &[], &[], Some(self.inner.path())) {
                if Instant::now() > give_up {
                    return Err(error);
                }
                thread::sleep(Duration::from_millis(2));
            }
        }
        if let Some(device) = self.device.take() {
            if self.kind == Kind::Btrfs {
                // The kernel remembers how new the file system on it was, and the next one is older.
                let _ = tool("btrfs", &["device", "scan", "--forget", &device], &[], None);
            }
            tool("losetup", &["--detach", &device], &[], None)?;
        }
        match self.outer.take() {
            Some(outer) => outer.unmount(),
            None => Ok(()),
        }
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        // Nothing may wait for a world that stands still.
        self.control.go_on();
        let _ = self.take_down();
    }
}

/// A disk with an empty file system, and a number of its own by which the kernel tells it from others.
pub fn formatted(kind: Kind) -> io::Result<Disk> {
    let directory = directory()?;
    let file = directory.path().join(DISK);
    let (bytes, program, options): (u64, _, &[&str]) = match kind {
        Kind::Ext4 => {
            let options = &[
                "-q",
                "-F",
                "-b",
                "4096",
                "-E",
                "nodiscard,lazy_itable_init=0",
            ];
            (64 << 20, "mkfs.ext4", options)
        }
        Kind::Xfs => (320 << 20, "mkfs.xfs", &["-q", "-K", "-s", "size=4096"]),
        Kind::Btrfs => (128 << 20, "mkfs.btrfs", &["-q", "-K", "-s", "4096"]),
    };
    std::fs::File::create_new(&file)?.set_len(bytes)?;
    tool(program, options, &[], Some(&file))?;
    Disk::load(directory.path())
}

/// Why there can be no such file system here; `None` if there can.
pub fn unavailable(kind: Kind) -> Option<String> {
    if let Some(why) = mount::unavailable() {
        return Some(why);
    }
    let attempt = || Rig::new(kind, &Control::new(formatted(kind)?))?.dismantle();
    attempt().err().map(|error| error.to_string())
}

fn directory() -> io::Result<TempDir> {
    scratch().map_err(io::Error::other)
}

/// Runs a tool; what it printed.
fn tool(name: &str, first: &[&str], then: &[&str], last: Option<&Path>) -> io::Result<String> {
    let last = last.map(Path::as_os_str);
    let words = first.iter().chain(then).map(OsStr::new).chain(last);
    let output = Command::new(name).args(words).output();
    let output = output.map_err(|error| io::Error::other(format!("{name}: {error}")))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("{name}: {}", said.trim())))
}
