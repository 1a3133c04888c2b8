//! A trace that a comparison records, replayed.

use std::path::Path;
use std::process::Command;

use bifolio_bench::row::read_rows;
use bifolio_pager_bufpool::trace::Trace;
use bifolio_pager_bufpool::{Policy, Simulation};

fn bench(dir: &Path, arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_bifolio-bench"))
        .args(arguments)
        .current_dir(dir)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{complaint}");
    text
}

#[test]
fn a_recorded_run_is_simulated_with_the_hit_ratio_that_it_had() {
    // On a disk: the temporary directory may live in memory.
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let policies = [
        ("pool-pread", Policy::default()),
        ("pool-pread-lru", Policy::Lru),
    ];
    let said = bench(
        dir.path(),
        &[
            "smoke",
            // Small enough that it is full at once, however slow the machine.
            "--limit",
            "16MiB",
            "--pool",
            "2MiB",
            "--ratio",
            "1",
            "--trace",
            "--dir",
            "data",
            "--out",
            "out",
            "--pagers",
            "mmap-random,pool-pread,pool-pread-lru",
            "--workloads",
            "point-zipf",
            // The window begins as soon as the database is open, so that it is all of the trace.
            "--warmup",
            "0",
            "--seconds",
            "0.3",
        ],
    );
    assert!(said.contains("traces"), "{said}");
    let out = dir.path().join("out");
    for row in read_rows(&out.join("rows.jsonl")).unwrap() {
        let name = row.plan.pager.to_string();
        let trace = out.join(format!("point-zipf-{name}-4096-1.trace"));
        let Some((_, policy)) = policies.iter().find(|(pager, _)| *pager == name) else {
            assert!(!row.plan.traced && !trace.exists(), "a map has no trace");
            continue;
        };
        assert!(row.plan.traced);
        let trace = Trace::read(&trace).unwrap();
        let mut simulation = Simulation::new(*policy, trace.frames as usize);
        for event in trace.events {
            simulation.step(event);
        }
        let counters = row.outcome.unwrap().pager_counters;
        let (hits, loads) = (
            counters.pager_hits.unwrap(),
            counters.pager_pages_read.unwrap(),
        );
        let own = hits as f64 / (hits + loads) as f64;
        let simulated = simulation.tally().hit_ratio();
        assert!(
            (own - simulated).abs() < 0.01,
            "{name}: {own}, simulated {simulated}"
        );
    }
    let trace = "out/point-zipf-pool-pread-4096-1.trace";
    let table = bench(
        dir.path(),
        &["simulate", "--trace", trace, "--policies", "lru,sieve"],
    );
    // A title, a head, and the sizes: the pool's own and four more.
    assert_eq!(table.lines().count(), 7, "{table}");
}
