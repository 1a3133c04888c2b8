//! The comparison: what is run when, on which file, under which limit.
//!
//! For each page size the pristine database is built once. Then, for each repetition and each
//! workload, the device's own rate is measured and every pager runs, beginning with another one each
//! time, so that a machine that grows slower or faster does so for all of them.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use indicatif::{ProgressBar, ProgressStyle};

use crate::cgroup::{self, Group, Located};
use crate::child;
use crate::dataset::{self, Copy, DataDir, Pristine};
use crate::environment::{Environment, available_memory_bytes};
use crate::error::{Error, Result};
use crate::measure::device::{self, DeviceRate};
use crate::record::{KEY_LEN, Records};
use crate::report;
use crate::row::{Row, RowWriter, SCHEMA_VERSION};
use crate::run::Done;
use crate::spec::{PagerSpec, Plan, RunConfig, WorkloadKind};
use crate::store::Store;
use crate::sys;
use crate::units::{self, MIB, utc_file_name};
use crate::workload::Evidence;

/// Frames that the smallest pool has, so that a tree's path and a few batches fit.
const POOL_FRAMES_MIN: u64 = 256;
/// Each of the two device measurements takes this long.
const PROBE: Duration = Duration::from_millis(60);
/// Warm up at least a quarter of the longest time allowed.
const WARMUP_MIN_SHARE: u32 = 4;
/// Records that are read back after a run that wrote.
const READ_BACK_MAX: usize = 1000;

/// What is compared with what, and how.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Memory of each run; `None` for no limit.
    pub limit_bytes: Option<u64>,
    /// Go on without a limit where none can be made.
    pub limit_is_optional: bool,
    /// Bytes of keys and values for each byte of memory.
    pub ratio: f64,
    /// Memory of the pool; `None` for the limit less the reserve.
    pub pool_bytes: Option<u64>,
    /// Memory left to the process beside the pool.
    pub reserve_bytes: u64,
    /// The pagers.
    pub pagers: Vec<PagerSpec>,
    /// The workloads.
    pub workloads: Vec<WorkloadKind>,
    /// The page sizes.
    pub page_sizes: Vec<u64>,
    /// Threads of reading workloads.
    pub threads: u32,
    /// The window's length.
    pub measure: Duration,
    /// The longest warm-up.
    pub warmup_max: Duration,
    /// Repetitions of the whole set.
    pub repetitions: u32,
    /// Leave out repetitions that would not end within this time from the start.
    pub time_budget: Option<Duration>,
    /// What keys, values and choices are drawn from.
    pub seed: u64,
    /// Bytes of a value.
    pub value_bytes: u64,
    /// Below which directory database files live.
    pub dir: PathBuf,
    /// Where results go; `None` for a new directory named after the time.
    pub out: Option<PathBuf>,
    /// Only say what would be done.
    pub dry_run: bool,
}

/// How memory is limited, decided before anything runs.
struct Limit {
    /// Where groups can be made; `None` if memory is not limited.
    located: Option<Located>,
    /// The limit, or the memory that is free without one.
    memory_bytes: u64,
    mechanism: String,
    pool_bytes: u64,
}

impl Settings {
    fn limit(&self) -> Result<Limit> {
        if let Some(limit) = self.limit_bytes {
            // Whatever the machine, a pool that does not fit is refused first.
            let pool_bytes = self.pool_within(limit)?;
            match try_limit(limit) {
                Ok((located, mechanism)) => {
                    let located = Some(located);
                    return Ok(Limit {
                        located,
                        memory_bytes: limit,
                        mechanism,
                        pool_bytes,
                    });
                }
                Err(error @ Error::NoLimit { .. }) if self.limit_is_optional => {
                    eprintln!("note: {error}\ngoing on WITHOUT a limit: rates mean nothing");
                    let mechanism = "none".to_owned();
                    return Ok(Limit {
                        located: None,
                        memory_bytes: limit,
                        mechanism,
                        pool_bytes,
                    });
                }
                Err(error) => return Err(error),
            }
        }
        let memory_bytes = available_memory_bytes()
            .ok_or_else(|| Error::bad_option("--no-limit", "the machine's memory is not known"))?;
        // Whole-machine pressure: leave an eighth to everybody else, and the reserve.
        let pool_bytes = self.pool_within(memory_bytes - memory_bytes / 8)?;
        Ok(Limit {
            located: None,
            memory_bytes,
            mechanism: "none".to_owned(),
            pool_bytes,
        })
    }

