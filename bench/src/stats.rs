//! Rows that differ only in their repetition, taken together.

use crate::row::{Outcome, Row};
use crate::spec::{PagerSpec, WorkloadKind};

/// The middle one of `values`, or the mean of the two in the middle; `None` if there are none.
pub fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_unstable_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(values[middle]),
        _ => Some((values[middle - 1] + values[middle]) / 2.0),
    }
}

/// All repetitions of one pager on one workload with one page size.
#[derive(Debug)]
pub struct Cell<'r> {
    /// The pager.
    pub pager: PagerSpec,
    /// The runs, successful or not, in the order they were made.
    pub rows: Vec<&'r Row>,
}

/// All pagers on one workload with one page size.
#[derive(Debug)]
pub struct Group<'r> {
    /// The workload.
    pub workload: WorkloadKind,
    /// Bytes of a page.
    pub page_size_bytes: u64,
    /// The pagers, in the order of the command line; the first is what ratios refer to.
    pub cells: Vec<Cell<'r>>,
}

/// Sorts rows into groups, by page size and then workload; pagers in the order of their first rows.
pub fn groups(rows: &[Row]) -> Vec<Group<'_>> {
    let mut groups: Vec<Group<'_>> = Vec::new();
    for row in rows {
        let (workload, page_size_bytes) = (row.plan.workload, row.plan.page_size_bytes);
        let known = groups.iter().position(|group| {
            group.workload == workload && group.page_size_bytes == page_size_bytes
        });
        let index = known.unwrap_or_else(|| {
            groups.push(Group {
                workload,
                page_size_bytes,
                cells: Vec::new(),
            });
            groups.len() - 1
        });
        let group = &mut groups[index];
        let pager = row.plan.pager;
        match group.cells.iter_mut().find(|cell| cell.pager == pager) {
            Some(cell) => cell.rows.push(row),
            None => group.cells.push(Cell {
                pager,
                rows: vec![row],
            }),
        }
    }
    groups.sort_by_key(|group| (group.page_size_bytes, group.workload));
    groups
}

impl<'r> Group<'r> {
    /// The cell of the pager of this name.
    pub fn cell(&self, name: &str) -> Option<&Cell<'r>> {
        self.cells
            .iter()
            .find(|cell| cell.pager.to_string() == name)
    }
}

impl Cell<'_> {
    /// What successful runs measured.
    pub fn outcomes(&self) -> impl Iterator<Item = &Outcome> {
        self.rows.iter().filter_map(|row| row.outcome.as_ref())
    }

    /// The median over repetitions of one number of an outcome.
    pub fn median(&self, of: impl Fn(&Outcome) -> f64) -> Option<f64> {
        median(self.outcomes().map(of).collect())
    }

    /// The median over those repetitions in which the number is known.
    pub fn median_known(&self, of: impl Fn(&Outcome) -> Option<f64>) -> Option<f64> {
        median(self.outcomes().filter_map(of).collect())
    }

    /// The median throughput, units a second.
    pub fn rate(&self) -> Option<f64> {
        self.median(|outcome| outcome.units_per_s)
    }

    /// The lowest and the highest throughput.
    pub fn rate_range(&self) -> Option<(f64, f64)> {
        let rates = || self.outcomes().map(|outcome| outcome.units_per_s);
        Some((
            rates().min_by(f64::total_cmp)?,
            rates().max_by(f64::total_cmp)?,
        ))
    }

    /// Why the first failed run failed.
    pub fn error(&self) -> Option<&str> {
        self.rows.iter().find_map(|row| row.error.as_deref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::tests::row;

    #[test]
    fn the_median_is_the_middle_one_or_the_mean_of_the_two() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![5.0]), Some(5.0));
        assert_eq!(median(vec![9.0, 1.0, 5.0]), Some(5.0));
        assert_eq!(median(vec![9.0, 1.0, 5.0, 4.0]), Some(4.5));
    }

    #[test]
    fn repetitions_fall_into_one_cell_and_pagers_keep_their_order() {
        let kind = WorkloadKind::PointUniform;
        let rows = vec![
            row("mmap-random", kind, 1, 100.0),
            row("pool-pread", kind, 1, 50.0),
            row("pool-pread", WorkloadKind::ScanFull, 1, 7.0),
            row("pool-pread", kind, 2, 70.0),
            row("mmap-random", kind, 2, 120.0),
        ];
        let groups = groups(&rows);
        assert_eq!(groups.len(), 2);
        let names: Vec<String> = groups[0]
            .cells
            .iter()
            .map(|cell| cell.pager.to_string())
            .collect();
        assert_eq!(names, ["mmap-random", "pool-pread"]);
        let cell = groups[0].cell("pool-pread").unwrap();
        assert_eq!(cell.rate(), Some(60.0));
        assert_eq!(cell.rate_range(), Some((50.0, 70.0)));
    }

    #[test]
    fn a_failed_run_counts_for_nothing_but_its_error() {
        let mut failed = row("pool-pread", WorkloadKind::ScanFull, 1, 7.0);
        failed.outcome = None;
        failed.error = Some("it broke".to_owned());
        let rows = vec![failed];
        let groups = groups(&rows);
        let cell = &groups[0].cells[0];
        assert_eq!((cell.rate(), cell.error()), (None, Some("it broke")));
    }
}
