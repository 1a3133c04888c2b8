//! Database directories: filled once, copied for runs that change them, dropped from the page cache.

use std::fs;
use std::path::{Path, PathBuf};

use bifolio_bench::evict;

use crate::Result;
use crate::workload::{Family, Order};

/// Where the databases of one comparison are.
#[derive(Clone, Debug)]
pub struct Databases {
    root: PathBuf,
}

impl Databases {
    /// In `root`, which is made if need be.
    pub fn new(root: &Path) -> Result<Self> {
        fs::create_dir_all(root)?;
        Ok(Databases {
            root: root.canonicalize()?,
        })
    }

    /// The directory of a database that was filled in this order.
    pub fn filled(&self, family: Family, order: Order, records: u64) -> PathBuf {
        self.root
            .join(format!("{}-{}-{records}", family.name(), order.name()))
    }

    /// An empty directory to fill.
    pub fn empty(&self) -> Result<PathBuf> {
        let dir = self.root.join("new");
        remove(&dir)?;
        fs::create_dir(&dir)?;
        Ok(dir)
    }

    /// Puts what was filled in its place.
    pub fn keep(&self, new: &Path, filled: &Path) -> Result<()> {
        remove(filled)?;
        Ok(fs::rename(new, filled)?)
    }

    /// A copy of `filled`, for a run that changes it.
    pub fn copy(&self, filled: &Path) -> Result<PathBuf> {
        let dir = self.root.join("copy");
        remove(&dir)?;
        copy_all(filled, &dir)?;
        Ok(dir)
    }
}

/// Removes a directory with all that is in it, if it is there.
pub fn remove(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

fn copy_all(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_all(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

/// Makes every file below `dir` durable and drops it from the page cache.
pub fn chill(dir: &Path) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            chill(&entry.path())?;
        } else {
            evict(&entry.path())?;
        }
    }
    Ok(())
}

/// Bytes of all files below `dir`.
pub fn bytes_below(dir: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        bytes += match entry.file_type()?.is_dir() {
            true => bytes_below(&entry.path())?,
            false => entry.metadata()?.len(),
        };
    }
    Ok(bytes)
}

/// The largest file below `dir`.
pub fn largest_file(dir: &Path) -> Result<PathBuf> {
    let mut largest = None;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            largest = largest.max(Some((entry.metadata()?.len(), entry.path())));
        }
    }
    let (_, path) = largest.ok_or_else(|| format!("there is no file in {}", dir.display()))?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_has_what_the_original_has_and_a_new_one_replaces_the_old() {
        let parent = tempfile::tempdir().unwrap();
        let databases = Databases::new(&parent.path().join("data")).unwrap();
        let filled = databases.filled(Family::Fjall, Order::Sorted, 9);
        for content in ["old", "new"] {
            let dir = databases.empty().unwrap();
            fs::create_dir(dir.join("below")).unwrap();
            fs::write(dir.join("below/file"), content).unwrap();
            databases.keep(&dir, &filled).unwrap();
            chill(&filled).unwrap();
            let copy = databases.copy(&filled).unwrap();
            assert_eq!(
                fs::read_to_string(copy.join("below/file")).unwrap(),
                content
            );
        }
    }
}
