//! What a user may choose.

use bifolio_pager::META_AREA_LEN;

/// How a file is mapped. `Default` is what the engine wants of a database that it may write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MmapOptions {
    /// Map the file `PROT_READ`, and refuse all that would change it. Default: no.
    pub read_only: bool,
    /// Bytes of address space to reserve: how large the file may become while it is open. Costs no
    /// memory but half a millionth of it for tables. Default: 1 TiB.
    ///
    /// Rounded down to whole pages. A file that is longer already is mapped whole and cannot
    /// grow; where the machine refuses (`ulimit -v`, or the file system's largest file), half is
    /// tried, and so on; what came of it is in
    /// [`effective_backend`](bifolio_pager::Pager::effective_backend) and
    /// [`reserved_bytes`](crate::MmapPager::reserved_bytes).
    pub max_bytes: u64,
    /// What the kernel is told about the order of reads, until
    /// [`advise`](bifolio_pager::Pager::advise) tells it otherwise. Default: `Random`.
    pub advice: Advice,
    /// How changed pages get into the file. Default: through the mapping.
    pub write_style: WriteStyle,
    /// How a flush makes pages durable. Default: `msync`.
    pub sync_style: SyncStyle,
    /// With [`WriteStyle::Pwrite`], bytes of memory for pages of the running transaction; beyond
    /// that they are written early. At least a page. Default: 64 MiB.
    pub private_bytes: u64,
    /// How much of the file shall be in memory at most, a *soft* bound: what is over it is given
    /// back some milliseconds later, as far as it is not dirty. Costs a thread, and nothing on a
    /// read but the first of a page after the clock's hand came by. Not kept where the kernel does
    /// not say what is in memory (it does to the file's owner). Default: none.
    pub memory_bytes: Option<u64>,
}

impl Default for MmapOptions {
    fn default() -> Self {
        MmapOptions {
            read_only: false,
            max_bytes: 1 << 40,
            advice: Advice::Random,
            write_style: WriteStyle::Mapping,
            sync_style: SyncStyle::Msync,
            private_bytes: 64 << 20,
            memory_bytes: None,
        }
    }
}

/// How a flush makes pages durable. Either is one call, and one flush of the device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum SyncStyle {
    /// `msync` of the span that the flushed pages lie in; beneath, an `fdatasync` of a range.
    #[default]
    Msync,
    /// `fdatasync` of the file, which also writes, and waits for, what others have dirtied elsewhere.
    Fdatasync,
}

impl SyncStyle {
    /// The system call's name.
    pub fn name(self) -> &'static str {
        match self {
            SyncStyle::Msync => "msync",
            SyncStyle::Fdatasync => "fdatasync",
        }
    }
}

/// How changed pages get into the file. LMDB has both: the second is its default, the first its
/// `MDB_WRITEMAP`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum WriteStyle {
    /// By stores into a writable mapping: no copy, but the kernel may write a page at any moment,
    /// changed by half, and then write it again; and a stray store of the program damages the file.
    #[default]
    Mapping,
    /// By `pwrite`, beside a mapping that is only read. Pages are changed in memory of the
    /// process's own and copied to the page cache when their transaction commits.
    Pwrite,
}

impl WriteStyle {
    /// A word for it.
    pub fn name(self) -> &'static str {
        match self {
            WriteStyle::Mapping => "stores",
            WriteStyle::Pwrite => "pwrite",
        }
    }
}

/// What the kernel is told about the order in which pages will be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Advice {
    /// `MADV_RANDOM`: a fault reads the one page. Right for point reads; scans ask for what they
    /// need by `prefetch`. The kernel then does not look at which pages were used when it makes room
    /// (`vma_has_recency` in its source); [`MmapOptions::memory_bytes`] does.
    #[default]
    Random,
    /// `MADV_NORMAL`, the kernel's own default: a fault reads the device's read-ahead window around
    /// the page. For comparison: with data larger than memory and random reads, ruinous.
    Normal,
    /// `MADV_SEQUENTIAL`: read far ahead and drop what lies behind sooner.
    Sequential,
}

impl Advice {
    /// The kernel's name for it.
    pub fn name(self) -> &'static str {
        match self {
            Advice::Random => "MADV_RANDOM",
            Advice::Normal => "MADV_NORMAL",
            Advice::Sequential => "MADV_SEQUENTIAL",
        }
    }

    pub(crate) fn for_kernel(self) -> memmap2::Advice {
        match self {
            Advice::Random => memmap2::Advice::Random,
            Advice::Normal => memmap2::Advice::Normal,
            Advice::Sequential => memmap2::Advice::Sequential,
        }
    }
}

/// Bytes to reserve for a file of `file_len` bytes, as whole pages of at least the meta area.
pub(crate) fn reservation(max_bytes: u64, file_len: u64, page_size: u64) -> u64 {
    let wanted = max_bytes.min(RESERVATION_MAX) / page_size * page_size;
    least_reservation(file_len, page_size).max(wanted)
}

/// The least that must be mapped: the meta area, the whole file, and room for a page.
pub(crate) fn least_reservation(file_len: u64, page_size: u64) -> u64 {
    (file_len / page_size * page_size).max(META_AREA_LEN + page_size)
}

/// More than any address space of today, and far from where arithmetic would overflow.
const RESERVATION_MAX: u64 = 1 << 56;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reservation_is_whole_pages_and_covers_the_file() {
        assert_eq!(reservation(1 << 20, 0, 4096), 1 << 20);
        assert_eq!(reservation((1 << 20) + 5, 0, 65536), 1 << 20);
        assert_eq!(reservation(1 << 20, (3 << 20) + 100, 4096), 3 << 20);
        assert_eq!(reservation(0, 0, 8192), META_AREA_LEN + 8192);
        assert_eq!(reservation(u64::MAX, 0, 4096), RESERVATION_MAX);
    }
}
