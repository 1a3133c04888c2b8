//! The database file before there is a pager: creating it, locking it, finding its newest meta.
//!
//! The order of opening is what makes the content trustworthy: lock first, so that nobody else
//! changes it; if the file was not closed cleanly in this boot of the machine, sync it and drop what
//! the page cache holds, so that what is read is what storage holds; then read and decide.
//! (A page cache may still hold writes that failed to reach storage in an earlier process.)

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bifolio_pager::{META_AREA_LEN, META_LEN, MetaSlot, PageSize};
use rustix::fs::{Advice, RenameFlags, fadvise, renameat_with};
use xxhash_rust::xxh3::xxh3_64;

use crate::error::{Error, Result};
use crate::lock::{Lock, Share};
use crate::meta::{FORMAT, Meta, Unreadable};
use crate::network;

/// A locked file, and what its newest meta says.
pub(crate) struct Opened {
    pub file: File,
    pub lock: Lock,
    pub meta: Meta,
    pub slot: MetaSlot,
    /// Bytes in the file.
    pub len: u64,
}

/// How a file is to be opened.
#[derive(Clone, Copy)]
pub(crate) struct Access {
    pub read_only: bool,
    pub allow_network: bool,
}

/// Opens and locks an existing file and reads its metas. Changes nothing.
pub(crate) fn open(path: &Path, access: Access) -> Result<Opened> {
    let (file, lock) = open_locked(path, access)?;
    let (mut meta, mut slot) = read_newest_meta(&file, path)?;
    if !(meta.clean && boot() == Some(meta.boot)) {
        distrust_page_cache(&file, path)?;
        (meta, slot) = read_newest_meta(&file, path)?;
    }
    let len = inspect(&file, path)?.len();
    check_length(path, len, &meta)?;
    if !access.read_only {
        check_size_limit(path, len)?;
    }
    Ok(Opened {
        file,
        lock,
        meta,
        slot,
        len,
    })
}

/// Opens and locks an existing file, whatever it holds.
pub(crate) fn open_locked(path: &Path, access: Access) -> Result<(File, Lock)> {
    // Before it is opened: opening a pipe waits for its other end, and a device may do anything.
    let kind = std::fs::metadata(path).map_err(|error| Error::file("open", path, error))?;
    require_regular(path, &kind)?;
    let file = OpenOptions::new()
        .read(true)
        .write(!access.read_only)
        .open(path)
        .map_err(|error| Error::file("open", path, error))?;
    let inode = inspect(&file, path)?;
    require_regular(path, &inode)?;
    if !access.allow_network
        && let Some(kind) = network::kind_of_network(&file, &inode)
    {
        let path = path.to_owned();
        return Err(Error::NetworkFileSystem { path, kind });
    }
    let share = match access.read_only {
        true => Share::Readers,
        false => Share::Alone,
    };
    let lock = Lock::take(&file, &inode, path, share)?;
    Ok((file, lock))
}

/// A new, empty database file that nobody knows yet: under a name of its own, which goes when this
/// is dropped. So what can be refused is refused before there is a database.
pub(crate) struct Unnamed {
    scratch: PathBuf,
}

impl Unnamed {
    /// Writes the file, beside where it is to be.
    pub fn write(path: &Path, page_size: PageSize) -> Result<Self> {
        let unnamed = Unnamed {
            scratch: scratch_name(path),
        };
        write_empty(&unnamed.scratch, path, page_size)?;
        Ok(unnamed)
    }

    /// As [`open`]: it is locked before anybody else can see it.
    pub fn open(&self, access: Access) -> Result<Opened> {
        open(&self.scratch, access)
    }

    /// Gives it the name, durably, and says whether it could: not if somebody else made a file
    /// there first.
    pub fn name(self, path: &Path) -> Result<bool> {
        name_it(&self.scratch, path)
    }
}

impl Drop for Unnamed {
    fn drop(&mut self) {
        // It is gone already if it got its name.
        let _ = std::fs::remove_file(&self.scratch);
    }
}

/// The meta slots of a new file, both filled (meta.rs, invariant 1).
pub(crate) fn first_metas(page_size: PageSize) -> (Meta, Meta) {
    let newest = Meta::first(page_size, rand::random());
    (
        newest,
        Meta {
            sequence: 0,
            ..newest
        },
    )
}

/// Identifies the running boot of the machine, if it can be told; never 0.
pub(crate) fn boot() -> Option<u64> {
    let id = std::fs::read("/proc/sys/kernel/random/boot_id").ok()?;
    Some(xxh3_64(&id).max(1))
}

/// The most bytes that this process may write to a file (`ulimit -f`). Writing past it does not just
/// fail: it sends `SIGXFSZ`, of which a process dies that has not arranged for it.
pub(crate) fn size_limit() -> u64 {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Fsize);
    limit.current.unwrap_or(u64::MAX)
}

fn check_size_limit(path: &Path, len: u64) -> Result<()> {
    /// A meta area, and one page of the largest size.
    const LEAST: u64 = META_AREA_LEN + 65_536;
    if size_limit() >= len.max(LEAST) {
        return Ok(());
    }
    Err(Error::file("write", path, rustix::io::Errno::FBIG))
}

