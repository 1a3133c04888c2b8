//! What reads and hints cost here:
//! `cargo run --release --example map_figures [pages [directory [budget in MiB]]]`.
//!
//! Makes a file of so many pages (default: 100,000) in the directory (default: the one for temporary
//! files), and takes it away. To see data larger than memory, run it under a memory limit, or give it
//! a budget.

use std::hint::black_box;
use std::time::Instant;

use bifolio_pager::{Geometry, PageRef, PageSize, Pager, Version, first_page};
use bifolio_pager_mmap::{MmapOptions, MmapPager};

const GEOMETRY: Geometry = Geometry {
    page_size: PageSize::DEFAULT,
    seed: 1,
};
const BATCH: usize = 64;

fn main() {
    let mut args = std::env::args().skip(1);
    let pages = args
        .next()
        .map_or(100_000, |pages| pages.parse().expect("a number of pages"));
    let directory = args.next().map_or_else(std::env::temp_dir, Into::into);
    let budget_mib = args.next().map(|mib| mib.parse::<u64>().expect("MiB"));
    let options = MmapOptions {
        memory_bytes: budget_mib.map(|mib| mib << 20),
        ..MmapOptions::default()
    };
    let file = tempfile::tempfile_in(directory).expect("a file for the pages");
    let pager = MmapPager::open(file, GEOMETRY, options).expect("a pager");
    println!("{}", pager.effective_backend());
    fill(&pager, pages);
    let order: Vec<_> = (0..pages)
        .map(|step| page(scrambled(step, pages)))
        .collect();
    // The first round verifies; under a limit few rounds say enough.
    for round in 0..3 {
        measure(&format!("round {round}, 64 ahead"), &order, |pages| {
            pager.prefetch(pages);
            touch(&pager, pages);
        });
    }
    for round in 0..3 {
        let some = &order[..order.len().min(100_000)];
        measure(&format!("round {round}, no hints"), some, |pages| {
            touch(&pager, pages)
        });
        measure(&format!("round {round}, 64 ahead"), some, |pages| {
            pager.prefetch(pages);
            touch(&pager, pages);
        });
    }
    let some = &order[..order.len().min(20_000)];
    measure("each asked for by itself", some, |pages| {
        for at in pages {
            pager.prefetch(std::slice::from_ref(at));
            touch(&pager, std::slice::from_ref(at));
        }
    });
    let in_order: Vec<_> = (0..pages).map(page).collect();
    measure("in order, 64 ahead", &in_order, |pages| {
        pager.prefetch(pages);
        touch(&pager, pages);
    });
    measure("no hints, after the scan", some, |pages| {
        touch(&pager, pages)
    });
    if budget_mib.is_some() {
        println!(
            "  {} pages were dropped to keep the budget",
            pager.counters().evictions.unwrap_or(0)
        );
    }
}

fn page(index: u64) -> PageRef {
    PageRef {
        id: first_page(GEOMETRY).plus(index),
        version: Version::new(1),
    }
}

fn fill(pager: &MmapPager, pages: u64) {
    pager
        .grow(first_page(GEOMETRY).get() + pages)
        .expect("room on the disk");
    let all: Vec<_> = (0..pages).map(page).collect();
    for group in all.chunks(4096) {
        for &at in group {
            pager.create(at).expect("a new page")[16] = 1;
        }
        pager.seal(group).expect("private pages");
        let _ = pager.flush(group).expect("a disk that works");
    }
}

fn touch(pager: &MmapPager, pages: &[PageRef]) {
    for &at in pages {
        black_box(pager.read(at).expect("a good page")[16]);
    }
}

fn measure(what: &str, order: &[PageRef], mut work: impl FnMut(&[PageRef])) {
    let (start, busy, read) = (Instant::now(), cpu_ns(), bytes_read());
    order.chunks(BATCH).for_each(&mut work);
    let rate = order.len() as f64 / start.elapsed().as_secs_f64();
    let ns = (cpu_ns() - busy) / order.len() as f64;
    let bytes = (bytes_read() - read) as f64 / order.len() as f64;
    println!("  {what}: {ns:.1} ns of CPU a page, {rate:.0} pages/s, {bytes:.0} bytes read a page");
}

fn scrambled(step: u64, below: u64) -> u64 {
    let mut value = step.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    value ^= value >> 29;
    value = value.wrapping_mul(0xBF58_476D_1CE4_E5B9);
    (value ^ (value >> 32)) % below
}

/// Bytes that this process has had read from devices.
fn bytes_read() -> u64 {
    let io = std::fs::read_to_string("/proc/self/io").expect("Linux");
    let bytes = io
        .lines()
        .find_map(|line| line.strip_prefix("read_bytes: "));
    bytes.expect("it is counted").parse().expect("a number")
}

/// Nanoseconds that this thread has run: a busy machine stretches the wall clock, not this one.
fn cpu_ns() -> f64 {
    let schedstat = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux");
    let ns = schedstat.split(' ').next().expect("three numbers");
    ns.parse().expect("a number")
}
