//! What was asked of a pool, page by page, in a file: to be replayed through any policy.
//!
// ANCHOR: trace
//! | offset | size | field     | meaning                                                        |
//! |-------:|-----:|-----------|----------------------------------------------------------------|
//! |      0 |    8 | magic     | `BFTRACE1`                                                     |
//! |      8 |    4 | page_size | bytes                                                          |
//! |     12 |    4 | frames    | of the pool when the trace began                               |
//! |     16 |    8 | count     | events; all ones until the trace is finished                   |
//! |     24 |  8×n | events    | bits 0..48 page, 48..50 access, 50 inner; the others are zero  |
// ANCHOR_END: trace
//!
//! All integers are little-endian. A pool that records takes a lock at every access; one that does not
//! pays nothing.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use bifolio_pager::{Error, PageId, Result};
use parking_lot::Mutex;

const MAGIC: [u8; 8] = *b"BFTRACE1";
const HEADER_LEN: usize = 24;
const UNFINISHED: u64 = !0;
const PAGE_BITS: u32 = 48;
const ACCESS_MASK: u64 = 0b11;
const INNER: u64 = 1 << 50;

/// Memory that a pool which records holds for that.
pub(crate) const BUFFER_BYTES: usize = 64 << 10;

/// What was done with a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// Read through a guard, from memory or not.
    Read = 0,
    /// Read ahead: it was absent, and a read of it was started.
    Ahead = 1,
    /// A life was begun, without a read.
    Create = 2,
    /// A life was ended.
    Discard = 3,
}

/// One line of a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Event {
    /// What was done.
    pub access: Access,
    /// With which page.
    pub page: PageId,
    /// Whether the page is known to lead to others.
    pub inner: bool,
}

impl Event {
    /// A page that leads nowhere is read.
    pub fn read(page: PageId) -> Self {
        Event {
            access: Access::Read,
            page,
            inner: false,
        }
    }

    fn encode(self) -> u64 {
        let inner = if self.inner { INNER } else { 0 };
        self.page.get() | (self.access as u64) << PAGE_BITS | inner
    }

    fn decode(bits: u64) -> Option<Self> {
        let access = match bits >> PAGE_BITS & ACCESS_MASK {
            0 => Access::Read,
            1 => Access::Ahead,
            2 => Access::Create,
            _ => Access::Discard,
        };
        let event = Event {
            access,
            page: PageId::new(bits & PageId::MAX.get()),
            inner: bits & INNER != 0,
        };
        (event.encode() == bits).then_some(event)
    }
}

/// A trace that was recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    /// Bytes in a page.
    pub page_size: u32,
    /// Frames of the pool when the trace began.
    pub frames: u32,
    /// What happened, in order.
    pub events: Vec<Event>,
}

impl Trace {
    /// Reads a whole trace: 16 bytes of memory for each event.
    ///
    /// # Errors
    /// What the file system says; `InvalidData` for what is no trace, or one that was not finished.
    pub fn read(path: &Path) -> io::Result<Self> {
        let bad = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what);
        let file = File::open(path)?;
        let len = file.metadata()?.len();
        let mut file = BufReader::new(file);
        let mut header = [0; HEADER_LEN];
        file.read_exact(&mut header)?;
        let u32_at =
            |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("4 bytes"));
        let count = u64::from_le_bytes(header[16..].try_into().expect("8 bytes"));
        if header[..8] != MAGIC {
            return Err(bad("not a trace of page accesses"));
        }
        if count == UNFINISHED {
            return Err(bad(
                "the trace was not finished: a write of it failed, or its pool lives",
            ));
        }
        if (len - HEADER_LEN as u64) / 8 != count {
            return Err(bad("the trace has not the length that it says"));
        }
        let mut events = Vec::with_capacity(count as usize);
        let mut event = [0; 8];
        for _ in 0..count {
            file.read_exact(&mut event)?;
            let event = Event::decode(u64::from_le_bytes(event));
            events.push(event.ok_or_else(|| bad("the trace has an event of no known kind"))?);
        }
        Ok(Trace {
            page_size: u32_at(8),
            frames: u32_at(12),
            events,
        })
    }
}

