//! The comparison: what is run when, on which file, under which limit.
//!
//! For each page size the pristine database is built once. Then, for each repetition and each
//! workload, the device's own rate is measured and every pager runs, beginning with another one each
//! time, so that a machine that grows slower or faster does so for all of them.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use indicatif::{ProgressBar, ProgressStyle};

use crate::cgroup::Group;
use crate::child;
use crate::dataset::{self, Copy, DataDir, Pristine};
use crate::environment::Environment;
use crate::error::{Error, Result};
use crate::measure::device::{self, DeviceRate};
use crate::record::{KEY_LEN, Records};
use crate::report;
use crate::row::{Row, RowWriter, SCHEMA_VERSION};
use crate::run::Done;
use crate::settings::{Limit, Settings};
use crate::spec::{PagerSpec, Plan, RunConfig, WorkloadKind};
use crate::store::{Backend, Store};
use crate::sys;
use crate::units::{self, MIB, utc_file_name};
use crate::workload::Evidence;

/// Each of the two device measurements takes this long.
const PROBE: Duration = Duration::from_millis(60);
/// Each of the two measurements of synced writes takes this long, before the run and after it.
const SYNC_PROBE: Duration = Duration::from_millis(100);
/// Checkpoints begin after this much of redo log, as they do by default.
const LOG_BYTES: u64 = 64 * MIB;
/// The same for single commits, for each second of the window: some checkpoints must fall into it.
const LOG_BYTES_PER_S: f64 = MIB as f64;
/// The same for the steady load, which writes about 400 KB a second: a checkpoint now and then.
const STEADY_LOG_BYTES: u64 = MIB / 2;
/// The longest log of `recovery`, for each second of the window.
const RECOVERY_LOG_BYTES_PER_S: f64 = 16.0 * MIB as f64;
/// Warm up at least a quarter of the longest time allowed.
const WARMUP_MIN_SHARE: u32 = 4;
/// Records that are read back after a run that wrote.
const READ_BACK_MAX: usize = 1000;

/// Runs the comparison and writes rows, table and report.
///
/// # Errors
/// Whatever stops it; and [`Error::RunsFailed`], after the report is written, if single runs failed.
pub fn run(settings: &Settings) -> Result<()> {
    sys::catch_interrupts().map_err(|source| Error::system("catch signals", source))?;
    let begin = Instant::now();
    let limit = settings.limit()?;
    let record_bytes = KEY_LEN as u64 + settings.value_bytes;
    let records = (limit.memory_bytes as f64 * settings.ratio / record_bytes as f64) as u64;
    announce(settings, &limit, records);
    if settings.dry_run {
        return Ok(());
    }
    let started = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    let started = utc_file_name(started);
    let data = DataDir::create(&settings.dir)?;
    // The pristine file, a copy of it, and what a run adds to the copy.
    data.check_space(dataset::estimate_file_bytes(records, settings.value_bytes) * 5 / 2)?;
    let out = settings
        .out
        .clone()
        .unwrap_or_else(|| Path::new("results").join(&started));
    fs::create_dir_all(&out).map_err(|source| Error::io("create", &out, source))?;
    let writer = RowWriter::create(&out.join("rows.jsonl"))?;
    let environment = Environment::look(data.path(), started);
    let mut session = Session {
        settings,
        limit,
        records,
        environment,
        writer,
        rows: Vec::new(),
        out: &out,
        groups_made: 0,
        started: begin,
    };
    let finished = session.run_all(&data);
    drop(data);
    if session.rows.is_empty() {
        // Nothing came of it, so nothing is left of it; a directory with other things in it stays.
        let _ = fs::remove_file(out.join("rows.jsonl"));
        let _ = fs::remove_dir(&out);
    } else {
        report::write(&session.rows, &out)?;
        if settings.trace {
            println!("traces  {}", out.join("*.trace").display());
        }
    }
    finished?;
    session.verdict()
}

