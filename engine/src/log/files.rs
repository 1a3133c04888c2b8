//! The log's files: their names, how they come to be, are used again, and go.
//!
//! Invariants:
//! 1. A file that has a segment's name has its full length, durably; so has the name by the time
//!    the segment is begun.
//! 2. Segment n + 1 has its name, durably, before the end of segment n is written. So where a valid
//!    chain reaches the end of a segment and the next one is not there, it is missing.
//! 3. A number is given once: a new or recycled segment gets the one after the highest there is,
//!    and what has the highest is never removed.
//! 4. The segments above the current one are spares, and their numbers have no gap: the directory
//!    is synced after each rename, not once after several.
//! 5. After a failure nobody changes names any more, not even who waits for `namespace` already: a
//!    second rename could survive a power cut where the one that was not synced does not.
//!
//! Locking: `namespace` is held during slow I/O, by one thread that changes names; `spares` only
//! for moments, after it. Whoever writes the log takes `namespace` only when no spare is ready.

use std::collections::{BTreeSet, VecDeque};
use std::ffi::{OsStr, OsString};
use std::sync::Arc;

use bifolio_pager::defect::{Defect, planted};
use bifolio_pager::sync::Mutex;
use bifolio_pager::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::buffer::AlignedBuf;
use super::disk::{Disk, DiskFile};
use super::error::{Error, Result};
use super::position::Layout;

const INFIX: &str = "-log.";
const TEMPORARY: &str = "tmp";
const ZEROS_BYTES: usize = 1 << 20;

/// How the files of one log are called.
#[derive(Clone, Debug)]
pub(super) struct Names {
    prefix: OsString,
}

impl Names {
    pub fn new(prefix: &OsStr) -> Self {
        let mut with_infix = prefix.to_owned();
        with_infix.push(INFIX);
        Names { prefix: with_infix }
    }

    pub fn segment(&self, number: u64) -> OsString {
        let mut name = self.prefix.clone();
        name.push(format!("{number:016x}"));
        name
    }

    /// What a segment is called until it has its length.
    pub fn temporary(&self) -> OsString {
        let mut name = self.prefix.clone();
        name.push(TEMPORARY);
        name
    }

    /// The number in the name of a segment.
    pub fn number(&self, name: &OsStr) -> Option<u64> {
        let digits = name
            .as_encoded_bytes()
            .strip_prefix(self.prefix.as_encoded_bytes())?;
        let lower = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if digits.len() != 16 || !digits.iter().all(lower) {
            return None;
        }
        u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
    }
}

/// The numbers of the segments that are there, and whether a temporary file was left behind.
pub(super) fn list(disk: &dyn Disk, names: &Names) -> Result<(BTreeSet<u64>, bool)> {
    let found = disk
        .list()
        .map_err(|error| Error::io("listing the log's directory", error))?;
    let temporary = names.temporary();
    let numbers = found.iter().filter_map(|name| names.number(name)).collect();
    Ok((numbers, found.contains(&temporary)))
}

/// A segment's file, open.
pub(super) struct Segment {
    pub number: u64,
    pub file: Box<dyn DiskFile>,
}

/// The files of one log, while it is open for writing.
pub(super) struct Files {
    pub disk: Arc<dyn Disk>,
    pub names: Names,
    layout: Layout,
    spares_kept: usize,
    namespace: Mutex<Namespace>,
    spares: Mutex<VecDeque<Segment>>,
    /// The last spare was taken, and nobody has tried to make another since.
    wants_spare: AtomicBool,
    pub created: AtomicU64,
    pub recycled: AtomicU64,
    pub removed: AtomicU64,
}

/// Which names are taken.
struct Namespace {
    numbers: BTreeSet<u64>,
    /// The first failure, in words.
    failed: Option<Arc<str>>,
}

impl Files {
    /// The files of a log whose segments have these numbers, of which none is a spare yet.
    pub fn new(
        disk: Arc<dyn Disk>,
        names: Names,
        layout: Layout,
        spares_kept: usize,
        numbers: BTreeSet<u64>,
    ) -> Self {
        Files {
            disk,
            names,
            layout,
            spares_kept,
            namespace: Mutex::new(Namespace {
                numbers,
                failed: None,
            }),
            spares: Mutex::default(),
            wants_spare: AtomicBool::new(false),
            created: AtomicU64::new(0),
            recycled: AtomicU64::new(0),
            removed: AtomicU64::new(0),
        }
    }

    /// A file that is there, to be used as a spare.
    pub fn adopt(&self, number: u64) -> Result<()> {
        let name = self.names.segment(number);
        let file = self
            .disk
            .open(&name)
            .map_err(|error| io("opening", &name, error))?;
        self.spares.lock().push_back(Segment { number, file });
        Ok(())
    }