/// A trace that is being recorded. Finished when dropped.
pub(crate) struct Recorder {
    state: Mutex<State>,
}

struct State {
    file: File,
    buffer: Vec<u8>,
    /// Events that are in the file.
    written: u64,
    /// A write has failed: the trace ends unfinished.
    failed: bool,
}

impl Recorder {
    /// Begins a trace in a file of its own, in place of what was there.
    pub(crate) fn create(path: &Path, page_size: usize, frames: usize) -> Result<Self> {
        let mut header = [0; HEADER_LEN];
        header[..8].copy_from_slice(&MAGIC);
        header[8..12].copy_from_slice(&(page_size as u32).to_le_bytes());
        header[12..16].copy_from_slice(&(frames as u32).to_le_bytes());
        header[16..].copy_from_slice(&UNFINISHED.to_le_bytes());
        let file = File::create(path)
            .and_then(|file| file.write_all_at(&header, 0).map(|()| file))
            .map_err(|error| Error::io(format!("creating the trace {}", path.display()), error))?;
        Ok(Recorder {
            state: Mutex::new(State {
                file,
                buffer: Vec::with_capacity(BUFFER_BYTES),
                written: 0,
                failed: false,
            }),
        })
    }

    pub(crate) fn record(&self, event: Event) {
        let mut state = self.state.lock();
        state.buffer.extend(event.encode().to_le_bytes());
        if state.buffer.len() + 8 > BUFFER_BYTES {
            state.write_out();
        }
    }
}

impl State {
    fn write_out(&mut self) {
        let at = HEADER_LEN as u64 + 8 * self.written;
        if !self.failed {
            self.failed = self.file.write_all_at(&self.buffer, at).is_err();
        }
        self.written += self.buffer.len() as u64 / 8;
        self.buffer.clear();
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        let state = self.state.get_mut();
        state.write_out();
        if !state.failed {
            // Where this fails the trace stays unfinished, and says so to whoever reads it.
            let _ = state.file.write_all_at(&state.written.to_le_bytes(), 16);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<Event> {
        let access = [Access::Read, Access::Ahead, Access::Create, Access::Discard];
        (0..20_000)
            .map(|step| Event {
                access: access[step as usize % 4],
                page: PageId::new(step * 7919 % PageId::MAX.get()),
                inner: step % 3 == 0,
            })
            .chain([Event::read(PageId::MAX)])
            .collect()
    }

    #[test]
    fn what_is_recorded_is_read_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("trace");
        let recorder = Recorder::create(&path, 4096, 77).unwrap();
        sample()
            .into_iter()
            .for_each(|event| recorder.record(event));
        let error = Trace::read(&path).unwrap_err();
        assert!(error.to_string().contains("not finished"), "{error}");
        drop(recorder);
        let trace = Trace::read(&path).unwrap();
        assert_eq!((trace.page_size, trace.frames), (4096, 77));
        assert!(trace.events == sample());
    }

    #[test]
    fn what_is_no_trace_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("trace");
        drop(Recorder::create(&path, 4096, 8).unwrap());
        let whole = std::fs::read(&path).unwrap();
        let mut longer = whole.clone();
        longer.extend([0; 8]);
        let mut unknown = longer.clone();
        unknown[16] = 1;
        unknown[31] = 0x80;
        for bytes in [
            &whole[..20],
            b"no such trace, but long enough",
            &longer,
            &unknown,
        ] {
            std::fs::write(&path, bytes).unwrap();
            assert!(Trace::read(&path).is_err());
        }
        std::fs::write(&path, &whole).unwrap();
        assert_eq!(Trace::read(&path).unwrap().events, []);
    }
}
