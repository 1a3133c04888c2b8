//! Who may have a database open: byte-range locks on the file itself.
//!
//! The locks are *open file description* locks (`F_OFD_SETLK`, fcntl(2)): they belong to the open
//! file and end with it, however its process ends. They lie in the last 64 KiB of all offsets that a
//! file can have, where no page can be, so they cover no data and change none:
//!
// ANCHOR: locks
//! | offset from 2^63 − 65,536 | bytes | name    | who locks it                                          |
//! |--------------------------:|------:|---------|-------------------------------------------------------|
//! |                         0 |     1 | opening | whoever opens, until recovery is done                 |
//! |                         1 |     1 | writer  | exclusive: who writes. Shared: a reader that does not stand a writer beside it |
//! |                         2 | 4,094 | readers | shared: who reads. Exclusive: a writer that does not stand readers beside it |
//! |                     4,096 |     1 | holder  | not a lock but a name: a POSIX record lock of the holder, which tells its process number |
// ANCHOR_END: locks
//!
//! Today one process writes and nobody else has the file open, or any number read. So a writer
//! takes all of *opening*, *writer* and *readers* at once, exclusively, and a reader all of them at
//! once, shared; each in one call, so that of several who come at the same moment one succeeds.
//! Readers beside a writer need no other layout: such a reader takes *readers* alone, such a
//! writer *writer* alone, and both are refused by the locks of today's programs, who know nothing of
//! them.
//!
//! An open file description lock does not tell who holds it (`F_OFD_GETLK` answers -1). So the holder
//! also takes a POSIX record lock on a byte of its own, which does. That lock goes when the process
//! closes *any* file descriptor of the file, and is therefore believed for nothing but the number.
//!
//! There is no `flock` beside these: it would exclude the readers of a later release, and on network
//! file systems it is the same lock as these.

use std::fs::{File, Metadata};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

use crate::error::{Error, Result};
use crate::registry::Claim;

/// How long an opener waits for another process. io_uring keeps a file, and so its lock, for a moment
/// after its process has died.
const PATIENCE: Duration = Duration::from_millis(250);
const INTERVAL: Duration = Duration::from_millis(10);

/// The offset that the table above counts from.
const BASE: i64 = i64::MAX - 65_535;
const OPENING: Bytes = Bytes { at: 0, len: 1 };
const READERS: Bytes = Bytes { at: 2, len: 4094 };
/// Opening, writer and readers.
const ALL: Bytes = Bytes {
    at: OPENING.at,
    len: READERS.at + READERS.len,
};
const HOLDER: Bytes = Bytes { at: 4096, len: 1 };

const _: () = assert!(ALL.at + ALL.len == HOLDER.at);
const _: () = assert!(BASE + HOLDER.at + HOLDER.len > BASE);

/// A range of the locks' table.
#[derive(Clone, Copy)]
struct Bytes {
    at: i64,
    len: i64,
}

/// Who else may have the file open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Share {
    /// Nobody.
    Alone,
    /// Others who read.
    Readers,
}

/// The lock on a database's file, until it is dropped.
#[derive(Debug)]
pub(crate) struct Lock {
    /// The open file that holds the lock, together with the pager's, which is the same one.
    file: File,
    share: Share,
    /// Given up last: while it is held, nobody in this process tries.
    _claim: Claim,
}

impl Lock {
    /// Locks the open `file`, whose metadata are `inode`: at once, or after waiting for a quarter of
    /// a second for another process, or not.
    ///
    /// # Errors
    /// [`Error::InUse`]; [`Error::File`] where the file system has no such locks.
    pub fn take(file: &File, inode: &Metadata, path: &Path, share: Share) -> Result<Self> {
        let Some(claim) = Claim::on(inode, share) else {
            return Err(Error::InUse {
                path: path.to_owned(),
                holder: Some(std::process::id()),
            });
        };
        let failed = |errno: Errno| Error::file("lock", path, errno);
        let own = file
            .try_clone()
            .map_err(|error| Error::file("lock", path, error))?;
        let give_up = Instant::now() + PATIENCE;
        let kind = match share {
            Share::Alone => libc::F_WRLCK,
            Share::Readers => libc::F_RDLCK,
        };
        loop {
            match fcntl(file, FcntlArg::F_OFD_SETLK(&range(ALL, kind))) {
                Ok(_) => break,
                Err(Errno::EAGAIN | Errno::EACCES) if Instant::now() < give_up => {
                    thread::sleep(INTERVAL);
                }
                Err(Errno::EAGAIN | Errno::EACCES) => {
                    return Err(Error::InUse {
                        path: path.to_owned(),
                        holder: holder(file),
                    });
                }
                Err(errno) => return Err(failed(errno)),
            }
        }
        let lock = Lock {
            file: own,
            share,
            _claim: claim,
        };
        lock.name_holder();
        Ok(lock)
    }

    /// The file that is locked.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// The database is open: whoever comes now need not wait for its recovery.
    pub fn opened(&self) {
        // Only a program that does not exist yet asks for this byte alone, and it can wait.
        let _ = fcntl(
            &self.file,
            FcntlArg::F_OFD_SETLK(&range(OPENING, libc::F_UNLCK)),
        );
        // Opening may have closed another descriptor of the file, and this name with it.
        self.name_holder();
    }

