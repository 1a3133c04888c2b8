//! Traces that are made up: the patterns that policies are told apart by.

use bifolio_pager::PageId;
use bifolio_pager_bufpool::trace::Event;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rand_distr::{Distribution, Zipf};

use super::Replayed;

/// Pages that a made-up trace may touch.
const PAGES: u64 = 20_000;

/// A pattern of accesses over 20,000 pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Made {
    /// Few pages are read often, many seldom (Zipf, 0.99).
    Zipf,
    /// Point reads of a hot set of 1,000 pages, beside scans of everything: each second read.
    Scan,
    /// The first 6,000 pages in order, over and over.
    Loop,
    /// Every page as often as any other.
    Uniform,
    /// Nine of ten reads go to 1,000 pages, which are others after each twentieth of the trace.
    Shift,
}

impl Made {
    #[cfg(test)]
    pub const ALL: [Made; 5] = [
        Made::Zipf,
        Made::Scan,
        Made::Loop,
        Made::Uniform,
        Made::Shift,
    ];

    /// The trace, `length` reads long; the same for the same seed.
    pub fn trace(self, length: usize, seed: u64) -> Replayed {
        let mut dice = StdRng::seed_from_u64(seed);
        let zipf = Zipf::new(PAGES as f64, 0.99).expect("a distribution");
        let page = |step: usize| match self {
            Made::Zipf => zipf.sample(&mut dice) as u64 - 1,
            Made::Scan if step % 2 == 1 => step as u64 / 2 % PAGES,
            Made::Scan => scattered(dice.random_range(0..1000)),
            Made::Loop => step as u64 % 6000,
            Made::Uniform => dice.random_range(0..PAGES),
            Made::Shift if dice.random_range(0..10) == 0 => dice.random_range(0..PAGES),
            Made::Shift => {
                let spot = (step * 20 / length.max(1)) as u64;
                scattered(spot * 1000 + dice.random_range(0..1000))
            }
        };
        Replayed {
            name: clap::ValueEnum::to_possible_value(&self)
                .expect("no pattern is hidden")
                .get_name()
                .to_owned(),
            frames: None,
            events: (0..length)
                .map(page)
                .map(|page| Event::read(PageId::new(page)))
                .collect(),
        }
    }
}

/// Spreads a hot set over the file; no two numbers below [`PAGES`] meet.
fn scattered(number: u64) -> u64 {
    // Prime to PAGES.
    number * 7919 % PAGES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_is_as_long_as_asked_for_within_its_pages_and_the_same_again() {
        for made in Made::ALL {
            let trace = made.trace(10_000, 7);
            assert_eq!(trace.events.len(), 10_000);
            assert!(trace.events.iter().all(|event| event.page.get() < PAGES));
            assert!(
                trace.events == made.trace(10_000, 7).events,
                "{}",
                trace.name
            );
        }
    }
}
