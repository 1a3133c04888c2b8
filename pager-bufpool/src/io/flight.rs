//! Flights of neighbours: frames that one call of the device fills.

use std::io;

use super::Arrived;
use crate::frames::{Flight, Owned};

/// The most flights that a backend has at once: one long scan's, or those of a dozen batches.
pub(super) const FLIGHTS: usize = 1024;
/// The most pages that are read by one call: enough that the call itself costs little, and few enough
/// that the first page does not wait long for the last, and that a scan keeps several calls under way.
pub(super) const FORMATION: usize = 64;

/// Bytes of notes that a flight costs at most: its own, and its part of a list while it starts.
pub(super) const FLIGHT_BYTES: usize = 112;
/// Bytes of notes that a formation costs at most.
pub(super) const FORMATION_BYTES: usize = 192;

/// Neighbouring pages on their way into frames, which lie anywhere.
pub(super) struct Formation {
    /// Byte of the file at which the first begins.
    pub(super) offset: u64,
    pub(super) flights: Vec<Flight>,
}

impl Formation {
    /// Hands each frame on with its part of the result.
    pub(super) fn land(
        self,
        result: io::Result<usize>,
        arrived: &mut dyn FnMut(Arrived, io::Result<usize>),
    ) {
        let mut before = 0;
        for mut flight in self.flights {
            let len = flight.memory().len();
            let part = match &result {
                Ok(read) => Ok(read.saturating_sub(before).min(len)),
                Err(error) => Err(again(error)),
            };
            arrived(Arrived(flight.frame()), part);
            before += len;
        }
    }
}

/// Frames that take off, neighbours together, in at most `most` formations; and those that stay behind.
/// In the order of their places in the file.
pub(super) fn formations(
    mut reads: Vec<(u64, Owned<'_>)>,
    most: usize,
) -> (Vec<Formation>, Vec<Owned<'_>>) {
    reads.sort_unstable_by_key(|&(offset, _)| offset);
    let mut formations: Vec<Formation> = Vec::with_capacity(reads.len().min(most));
    let mut stay = Vec::new();
    let mut end = None;
    for (offset, owned) in reads {
        let joins = end == Some(offset)
            && (formations.last()).is_some_and(|last| last.flights.len() < FORMATION);
        if !joins && formations.len() == most {
            stay.push(owned);
            end = None;
            continue;
        }
        let mut flight = owned.into_flight();
        end = Some(offset + flight.memory().len() as u64);
        match formations.last_mut() {
            Some(last) if joins => last.flights.push(flight),
            _ => formations.push(Formation {
                offset,
                flights: vec![flight],
            }),
        }
    }
    (formations, stay)
}

/// The same error once more; `io::Error` is not `Clone`.
pub(super) fn again(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code),
        None => error.kind().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frames::Frames;
    use bifolio_pager::PageSize;

    #[test]
    fn neighbours_take_off_together_and_what_finds_no_place_stays() {
        let frames = Frames::new(200, PageSize::DEFAULT).unwrap();
        let pages = (0..100).chain([200, 300, 301, 400]);
        let reads = pages.map(|page| (page * 4096, frames.pop().unwrap()));
        let (formations, stay) = formations(reads.collect(), 4);
        let sizes: Vec<_> = formations.iter().map(|it| it.flights.len()).collect();
        assert_eq!(sizes, [FORMATION, 100 - FORMATION, 1, 2]);
        assert_eq!(stay.len(), 1);
    }
}