    /// Looks at the spare that will be begun next.
    ///
    /// # Panics
    /// If there is none.
    pub fn with_front<T>(&self, look: impl FnOnce(&Segment) -> T) -> T {
        look(self.spares.lock().front().expect("a spare is ready"))
    }

    /// Takes the next segment, which becomes the current one.
    ///
    /// # Panics
    /// If it is not `number`, or [`Files::ensure_spare`] was not called before.
    pub fn take(&self, number: u64) -> Segment {
        let mut spares = self.spares.lock();
        let segment = spares.pop_front().expect("a spare is ready (invariant 2)");
        if spares.is_empty() {
            self.wants_spare.store(true, Ordering::Relaxed);
        }
        assert_eq!(
            segment.number, number,
            "spares follow the current segment (invariant 4)"
        );
        segment
    }

    /// Makes sure that a segment is ready to follow the current one. Fast if there is one;
    /// otherwise a file is made and zero-filled.
    pub fn ensure_spare(&self) -> Result<()> {
        if !self.spares.lock().is_empty() {
            return Ok(());
        }
        let made = self.change_names(|namespace| {
            if !self.spares.lock().is_empty() {
                return Ok(Made::Spare); // somebody else was about to
            }
            self.make(namespace)
        })?;
        match made {
            Made::Spare => Ok(()),
            Made::NoRoom(error) => Err(error),
        }
    }

    /// Whether the last spare was taken since anybody tried to make one.
    pub fn wants_spare(&self) -> bool {
        self.wants_spare.load(Ordering::Relaxed)
    }

    /// Makes spares until there are `wanted`, or as many as there is room for.
    pub fn prepare(&self, wanted: usize) -> Result<()> {
        self.wants_spare.store(false, Ordering::Relaxed);
        self.change_names(|namespace| {
            while self.spares.lock().len() < wanted {
                match self.make(namespace)? {
                    Made::Spare => {}
                    Made::NoRoom(_) => break, // nobody relies on it yet
                }
            }
            Ok(())
        })
    }

    /// Uses the segments below `first_kept` again, the oldest first, or removes them when there
    /// are spares enough.
    pub fn recycle(&self, first_kept: u64) -> Result<()> {
        self.change_names(|namespace| {
            let freed: Vec<u64> = namespace.numbers.range(..first_kept).copied().collect();
            let mut removed = false;
            for number in freed {
                if self.spares.lock().len() < self.spares_kept {
                    self.reuse(namespace, number)?;
                } else {
                    self.remove(namespace, number)?;
                    removed = true;
                }
            }
            if removed {
                self.sync_directory()
            } else {
                Ok(())
            }
        })
    }

    /// Does what changes names, one after the other, until the first failure (invariant 5).
    fn change_names<T>(&self, change: impl FnOnce(&mut Namespace) -> Result<T>) -> Result<T> {
        let mut namespace = self.namespace.lock();
        if let Some(first) = &namespace.failed {
            let first = Arc::clone(first);
            return Err(Error::Poisoned { first });
        }
        change(&mut namespace).inspect_err(|error| {
            namespace.failed = Some(error.to_string().into());
        })
    }

