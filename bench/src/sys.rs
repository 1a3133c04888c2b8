//! The system calls that no safe crate offers. The only `unsafe` of this crate.

use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};

/// What the kernel has counted for this process, all threads together.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    pub user_ns: u64,
    pub system_ns: u64,
    /// Faults that found their page in memory.
    pub minor_faults: u64,
    /// Faults that waited for storage.
    pub major_faults: u64,
    /// Switches because the process waited.
    pub voluntary_switches: u64,
    /// Switches because somebody else got the processor.
    pub involuntary_switches: u64,
}

/// `getrusage(RUSAGE_SELF)`.
pub fn usage() -> io::Result<Usage> {
    let mut raw = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: `raw` is room for one `rusage`, which is all that the call writes.
    let status = unsafe { libc::getrusage(libc::RUSAGE_SELF, raw.as_mut_ptr()) };
    if status != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `zeroed` made every byte a value, and all-zeros is a valid `rusage` of integers.
    let raw = unsafe { raw.assume_init() };
    let ns = |time: libc::timeval| time.tv_sec as u64 * 1_000_000_000 + time.tv_usec as u64 * 1000;
    Ok(Usage {
        user_ns: ns(raw.ru_utime),
        system_ns: ns(raw.ru_stime),
        minor_faults: raw.ru_minflt as u64,
        major_faults: raw.ru_majflt as u64,
        voluntary_switches: raw.ru_nvcsw as u64,
        involuntary_switches: raw.ru_nivcsw as u64,
    })
}

/// `cachestat(2)`, Linux 6.5: the same number on every architecture that has it.
const SYS_CACHESTAT: libc::c_long = 451;

#[repr(C)]
struct CacheRange {
    offset: u64,
    len: u64,
}

#[repr(C)]
#[derive(Default)]
struct CacheStat {
    cached: u64,
    dirty: u64,
    writeback: u64,
    evicted: u64,
    recently_evicted: u64,
}

/// System pages of `file` that are in the page cache; `None` where neither `cachestat` nor
/// `mincore` can say. Costs time in proportion to the file, microseconds a megabyte.
pub fn cached_pages(file: &File) -> Option<u64> {
    cachestat(file).or_else(|| mincore(file))
}

fn cachestat(file: &File) -> Option<u64> {
    // A length of 0 means: to the end of the file.
    let range = CacheRange { offset: 0, len: 0 };
    let mut stat = CacheStat::default();
    // SAFETY: both pointers are to live `repr(C)` values of the layouts the call asks for, the
    // second one writable; a kernel without the call touches neither and returns ENOSYS.
    let status = unsafe {
        libc::syscall(
            SYS_CACHESTAT,
            file.as_raw_fd(),
            &raw const range,
            &raw mut stat,
            0u32,
        )
    };
    (status == 0).then_some(stat.cached)
}

fn mincore(file: &File) -> Option<u64> {
    let len = usize::try_from(file.metadata().ok()?.len()).ok()?;
    if len == 0 {
        return Some(0);
    }
    let flags = libc::MAP_SHARED;
    // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours.
    let base = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            len,
            libc::PROT_READ,
            flags,
            file.as_raw_fd(),
            0,
        )
    };
    if base == libc::MAP_FAILED {
        return None;
    }
    let mut resident = vec![0u8; len.div_ceil(rustix::param::page_size())];
    // SAFETY: `base..base + len` is the mapping just made, and `resident` has a byte for each of
    // its pages.
    let status = unsafe { libc::mincore(base, len, resident.as_mut_ptr().cast()) };
    // SAFETY: the mapping was made above, nothing refers into it, and it is not used again.
    let _ = unsafe { libc::munmap(base, len) };
    (status == 0).then(|| resident.iter().filter(|&&page| page & 1 != 0).count() as u64)
}

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

extern "C" fn note_interrupt(_: libc::c_int) {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

/// From now on SIGINT, SIGTERM and SIGHUP end nothing by themselves: they set what [`interrupted`]
/// returns, so that control groups and files are removed on the way out.
pub fn catch_interrupts() -> io::Result<()> {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: all-zeros is a valid `sigaction`: no flags and an empty mask.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = note_interrupt as *const () as libc::sighandler_t;
        // SAFETY: `action` is initialised, and its handler does one atomic store, which is
        // async-signal-safe; the old action is not asked for.
        let status = unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) };
        if status != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Whether a signal has asked this process to end since [`catch_interrupts`].
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// Whether process `pid` has ended, be it that nobody has asked how.
pub fn has_ended(pid: u32) -> bool {
    match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        // `pid (name) state ...`, where the name may hold anything, parentheses too.
        Ok(stat) => stat
            .rsplit_once(") ")
            .is_some_and(|(_, rest)| rest.starts_with(['Z', 'X'])),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn cachestat_and_mincore_agree_on_a_file_just_written() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![1; 40 * 4096]).unwrap();
        let by_mincore = mincore(&file).unwrap();
        assert!(by_mincore > 0);
        if let Some(by_cachestat) = cachestat(&file) {
            assert_eq!(by_cachestat, by_mincore);
        }
    }

    #[test]
    fn a_process_has_ended_when_it_is_gone_or_a_zombie() {
        assert!(!has_ended(std::process::id()));
        // Process numbers end below 2^22, so nobody has this one.
        assert!(has_ended(4_194_305));
        let mut child = std::process::Command::new("true").spawn().unwrap();
        while !has_ended(child.id()) {
            std::thread::yield_now();
        }
        child.wait().unwrap();
    }

    #[test]
    fn usage_never_falls() {
        let before = usage().unwrap();
        let work: u64 = (0..20_000_000u64)
            .map(crate::record::mix)
            .fold(0, u64::wrapping_add);
        assert_ne!(work, 1);
        let after = usage().unwrap();
        assert!(after.user_ns + after.system_ns >= before.user_ns + before.system_ns);
    }
}
