//! What a hit and a miss cost here: `cargo run --release --example pool_figures [directory]`.
//!
//! Makes a file of 1 GiB in the directory (default: the one for temporary files), and takes it away.

use std::fs::File;
use std::hint::black_box;
use std::path::Path;
use std::thread;
use std::time::Instant;

use bifolio_pager::{Geometry, PageRef, PageSize, Pager, Version, first_page};
use bifolio_pager_bufpool::{BufPool, Direct, IoBackend, Policy, PoolOptions};

const GEOMETRY: Geometry = Geometry {
    page_size: PageSize::DEFAULT,
    seed: 1,
};
const PAGES: u64 = 1 << 18;
const RESIDENT: u64 = 100_000;
/// Frames of a pool that is small beside the file.
const FEW: usize = 8192;

fn main() {
    let directory = std::env::args_os()
        .nth(1)
        .unwrap_or_else(|| std::env::temp_dir().into());
    let file = tempfile::tempfile_in(directory).expect("a file for the pages");
    fill(&file);
    memory();
    for policy in [Policy::Clock, Policy::Lru] {
        let pool = open(
            &file,
            IoBackend::Auto,
            Direct::Auto,
            policy,
            RESIDENT as usize + 64,
        );
        hits(&pool);
    }
    for (io, direct) in [
        (IoBackend::Pread, Direct::Auto),
        (IoBackend::IoUring, Direct::Auto),
        (IoBackend::Pread, Direct::Off),
        (IoBackend::IoUring, Direct::Off),
    ] {
        let pool = open(&file, io, direct, Policy::Clock, FEW);
        misses(&pool);
        scan(&pool);
    }
}

fn open(file: &File, io: IoBackend, direct: Direct, policy: Policy, frames: usize) -> BufPool {
    let mut options = PoolOptions {
        io,
        direct,
        policy,
        ..PoolOptions::default()
    };
    options.budget_bytes = options.budget_for(GEOMETRY, frames) + (PAGES >> 14 << 17);
    let file = file.try_clone().expect("a descriptor");
    let pool = BufPool::open(file, GEOMETRY, options).expect("a pool");
    println!("{}", pool.effective_backend());
    pool
}

fn page(index: u64) -> PageRef {
    PageRef {
        id: first_page(GEOMETRY).plus(index),
        version: Version::new(1),
    }
}

fn fill(file: &File) {
    let pool = open(file, IoBackend::Auto, Direct::Auto, Policy::Clock, FEW);
    pool.grow(first_page(GEOMETRY).get() + PAGES)
        .expect("room on the disk");
    let start = Instant::now();
    for group in 0..PAGES / 4096 {
        let pages: Vec<_> = (group * 4096..(group + 1) * 4096).map(page).collect();
        for &at in &pages {
            pool.create(at).expect("a new page")[16] = 1;
        }
        pool.seal(&pages).expect("private pages");
        let _ = pool.flush(&pages).expect("a disk that works");
    }
    let rate = PAGES as f64 / start.elapsed().as_secs_f64();
    println!("  create, seal and flush, 4096 pages at a time: {rate:.0} pages/s");
}

fn scrambled(step: u64, below: u64) -> u64 {
    let mut value = step.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    value ^= value >> 29;
    value = value.wrapping_mul(0xBF58_476D_1CE4_E5B9);
    (value ^ (value >> 32)) % below
}

/// What the memory itself costs, to hold the hits against: the same places, without a pool.
fn memory() {
    let page_size = GEOMETRY.page_size.bytes();
    let mut memory =
        memmap2::MmapMut::map_anon(RESIDENT as usize * page_size).expect("memory for the pages");
    memory
        .advise(memmap2::Advice::HugePage)
        .expect("huge pages");
    memory.fill(1);
    let all: Vec<_> = (0..RESIDENT)
        .map(|step| scrambled(step, RESIDENT) as usize)
        .collect();
    let start = cpu_ns();
    for _ in 0..20 {
        for &index in &all {
            black_box(memory[index * page_size + 16]);
        }
    }
    let ns = (cpu_ns() - start) / (20 * RESIDENT) as f64;
    println!("no pool\n  resident, random order, 1 threads: {ns:.1} ns of CPU a touch");
}