fn announce(settings: &Settings, limit: &Limit, records: u64) {
    let data = records * (KEY_LEN as u64 + settings.value_bytes);
    let file = dataset::estimate_file_bytes(records, settings.value_bytes);
    let longest = (settings.measure + settings.warmup_max).as_secs_f64();
    eprintln!(
        "{} of data ({records} records), {} of memory ({}), pool {}; {} runs of at most {:.1} s; \
         {} of disk",
        units::bytes(data),
        units::bytes(limit.memory_bytes),
        match limit.mechanism.as_str() {
            "none" => "not limited",
            mechanism => mechanism,
        },
        units::bytes(limit.pool_bytes),
        settings.runs(),
        longest,
        units::bytes(file * 5 / 2),
    );
    if cfg!(debug_assertions) {
        eprintln!("note: built without optimisation; use cargo run --release");
    }
}

/// A comparison that is under way.
struct Session<'s> {
    settings: &'s Settings,
    limit: Limit,
    records: u64,
    environment: Environment,
    writer: RowWriter,
    rows: Vec<Row>,
    /// Where results go.
    out: &'s Path,
    groups_made: u64,
    started: Instant,
}

impl Session<'_> {
    fn run_all(&mut self, data: &DataDir) -> Result<()> {
        let bar = ProgressBar::new(self.settings.runs());
        let style = ProgressStyle::with_template(
            "{elapsed_precise} [{bar:40.cyan/blue}] {pos}/{len} {wide_msg}",
        );
        bar.set_style(
            style
                .unwrap_or_else(|_| ProgressStyle::default_bar())
                .progress_chars("━╸─"),
        );
        bar.enable_steady_tick(Duration::from_millis(250));
        for &page_size in &self.settings.page_sizes {
            let pristine = self.build(data, page_size, &bar)?;
            for repetition in 1..=self.settings.repetitions {
                let begin = Instant::now();
                for &workload in &self.settings.workloads {
                    self.run_pagers(&pristine, page_size, repetition, workload, &bar)?;
                }
                // The next one takes about as long as this one did.
                let end_of_next = self.started.elapsed() + begin.elapsed();
                let left_out = self.settings.repetitions - repetition;
                if left_out > 0
                    && self
                        .settings
                        .time_budget
                        .is_some_and(|most| end_of_next > most)
                {
                    let why = "left out to stay within the time; --repeat insists";
                    say(&bar, &format!("note: {left_out} of the repetitions {why}"));
                    break;
                }
            }
        }
        bar.finish_and_clear();
        Ok(())
    }

    fn build(&self, data: &DataDir, page_size: u64, bar: &ProgressBar) -> Result<Pristine> {
        let records = Records::new(self.settings.seed, self.settings.value_bytes as usize);
        let begin = Instant::now();
        let pristine = Pristine::build(data, page_size, records, self.records, |done| {
            let percent = done * 100 / self.records.max(1);
            bar.set_message(format!(
                "building the database, {page_size}-byte pages: {percent} %"
            ));
        })?;
        say(
            bar,
            &format!(
                "built {} in {:.1} s, pages of {page_size} bytes",
                units::bytes(pristine.len()),
                begin.elapsed().as_secs_f64()
            ),
        );
        Ok(pristine)
    }

    fn run_pagers(
        &mut self,
        pristine: &Pristine,
        page_size: u64,
        repetition: u32,
        workload: WorkloadKind,
        bar: &ProgressBar,
    ) -> Result<()> {
        let device = device::probe(pristine.path(), PROBE, u64::from(repetition));
        let pagers = &self.settings.pagers;
        let mut order: Vec<PagerSpec> = pagers.clone();
        order.rotate_left((repetition as usize - 1) % pagers.len().max(1));
        let mut rows = Vec::new();
        for pager in order {
            bar.set_message(format!("{workload}, {pager}, repetition {repetition}"));
            let plan = self.plan(pristine, page_size, repetition, workload, pager);
            let row = self.run_one(plan, pristine, device)?;
            say(bar, &describe(&row));
            self.writer.write(&row)?;
            rows.push(row);
            bar.inc(1);
        }
        // In the order of the command line, which is the order of the report.
        rows.sort_by_key(|row| pagers.iter().position(|&pager| pager == row.plan.pager));
        self.rows.append(&mut rows);
        Ok(())
    }

    fn plan(
        &self,
        pristine: &Pristine,
        page_size_bytes: u64,
        repetition: u32,
        workload: WorkloadKind,
        pager: PagerSpec,
    ) -> Plan {
        let settings = self.settings;
        Plan {
            pager,
            workload,
            repetition,
            page_size_bytes,
            threads: workload.threads(settings.threads),
            seed: settings.seed,
            records: self.records,
            value_bytes: settings.value_bytes,
            file_bytes: pristine.len(),
            limit_bytes: self.limit.located.as_ref().map(|_| self.limit.memory_bytes),
            limit_mechanism: self.limit.mechanism.clone(),
            pool_budget_bytes: pager.takes_budget().then_some(self.limit.pool_bytes),
            reserve_bytes: settings.reserve_bytes,
            log_bytes: {
                let within_window = |bytes_per_s: f64| {
                    let bytes = settings.measure.as_secs_f64() * bytes_per_s;
                    (bytes as u64).clamp(MIB, LOG_BYTES)
                };
                match workload {
                    WorkloadKind::Checkpoint => STEADY_LOG_BYTES,
                    WorkloadKind::Recovery => within_window(RECOVERY_LOG_BYTES_PER_S),
                    _ if workload.commits_singly() => within_window(LOG_BYTES_PER_S),
                    _ => LOG_BYTES,
                }
            },
            traced: settings.trace && !pager.is_mmap() && workload != WorkloadKind::Recovery,
        }
    }

    /// One run as a row. Only what makes going on pointless is an error.
    fn run_one(
        &mut self,
        plan: Plan,
        pristine: &Pristine,
        device: Option<DeviceRate>,
    ) -> Result<Row> {
        if sys::interrupted() {
            return Err(Error::Interrupted);
        }
        let copy = if plan.workload.writes() {
            Some(pristine.copy()?)
        } else {
            None
        };
        let file = copy.as_ref().map_or(pristine.path(), Copy::path);
        let probe = || {
            let dir = file.parent().filter(|_| plan.workload.commits_singly());
            device::probe_syncs(dir?, SYNC_PROBE)
        };
        if plan.workload.commits_singly() {
            // The device would be busy with the copy otherwise.
            dataset::evict(file)?;
        }
        let syncs_before = probe();
        let measured = self.measure(&plan, file);
        let device_syncs = syncs_before.zip(probe()).map(|(a, b)| a.mean(b));
        let (outcome, error) = match measured {
            Ok(outcome) => (Some(outcome), None),
            // The signal may have reached the measuring process as well, or first.
            Err(_) if sys::interrupted() => return Err(Error::Interrupted),
            Err(error) => (None, Some(error.to_string())),
        };
        Ok(Row {
            schema_version: SCHEMA_VERSION,
            plan,
            error,
            outcome,
            device,
            device_syncs,
            environment: self.environment.clone(),
        })
    }

    fn measure(&mut self, plan: &Plan, file: &Path) -> Result<crate::row::Outcome> {
        let cached_pages = dataset::evict(file)?;
        let group = match &self.limit.located {
            Some(located) => {
                self.groups_made += 1;
                Some(Group::create(
                    located,
                    self.groups_made,
                    self.limit.memory_bytes,
                )?)
            }
            None => None,
        };
        let warmup_ms_max = self.settings.warmup_max.as_millis() as u64;
        let warmup_ms_min = warmup_ms_max / u64::from(WARMUP_MIN_SHARE);
        let config = RunConfig {
            plan: plan.clone(),
            file: file.to_path_buf(),
            trace: plan.traced.then(|| self.out.join(trace_name(plan))),
            group: group.as_ref().map(|group| group.path().clone()),
            warmup_ms_min,
            // What single commits need is in memory at once, and memory never gets full.
            warmup_ms_max: if plan.workload.commits_singly() {
                warmup_ms_min
            } else {
                warmup_ms_max
            },
            measure_ms: (self.settings.measure.as_millis() as u64).max(1),
        };
        let done = child::run(&config, group.as_ref().map(|group| group.path().dir()));
        let oom_kills = group.as_ref().and_then(|group| group.path().oom_kills());
        let Done {
            mut outcome,
            evidence,
        } = match done {
            Err(Error::Child(why)) if oom_kills.is_some_and(|kills| kills > 0) => {
                let why = format!("{why}; it needed more memory than the limit allows");
                return Err(Error::Child(why));
            }
            done => done?,
        };
        if let Some(group) = &group {
            outcome.memory.peak_bytes = group.path().peak_bytes();
            outcome.memory.limit_hits = group.path().limit_hits();
            outcome.memory.oom_kills = oom_kills;
        }
        drop(group);
        outcome.cached_pages_at_start = cached_pages;
        if plan.workload.writes() {
            outcome.records_read_back = read_back(plan, file, &evidence)?;
        }
        Ok(outcome)
    }

    fn verdict(&self) -> Result<()> {
        let failed: Vec<&str> = self
            .rows
            .iter()
            .filter_map(|row| row.error.as_deref())
            .collect();
        match failed.first() {
            None => Ok(()),
            Some(first) => Err(Error::RunsFailed {
                failed: failed.len(),
                total: self.rows.len(),
                first: (*first).to_owned(),
            }),
        }
    }
}

