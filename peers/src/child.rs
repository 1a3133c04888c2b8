//! The process of one run: joins its control group, does its job and prints what it measured.
//!
//! It is this program again, with the hidden command `child`. Having joined the group it replaces
//! itself, so that all its memory from the first byte on is charged there.

use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use bifolio_bench::cgroup::Group;
use bifolio_bench::cgroup::{GroupPath, Located};
use rustix::process::{Signal, set_parent_process_death_signal};

use crate::drive::{self, Job};
use crate::engine::{Bifolio, Fjall, Lmdb, Redb, Sqlite};
use crate::row::Measured;
use crate::workload::{EngineChoice, Family};
use crate::{Failure, Result, dataset, device};

/// The whole life of the process; `join` is its group until it has joined.
pub fn main(join: Option<&Path>) -> Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    if let Some(dir) = join {
        GroupPath::join(dir)?;
        return Err(Command::new("/proc/self/exe").arg("child").exec().into());
    }
    let mut text = String::new();
    io::stdin().read_to_string(&mut text)?;
    let outcome = work(&serde_json::from_str(&text)?).map_err(|error| error.to_string());
    println!("{}", serde_json::to_string(&outcome)?);
    Ok(())
}

/// Does the job in this process.
pub fn work(job: &Job) -> Result<Measured> {
    let engine = EngineChoice::named(&job.engine).ok_or("there is no such engine")?;
    let file_bytes = dataset::bytes_below(&job.dir)?;
    let mut measured = match engine.family {
        Family::Device => read_device(job),
        Family::Bifolio => drive::run::<Bifolio>(job, engine.variant),
        Family::Lmdb => drive::run::<Lmdb>(job, engine.variant),
        Family::Redb => drive::run::<Redb>(job, engine.variant),
        Family::Sqlite => drive::run::<Sqlite>(job, engine.variant),
        Family::Fjall => drive::run::<Fjall>(job, engine.variant),
        #[cfg(feature = "rocksdb")]
        Family::RocksDb => drive::run::<crate::engine::RocksDb>(job, engine.variant),
    }?;
    measured.file_bytes = file_bytes;
    Ok(measured)
}

fn read_device(job: &Job) -> Result<Measured> {
    let (depth, len) = job
        .workload
        .device()
        .ok_or("the device has no such workload")?;
    let file = dataset::largest_file(&job.dir)?;
    let window = Duration::from_secs_f64(job.seconds);
    let (units, seconds) = device::read(&file, depth, len, window, job.seed)?;
    Ok(Measured {
        backend: format!("io_uring, O_DIRECT, {depth} in flight, {len} bytes each"),
        seconds,
        units,
        per_s: units as f64 / seconds,
        read_bytes: Some(units * len as u64),
        ..Measured::default()
    })
}

/// Starts a process for the job, in a group of its own if its memory is limited, and waits for it.
///
/// # Errors
/// If no process or group can be made. What happens in the process is in the answer: among it that
/// the kernel killed it because it would not stay within its memory.
pub fn start(job: &Job, located: &Located, number: u64) -> Result<Result<Measured, String>> {
    let group = (job.limit_bytes)
        .map(|limit| Group::create(located, number, limit))
        .transpose()?;
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("child");
    if let Some(group) = &group {
        command.arg("--join").arg(group.path().dir());
    }
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut input = child.stdin.take().ok_or("the child has no input")?;
    // Joining the group comes before reading, so this waits for nothing that could fail silently.
    let sent = input.write_all(serde_json::to_string(job)?.as_bytes());
    drop(input);
    let output = child.wait_with_output()?;
    let killed = group.as_ref().and_then(|group| group.path().oom_kills());
    if killed.is_some_and(|kills| kills > 0) {
        return Ok(Err("killed: it did not stay within its memory".to_owned()));
    }
    if !output.status.success() {
        return Ok(Err(format!("the process ended with {}", output.status)));
    }
    sent?;
    let text = String::from_utf8(output.stdout)?;
    let mut outcome: Result<Measured, String> = serde_json::from_str(text.trim())
        .map_err(|error| Failure::from(format!("{error} in {text:?}")))?;
    if let Ok(measured) = &mut outcome {
        measured.peak_bytes = group.as_ref().and_then(|group| group.path().peak_bytes());
    }
    Ok(outcome)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::workload::{ENGINES, Workload};

    /// Answers are compared by the workloads themselves.
    #[test]
    fn every_engine_does_every_workload_and_answers_rightly() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("database");
        for engine in ENGINES
            .iter()
            .filter(|engine| engine.family != Family::Device)
        {
            fs::create_dir(&dir).unwrap();
            let mut loaded = 0;
            for workload in Workload::ALL {
                if !engine.takes_part(workload) {
                    continue;
                }
                if workload.loads() || loaded == 0 {
                    fs::remove_dir_all(&dir).unwrap();
                    fs::create_dir(&dir).unwrap();
                }
                let mut job = Job {
                    engine: engine.name.to_owned(),
                    workload,
                    records: 3000,
                    limit_bytes: None,
                    seconds: 0.02,
                    seed: 1,
                    dir: dir.clone(),
                };
                if loaded == 0 && !workload.loads() {
                    job.workload = Workload::LoadRandom;
                    work(&job).unwrap();
                    job.workload = workload;
                }
                loaded += 1;
                let measured = work(&job)
                    .unwrap_or_else(|error| panic!("{} in {workload}: {error}", engine.name));
                assert!(measured.units > 0, "{} in {workload}", engine.name);
            }
            assert!(loaded > 2, "{}", engine.name);
            fs::remove_dir_all(&dir).unwrap();
        }
    }

    #[test]
    fn a_record_that_is_not_there_is_a_wrong_answer() {
        let dir = tempfile::tempdir().unwrap();
        let mut job = Job {
            engine: "bifolio-pool".to_owned(),
            workload: Workload::LoadSorted,
            records: 100,
            limit_bytes: None,
            seconds: 0.02,
            seed: 1,
            dir: dir.path().to_owned(),
        };
        work(&job).unwrap();
        job.records = 200;
        for workload in [Workload::Get1, Workload::ColdGetMany, Workload::ScanFull] {
            job.workload = workload;
            let error = work(&job).unwrap_err().to_string();
            assert!(error.contains("a wrong answer"), "{workload}: {error}");
        }
    }
}
