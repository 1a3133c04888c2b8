//! How a log comes to be open: created, or recovered.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::sync::Arc;

use bifolio_pager::Version;

use super::disk::Disk;
use super::error::{Error, Result};
use super::files::{self, Files, Names, io};
#[cfg(any(test, fuzzing))]
use super::history::Replay;
use super::history::{History, seed};
use super::log::{Log, Parts};
#[cfg(any(test, fuzzing))]
use super::mark::LogMark;
use super::options::{Options, SyncMethod};
use super::position::{Layout, Position};
#[cfg(any(test, fuzzing))]
use super::record_reader::RecordReader;
use super::writer::{Identity, Resume, Writer, probe};

/// What recovery did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// Commits replayed.
    pub commits: u64,
    /// The last of them; [`Version::ZERO`] if there was none.
    pub last: Version,
    /// Bytes of log read to find them.
    pub bytes: u64,
    /// Where a group began that was not wholly written when the log's last writer stopped.
    pub torn_at: Option<Position>,
    /// Segments that were there.
    pub segments: u64,
}

impl Log {
    /// Makes the log of a new database: its first segment, begun and durable.
    ///
    /// The database must not have its name before this returns; if it never gets it, what is left
    /// of the log goes by [`Log::remove_all`].
    ///
    /// # Errors
    /// [`Error::Exists`], [`Error::BadOption`], [`Error::Io`].
    pub fn create(
        disk: Arc<dyn Disk>,
        prefix: &OsStr,
        file_id: [u8; 16],
        options: Options,
    ) -> Result<Log> {
        options.check()?;
        let layout = Layout::new(options.segment_bytes)?;
        let names = Names::new(prefix);
        let (numbers, temporary) = files::list(&*disk, &names)?;
        if let Some(&number) = numbers.first() {
            let name = names.segment(number).display().to_string();
            return Err(Error::Exists { name });
        }
        if temporary {
            files::remove_temporary(&*disk, &names)?;
        }
        let resume = Resume {
            position: layout.start(1),
            previous: 0,
        };
        let start = Start {
            disk,
            names,
            layout,
            file_id,
            numbers,
            resume,
            last: Version::ZERO,
        };
        start.begin(1, options)
    }

    /// Opens the log of a database that was not closed, or was: replays what follows `mark`, then
    /// begins a new segment with a new salt, so that nothing beyond the end is ever replayed.
    ///
    /// `visit` gets each complete commit, in order. An error of its own ends recovery with that
    /// error, and nothing is changed; the log can be recovered again.
    ///
    /// # Errors
    /// Those of [`History::read`], the visitor's, [`Error::BadOption`], [`Error::Io`].
    #[cfg(any(test, fuzzing))]
    pub fn recover<E: From<Error>>(
        disk: Arc<dyn Disk>,
        prefix: &OsStr,
        file_id: [u8; 16],
        mark: &LogMark,
        options: Options,
        visit: impl FnMut(Version, &mut RecordReader<'_>) -> Result<Replay, E>,
    ) -> Result<(Log, Recovered), E> {
        options.check()?;
        let mut history = History::read(disk, prefix, file_id, mark)?;
        history.replay(visit)?;
        Ok(history.begin(options)?)
    }

    /// The names of the files of the log with this prefix.
    pub fn files(disk: &dyn Disk, prefix: &OsStr) -> Result<Vec<OsString>> {
        let names = Names::new(prefix);
        let (numbers, _) = files::list(disk, &names)?;
        Ok(numbers
            .into_iter()
            .map(|number| names.segment(number))
            .collect())
    }

    /// Removes every segment with this prefix, whatever it holds: for a database that is deleted, or
    /// whose creation was cut short.
    ///
    /// # Errors
    /// [`Error::Io`]. Some segments may be gone then.
    pub fn remove_all(disk: &dyn Disk, prefix: &OsStr) -> Result<()> {
        let names = Names::new(prefix);
        let (numbers, temporary) = files::list(disk, &names)?;
        for number in numbers {
            let name = names.segment(number);
            disk.remove(&name)
                .map_err(|error| io("removing", &name, error))?;
        }
        if temporary {
            files::remove_temporary(disk, &names)?;
        }
        disk.sync_directory()
            .map_err(|error| Error::io("syncing the log's directory", error))
    }
}

impl History {
    /// Opens the log for appending, in a new segment. Everything beyond the end of the history is
    /// dead from now on: the new segment's header says so, and is durable when this returns.
    ///
    /// # Errors
    /// [`Error::BadOption`], [`Error::Io`].
    pub fn begin(self, options: Options) -> Result<(Log, Recovered)> {
        options.check()?;
        let recovered = Recovered {
            commits: self.commits(),
            last: self.last,
            bytes: self.bytes(),
            torn_at: self.torn_at(),
            segments: self.numbers.len() as u64,
        };
        if self.temporary {
            files::remove_temporary(&*self.disk, &self.path.names)?;
        }
        let layout = self.path.layout;
        let after = layout.segment_before(self.end.position) + 1;
        // A begun segment keeps what it has until the new one is durable: where the history was
        // cut short before it, the new one comes after everything that is there.
        let number = match self.highest_begun {
            Some(begun) if begun >= after => self.numbers.last().map_or(after, |last| last + 1),
            _ => after,
        };
        let start = Start {
            disk: self.disk,
            names: self.path.names,
            layout,
            file_id: self.file_id,
            numbers: self.numbers,
            resume: self.end,
            last: self.last,
        };
        Ok((start.begin(number, options)?, recovered))
    }
}

/// What is known when a log is about to begin its next segment.
struct Start {
    disk: Arc<dyn Disk>,
    names: Names,
    layout: Layout,
    file_id: [u8; 16],
    numbers: BTreeSet<u64>,
    resume: Resume,
    last: Version,
}

impl Start {
    /// Begins segment `number`, which is a spare, or comes after all that are there.
    fn begin(self, number: u64, options: Options) -> Result<Log> {
        let Start {
            disk,
            names,
            layout,
            file_id,
            numbers,
            resume,
            last,
        } = self;
        let salt = disk.draw();
        let spares: Vec<u64> = numbers.range(number..).copied().collect();
        let files = Files::new(disk, names, layout, options.spare_segments, numbers);
        for spare in spares {
            files.adopt(spare)?;
        }
        files.ensure_spare()?;
        let (alignment, method) = files.with_front(|segment| {
            let alignment = segment.file.alignment();
            let alignment = alignment.map_err(|error| Error::io("asking for alignment", error))?;
            let method = match options.sync {
                SyncMethod::Auto => probe(segment)?,
                chosen => chosen,
            };
            Ok((alignment, method))
        })?;
        let files = Arc::new(files);
        let identity = Identity {
            layout,
            file_id,
            seed: seed(file_id),
            salt,
        };
        let writer = Writer::new(identity, Arc::clone(&files), method, resume);
        Log::begin(Parts {
            layout,
            salt,
            alignment,
            buffer_bytes: options.buffer_bytes,
            start: layout.start(number),
            last,
            files,
            writer,
        })
    }
}
