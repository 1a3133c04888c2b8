//! Writing groups of commits into the segments.
//!
//! One thread at a time does this, the *leader*, while others go on appending. What it is given
//! begins where everything before is synced, and that is what it writes into each frame.
//!
//! A group that crosses the end of a segment is written and synced in two parts. So the first
//! header of a segment proves that all of the segment before was synced.

use std::sync::Arc;

use bifolio_pager::defect::{Defect, planted};

use super::error::{Error, Result};
use super::files::{Files, Segment, io};
use super::frame::{self, Link};
use super::options::SyncMethod;
use super::position::{Layout, Place, Position};
use super::segment::{HEADER_LEN, Header};

/// Where the history before the current segment ends, and the checksum of its last frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Resume {
    pub position: Position,
    pub previous: u64,
}

/// What stays the same from a recovery to the next.
#[derive(Clone, Copy, Debug)]
pub(super) struct Identity {
    pub layout: Layout,
    pub file_id: [u8; 16],
    /// Seeds the checksums of frames.
    pub seed: u64,
    pub salt: u64,
}

/// The writing side of the log.
pub(super) struct Writer {
    identity: Identity,
    files: Arc<Files>,
    method: SyncMethod,
    current: Option<Segment>,
    /// Set until the first header is written, which begins another salt's time.
    resume: Option<Resume>,
    /// The checksum of the last frame or header.
    chain: u64,
}

impl Writer {
    /// A writer whose first segment has yet to be begun, with a header that says `resume`.
    pub fn new(identity: Identity, files: Arc<Files>, method: SyncMethod, resume: Resume) -> Self {
        assert_ne!(method, SyncMethod::Auto, "the probe comes first");
        Writer {
            identity,
            files,
            method,
            current: None,
            resume: Some(resume),
            chain: 0,
        }
    }

    /// How groups are synced.
    pub fn method(&self) -> SyncMethod {
        self.method
    }

    /// Seals, writes and syncs a group that lies at `start`.
    ///
    /// # Errors
    /// The first that storage reported. The group may be there in part then.
    pub fn write_group(&mut self, mut group: &mut [u8], mut start: Position) -> Result<()> {
        let layout = self.identity.layout;
        while !group.is_empty() {
            let left = (layout.segment_bytes() - layout.offset(start)) as usize;
            let (part, rest) = group.split_at_mut(left.min(group.len()));
            let number = layout.segment(start);
            if self
                .current
                .as_ref()
                .is_none_or(|current| current.number != number)
            {
                self.current = Some(self.files.take(number));
            }
            if part.len() == left {
                self.files.ensure_spare()?; // files, invariant 2
            }
            self.seal(part, start);
            self.write_part(part, layout.offset(start))?;
            start = start.plus(part.len() as u64);
            group = rest;
        }
        Ok(())
    }

    fn seal(&mut self, part: &mut [u8], start: Position) {
        // Before the first header of a salt's time is durable, nothing says that what lies between
        // the history's end and this segment is dead. A frame that called it synced, and survived
        // without the header, would turn a torn tail into damage.
        let synced = self.resume.map_or(start, |resume| resume.position);
        let mut at = 0;
        while at < part.len() {
            let position = start.plus(at as u64);
            at += match self.identity.layout.place(position) {
                Place::Header => self.seal_header(&mut part[at..], position),
                Place::Gap(gap) => gap as usize,
                Place::Frame(_) => self.seal_frame(&mut part[at..], synced),
            };
        }
        assert_eq!(at, part.len(), "frames end where the part ends");
    }

    fn seal_header(&mut self, bytes: &mut [u8], start: Position) -> usize {
        let Identity {
            layout,
            file_id,
            salt,
            ..
        } = self.identity;
        let resume = self.resume.take().unwrap_or(Resume {
            position: start,
            previous: self.chain,
        });
        let header = Header {
            segment_bytes: layout.segment_bytes(),
            file_id,
            number: layout.segment(start),
            salt,
            resumes: resume.position,
            previous: resume.previous,
        };
        let (encoded, checksum) = header.encode();
        bytes[..HEADER_LEN].copy_from_slice(&encoded);
        self.chain = checksum;
        HEADER_LEN
    }

    fn seal_frame(&mut self, bytes: &mut [u8], synced: Position) -> usize {
        let Identity { salt, seed, .. } = self.identity;
        let link = Link {
            previous: self.chain,
            salt,
            synced,
            seed,
        };
        let (len, checksum) = frame::seal(bytes, link);
        self.chain = checksum;
        len
    }

    fn write_part(&self, part: &[u8], offset: u64) -> Result<()> {
        let segment = self.current.as_ref().expect("taken before");
        let fail = |verb: &str, error| io(verb, &self.files.names.segment(segment.number), error);
        match self.method {
            _ if planted(Defect::SkipLogSync) => {
                let written = segment.file.write_at(part, offset);
                written.map_err(|e| fail("writing", e))?;
            }
            SyncMethod::Dsync => {
                segment
                    .file
                    .write_synced_at(part, offset)
                    .map_err(|e| fail("writing", e))?;
            }
            SyncMethod::Fdatasync | SyncMethod::Auto => {
                segment
                    .file
                    .write_at(part, offset)
                    .map_err(|e| fail("writing", e))?;
                segment.file.sync().map_err(|e| fail("syncing", e))?;
            }
        }
        segment
            .file
            .drop_cache(offset..offset + part.len() as u64)
            .map_err(|error| fail("dropping the cache of", error))
    }
}

/// Time that the probe may take, and writes that it may make by each method.
const PROBE_NS: u128 = 30_000_000;
const PROBE_WRITES: u32 = 12;

/// The faster way on this device to make a small write durable. Tried out on the front of a segment
/// that is not begun; leaves zeros there.
pub(super) fn probe(segment: &Segment) -> Result<SyncMethod> {
    let file = &*segment.file;
    let measure = || -> std::io::Result<SyncMethod> {
        let zeros = super::buffer::AlignedBuf::zeroed(file.alignment()?);
        let mut best_ns = [u128::MAX; 2];
        let begin = std::time::Instant::now();
        for write in 0..PROBE_WRITES {
            let offset = u64::from(write % 8) * zeros.len() as u64 % 4096;
            let before = begin.elapsed().as_nanos();
            file.write_at(&zeros, offset)?;
            file.sync()?;
            let between = begin.elapsed().as_nanos();
            file.write_synced_at(&zeros, offset)?;
            let after = begin.elapsed().as_nanos();
            best_ns[0] = best_ns[0].min(between - before);
            best_ns[1] = best_ns[1].min(after - between);
            if after > PROBE_NS {
                break;
            }
        }
        // A tie goes to what every file system has tested for longest.
        let dsync = best_ns[1] + best_ns[1] / 20 < best_ns[0];
        Ok(if dsync {
            SyncMethod::Dsync
        } else {
            SyncMethod::Fdatasync
        })
    };
    measure().map_err(|error| Error::io("probing the log's device", error))
}
