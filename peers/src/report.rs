//! Rows as tables: every engine beside LMDB, and Bifolio beside its targets.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::row::{Measured, Row, median};
use crate::targets;
use crate::workload::{ENGINES, Section, Workload};

/// The rows of a comparison, by workload and engine.
pub struct Medians {
    rows: BTreeMap<(&'static str, String), Vec<Row>>,
    /// The memory limit of the runs that had one.
    pub limit_bytes: Option<u64>,
}

impl Medians {
    /// Of these rows.
    pub fn new(all: Vec<Row>) -> Self {
        let limit_bytes = all.iter().find_map(|row| row.limit_bytes);
        let mut rows: BTreeMap<_, Vec<Row>> = BTreeMap::new();
        for row in all {
            let place = (row.workload.name(), row.engine.clone());
            rows.entry(place).or_default().push(row);
        }
        Medians { rows, limit_bytes }
    }

    fn rows(&self, workload: Workload, engine: &str) -> &[Row] {
        let place = (workload.name(), engine.to_owned());
        self.rows.get(&place).map_or(&[], Vec::as_slice)
    }

    /// The median of a figure over the runs that succeeded.
    pub fn median(
        &self,
        workload: Workload,
        engine: &str,
        figure: impl Fn(&Measured) -> Option<f64>,
    ) -> Option<f64> {
        let rows = self.rows(workload, engine).iter();
        median(
            rows.filter_map(|row| figure(row.outcome.as_ref().ok()?))
                .collect(),
        )
    }

    /// The median rate.
    pub fn rate(&self, workload: Workload, engine: &str) -> Option<f64> {
        self.median(workload, engine, |measured| Some(measured.per_s))
    }

    /// Whether some run failed, and why.
    fn failure(&self, workload: Workload, engine: &str) -> Option<&str> {
        let mut rows = self.rows(workload, engine).iter();
        rows.find_map(|row| row.outcome.as_ref().err())
            .map(String::as_str)
    }

