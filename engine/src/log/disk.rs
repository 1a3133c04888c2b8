//! What the log needs of storage, as a trait, so that tests can put a simulated disk below it.

use std::ffi::{OsStr, OsString};
use std::io;
use std::ops::Range;

/// A directory of files.
///
/// # Contract
/// 1. *Unordered.* What was written, allocated, created, renamed or removed since the last sync
///    survives a crash in any subset, whatever the order in which it was done.
/// 2. *Sectors.* Of a write, each 512-byte sector survives whole or not at all. Bytes that were not
///    written do not change.
/// 3. *Durable.* After [`DiskFile::sync`] returned `Ok`, the file's content and length survive;
///    after [`Disk::sync_directory`], the names do. A name needs both.
/// 4. *Rename* is one step: afterwards, and after a crash, the file has one of the two names.
/// 5. An operation that returned an error may have been done in part.
pub trait Disk: Send + Sync {
    /// The names of the directory's files.
    fn list(&self) -> io::Result<Vec<OsString>>;

    /// Makes an empty file, for reading and writing. An error if the name is taken.
    fn create(&self, name: &OsStr) -> io::Result<Box<dyn DiskFile>>;

    /// Opens a file, for reading and writing.
    fn open(&self, name: &OsStr) -> io::Result<Box<dyn DiskFile>>;

    /// Gives a file another name, which is free.
    fn rename(&self, from: &OsStr, to: &OsStr) -> io::Result<()>;

    /// Removes a file.
    fn remove(&self, name: &OsStr) -> io::Result<()>;

    /// Makes the names durable.
    fn sync_directory(&self) -> io::Result<()>;

    /// A number that nobody can foretell.
    fn draw(&self) -> u64;
}

/// An open file of a [`Disk`].
pub trait DiskFile: Send + Sync {
    /// What offsets, lengths and addresses of reads and writes must be multiples of: a power of
    /// two from 512 to 4096. A write that keeps to it changes no other sector on the way.
    fn alignment(&self) -> io::Result<usize>;

    /// Bytes in the file.
    fn len(&self) -> io::Result<u64>;

    /// Makes the file this long, with space allocated for all of it, or fails.
    fn allocate(&self, len: u64) -> io::Result<()>;

    /// Fills `to` from the file, or fails.
    fn read_at(&self, to: &mut [u8], offset: u64) -> io::Result<()>;

    /// Writes all of `from`, or fails. Without a sync nothing of it need survive.
    fn write_at(&self, from: &[u8], offset: u64) -> io::Result<()>;

    /// Writes all of `from` and makes it, and nothing else, durable, in one operation (`O_DSYNC`).
    fn write_synced_at(&self, from: &[u8], offset: u64) -> io::Result<()>;

    /// Makes everything written and the length durable (`fdatasync`).
    fn sync(&self) -> io::Result<()>;

    /// Drops these bytes from the page cache, if they are in one and were synced. After an `Ok`,
    /// reads return what the storage has. Nothing to do where I/O goes past the cache.
    fn drop_cache(&self, range: Range<u64>) -> io::Result<()>;
}