    fn reuse(&self, namespace: &mut Namespace, number: u64) -> Result<()> {
        let (old, next) = (self.names.segment(number), namespace.next());
        let name = self.names.segment(next);
        self.disk
            .rename(&old, &name)
            .map_err(|error| io("renaming", &old, error))?;
        namespace.numbers.remove(&number);
        self.name_is_new(namespace, next)?;
        let file = self
            .disk
            .open(&name)
            .map_err(|error| io("opening", &name, error))?;
        self.spares.lock().push_back(Segment { number: next, file });
        self.recycled.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn remove(&self, namespace: &mut Namespace, number: u64) -> Result<()> {
        let name = self.names.segment(number);
        self.disk
            .remove(&name)
            .map_err(|error| io("removing", &name, error))?;
        namespace.numbers.remove(&number);
        self.removed.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Makes a segment's file in the order of invariant 1: length and content, then the name. Where
    /// there is no room for it, all is as before.
    fn make(&self, namespace: &mut Namespace) -> Result<Made> {
        let (temporary, number) = (self.names.temporary(), namespace.next());
        let name = self.names.segment(number);
        let created = self.disk.create(&temporary);
        let file = match created.map_err(|error| io("creating", &temporary, error)) {
            Ok(file) => file,
            Err(error) if error.is_no_room() => return Ok(Made::NoRoom(error)),
            Err(error) => return Err(error),
        };
        match self.fill(&*file) {
            Ok(()) => {}
            Err(error) => {
                let error = io("allocating", &temporary, error);
                if !error.is_no_room() {
                    return Err(error);
                }
                drop(file);
                remove_temporary(&*self.disk, &self.names)?;
                return Ok(Made::NoRoom(error));
            }
        }
        self.disk
            .rename(&temporary, &name)
            .map_err(|error| io("renaming", &temporary, error))?;
        self.name_is_new(namespace, number)?;
        self.spares.lock().push_back(Segment { number, file });
        self.created.fetch_add(1, Ordering::Relaxed);
        Ok(Made::Spare)
    }

    /// Zeros are written, and not only allocated: the sync of a later overwrite then has no
    /// change of the file's metadata to make durable.
    fn fill(&self, file: &dyn DiskFile) -> std::io::Result<()> {
        let len = self.layout.segment_bytes();
        file.allocate(len)?;
        let zeros = AlignedBuf::zeroed(ZEROS_BYTES.min(len as usize));
        for offset in (0..len).step_by(zeros.len()) {
            file.write_at(&zeros, offset)?;
        }
        if !planted(Defect::SkipFillSync) {
            file.sync()?;
        }
        file.drop_cache(0..len)
    }

    fn name_is_new(&self, namespace: &mut Namespace, number: u64) -> Result<()> {
        namespace.numbers.insert(number);
        self.sync_directory()
    }

    fn sync_directory(&self) -> Result<()> {
        if planted(Defect::SkipDirectorySync) {
            return Ok(());
        }
        self.disk
            .sync_directory()
            .map_err(|error| Error::io("syncing the log's directory", error))
    }
}

/// What came of making a segment.
enum Made {
    Spare,
    /// The disk, or what this user may have of it, is full.
    NoRoom(Error),
}

impl Namespace {
    fn next(&self) -> u64 {
        self.numbers.last().map_or(1, |highest| highest + 1)
    }
}

/// Removes what a crash left of a segment that was being made.
pub(super) fn remove_temporary(disk: &dyn Disk, names: &Names) -> Result<()> {
    let name = names.temporary();
    disk.remove(&name)
        .map_err(|error| io("removing", &name, error))
}

#[cold]
pub(super) fn io(verb: &str, name: &OsStr, error: std::io::Error) -> Error {
    Error::io(format!("{verb} {}", name.display()), error)
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use super::super::sim::{Fault, SimDisk};
    use super::*;

    /// The proof's layer of failures under a real kernel found it: the sync of the directory failed
    /// after one thread had named segment 8, and another, which waited, named segment 9. The power cut
    /// left 9 without 8, and the log was refused as one that misses a segment.
    #[test]
    fn after_a_failure_nobody_changes_a_name_any_more() {
        let run = |at: Option<u64>| {
            let disk = SimDisk::new(1);
            let layout = Layout::new(1 << 14).unwrap();
            let names = Names::new(OsStr::new("a.db"));
            let files = Files::new(Arc::new(disk.clone()), names, layout, 1, BTreeSet::new());
            files.prepare(2).unwrap();
            drop(files.take(1));
            drop(files.take(2));
            let before = disk.operations();
            if let Some(at) = at {
                disk.fail_at(before + at, Fault::Error(ErrorKind::Other));
            }
            let made = files.prepare(1);
            let after = disk.operations();
            let later = [files.recycle(3), files.ensure_spare(), files.prepare(2)];
            let later = later.iter().filter(|outcome| outcome.is_ok()).count();
            (
                made.is_ok(),
                after - before,
                later,
                disk.operations() - after,
            )
        };
        let (made, operations, later, more) = run(None);
        assert!(made && later == 3 && more > 0, "{operations}, {more}");
        for at in 0..operations {
            let (made, _, later, more) = run(Some(at));
            assert!(!made && later == 0, "operation {at}");
            assert_eq!(
                more, 0,
                "operation {at}: names were changed after it failed"
            );
        }
    }

    #[test]
    fn only_a_segments_name_has_a_number() {
        let names = Names::new(OsStr::new("a.db"));
        assert_eq!(names.segment(0x1F), "a.db-log.000000000000001f");
        assert_eq!(names.number(&names.segment(u64::MAX)), Some(u64::MAX));
        let others = [
            "a.db-log.tmp",
            "a.db-log.1f",
            "a.db-log.000000000000001F",
            "a.db-log.+00000000000001f",
            "a.db-log.000000000000001f~",
            "b.db-log.000000000000001f",
            "a.db",
        ];
        for other in others {
            assert_eq!(names.number(OsStr::new(other)), None, "{other}");
        }
    }
}
