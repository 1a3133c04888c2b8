//! `SIGBUS` on a page of ours becomes a page of zeros and an entry in a list.
//!
//! The kernel raises `SIGBUS` where it cannot bring a page of a mapping in: another process cut the
//! file off, the device failed, or the disk was full when a page had to be allocated. By default
//! that ends the process. Here, one handler per process, installed with the first mapping:
//!
//! 1. finds the mapping that the address lies in; if none, the signal is not ours and goes on to
//!    whoever handled it before;
//! 2. enters the page in that mapping's list;
//! 3. maps a page of zeros over the bad one, so that the interrupted access continues.
//!
//! A reader asks [`Watch::lost`] after it has used the bytes. The entry is made before the zeros
//! appear, so whoever saw zeros finds the entry. A lost page stays lost until the file is opened
//! again: the zeros are no part of the file, and what is stored there goes nowhere. So one entry,
//! from whatever access, also ends writing ([`Watch::any`]).
//!
//! Invariants:
//! 1. The handler uses atomics, `mmap` and `sigaction` only: no lock, no allocation, no panic.
//! 2. A slot's range is empty unless its [`Watch`] lives, and the mapping outlives its watch.
//! 3. Entries are never taken back while the watch lives.
//!
//! A handler that someone else installs later, and that does not pass on what is not its own,
//! switches this off; so does a thread that blocks `SIGBUS` (the kernel then kills the process).

use std::mem;
use std::ops::Range;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};

use bifolio_pager::{Error, Result};
use libc::{c_int, c_void, siginfo_t};

/// Mappings that can be watched at once in one process.
const SLOTS: usize = 256;
/// Lost pages that a mapping keeps count of. Past that, all of it counts as lost.
const ENTRIES: usize = 64;

/// What the handler has to know of one mapping.
struct Slot {
    taken: AtomicBool,
    /// Rises whenever the slot is given to another mapping.
    generation: AtomicU64,
    start: AtomicUsize,
    len: AtomicUsize,
    writable: AtomicBool,
    /// Faults met so far.
    faults: AtomicUsize,
    /// For each of the first faults the address in the mapping, plus one; 0 while it is being entered.
    entries: [AtomicUsize; ENTRIES],
}

static WATCHED: [Slot; SLOTS] = [const { Slot::empty() }; SLOTS];
/// The handler before ours, kept as what `sigaction` said.
static PREVIOUS: OnceLock<libc::sigaction> = OnceLock::new();
static SYSTEM_PAGE: AtomicUsize = AtomicUsize::new(0);

/// A mapping under the handler's care, until this is dropped.
pub(crate) struct Watch(&'static Slot);

/// Puts a mapping under the handler's care.
///
/// # Errors
/// `Unavailable` if the process has too many mappings, or refuses the handler.
pub(crate) fn watch(start: usize, len: usize, read_only: bool) -> Result<Watch> {
    install()?;
    let free = WATCHED
        .iter()
        .find(|slot| !slot.taken.swap(true, Ordering::AcqRel));
    let Some(slot) = free else {
        return Err(Error::Unavailable {
            what: "another mapping",
            why: format!("{SLOTS} files are mapped already; close some"),
        });
    };
    slot.generation.fetch_add(1, Ordering::AcqRel);
    for entry in &slot.entries {
        entry.store(0, Ordering::Relaxed);
    }
    slot.faults.store(0, Ordering::Relaxed);
    slot.writable.store(!read_only, Ordering::Relaxed);
    slot.start.store(start, Ordering::Relaxed);
    // Release: a handler that sees the length sees all of the above.
    slot.len.store(len, Ordering::Release);
    Ok(Watch(slot))
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.len.store(0, Ordering::Release);
        self.0.taken.store(false, Ordering::Release);
    }
}

impl Watch {
    /// Whether any page of the mapping was lost.
    #[inline]
    pub(crate) fn any(&self) -> bool {
        // The bytes were read before this asks about them.
        fence(Ordering::Acquire);
        self.0.faults.load(Ordering::Relaxed) != 0
    }

    /// Whether something in these bytes of the mapping was lost, to the reader's harm or not.
    #[inline]
    pub(crate) fn lost(&self, bytes: impl FnOnce() -> Range<usize>) -> bool {
        self.any() && self.0.entered(bytes())
    }
}

