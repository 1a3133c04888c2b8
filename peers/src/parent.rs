//! The order of events: databases are filled, and each engine has its turn, again and again.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

use bifolio_bench::cgroup::{self, Located};

use crate::Result;
use crate::child;
use crate::dataset::{self, Databases, remove};
use crate::drive::Job;
use crate::row::{Measured, Row};
use crate::workload::{EngineChoice, Family, Order, Section, Workload};

/// What is compared, and how.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Who takes part.
    pub engines: Vec<EngineChoice>,
    /// In what.
    pub workloads: Vec<Workload>,
    /// Records where everything is in memory.
    pub records: u64,
    /// Records where it is not.
    pub cold_records: u64,
    /// The memory limit there.
    pub limit_bytes: u64,
    /// How long each run measures.
    pub seconds: f64,
    /// Turns of each engine at each workload.
    pub repetitions: u32,
}

/// A comparison under way.
pub struct Comparison {
    plan: Plan,
    databases: Databases,
    located: Located,
    started: u64,
}

impl Comparison {
    /// Prepares it, with databases in `data`.
    pub fn new(plan: Plan, data: &Path) -> Result<Self> {
        let located = cgroup::locate()?;
        cgroup::remove_leftovers(&located);
        Ok(Comparison {
            plan,
            databases: Databases::new(data)?,
            located,
            started: 0,
        })
    }

    /// Runs everything; each row goes to the end of `rows` as soon as it is there, and to `tell`.
    pub fn run(&mut self, rows: &Path, mut tell: impl FnMut(&Row)) -> Result<()> {
        let mut file = OpenOptions::new().create(true).append(true).open(rows)?;
        let plan = self.plan.clone();
        for &workload in &plan.workloads {
            for repetition in 1..=plan.repetitions {
                for engine in &plan.engines {
                    if !engine.takes_part(workload) {
                        continue;
                    }
                    let row = self.turn(engine, workload, repetition)?;
                    writeln!(file, "{}", serde_json::to_string(&row)?)?;
                    tell(&row);
                }
            }
        }
        Ok(())
    }

    fn turn(&mut self, engine: &EngineChoice, workload: Workload, repetition: u32) -> Result<Row> {
        let is_cold = workload.section() == Section::LargerThanMemory;
        let mut job = Job {
            engine: engine.name.to_owned(),
            workload,
            records: if is_cold {
                self.plan.cold_records
            } else {
                self.plan.records
            },
            limit_bytes: (is_cold && workload.device().is_none()).then_some(self.plan.limit_bytes),
            seconds: self.plan.seconds,
            seed: u64::from(repetition),
            dir: Path::new("").to_owned(),
        };
        let outcome = if workload.loads() {
            self.fill(engine.family, workload.order(), &mut job)?
        } else {
            self.use_filled(engine.family, &mut job)?
        };
        Ok(Row {
            engine: job.engine,
            workload,
            records: job.records,
            limit_bytes: job.limit_bytes,
            repetition,
            outcome,
        })
    }

    fn start(&mut self, job: &Job) -> Result<Result<Measured, String>> {
        self.started += 1;
        child::start(job, &self.located, self.started)
    }

    /// Fills a database by the load that the job is, and keeps it for those who come after.
    fn fill(
        &mut self,
        family: Family,
        order: Order,
        job: &mut Job,
    ) -> Result<Result<Measured, String>> {
        job.dir = self.databases.empty()?;
        let mut outcome = self.start(job)?;
        if let Ok(measured) = &mut outcome {
            measured.file_bytes = dataset::bytes_below(&job.dir)?;
            let filled = self.databases.filled(family, order, job.records);
            self.databases.keep(&job.dir, &filled)?;
        }
        Ok(outcome)
    }

    /// Does the job on a database that is filled already, or that is filled first.
    fn use_filled(&mut self, family: Family, job: &mut Job) -> Result<Result<Measured, String>> {
        let order = job.workload.order();
        let filled = self.databases.filled(family, order, job.records);
        if !filled.exists() {
            let mut load = Job {
                workload: match order {
                    Order::Sorted => Workload::LoadSorted,
                    Order::Random => Workload::LoadRandom,
                },
                limit_bytes: None,
                engine: if family == Family::Device {
                    "bifolio-pool".to_owned()
                } else {
                    job.engine.clone()
                },
                ..job.clone()
            };
            if let Err(why) = self.fill(family, order, &mut load)? {
                return Ok(Err(format!("its database could not be filled: {why}")));
            }
        }
        job.dir = if job.workload.changes() {
            self.databases.copy(&filled)?
        } else {
            filled
        };
        dataset::chill(&job.dir)?;
        let outcome = self.start(job)?;
        if job.workload.changes() {
            remove(&job.dir)?;
        }
        Ok(outcome)
    }
}
