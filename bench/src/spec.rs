//! What is compared: pagers by name, workloads by name, and the plan of one run.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use bifolio::Policy;
use serde::{Deserialize, Serialize};

use crate::cgroup::GroupPath;
use crate::error::Error;

/// A pager with its choices, as named on the command line: `mmap-random-pwrite`, `pool-uring-lru`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum PagerSpec {
    /// The memory map.
    Mmap {
        /// What the kernel is told of the coming accesses.
        advice: Advice,
        /// Whether changed pages are written by `pwrite`, and not through the mapping.
        pwrite: bool,
        /// Whether it keeps to the budget that a pool gets (softly), and not to the limit alone.
        budget: bool,
    },
    /// The buffer pool.
    Pool {
        /// How it reads and writes.
        io: PoolIo,
        /// Which page leaves when another one needs its frame.
        policy: Policy,
        /// Whether it bypasses the page cache (`O_DIRECT`).
        direct: bool,
    },
}

/// What the kernel is told about a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Advice {
    /// `MADV_RANDOM`: read nothing but the page that faulted.
    Random,
    /// `MADV_NORMAL`: the kernel's default, which reads around each fault.
    Normal,
    /// `MADV_SEQUENTIAL`: read far ahead, drop behind.
    Sequential,
}

/// How a pool reads and writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PoolIo {
    /// One `pread` or `pwrite` at a time.
    Pread,
    /// io_uring, many in flight.
    Uring,
}

impl PagerSpec {
    /// Whether memory for pages is the kernel's page cache and not a budget of our own.
    pub fn is_mmap(self) -> bool {
        matches!(self, PagerSpec::Mmap { .. })
    }

    /// Whether it is told how much memory to use.
    pub fn takes_budget(self) -> bool {
        !matches!(self, PagerSpec::Mmap { budget: false, .. })
    }

    /// The map with nothing but this advice.
    pub fn plain_mmap(advice: Advice) -> Self {
        PagerSpec::Mmap {
            advice,
            pwrite: false,
            budget: false,
        }
    }
}

impl fmt::Display for PagerSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            PagerSpec::Mmap {
                advice,
                pwrite,
                budget,
            } => {
                f.write_str(match advice {
                    Advice::Random => "mmap-random",
                    Advice::Normal => "mmap-normal",
                    Advice::Sequential => "mmap-sequential",
                })?;
                if pwrite {
                    f.write_str("-pwrite")?;
                }
                if budget {
                    f.write_str("-budget")?;
                }
                Ok(())
            }
            PagerSpec::Pool { io, policy, direct } => {
                f.write_str(match io {
                    PoolIo::Pread => "pool-pread",
                    PoolIo::Uring => "pool-uring",
                })?;
                if policy != Policy::default() {
                    write!(f, "-{policy}")?;
                }
                if !direct {
                    f.write_str("-buffered")?;
                }
                Ok(())
            }
        }
    }
}

impl FromStr for PagerSpec {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let bad = || {
            Error::bad_option(
                text,
                "a pager is mmap-random, mmap-normal or mmap-sequential, after which -pwrite and \
                 -budget may follow, or pool-pread or pool-uring, after which -buffered and an \
                 eviction policy may: -clock, -lru, -random, -sieve, -2q or -s3fifo",
            )
        };
        let mut words = text.split('-');
        match (words.next(), words.next()) {
            (Some("mmap"), Some(advice)) => {
                let advice = match advice {
                    "random" => Advice::Random,
                    "normal" => Advice::Normal,
                    "sequential" => Advice::Sequential,
                    _ => return Err(bad()),
                };
                let (mut pwrite, mut budget) = (false, false);
                for word in words {
                    match word {
                        "pwrite" => pwrite = true,
                        "budget" => budget = true,
                        _ => return Err(bad()),
                    }
                }
                Ok(PagerSpec::Mmap {
                    advice,
                    pwrite,
                    budget,
                })
            }
            (Some("pool"), Some(io)) => {
                let io = match io {
                    "pread" => PoolIo::Pread,
                    "uring" => PoolIo::Uring,
                    _ => return Err(bad()),
                };
                let (mut policy, mut direct) = (Policy::default(), true);
                for word in words {
                    match word {
                        "buffered" => direct = false,
                        "direct" => direct = true,
                        name => policy = Policy::from_name(name).ok_or_else(bad)?,
                    }
                }
                Ok(PagerSpec::Pool { io, policy, direct })
            }
            _ => Err(bad()),
        }
    }
}

