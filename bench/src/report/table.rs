//! The table at the end of a comparison, a hundred columns wide.

use std::fmt::Write;

use super::ratio;
use crate::stats::{Cell, Group};
use crate::units;

/// Widths of the columns after the pager's name.
const COLUMNS: [(&str, usize); 9] = [
    ("per second", 10),
    ("ratio", 7),
    ("p50", 8),
    ("p99", 8),
    ("p99.9", 8),
    ("CPU/op", 8),
    ("faults", 7),
    ("pages", 7),
    ("mem peak", 9),
];

/// All groups, each with a heading.
pub fn render(groups: &[Group<'_>]) -> String {
    let mut text = String::new();
    let name_width = groups
        .iter()
        .flat_map(|group| &group.cells)
        .map(|cell| cell.pager.to_string().len())
        .max()
        .unwrap_or(0)
        .max(15);
    for group in groups {
        heading(&mut text, group, name_width);
        let base = group.cells.first().and_then(Cell::rate);
        for cell in &group.cells {
            text.push_str(&line(cell, base, name_width));
        }
    }
    text.push_str(
        "\nMedians over the repetitions. faults: page faults, pages: device page reads, CPU: user and \
         system,\neach per unit of throughput. mem peak: the control group's, page cache included.\nWrites are durable by the redo log when their commit returns.\n",
    );
    text
}

fn heading(text: &mut String, group: &Group<'_>, name_width: usize) {
    let kind = group.workload;
    // Writing to a string does not fail.
    let _ = write!(
        text,
        "\n{} ({}s, {} pages; latency of {})\n{:<name_width$}",
        kind.title(),
        kind.unit(),
        units::bytes(group.page_size_bytes),
        kind.latency_of(),
        ""
    );
    for (name, width) in COLUMNS {
        let _ = write!(text, " {name:>width$}");
    }
    text.push('\n');
}

fn line(cell: &Cell<'_>, base: Option<f64>, name_width: usize) -> String {
    let mut text = format!("{:<name_width$}", cell.pager.to_string());
    let Some(rate) = cell.rate() else {
        let why = cell.error().unwrap_or("did not run");
        let why: String = why.chars().take(100 - name_width - 10).collect();
        return format!("{text} FAILED: {}\n", why.replace('\n', " "));
    };
    let duration = |of: fn(&crate::row::Outcome) -> f64| cell.median(of).map(units::ns);
    let values = [
        Some(units::count(rate)),
        base.map(|base| ratio(rate / base)),
        duration(|outcome| outcome.latency.p50_ns as f64),
        duration(|outcome| outcome.latency.p99_ns as f64),
        duration(|outcome| outcome.latency.p999_ns as f64),
        duration(crate::row::Outcome::cpu_ns_per_unit),
        cell.median(crate::row::Outcome::faults_per_unit)
            .map(units::three_digits),
        cell.median_known(|outcome| outcome.page_reads_per_unit)
            .map(units::three_digits),
        cell.median_known(|outcome| Some(outcome.memory.peak_bytes? as f64))
            .map(|peak| units::bytes(peak as u64)),
    ];
    for ((_, width), value) in COLUMNS.iter().zip(values) {
        let _ = write!(text, " {:>width$}", value.as_deref().unwrap_or("n/a"));
    }
    if cell.error().is_some() {
        text.push_str(" (one failed)");
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::rows;
    use crate::stats::groups;

    #[test]
    fn the_table_is_a_hundred_columns_wide_and_names_everything() {
        let rows = rows();
        let table = render(&groups(&rows));
        for line in table.lines() {
            assert!(line.chars().count() <= 100, "{line}");
        }
        for word in [
            "Random point reads, uniform",
            "mmap-normal",
            "pool-uring",
            "0.011×",
        ] {
            assert!(table.contains(word), "{word} is missing:\n{table}");
        }
    }

    #[test]
    fn a_failed_run_has_its_reason_in_the_table() {
        let mut rows = rows();
        for row in rows
            .iter_mut()
            .filter(|row| row.plan.pager.to_string() == "pool-uring")
        {
            row.outcome = None;
            row.error = Some("io_uring is not available".to_owned());
        }
        let table = render(&groups(&rows));
        assert!(
            table.contains("FAILED: io_uring is not available"),
            "{table}"
        );
    }

    #[test]
    fn what_the_kernel_does_not_count_is_not_shown_as_nought() {
        let mut rows = rows();
        for outcome in rows.iter_mut().filter_map(|row| row.outcome.as_mut()) {
            outcome.memory.peak_bytes = None;
        }
        assert!(render(&groups(&rows)).contains("n/a"));
    }
}
