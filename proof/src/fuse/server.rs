//! The kernel's requests, done on a [`Disk`] as its [`Control`] says.
//!
//! The file system is served by one thread of this process, so that requests are one after the
//! other; the programs that use it are other processes. (One that maps a file and serves it too
//! could wait for itself.)
//!
//! The page cache is on, with write-back: what programs store into a shared map, or write without
//! `O_DIRECT`, comes here when it is synced, or when the kernel sees fit.

use std::ffi::OsStr;
use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, InitFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate,
    ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request,
    TimeOrNow, WriteFlags,
};

use super::control::{Control, Failure, Kind, Verdict};
use super::disk::{Disk, Ino, ROOT};

/// How long the kernel may believe what it was told of names and lengths: nobody else changes them.
const BELIEVED: Duration = Duration::from_secs(3600);

/// The file system that the kernel talks to.
pub struct Server {
    control: Control,
}

impl Server {
    /// A file system with these switches.
    pub fn new(control: Control) -> Self {
        Server { control }
    }

    fn attributes(&self, disk: &Disk, ino: Ino) -> Result<FileAttr, Errno> {
        let (kind, perm, size, links) = match disk.content(ino) {
            Some(content) => (FileType::RegularFile, 0o644, content.len(), disk.links(ino)),
            None if ino == ROOT => (FileType::Directory, 0o755, 0, 2),
            None => return Err(Errno::ENOENT),
        };
        let time: SystemTime = UNIX_EPOCH;
        Ok(FileAttr {
            ino: INodeNo(ino),
            size,
            blocks: size.div_ceil(512),
            atime: time,
            mtime: time,
            ctime: time,
            crtime: time,
            kind,
            perm,
            nlink: links as u32,
            uid: rustix::process::getuid().as_raw(),
            gid: rustix::process::getgid().as_raw(),
            rdev: 0,
            blksize: 4096,
            flags: 0,
        })
    }

    fn named(&self, name: &OsStr) -> Result<FileAttr, Errno> {
        let state = self.control.state();
        let ino = state.disk.find(name).ok_or(Errno::ENOENT)?;
        self.attributes(&state.disk, ino)
    }

    fn answer_entry(reply: ReplyEntry, found: Result<FileAttr, Errno>) {
        match found {
            Ok(attributes) => reply.entry(&BELIEVED, &attributes, Generation(0)),
            Err(errno) => reply.error(errno),
        }
    }
}

fn answer(reply: ReplyEmpty, outcome: Result<(), Errno>) {
    match outcome {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(errno),
    }
}

