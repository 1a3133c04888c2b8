//! Power cuts: at every operation of several workloads, with several outcomes each, and again while
//! the log is recovered from that.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::super::sim::{SimDisk, Survival};
use super::super::{Log, LogMark, Options, SyncMethod};
use super::{Commit, ID, Random, encode, options, prefix, read, recover};

/// What a power cut must and may leave.
#[derive(Clone, Default)]
struct Truth {
    /// Every commit whose append was begun, in order.
    appended: Vec<Commit>,
    /// So many of them are acknowledged.
    acknowledged: usize,
    /// The newest meta, and how many commits it covers.
    meta: Option<(LogMark, usize)>,
}

impl Truth {
    /// What was recovered is an exact prefix with everything that was acknowledged.
    fn judge(&self, found: &[Commit], what: &str) {
        let (_, covered) = self.meta.as_ref().unwrap();
        let end = covered + found.len();
        assert!(
            end <= self.appended.len(),
            "{what}: more commits than were appended"
        );
        assert!(
            found == &self.appended[*covered..end],
            "{what}: not what was committed"
        );
        assert!(
            end >= self.acknowledged,
            "{what}: {end} commits of {} acknowledged are there",
            self.acknowledged
        );
    }
}

/// A workload: what the engine does, at random, with its meta kept in `truth`.
struct Workload {
    disk: SimDisk,
    options: Options,
    truth: Arc<Mutex<Truth>>,
    random: Random,
    version: u64,
}

impl Workload {
    fn step(&mut self, log: &Log) {
        match self.random.below(16) {
            0 => self.checkpoint(log),
            1 => self.give_up(log),
            2 => log.prepare(1).unwrap(),
            3 => self.commit(log, true),
            _ => self.commit(log, false),
        }
    }

    fn commit(&mut self, log: &Log, piecewise: bool) {
        self.version += 1 + self.random.below(2);
        let commit = self.random.commit(self.version, self.options.segment_bytes);
        self.truth.lock().appended.push(commit.clone());
        let mut records = encode(&[]);
        for op in &commit.1 {
            op.write(&mut records);
            if piecewise && self.random.below(2) == 0 {
                log.append_piece(commit.0, &mut records).unwrap();
            }
        }
        let end = log.append(commit.0, &mut records).unwrap();
        if self.random.below(3) > 0 {
            log.wait_durable(end).unwrap();
            let mut truth = self.truth.lock();
            truth.acknowledged = truth.appended.len();
        }
    }

    /// A transaction that is rolled back after a part of it was logged.
    fn give_up(&mut self, log: &Log) {
        let (version, ops) = self
            .random
            .commit(self.version + 1, self.options.segment_bytes);
        log.append_piece(version, &mut encode(&ops)).unwrap();
        log.abandon();
    }

    fn checkpoint(&mut self, log: &Log) {
        let end = log.end();
        log.wait_durable(end).unwrap();
        let mark = log.mark(end);
        {
            let mut truth = self.truth.lock();
            truth.acknowledged = truth.appended.len();
            truth.meta = Some((mark, truth.acknowledged));
        }
        log.recycle(end).unwrap();
    }
}

/// Counts, for the summary of a test.
#[derive(Default)]
struct Counts {
    images: AtomicU64,
    recoveries: AtomicU64,
    replayed: AtomicU64,
    torn: AtomicU64,
}