impl TryFrom<String> for PagerSpec {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<PagerSpec> for String {
    fn from(spec: PagerSpec) -> String {
        spec.to_string()
    }
}

/// A workload by name.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    clap::ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
pub enum WorkloadKind {
    /// One `get` of a random key at a time; every key is equally likely.
    PointUniform,
    /// One `get` at a time; the n-th most popular key has a share that falls as n^-0.99.
    PointZipf,
    /// `get_many` of 64 random keys at a time.
    PointBatch,
    /// 100 records in key order from a random key on.
    ScanShort,
    /// All records in key order, again and again.
    ScanFull,
    /// Overwrites of random keys, 1000 to a transaction.
    UpdateRandom,
    /// The same overwrites, each transaction's collected first and applied as one `WriteBatch`.
    UpdateBatch,
    /// New keys all over the key space, 1000 to a transaction.
    InsertRandom,
    /// One record overwritten in each durable transaction, from memory, by one thread.
    #[serde(rename = "commit-1")]
    #[value(name = "commit-1")]
    CommitOne,
    /// The same by eight threads at once, which can share a sync.
    #[serde(rename = "commit-8")]
    #[value(name = "commit-8")]
    CommitEight,
    /// Reads and commits at a fixed rate, from memory, while checkpoints come and go.
    Checkpoint,
    /// Opening a database whose process was killed, for several lengths of its log.
    Recovery,
}

impl WorkloadKind {
    /// How many of [`WorkloadKind::ALL`] run unless others are asked for: the last two need a longer
    /// window (`--workloads checkpoint,recovery --seconds 20`).
    pub const BY_DEFAULT: usize = 10;

    /// All of them, in the order of the report.
    pub const ALL: [WorkloadKind; 12] = [
        WorkloadKind::PointUniform,
        WorkloadKind::PointZipf,
        WorkloadKind::PointBatch,
        WorkloadKind::ScanShort,
        WorkloadKind::ScanFull,
        WorkloadKind::UpdateRandom,
        WorkloadKind::UpdateBatch,
        WorkloadKind::InsertRandom,
        WorkloadKind::CommitOne,
        WorkloadKind::CommitEight,
        WorkloadKind::Checkpoint,
        WorkloadKind::Recovery,
    ];

    /// The name on the command line and in the rows.
    pub fn name(self) -> &'static str {
        match self {
            WorkloadKind::PointUniform => "point-uniform",
            WorkloadKind::PointZipf => "point-zipf",
            WorkloadKind::PointBatch => "point-batch",
            WorkloadKind::ScanShort => "scan-short",
            WorkloadKind::ScanFull => "scan-full",
            WorkloadKind::UpdateRandom => "update-random",
            WorkloadKind::UpdateBatch => "update-batch",
            WorkloadKind::InsertRandom => "insert-random",
            WorkloadKind::CommitOne => "commit-1",
            WorkloadKind::CommitEight => "commit-8",
            WorkloadKind::Checkpoint => "checkpoint",
            WorkloadKind::Recovery => "recovery",
        }
    }

    /// The name in a heading.
    pub fn title(self) -> &'static str {
        match self {
            WorkloadKind::PointUniform => "Random point reads, uniform",
            WorkloadKind::PointZipf => "Random point reads, zipfian 0.99",
            WorkloadKind::PointBatch => "Random point reads, 64 at a time",
            WorkloadKind::ScanShort => "Short range scans, 100 records",
            WorkloadKind::ScanFull => "Full scan in key order",
            WorkloadKind::UpdateRandom => "Random updates, 1000 per durable commit",
            WorkloadKind::UpdateBatch => "Random updates, batches of 1000",
            WorkloadKind::InsertRandom => "Random inserts, 1000 per durable commit",
            WorkloadKind::CommitOne => "Durable commits of one record, 1 thread",
            WorkloadKind::CommitEight => "Durable commits of one record, 8 threads",
            WorkloadKind::Checkpoint => "Steady load beside checkpoints",
            WorkloadKind::Recovery => "Opening after a kill",
        }
    }

    /// What throughput counts and costs are divided by.
    pub fn unit(self) -> &'static str {
        match self {
            WorkloadKind::PointUniform | WorkloadKind::PointZipf | WorkloadKind::PointBatch => {
                "lookup"
            }
            WorkloadKind::ScanShort => "scan",
            WorkloadKind::ScanFull
            | WorkloadKind::UpdateRandom
            | WorkloadKind::UpdateBatch
            | WorkloadKind::InsertRandom
            | WorkloadKind::Recovery => "record",
            WorkloadKind::CommitOne | WorkloadKind::CommitEight => "commit",
            WorkloadKind::Checkpoint => "operation",
        }
    }

    /// What one value of the latency distribution is the time of.
    pub fn latency_of(self) -> &'static str {
        match self {
            WorkloadKind::PointUniform | WorkloadKind::PointZipf => "one get",
            WorkloadKind::PointBatch => "one get_many of 64 keys",
            WorkloadKind::ScanShort => "one scan of 100 records",
            WorkloadKind::ScanFull => "100 records of the scan",
            WorkloadKind::UpdateRandom | WorkloadKind::InsertRandom => "one insert, commit apart",
            WorkloadKind::UpdateBatch => "one durable batch of 1000",
            WorkloadKind::CommitOne | WorkloadKind::CommitEight => "one whole transaction",
            WorkloadKind::Checkpoint => "one get or transaction",
            WorkloadKind::Recovery => "one opening, to the first get",
        }
    }

    /// Whether the database is changed, so that each run needs a copy of its own.
    pub fn writes(self) -> bool {
        match self {
            WorkloadKind::UpdateRandom
            | WorkloadKind::UpdateBatch
            | WorkloadKind::InsertRandom
            | WorkloadKind::Checkpoint
            | WorkloadKind::Recovery => true,
            _ => self.commits_singly(),
        }
    }

    /// Whether each transaction writes one record, so that the device's syncs bound the rate.
    pub fn commits_singly(self) -> bool {
        matches!(self, WorkloadKind::CommitOne | WorkloadKind::CommitEight)
    }

    /// Threads that run it, where `readers` were asked for.
    pub fn threads(self, readers: u32) -> u32 {
        match self {
            WorkloadKind::UpdateRandom
            | WorkloadKind::UpdateBatch
            | WorkloadKind::InsertRandom
            | WorkloadKind::CommitOne
            | WorkloadKind::Recovery => 1,
            WorkloadKind::CommitEight => 8,
            WorkloadKind::Checkpoint => 2,
            _ => readers,
        }
    }
}

