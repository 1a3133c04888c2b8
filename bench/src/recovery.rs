//! How long a database whose process was killed takes to answer again, against the log it has left.
//!
//! For several lengths of the log, shortest first: another process opens the database with this limit
//! of its log, overwrites records, one in each transaction, until the log is as long as that (one more
//! commit, and a checkpoint would begin), waits until all is durable, and kills itself. The file and
//! the log are dropped from the page cache. Then this process opens the database, which replays the
//! log; reads a record that was written last; and commits one. It closes the database, for the next
//! one.
//!
//! The records that are overwritten are the first few ten thousand in the order of the keys, so that a
//! long log has each of them many times, as logs do: what replaying costs is then replaying, and not a
//! cold read for each record.
//!
//! Start at [`measure`].

use std::collections::HashMap;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use rustix::process::{Signal, getpid, kill_process};
use serde::{Deserialize, Serialize};

use crate::cgroup::GroupPath;
use crate::child::{Reaped, send_config};
use crate::dataset;
use crate::error::{Error, Result};
use crate::measure::kernel::{Snapshot, block_device};
use crate::measure::latency::Latencies;
use crate::record::{Records, mix};
use crate::row::Outcome;
use crate::run::{self, Done};
use crate::spec::RunConfig;
use crate::store::{Backend, Store};
use crate::workload::Evidence;

/// Records that are overwritten: 8 MiB with the default values.
const HOT: usize = 64 << 10;
/// The longest log, and shorter ones by these factors.
const SHORTER_BY: [u64; 3] = [16, 4, 1];
/// So much before the log reaches its limit the process stops: the last commit and what pads its group
/// to what the device writes.
const MARGIN_BYTES: u64 = 12 << 10;

/// One opening after a kill.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Recovery {
    /// `Options::log_bytes` of the process that was killed.
    pub log_limit_bytes: u64,
    /// Bytes of log that were read.
    pub log_bytes_read: u64,
    /// Commits that were replayed, of one record each.
    pub records_replayed: u64,
    /// Until the database was open.
    pub opened_ns: u64,
    /// From the beginning of opening until the first `get` was answered.
    pub first_read_ns: u64,
    /// From there until the first commit was durable.
    pub first_write_ns: u64,
}

impl Recovery {
    /// Records replayed for each second that opening took.
    pub fn records_per_s(&self) -> f64 {
        self.records_replayed as f64 * 1e9 / self.opened_ns.max(1) as f64
    }
}

/// The whole run: kills a process and opens what it left, for each length of the log.
///
/// # Errors
/// [`Error::Child`] if the process did not end as it should; [`Error::WrongData`] if what it wrote is
/// not there; whatever the store says.
pub fn measure(config: &RunConfig) -> Result<Done> {
    let plan = &config.plan;
    let device = block_device(&config.file);
    let before = Snapshot::take(device.as_deref())?;
    let mut written = HashMap::new();
    let mut generation = 1;
    let (mut latencies, mut commits) = (Latencies::default(), Latencies::default());
    let mut outcome = Outcome {
        unit: plan.workload.unit().to_owned(),
        timeline_bucket_ms: 1e3,
        durable_by: Some("redo log".to_owned()),
        ..Outcome::default()
    };
    for limit in SHORTER_BY.map(|factor| plan.log_bytes / factor) {
        let evidence = let_crash(config, limit, generation)?;
        dataset::evict_with_log(&config.file)?;
        generation += evidence.written.len() as u64;
        let last = evidence.written.iter().max_by_key(|(_, n)| *n).copied();
        let last = last.ok_or_else(|| Error::Child("died before it wrote".to_owned()))?;
        generation = generation.max(last.1 + 1);
        written.extend(evidence.written);

        let (recovery, store) = reopen(config, limit, last, generation)?;
        written.insert(last.0, generation);
        generation += 1;
        latencies.record(Duration::from_nanos(recovery.first_read_ns));
        commits.record(Duration::from_nanos(recovery.first_write_ns));
        outcome.recoveries.push(recovery);
        outcome.values_checked += 1;
        outcome.effective_backend = store.effective_backend();
        outcome.log_sync_method = store.log_sync_method();
        outcome.pager_counters = store.counters();
        outcome.log_counters = store.log_counters();
        outcome.checkpoint_counters = store.checkpoint_counters();
        store.close()?;
    }
    let recoveries = &outcome.recoveries;
    let opened_ns: u64 = recoveries.iter().map(|recovery| recovery.opened_ns).sum();
    outcome.open_ns = opened_ns / recoveries.len().max(1) as u64;
    outcome.units = recoveries.iter().map(|one| one.records_replayed).sum();
    outcome.measured_s = opened_ns as f64 / 1e9;
    outcome.units_per_s = outcome.units as f64 / outcome.measured_s.max(1e-9);
    outcome.latency = latencies.summary();
    outcome.commit_latency = commits.summary();
    outcome.costs = Snapshot::take(device.as_deref())?.since(&before);
    let per_page = plan.page_size_bytes as f64 * outcome.units.max(1) as f64;
    let read_bytes = outcome.costs.process_read_bytes;
    outcome.page_reads_per_unit = read_bytes.map(|bytes| bytes as f64 / per_page);
    outcome.memory = run::memory(config.group.as_ref().and_then(GroupPath::memory_now));
    let evidence = Evidence {
        records_added: 0,
        written: written.into_iter().collect(),
    };
    Ok(Done { outcome, evidence })
}