/// Recovers from an image, twice, and with a power cut on the way.
fn judge(image: &SimDisk, truth: &Truth, options: Options, seed: u64, counts: &Counts, what: &str) {
    let mut random = Random(seed);
    let Some((mark, _)) = &truth.meta else {
        // No database has its name yet. What is left must not be in the way of the next attempt.
        Log::remove_all(image, prefix()).unwrap();
        Log::create(Arc::new(image.clone()), prefix(), ID, options).unwrap();
        return;
    };
    let untouched = image.copy();
    let before = image.operations();
    let (log, recovered, first) =
        recover(image, mark, options).unwrap_or_else(|error| panic!("{what}: {error}"));
    truth.judge(&first, what);
    let operations = image.operations() - before;
    counts.images.fetch_add(1, Ordering::Relaxed);
    counts
        .replayed
        .fetch_add(first.len() as u64, Ordering::Relaxed);
    counts
        .torn
        .fetch_add(u64::from(recovered.torn_at.is_some()), Ordering::Relaxed);

    // Recovered once more, after another cut, it gives the same, and what was appended since.
    let commit = random.commit(recovered.last.get().max(1 << 20) + 1, options.segment_bytes);
    let end = log.append(commit.0, &mut encode(&commit.1)).unwrap();
    let acknowledged = random.below(2) == 0;
    if acknowledged {
        log.wait_durable(end).unwrap();
    }
    drop(log);
    let again = image.power_cut(random.below(1 << 40), Survival::Garbage);
    let (_, _, second) =
        recover(&again, mark, options).unwrap_or_else(|error| panic!("{what}: {error}"));
    let kept = second.len() - first.len();
    assert!(
        second[..first.len()] == first,
        "{what}: the second recovery is not like the first"
    );
    assert!(
        kept == 1 || (kept == 0 && !acknowledged),
        "{what}: {kept} after, {acknowledged}"
    );
    assert!(
        kept == 0 || second[first.len()] == commit,
        "{what}: another commit"
    );

    // A cut at a random moment of the recovery is only another cut.
    let at = random.below(operations + 1);
    let nested = untouched.copy();
    let (seed, cut) = (random.below(1 << 40), Arc::new(Mutex::new(None)));
    let slot = Arc::clone(&cut);
    nested.before_each(move |disk, index| {
        if index == at {
            *slot.lock() = Some(disk.power_cut(seed, Survival::Garbage));
        }
    });
    recover(&nested, mark, options).unwrap_or_else(|error| panic!("{what}: {error}"));
    nested.unhook();
    let nested = cut
        .lock()
        .take()
        .unwrap_or_else(|| nested.power_cut(seed, Survival::Some));
    let found = read(&nested, mark).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert!(
        found == first,
        "{what}: a cut at operation {at} of the recovery changes the history"
    );
    counts.recoveries.fetch_add(3, Ordering::Relaxed);
}

/// Runs a workload and cuts the power before each of its operations.
fn sweep(seed: u64, options: Options, alignment: usize, steps: u32, counts: &Arc<Counts>) {
    let disk = SimDisk::new(seed);
    disk.set_alignment(alignment);
    let truth = Arc::new(Mutex::new(Truth::default()));
    let (watched, counted) = (Arc::clone(&truth), Arc::clone(counts));
    disk.before_each(move |disk, index| {
        let truth = watched.lock().clone();
        let cuts = [
            Survival::Some,
            Survival::Garbage,
            Survival::Nothing,
            Survival::Everything,
        ];
        for (number, survival) in cuts.into_iter().enumerate() {
            if number >= 2 && !(index + number as u64).is_multiple_of(4) {
                continue; // the two extremes differ little from one operation to the next
            }
            let what = format!("seed {seed}, operation {index}, {survival:?}");
            let cut_seed = seed << 32 | index << 2 | number as u64;
            let image = disk.power_cut(cut_seed, survival);
            judge(&image, &truth, options, cut_seed, &counted, &what);
        }
    });
    let log = Log::create(Arc::new(disk.clone()), prefix(), ID, options).unwrap();
    truth.lock().meta = Some((log.mark(log.end()), 0));
    let mut workload = Workload {
        disk: disk.clone(),
        options,
        truth,
        random: Random(seed),
        version: 0,
    };
    for _ in 0..steps {
        workload.step(&log);
    }
    workload.disk.unhook();
}

