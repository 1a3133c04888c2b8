//! The record of one run.

use serde::{Deserialize, Serialize};

use crate::workload::Workload;

/// One run: what was asked for, and what came of it. One line of `rows.jsonl`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    /// Which engine, by its name.
    pub engine: String,
    /// What it did.
    pub workload: Workload,
    /// Records in the database.
    pub records: u64,
    /// Memory that the run was allowed, page cache included; `None` without limit.
    pub limit_bytes: Option<u64>,
    /// Which turn it was.
    pub repetition: u32,
    /// What was measured, or why nothing was.
    pub outcome: Result<Measured, String>,
}

/// What was measured.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Measured {
    /// What really ran, in words.
    pub backend: String,
    /// Length of the window.
    pub seconds: f64,
    /// Units done in it; see [`Workload::unit`].
    pub units: u64,
    /// Units a second.
    pub per_s: f64,
    /// Values that were compared byte by byte with what they must be.
    pub values_checked: u64,
    /// Processor time, user and system, of all threads.
    pub cpu_ns: u64,
    /// Page faults that read storage.
    pub major_faults: u64,
    /// Bytes that this process caused to be read from storage.
    pub read_bytes: Option<u64>,
    /// Bytes that it caused to be written.
    pub write_bytes: Option<u64>,
    /// Reads that the device counted, from anybody.
    pub device_reads: Option<u64>,
    /// The most memory that the control group was charged with, page cache included.
    pub peak_bytes: Option<u64>,
    /// Bytes of the database's files when it was opened.
    pub file_bytes: u64,
    /// Of `cold-hot`: the share of look-ups without a read, right before the scan and right after.
    pub hit_ratios: Option<(f64, f64)>,
}

/// The median of these numbers, if there are any.
pub fn median(mut numbers: Vec<f64>) -> Option<f64> {
    numbers.sort_by(f64::total_cmp);
    let middle = numbers.len() / 2;
    match numbers.len() {
        0 => None,
        n if n % 2 == 1 => Some(numbers[middle]),
        _ => Some(f64::midpoint(numbers[middle - 1], numbers[middle])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_one_in_the_middle_or_between_the_two() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![3.0, 1.0, 9.0]), Some(3.0));
        assert_eq!(median(vec![4.0, 1.0, 2.0, 9.0]), Some(3.0));
    }
}
