//! Database files: the pristine one, copies of it, and none of it in the page cache.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::Advice;

use crate::environment::{available_memory_bytes, file_system_of};
use crate::error::{Error, Result};
use crate::record::{KEY_LEN, Records};
use crate::store::Store;
use crate::sys;
use crate::units::MIB;

/// Our directories are called this and the process that made them.
const NAME_PREFIX: &str = "bifolio-bench-data-";

/// A directory for database files; it and they are gone when it is dropped.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
}

impl DataDir {
    /// Makes a directory of this process's own below `parent`, which is made too if need be.
    ///
    /// # Errors
    /// [`Error::NotOnDisk`] on a file system in memory; [`Error::Io`].
    pub fn create(parent: &Path) -> Result<Self> {
        fs::create_dir_all(parent).map_err(|source| Error::io("create", parent, source))?;
        if let Some(file_system) = file_system_of(parent)
            && ["tmpfs", "ramfs", "devtmpfs"].contains(&file_system.as_str())
        {
            return Err(Error::NotOnDisk {
                path: parent.to_path_buf(),
                file_system,
            });
        }
        remove_leftovers(parent);
        let path = parent.join(format!("{NAME_PREFIX}{}", std::process::id()));
        fs::create_dir(&path).map_err(|source| Error::io("create", &path, source))?;
        Ok(DataDir { path })
    }

    /// Checks that `needed_bytes` are free.
    ///
    /// # Errors
    /// [`Error::DiskFull`].
    pub fn check_space(&self, needed_bytes: u64) -> Result<()> {
        let stat = rustix::fs::statvfs(&self.path)
            .map_err(|source| Error::io("ask for free space in", &self.path, source))?;
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        if free < needed_bytes {
            return Err(Error::DiskFull {
                path: self.path.clone(),
                free_mib: free / MIB,
                needed_mib: needed_bytes / MIB,
            });
        }
        Ok(())
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for DataDir {
    fn drop(&mut self) {
        // What cannot be removed is only space; there is nobody left to tell.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Removes directories of comparisons that were killed before they could do it themselves.
fn remove_leftovers(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let owner = name
            .to_str()
            .and_then(|name| name.strip_prefix(NAME_PREFIX))
            .and_then(|pid| pid.parse::<u32>().ok());
        if owner.is_some_and(sys::has_ended) {
            // What cannot be removed is somebody else's, or only space.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// The database that every run starts from.
#[derive(Debug)]
pub struct Pristine {
    path: PathBuf,
    len: u64,
}

/// Bytes that a database of `count` records takes, roughly: each with some bytes of its page's slot
/// and its share of headers and branches.
pub fn estimate_file_bytes(count: u64, value_len: u64) -> u64 {
    count.saturating_mul(KEY_LEN as u64 + value_len + 16) + 2 * MIB
}

impl Pristine {
    /// Builds it in `dir`, synced and out of the page cache.
    ///
    /// # Errors
    /// [`Error::Store`] and [`Error::Io`].
    pub fn build(
        dir: &DataDir,
        page_size: u64,
        records: Records,
        count: u64,
        progress: impl FnMut(u64),
    ) -> Result<Pristine> {
        let path = dir.path().join(format!("pristine-{page_size}.bifolio"));
        // Nothing is measured yet, so this process may take what is free, within reason.
        let file = estimate_file_bytes(count, records.value_len() as u64);
        let free = available_memory_bytes().unwrap_or(0);
        let pool = (file + file / 4).min(free / 2).max(64 * MIB);
        Store::build(&path, page_size, records, count, pool, progress)?;
        expect_closed(&path)?;
        evict(&path)?;
        let len = fs::metadata(&path)
            .map_err(|source| Error::io("inspect", &path, source))?
            .len();
        Ok(Pristine { path, len })
    }

    /// The file. Only for reading.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its length in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// A copy for a run that writes; removed when dropped. Leaves both files in the page cache, the
    /// pristine one for the next copy.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn copy(&self) -> Result<Copy> {
        expect_closed(&self.path)?;
        let copy = Copy {
            path: self.path.with_extension("copy.bifolio"),
        };
        // A log of an earlier run would belong to another database.
        remove_logs(&copy.path);
        copy_file(&self.path, &copy.path)?;
        Ok(copy)
    }
}

impl Drop for Pristine {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
        remove_logs(&self.path);
    }
}

/// A copy of the pristine database.
#[derive(Debug)]
pub struct Copy {
    path: PathBuf,
}

impl Copy {
    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
        remove_logs(&self.path);
    }
}

/// The files of the redo log of the database at `path`. A database that was closed has none, and
/// only then is a copy of its file alone a whole database.
fn logs(path: &Path) -> Vec<PathBuf> {
    let (Some(dir), Some(name)) = (
        path.parent(),
        path.file_name().and_then(|name| name.to_str()),
    ) else {
        return Vec::new();
    };
    let prefix = format!("{name}-log.");
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix))
        .map(|entry| entry.path())
        .collect()
}

fn remove_logs(path: &Path) {
    for log in logs(path) {
        // What cannot be removed goes with its directory.
        let _ = fs::remove_file(log);
    }
}

fn expect_closed(path: &Path) -> Result<()> {
    match logs(path).first() {
        None => Ok(()),
        Some(log) => {
            let why = io::Error::other("its redo log is still there: it was not closed");
            Err(Error::io("copy a database with", log, why))
        }
    }
}

/// Shares the blocks where the file system can, else copies them.
fn copy_file(from: &Path, to: &Path) -> Result<()> {
    let source = File::open(from).map_err(|error| Error::io("open", from, error))?;
    let target = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .open(to)
        .map_err(|error| Error::io("create", to, error))?;
    if rustix::fs::ioctl_ficlone(&target, &source).is_ok() {
        return Ok(());
    }
    // Uses `copy_file_range`, so that the bytes stay in the kernel.
    io::copy(&mut &source, &mut &target).map_err(|error| Error::io("copy to", to, error))?;
    Ok(())
}

/// Syncs the file, drops it from the page cache, and says how many pages remained; 0 is wanted,
/// `None` means that the kernel cannot say.
///
/// # Errors
/// [`Error::Io`].
pub fn evict(path: &Path) -> Result<Option<u64>> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .map_err(|source| Error::io("open", path, source))?;
    // Only clean pages are dropped.
    file.sync_all()
        .map_err(|source| Error::io("sync", path, source))?;
    rustix::fs::fadvise(&file, 0, None, Advice::DontNeed)
        .map_err(|source| Error::io("drop the page cache of", path, source))?;
    Ok(sys::cached_pages(&file))
}

