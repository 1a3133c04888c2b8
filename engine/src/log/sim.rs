//! A disk in memory whose power can be cut: the disk model of the tests, made code.
//!
//! The model: a 512-byte sector is atomic; writes that were not synced survive in any subset and in
//! any order; a change of length is a write of its own; names that were not synced with their
//! directory may be lost, each by itself; what was synced survives. Optionally a sector that was
//! being written holds garbage afterwards.
//!
//! Every operation that changes something is counted. A test can look at the disk before each of
//! them ([`SimDisk::before_each`]) and take an image of what a power cut there and then would leave
//! ([`SimDisk::power_cut`]), or have the n-th one fail ([`SimDisk::fail_at`]).

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::ops::Range;
use std::sync::Arc;

use bifolio_pager::sync;
use parking_lot::Mutex;

use super::disk::{Disk, DiskFile};

const SECTOR: usize = 512;

/// What a power cut leaves of what was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Survival {
    /// Nothing of it.
    Nothing,
    /// All of it, as when only the process died.
    Everything,
    /// A random subset, in a random order.
    Some,
    /// The same, and some of the sectors that could have been written hold garbage.
    Garbage,
    /// A random subset, and no change of length.
    LengthLost,
}

/// How an operation fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// With this error, having done nothing.
    Error(io::ErrorKind),
    /// With an error, having done half of what it should.
    Partly,
    /// Like every operation after it: the power is gone.
    PowerOff,
}

/// A simulated directory. Clones are the same disk.
#[derive(Clone, Default)]
pub struct SimDisk {
    shared: Arc<Shared>,
}

type Hook = Arc<Mutex<dyn FnMut(&SimDisk, u64) + Send>>;

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// In a model, other threads may go on here: before each operation, and not amid one.
    hook: sync::Mutex<Option<Hook>>,
}

#[derive(Default)]
struct State {
    files: Vec<Inode>,
    /// The names as programs see them, and as they survive.
    names: BTreeMap<OsString, usize>,
    durable_names: BTreeMap<OsString, usize>,
    renamings: Vec<Renaming>,
    alignment: usize,
    operations: u64,
    syncs: u64,
    fault: Option<(u64, Fault)>,
    off: bool,
    /// What making a file fails with.
    full: Option<io::ErrorKind>,
    lying: bool,
    random: u64,
}

/// A change of names: what is taken away and what is given, in one step.
#[derive(Clone)]
struct Renaming {
    gone: Option<OsString>,
    given: Option<(OsString, usize)>,
}

#[derive(Clone, Default)]
struct Inode {
    live: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Change>,
}

#[derive(Clone)]
enum Change {
    Length(usize),
    Sector(usize, Vec<u8>),
}

/// A small random generator: the same seed, the same disk.
pub(crate) fn next_random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

impl SimDisk {
    /// An empty directory. `seed` decides which salts it draws.
    pub fn new(seed: u64) -> Self {
        let disk = SimDisk::default();
        disk.shared.state.lock().random = seed;
        disk.shared.state.lock().alignment = SECTOR;
        disk
    }

    /// What files ask of offsets and lengths from now on.
    pub fn set_alignment(&self, alignment: usize) {
        self.shared.state.lock().alignment = alignment;
    }

    /// Operations so far that changed something.
    pub fn operations(&self) -> u64 {
        self.shared.state.lock().operations
    }

    /// Syncs of files so far, an `O_DSYNC` write counted as one.
    pub fn syncs(&self) -> u64 {
        self.shared.state.lock().syncs
    }

    /// Calls `hook` before each operation that changes something, with the operation's index.
    pub fn before_each(&self, hook: impl FnMut(&SimDisk, u64) + Send + 'static) {
        *self.shared.hook.lock() = Some(Arc::new(Mutex::new(hook)));
    }

    /// Stops calling the hook, and drops it.
    pub fn unhook(&self) {
        *self.shared.hook.lock() = None;
    }

