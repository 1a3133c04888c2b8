//! Recovery: what the log holds beyond the newest checkpoint, and where it ends.
//!
//! The *path* is the chain of segments that the history lies in. It is found backwards: the begun
//! segment with the highest number is its last, and the `resumes` of each one's header says which
//! one is before and where that one's part ends. What lies in between is dead: an earlier recovery
//! has left it behind.
//!
//! Recovery reads the log twice. The *survey* follows the frames from the mark to the end and
//! changes nothing; only when it has found the whole log sound are the commits replayed, each when
//! all of it is known to be there. Memory is needed for one segment and one record.
//!
//! # The end, or damage?
//!
//! Let X be the position of the first frame that is not sound or not the next of the chain. Below X
//! all is history. That the log ends at X is believed only if nothing says that more was synced:
//!
//! 1. a segment's header, which says that everything below its `resumes` was;
//! 2. the mark in the meta, which says how far the log was durable when the meta was written;
//! 3. any sound frame behind X, in this segment or a later one, chained or not, whose `synced` is
//!    above X.
//!
//! Otherwise it is `Corrupt` at X, and never a shorter history.
//!
// ANCHOR: undecidable
//! One case cannot be told apart, by any log: damage in the *last synced group*, when nothing was
//! written after it. No later frame, header or meta bears witness that this group was ever synced,
//! so it looks like a group that was being written when the power went, and the history ends before
//! it (or within it, before the first damaged frame). The case is over as soon as one sector of
//! the next group reaches storage, or a meta is written, as at every checkpoint and every clean
//! close. It takes damage that the disk model does not know (a synced sector that changed).
// ANCHOR_END: undecidable

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::sync::Arc;

use bifolio_pager::Version;
use bifolio_pager::defect::{Defect, planted};
use xxhash_rust::xxh3::xxh3_64;

use super::buffer::{AlignedBuf, MAX_ALIGNMENT};
use super::cursor::{CommitPieces, Cursor, Path, Stretch, read_segment};
use super::disk::{Disk, DiskFile};
use super::error::{Error, Result};
use super::files::{self, Names, io};
use super::frame::{Frame, Kind};
use super::mark::LogMark;
use super::position::{ALIGN, Layout, Position, SECTOR};
use super::record_reader::{Pieces, RecordReader};
use super::segment::{FORMAT, FirstSector, Header};
use super::writer::Resume;

/// What the visitor of a commit wants next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replay {
    /// The commit was taken in: the next one.
    Continue,
    /// This commit and all after it are not part of the history: a barrier whose meta is not there.
    Stop,
}

/// The log as recovery finds it. Nothing was changed yet, but that the files were synced: what is
/// read here is on storage.
pub struct History {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) file_id: [u8; 16],
    pub(super) path: Path,
    /// All segments that are there.
    pub(super) numbers: BTreeSet<u64>,
    /// The highest number of a segment that is begun, if any is.
    pub(super) highest_begun: Option<u64>,
    pub(super) temporary: bool,
    /// Where the history ends: the log goes on from there.
    pub(super) end: Resume,
    pub(super) last: Version,
    commits: u64,
    commits_end: Position,
    /// Where commits begin of which not all is there, in ascending order.
    incomplete: Vec<Position>,
    torn_at: Option<Position>,
}

/// A segment's file at or above the mark.
struct Found {
    number: u64,
    file: Box<dyn DiskFile>,
    first_sector: FirstSector,
}