impl Filesystem for Server {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let needed = InitFlags::FUSE_WRITEBACK_CACHE | InitFlags::FUSE_ASYNC_DIO;
        config.add_capabilities(needed).map_err(|missing| {
            io::Error::new(
                io::ErrorKind::Unsupported,
                format!("this kernel's FUSE lacks {missing:?}"),
            )
        })
    }

    fn lookup(&self, _req: &Request, _parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        Self::answer_entry(reply, self.named(name));
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        let state = self.control.state();
        match self.attributes(&state.disk, ino.0) {
            Ok(attributes) => reply.attr(&BELIEVED, &attributes),
            Err(errno) => reply.error(errno),
        }
    }

    fn setattr(
        &self,
        _req: &Request,
        ino: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let done = match size {
            Some(size) => self.control.act(Kind::Allocate, ino.0, (), |disk| {
                disk.set_len(ino.0, size);
                Ok(())
            }),
            // Times and modes are not kept: nothing here asks for them.
            None => Ok(()),
        };
        let state = self.control.state();
        match done.and_then(|()| self.attributes(&state.disk, ino.0)) {
            Ok(mut attributes) => {
                // In a frozen world the kernel is to believe that it was done.
                attributes.size = size.unwrap_or(attributes.size);
                reply.attr(&BELIEVED, &attributes);
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn unlink(&self, _req: &Request, _parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let outcome = self.control.act(Kind::Name, ROOT, (), |disk| {
            disk.find(name).ok_or(Errno::ENOENT)?;
            disk.unlink(name);
            Ok(())
        });
        answer(reply, outcome);
    }

    fn rename(
        &self,
        _req: &Request,
        _parent: INodeNo,
        name: &OsStr,
        _new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let outcome = self.control.act(Kind::Name, ROOT, (), |disk| {
            if !(flags - RenameFlags::RENAME_NOREPLACE).is_empty() {
                return Err(Errno::EINVAL);
            }
            disk.find(name).ok_or(Errno::ENOENT)?;
            if flags.contains(RenameFlags::RENAME_NOREPLACE) && disk.find(new_name).is_some() {
                return Err(Errno::EEXIST);
            }
            disk.rename(name, new_name);
            Ok(())
        });
        answer(reply, outcome);
    }

    fn link(
        &self,
        _req: &Request,
        ino: INodeNo,
        _new_parent: INodeNo,
        new_name: &OsStr,
        reply: ReplyEntry,
    ) {
        let outcome = self.control.act(Kind::Name, ROOT, (), |disk| {
            if disk.find(new_name).is_some() {
                return Err(Errno::EEXIST);
            }
            disk.content(ino.0).ok_or(Errno::ENOENT)?;
            disk.link(ino.0, new_name);
            Ok(())
        });
        Self::answer_entry(reply, outcome.and_then(|()| self.named(new_name)));
    }

    fn open(&self, _req: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE);
    }

    fn create(
        &self,
        _req: &Request,
        _parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        let outcome = self.control.act(Kind::Name, ROOT, (), |disk| {
            if disk.find(name).is_none() {
                disk.create(name);
            }
            Ok(())
        });
        match outcome.and_then(|()| self.named(name)) {
            Ok(attributes) => reply.created(
                &BELIEVED,
                &attributes,
                Generation(0),
                FileHandle(0),
                FopenFlags::FOPEN_KEEP_CACHE,
            ),
            Err(errno) => reply.error(errno),
        }
    }

    fn read(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let (state, verdict) = self.control.request(Kind::Read, ino.0);
        match (verdict, state.disk.content(ino.0)) {
            (Verdict::Fail(Failure::Error(number)), _) => reply.error(Errno::from_i32(number)),
            (Verdict::Fail(Failure::Short), _) => reply.error(Errno::EIO),
            (Verdict::Fail(Failure::Silent), _) => reply.data(&vec![0; size as usize]),
            (_, None) => reply.error(Errno::ENOENT),
            (_, Some(content)) => reply.data(&content.read(offset, size as usize)),
        }
    }

    fn write(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let (mut state, verdict) = self.control.request(Kind::Write, ino.0);
        match verdict {
            Verdict::Do => {
                state.disk.write(ino.0, offset, data);
                reply.written(data.len() as u32);
            }
            Verdict::Swallow | Verdict::Fail(Failure::Silent) => {
                reply.written(data.len() as u32);
            }
            Verdict::Fail(Failure::Error(number)) => reply.error(Errno::from_i32(number)),
            Verdict::Fail(Failure::Short) => {
                let half = &data[..data.len() / 2];
                state.disk.write(ino.0, offset, half);
                // Of what it writes back from its cache Linux does not ask how much was written, and takes
                // half for all (`fuse_writepage_end`): that would be a disk that lies. So it is told an error.
                if write_flags.contains(WriteFlags::FUSE_WRITE_CACHE) {
                    reply.error(Errno::EIO);
                } else {
                    reply.written(half.len() as u32);
                }
            }
        }
    }

    fn fsync(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        let (mut state, verdict) = self.control.request(Kind::Sync, ino.0);
        let outcome = match verdict {
            Verdict::Do if state.lies => Ok(()),
            Verdict::Do => {
                state.disk.sync(ino.0);
                Ok(())
            }
            Verdict::Swallow => Ok(()),
            Verdict::Fail(failure) => {
                state.disk.lose_unsynced(ino.0);
                match failure {
                    Failure::Error(number) => Err(Errno::from_i32(number)),
                    Failure::Short => Err(Errno::EIO),
                    Failure::Silent => Ok(()),
                }
            }
        };
        answer(reply, outcome);
    }

    fn fsyncdir(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        let outcome = self.control.act(Kind::SyncNames, ROOT, (), |disk| {
            disk.sync_names();
            Ok(())
        });
        answer(reply, outcome);
    }

    fn fallocate(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let outcome = self.control.act(Kind::Allocate, ino.0, (), |disk| {
            if mode != 0 {
                return Err(Errno::EOPNOTSUPP);
            }
            let content = disk.content(ino.0).ok_or(Errno::ENOENT)?;
            if content.len() < offset + length {
                disk.set_len(ino.0, offset + length);
            }
            Ok(())
        });
        answer(reply, outcome);
    }

    fn readdir(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let state = self.control.state();
        let own = [".", ".."].map(|name| (OsStr::new(name), ROOT, FileType::Directory));
        let files = state.disk.names();
        let files = files.map(|(name, ino)| (name, ino, FileType::RegularFile));
        let entries = (1..).zip(own.into_iter().chain(files));
        for (next, (name, ino, kind)) in entries.skip(offset as usize) {
            if reply.add(INodeNo(ino), next, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        const BLOCKS: u64 = 1 << 24;
        let used = self.control.state().disk.bytes() / 4096;
        let free = BLOCKS.saturating_sub(used);
        reply.statfs(BLOCKS, free, free, 0, 0, 4096, 255, 4096);
    }
}