fn write_empty(scratch: &Path, path: &Path, page_size: PageSize) -> Result<()> {
    let failed = |error: io::Error| Error::file("create", path, error);
    check_size_limit(path, 0)?;
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(scratch)
        .map_err(failed)?;
    let (newest, other) = first_metas(page_size);
    let mut image = vec![0; META_AREA_LEN as usize];
    for (slot, meta) in [(MetaSlot::A, newest), (MetaSlot::B, other)] {
        let at = slot.offset() as usize;
        image[at..at + META_LEN].copy_from_slice(&meta.encode_slot());
    }
    file.write_all(&image).map_err(failed)?;
    file.sync_all().map_err(failed)
}

fn name_it(scratch: &Path, path: &Path) -> Result<bool> {
    let cwd = rustix::fs::CWD;
    let named = match renameat_with(cwd, scratch, cwd, path, RenameFlags::NOREPLACE) {
        // Not every file system knows the flag; a link fails just as well if the name is taken.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
            std::fs::hard_link(scratch, path)
        }
        named => named.map_err(Into::into),
    };
    match named {
        Ok(()) => sync_directory(path).map(|()| true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(Error::file("create", path, error)),
    }
}

fn sync_directory(path: &Path) -> Result<()> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(parent)
        .and_then(|directory| directory.sync_all())
        .map_err(|error| Error::file("sync the directory of", path, error))
}

fn scratch_name(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{:08x}.new", rand::random::<u32>()));
    path.with_file_name(name)
}

fn distrust_page_cache(file: &File, path: &Path) -> Result<()> {
    file.sync_all()
        .map_err(|error| Error::file("sync", path, error))?;
    sync_directory(path)?;
    fadvise(file, 0, None, Advice::DontNeed)
        .map_err(|error| Error::file("drop the cached pages of", path, error))
}

fn read_newest_meta(file: &File, path: &Path) -> Result<(Meta, MetaSlot)> {
    if inspect(file, path)?.len() == 0 {
        return Err(not_ours(path, "it is empty"));
    }
    let [a, b] = read_slots(file, path)?;
    newest_of(path, a, b)
}

/// What the two slots hold.
pub(crate) fn read_slots(file: &File, path: &Path) -> Result<[Result<Meta, Unreadable>; 2]> {
    Ok([
        read_slot(file, path, MetaSlot::A)?,
        read_slot(file, path, MetaSlot::B)?,
    ])
}

/// The newer one of what the two slots hold (meta.rs, invariants 2 and 3).
pub(crate) fn newest_of(
    path: &Path,
    a: Result<Meta, Unreadable>,
    b: Result<Meta, Unreadable>,
) -> Result<(Meta, MetaSlot)> {
    match (&a, &b) {
        (Err(Unreadable::Newer(found)), _) | (_, Err(Unreadable::Newer(found))) => {
            let path = path.to_owned();
            return Err(Error::NewerFormat {
                path,
                found: *found,
                supported: FORMAT,
            });
        }
        (Err(Unreadable::NotOurs), Err(_)) => {
            return Err(not_ours(path, "it does not begin as one"));
        }
        _ => {}
    }
    let (a, b) = (
        readable(a, path, MetaSlot::A)?,
        readable(b, path, MetaSlot::B)?,
    );
    if a.file_id != b.file_id || a.page_size != b.page_size || a.sequence == b.sequence {
        let why = "the two slots are not of one file".to_owned();
        return Err(Error::DamagedMeta {
            path: path.to_owned(),
            offset: 0,
            why,
        });
    }
    Ok(if a.sequence > b.sequence {
        (a, MetaSlot::A)
    } else {
        (b, MetaSlot::B)
    })
}

fn readable(record: Result<Meta, Unreadable>, path: &Path, slot: MetaSlot) -> Result<Meta> {
    record.map_err(|why| Error::DamagedMeta {
        path: path.to_owned(),
        offset: slot.offset(),
        why: match why {
            Unreadable::Damaged(why) => why,
            Unreadable::NotOurs | Unreadable::Newer(_) => "it does not begin as one".to_owned(),
        },
    })
}

fn read_slot(file: &File, path: &Path, slot: MetaSlot) -> Result<Result<Meta, Unreadable>> {
    let mut bytes = [0; META_LEN];
    let mut filled = 0;
    while filled < META_LEN {
        match file.read_at(&mut bytes[filled..], slot.offset() + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::file("read", path, error)),
        }
    }
    Ok(Meta::decode_slot(&bytes[..filled]))
}

pub(crate) fn inspect(file: &File, path: &Path) -> Result<Metadata> {
    file.metadata()
        .map_err(|error| Error::file("inspect", path, error))
}

fn require_regular(path: &Path, kind: &Metadata) -> Result<()> {
    if kind.is_file() {
        Ok(())
    } else if kind.is_dir() {
        Err(not_ours(path, "it is a directory"))
    } else {
        Err(not_ours(path, "it is not a regular file"))
    }
}

fn check_length(path: &Path, found: u64, meta: &Meta) -> Result<()> {
    let expected = meta.bytes_in_use();
    if found < expected {
        return Err(Error::Truncated {
            path: path.to_owned(),
            expected,
            found,
        });
    }
    Ok(())
}

fn not_ours(path: &Path, why: &str) -> Error {
    Error::NotADatabase {
        path: path.to_owned(),
        why: why.to_owned(),
    }
}
