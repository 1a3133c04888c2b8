//! The log's files in a real directory.
//!
//! Where the file system can, I/O goes past the page cache (`O_DIRECT`): the log then takes none of
//! the memory that a limit counts, a write of one sector does not first read the page around it, and
//! it writes that sector alone, not its synced neighbours once more. Where it cannot (`tmpfs`, some
//! network and stacked file systems), I/O is buffered, every write covers whole pages, and what is
//! synced is dropped from the cache behind.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{
    Advice, AtFlags, Dir, FallocateFlags, Mode, OFlags, StatxFlags, fadvise, fallocate, fdatasync,
    fsync, openat, renameat, statx, unlinkat,
};
use rustix::io::Errno;

use super::buffer::MAX_ALIGNMENT;
use super::disk::{Disk, DiskFile};

/// Whether the log's I/O goes past the page cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DirectIo {
    /// Where the file system can.
    #[default]
    Auto,
    /// Never.
    Off,
}

/// The directory that a database lies in.
#[derive(Debug)]
pub struct RealDisk {
    directory: File,
    direct: DirectIo,
    read_only: bool,
}

impl RealDisk {
    /// The directory at `path`.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub fn open(path: &Path, direct: DirectIo) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(path, flags, Mode::empty())?;
        Ok(RealDisk {
            directory: directory.into(),
            direct,
            read_only: false,
        })
    }

    /// The same, for reading only: its files are opened so, and may be such as cannot be written.
    pub fn for_reading(self) -> Self {
        RealDisk {
            read_only: true,
            ..self
        }
    }

    fn open_with(&self, name: &OsStr, create: OFlags) -> io::Result<Box<dyn DiskFile>> {
        if self.direct == DirectIo::Off {
            return self.open_buffered(name, create);
        }
        match self.open_direct(name, create) {
            Ok(Some(file)) => Ok(Box::new(file)),
            Ok(None) => self.open_buffered(name, OFlags::empty()),
            // Some file systems refuse at once, some after they made the file.
            Err(Errno::INVAL | Errno::NOTSUP) => self.open_buffered(name, create - OFlags::EXCL),
            Err(errno) => Err(errno.into()),
        }
    }

    fn open_direct(&self, name: &OsStr, create: OFlags) -> rustix::io::Result<Option<RealFile>> {
        let file = self.open_file(name, create | OFlags::DIRECT)?;
        let Some(alignment) = direct_alignment(&file)? else {
            return Ok(None);
        };
        let synced = self.open_file(name, OFlags::DIRECT | OFlags::DSYNC)?;
        Ok(Some(RealFile {
            file,
            synced,
            direct: true,
            alignment,
        }))
    }

    fn open_buffered(&self, name: &OsStr, create: OFlags) -> io::Result<Box<dyn DiskFile>> {
        let file = self.open_file(name, create)?;
        let synced = self.open_file(name, OFlags::DSYNC)?;
        // Whole pages: the kernel writes a page as one, with what was synced in it before.
        let alignment = rustix::param::page_size().min(MAX_ALIGNMENT);
        Ok(Box::new(RealFile {
            file,
            synced,
            direct: false,
            alignment,
        }))
    }

    fn open_file(&self, name: &OsStr, flags: OFlags) -> rustix::io::Result<File> {
        let access = match self.read_only {
            true => OFlags::RDONLY,
            false => OFlags::RDWR,
        };
        let flags = flags | access | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        Ok(openat(
            &self.directory,
            name,
            flags,
            Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::ROTH,
        )?
        .into())
    }
}

/// What direct I/O on the file must be aligned to; `None` if it cannot be had, or asks for more
/// than our buffers give. Kernels before 6.1 do not say; then 4096 serves every device we know.
fn direct_alignment(file: &File) -> rustix::io::Result<Option<usize>> {
    let stat = match statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN) {
        Ok(stat) => stat,
        Err(Errno::NOSYS) => return Ok(Some(MAX_ALIGNMENT)),
        Err(errno) => return Err(errno),
    };
    if stat.stx_mask & StatxFlags::DIOALIGN.bits() == 0 {
        return Ok(Some(MAX_ALIGNMENT));
    }
    let alignment = stat.stx_dio_mem_align.max(stat.stx_dio_offset_align) as usize;
    let usable = stat.stx_dio_offset_align != 0 && alignment <= MAX_ALIGNMENT;
    Ok(usable.then(|| alignment.next_power_of_two().max(512)))
}

impl Disk for RealDisk {
    fn list(&self) -> io::Result<Vec<OsString>> {
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.directory)? {
            names.push(OsStr::from_bytes(entry?.file_name().to_bytes()).to_owned());
        }
        Ok(names)
    }

    fn create(&self, name: &OsStr) -> io::Result<Box<dyn DiskFile>> {
        self.open_with(name, OFlags::CREATE | OFlags::EXCL)
    }

    fn open(&self, name: &OsStr) -> io::Result<Box<dyn DiskFile>> {
        self.open_with(name, OFlags::empty())
    }

    fn rename(&self, from: &OsStr, to: &OsStr) -> io::Result<()> {
        Ok(renameat(&self.directory, from, &self.directory, to)?)
    }

    fn remove(&self, name: &OsStr) -> io::Result<()> {
        Ok(unlinkat(&self.directory, name, AtFlags::empty())?)
    }

    fn sync_directory(&self) -> io::Result<()> {
        Ok(fsync(&self.directory)?)
    }

    fn draw(&self) -> u64 {
        rand::random()
    }
}

/// A segment's file.
#[derive(Debug)]
struct RealFile {
    file: File,
    /// The same file, opened with `O_DSYNC`.
    synced: File,
    direct: bool,
    alignment: usize,
}

impl DiskFile for RealFile {
    fn alignment(&self) -> io::Result<usize> {
        Ok(self.alignment)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        match fallocate(&self.file, FallocateFlags::empty(), 0, len) {
            // The zeros that are written next allocate the space where this cannot.
            Err(Errno::NOTSUP) => self.file.set_len(len),
            result => Ok(result?),
        }
    }

    fn read_at(&self, to: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(to, offset)
    }

    fn write_at(&self, from: &[u8], offset: u64) -> io::Result<()> {
        write_whole(&self.file, from, offset)
    }

    fn write_synced_at(&self, from: &[u8], offset: u64) -> io::Result<()> {
        write_whole(&self.synced, from, offset)
    }

    fn sync(&self) -> io::Result<()> {
        Ok(fdatasync(&self.file)?)
    }

    fn drop_cache(&self, range: Range<u64>) -> io::Result<()> {
        let Some(len) = NonZeroU64::new(range.end - range.start) else {
            return Ok(());
        };
        if self.direct {
            // There is nothing in the cache but what somebody else read; reads pass it by.
            return Ok(());
        }
        Ok(fadvise(
            &self.file,
            range.start,
            Some(len),
            Advice::DontNeed,
        )?)
    }
}

/// Writes all of `from` in one call. A call that writes less has met a full or failing disk.
fn write_whole(file: &File, from: &[u8], offset: u64) -> io::Result<()> {
    let written = loop {
        match file.write_at(from, offset) {
            // Nothing was written, nothing failed.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => break result?,
        }
    };
    if written == from.len() {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::WriteZero,
        format!("only {written} of {} bytes were written", from.len()),
    ))
}