impl Slot {
    const fn empty() -> Self {
        Slot {
            taken: AtomicBool::new(false),
            generation: AtomicU64::new(0),
            start: AtomicUsize::new(0),
            len: AtomicUsize::new(0),
            writable: AtomicBool::new(false),
            faults: AtomicUsize::new(0),
            entries: [const { AtomicUsize::new(0) }; ENTRIES],
        }
    }

    #[cold]
    fn entered(&self, bytes: Range<usize>) -> bool {
        let faults = self.faults.load(Ordering::Acquire);
        let Some(entries) = self.entries.get(..faults) else {
            return true;
        };
        entries.iter().any(|entry| {
            // An entry that is still being made may be any page: assume the worst.
            let at = entry.load(Ordering::Acquire);
            at == 0 || bytes.contains(&(at - 1))
        })
    }

    /// The handler's question: where `address` lies in this slot's mapping.
    fn offset_of(&self, address: usize) -> Option<usize> {
        let generation = self.generation.load(Ordering::Acquire);
        let len = self.len.load(Ordering::Acquire);
        let start = self.start.load(Ordering::Acquire);
        let offset = address.checked_sub(start)?;
        let ours = offset < len && self.generation.load(Ordering::Acquire) == generation;
        ours.then_some(offset)
    }

    /// Enters the loss and puts zeros in its place. Runs in the handler.
    fn lose(&self, offset: usize) -> bool {
        let system_page = SYSTEM_PAGE.load(Ordering::Relaxed);
        let page = offset & !(system_page - 1);
        let number = self.faults.fetch_add(1, Ordering::AcqRel);
        let start = self.start.load(Ordering::Relaxed);
        let writable = self.writable.load(Ordering::Relaxed);
        match self.entries.get(number) {
            Some(entry) => entry.store(page + 1, Ordering::Release),
            // The list is full, so all of the mapping counts as lost. Each page of zeros splits
            // the mapping, of which the kernel allows some ten thousand parts; so all at once.
            None if map_zeros(start, self.len.load(Ordering::Relaxed), writable) => return true,
            None => {}
        }
        map_zeros(start + page, system_page, writable)
    }
}

fn map_zeros(start: usize, len: usize, writable: bool) -> bool {
    let access = if writable {
        libc::PROT_READ | libc::PROT_WRITE
    } else {
        libc::PROT_READ
    };
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | libc::MAP_NORESERVE;
    let start = start as *mut c_void;
    // SAFETY: the range lies in a mapping of ours that is alive (invariant 2: the access that
    // faulted is an access through it). What a live reference sees change there it could not have
    // read in the first place; its holder is told by `lost`.
    unsafe { libc::mmap(start, len, access, flags, -1, 0) != libc::MAP_FAILED }
}

fn install() -> Result<()> {
    static INSTALLED: OnceLock<std::result::Result<(), c_int>> = OnceLock::new();
    let outcome = INSTALLED.get_or_init(|| {
        SYSTEM_PAGE.store(rustix::param::page_size(), Ordering::Relaxed);
        let previous = sigaction(None)?;
        PREVIOUS.get_or_init(|| previous);
        // SAFETY: all zeros is a valid `sigaction`: default action, empty mask, no flags.
        let mut ours: libc::sigaction = unsafe { mem::zeroed() };
        let handler: extern "C" fn(c_int, *mut siginfo_t, *mut c_void) = on_sigbus;
        ours.sa_sigaction = handler as usize;
        // ONSTACK: a thread that set an alternative stack up did so because its own may be short.
        ours.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        sigaction(Some(&ours))?;
        Ok(())
    });
    outcome.map_err(|code| Error::Unavailable {
        what: "a handler for SIGBUS",
        why: std::io::Error::from_raw_os_error(code).to_string(),
    })
}

/// Sets the action for `SIGBUS`, if one is given, and returns the one before.
fn sigaction(new: Option<&libc::sigaction>) -> std::result::Result<libc::sigaction, c_int> {
    let new = new.map_or(ptr::null(), ptr::from_ref);
    // SAFETY: all zeros is a valid `sigaction`.
    let mut old: libc::sigaction = unsafe { mem::zeroed() };
    // SAFETY: both pointers are to live values of the right type, or null where that is allowed; a
    // handler that is set is `on_sigbus` or one that was set before.
    match unsafe { libc::sigaction(libc::SIGBUS, new, &raw mut old) } {
        0 => Ok(old),
        _ => Err(std::io::Error::last_os_error()
            .raw_os_error()
            .unwrap_or(libc::EINVAL)),
    }
}