/// The file that a pool records its accesses to pages in.
fn trace_name(plan: &Plan) -> String {
    let Plan {
        workload,
        pager,
        page_size_bytes,
        repetition,
        ..
    } = plan;
    format!("{workload}-{pager}-{page_size_bytes}-{repetition}.trace")
}

/// Above the bar, or as a plain line where there is no terminal.
fn say(bar: &ProgressBar, line: &str) {
    if bar.is_hidden() {
        eprintln!("{line}");
    } else {
        bar.println(line);
    }
}

fn describe(row: &Row) -> String {
    let plan = &row.plan;
    let head = format!(
        "{:<14} {:<16} {}",
        plan.workload.name(),
        plan.pager.to_string(),
        plan.repetition
    );
    match (&row.outcome, &row.error) {
        (Some(outcome), _) => {
            let mut line = format!(
                "{head}  {:>8} {}s/s  p50 {:>8}  p99 {:>8}  warm-up {:.2} s",
                units::count(outcome.units_per_s),
                outcome.unit,
                units::ns(outcome.latency.p50_ns as f64),
                units::ns(outcome.latency.p99_ns as f64),
                outcome.warmup_s,
            );
            if let Some(method) = &outcome.log_sync_method {
                line.push_str(&format!("  log synced by {method}"));
            }
            if let Some(phases) = &outcome.checkpoint_phases {
                let [reads, commits] = phases
                    .ratios()
                    .map(|ratio| ratio.map_or("n/a".to_owned(), |ratio| format!("{ratio:.2}")));
                line.push_str(&format!(
                    "  beside {} checkpoints p99.9 of reads x {reads}, of commits x {commits}",
                    outcome.checkpoint_counters.checkpoints
                ));
            }
            line
        }
        (None, error) => format!(
            "{head}  FAILED: {}",
            error.as_deref().unwrap_or("for no reason")
        ),
    }
}

/// Reads what a run has written through the pager that did not write it, and counts the records.
fn read_back(plan: &Plan, file: &Path, evidence: &Evidence) -> Result<u64> {
    let other = if plan.pager.is_mmap() {
        "pool-pread"
    } else {
        "mmap-random"
    };
    let backend = Backend {
        pager: other.parse()?,
        budget_bytes: Some(64 * MIB),
        trace: None,
    };
    let records = Records::new(plan.seed, plan.value_bytes as usize);
    let store = Store::open(file, backend, true, records)?;
    let snapshot = store.snapshot()?;
    let reader = snapshot.reader()?;
    let expected = plan.records + evidence.records_added;
    if reader.len() != expected {
        let what = format!("{} records after the run, not {expected}", reader.len());
        return Err(Error::WrongData { key: 0, what });
    }
    let step = evidence.written.len().div_ceil(READ_BACK_MAX).max(1);
    let mut read = 0;
    for &(key, generation) in evidence.written.iter().step_by(step) {
        let found = reader.get(key)?;
        if found != generation {
            let what = format!("generation {found} after the run, not {generation}");
            return Err(Error::WrongData { key, what });
        }
        read += 1;
    }
    Ok(read)
}
