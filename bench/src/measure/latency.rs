//! A latency distribution.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// The longest time that is told apart from longer ones.
const MAX_NS: u64 = 3_600_000_000_000;

/// Records durations with three digits, from a nanosecond to an hour.
#[derive(Clone, Debug)]
pub struct Latencies(Histogram<u64>);

/// A distribution in the numbers that a row has. All zero if nothing was recorded.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LatencySummary {
    /// Durations recorded.
    pub count: u64,
    /// Their mean.
    pub mean_ns: f64,
    /// Half of them were at most this long.
    pub p50_ns: u64,
    /// Nine in ten were at most this long.
    pub p90_ns: u64,
    /// 99 in a hundred were at most this long.
    pub p99_ns: u64,
    /// 999 in a thousand were at most this long.
    pub p999_ns: u64,
    /// The longest.
    pub max_ns: u64,
    /// The distribution's shape: pairs of a share (0 to 1) and the duration it was at most.
    pub quantiles_ns: Vec<(f64, u64)>,
}

const SHARES: [f64; 16] = [
    0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999, 0.9999, 1.0,
];

impl Default for Latencies {
    fn default() -> Self {
        let histogram = Histogram::new_with_bounds(1, MAX_NS, 3);
        Latencies(histogram.expect("the bounds are constants, and ordered"))
    }
}

impl Latencies {
    /// Adds one duration.
    pub fn record(&mut self, duration: Duration) {
        let ns = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.0.saturating_record(ns.max(1));
    }

    /// Adds all durations of `other`.
    pub fn add(&mut self, other: &Latencies) {
        self.0.add(&other.0).expect("both have the same bounds");
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.0.reset();
    }

    /// The distribution in numbers.
    pub fn summary(&self) -> LatencySummary {
        if self.0.is_empty() {
            return LatencySummary::default();
        }
        let at = |share| self.0.value_at_quantile(share);
        LatencySummary {
            count: self.0.len(),
            mean_ns: self.0.mean(),
            p50_ns: at(0.5),
            p90_ns: at(0.9),
            p99_ns: at(0.99),
            p999_ns: at(0.999),
            max_ns: self.0.max(),
            quantiles_ns: SHARES.map(|share| (share, at(share))).to_vec(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_within_three_digits_of_what_was_recorded() {
        let mut latencies = Latencies::default();
        for us in 1..=1000 {
            latencies.record(Duration::from_micros(us));
        }
        let summary = latencies.summary();
        assert_eq!(summary.count, 1000);
        for (found, wanted) in [
            (summary.p50_ns, 500_000.0),
            (summary.p99_ns, 990_000.0),
            (summary.max_ns, 1_000_000.0),
        ] {
            assert!(
                (found as f64 / wanted - 1.0).abs() < 2e-3,
                "{found} for {wanted}"
            );
        }
    }

    #[test]
    fn nothing_recorded_is_all_zeros_and_not_a_panic() {
        assert_eq!(Latencies::default().summary(), LatencySummary::default());
    }

    #[test]
    fn adding_two_distributions_counts_both() {
        let (mut a, mut b) = (Latencies::default(), Latencies::default());
        a.record(Duration::from_nanos(5));
        b.record(Duration::from_secs(7200));
        a.add(&b);
        assert_eq!(a.summary().count, 2);
        a.clear();
        assert_eq!(a.summary().count, 0);
    }
}
