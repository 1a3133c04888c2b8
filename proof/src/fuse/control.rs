//! The switches of a crash file system: when the world stops, and what fails.
//!
//! Requests that change something, or sync, are *operations* and are counted. Before the operation
//! with a chosen number the *world stops*: nothing is answered until it is *frozen*. So what the
//! programs had reported by then is exactly what they reported before the cut, however the threads
//! run. In a frozen world writes and syncs succeed and do nothing, and names cannot be changed: the
//! programs may run on until they are killed, and no image knows.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fuser::Errno;
use parking_lot::{Condvar, Mutex, MutexGuard};

use super::disk::{Disk, Ino, ROOT};

/// The kinds of requests that can be made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Of a file's bytes.
    Read,
    /// Of a file's bytes.
    Write,
    /// `fsync`, `fdatasync`, `msync` of a file.
    Sync,
    /// `fallocate`, or a change of length.
    Allocate,
    /// A name is made, changed or taken away.
    Name,
    /// `fsync` of the directory.
    SyncNames,
}

/// How a request fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// With this error number, having done nothing.
    Error(i32),
    /// A write does its first half and says so; where it comes from the kernel's cache, by `EIO`. Other
    /// requests fail with `EIO`.
    Short,
    /// It does nothing, a sync loses what it was to write, and each says it is done: outside the
    /// model, so that a test can show what it finds.
    Silent,
}

/// Requests that are to fail.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// Of which kind.
    pub kind: Kind,
    /// The number of the first that fails, among those of its kind.
    pub first: u64,
    /// Whether all after it fail too.
    pub lasts: bool,
    /// How.
    pub failure: Failure,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum World {
    Runs,
    Stopped,
    Frozen,
}

/// What the switches act on.
pub(super) struct State {
    pub disk: Disk,
    world: World,
    /// Operations so far.
    operations: u64,
    /// Before which operation the world stops.
    stop_at: u64,
    /// Requests of each kind so far.
    requests: [u64; 6],
    fault: Option<Fault>,
    /// Requests that failed because they were told to, by the name of the file.
    failed: BTreeMap<OsString, u64>,
    /// Whether the sync of a file says it is done, and does nothing.
    pub lies: bool,
}

/// The switches. Clones are the same.
#[derive(Clone)]
pub struct Control {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

/// What is to become of a request.
pub(super) enum Verdict {
    /// Do it.
    Do,
    /// Say that it was done.
    Swallow,
    /// Say that it failed.
    Fail(Failure),
}

impl Control {
    /// Of a file system with these files.
    pub fn new(disk: Disk) -> Self {
        let state = State {
            disk,
            world: World::Runs,
            operations: 0,
            stop_at: u64::MAX,
            requests: [0; 6],
            fault: None,
            failed: BTreeMap::new(),
            lies: false,
        };
        let shared = Shared {
            state: Mutex::new(state),
            changed: Condvar::new(),
        };
        Control {
            shared: Arc::new(shared),
        }
    }

    /// The world is to stop before operation number `operation`.
    pub fn stop_at(&self, operation: u64) {
        self.shared.state.lock().stop_at = operation;
    }

    /// Syncs of files are to do nothing from now on, and to succeed: a disk outside the model.
    pub fn lie(&self) {
        self.shared.state.lock().lies = true;
    }

    /// These requests are to fail.
    pub fn fail(&self, fault: Fault) {
        self.shared.state.lock().fault = Some(fault);
    }

    /// Requests that failed so far because they were told to, by the name that the file had then; those
    /// for names themselves under that of the directory, `.`.
    pub fn failed(&self) -> BTreeMap<OsString, u64> {
        self.shared.state.lock().failed.clone()
    }

    /// Operations so far.
    pub fn operations(&self) -> u64 {
        self.shared.state.lock().operations
    }

    /// Waits until the world has stopped; whether it has in that time.
    pub fn wait_for_stop(&self, patience: Duration) -> bool {
        let give_up = Instant::now() + patience;
        let mut state = self.shared.state.lock();
        while state.world != World::Stopped {
            if self
                .shared
                .changed
                .wait_until(&mut state, give_up)
                .timed_out()
            {
                return false;
            }
        }
        true
    }

    /// Freezes the world, whether it had stopped or not.
    pub fn freeze(&self) {
        self.shared.state.lock().world = World::Frozen;
        self.shared.changed.notify_all();
    }

    /// Lets a stopped world run again, and not stop any more. For who has taken the image already.
    pub fn go_on(&self) {
        let mut state = self.shared.state.lock();
        state.stop_at = u64::MAX;
        if state.world == World::Stopped {
            state.world = World::Runs;
        }
        self.shared.changed.notify_all();
    }

    /// Whether the world runs.
    pub fn runs(&self) -> bool {
        self.shared.state.lock().world == World::Runs
    }

    /// The files as they are.
    pub fn disk(&self) -> Disk {
        self.shared.state.lock().disk.clone()
    }

    /// The files, with their lengths.
    pub fn lengths(&self) -> Vec<(Ino, u64)> {
        let state = self.shared.state.lock();
        let files = state.disk.names();
        let length = |ino| state.disk.content(ino).map(|content| (ino, content.len()));
        files.filter_map(|(_, ino)| length(ino)).collect()
    }

    /// The world as it is, without counting anything.
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock()
    }

    /// The world with the verdict on a request of this kind for this file, or for the directory.
    pub(super) fn request(&self, kind: Kind, ino: Ino) -> (MutexGuard<'_, State>, Verdict) {
        let mut state = self.shared.state.lock();
        if kind != Kind::Read && state.world == World::Runs {
            if state.operations >= state.stop_at {
                state.world = World::Stopped;
                self.shared.changed.notify_all();
            }
            state.operations += 1;
        }
        while state.world == World::Stopped {
            self.shared.changed.wait(&mut state);
        }
        let verdict = match (state.world, kind) {
            (World::Frozen, Kind::Name) => Verdict::Fail(Failure::Error(Errno::EIO.code())),
            (World::Frozen, Kind::Read) => Verdict::Do,
            (World::Frozen, _) => Verdict::Swallow,
            _ => state.verdict(kind, ino),
        };
        (state, verdict)
    }

    /// Does a request that changes something, unless it is to fail.
    pub(super) fn act<T>(
        &self,
        kind: Kind,
        ino: Ino,
        swallowed: T,
        act: impl FnOnce(&mut Disk) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let (mut state, verdict) = self.request(kind, ino);
        match verdict {
            Verdict::Do => act(&mut state.disk),
            Verdict::Swallow | Verdict::Fail(Failure::Silent) => Ok(swallowed),
            Verdict::Fail(Failure::Error(number)) => Err(Errno::from_i32(number)),
            Verdict::Fail(Failure::Short) => Err(Errno::EIO),
        }
    }
}

impl State {
    fn verdict(&mut self, kind: Kind, ino: Ino) -> Verdict {
        let number = self.requests[kind as usize];
        self.requests[kind as usize] += 1;
        match self.fault {
            Some(fault) if fault.kind == kind => {
                let due = number == fault.first || fault.lasts && number > fault.first;
                if !due {
                    return Verdict::Do;
                }
                *self.failed.entry(self.name_of(ino)).or_default() += 1;
                Verdict::Fail(fault.failure)
            }
            _ => Verdict::Do,
        }
    }

    /// A name of the file; empty if it has none any more.
    fn name_of(&self, ino: Ino) -> OsString {
        if ino == ROOT {
            return ".".into();
        }
        let name = self.disk.names().find(|&(_, named)| named == ino);
        name.map_or_else(OsString::new, |(name, _)| name.to_owned())
    }
}
