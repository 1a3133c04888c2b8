//! The shadow of a real pager's file: what of it would survive a power cut.
//!
//! The file itself is in memory and has everything that was written. Its shadow holds what was
//! synced: at each sync that succeeds, the bytes that the call covered. What storage may have after a
//! cut is the shadow, with any sectors in which the file differs from it taken from the file, and with
//! the length that was synced or that the file has. That is what the kernel may do behind a mapping,
//! and behind writes that were not synced.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bifolio_pager::Cut;
use bifolio_pager::witness::{Operation, Verdict, Witness};
use parking_lot::Mutex;
use rustix::fs::SeekFrom;
use rustix::io::Errno;

use super::running::Failing;
use crate::log::sim::next_random;

const SECTOR: usize = 512;
/// What a reordered write covers, whole or not at all.
const PAGE: usize = 4096;

type Hook = Arc<Mutex<dyn FnMut(&Operation) + Send>>;

/// See the [module](self).
pub(super) struct Shadow {
    file: File,
    state: Mutex<State>,
    /// The file as it is, for the time of a comparison.
    live: Mutex<Content>,
    hook: Mutex<Option<Hook>>,
}

/// What a file holds. Beyond `bytes` it is zeros: a new file is long and mostly empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Content {
    /// The file's bytes, but for zeros at its end.
    pub bytes: Vec<u8>,
    /// How long it is.
    pub len: usize,
}

impl Content {
    /// A file that is these bytes.
    pub fn new(bytes: Vec<u8>) -> Self {
        let len = bytes.len();
        Content { bytes, len }
    }

    /// The bytes of a range, as far as the file goes.
    pub fn slice(&self, range: Range<usize>) -> Vec<u8> {
        let end = range.end.min(self.len);
        let start = range.start.min(end);
        let mut slice = vec![0; end - start];
        let known = self.bytes.get(start..end.min(self.bytes.len()));
        let known = known.unwrap_or_default();
        slice[..known.len()].copy_from_slice(known);
        slice
    }
}

struct State {
    /// What survives, as far as the length does.
    durable: Content,
    /// The file as it was when a sync began.
    syncing: Content,
    operations: u64,
    failing: Option<(u64, Failing)>,
}

impl Shadow {
    /// The shadow of a file with this content, all of it synced.
    pub fn new(file: File, content: Content) -> Self {
        Shadow {
            file,
            state: Mutex::new(State {
                syncing: Content::default(),
                durable: content,
                operations: 0,
                failing: None,
            }),
            live: Mutex::default(),
            hook: Mutex::default(),
        }
    }

    pub fn before_each(&self, hook: impl FnMut(&Operation) + Send + 'static) {
        *self.hook.lock() = Some(Arc::new(Mutex::new(hook)));
    }

    pub fn unhook(&self) {
        *self.hook.lock() = None;
    }

    /// Operations that were asked for.
    pub fn operations(&self) -> u64 {
        self.state.lock().operations
    }

    /// Makes operation number `at` fail.
    pub fn fail(&self, at: u64, failing: Failing) {
        self.state.lock().failing = Some((at, failing));
    }

    /// What a power cut now may leave of the file.
    pub fn cut(&self, cut: Cut, seed: u64) -> Content {
        let mut live = self.live.lock();
        self.look(&mut live);
        let state = self.state.lock();
        let mut random = seed;
        let grown = live.len > state.durable.len;
        let keeps_length = match cut {
            Cut::Drop | Cut::LengthLost => false,
            Cut::Keep => true,
            Cut::Reorder | Cut::Tear => !next_random(&mut random).is_multiple_of(4),
        };
        let len = match (grown, keeps_length) {
            (true, true) => live.len,
            (true, false) => state.durable.len,
            (false, _) => state.durable.len.min(live.len),
        };
        let mut left = state.durable.bytes.clone();
        left.resize(left.len().max(live.bytes.len()), 0);
        live.bytes.resize(left.len(), 0);
        let unit = if cut == Cut::Reorder { PAGE } else { SECTOR };
        // How much survives varies from cut to cut: from hardly anything to nearly all.
        let share = 1 + next_random(&mut random) % 7;
        for (new, old) in live.bytes.chunks(unit).zip(left.chunks_mut(unit)) {
            let survives = match cut {
                Cut::Drop => false,
                Cut::Keep => true,
                _ => new != old && next_random(&mut random) % 8 < share,
            };
            if survives {
                old.copy_from_slice(new);
            }
        }
        left.truncate(len);
        Content { bytes: left, len }
    }

    /// Reads the file as it is.
    fn look(&self, content: &mut Content) {
        let mut read = || -> io::Result<()> {
            content.len = self.file.metadata()?.len() as usize;
            let end = end_of_data(&self.file, content.len)?;
            content.bytes.resize(end, 0);
            self.file.read_exact_at(&mut content.bytes, 0)
        };
        read().expect("a file in memory can be read");
    }
}

impl Witness for Shadow {
    fn before(&self, _: &File, operation: &Operation) -> Verdict {
        let hook = self.hook.lock().clone();
        if let Some(hook) = hook
            && let Some(mut hook) = hook.try_lock()
        {
            hook(operation);
        }
        let mut state = self.state.lock();
        let index = state.operations;
        state.operations += 1;
        if matches!(operation, Operation::SyncAll | Operation::SyncData { .. }) {
            // What a sync may be relied on for is what was there when it began.
            let mut syncing = std::mem::take(&mut state.syncing);
            self.look(&mut syncing);
            state.syncing = syncing;
        }
        match state.failing {
            Some((at, failing)) if at == index || (at < index && failing.goes_on()) => {
                failing.verdict()
            }
            _ => Verdict::Do,
        }
    }

    fn done(&self, _: &File, operation: &Operation) {
        let mut state = self.state.lock();
        let state = &mut *state;
        let covered = match operation {
            Operation::SyncData { range } => range.start as usize..range.end as usize,
            Operation::SyncAll => {
                state.durable.len = state.syncing.len;
                0..state.syncing.len
            }
            Operation::Allocate { .. } | Operation::Write => return,
        };
        let synced = state
            .syncing
            .slice(covered.start..covered.end.min(state.syncing.bytes.len()));
        let durable = &mut state.durable.bytes;
        // What the call covered and the file does not have is zeros.
        let known = covered.start.min(durable.len())..covered.end.min(durable.len());
        durable[known].fill(0);
        if !synced.is_empty() {
            let end = covered.start + synced.len();
            durable.resize(durable.len().max(end), 0);
            durable[covered.start..end].copy_from_slice(&synced);
        }
    }
}

/// Where the last bytes of a file end that are not a hole.
fn end_of_data(file: &File, len: usize) -> io::Result<usize> {
    let (mut at, mut end) = (0, 0);
    while at < len as u64 {
        match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(data) => at = rustix::fs::seek(file, SeekFrom::Hole(data))?,
            Err(Errno::NXIO) => break,
            Err(errno) => return Err(errno.into()),
        }
        end = at as usize;
    }
    Ok(end)
}
