//! One run as one JSON object. `ROWS.md` describes every field; a test holds it to that.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::environment::Environment;
use crate::error::{Error, Result};
use crate::measure::device::{DeviceRate, SyncRate};
use crate::measure::kernel::Costs;
use crate::measure::latency::LatencySummary;
use crate::recovery::Recovery;
use crate::spec::Plan;
use crate::store::{CheckpointCounters, LogCounters, PagerCounters};
use crate::workload::steady::CheckpointPhases;

/// Rises when a field changes its meaning or goes.
pub const SCHEMA_VERSION: u32 = 1;

/// One run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// [`SCHEMA_VERSION`] of who wrote it.
    pub schema_version: u32,
    /// What was asked for.
    #[serde(flatten)]
    pub plan: Plan,
    /// Why the run failed; null if it did not. A failed run has no `outcome`.
    pub error: Option<String>,
    /// What was measured.
    pub outcome: Option<Outcome>,
    /// The device's own rate just before the runs of this workload and repetition.
    pub device: Option<DeviceRate>,
    /// The device's own rate of synced writes, the mean of just before and just after the run; for single commits only.
    #[serde(default)]
    pub device_syncs: Option<SyncRate>,
    /// The machine and the program.
    pub environment: Environment,
}

/// What was measured in the window of one run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// What really ran, in the engine's words.
    pub effective_backend: String,
    /// Pages of the file (of the system's page size) in the page cache before the run; 0 is right.
    pub cached_pages_at_start: Option<u64>,
    /// Time to open the database.
    pub open_ns: u64,
    /// Length of the warm-up.
    pub warmup_s: f64,
    /// Whether memory for pages was full when the window began; null without a limit.
    pub memory_full_at_start: Option<bool>,
    /// Length of the window.
    pub measured_s: f64,
    /// What throughput counts: `lookup`, `scan` or `record`.
    pub unit: String,
    /// Units done in the window.
    pub units: u64,
    /// `units / measured_s`.
    pub units_per_s: f64,
    /// Values read in the window and found right, byte for byte.
    pub values_checked: u64,
    /// Records read back after the run, through the other pager, and found as they were committed.
    pub records_read_back: u64,
    /// Durations of operations.
    pub latency: LatencySummary,
    /// Durations of commits; count 0 for reading workloads.
    pub commit_latency: LatencySummary,
    /// Width of a bar of the time line.
    pub timeline_bucket_ms: f64,
    /// Units done in each bar, from the beginning of the window.
    pub timeline_units: Vec<u64>,
    /// What the kernel counted in the window.
    pub costs: Costs,
    /// `costs.process_read_bytes / page_size_bytes / units`.
    pub page_reads_per_unit: Option<f64>,
    /// What the pager counted in the window.
    pub pager_counters: PagerCounters,
    /// What the redo log counted in the window.
    #[serde(default)]
    pub log_counters: LogCounters,
    /// What checkpoints did in the window.
    #[serde(default)]
    pub checkpoint_counters: CheckpointCounters,
    /// How the log syncs, as its probe chose: `fdatasync` or `O_DSYNC`; null for reading workloads.
    #[serde(default)]
    pub log_sync_method: Option<String>,
    /// Reads and commits with and without a checkpoint; null but for `checkpoint`.
    #[serde(default)]
    pub checkpoint_phases: Option<CheckpointPhases>,
    /// Openings after a kill, in the order of the logs' lengths; empty but for `recovery`.
    #[serde(default)]
    pub recoveries: Vec<Recovery>,
    /// What makes a commit durable: `redo log`; null for reading workloads.
    #[serde(default)]
    pub durable_by: Option<String>,
    /// Memory, as the kernel counts it.
    pub memory: Memory,
}

/// Memory of one run, as the kernel counts it. Null where it cannot be known, or without a group.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Memory {
    /// The most that was charged to the run's group, page cache included.
    pub peak_bytes: Option<u64>,
    /// What was charged to it at the end of the window.
    pub usage_bytes: Option<u64>,
    /// The page cache's part of that.
    pub cache_bytes: Option<u64>,
    /// The private memory's part.
    pub anonymous_bytes: Option<u64>,
    /// The kernel's part: page tables and the like.
    pub kernel_bytes: Option<u64>,
    /// The part of the page cache that differed from storage.
    pub dirty_bytes: Option<u64>,
    /// How often the limit was met and memory reclaimed, in the whole run.
    pub limit_hits: Option<u64>,
    /// Processes killed for want of memory; 0 is right.
    pub oom_kills: Option<u64>,
    /// The most that the process had in its page tables, mapped files included.
    pub peak_resident_bytes: Option<u64>,
}

