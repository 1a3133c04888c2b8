//! What opening after a kill took: a table and a sentence, from the rows of `recovery`.

use std::fmt::Write;

use super::{chart, escape};
use crate::recovery::Recovery;
use crate::spec::PagerSpec;
use crate::stats::{Cell, Group, median};
use crate::units;

/// The medians of each length of the log, shortest first; empty for other workloads.
fn by_length(cell: &Cell<'_>) -> Vec<Recovery> {
    let lengths = cell.outcomes().map(|outcome| outcome.recoveries.len());
    let lengths = lengths.min().unwrap_or(0);
    let of = |index: usize| {
        let number = |of: fn(&Recovery) -> u64| {
            let values = cell.outcomes();
            let values = values.map(|outcome| of(&outcome.recoveries[index]) as f64);
            median(values.collect()).unwrap_or_default() as u64
        };
        Recovery {
            log_limit_bytes: number(|one| one.log_limit_bytes),
            log_bytes_read: number(|one| one.log_bytes_read),
            records_replayed: number(|one| one.records_replayed),
            opened_ns: number(|one| one.opened_ns),
            first_read_ns: number(|one| one.first_read_ns),
            first_write_ns: number(|one| one.first_write_ns),
        }
    };
    (0..lengths).map(of).collect()
}

/// One line for each pager and length of the log.
pub fn table(page: &mut String, group: &Group<'_>, pagers: &[PagerSpec]) {
    if group.cells.iter().all(|cell| by_length(cell).is_empty()) {
        return;
    }
    page.push_str(
        "<div class='scroll'><table><thead><tr><th></th><th>limit of the log</th><th>log read</th>\
         <th>records</th><th>open after</th><th>first get after</th><th>first commit</th>\
         <th>records/s</th></tr></thead><tbody>",
    );
    for cell in &group.cells {
        let colour = chart::colour(cell.pager, pagers);
        for one in by_length(cell) {
            let _ = write!(
                page,
                "<tr data-s='{colour}'><th>{}</th><td>{}</td><td>{}</td><td>{}</td><td>{}</td>\
                 <td>{}</td><td>{}</td><td>{}</td></tr>",
                escape(&cell.pager.to_string()),
                units::bytes(one.log_limit_bytes),
                units::bytes(one.log_bytes_read),
                units::count(one.records_replayed as f64),
                units::ns(one.opened_ns as f64),
                units::ns(one.first_read_ns as f64),
                units::ns(one.first_write_ns as f64),
                units::count(one.records_per_s()),
            );
        }
    }
    page.push_str("</tbody></table></div>");
}

/// How the time grows with the log.
pub fn sentence(group: &Group<'_>) -> Option<String> {
    let describe = |cell: &Cell<'_>| {
        let lengths = by_length(cell);
        let (shortest, longest) = (lengths.first()?, lengths.last()?);
        Some(format!(
            "{} {} for {} and {} for {} ({} records/s)",
            cell.pager,
            units::ns(shortest.opened_ns as f64),
            units::bytes(shortest.log_bytes_read),
            units::ns(longest.opened_ns as f64),
            units::bytes(longest.log_bytes_read),
            units::count(longest.records_per_s()),
        ))
    };
    let parts: Vec<String> = group.cells.iter().filter_map(describe).collect();
    (!parts.is_empty()).then(|| {
        format!(
            "A process was killed when its log was as long as the limit at which a checkpoint begins; \
             file and log were not in memory when the database was opened again. Opening reads the log, \
             replays it and ends in a checkpoint, so its time follows the length of the log, which the \
             limit bounds (writers wait when it is twice as long): {}.",
            parts.join("; ")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::tests::row;
    use crate::spec::WorkloadKind;
    use crate::stats::groups;

    #[test]
    fn each_length_of_the_log_has_a_line_and_the_longest_is_in_the_sentence() {
        let of = |mib: u64| Recovery {
            log_limit_bytes: mib << 20,
            log_bytes_read: mib << 20,
            records_replayed: mib * 5000,
            opened_ns: mib * 20_000_000,
            first_read_ns: mib * 20_000_000 + 1000,
            first_write_ns: 100_000,
        };
        let mut row = row("mmap-random", WorkloadKind::Recovery, 1, 1000.0);
        let outcome = row.outcome.as_mut().unwrap();
        outcome.recoveries = [1, 4, 16].map(of).to_vec();
        let rows = [row];
        let groups = groups(&rows);
        let mut page = String::new();
        table(&mut page, &groups[0], &[rows[0].plan.pager]);
        for part in ["1 MiB", "4 MiB", "16 MiB", "250 k"] {
            assert!(page.contains(part), "{part} is missing: {page}");
        }
        let text = sentence(&groups[0]).unwrap();
        assert!(text.contains("320 ms for 16 MiB"), "{text}");
    }

    #[test]
    fn other_workloads_have_neither() {
        let rows = [row("mmap-random", WorkloadKind::ScanFull, 1, 1000.0)];
        let groups = groups(&rows);
        let mut page = String::new();
        table(&mut page, &groups[0], &[rows[0].plan.pager]);
        assert!(page.is_empty());
        assert_eq!(sentence(&groups[0]), None);
    }
}
