//! Reading the log frame by frame, along the path that its segment headers give.

use super::buffer::AlignedBuf;
use super::disk::DiskFile;
use super::error::{Error, Result};
use super::files::{Names, io};
use super::frame::Kind;
use super::frame::{Frame, HEADER_LEN};
use super::position::{Layout, Place, Position, SECTOR};
use super::record_reader::Pieces;
use super::segment::Header;
use super::writer::Resume;

/// A segment of the history, and the part of it that counts.
pub(super) struct Stretch {
    pub number: u64,
    pub file: Box<dyn DiskFile>,
    pub header: Header,
    /// The checksum of the header.
    pub checksum: u64,
    /// Where its part of the history ends, if the next stretch says so; else it ends where the
    /// chain does.
    pub until: Option<Resume>,
}

/// The path: what is the same for every cursor on it.
pub(super) struct Path {
    pub layout: Layout,
    pub names: Names,
    pub seed: u64,
    pub stretches: Vec<Stretch>,
    /// Where reading begins: within the first stretch, or at its start, or, if there is none, where
    /// the first segment is yet to be begun.
    pub from: Position,
}

impl Path {
    #[cold]
    pub fn corrupt(&self, at: Position, what: &'static str) -> Error {
        let (segment, offset) = self.layout.split(at);
        Error::corrupt(segment, offset, what)
    }
}

/// Reads a segment's file as a whole.
pub(super) fn read_segment(
    file: &dyn DiskFile,
    number: u64,
    names: &Names,
    to: &mut [u8],
) -> Result<()> {
    file.read_at(to, 0)
        .map_err(|error| io("reading", &names.segment(number), error))
}

/// A place in the history. Every frame that it passes is the next one of the chain.
pub(super) struct Cursor<'h> {
    path: &'h Path,
    /// Index of the stretch that `position` lies in, or at the end of.
    stretch: usize,
    position: Position,
    /// The checksum of the last frame or header; `None` before the first.
    chain: Option<u64>,
    /// The current segment, whole.
    bytes: AlignedBuf,
    loaded: Option<u64>,
    frame: Option<Frame>,
}

impl<'h> Cursor<'h> {
    pub fn new(path: &'h Path) -> Self {
        Cursor {
            path,
            stretch: 0,
            position: path.from,
            chain: None,
            bytes: AlignedBuf::zeroed(path.layout.segment_bytes() as usize),
            loaded: None,
            frame: None,
        }
    }

    /// Where the chain ends, once [`next`](Self::next) has said that it does.
    pub fn end(&self) -> Resume {
        Resume {
            position: self.position,
            previous: self.chain.unwrap_or(0),
        }
    }

    /// The cursor's buffer, a segment long, for another use.
    pub fn into_buffer(self) -> AlignedBuf {
        self.bytes
    }

    /// The next frame; `None` where no frame follows and none need follow.
    ///
    /// # Errors
    /// [`Error::Corrupt`] where a frame must follow, because a later segment's header says so.
    pub fn next(&mut self) -> Result<Option<Frame>> {
        let layout = self.path.layout;
        loop {
            let Some(stretch) = self.path.stretches.get(self.stretch) else {
                return Ok(None);
            };
            if let Some(until) = stretch.until
                && self.position >= until.position
            {
                self.leave(until)?;
                continue;
            }
            if layout.segment(self.position) != stretch.number {
                return Ok(None); // at the end of the last segment
            }
            self.load(stretch)?;
            let sound = match layout.place(self.position) {
                Place::Header => {
                    self.chain = Some(stretch.checksum);
                    self.position = self.position.plus(SECTOR);
                    true
                }
                Place::Gap(gap) => self.pass_gap(gap),
                Place::Frame(_) => match self.read_frame(stretch) {
                    Some(frame) => return Ok(Some(frame)),
                    None => false,
                },
            };
            if !sound {
                return match stretch.until {
                    Some(_) => Err(self.path.corrupt(self.position, "a frame is damaged")),
                    None => Ok(None),
                };
            }
        }
    }

    /// Goes on to the next stretch, whose header says where this one ends.
    fn leave(&mut self, until: Resume) -> Result<()> {
        if self.position > until.position {
            return Err(self
                .path
                .corrupt(until.position, "the history ends within a frame"));
        }
        let linked = self
            .chain
            .is_none_or(|chain| chain == until.previous || until.previous == 0);
        if !linked {
            return Err(self
                .path
                .corrupt(until.position, "the frame before is not the one it was"));
        }
        self.stretch += 1;
        let next = self
            .path
            .stretches
            .get(self.stretch)
            .expect("`until` is the next one's");
        self.position = self.path.layout.start(next.number);
        Ok(())
    }

    fn load(&mut self, stretch: &Stretch) -> Result<()> {
        if self.loaded != Some(stretch.number) {
            self.loaded = None;
            read_segment(
                &*stretch.file,
                stretch.number,
                &self.path.names,
                &mut self.bytes,
            )?;
            self.loaded = Some(stretch.number);
        }
        Ok(())
    }

    fn pass_gap(&mut self, gap: u64) -> bool {
        let at = self.path.layout.offset(self.position) as usize;
        let zeros = self.bytes[at..at + gap as usize]
            .iter()
            .all(|&byte| byte == 0);
        if zeros {
            self.position = self.position.plus(gap);
        }
        zeros
    }

    fn read_frame(&mut self, stretch: &Stretch) -> Option<Frame> {
        let at = self.path.layout.offset(self.position) as usize;
        let frame = Frame::read(&self.bytes[at..], self.position, self.path.seed)?;
        let next = frame.salt == stretch.header.salt
            && self.chain.is_none_or(|chain| chain == frame.previous)
            && frame.synced <= self.position;
        if !next {
            return None;
        }
        self.chain = Some(frame.checksum);
        self.position = self.position.plus(frame.len() as u64);
        self.frame = Some(frame);
        Some(frame)
    }

    fn payload(&self) -> &[u8] {
        let Some(frame) = self.frame else { return &[] };
        let at = self.path.layout.offset(frame.label.position) as usize + HEADER_LEN;
        &self.bytes[at..at + frame.payload_len]
    }
}

/// The payloads of one commit, from its first frame on, which the cursor has just passed.
pub(super) struct CommitPieces<'c, 'h> {
    cursor: &'c mut Cursor<'h>,
    complete: bool,
}

impl<'c, 'h> CommitPieces<'c, 'h> {
    pub fn new(cursor: &'c mut Cursor<'h>, first: Kind) -> Self {
        CommitPieces {
            cursor,
            complete: first == Kind::Whole,
        }
    }
}

impl Pieces for CommitPieces<'_, '_> {
    fn piece(&self) -> &[u8] {
        self.cursor.payload()
    }

    fn advance(&mut self) -> Result<bool> {
        while !self.complete {
            match self.cursor.next()?.map(|frame| frame.label.kind) {
                Some(Kind::Padding) => {}
                Some(Kind::Middle) => return Ok(true),
                Some(Kind::Last) => {
                    self.complete = true;
                    return Ok(true);
                }
                Some(Kind::Whole | Kind::First) | None => {
                    let at = self.cursor.position;
                    return Err(self
                        .cursor
                        .path
                        .corrupt(at, "the log changes while it is read"));
                }
            }
        }
        Ok(false)
    }

    fn place(&self) -> (u64, u64) {
        let at = self
            .cursor
            .frame
            .map_or(self.cursor.position, |frame| frame.label.position);
        self.cursor.path.layout.split(at)
    }
}
