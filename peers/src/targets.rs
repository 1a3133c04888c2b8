//! The figures that Bifolio wants to reach, each as a ratio of two medians of one comparison.

use crate::report::Medians;
use crate::workload::Workload::{self, *};

/// A figure to reach.
pub struct Target {
    /// What it says, in words.
    pub what: &'static str,
    /// Whose figure.
    pub ours: &'static str,
    /// Computes ours and what it is held against.
    pub figures: fn(&Medians, &str) -> Option<(f64, f64)>,
    /// What the ratio is to be: at least, or at most.
    pub goal: Goal,
}

/// What a ratio is to be.
#[derive(Clone, Copy)]
pub enum Goal {
    /// So much or more.
    AtLeast(f64),
    /// So much or less.
    AtMost(f64),
}

impl Goal {
    /// Whether `ratio` reaches it.
    pub fn is_reached(self, ratio: f64) -> bool {
        match self {
            Goal::AtLeast(goal) => ratio >= goal,
            Goal::AtMost(goal) => ratio <= goal,
        }
    }

    /// In words.
    pub fn words(self) -> String {
        match self {
            Goal::AtLeast(goal) => format!("≥ {goal}"),
            Goal::AtMost(goal) => format!("≤ {goal}"),
        }
    }
}

const B_TREES: &[&str] = &["lmdb", "lmdb-nra", "lmdb-writemap", "redb", "sqlite"];
const POOL: &[&str] = &["bifolio-pool"];
const MMAP: &[&str] = &["bifolio-mmap"];
const BOTH: &[&str] = &["bifolio-mmap", "bifolio-pool"];

type Figures = fn(&Medians, &str) -> Option<(f64, f64)>;

/// All of them, in the order in which they are shown.
pub fn all() -> Vec<Target> {
    use Goal::{AtLeast, AtMost};
    let rows: &[(&'static str, &[&'static str], Figures, Goal)] = &[
        (
            "random look-ups in memory, against LMDB",
            BOTH,
            |m, us| m.against(Get1, us, &["lmdb"]),
            AtLeast(1.3),
        ),
        (
            "the same with two threads",
            BOTH,
            |m, us| m.against(Get2, us, &["lmdb"]),
            AtLeast(1.3),
        ),
        (
            "random look-ups in memory, against our mmap pager",
            POOL,
            |m, us| m.against(Get1, us, MMAP),
            AtLeast(0.95),
        ),
        (
            "scans of 100 in memory, against redb",
            BOTH,
            |m, us| m.against(Scan100, us, &["redb"]),
            AtLeast(1.0),
        ),
        (
            "full scans in memory, against redb",
            BOTH,
            |m, us| m.against(ScanFull, us, &["redb"]),
            AtLeast(1.0),
        ),
        (
            "sorted bulk load, against LMDB",
            BOTH,
            |m, us| m.against(LoadSorted, us, &["lmdb"]),
            AtLeast(1.0),
        ),
        (
            "random-order load, against LMDB with MDB_WRITEMAP",
            BOTH,
            |m, us| m.against(LoadRandom, us, &["lmdb-writemap"]),
            AtLeast(1.5),
        ),
        (
            "durable transactions of 1,000 overwrites in memory, against LMDB",
            BOTH,
            |m, us| m.against(Overwrite, us, &["lmdb"]),
            AtLeast(5.0),
        ),
        (
            "YCSB A, not synced, against LMDB with MDB_WRITEMAP",
            BOTH,
            |m, us| m.against(YcsbA, us, &["lmdb-writemap"]),
            AtLeast(1.5),
        ),
        (
            "64 keys at once, larger than memory, against the device at depth 64",
            POOL,
            |m, us| m.against_device(ColdGetMany, us, Device64),
            AtLeast(1.0),
        ),
        (
            "the same",
            MMAP,
            |m, us| m.against_device(ColdGetMany, us, Device64),
            AtLeast(0.75),
        ),
        (
            "single look-ups, larger than memory, against the best peer",
            POOL,
            |m, us| m.against(ColdGet1, us, PEERS),
            AtLeast(1.1),
        ),
        (
            "device reads of eight threads' look-ups, against the device at depth 8",
            POOL,
            |m, us| Some((m.reads_per_s(ColdGet8, us)?, m.rate(Device8, "device")?)),
            AtLeast(0.95),
        ),
        (
            "scans of 100 after a random load, against LMDB",
            POOL,
            |m, us| m.against(ColdScan100, us, &["lmdb", "lmdb-nra"]),
            AtLeast(3.0),
        ),
        (
            "full scan after a random load, against LMDB without read-ahead",
            POOL,
            |m, us| m.against(ColdScanRandom, us, &["lmdb-nra"]),
            AtLeast(5.0),
        ),
        (
            "full scan after a sorted load, against the device or our scan in memory",
            POOL,
            |m, us| Some((m.rate(ColdScanSorted, us)?, m.scan_ceiling(us)?)),
            AtLeast(0.8),
        ),
        (
            "durable transactions of 1,000 overwrites, larger than memory, against the best of LMDB, redb and SQLite",
            POOL,
            |m, us| m.against(ColdOverwrite, us, B_TREES),
            AtLeast(4.0),
        ),
        (
            "processor time for a missed page, 64 at once, against our mmap pager",
            POOL,
            |m, us| m.cpu_against(ColdGetMany, us, "bifolio-mmap"),
            AtMost(0.5),
        ),
        (
            "the same, one at a time",
            POOL,
            |m, us| m.cpu_against(ColdGet1, us, "bifolio-mmap"),
            AtMost(0.85),
        ),
        (
            "memory at its peak in any of these runs, against the limit",
            POOL,
            |m, us| m.peak(us),
            AtMost(1.0),
        ),
        (
            "hit ratio of a hot set right after a scan of everything, against before",
            POOL,
            |m, us| m.hit_ratios(us),
            AtLeast(0.95),
        ),
    ];
    rows.iter()
        .flat_map(|&(what, ours, figures, goal)| {
            ours.iter().map(move |&ours| Target {
                what,
                ours,
                figures,
                goal,
            })
        })
        .collect()
}

