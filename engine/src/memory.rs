//! Where the memory of a database is, in three words.
//!
//! *Pinned* memory is the process's own: only the process can give it back. *Cached* memory is the
//! kernel's page cache: the kernel gives it back when it is needed, after writing what is dirty.
//! What is neither is *cold*: it has to be read. A buffer pool is pinned memory, and a memory map is
//! cached memory; that difference, and no other, is why tools show them so differently.

use std::fmt;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use bifolio_pager::Counters;
use bifolio_pager_mmap::cached_bytes;

use crate::error::{Error, Result};

/// Where the memory of a database is, in bytes; see [`Database::memory_report`](crate::Database::memory_report).
///
/// `None` stands for what does not apply to the pager, or what this system does not tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemoryReport {
    /// Bytes of the database file.
    pub file_bytes: u64,
    /// Pinned: what the pager holds as its own, frames, page tables and buffers.
    pub pinned_bytes: u64,
    /// Of the pinned memory, pages of the file.
    pub frames_bytes: Option<u64>,
    /// Pages in memory, pinned or mapped, that are newer than the file on storage.
    pub dirty_bytes: Option<u64>,
    /// Cached: what of the file is in the page cache.
    pub cached_bytes: u64,
    /// Of the cached memory, what this process has mapped; it counts as the process's resident memory.
    pub mapped_bytes: u64,
    /// Cold: what of the file is in no memory. At least so much, where a page is pinned and cached too.
    pub cold_bytes: u64,
    /// Bytes of the redo log's files, preallocated ones included.
    pub log_bytes: u64,
    /// Of these, bytes in the page cache.
    pub log_cached_bytes: u64,
    /// Private memory of the whole process (`RssAnon`): `pinned_bytes`, and everything else that the
    /// program allocated.
    pub process_private_bytes: Option<u64>,
    /// Memory of files that the whole process has mapped (`RssFile` and `RssShmem`).
    pub process_mapped_bytes: Option<u64>,
}

impl MemoryReport {
    /// What is to be had about the database in `file`, whose log lies in `logs`.
    ///
    /// `file` is lent and not opened here: to close another descriptor of it would take the holder's
    /// name away (lock.rs).
    pub(crate) fn of(
        (file, path): (&File, &Path),
        logs: &[PathBuf],
        page_bytes: u64,
        counters: &Counters,
    ) -> Result<Self> {
        let failed = |error| Error::file("look at the memory of", path, error);
        let meta = file.metadata().map_err(failed)?;
        let mapping = Mapping::of(meta.dev(), meta.ino());
        let pages = |count: Option<u64>| count.map(|count| count * page_bytes);
        let frames_bytes = pages(counters.frames_used);
        let cached = cached_bytes(file).map_err(failed)?;
        let mut report = MemoryReport {
            file_bytes: meta.len(),
            pinned_bytes: counters.memory_bytes.unwrap_or(0),
            frames_bytes,
            dirty_bytes: pages(counters.frames_dirty).or(mapping.map(|mapping| mapping.dirty)),
            cached_bytes: cached,
            mapped_bytes: mapping.map_or(0, |mapping| mapping.resident),
            cold_bytes: meta
                .len()
                .saturating_sub(cached + frames_bytes.unwrap_or(0)),
            ..MemoryReport::of_process()
        };
        for log in logs {
            // One may be removed meanwhile; then it is in no memory either.
            let Ok(file) = File::open(log) else { continue };
            report.log_bytes += file.metadata().map_err(failed)?.len();
            report.log_cached_bytes += cached_bytes(&file).map_err(failed)?;
        }
        Ok(report)
    }

    /// The part that is about the whole process.
    pub(crate) fn of_process() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let file = kib_field(&status, "RssFile:");
        let shared = kib_field(&status, "RssShmem:");
        MemoryReport {
            process_private_bytes: kib_field(&status, "RssAnon:"),
            process_mapped_bytes: file.map(|file| file + shared.unwrap_or(0)),
            ..MemoryReport::default()
        }
    }
}

impl fmt::Display for MemoryReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = |bytes: Option<u64>| bytes.map_or_else(|| "n/a".to_owned(), mib);
        writeln!(f, "file     {:>12}", mib(self.file_bytes))?;
        writeln!(
            f,
            "pinned   {:>12}  of that pages: {}, dirty: {}",
            mib(self.pinned_bytes),
            known(self.frames_bytes),
            known(self.dirty_bytes),
        )?;
        let mapped = mib(self.mapped_bytes);
        writeln!(
            f,
            "cached   {:>12}  of that mapped: {mapped}",
            mib(self.cached_bytes)
        )?;
        writeln!(f, "cold     {:>12}", mib(self.cold_bytes))?;
        let cached = mib(self.log_cached_bytes);
        writeln!(
            f,
            "log      {:>12}  of that cached: {cached}",
            mib(self.log_bytes)
        )?;
        write!(
            f,
            "process  {:>12}  and mapped files: {}",
            known(self.process_private_bytes),
            known(self.process_mapped_bytes),
        )
    }
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

/// What `/proc/self/smaps` says of the mappings of one file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Mapping {
    resident: u64,
    dirty: u64,
}

impl Mapping {
    /// `None` if this process has not mapped the file.
    fn of(device: u64, inode: u64) -> Option<Self> {
        let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
        let smaps = fs::read_to_string("/proc/self/smaps").ok()?;
        Self::in_smaps(&smaps, &format!("{major:02x}:{minor:02x} {inode}"))
    }

    fn in_smaps(smaps: &str, file: &str) -> Option<Self> {
        let mut found: Option<Mapping> = None;
        let mut is_ours = false;
        for line in smaps.lines() {
            let first = line.split_ascii_whitespace().next().unwrap_or("");
            if !first.ends_with(':') {
                // "7f00-7f10 rw-s 00000000 fe:00 1234   /path": a mapping begins.
                let mut words = line.split_ascii_whitespace().skip(3);
                is_ours = words
                    .next()
                    .zip(words.next())
                    .is_some_and(|(device, inode)| file.split_once(' ') == Some((device, inode)));
                if is_ours {
                    found.get_or_insert_default();
                }
            } else if is_ours && let Some(mapping) = &mut found {
                let bytes = kib_field(line, first).unwrap_or(0);
                match first {
                    "Rss:" => mapping.resident += bytes,
                    "Shared_Dirty:" | "Private_Dirty:" => mapping.dirty += bytes,
                    _ => {}
                }
            }
        }
        found
    }
}

/// The number behind `field` in what `/proc` says in lines of `field  n kB`, in bytes.
pub(crate) fn kib_field(text: &str, field: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(field))?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mappings_of_a_file_are_found_by_its_inode_and_added_up() {
        let smaps = "\
7f10-7f20 rw-s 00000000 fe:00 1234                       /data/a b: c
Size:               1024 kB
Rss:                  64 kB
Shared_Clean:         32 kB
Shared_Dirty:          8 kB
Private_Dirty:         4 kB
VmFlags: rd wr sh mr mw me
7f20-7f30 r--s 00000000 fe:00 12345                      /data/other
Rss:                 512 kB
7f30-7f40 r--s 00010000 fe:00 1234                       /data/a b: c (deleted)
Rss:                  16 kB
Private_Dirty:         0 kB
";
        let found = Mapping::in_smaps(smaps, "fe:00 1234").unwrap();
        assert_eq!(found.resident, 80 << 10);
        assert_eq!(found.dirty, 12 << 10);
        assert_eq!(Mapping::in_smaps(smaps, "fe:00 99"), None);
    }
}
