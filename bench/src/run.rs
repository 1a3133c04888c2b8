//! The measuring process: one run, from joining its control group to its report.
//!
//! It is this program again, started with the hidden command `run`. It first joins its group and
//! replaces itself, so that all its memory from the first byte on is charged there; then it reads a
//! [`RunConfig`] from standard input, and prints a [`Report`] as its only line of output.

use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Signal, set_parent_process_death_signal};
use serde::{Deserialize, Serialize};

use crate::cgroup::{GroupPath, MemoryNow};
use crate::error::{Error, Result};
use crate::measure::kernel::{Costs, Snapshot, block_device, peak_resident_bytes};
use crate::measure::meter::{Counts, Meter, Observer, Phase, Schedule};
use crate::record::Records;
use crate::recovery;
use crate::row::{Memory, Outcome};
use crate::spec::{PagerSpec, RunConfig, WorkloadKind};
use crate::store::{Backend, CheckpointCounters, LogCounters, PagerCounters, Store};
use crate::workload::steady::Phases;
use crate::workload::{self, Evidence};

/// What a measuring process says in the end.
#[derive(Debug, Serialize, Deserialize)]
pub enum Report {
    /// It measured.
    Done(Box<Done>),
    /// It could not, or read something wrong.
    Failed(String),
}

/// A successful run.
#[derive(Debug, Serialize, Deserialize)]
pub struct Done {
    /// What was measured, but for what only the parent can see.
    pub outcome: Outcome,
    /// What was written, for the parent to read back.
    pub evidence: Evidence,
}

/// The whole life of a measuring process; `join` is its group until it has joined.
pub fn main(join: Option<&Path>) -> ExitCode {
    match prepare(join).and_then(|config| measure(&config)) {
        Ok(done) => say(&Report::Done(Box::new(done)), ExitCode::SUCCESS),
        Err(error) => say(&Report::Failed(error.to_string()), ExitCode::FAILURE),
    }
}

fn say(report: &Report, code: ExitCode) -> ExitCode {
    match serde_json::to_string(report) {
        Ok(line) => println!("{line}"),
        Err(error) => eprintln!("cannot encode the report: {error}"),
    }
    code
}

pub(crate) fn prepare(join: Option<&Path>) -> Result<RunConfig> {
    // Survives the exec below. If the parent has died before this, standard input is at its end.
    set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|source| Error::system("ask to die with the parent", source))?;
    if let Some(dir) = join {
        GroupPath::join(dir)?;
        let error = Command::new("/proc/self/exe").arg("run").exec();
        return Err(Error::system(
            "start again inside of the control group",
            error,
        ));
    }
    let mut text = String::new();
    io::stdin()
        .read_to_string(&mut text)
        .map_err(|source| Error::system("read the configuration", source))?;
    serde_json::from_str(&text)
        .map_err(|error| Error::bad_option("configuration", error.to_string()))
}

fn measure(config: &RunConfig) -> Result<Done> {
    let plan = &config.plan;
    if plan.workload == WorkloadKind::Recovery {
        return recovery::measure(config);
    }
    let records = Records::new(plan.seed, plan.value_bytes as usize);
    let begin = Instant::now();
    let file = &config.file;
    let backend = Backend {
        pager: plan.pager,
        budget_bytes: plan.pool_budget_bytes,
        trace: config.trace.as_deref(),
    };
    let store = if plan.workload.writes() {
        Store::open_to_write(file, backend, plan.log_bytes, records)?
    } else {
        Store::open(file, backend, true, records)?
    };
    let open_ns = begin.elapsed().as_nanos() as u64;
    let mut watch = Watch::new(config, &store);
    let worked = work(config, &store, &mut watch)?;
    let (warmup, measured) = worked.durations;
    let Seen {
        costs,
        pager_counters,
        log_counters,
        checkpoint_counters,
        memory: now,
    } = watch.result()?;
    let counts = worked.counts;
    let measured_s = measured.as_secs_f64();
    let per_page = plan.page_size_bytes as f64 * counts.units.max(1) as f64;
    let schedule = schedule(config);
    let outcome = Outcome {
        effective_backend: store.effective_backend(),
        cached_pages_at_start: None, // known to the parent
        open_ns,
        warmup_s: warmup.as_secs_f64(),
        memory_full_at_start: watch.full_at_start,
        measured_s,
        unit: plan.workload.unit().to_owned(),
        units: counts.units,
        units_per_s: counts.units as f64 / measured_s,
        values_checked: counts.values_checked,
        records_read_back: 0, // known to the parent
        latency: counts.latencies.summary(),
        commit_latency: counts.commits.summary(),
        timeline_bucket_ms: schedule.bucket().as_secs_f64() * 1e3,
        timeline_units: counts.timeline,
        page_reads_per_unit: costs
            .process_read_bytes
            .map(|bytes| bytes as f64 / per_page),
        costs,
        pager_counters,
        log_counters,
        checkpoint_counters,
        log_sync_method: store.log_sync_method(),
        checkpoint_phases: worked.phases.summary(),
        durable_by: plan.workload.writes().then(|| "redo log".to_owned()),
        memory: memory(now),
        ..Outcome::default()
    };
    drop(watch);
    store.close()?;
    Ok(Done {
        outcome,
        evidence: worked.evidence,
    })
}