impl fmt::Display for WorkloadKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What one run is asked to do: the part of a row that is known before it starts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Which pager, with its choices.
    pub pager: PagerSpec,
    /// Which workload.
    pub workload: WorkloadKind,
    /// The how-manieth repetition of the whole set this run belongs to, from 1.
    pub repetition: u32,
    /// Bytes of a database page.
    pub page_size_bytes: u64,
    /// Threads that run the workload. Writing ones have as many as their definition says.
    pub threads: u32,
    /// What keys, values and choices are drawn from.
    pub seed: u64,
    /// Records in the pristine database.
    pub records: u64,
    /// Bytes of a value; a key has 8.
    pub value_bytes: u64,
    /// Bytes of the pristine database file.
    pub file_bytes: u64,
    /// The memory limit of the run's control group; null if memory was not limited.
    pub limit_bytes: Option<u64>,
    /// How memory was limited: `cgroup v1`, `cgroup v2` or `none`.
    pub limit_mechanism: String,
    /// Memory given to the pool, or to a map that keeps to a budget; null for any other map, which
    /// may use all of the limit as page cache.
    pub pool_budget_bytes: Option<u64>,
    /// Memory of the limit that is left to the process beside the pool.
    pub reserve_bytes: u64,
    /// Bytes of redo log after which a checkpoint begins; 0 in rows from before there was a log.
    #[serde(default)]
    pub log_bytes: u64,
    /// Whether a pool recorded its accesses meanwhile, which takes a lock at each: such rates say
    /// nothing.
    #[serde(default)]
    pub traced: bool,
}

/// Everything a measuring process is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RunConfig {
    /// What to do.
    pub plan: Plan,
    /// The database file.
    pub file: PathBuf,
    /// Where a pool records its accesses to pages, if it shall.
    pub trace: Option<PathBuf>,
    /// The control group this process is in, to read its counters.
    pub group: Option<GroupPath>,
    /// Warm up at least this long.
    pub warmup_ms_min: u64,
    /// Warm up at most this long, even if memory is not full yet.
    pub warmup_ms_max: u64,
    /// Measure this long.
    pub measure_ms: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pager_s_name_reads_back_as_the_pager() {
        for name in [
            "mmap-random",
            "mmap-normal",
            "mmap-sequential",
            "mmap-random-pwrite",
            "mmap-normal-pwrite-budget",
            "pool-pread",
            "pool-uring",
            "pool-uring-lru",
            "pool-pread-lru-buffered",
        ] {
            assert_eq!(name.parse::<PagerSpec>().unwrap().to_string(), name);
        }
    }

    #[test]
    fn what_names_no_pager_is_refused() {
        for name in [
            "",
            "mmap",
            "mmap-random-lru",
            "pool",
            "pool-aio",
            "pool-uring-fifo",
            "lmdb",
        ] {
            assert!(name.parse::<PagerSpec>().is_err(), "{name}");
        }
    }

    #[test]
    fn a_workload_is_written_as_its_name() {
        for kind in WorkloadKind::ALL {
            let json = serde_json::to_string(&kind).unwrap();
            assert_eq!(json, format!("{:?}", kind.name()));
            assert_eq!(serde_json::from_str::<WorkloadKind>(&json).unwrap(), kind);
        }
    }
}
