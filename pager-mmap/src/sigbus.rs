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
//! The lists are in `watched.rs`, and what readers and writers learn from them. A lost page stays lost
//! until the file is opened again: the zeros are no part of the file, and what is stored there goes
//! nowhere.
//!
//! Invariants:
//! 1. The handler uses atomics, `mmap` and `sigaction` only: no lock, no allocation, no panic.
//! 2. A mapping outlives its [`Watch`].
//!
//! A handler that someone else installs later, and that does not pass on what is not its own,
//! switches this off; so does a thread that blocks `SIGBUS` (the kernel then kills the process).

use std::mem;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use bifolio_pager::{Error, Result};
use libc::{c_int, c_void, siginfo_t};

use crate::watched::{Table, Watch};

/// Mappings that can be watched at once in one process.
const SLOTS: usize = 256;

/// The mappings of this process.
#[cfg(not(loom))]
static WATCHED: Table<SLOTS> = Table::new();
/// The same; a model's atomics have no constants, and models have tables of their own.
#[cfg(loom)]
static WATCHED: std::sync::LazyLock<Table<SLOTS>> = std::sync::LazyLock::new(Table::new);
/// The handler before ours, kept as what `sigaction` said.
static PREVIOUS: OnceLock<libc::sigaction> = OnceLock::new();
static SYSTEM_PAGE: AtomicUsize = AtomicUsize::new(0);

/// Puts a mapping under the handler's care.
///
/// # Errors
/// `Unavailable` if the process has too many mappings, or refuses the handler.
pub(crate) fn watch(start: usize, len: usize, read_only: bool) -> Result<Watch<'static>> {
    install()?;
    WATCHED.watch(start, len, !read_only)
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
    WATCHED.lose(address, SYSTEM_PAGE.load(Ordering::Relaxed), map_zeros)
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