impl History {
    /// Surveys the log from `mark` on. Reads every segment from there; changes nothing.
    ///
    /// # Errors
    /// [`Error::Corrupt`], [`Error::WrongLength`], [`Error::Missing`], [`Error::Foreign`],
    /// [`Error::NewerFormat`]: the log is not what was acknowledged; the module's header says how
    /// that is told from a torn tail. [`Error::Io`].
    pub fn read(
        disk: Arc<dyn Disk>,
        prefix: &OsStr,
        file_id: [u8; 16],
        mark: &LogMark,
    ) -> Result<History> {
        let layout = Layout::new(mark.segment_bytes)?;
        let names = Names::new(prefix);
        disk.sync_directory()
            .map_err(|error| Error::io("syncing the log's directory", error))?;
        let (numbers, temporary) = files::list(&*disk, &names)?;
        let found = find(
            &*disk,
            &names,
            file_id,
            layout,
            &numbers,
            layout.segment(mark.position),
        )?;
        let begun = |found: &&Found| matches!(found.first_sector, FirstSector::Begun(..));
        let highest_begun = found
            .iter()
            .filter(begun)
            .map(|found| found.number)
            .next_back();
        let (stretches, spares) = trace(found, layout, mark)?;
        let from = match stretches.first() {
            Some(first) if layout.segment(mark.position) != first.number => {
                layout.start(first.number)
            }
            _ => mark.position,
        };
        let seed = seed(file_id);
        let path = Path {
            layout,
            names,
            seed,
            stretches,
            from,
        };
        let mut history = History {
            disk,
            file_id,
            path,
            numbers,
            highest_begun,
            temporary,
            end: Resume {
                position: from,
                previous: 0,
            },
            last: Version::ZERO,
            commits: 0,
            commits_end: from,
            incomplete: Vec::new(),
            torn_at: None,
        };
        let buffer = history.survey()?;
        history.check_end(mark, &spares, buffer)?;
        Ok(history)
    }

    /// Commits to replay.
    pub fn commits(&self) -> u64 {
        self.commits
    }

    /// Bytes of log that they lie in: the measure of how long replaying will take.
    pub fn bytes(&self) -> u64 {
        self.end.position.since(self.path.from)
    }

    /// Where a group begins that was not wholly written when the log's last writer stopped.
    pub fn torn_at(&self) -> Option<Position> {
        self.torn_at
    }