    fn name_holder(&self) {
        let kind = match self.share {
            Share::Alone => libc::F_WRLCK,
            Share::Readers => libc::F_RDLCK,
        };
        // Without it those who are refused are not told by whom, and no more.
        let _ = fcntl(&self.file, FcntlArg::F_SETLK(&range(HOLDER, kind)));
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Said, and not left to the last close: a forked child may have the file too.
        for bytes in [HOLDER, ALL] {
            let unlock = range(bytes, libc::F_UNLCK);
            let _ = match bytes.at {
                at if at == HOLDER.at => fcntl(&self.file, FcntlArg::F_SETLK(&unlock)),
                _ => fcntl(&self.file, FcntlArg::F_OFD_SETLK(&unlock)),
            };
        }
    }
}

/// The process that has the file open, if it can be told.
fn holder(file: &File) -> Option<u32> {
    let mut asked = range(HOLDER, libc::F_WRLCK);
    fcntl(file, FcntlArg::F_GETLK(&mut asked)).ok()?;
    // A process that this one cannot see, in another namespace or on another machine, has no number.
    let held = i32::from(asked.l_type) != libc::F_UNLCK;
    u32::try_from(asked.l_pid)
        .ok()
        .filter(|&pid| held && pid > 0)
}

fn range(bytes: Bytes, kind: i32) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: BASE + bytes.at,
        l_len: bytes.len,
        l_pid: 0, // as F_OFD_SETLK demands
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(4096).unwrap();
        file
    }

    /// The same file, as another process would have it open.
    fn other(file: &File) -> File {
        use std::os::fd::AsRawFd;
        File::options()
            .read(true)
            .write(true)
            .open(format!("/proc/self/fd/{}", file.as_raw_fd()))
            .unwrap()
    }

    fn conflicts(file: &File, bytes: Bytes, kind: i32) -> bool {
        let mut asked = range(bytes, kind);
        fcntl(file, FcntlArg::F_OFD_GETLK(&mut asked)).unwrap();
        i32::from(asked.l_type) != libc::F_UNLCK
    }

    const WRITER: Bytes = Bytes { at: 1, len: 1 };

    #[test]
    fn the_ranges_are_those_of_the_table() {
        assert_eq!(BASE, i64::MAX - 65_536 + 1);
        assert_eq!((OPENING.at, OPENING.len, WRITER.at), (0, 1, 1));
        assert_eq!((READERS.at, READERS.len, HOLDER.at), (2, 4094, 4096));
        let path = Path::new("test");
        let (file, kinds) = (file(), [libc::F_RDLCK, libc::F_WRLCK]);
        let seen = other(&file);
        let lock = Lock::take(&file, &file.metadata().unwrap(), path, Share::Alone).unwrap();
        for bytes in [OPENING, WRITER, READERS] {
            assert!(kinds.iter().all(|&kind| conflicts(&seen, bytes, kind)));
        }
        lock.opened();
        assert!(!conflicts(&seen, OPENING, libc::F_WRLCK));
        // What a reader beside the writer of a later release will take, and such a writer.
        assert!(conflicts(&seen, READERS, libc::F_RDLCK));
        assert!(conflicts(&seen, WRITER, libc::F_WRLCK));
        drop(lock);
        assert!(!conflicts(&seen, ALL, libc::F_WRLCK));
        let lock = Lock::take(&file, &file.metadata().unwrap(), path, Share::Readers).unwrap();
        lock.opened();
        assert!(!conflicts(&seen, READERS, libc::F_RDLCK));
        assert!(conflicts(&seen, WRITER, libc::F_WRLCK));
        assert!(conflicts(&seen, READERS, libc::F_WRLCK));
    }

    #[test]
    fn a_lock_outlasts_a_duplicate_of_the_file_that_is_closed() {
        let path = Path::new("test");
        let file = file();
        let seen = other(&file);
        let lock = Lock::take(&file, &file.metadata().unwrap(), path, Share::Alone).unwrap();
        drop(other(&file)); // which would end a POSIX record lock
        drop(file);
        assert!(conflicts(&seen, WRITER, libc::F_WRLCK));
        drop(lock);
        assert!(!conflicts(&seen, WRITER, libc::F_WRLCK));
    }

    #[test]
    fn a_second_claim_in_this_process_is_refused_at_once() {
        let path = Path::new("test");
        let file = file();
        let inode = file.metadata().unwrap();
        let again = |share| Lock::take(&other(&file), &inode, path, share);
        let lock = again(Share::Alone).unwrap();
        for share in [Share::Alone, Share::Readers] {
            let error = again(share).unwrap_err();
            assert!(error.to_string().contains("in this process"), "{error}");
        }
        drop(lock);
        let readers = [
            again(Share::Readers).unwrap(),
            again(Share::Readers).unwrap(),
        ];
        assert!(again(Share::Alone).is_err());
        let [one, two] = readers;
        drop(one);
        assert!(again(Share::Alone).is_err());
        drop(two);
        assert!(again(Share::Alone).is_ok());
    }
}