    /// Makes the operation with this index fail.
    pub fn fail_at(&self, operation: u64, fault: Fault) {
        self.shared.state.lock().fault = Some((operation, fault));
    }

    /// From now on no file can be made: the disk is full.
    pub fn refuse_new_files(&self, kind: io::ErrorKind) {
        self.shared.state.lock().full = Some(kind);
    }

    /// From now on syncs return `Ok` and do nothing.
    pub fn lie(&self) {
        self.shared.state.lock().lying = true;
    }

    /// What a power cut now would leave: a disk of its own.
    pub fn power_cut(&self, seed: u64, survival: Survival) -> SimDisk {
        let state = self.shared.state.lock();
        let mut random = seed;
        let mut image = State {
            durable_names: state.durable_names.clone(),
            alignment: state.alignment,
            random: next_random(&mut random),
            ..State::default()
        };
        image.files = state
            .files
            .iter()
            .map(|file| file.after_cut(&mut random, survival))
            .collect();
        for renaming in &state.renamings {
            let survives = match survival {
                Survival::Nothing => false,
                Survival::Everything => true,
                Survival::Some | Survival::Garbage | Survival::LengthLost => {
                    next_random(&mut random).is_multiple_of(2)
                }
            };
            if survives {
                renaming.apply(&mut image.durable_names);
            }
        }
        image.names = image.durable_names.clone();
        SimDisk {
            shared: Arc::new(Shared {
                state: Mutex::new(image),
                hook: sync::Mutex::default(),
            }),
        }
    }

    /// A copy of the disk as it is, everything on it durable.
    pub fn copy(&self) -> SimDisk {
        self.power_cut(1, Survival::Everything)
    }

    /// What a program finds that opens the disk after this one died: the cache is still there.
    pub fn copy_as_is(&self) -> SimDisk {
        let state = self.shared.state.lock();
        let copy = State {
            files: state.files.clone(),
            names: state.names.clone(),
            durable_names: state.durable_names.clone(),
            renamings: state.renamings.clone(),
            alignment: state.alignment,
            random: state.random,
            ..State::default()
        };
        SimDisk {
            shared: Arc::new(Shared {
                state: Mutex::new(copy),
                hook: sync::Mutex::default(),
            }),
        }
    }

    /// The content of a file, for damaging it.
    pub fn content(&self, name: &OsStr) -> Vec<u8> {
        let state = self.shared.state.lock();
        state.files[state.names[name]].live.clone()
    }

    /// Puts something else into a file, durably.
    pub fn damage(&self, name: &OsStr, content: Vec<u8>) {
        let mut state = self.shared.state.lock();
        let index = state.names[name];
        state.files[index] = Inode {
            live: content.clone(),
            durable: content,
            pending: Vec::new(),
        };
    }

    /// Counts an operation. Returns whether to do it, or half of it, or what error it meets.
    fn operation(&self) -> io::Result<bool> {
        let hook = self.shared.hook.lock().clone();
        if let Some(hook) = hook
            && let Some(mut hook) = hook.try_lock()
        {
            let index = self.operations();
            hook(self, index);
        }
        let mut state = self.shared.state.lock();
        let index = state.operations;
        state.operations += 1;
        if state.off {
            return Err(io::Error::other("the power is off"));
        }
        match state.fault {
            Some((at, Fault::Error(kind))) if at == index => Err(kind.into()),
            Some((at, Fault::Partly)) if at == index => Ok(false),
            Some((at, Fault::PowerOff)) if at == index => {
                state.off = true;
                Err(io::Error::other("the power is off"))
            }
            _ => Ok(true),
        }
    }

    fn whole_operation(&self) -> io::Result<()> {
        if self.operation()? {
            Ok(())
        } else {
            Err(io::ErrorKind::Other.into())
        }
    }

    fn rename_in(state: &mut State, renaming: Renaming) {
        renaming.apply(&mut state.names);
        state.renamings.push(renaming);
    }
}