/// What this process can know of its memory.
pub(crate) fn memory(now: Option<MemoryNow>) -> Memory {
    Memory {
        peak_bytes: None, // known to the parent, when this process has ended
        usage_bytes: now.map(|now| now.usage_bytes),
        cache_bytes: now.map(|now| now.cache_bytes),
        anonymous_bytes: now.map(|now| now.anonymous_bytes),
        kernel_bytes: now.and_then(|now| now.kernel_bytes),
        dirty_bytes: now.and_then(|now| now.dirty_bytes),
        limit_hits: None,
        oom_kills: None,
        peak_resident_bytes: peak_resident_bytes(),
    }
}

fn schedule(config: &RunConfig) -> Schedule {
    Schedule {
        warmup_min: Duration::from_millis(config.warmup_ms_min),
        warmup_max: Duration::from_millis(config.warmup_ms_max),
        measure: Duration::from_millis(config.measure_ms),
    }
}

/// What all threads together did.
struct Worked {
    counts: Counts,
    durations: (Duration, Duration),
    evidence: Evidence,
    phases: Phases,
}

fn work(config: &RunConfig, store: &Store, watch: &mut Watch<'_>) -> Result<Worked> {
    let (phase, schedule) = (Phase::default(), schedule(config));
    let mut leading = workload::build(&config.plan, 0)?;
    let others = (1..config.plan.threads)
        .map(|thread| workload::build(&config.plan, thread))
        .collect::<Result<Vec<_>>>()?;
    thread::scope(|scope| {
        let phase = &phase;
        let others: Vec<_> = others
            .into_iter()
            .map(|mut workload| {
                scope.spawn(move || {
                    let mut meter = Meter::following(phase, schedule);
                    workload.run(store, &mut meter)?;
                    Ok((
                        meter.counts().clone(),
                        workload.evidence(),
                        workload.phases(),
                    ))
                })
            })
            .collect();
        let mut meter = Meter::leading(phase, schedule, watch);
        let led = leading.run(store, &mut meter);
        let mut counts = meter.counts().clone();
        let durations = meter.durations();
        drop(meter); // ends the others, should the leader have failed
        let mut evidence = leading.evidence();
        let mut phases = leading.phases();
        for other in others {
            let other: Result<(Counts, Evidence, Phases)> =
                other.join().expect("a panic here is a bug, and shown");
            let (its_counts, its_evidence, its_phases) = other?;
            counts.add(&its_counts);
            evidence.add(its_evidence);
            phases.add(&its_phases);
        }
        led?;
        Ok(Worked {
            counts,
            durations,
            evidence,
            phases,
        })
    })
}

/// What the counters showed of the window.
#[derive(Clone)]
struct Seen {
    costs: Costs,
    pager_counters: PagerCounters,
    log_counters: LogCounters,
    checkpoint_counters: CheckpointCounters,
    memory: Option<MemoryNow>,
}

/// Reads the counters at both ends of the window.
struct Watch<'s> {
    store: &'s Store,
    pager: PagerSpec,
    group: Option<GroupPath>,
    limit_bytes: Option<u64>,
    device: Option<PathBuf>,
    full_at_start: Option<bool>,
    begin: Option<(Snapshot, PagerCounters, LogCounters, CheckpointCounters)>,
    end: Option<Seen>,
}

impl<'s> Watch<'s> {
    fn new(config: &RunConfig, store: &'s Store) -> Self {
        Watch {
            store,
            pager: config.plan.pager,
            group: config.group.clone(),
            limit_bytes: config.plan.limit_bytes,
            device: block_device(&config.file),
            full_at_start: None,
            begin: None,
            end: None,
        }
    }

    fn result(&self) -> Result<Seen> {
        self.end
            .clone()
            .ok_or_else(|| Error::Child("ended before its window did".to_owned()))
    }

    /// `None` where there is nothing that could be full.
    fn is_full(&self) -> Option<bool> {
        if self.pager.is_mmap() {
            let usage = self.group.as_ref()?.usage_bytes()?;
            return Some(usage as f64 >= self.limit_bytes? as f64 * 0.95);
        }
        let counters = self.store.counters();
        let (used, frames) = (counters.pager_frames_used?, counters.pager_frames?);
        Some(used as f64 >= frames as f64 * 0.95)
    }
}

impl Observer for Watch<'_> {
    fn edge(&mut self, is_end: bool) -> Result<()> {
        if !is_end {
            self.full_at_start = self.is_full();
            let (pager, log) = (self.store.counters(), self.store.log_counters());
            let checkpoints = self.store.checkpoint_counters();
            let kernel = Snapshot::take(self.device.as_deref())?;
            self.begin = Some((kernel, pager, log, checkpoints));
            return Ok(());
        }
        let now = Snapshot::take(self.device.as_deref())?;
        if let Some((begin, pager, log, checkpoints)) = &self.begin {
            self.end = Some(Seen {
                costs: now.since(begin),
                pager_counters: self.store.counters().since(pager),
                log_counters: self.store.log_counters().since(log),
                checkpoint_counters: self.store.checkpoint_counters().since(checkpoints),
                memory: self.group.as_ref().and_then(GroupPath::memory_now),
            });
        }
        Ok(())
    }

    fn memory_is_full(&mut self) -> bool {
        self.is_full().unwrap_or(false)
    }
}