impl Row {
    /// Units a second, if the run succeeded.
    pub fn units_per_s(&self) -> Option<f64> {
        Some(self.outcome.as_ref()?.units_per_s)
    }
}

impl Outcome {
    /// A total of the window, divided by the units done.
    pub fn per_unit(&self, total: f64) -> f64 {
        total / self.units.max(1) as f64
    }

    /// Processor time of one unit, user and kernel together.
    pub fn cpu_ns_per_unit(&self) -> f64 {
        self.per_unit((self.costs.cpu_user_ns + self.costs.cpu_system_ns) as f64)
    }

    /// Faults of one unit, those that found their page and those that waited.
    pub fn faults_per_unit(&self) -> f64 {
        self.per_unit((self.costs.minor_faults + self.costs.major_faults) as f64)
    }
}

/// Appends rows to a file, each of them whole when [`RowWriter::write`] returns.
#[derive(Debug)]
pub struct RowWriter {
    file: File,
    path: PathBuf,
}

impl RowWriter {
    /// Begins the file at `path`, which must not exist yet.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn create(path: &Path) -> Result<Self> {
        let file = OpenOptions::new()
            .append(true)
            .create_new(true)
            .open(path)
            .map_err(|source| Error::io("create", path, source))?;
        Ok(RowWriter {
            file,
            path: path.to_path_buf(),
        })
    }

    /// Appends one row as one line.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(&mut self, row: &Row) -> Result<()> {
        let mut line = serde_json::to_vec(row)
            .map_err(|source| Error::io("encode a row for", &self.path, source))?;
        line.push(b'\n');
        self.file
            .write_all(&line)
            .map_err(|source| Error::io("write to", &self.path, source))
    }
}