/// Everybody but Bifolio and the device.
pub const PEERS: &[&str] = &[
    "lmdb",
    "lmdb-nra",
    "lmdb-writemap",
    "redb",
    "sqlite",
    "sqlite-mmap",
    "fjall",
    "rocksdb",
];

impl Medians {
    /// Our rate, and the best of theirs.
    fn against(&self, workload: Workload, us: &str, them: &[&str]) -> Option<(f64, f64)> {
        let best = them
            .iter()
            .filter_map(|peer| self.rate(workload, peer))
            .max_by(f64::total_cmp)?;
        Some((self.rate(workload, us)?, best))
    }

    fn against_device(&self, workload: Workload, us: &str, device: Workload) -> Option<(f64, f64)> {
        Some((self.rate(workload, us)?, self.rate(device, "device")?))
    }

    /// Pages read for this process, a second.
    fn reads_per_s(&self, workload: Workload, us: &str) -> Option<f64> {
        self.median(workload, us, |m| {
            Some(m.read_bytes? as f64 / 4096.0 / m.seconds)
        })
    }

    /// Records a second that a full scan cannot pass: the device's sequential rate in records, or
    /// the rate of the same scan in memory.
    fn scan_ceiling(&self, us: &str) -> Option<f64> {
        let mib_per_s = self.rate(DeviceSequential, "device")?;
        let per_record = self.median(ColdScanSorted, us, |m| {
            Some(m.file_bytes as f64 / m.units as f64)
        })?;
        let by_device = mib_per_s * f64::from(1 << 20) / per_record;
        Some(by_device.min(self.rate(ScanFull, us)?))
    }

    fn cpu_against(&self, workload: Workload, us: &str, them: &str) -> Option<(f64, f64)> {
        let cpu = |who| {
            self.median(workload, who, |m| {
                Some(m.cpu_ns as f64 / (m.read_bytes? as f64 / 4096.0))
            })
        };
        Some((cpu(us)?, cpu(them)?))
    }

    fn peak(&self, us: &str) -> Option<(f64, f64)> {
        let peaks = Workload::ALL
            .into_iter()
            .filter_map(|workload| self.median(workload, us, |m| Some(m.peak_bytes? as f64)));
        Some((peaks.max_by(f64::total_cmp)?, self.limit_bytes? as f64))
    }

    fn hit_ratios(&self, us: &str) -> Option<(f64, f64)> {
        let after = self.median(ColdHot, us, |m| Some(m.hit_ratios?.1))?;
        Some((after, self.median(ColdHot, us, |m| Some(m.hit_ratios?.0))?))
    }
}
