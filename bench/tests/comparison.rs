//! The whole comparison, as small as it gets, through the program that users start.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use bifolio_bench::row::{Row, read_rows};
use rustix::process::{Pid, Signal, kill_process};

/// A directory on a disk: the temporary one may live in memory.
fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn bench(dir: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_bifolio-bench"))
        .arg("smoke")
        .args([
            "--dir", "data", "--out", "out", "--limit", "24MiB", "--ratio", "1",
        ])
        .args(["--seconds", "0.05", "--warmup", "0.02"])
        .args(arguments)
        .current_dir(dir)
        .output()
        .unwrap()
}

fn text(output: &Output) -> String {
    let stdout = String::from_utf8_lossy(&output.stdout);
    format!("{stdout}\n{}", String::from_utf8_lossy(&output.stderr))
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect()
}

#[test]
fn a_comparison_ends_with_a_row_for_each_run_and_a_report_and_leaves_no_data_behind() {
    let dir = scratch();
    let output = bench(dir.path(), &["--pagers", "mmap-random,pool-pread"]);
    assert!(output.status.success(), "{}", text(&output));
    let out = dir.path().join("out");
    let rows: Vec<Row> = read_rows(&out.join("rows.jsonl")).unwrap();
    assert_eq!(rows.len(), 20, "two pagers, ten workloads");
    for row in &rows {
        let outcome = row.outcome.as_ref().unwrap();
        let what = (row.plan.workload, row.plan.pager);
        assert!(outcome.units > 0, "{what:?}");
        assert!(outcome.latency.count > 0, "{what:?}");
        assert!(
            outcome.cached_pages_at_start.is_none_or(|pages| pages == 0),
            "{what:?}"
        );
        if row.plan.workload.writes() {
            assert!(outcome.commit_latency.count > 0, "{what:?}");
            assert!(outcome.records_read_back > 0, "{what:?}");
            assert_eq!(outcome.durable_by.as_deref(), Some("redo log"));
            assert!(outcome.log_counters.log_groups > 0, "{what:?}");
            if row.plan.workload.commits_singly() {
                let rate = row.device_syncs.unwrap();
                assert!(rate.overwrite_fdatasync_per_s > 0.0, "{what:?}");
            }
        } else {
            assert!(outcome.values_checked >= outcome.units, "{what:?}");
        }
        if let Some(limit) = row.plan.limit_bytes {
            let peak = outcome.memory.peak_bytes.unwrap_or(0);
            assert!(peak <= limit, "{what:?}: {peak} of {limit}");
            assert_eq!(outcome.memory.oom_kills.unwrap_or(0), 0);
        }
        let counters = &outcome.pager_counters;
        if let (Some(used), Some(frames)) = (counters.pager_frames_used, counters.pager_frames) {
            assert!(used <= frames, "{what:?}");
        }
    }
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(stdout.contains("Random point reads, uniform"), "{stdout}");
    for name in ["report.html", "summary.svg"] {
        assert!(
            std::fs::metadata(out.join(name)).unwrap().len() > 1000,
            "{name}"
        );
    }
    assert_eq!(entries(&dir.path().join("data")), Vec::<PathBuf>::new());
}

#[test]
fn a_steady_load_is_told_apart_by_whether_a_checkpoint_ran() {
    let dir = scratch();
    let arguments = ["--pagers=mmap-random,pool-pread", "--workloads=checkpoint"];
    let output = bench(dir.path(), &arguments);
    assert!(output.status.success(), "{}", text(&output));
    let rows: Vec<Row> = read_rows(&dir.path().join("out/rows.jsonl")).unwrap();
    assert_eq!(rows.len(), 2);
    for row in &rows {
        let outcome = row.outcome.as_ref().unwrap();
        let phases = outcome.checkpoint_phases.as_ref().unwrap();
        let reads = phases.reads_without.count + phases.reads_during.count;
        let commits = phases.commits_without.count + phases.commits_during.count;
        assert!(reads > 0, "{phases:?}");
        assert_eq!(outcome.commit_latency.count, commits);
        let inside = |&(from, to): &(f64, f64)| from <= to && to <= outcome.measured_s * 1e3 + 1e3;
        assert!(phases.spans_ms.iter().all(inside), "{phases:?}");
        let method = outcome.log_sync_method.as_deref();
        assert!(
            matches!(method, Some("fdatasync" | "O_DSYNC")),
            "{method:?}"
        );
    }
    let report = std::fs::read_to_string(dir.path().join("out/report.html")).unwrap();
    assert!(report.contains("gets, p99.9"));
}