fn open(config: &RunConfig, log_limit_bytes: u64) -> Result<Store> {
    let plan = &config.plan;
    let backend = Backend {
        pager: plan.pager,
        budget_bytes: plan.pool_budget_bytes,
        trace: None,
    };
    let records = Records::new(plan.seed, plan.value_bytes as usize);
    Store::open_to_write(&config.file, backend, log_limit_bytes, records)
}

/// Opens what a killed process left, reads the record `last` and commits it in `generation`.
fn reopen(
    config: &RunConfig,
    limit: u64,
    (key, expected): (u64, u64),
    generation: u64,
) -> Result<(Recovery, Store)> {
    let begin = Instant::now();
    let store = open(config, limit)?;
    let opened = begin.elapsed();
    let found = store.snapshot()?.reader()?.get(key)?;
    let answered = begin.elapsed();
    let mut txn = store.transaction()?;
    txn.put(key, generation)?;
    txn.commit()?;
    let committed = begin.elapsed();
    if found != expected {
        let what = format!("generation {found} after the kill, not {expected}");
        return Err(Error::WrongData { key, what });
    }
    let report = store
        .replayed()
        .ok_or_else(|| Error::Child("left nothing to replay when it died".to_owned()))?;
    let recovery = Recovery {
        log_limit_bytes: limit,
        log_bytes_read: report.log_bytes,
        records_replayed: report.commits,
        opened_ns: opened.as_nanos() as u64,
        first_read_ns: answered.as_nanos() as u64,
        first_write_ns: (committed - answered).as_nanos() as u64,
    };
    Ok((recovery, store))
}

/// Runs the process that fills the log and dies. Returns what it wrote.
fn let_crash(config: &RunConfig, limit: u64, generation: u64) -> Result<Evidence> {
    let spawned = Command::new("/proc/self/exe")
        .arg("crash")
        .args(["--log-bytes", &limit.to_string()])
        .args(["--generation", &generation.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let child = spawned.map_err(|source| Error::system("start a process to kill", source))?;
    let mut child = Reaped(child);
    send_config(&mut child.0, config)?;
    let mut said = String::new();
    let stdout = child.0.stdout.as_mut().expect("it was asked for");
    stdout
        .read_to_string(&mut said)
        .map_err(|source| Error::system("hear what a process wrote", source))?;
    let status = child.0.wait();
    let status = status.map_err(|source| Error::system("wait for a killed process", source))?;
    match serde_json::from_str(&said) {
        Ok(evidence) if status.signal() == Some(Signal::KILL.as_raw()) => Ok(evidence),
        _ => Err(Error::Child(format!("was to kill itself: {status}"))),
    }
}

/// The whole life of the process that is killed.
pub fn crash(log_bytes: u64, generation: u64) -> ExitCode {
    let filled = run::prepare(None).and_then(|config| {
        let store = open(&config, log_bytes)?;
        let evidence = fill(&config, &store, log_bytes, generation)?;
        let said = serde_json::to_vec(&evidence)
            .map_err(|source| Error::system("encode what was written", source))?;
        std::io::stdout()
            .write_all(&said)
            .and_then(|()| std::io::stdout().flush())
            .and_then(|()| Ok(kill_process(getpid(), Signal::KILL)?))
            .map_err(|source| Error::system("kill itself", source))
    });
    if let Err(error) = filled {
        eprintln!("{error}");
    }
    ExitCode::FAILURE
}

/// Overwrites records until the log is `log_bytes` long. All of it is durable then.
fn fill(config: &RunConfig, store: &Store, log_bytes: u64, generation: u64) -> Result<Evidence> {
    let keys = first_keys(store)?;
    let mut random = SmallRng::seed_from_u64(mix(config.plan.seed) ^ generation);
    let mut written = HashMap::new();
    for generation in generation.. {
        let key = keys[random.random_range(0..keys.len())];
        let mut txn = store.transaction()?;
        txn.put(key, generation)?;
        written.insert(key, generation);
        if store.log_bytes() + MARGIN_BYTES < log_bytes {
            txn.commit_later()?;
        } else {
            txn.commit()?;
            break;
        }
    }
    Ok(Evidence {
        records_added: 0,
        written: written.into_iter().collect(),
    })
}

fn first_keys(store: &Store) -> Result<Vec<u64>> {
    let snapshot = store.snapshot()?;
    let mut scan = snapshot.reader()?.scan_from(0);
    let mut keys = Vec::new();
    while keys.len() < HOT
        && let Some(key) = scan.next_key()?
    {
        keys.push(key);
    }
    match keys.is_empty() {
        true => Err(Error::bad_option("records", "there must be one at least")),
        false => Ok(keys),
    }
}