/// As [`evict`], and the files of the redo log beside it.
///
/// # Errors
/// [`Error::Io`].
pub fn evict_with_log(path: &Path) -> Result<Option<u64>> {
    for log in logs(path) {
        evict(&log)?;
    }
    evict(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `None` on a machine whose temporary directory lives in memory.
    fn on_disk(parent: &Path) -> Option<DataDir> {
        match DataDir::create(parent) {
            Ok(dir) => Some(dir),
            Err(Error::NotOnDisk { .. }) => {
                eprintln!(
                    "SKIPPED: {} is in memory; set TMPDIR to a disk",
                    parent.display()
                );
                None
            }
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn a_data_directory_is_gone_after_use() {
        let parent = tempfile::tempdir().unwrap();
        let Some(dir) = on_disk(parent.path()) else {
            return;
        };
        let path = dir.path().to_path_buf();
        fs::write(path.join("file"), b"x").unwrap();
        drop(dir);
        assert!(!path.exists());
    }

    #[test]
    fn what_a_killed_comparison_left_is_removed_and_what_a_running_one_uses_is_not() {
        let parent = tempfile::tempdir().unwrap();
        // Process numbers end below 2^22, so nobody has this one.
        let dead = parent.path().join(format!("{NAME_PREFIX}4194305"));
        let alive = parent.path().join(format!("{NAME_PREFIX}1"));
        let other = parent.path().join("bifolio-bench-data-of-mine");
        [&dead, &alive, &other]
            .iter()
            .for_each(|dir| fs::create_dir(dir).unwrap());
        remove_leftovers(parent.path());
        assert_eq!(
            [&dead, &alive, &other].map(|dir| dir.exists()),
            [false, true, true]
        );
    }

    #[test]
    fn a_disk_that_is_too_small_is_refused_before_anything_is_written() {
        let parent = tempfile::tempdir().unwrap();
        let Some(dir) = on_disk(parent.path()) else {
            return;
        };
        dir.check_space(1).unwrap();
        assert!(matches!(
            dir.check_space(u64::MAX),
            Err(Error::DiskFull { .. })
        ));
    }

    #[test]
    fn a_file_in_memory_is_refused() {
        if file_system_of(Path::new("/dev/shm")).as_deref() == Some("tmpfs") {
            let refused = DataDir::create(Path::new("/dev/shm"));
            assert!(matches!(refused, Err(Error::NotOnDisk { .. })));
        }
    }

    #[test]
    fn a_copy_is_made_of_a_closed_database_only_and_goes_with_its_log() {
        let dir = tempfile::tempdir().unwrap();
        let Some(data) = on_disk(dir.path()) else {
            return;
        };
        let pristine = Pristine::build(&data, 4096, Records::new(1, 120), 100, |_| {}).unwrap();
        let copy = pristine.copy().unwrap();
        let log = data.path().join("pristine-4096.copy.bifolio-log.0");
        fs::write(&log, b"x").unwrap();
        drop(copy);
        assert!(!log.exists());
        fs::write(data.path().join("pristine-4096.bifolio-log.0"), b"x").unwrap();
        assert!(pristine.copy().is_err());
        drop(pristine);
        assert_eq!(fs::read_dir(data.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_copy_has_the_same_bytes_and_an_evicted_file_no_cached_page() {
        let dir = tempfile::tempdir().unwrap();
        if on_disk(dir.path()).is_none() {
            return;
        }
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        let bytes: Vec<u8> = (0..100_000u32).map(|n| n as u8).collect();
        fs::write(&from, &bytes).unwrap();
        copy_file(&from, &to).unwrap();
        assert_eq!(fs::read(&to).unwrap(), bytes);
        if let Some(cached) = evict(&to).unwrap() {
            assert_eq!(cached, 0);
        }
    }
}
