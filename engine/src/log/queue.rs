//! What was appended and is not yet written: a stretch of the log in memory, byte for byte as it
//! will lie in the segments, but for what [`seal`](super::frame::seal) fills in.

use bifolio_pager::Version;

use super::buffer::{AlignedBuf, MAX_ALIGNMENT};
use super::frame::{self, Kind, Label, MAX_PAYLOAD};
use super::position::{Layout, Place, Position, SECTOR};

/// How far a commit has come.
#[derive(Clone, Copy, Debug)]
pub(super) struct Progress {
    pub version: Version,
    /// Frames that it has in the log already.
    pub pieces: u32,
}

/// The stretch of the log that begins at `start`, where everything before is written.
#[derive(Debug)]
pub(super) struct Queue {
    layout: Layout,
    alignment: u64,
    buffer: AlignedBuf,
    start: Position,
    /// Commits that end in this stretch.
    pub commits: u64,
}

impl Queue {
    /// An empty queue. Every group of writes begins and ends at a multiple of `alignment`.
    pub fn new(layout: Layout, alignment: usize, start: Position, buffer: AlignedBuf) -> Self {
        assert!(
            alignment.is_power_of_two() && alignment <= MAX_ALIGNMENT,
            "{alignment}"
        );
        assert!(alignment as u64 >= SECTOR, "{alignment}");
        Queue {
            layout,
            alignment: alignment as u64,
            buffer,
            start,
            commits: 0,
        }
    }

    /// Where the next byte will lie.
    pub fn end(&self) -> Position {
        self.start.plus(self.buffer.len() as u64)
    }

    /// Whether a frame with the first `payload_len` bytes fits, whatever must come before it and,
    /// to close the group, after it.
    pub fn has_room(&self, payload_len: usize) -> bool {
        let frame = frame::len_with(payload_len.min(MAX_PAYLOAD));
        let around = 2 * SECTOR as usize + 2 * frame::HEADER_LEN + MAX_ALIGNMENT;
        self.buffer.len() + frame + around <= self.buffer.capacity()
    }

    /// Appends one frame with as much of `rest` as fits in it, the commit's last if `complete` says
    /// that `rest` is all there is and all of it fits. Returns how much fitted.
    ///
    /// There must be [room](Self::has_room).
    pub fn push(&mut self, progress: &mut Progress, rest: &[u8], complete: bool) -> usize {
        let room = self.make_place() - frame::HEADER_LEN;
        let taken = rest.len().min(MAX_PAYLOAD).min(room);
        if taken == 0 && !rest.is_empty() {
            self.push_frame(Label::padding(self.end()), &[]);
            return 0;
        }
        let last = complete && taken == rest.len();
        let kind = match (progress.pieces == 0, last) {
            (true, true) => Kind::Whole,
            (true, false) => Kind::First,
            (false, false) => Kind::Middle,
            (false, true) => Kind::Last,
        };
        let (version, piece) = (progress.version, progress.pieces);
        self.push_frame(
            Label {
                position: self.end(),
                version,
                kind,
                piece,
            },
            &rest[..taken],
        );
        progress.pieces += 1;
        self.commits += u64::from(last);
        taken
    }

    /// Fills up to where a group may end. Leaves room in the sector to nobody: what is synced is
    /// never written again.
    pub fn close(&mut self) {
        loop {
            let past = self.end().get() % self.alignment;
            if past == 0 {
                return;
            }
            let left = (self.alignment - past) as usize;
            match self.layout.place(self.end()) {
                Place::Gap(gap) => self.buffer.push_zeros(gap as usize),
                Place::Header | Place::Frame(_) => {
                    // A frame begins in this sector, so `left` is a header's length at least.
                    self.push_padding(left - frame::HEADER_LEN);
                }
            }
        }
    }

    /// Makes room for the header of a segment, if one comes next, and for nothing else.
    pub fn push_header(&mut self) {
        if self.layout.place(self.end()) == Place::Header {
            self.buffer.push_zeros(SECTOR as usize);
        }
    }

    /// Takes what is queued, to be written, and goes on in the empty buffer `next`.
    pub fn replace(&mut self, next: AlignedBuf) -> (Position, AlignedBuf, u64) {
        let (start, commits) = (self.start, self.commits);
        self.start = self.end();
        self.commits = 0;
        (start, std::mem::replace(&mut self.buffer, next), commits)
    }

    /// Goes to where a frame can begin. Returns the bytes that it may take.
    fn make_place(&mut self) -> usize {
        loop {
            match self.layout.place(self.end()) {
                Place::Header => self.push_header(),
                Place::Gap(gap) => self.buffer.push_zeros(gap as usize),
                Place::Frame(room) => return room as usize,
            }
        }
    }

    fn push_frame(&mut self, label: Label, payload: &[u8]) {
        let at = self.buffer.len();
        self.buffer.push_zeros(frame::HEADER_LEN);
        frame::label(&mut self.buffer[at..], label, payload.len());
        self.buffer.push(payload);
        let tail = frame::len_with(payload.len()) - frame::HEADER_LEN - payload.len();
        self.buffer.push_zeros(tail);
    }

    fn push_padding(&mut self, payload_len: usize) {
        let (at, label) = (self.buffer.len(), Label::padding(self.end()));
        self.buffer.push_zeros(frame::len_with(payload_len));
        frame::label(&mut self.buffer[at..], label, payload_len);
    }
}
