//! Flights of neighbours: frames that one call of the device fills.

use std::io;

use super::Arrived;
use crate::frames::{Flight, Owned};

/// The most flights that a backend has at once.
pub(super) const FLIGHTS: usize = 256;
/// The most pages that are read by one call: enough that the call itself costs little, and few enough
/// that the first page does not wait long for the last, and that threads share a scan.
pub(super) const FORMATION: usize = 16;

/// Bytes of notes that a flight costs at most: its own, its part of a list, and a formation's of one.
pub(super) const FLIGHT_BYTES: usize = 192;

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

/// Frames that take off, neighbours together. In the order of their places in the file.
pub(super) fn formations(mut reads: Vec<(u64, Owned<'_>)>) -> Vec<Formation> {
    reads.sort_unstable_by_key(|&(offset, _)| offset);
    let mut formations: Vec<Formation> = Vec::with_capacity(reads.len());
    let mut end = None;
    for (offset, owned) in reads {
        let mut flight = owned.into_flight();
        let len = flight.memory().len() as u64;
        match formations.last_mut() {
            Some(last) if end == Some(offset) && last.flights.len() < FORMATION => {
                last.flights.push(flight);
            }
            _ => formations.push(Formation {
                offset,
                flights: vec![flight],
            }),
        }
        end = Some(offset + len);
    }
    formations
}

/// The same error once more; `io::Error` is not `Clone`.
pub(super) fn again(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code),
        None => error.kind().into(),
    }
}