/// Reads all rows of a file.
///
/// # Errors
/// [`Error::Io`] for a file that cannot be read or holds a line that is not a row.
pub fn read_rows(path: &Path) -> Result<Vec<Row>> {
    let bad = |source: std::io::Error| Error::io("read rows from", path, source);
    let lines = BufReader::new(File::open(path).map_err(bad)?).lines();
    lines
        .map(|line| serde_json::from_str(&line.map_err(bad)?).map_err(|error| bad(error.into())))
        .collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::spec::{PagerSpec, WorkloadKind};

    /// A plan with plausible numbers.
    pub(crate) fn plan() -> Plan {
        Plan {
            pager: "mmap-random".parse().unwrap(),
            workload: WorkloadKind::PointUniform,
            repetition: 1,
            page_size_bytes: 4096,
            threads: 1,
            seed: 1,
            records: 1000,
            value_bytes: 120,
            file_bytes: 300 << 20,
            limit_bytes: Some(64 << 20),
            limit_mechanism: "cgroup v1".to_owned(),
            pool_budget_bytes: None,
            reserve_bytes: 16 << 20,
            log_bytes: 64 << 20,
            traced: false,
        }
    }

    /// A row with plausible numbers: `rate` units a second.
    pub(crate) fn row(pager: &str, workload: WorkloadKind, repetition: u32, rate: f64) -> Row {
        let ns = 1e9 / rate;
        let latency = LatencySummary {
            count: rate as u64,
            mean_ns: ns,
            p50_ns: (ns * 0.8) as u64,
            p90_ns: (ns * 1.5) as u64,
            p99_ns: (ns * 3.0) as u64,
            p999_ns: (ns * 6.0) as u64,
            max_ns: (ns * 30.0) as u64,
            quantiles_ns: vec![(0.0, (ns * 0.2) as u64), (1.0, (ns * 30.0) as u64)],
        };
        let pager: PagerSpec = pager.parse().unwrap();
        let reads = if pager == PagerSpec::plain_mmap(crate::spec::Advice::Normal) {
            5e6
        } else {
            3300.0
        };
        let outcome = Outcome {
            effective_backend: format!("{pager}, as tested"),
            cached_pages_at_start: Some(0),
            open_ns: 1_000_000,
            warmup_s: 0.5,
            memory_full_at_start: Some(true),
            measured_s: 1.0,
            unit: workload.unit().to_owned(),
            units: rate as u64,
            units_per_s: rate,
            values_checked: rate as u64,
            records_read_back: 0,
            latency: latency.clone(),
            commit_latency: if workload.writes() {
                latency
            } else {
                LatencySummary::default()
            },
            timeline_bucket_ms: 20.0,
            timeline_units: (0..50).map(|i| (rate / 50.0) as u64 + i % 7).collect(),
            costs: Costs {
                cpu_user_ns: (rate * 3000.0) as u64,
                cpu_system_ns: (rate * 20_000.0) as u64,
                minor_faults: (rate * 0.1) as u64,
                major_faults: if pager.is_mmap() {
                    (rate * 0.8) as u64
                } else {
                    0
                },
                process_read_bytes: Some((rate * reads) as u64),
                process_write_bytes: Some(0),
                ..Costs::default()
            },
            page_reads_per_unit: Some(reads / 4096.0),
            memory: Memory {
                peak_bytes: Some(64 << 20),
                usage_bytes: Some(63 << 20),
                oom_kills: Some(0),
                ..Memory::default()
            },
            log_counters: LogCounters {
                log_commits: rate as u64,
                log_groups: (rate / 4.0) as u64,
                log_largest_group: 8,
                ..LogCounters::default()
            },
            durable_by: workload.writes().then(|| "redo log".to_owned()),
            ..Outcome::default()
        };
        Row {
            schema_version: SCHEMA_VERSION,
            plan: Plan {
                pager,
                workload,
                repetition,
                threads: workload.threads(1),
                pool_budget_bytes: (!pager.is_mmap()).then_some(48 << 20),
                ..plan()
            },
            error: None,
            outcome: Some(outcome),
            device: Some(DeviceRate {
                one_in_flight_reads_per_s: 13_800.0,
                sixteen_in_flight_reads_per_s: 60_000.0,
            }),
            device_syncs: workload.commits_singly().then_some(SyncRate {
                overwrite_fdatasync_per_s: 6300.0,
                overwrite_dsync_per_s: 7100.0,
            }),
            environment: Environment {
                read_ahead_kib: Some(8192),
                ..Environment::default()
            },
        }
    }

    #[test]
    fn a_row_reads_back_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rows.jsonl");
        let mut failed = row("pool-uring", WorkloadKind::ScanFull, 2, 1e6);
        failed.outcome = None;
        failed.error = Some("killed".to_owned());
        let rows = vec![
            row("mmap-normal", WorkloadKind::UpdateRandom, 1, 117.5),
            failed,
        ];
        let mut writer = RowWriter::create(&path).unwrap();
        rows.iter().for_each(|row| writer.write(row).unwrap());
        assert_eq!(read_rows(&path).unwrap(), rows);
        assert!(
            RowWriter::create(&path).is_err(),
            "rows are never overwritten"
        );
    }

    #[test]
    fn a_line_that_is_no_row_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rows.jsonl");
        std::fs::write(&path, "{\"schema_version\": 1}\n").unwrap();
        assert!(read_rows(&path).is_err());
        assert!(read_rows(&dir.path().join("absent")).is_err());
    }

    #[test]
    fn every_field_of_a_row_is_documented() {
        fn names(value: &serde_json::Value, into: &mut Vec<String>) {
            if let serde_json::Value::Object(fields) = value {
                for (name, value) in fields {
                    into.push(name.clone());
                    names(value, into);
                }
            }
        }
        let row = row("mmap-random", WorkloadKind::CommitEight, 1, 1000.0);
        let mut fields = Vec::new();
        names(&serde_json::to_value(row).unwrap(), &mut fields);
        names(
            &serde_json::to_value(Recovery::default()).unwrap(),
            &mut fields,
        );
        let page = include_str!("../ROWS.md");
        let missing: Vec<_> = fields
            .into_iter()
            .filter(|name| !page.contains(&format!("`{name}`")))
            .collect();
        assert!(missing.is_empty(), "ROWS.md says nothing about {missing:?}");
    }
}