    fn records(&self, workload: Workload) -> Option<u64> {
        let mut all = self.rows.iter();
        all.find(|((name, _), _)| *name == workload.name())
            .map(|(_, rows)| rows[0].records)
    }
}

/// A number in few characters: 12,345,678 as `12.3 M`.
fn short(number: f64) -> String {
    match number {
        n if n >= 99.95e6 => format!("{:.0} M", n / 1e6),
        n if n >= 0.9995e6 => format!("{:.2} M", n / 1e6),
        n if n >= 9.995e3 => format!("{:.0} k", n / 1e3),
        n if n >= 0.9995e3 => format!("{:.2} k", n / 1e3),
        n if n >= 10.0 => format!("{n:.0}"),
        n => format!("{n:.2}"),
    }
}

/// All tables, in Markdown, which a terminal shows well enough.
pub fn markdown(medians: &Medians) -> String {
    let mut out = String::new();
    for section in [Section::InMemory, Section::LargerThanMemory] {
        let shown: Vec<_> = Workload::ALL
            .into_iter()
            .filter(|workload| workload.section() == section && workload.device().is_none())
            .filter(|&workload| medians.records(workload).is_some())
            .collect();
        if let Some(&first) = shown.first() {
            let records = medians.records(first).unwrap_or(0);
            let heading = match (section, medians.limit_bytes) {
                (Section::LargerThanMemory, Some(limit)) => {
                    format!(
                        "Larger than memory: {records} records under {} MiB",
                        limit >> 20
                    )
                }
                _ => format!("In memory: {records} records"),
            };
            let _ = writeln!(out, "## {heading}\n");
            section_table(&mut out, medians, &shown);
        }
    }
    device_table(&mut out, medians);
    target_table(&mut out, medians);
    out
}

/// One row for each engine, one column for each workload: the rate, and its ratio to LMDB's.
fn section_table(out: &mut String, medians: &Medians, workloads: &[Workload]) {
    let names: Vec<_> = workloads.iter().map(|workload| workload.name()).collect();
    let units: Vec<_> = workloads.iter().map(|workload| workload.unit()).collect();
    let _ = writeln!(out, "| | {} |", names.join(" | "));
    let _ = writeln!(out, "|---|{}", "---:|".repeat(workloads.len()));
    let _ = writeln!(out, "| *a second* | {} |", units.join(" | "));
    let mut notes = Vec::new();
    for engine in ENGINES.iter().skip(1) {
        let cells: Vec<_> = workloads
            .iter()
            .map(|&workload| {
                if let Some(why) = medians.failure(workload, engine.name) {
                    notes.push(format!("{} in {workload}: {why}", engine.name));
                }
                match (
                    medians.rate(workload, engine.name),
                    medians.rate(workload, "lmdb"),
                ) {
                    (Some(rate), Some(lmdb)) => format!("{} ({:.2})", short(rate), rate / lmdb),
                    (Some(rate), None) => short(rate),
                    (None, _) if medians.failure(workload, engine.name).is_some() => {
                        "failed".into()
                    }
                    (None, _) => String::new(),
                }
            })
            .collect();
        if cells.iter().any(|cell| !cell.is_empty()) {
            let _ = writeln!(out, "| {} | {} |", engine.name, cells.join(" | "));
        }
    }
    let _ = writeln!(out, "\nIn parentheses: times LMDB in the same column.\n");
    for note in notes {
        let _ = writeln!(out, "- failed: {note}");
    }
}

fn device_table(out: &mut String, medians: &Medians) {
    let rates: Vec<_> = Workload::ALL
        .into_iter()
        .filter_map(|workload| {
            workload.device()?;
            let rate = medians.rate(workload, "device")?;
            Some(format!(
                "| {workload} | {} {} |",
                short(rate),
                workload.unit()
            ))
        })
        .collect();
    if !rates.is_empty() {
        let _ = writeln!(out, "## The device itself\n\n| | a second |\n|---|---|");
        let _ = writeln!(out, "{}\n", rates.join("\n"));
    }
}

fn target_table(out: &mut String, medians: &Medians) {
    let _ = writeln!(
        out,
        "## Targets\n\n| | for | ratio | target | |\n|---|---|---:|---:|---|"
    );
    for target in targets::all() {
        let Some((ours, theirs)) = (target.figures)(medians, target.ours) else {
            continue;
        };
        let ratio = ours / theirs;
        let verdict = if target.goal.is_reached(ratio) {
            "reached"
        } else {
            "**not reached**"
        };
        let goal = target.goal.words();
        let _ = writeln!(
            out,
            "| {} | {} | {ratio:.2} | {goal} | {verdict} |",
            target.what, target.ours
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(workload: Workload, engine: &str, per_s: f64) -> Row {
        Row {
            engine: engine.to_owned(),
            workload,
            records: 10,
            limit_bytes: None,
            repetition: 1,
            outcome: Ok(Measured {
                per_s,
                ..Measured::default()
            }),
        }
    }

    #[test]
    fn medians_stand_beside_lmdb_and_beside_their_target() {
        let mut rows: Vec<_> = [1.0, 100.0, 2000.0]
            .map(|rate| row(Workload::Get1, "lmdb", rate))
            .into();
        rows.push(row(Workload::Get1, "bifolio-pool", 120.0));
        let text = markdown(&Medians::new(rows));
        assert!(text.contains("| bifolio-pool | 120 (1.20) |"), "{text}");
        assert!(text.contains("| lmdb | 100 (1.00) |"), "{text}");
        assert!(
            text.contains("bifolio-pool | 1.20 | ≥ 1.3 | **not reached** |"),
            "{text}"
        );
    }

    #[test]
    fn a_run_that_failed_is_shown_and_never_counted() {
        let mut failed = row(Workload::Get1, "redb", 5.0);
        failed.outcome = Err("killed".to_owned());
        let text = markdown(&Medians::new(vec![failed]));
        assert!(text.contains("| redb | failed |"), "{text}");
        assert!(text.contains("redb in get-1: killed"), "{text}");
    }

    #[test]
    fn numbers_are_short() {
        let shown = [0.5, 12.0, 1234.0, 123_456.0, 1_234_567.0, 123_456_789.0].map(short);
        assert_eq!(shown, ["0.50", "12", "1.23 k", "123 k", "1.23 M", "123 M"]);
    }
}