#[test]
fn a_power_cut_at_any_operation_leaves_a_prefix_with_all_that_was_acknowledged() {
    let counts = Arc::new(Counts::default());
    for seed in 1..=6 {
        let dsync = Options {
            sync: SyncMethod::Dsync,
            ..options(4096)
        };
        sweep(seed, options(4096), 512, 14, &counts);
        sweep(seed + 100, options(16 << 10), 512, 30, &counts);
        sweep(seed + 200, dsync, 4096, 14, &counts);
    }
    println!(
        "18 workloads: {} images, {} recoveries, {} commits replayed, {} torn tails seen",
        counts.images.load(Ordering::Relaxed),
        counts.recoveries.load(Ordering::Relaxed),
        counts.replayed.load(Ordering::Relaxed),
        counts.torn.load(Ordering::Relaxed)
    );
    assert!(
        counts.torn.load(Ordering::Relaxed) > 0,
        "the sweep must reach torn tails"
    );
}

/// Power cut after power cut, with work in between: epochs pile up, segments are recycled.
#[test]
fn a_life_of_many_power_cuts_is_one_history() {
    let mut cuts = 0;
    for seed in 1..=12 {
        let mut random = Random(seed);
        let options = options(4096 << random.below(3));
        let disk = SimDisk::new(seed);
        let log = Log::create(Arc::new(disk.clone()), prefix(), ID, options).unwrap();
        let truth = Arc::new(Mutex::new(Truth::default()));
        truth.lock().meta = Some((log.mark(log.end()), 0));
        let mut workload = Workload {
            disk,
            options,
            truth,
            random,
            version: 0,
        };
        let mut log = Some(log);
        for _ in 0..12 {
            for _ in 0..workload.random.below(12) {
                workload.step(log.as_ref().unwrap());
            }
            drop(log.take());
            workload.disk = workload
                .disk
                .power_cut(workload.random.below(1 << 40), Survival::Garbage);
            let (mark, covered) = workload.truth.lock().meta.unwrap();
            let (next, recovered, found) = recover(&workload.disk, &mark, options)
                .unwrap_or_else(|error| panic!("seed {seed}: {error}"));
            let mut truth = workload.truth.lock();
            truth.judge(&found, &format!("seed {seed}"));
            // What was recovered is the history from now on.
            truth.appended.truncate(covered + found.len());
            truth.acknowledged = truth.appended.len();
            workload.version = workload.version.max(recovered.last.get());
            if truth.acknowledged.is_multiple_of(2) {
                truth.meta = Some((next.mark(next.end()), truth.acknowledged));
            }
            drop(truth);
            log = Some(next);
            cuts += 1;
        }
    }
    println!("{cuts} power cuts in 12 lives");
}

/// A harness that cannot find a bug proves nothing: with syncs that do nothing it must.
#[test]
fn the_harness_notices_a_log_that_is_not_synced() {
    let mut lost = 0;
    for seed in 0..20 {
        let (disk, log, mark) = super::create(seed, options(16 << 10));
        let unsynced = disk.copy();
        for version in 1..=10 {
            let (_, position) = super::append(&log, version);
            log.wait_durable(position).unwrap();
        }
        // The same writes, as if no sync after creation had ever reached the device.
        let name = super::super::files::Names::new(prefix()).segment(1);
        let file = super::super::disk::Disk::open(&unsynced, &name).unwrap();
        let content = disk.content(&name);
        let mut buffer = super::super::buffer::AlignedBuf::zeroed(content.len());
        buffer.copy_from_slice(&content);
        for at in (0..content.len()).step_by(512) {
            file.write_at(&buffer[at..at + 512], at as u64).unwrap();
        }
        let image = unsynced.power_cut(seed, Survival::Some);
        lost += u64::from(!matches!(read(&image, &mark), Ok(found) if found.len() == 10));
    }
    assert!(lost >= 15, "only {lost} of 20 lost something");
}