    /// The pool's memory within `memory` bytes.
    fn pool_within(&self, memory: u64) -> Result<u64> {
        let largest_page = self.page_sizes.iter().copied().max().unwrap_or(4096);
        let smallest = POOL_FRAMES_MIN * largest_page;
        let room = memory.saturating_sub(self.reserve_bytes);
        let pool = self.pool_bytes.unwrap_or(room);
        if pool > room || pool < smallest {
            return Err(Error::LimitTooSmall {
                limit_mib: memory / MIB,
                pool_mib: pool.max(smallest) / MIB,
                reserve_mib: self.reserve_bytes / MIB,
            });
        }
        Ok(pool)
    }

    fn runs(&self) -> u64 {
        let per_repetition = self.page_sizes.len() * self.workloads.len() * self.pagers.len();
        per_repetition as u64 * u64::from(self.repetitions)
    }
}

fn try_limit(limit: u64) -> Result<(Located, String)> {
    let located = cgroup::locate()?;
    cgroup::remove_leftovers(&located);
    if let Some(allowed) = cgroup::ancestor_limit_bytes(&located)
        && allowed < limit
    {
        return Err(Error::LimitAbove {
            allowed_mib: allowed / MIB,
        });
    }
    let group = Group::create(&located, 0, limit)?;
    let mechanism = group.path().mechanism().to_owned();
    Ok((located, mechanism))
}

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
            threads: if workload.writes() {
                1
            } else {
                settings.threads
            },
            seed: settings.seed,
            records: self.records,
            value_bytes: settings.value_bytes,
            file_bytes: pristine.len(),
            limit_bytes: self.limit.located.as_ref().map(|_| self.limit.memory_bytes),
            limit_mechanism: self.limit.mechanism.clone(),
            pool_budget_bytes: (!pager.is_mmap()).then_some(self.limit.pool_bytes),
            reserve_bytes: settings.reserve_bytes,
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
        let (outcome, error) = match self.measure(&plan, file) {
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
        let config = RunConfig {
            plan: plan.clone(),
            file: file.to_path_buf(),
            group: group.as_ref().map(|group| group.path().clone()),
            warmup_ms_min: warmup_ms_max / u64::from(WARMUP_MIN_SHARE),
            warmup_ms_max,
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
        (Some(outcome), _) => format!(
            "{head}  {:>8} {}s/s  p50 {:>8}  p99 {:>8}  warm-up {:.2} s",
            units::count(outcome.units_per_s),
            outcome.unit,
            units::ns(outcome.latency.p50_ns as f64),
            units::ns(outcome.latency.p99_ns as f64),
            outcome.warmup_s,
        ),
        (None, error) => format!(
            "{head}  FAILED: {}",
            error.as_deref().unwrap_or("for no reason")
        ),
    }
}

/// Reads what a run has written through the pager that did not write it, and counts the records.
fn read_back(plan: &Plan, file: &Path, evidence: &Evidence) -> Result<u64> {
    let other: PagerSpec = if plan.pager.is_mmap() {
        "pool-pread"
    } else {
        "mmap-random"
    }
    .parse()?;
    let records = Records::new(plan.seed, plan.value_bytes as usize);
    let store = Store::open(file, other, Some(64 * MIB), true, records)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(limit_mib: u64, pool_mib: Option<u64>) -> Settings {
        Settings {
            limit_bytes: Some(limit_mib * MIB),
            limit_is_optional: false,
            ratio: 4.0,
            pool_bytes: pool_mib.map(|mib| mib * MIB),
            reserve_bytes: 16 * MIB,
            pagers: vec![],
            workloads: vec![],
            page_sizes: vec![4096],
            threads: 1,
            measure: Duration::from_secs(1),
            warmup_max: Duration::from_secs(1),
            repetitions: 1,
            time_budget: None,
            seed: 1,
            value_bytes: 120,
            dir: PathBuf::new(),
            out: None,
            dry_run: true,
        }
    }

    #[test]
    fn the_pool_gets_the_limit_less_the_reserve() {
        assert_eq!(settings(64, None).pool_within(64 * MIB).unwrap(), 48 * MIB);
        assert_eq!(
            settings(64, Some(20)).pool_within(64 * MIB).unwrap(),
            20 * MIB
        );
    }

    #[test]
    fn a_limit_smaller_than_the_pool_is_refused_before_anything_runs() {
        for (limit, pool) in [(64, Some(49)), (64, Some(1000)), (16, None), (8, None)] {
            match run(&settings(limit, pool)) {
                Err(Error::LimitTooSmall { .. }) => {}
                other => panic!("{limit} {pool:?}: {other:?}"),
            }
        }
    }

    #[test]
    fn pages_that_are_larger_need_a_larger_pool() {
        let settings = Settings {
            page_sizes: vec![4096, 65_536],
            ..settings(24, None)
        };
        let refused = settings.pool_within(24 * MIB);
        assert!(
            matches!(refused, Err(Error::LimitTooSmall { pool_mib: 16, .. })),
            "{refused:?}"
        );
    }
}