fn hits(pool: &BufPool) {
    for group in 0..RESIDENT / 100 {
        pool.prefetch(
            &(group * 100..(group + 1) * 100)
                .map(page)
                .collect::<Vec<_>>(),
        );
        for index in group * 100..(group + 1) * 100 {
            drop(pool.read(page(index)).expect("a good page"));
        }
    }
    println!("  {}", huge_page_bytes());
    let all: Vec<_> = (0..RESIDENT)
        .map(|step| page(scrambled(step, RESIDENT)))
        .collect();
    let one: Vec<_> = (0..RESIDENT).map(|_| page(7)).collect();
    for (name, order) in [("random order", &all), ("one page", &one)] {
        for threads in [1, 2] {
            const ROUNDS: u64 = 20;
            let busy = thread::scope(|scope| {
                let readers: Vec<_> = (0..threads)
                    .map(|_| {
                        scope.spawn(|| {
                            let start = cpu_ns();
                            for _ in 0..ROUNDS {
                                for &at in order.iter() {
                                    black_box(pool.read(at).expect("a good page")[16]);
                                }
                            }
                            cpu_ns() - start
                        })
                    })
                    .collect();
                readers
                    .into_iter()
                    .map(|reader| reader.join().expect("a reader"))
                    .sum::<f64>()
            });
            let ns = busy / (threads * ROUNDS * RESIDENT) as f64;
            println!("  resident, {name}, {threads} threads: {ns:.1} ns of CPU a read");
        }
    }
}

fn misses(pool: &BufPool) {
    const READS: u64 = 20_000;
    let start = (Instant::now(), process_cpu_ns());
    for step in 0..READS {
        black_box(
            pool.read(page(scrambled(step, PAGES)))
                .expect("a good page")[16],
        );
    }
    report("one at a time", READS, start);
    for width in [16, 64] {
        let order: Vec<_> = (0..4 * READS)
            .map(|step| page(scrambled(step + width * READS, PAGES)))
            .collect();
        let start = (Instant::now(), process_cpu_ns());
        for group in order.chunks(width as usize) {
            pool.prefetch(group);
            for &at in group {
                black_box(pool.read(at).expect("a good page")[16]);
            }
        }
        report(&format!("{width} read ahead"), 4 * READS, start);
    }
}

/// In page order, reading ahead in steps of half a window, as a cursor does.
fn scan(pool: &BufPool) {
    for window in [32, 128] {
        let (start, busy) = (Instant::now(), process_cpu_ns());
        for step in 0..PAGES / (window / 2) {
            let first = step * (window / 2);
            let ahead: Vec<_> = (first + window / 2..first + window)
                .filter(|&index| index < PAGES)
                .map(page)
                .collect();
            pool.prefetch(&ahead);
            for index in first..first + window / 2 {
                black_box(pool.read(page(index)).expect("a good page")[16]);
            }
        }
        let us = (process_cpu_ns() - busy) / 1000.0 / PAGES as f64;
        let rate = PAGES as f64 / start.elapsed().as_secs_f64();
        println!("  in order, window {window}: {rate:.0} pages/s, {us:.1} us of CPU a page");
    }
}

/// Nanoseconds that all living threads have run.
fn process_cpu_ns() -> f64 {
    let tasks = std::fs::read_dir("/proc/self/task").expect("Linux");
    tasks
        .map(|task| ran_ns(&task.expect("a thread").path().join("schedstat")))
        .sum()
}

/// Nanoseconds that this thread has run: a busy machine stretches the wall clock, not this one.
fn cpu_ns() -> f64 {
    ran_ns(Path::new("/proc/thread-self/schedstat"))
}

fn ran_ns(schedstat: &Path) -> f64 {
    let schedstat = std::fs::read_to_string(schedstat).expect("a thread that lives");
    let ns = schedstat.split(' ').next().expect("three numbers");
    ns.parse().expect("a number")
}

fn huge_page_bytes() -> String {
    let smaps = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap_or_default();
    let line = smaps.lines().find(|line| line.starts_with("AnonHugePages"));
    line.unwrap_or("unknown").to_owned()
}

fn report(name: &str, reads: u64, (start, busy): (Instant, f64)) {
    println!(
        "  random, {name}: {:.0} pages/s, {:.1} us of CPU a page",
        reads as f64 / start.elapsed().as_secs_f64(),
        (process_cpu_ns() - busy) / 1000.0 / reads as f64
    );
}