#[test]
fn page_sizes_and_threads_are_taken_as_given() {
    let dir = scratch();
    let arguments = [
        "--pagers=pool-pread-lru-buffered,mmap-normal",
        "--workloads=point-uniform",
        "--page-size=8192,65536",
        "--threads=3",
        "--limit=40MiB",
        "--ratio=0.2",
    ];
    let output = Command::new(env!("CARGO_BIN_EXE_bifolio-bench"))
        .args([
            "compare",
            "--profile",
            "smoke",
            "--dir",
            "data",
            "--out",
            "out",
        ])
        .args(["--seconds", "0.05", "--warmup", "0"])
        .args(arguments)
        .current_dir(dir.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let rows = read_rows(&dir.path().join("out/rows.jsonl")).unwrap();
    let asked: Vec<_> = rows
        .iter()
        .map(|row| {
            (
                row.plan.page_size_bytes,
                row.plan.pager.to_string(),
                row.plan.threads,
            )
        })
        .collect();
    assert_eq!(asked.len(), 4);
    assert!(
        asked.contains(&(65_536, "pool-pread-lru-buffered".to_owned(), 3)),
        "{asked:?}"
    );
}

#[test]
fn a_limit_smaller_than_the_pool_is_refused_with_a_reason_and_nothing_is_made() {
    let dir = scratch();
    let output = bench(dir.path(), &["--pool", "20MiB"]);
    assert!(!output.status.success());
    assert!(
        text(&output).contains("has no room for a pool of 20 MiB"),
        "{}",
        text(&output)
    );
    assert_eq!(entries(dir.path()), Vec::<PathBuf>::new());
}

#[test]
fn results_are_never_overwritten() {
    let dir = scratch();
    std::fs::create_dir(dir.path().join("out")).unwrap();
    std::fs::write(dir.path().join("out/rows.jsonl"), "kept").unwrap();
    let output = bench(dir.path(), &[]);
    assert!(!output.status.success());
    assert_eq!(
        std::fs::read_to_string(dir.path().join("out/rows.jsonl")).unwrap(),
        "kept"
    );
    assert_eq!(entries(&dir.path().join("data")), Vec::<PathBuf>::new());
}

#[test]
fn an_interrupted_comparison_leaves_no_data_and_no_process_behind() {
    let dir = scratch();
    let mut child = Command::new(env!("CARGO_BIN_EXE_bifolio-bench"))
        .args([
            "smoke", "--dir", "data", "--out", "out", "--limit", "24MiB", "--ratio", "1",
        ])
        .args([
            "--seconds",
            "600",
            "--workloads",
            "point-uniform",
            "--pagers",
            "mmap-random",
        ])
        .current_dir(dir.path())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The line after the build says that the run is about to begin.
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().starts_with("built")));
    let pid = Pid::from_raw(child.id() as i32).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    assert!(!child.wait().unwrap().success());
    let rest: Vec<String> = lines.map(Result::unwrap).collect();
    assert!(
        rest.iter().any(|line| line.contains("interrupted")),
        "{rest:?}"
    );
    assert_eq!(entries(&dir.path().join("data")), Vec::<PathBuf>::new());
    assert!(!dir.path().join("out").exists(), "nothing was measured");
}

#[test]
fn what_a_killed_process_committed_is_read_again_after_each_length_of_log() {
    let dir = scratch();
    let arguments = ["--pagers=mmap-random,pool-pread", "--workloads=recovery"];
    let output = bench(dir.path(), &arguments);
    assert!(output.status.success(), "{}", text(&output));
    let rows: Vec<Row> = read_rows(&dir.path().join("out/rows.jsonl")).unwrap();
    assert_eq!(rows.len(), 2);
    for row in &rows {
        let outcome = row.outcome.as_ref().unwrap();
        assert_eq!(outcome.recoveries.len(), 3);
        for one in &outcome.recoveries {
            let (read, limit) = (one.log_bytes_read, one.log_limit_bytes);
            assert!(read <= limit, "a checkpoint was due: {one:?}");
            assert!(read > limit / 2, "the log was not at its limit: {one:?}");
            assert!(one.records_replayed > 0 && one.first_read_ns >= one.opened_ns);
        }
        let lengths = outcome.recoveries.iter().map(|one| one.records_replayed);
        assert!(lengths.is_sorted(), "{:?}", outcome.recoveries);
        assert!(outcome.records_read_back > 0);
    }
    let report = std::fs::read_to_string(dir.path().join("out/report.html")).unwrap();
    assert!(report.contains("limit of the log") && report.contains("was killed"));
}