extern "C" fn on_sigbus(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    // SAFETY: the pointer to this thread's `errno` is always valid.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: as above. What we interrupted may be about to look at it, so it is put back.
    let errno_before = unsafe { errno.read() };
    if !handle(info) {
        forward(signal, info, context);
    }
    // SAFETY: as above.
    unsafe { errno.write(errno_before) }
}

/// Whether the fault was in a mapping of ours, and is mended.
fn handle(info: *mut siginfo_t) -> bool {
    // SAFETY: the kernel passes a valid `siginfo_t` to a handler installed with `SA_SIGINFO`.
    let info = unsafe { &*info };
    // Not what `kill` sends, nor what is only advice about memory that failed elsewhere.
    let fault = [libc::BUS_ADRERR, libc::BUS_OBJERR, libc::BUS_MCEERR_AR];
    if !fault.contains(&info.si_code) {
        return false;
    }
    // SAFETY: a fault of these codes carries an address.
    let address = unsafe { info.si_addr() } as usize;
    let lost = WATCHED
        .iter()
        .find_map(|slot| Some((slot, slot.offset_of(address)?)));
    lost.is_some_and(|(slot, offset)| slot.lose(offset))
}

/// Does with the signal what would have been done without us.
fn forward(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    let Some(previous) = PREVIOUS.get() else {
        return die(signal); // cannot happen: it is set before the handler is
    };
    // SAFETY: as in `handle`.
    let from_a_process = unsafe { (*info).si_code } <= 0;
    match previous.sa_sigaction {
        libc::SIG_DFL => die(signal),
        // A fault cannot be ignored, since it would come again at once.
        libc::SIG_IGN if from_a_process => {}
        libc::SIG_IGN => die(signal),
        handler if previous.sa_flags & libc::SA_SIGINFO != 0 => {
            // SAFETY: the previous owner registered this address as a function of this type.
            let handler = unsafe {
                mem::transmute::<usize, extern "C" fn(c_int, *mut siginfo_t, *mut c_void)>(handler)
            };
            handler(signal, info, context);
        }
        handler => {
            // SAFETY: without `SA_SIGINFO`, the address is of a function of this type.
            let handler = unsafe { mem::transmute::<usize, extern "C" fn(c_int)>(handler) };
            handler(signal);
        }
    }
}

/// Ends the process by this signal, as the default action does.
fn die(signal: c_int) {
    // SAFETY: all zeros is a valid `sigaction`, the default one.
    let default: libc::sigaction = unsafe { mem::zeroed() };
    let _ = sigaction(Some(&default));
    // SAFETY: the call takes a number. The signal is blocked here and comes when we return.
    unsafe { libc::raise(signal) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_list_means_that_everything_is_lost() {
        let slot = Slot::empty();
        slot.faults.store(2, Ordering::Relaxed);
        for (entry, page) in slot.entries.iter().zip([0, 8192]) {
            entry.store(page + 1, Ordering::Relaxed);
        }
        assert!(slot.entered(0..4096));
        assert!(!slot.entered(4096..8192));
        assert!(slot.entered(8192..65536));
        slot.faults.store(ENTRIES + 1, Ordering::Relaxed);
        assert!(slot.entered(4096..8192));
    }

    #[test]
    fn an_entry_that_is_still_being_made_may_be_any_page() {
        let slot = Slot::empty();
        slot.faults.store(1, Ordering::Relaxed);
        assert!(slot.entered(4096..8192));
    }

    #[test]
    fn an_address_is_ours_only_inside_a_live_range() {
        let slot = Slot::empty();
        assert_eq!(slot.offset_of(1000), None);
        slot.start.store(1000, Ordering::Relaxed);
        slot.len.store(10, Ordering::Relaxed);
        assert_eq!(slot.offset_of(999), None);
        assert_eq!(slot.offset_of(1009), Some(9));
        assert_eq!(slot.offset_of(1010), None);
    }
}