impl Renaming {
    fn apply(&self, names: &mut BTreeMap<OsString, usize>) {
        if let Some(gone) = &self.gone {
            names.remove(gone);
        }
        if let Some((name, file)) = &self.given {
            names.insert(name.clone(), *file);
        }
    }
}

impl Inode {
    fn write(&mut self, from: &[u8], offset: usize) {
        if self.live.len() < offset + from.len() {
            self.live.resize(offset + from.len(), 0);
            self.pending.push(Change::Length(self.live.len()));
        }
        self.live[offset..offset + from.len()].copy_from_slice(from);
        for (index, sector) in from.chunks(SECTOR).enumerate() {
            self.pending
                .push(Change::Sector(offset + index * SECTOR, sector.to_vec()));
        }
    }

    fn sync(&mut self) {
        self.durable.clone_from(&self.live);
        self.pending.clear();
    }

    fn after_cut(&self, random: &mut u64, survival: Survival) -> Inode {
        let mut content = self.durable.clone();
        let mut changes: Vec<&Change> = self.pending.iter().collect();
        match survival {
            Survival::Nothing => changes.clear(),
            Survival::Everything => content.clone_from(&self.live),
            Survival::Some | Survival::Garbage | Survival::LengthLost => {
                if survival == Survival::LengthLost {
                    changes.retain(|change| matches!(change, Change::Sector(..)));
                }
                // How much survives varies from cut to cut: from hardly anything to nearly all.
                let share = next_random(random) % 9;
                changes.retain(|_| next_random(random) % 8 < share);
                for index in (1..changes.len()).rev() {
                    changes.swap(index, next_random(random) as usize % (index + 1));
                }
                let garbage = survival == Survival::Garbage;
                for change in changes {
                    change.apply(&mut content, garbage, random);
                }
            }
        }
        Inode {
            live: content.clone(),
            durable: content,
            pending: Vec::new(),
        }
    }
}

impl Change {
    fn apply(&self, content: &mut Vec<u8>, garbage: bool, random: &mut u64) {
        match self {
            Change::Length(len) => content.resize(*len, 0),
            Change::Sector(offset, bytes) => {
                let end = content.len().min(offset + bytes.len());
                if *offset >= end {
                    return;
                }
                let target = &mut content[*offset..end];
                target.copy_from_slice(&bytes[..target.len()]);
                if garbage && next_random(random).is_multiple_of(6) {
                    let from = next_random(random) as usize % target.len();
                    target[from..]
                        .iter_mut()
                        .for_each(|byte| *byte = next_random(random) as u8);
                }
            }
        }
    }
}

fn not_found() -> io::Error {
    io::ErrorKind::NotFound.into()
}

impl Disk for SimDisk {
    fn list(&self) -> io::Result<Vec<OsString>> {
        Ok(self.shared.state.lock().names.keys().cloned().collect())
    }

    fn create(&self, name: &OsStr) -> io::Result<Box<dyn DiskFile>> {
        self.whole_operation()?;
        let mut state = self.shared.state.lock();
        if let Some(kind) = state.full {
            return Err(kind.into());
        }
        if state.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let index = state.files.len();
        state.files.push(Inode::default());
        let given = Some((name.to_owned(), index));
        SimDisk::rename_in(&mut state, Renaming { gone: None, given });
        Ok(Box::new(SimFile {
            disk: self.clone(),
            index,
        }))
    }

    fn open(&self, name: &OsStr) -> io::Result<Box<dyn DiskFile>> {
        let index = *self
            .shared
            .state
            .lock()
            .names
            .get(name)
            .ok_or_else(not_found)?;
        Ok(Box::new(SimFile {
            disk: self.clone(),
            index,
        }))
    }

    fn rename(&self, from: &OsStr, to: &OsStr) -> io::Result<()> {
        self.whole_operation()?;
        let mut state = self.shared.state.lock();
        let index = *state.names.get(from).ok_or_else(not_found)?;
        assert!(
            !state.names.contains_key(to),
            "the log renames to free names only"
        );
        let given = Some((to.to_owned(), index));
        SimDisk::rename_in(
            &mut state,
            Renaming {
                gone: Some(from.to_owned()),
                given,
            },
        );
        Ok(())
    }

