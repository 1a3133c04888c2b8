//! Decoding a commit's records from its frames.

use std::ops::{Bound, Range};

use super::error::{Error, Result};
use super::mark::LogMark;
use super::record::{Parts, Record, Unparsed, parse};

/// Where a commit's bytes come from: the payloads of its frames, one after another.
pub(super) trait Pieces {
    /// The current payload.
    fn piece(&self) -> &[u8];
    /// Goes on to the next payload of the same commit; `false` after the last.
    fn advance(&mut self) -> Result<bool>;
    /// Segment and byte of the frame that the current payload lies in.
    fn place(&self) -> (u64, u64);
}

/// The records of one commit, in the order in which it made its changes.
///
/// Reads frame by frame: memory is needed for the one record that is looked at, and only if it
/// lies in several frames.
pub struct RecordReader<'a> {
    pieces: &'a mut dyn Pieces,
    /// The first byte of the current payload that is not yet read.
    at: usize,
    /// A record that lies in more than one frame, put together.
    joined: Vec<u8>,
    names: Vec<Box<str>>,
    selected: Option<usize>,
}

/// A record that was found: where its bytes lie, and what they say.
enum Found {
    Here { base: usize, parts: Parts },
    Joined { parts: Parts },
}

impl<'a> RecordReader<'a> {
    pub(super) fn new(pieces: &'a mut dyn Pieces) -> Self {
        RecordReader {
            pieces,
            at: 0,
            joined: Vec::new(),
            names: Vec::new(),
            selected: None,
        }
    }

    /// Bytes of log between `mark` and the frame that is being read.
    pub fn bytes_since(&self, mark: &LogMark) -> u64 {
        let (segment, offset) = self.pieces.place();
        let position = mark.segment_bytes.saturating_mul(segment);
        let position = position.saturating_add(offset);
        position.saturating_sub(mark.position.get())
    }

    /// The next record; `None` after the last. Not an `Iterator`, because a record may lie in a
    /// buffer that the next one overwrites.
    ///
    /// # Errors
    /// [`Error::Corrupt`] with the place of the frame, if the commit is no sequence of records;
    /// what reading the log's next frame returns.
    pub fn next(&mut self) -> Result<Option<Record<'_>>> {
        loop {
            let Some(found) = self.find()? else {
                return Ok(None);
            };
            if !self.is_selection(&found)? {
                return self.record(found).map(Some);
            }
        }
    }

    /// Finds the next record, whole, in the current payload or put together from several.
    fn find(&mut self) -> Result<Option<Found>> {
        while self.at == self.pieces.piece().len() {
            if !self.pieces.advance()? {
                return Ok(None);
            }
            self.at = 0;
        }
        match parse(&self.pieces.piece()[self.at..]) {
            Ok((parts, len)) => {
                let base = self.at;
                self.at += len;
                Ok(Some(Found::Here { base, parts }))
            }
            Err(Unparsed::Incomplete) => self.join().map(Some),
            Err(Unparsed::Bad(what)) => Err(self.corrupt(what)),
        }
    }

    /// Puts together a record that goes on in the next frames.
    fn join(&mut self) -> Result<Found> {
        self.joined.clear();
        self.joined
            .extend_from_slice(&self.pieces.piece()[self.at..]);
        loop {
            if !self.pieces.advance()? {
                return Err(self.corrupt("the commit ends within a record"));
            }
            self.joined.extend_from_slice(self.pieces.piece());
            match parse(&self.joined) {
                Ok((parts, len)) => {
                    self.at = self.pieces.piece().len() - (self.joined.len() - len);
                    return Ok(Found::Joined { parts });
                }
                Err(Unparsed::Incomplete) => {}
                Err(Unparsed::Bad(what)) => return Err(self.corrupt(what)),
            }
        }
    }

    /// Whether the record only says which table the following ones are about. Remembers it.
    fn is_selection(&mut self, found: &Found) -> Result<bool> {
        match found.parts() {
            Parts::NameTable(range) => {
                let name = std::str::from_utf8(self.bytes(found, range))
                    .map_err(|_| self.corrupt("a table's name is not UTF-8"))?
                    .into();
                self.selected = Some(self.names.len());
                self.names.push(name);
                Ok(true)
            }
            Parts::SelectTable(number) => {
                let index = usize::try_from(*number)
                    .ok()
                    .filter(|&index| index < self.names.len());
                self.selected = index;
                match index {
                    Some(_) => Ok(true),
                    None => Err(self.corrupt("a table's number was given to no name")),
                }
            }
            _ => Ok(false),
        }
    }

    fn record(&self, found: Found) -> Result<Record<'_>> {
        let parts = found.parts();
        if let Parts::Barrier(generation) = parts {
            return Ok(Record::Barrier {
                generation: *generation,
            });
        }
        let selected = self
            .selected
            .ok_or_else(|| self.corrupt("a record comes before any table"))?;
        let table = &*self.names[selected];
        let bytes = |range: &Range<usize>| self.bytes(&found, range);
        let bound = |bound: &Bound<Range<usize>>| bound.as_ref().map(bytes);
        Ok(match parts {
            Parts::Put(key, value) => Record::Put {
                table,
                key: bytes(key),
                value: bytes(value),
            },
            Parts::Delete(key) => Record::Delete {
                table,
                key: bytes(key),
            },
            Parts::DeleteRange(from, to) => Record::DeleteRange {
                table,
                from: bound(from),
                to: bound(to),
            },
            Parts::Clear => Record::Clear { table },
            Parts::Create => Record::CreateTable { table },
            Parts::Drop => Record::DropTable { table },
            Parts::NameTable(_) | Parts::SelectTable(_) | Parts::Barrier(_) => {
                unreachable!("handled before")
            }
        })
    }

    fn bytes(&self, found: &Found, range: &Range<usize>) -> &[u8] {
        match found {
            Found::Here { base, .. } => &self.pieces.piece()[base + range.start..base + range.end],
            Found::Joined { .. } => &self.joined[range.clone()],
        }
    }

    #[cold]
    fn corrupt(&self, what: &'static str) -> Error {
        let (segment, offset) = self.pieces.place();
        Error::corrupt(segment, offset, what)
    }
}

impl Found {
    fn parts(&self) -> &Parts {
        match self {
            Found::Here { parts, .. } | Found::Joined { parts } => parts,
        }
    }
}
