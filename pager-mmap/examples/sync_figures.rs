//! What a checkpoint pays for being durable, by the way it syncs and by the way pages are written:
//! `cargo run --release --example sync_figures [rounds [directory]]`.
//!
//! Each round flushes 2,000 pages scattered over a span of the file, while 8,000 pages of a later
//! transaction lie dirty elsewhere in the mapping, as they do when a writer goes on beside a
//! checkpoint. The ways take turns, because a device's own rate moves; compare within one run.

use std::time::{Duration, Instant};

use bifolio_pager::{Geometry, PageRef, PageSize, Pager, Version, first_page};
use bifolio_pager_mmap::{MmapOptions, MmapPager, SyncStyle, WriteStyle};

const GEOMETRY: Geometry = Geometry {
    page_size: PageSize::DEFAULT,
    seed: 1,
};
const SPAN: u64 = 32_000;
const FLUSHED: u64 = 2_000;
const ELSEWHERE: u64 = 8_000;

/// A way of writing and syncing, and what it took.
struct Way {
    name: String,
    early: bool,
    pager: MmapPager,
    flushes: Vec<Duration>,
}

fn main() {
    let mut args = std::env::args().skip(1);
    let rounds: u64 = args
        .next()
        .map_or(9, |rounds| rounds.parse().expect("a number of rounds"));
    let directory = args.next().map_or_else(std::env::temp_dir, Into::into);
    let mut ways = Vec::new();
    for write_style in [WriteStyle::Mapping, WriteStyle::Pwrite] {
        for (sync_style, early) in [
            (SyncStyle::Msync, false),
            (SyncStyle::Fdatasync, false),
            (SyncStyle::Msync, true),
        ] {
            let options = MmapOptions {
                write_style,
                sync_style,
                ..MmapOptions::default()
            };
            let file = tempfile::tempfile_in(&directory).expect("a file for the pages");
            let pager = MmapPager::open(file, GEOMETRY, options).expect("a pager");
            pager
                .grow(first_page(GEOMETRY).get() + SPAN + ELSEWHERE)
                .expect("room on the disk");
            let early_text = if early { ", written out early" } else { "" };
            ways.push(Way {
                name: format!("{}, {}{early_text}", write_style.name(), sync_style.name()),
                early,
                pager,
                flushes: Vec::new(),
            });
        }
    }
    for round in 1..=rounds {
        for way in &mut ways {
            way.measure(round);
        }
    }
    println!("{rounds} flushes of {FLUSHED} pages, {ELSEWHERE} others dirty; median and longest:");
    for way in &mut ways {
        way.flushes.sort_unstable();
        let ms = |flush: Duration| flush.as_secs_f64() * 1e3;
        let median = ms(way.flushes[way.flushes.len() / 2]);
        let longest = way.flushes.last().copied().map_or(0.0, ms);
        println!("  {:<40} {median:>8.1} {longest:>8.1} ms", way.name);
    }
}

impl Way {
    fn measure(&mut self, round: u64) {
        let at = |index: u64| PageRef {
            id: first_page(GEOMETRY).plus(index),
            version: Version::new(round),
        };
        let scattered: Vec<_> = (0..FLUSHED).map(|n| at(n * (SPAN / FLUSHED))).collect();
        let elsewhere: Vec<_> = (SPAN..SPAN + ELSEWHERE).map(at).collect();
        for group in [&scattered, &elsewhere] {
            for &at in group {
                self.pager.create(at).expect("a new page")[20] = round as u8;
            }
        }
        self.pager.seal(&scattered).expect("private pages");
        if self.early {
            // As a paced checkpoint does, while nobody waits.
            self.pager.write_back(&scattered);
            std::thread::sleep(Duration::from_millis(200));
        }
        let begun = Instant::now();
        let _ = self.pager.flush(&scattered).expect("a disk that works");
        self.flushes.push(begun.elapsed());
        // Clean for the next round.
        self.pager.seal(&elsewhere).expect("private pages");
        let _ = self.pager.flush(&elsewhere).expect("a disk that works");
        let all: Vec<_> = scattered.iter().chain(&elsewhere).map(|at| at.id).collect();
        self.pager.discard(&all).expect("nobody reads");
    }
}
