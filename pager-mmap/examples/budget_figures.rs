//! Whether the soft budget holds, and what it costs:
//! `cargo run --release --example budget_figures [MiB [directory [seconds]]]`.
//!
//! Makes a file four times as large as the budget and reads it at random, one page after the other and
//! 64 at a time, then in order, each for some seconds with a budget and without. What of the file is in
//! memory is looked up every 20 ms. Without a budget everything stays, unless this runs under a
//! memory limit: then the kernel's own way of making room is what the budget is compared with.

use std::fs::File;
use std::hint::black_box;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bifolio_pager::{Geometry, PageRef, PageSize, Pager, Version, first_page};
use bifolio_pager_mmap::{MmapOptions, MmapPager, cached_bytes};

const GEOMETRY: Geometry = Geometry {
    page_size: PageSize::DEFAULT,
    seed: 1,
};
const SAMPLE: Duration = Duration::from_millis(20);

fn main() {
    let mut args = std::env::args().skip(1);
    let mib: u64 = args.next().map_or(64, |mib| mib.parse().expect("MiB"));
    let directory = args.next().map_or_else(std::env::temp_dir, Into::into);
    let seconds: f64 = args.next().map_or(2.0, |s| s.parse().expect("seconds"));
    let pages = 4 * (mib << 20) / GEOMETRY.page_size.bytes() as u64;
    let path = tempfile::NamedTempFile::new_in(directory).expect("a file for the pages");
    fill(&open(path.path(), None), pages);
    println!(
        "{pages} pages, a budget of a quarter; in memory: the mean and the most, of the budget"
    );
    let random = |step: u64| scrambled(step, pages);
    let in_order = |step: u64| step % pages;
    let ways: [(&str, usize, Order); 3] = [
        ("one at a time", 1, &random),
        ("64 at a time", 64, &random),
        ("in order, 64 ahead", 64, &in_order),
    ];
    for (name, batch, order) in ways {
        for budget in [Some(mib << 20), None] {
            let figures = read(path.path(), budget, batch, order, seconds);
            let with = if budget.is_some() { "budget" } else { "none" };
            println!(
                "  {name:<20} {with:<7} {:>8.0} pages/s  {:>6.2} us of CPU a page, {:>5.2} the keeper's  \
                 {:>6.2} {:>6.2}",
                figures.rate,
                figures.reader_us,
                figures.keeper_us,
                figures.mean / (mib << 20) as f64,
                figures.most as f64 / (mib << 20) as f64,
            );
        }
    }
}

/// The page that is read in this step.
type Order<'o> = &'o dyn Fn(u64) -> u64;

struct Figures {
    rate: f64,
    reader_us: f64,
    keeper_us: f64,
    /// Bytes of the file in memory.
    mean: f64,
    most: u64,
}

fn read(path: &Path, budget: Option<u64>, batch: usize, order: Order, seconds: f64) -> Figures {
    let pager = open(path, budget);
    // From a cold start; the first half brings in what there is room for.
    rustix::fs::fadvise(file(path), 0, None, rustix::fs::Advice::DontNeed).expect("a hint");
    let mut step = 0;
    let mut work = |until: Instant| {
        let mut done = 0_u64;
        while Instant::now() < until {
            let pages: Vec<_> = (step..step + batch as u64).map(order).map(page).collect();
            if batch > 1 {
                pager.prefetch(&pages);
            }
            for &at in &pages {
                black_box(pager.read(at).expect("a good page")[16]);
            }
            (step, done) = (step + batch as u64, done + batch as u64);
        }
        done
    };
    let half = Duration::from_secs_f64(seconds / 2.0);
    work(Instant::now() + half);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let sampler = scope.spawn(|| {
            let file = file(path);
            let mut samples = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                samples.push(cached_bytes(&file).expect("what is in memory"));
                std::thread::sleep(SAMPLE);
            }
            samples
        });
        let (begun, mine, keepers) = (Instant::now(), own_cpu_us(), keeper_cpu_us());
        let done = work(begun + half) as f64;
        let (took, mine, keepers) = (
            begun.elapsed().as_secs_f64(),
            own_cpu_us() - mine,
            keeper_cpu_us() - keepers,
        );
        stop.store(true, Ordering::Relaxed);
        let samples = sampler.join().expect("no panic");
        Figures {
            rate: done / took,
            reader_us: mine / done,
            keeper_us: keepers / done,
            mean: samples.iter().sum::<u64>() as f64 / samples.len() as f64,
            most: samples.into_iter().max().expect("one at least"),
        }
    })
}

fn file(path: &Path) -> File {
    File::options()
        .read(true)
        .write(true)
        .open(path)
        .expect("the file")
}

fn open(path: &Path, memory_bytes: Option<u64>) -> MmapPager {
    let options = MmapOptions {
        memory_bytes,
        ..MmapOptions::default()
    };
    MmapPager::open(file(path), GEOMETRY, options).expect("a pager")
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

fn scrambled(step: u64, below: u64) -> u64 {
    let mut value = step.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    value ^= value >> 29;
    value = value.wrapping_mul(0xBF58_476D_1CE4_E5B9);
    (value ^ (value >> 32)) % below
}

/// Microseconds that this thread has run.
fn own_cpu_us() -> f64 {
    ran_us("/proc/thread-self/schedstat")
}

/// Microseconds that the thread which keeps the budget has run; none where there is none.
fn keeper_cpu_us() -> f64 {
    let tasks = std::fs::read_dir("/proc/self/task").expect("Linux");
    let keepers = tasks.filter_map(|task| {
        let task = task.ok()?.path();
        let name = std::fs::read_to_string(task.join("comm")).ok()?;
        name.starts_with("bifolio-mmap")
            .then(|| ran_us(task.join("schedstat")))
    });
    keepers.sum()
}

fn ran_us(path: impl AsRef<Path>) -> f64 {
    let schedstat = std::fs::read_to_string(path).unwrap_or_default();
    let ns = schedstat.split(' ').next().and_then(|ns| ns.parse().ok());
    ns.unwrap_or(0.0) / 1e3
}