    fn remove(&self, name: &OsStr) -> io::Result<()> {
        self.whole_operation()?;
        let mut state = self.shared.state.lock();
        state.names.get(name).ok_or_else(not_found)?;
        SimDisk::rename_in(
            &mut state,
            Renaming {
                gone: Some(name.to_owned()),
                given: None,
            },
        );
        Ok(())
    }

    fn sync_directory(&self) -> io::Result<()> {
        self.whole_operation()?;
        let mut state = self.shared.state.lock();
        state.durable_names = state.names.clone();
        state.renamings.clear();
        Ok(())
    }

    fn draw(&self) -> u64 {
        next_random(&mut self.shared.state.lock().random)
    }
}

/// An open file of a [`SimDisk`].
struct SimFile {
    disk: SimDisk,
    index: usize,
}

impl SimFile {
    fn aligned(&self, bytes: &[u8], offset: u64) {
        let alignment = self.disk.shared.state.lock().alignment;
        assert!(
            (offset as usize).is_multiple_of(alignment),
            "offset {offset}"
        );
        assert!(
            bytes.len().is_multiple_of(alignment),
            "length {}",
            bytes.len()
        );
        assert!(bytes.as_ptr().addr().is_multiple_of(alignment), "address");
    }
}

impl DiskFile for SimFile {
    fn alignment(&self) -> io::Result<usize> {
        Ok(self.disk.shared.state.lock().alignment)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.shared.state.lock().files[self.index].live.len() as u64)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.disk.whole_operation()?;
        let file = &mut self.disk.shared.state.lock().files[self.index];
        file.live.resize(len as usize, 0);
        file.pending.push(Change::Length(len as usize));
        Ok(())
    }

    fn read_at(&self, to: &mut [u8], offset: u64) -> io::Result<()> {
        self.aligned(to, offset);
        let file = &self.disk.shared.state.lock().files[self.index];
        let end = offset as usize + to.len();
        let from = file
            .live
            .get(offset as usize..end)
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        to.copy_from_slice(from);
        Ok(())
    }

    fn write_at(&self, from: &[u8], offset: u64) -> io::Result<()> {
        self.aligned(from, offset);
        let whole = self.disk.operation()?;
        let written = if whole {
            from
        } else {
            &from[..from.len() / 2 / SECTOR * SECTOR]
        };
        self.disk.shared.state.lock().files[self.index].write(written, offset as usize);
        if whole {
            Ok(())
        } else {
            Err(io::ErrorKind::WriteZero.into())
        }
    }

    fn write_synced_at(&self, from: &[u8], offset: u64) -> io::Result<()> {
        // Two operations, so that a cut can come in between.
        self.write_at(from, offset)?;
        self.sync()
    }

    fn sync(&self) -> io::Result<()> {
        let outcome = self.disk.whole_operation();
        let mut state = self.disk.shared.state.lock();
        state.syncs += 1;
        let mut random = state.operations;
        let (off, lying) = (state.off, state.lying);
        let file = &mut state.files[self.index];
        match outcome {
            Ok(()) if lying => {}
            Ok(()) => file.sync(),
            // What Linux does: the cache keeps what was written and calls it clean, so that the
            // next sync returns `Ok`; storage has got some of it.
            Err(_) if !off => {
                let live = std::mem::take(&mut file.live);
                *file = Inode {
                    live,
                    ..file.after_cut(&mut random, Survival::Some)
                };
            }
            Err(_) => {}
        }
        outcome
    }

    fn drop_cache(&self, _: Range<u64>) -> io::Result<()> {
        let file = &mut self.disk.shared.state.lock().files[self.index];
        if file.pending.is_empty() {
            file.live.clone_from(&file.durable);
        }
        Ok(())
    }
}