    /// Hands every commit to `visit`, in order. Where it says [`Replay::Stop`], or fails, the
    /// history ends before that commit.
    ///
    /// # Errors
    /// The visitor's own. [`Error::Corrupt`], when the log is no longer what the survey found.
    pub fn replay<E: From<Error>>(
        &mut self,
        mut visit: impl FnMut(Version, &mut RecordReader<'_>) -> Result<Replay, E>,
    ) -> Result<(), E> {
        let mut cursor = Cursor::new(&self.path);
        let mut incomplete = self.incomplete.iter().copied().peekable();
        let mut replayed = (0, Version::ZERO);
        let mut stopped = None;
        while let Some(frame) = cursor.next()? {
            let Frame {
                label, previous, ..
            } = frame;
            if label.position >= self.commits_end {
                break;
            }
            if !matches!(label.kind, Kind::Whole | Kind::First)
                || incomplete.next_if_eq(&label.position).is_some()
            {
                continue; // padding, or a commit that was given up
            }
            let mut pieces = CommitPieces::new(&mut cursor, label.kind);
            if visit(label.version, &mut RecordReader::new(&mut pieces))? == Replay::Stop {
                stopped = Some(Resume {
                    position: label.position,
                    previous,
                });
                break;
            }
            while pieces.advance()? {}
            replayed = (replayed.0 + 1, label.version);
        }
        if let Some(stopped) = stopped {
            self.end = stopped;
        } else if replayed.0 != self.commits {
            return Err(self
                .path
                .corrupt(self.end.position, "the log changes while it is read")
                .into());
        }
        (self.commits, self.last) = replayed;
        Ok(())
    }

    /// Follows the chain to its end. Returns the buffer it used.
    fn survey(&mut self) -> Result<AlignedBuf> {
        let mut cursor = Cursor::new(&self.path);
        let mut open: Option<(Position, Version, u32)> = None;
        let mut ahead = Vec::new();
        let (mut commits, mut last, mut commits_end) = (0, self.last, self.commits_end);
        while let Some(frame) = cursor.next()? {
            let label = frame.label;
            let in_order = match label.kind {
                Kind::Padding => continue,
                Kind::Whole | Kind::First => {
                    ahead.extend(open.take().map(|(start, ..)| start));
                    label.piece == 0 && label.version > last
                }
                Kind::Middle | Kind::Last => open.is_some_and(|(_, version, pieces)| {
                    (label.version, label.piece) == (version, pieces)
                }),
            };
            if !in_order {
                return Err(self
                    .path
                    .corrupt(label.position, "the frames of a commit are out of order"));
            }
            if matches!(label.kind, Kind::Whole | Kind::Last) {
                (commits, last) = (commits + 1, label.version);
                commits_end = label.position.plus(frame.len() as u64);
                open = None;
            } else {
                let start = open.map_or(label.position, |(start, ..)| start);
                open = Some((start, label.version, label.piece + 1));
            }
        }
        ahead.extend(open.map(|(start, ..)| start));
        let (end, buffer) = (cursor.end(), cursor.into_buffer());
        (self.end, self.incomplete) = (end, ahead);
        (self.commits, self.last, self.commits_end) = (commits, last, commits_end);
        Ok(buffer)
    }

    /// Whether the log may end where the chain does: rules 2 and 3 of the module's header. Rule 1
    /// was kept by finding the path from its last header on.
    fn check_end(
        &mut self,
        mark: &LogMark,
        spares: &[(u64, Box<dyn DiskFile>)],
        mut bytes: AlignedBuf,
    ) -> Result<()> {
        let (end, layout) = (self.end.position, self.path.layout);
        if end < mark.durable && !planted(Defect::AcceptShortLog) {
            return Err(self.path.corrupt(end, "the log ends below what was synced"));
        }
        if layout.offset(end) == 0 && spares.is_empty() {
            return Err(Error::Missing {
                segment: layout.segment(end),
            });
        }
        let last = self
            .path
            .stretches
            .last()
            .map(|stretch| (stretch.number, &*stretch.file));
        let last = last.filter(|(number, _)| layout.segment(end) == *number);
        let after = spares.iter().map(|(number, file)| (*number, &**file));
        for (number, file) in last.into_iter().chain(after) {
            read_segment(file, number, &self.path.names, &mut bytes)?;
            match witness(&bytes, layout.start(number), end, self.path.seed) {
                Witness::Silent => {}
                Witness::Unsynced => self.torn_at = Some(end),
                Witness::Synced if planted(Defect::DamageIsTorn) => self.torn_at = Some(end),
                Witness::Synced => {
                    let what = "a frame is damaged below what was synced";
                    return Err(self.path.corrupt(end, what));
                }
            }
        }
        Ok(())
    }
}

/// What the sound frames behind the end say.
enum Witness {
    /// There are none.
    Silent,
    /// None says that more was synced.
    Unsynced,
    /// More was synced.
    Synced,
}

/// Asks the sound frames of a segment, wherever they are behind `end`, what was synced.
fn witness(bytes: &[u8], start: Position, end: Position, seed: u64) -> Witness {
    let first = end.since(start).max(SECTOR) as usize;
    let mut witness = Witness::Silent;
    for at in (first..bytes.len()).step_by(ALIGN as usize) {
        if let Some(frame) = Frame::read(&bytes[at..], start.plus(at as u64), seed) {
            if frame.synced > end {
                return Witness::Synced;
            }
            witness = Witness::Unsynced;
        }
    }
    witness
}

/// The seed of the checksums of a database's frames, so that no other database's are sound.
pub(super) fn seed(file_id: [u8; 16]) -> u64 {
    xxh3_64(&file_id)
}

/// Opens all segments from `first` on, makes sure that what is read is on storage, and reads
/// their first sectors.
fn find(
    disk: &dyn Disk,
    names: &Names,
    file_id: [u8; 16],
    layout: Layout,
    numbers: &BTreeSet<u64>,
    first: u64,
) -> Result<Vec<Found>> {
    let mut sector = AlignedBuf::zeroed(MAX_ALIGNMENT);
    let mut found = Vec::new();
    for &number in numbers.range(first..) {
        let name = names.segment(number);
        let file = disk
            .open(&name)
            .map_err(|error| io("opening", &name, error))?;
        let len = file
            .len()
            .map_err(|error| io("reading the length of", &name, error))?;
        if len != layout.segment_bytes() {
            let expected = layout.segment_bytes();
            return Err(Error::WrongLength {
                segment: number,
                expected,
                found: len,
            });
        }
        file.sync().map_err(|error| io("syncing", &name, error))?;
        file.drop_cache(0..len)
            .map_err(|error| io("dropping the cache of", &name, error))?;
        file.read_at(&mut sector, 0)
            .map_err(|error| io("reading", &name, error))?;
        let first_sector = Header::decode(&sector[..SECTOR as usize], number, file_id, layout);
        match first_sector {
            FirstSector::Foreign => return Err(Error::Foreign { segment: number }),
            FirstSector::Newer(found) => {
                return Err(Error::NewerFormat {
                    segment: number,
                    found,
                    supported: FORMAT,
                });
            }
            FirstSector::Begun(..) | FirstSector::Spare => {}
        }
        found.push(Found {
            number,
            file,
            first_sector,
        });
    }
    Ok(found)
}

type Spares = Vec<(u64, Box<dyn DiskFile>)>;

/// Finds the path backwards from the last begun segment to the mark. Returns its stretches in
/// ascending order, and the spares behind the last.
fn trace(mut found: Vec<Found>, layout: Layout, mark: &LogMark) -> Result<(Vec<Stretch>, Spares)> {
    let first = layout.segment(mark.position);
    let begun = |found: &Found| matches!(found.first_sector, FirstSector::Begun(..));
    let spares = match found.iter().rposition(begun) {
        Some(last) => found.split_off(last + 1),
        None => std::mem::take(&mut found),
    };
    let Some(last) = found.last().map(|last| last.number) else {
        // Nothing is begun. Right only if the mark lies where the next segment was to begin.
        check_spares(&spares, first)?;
        if spares.is_empty() {
            return Err(Error::Missing { segment: first });
        }
        if layout.offset(mark.position) != 0 {
            return Err(Error::corrupt(
                first,
                0,
                "the header of a segment is damaged",
            ));
        }
        return Ok((Vec::new(), to_files(spares)));
    };
    check_spares(&spares, last + 1)?;

    let mut stretches = Vec::new();
    let (mut number, mut until) = (last, None);
    loop {
        let stretch = take_stretch(&mut found, number, until)?;
        let resumes = stretch.header.resumes;
        until = Some(Resume {
            position: resumes,
            previous: stretch.header.previous,
        });
        check_salt(&stretch, layout, mark)?;
        stretches.push(stretch);
        if number == first || resumes == mark.position {
            break;
        }
        if resumes < mark.position {
            return Err(Error::corrupt(
                number,
                0,
                "the history does not reach the mark",
            ));
        }
        number = layout.segment_before(resumes);
    }
    stretches.reverse();
    Ok((stretches, to_files(spares)))
}

fn to_files(spares: Vec<Found>) -> Spares {
    spares
        .into_iter()
        .map(|found| (found.number, found.file))
        .collect()
}

/// Spares have the numbers from `next` on, without a gap.
fn check_spares(spares: &[Found], next: u64) -> Result<()> {
    for (spare, expected) in spares.iter().zip(next..) {
        if spare.number != expected {
            return Err(Error::Missing { segment: expected });
        }
    }
    Ok(())
}

fn take_stretch(found: &mut Vec<Found>, number: u64, until: Option<Resume>) -> Result<Stretch> {
    let index = found
        .iter()
        .position(|found| found.number == number)
        .ok_or(Error::Missing { segment: number })?;
    let Found {
        number,
        file,
        first_sector,
    } = found.remove(index);
    match first_sector {
        FirstSector::Begun(header, checksum) => Ok(Stretch {
            number,
            file,
            header,
            checksum,
            until,
        }),
        _ => Err(Error::corrupt(
            number,
            0,
            "the header of a segment is damaged",
        )),
    }
}

/// The mark, where it lies within a segment, must be of the same salt, and of the history.
fn check_salt(stretch: &Stretch, layout: Layout, mark: &LogMark) -> Result<()> {
    let within =
        stretch.number == layout.segment(mark.position) && layout.offset(mark.position) > 0;
    if within && stretch.header.salt != mark.salt {
        return Err(Error::corrupt(
            stretch.number,
            0,
            "the segment is of another time than the mark",
        ));
    }
    if within
        && stretch
            .until
            .is_some_and(|until| until.position < mark.position)
    {
        return Err(Error::corrupt(
            stretch.number,
            0,
            "the history ends before the mark",
        ));
    }
    Ok(())
}
