//! How a workload is done to an engine, whichever it is, and what is counted meanwhile.

use std::hint::black_box;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use bifolio_bench::measure::kernel::{Snapshot, block_device};
use bifolio_bench::record::Records;
use rand::seq::SliceRandom;
use rand::{Rng, RngExt, SeedableRng, rngs::SmallRng};
use rand_distr::{Distribution, Zipf};
use serde::{Deserialize, Serialize};

use crate::Result;
use crate::engine::{Engine, Key, Reader, Setup, VALUE_LEN, Value, Variant};
use crate::row::Measured;
use crate::workload::{LOAD_BATCH, MANY, OVERWRITES, SHORT_SCAN, Section, Workload};

/// One value in so many is compared byte by byte; of the others every byte is read.
const CHECK_EVERY: u64 = 16;
/// Exponent of the Zipf distribution, as YCSB has it.
const ZIPF: f64 = 0.99;

/// One run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Job {
    /// Which engine, by its name.
    pub engine: String,
    /// What it does.
    pub workload: Workload,
    /// Records in the database.
    pub records: u64,
    /// Memory that the run is allowed.
    pub limit_bytes: Option<u64>,
    /// How long to measure.
    pub seconds: f64,
    /// Where random choices begin: every engine gets the same ones.
    pub seed: u64,
    /// The database's directory.
    pub dir: PathBuf,
}

impl Job {
    /// How the engine is to be opened for this.
    pub fn setup(&self, variant: Variant) -> Setup {
        Setup {
            variant,
            limit_bytes: self.limit_bytes,
            data_bytes: self.records * 160,
            threads: self.workload.threads(),
            durable: self.workload.is_durable(),
        }
    }

    fn data(&self) -> Records {
        // One seed for all: the databases are shared by runs with different choices.
        Records::new(1, VALUE_LEN)
    }

    fn window(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }
}

/// What one thread of a run holds: its choices, and what it found.
struct Hand {
    random: SmallRng,
    data: Records,
    count: u64,
    deadline: Instant,
    keys: Vec<Key>,
    seen: u64,
    checked: u64,
    sum: u64,
    wrong: Option<String>,
}

impl Hand {
    fn new(job: &Job, duration: Duration, stream: u64) -> Self {
        Hand {
            random: SmallRng::seed_from_u64(job.seed.wrapping_mul(1000).wrapping_add(stream)),
            data: job.data(),
            count: job.records,
            deadline: Instant::now() + duration,
            keys: Vec::new(),
            seen: 0,
            checked: 0,
            sum: 0,
            wrong: None,
        }
    }

    fn key(&mut self) -> Key {
        let index = self.random.random_range(0..self.count);
        self.data.key(index).to_be_bytes()
    }

    /// Reads all of a value, and compares one in some.
    fn look(&mut self, key: &[u8], value: &[u8]) {
        let words = value.chunks_exact(8);
        self.sum ^= words.fold(0, |sum, word| {
            sum ^ u64::from_le_bytes(word.try_into().unwrap_or_default())
        });
        self.seen += 1;
        if self.seen.is_multiple_of(CHECK_EVERY) {
            let key = key.try_into().map_or(0, u64::from_be_bytes);
            match self.data.check(key, value) {
                Ok(_) => self.checked += 1,
                Err(error) => self.wrong = Some(error.to_string()),
            }
        }
    }

    fn expect(&mut self, is_right: bool, what: &str) {
        if !is_right {
            self.wrong.get_or_insert_with(|| what.to_owned());
        }
    }

    fn fault(&mut self) -> Result<()> {
        match self.wrong.take() {
            Some(what) => Err(format!("a wrong answer: {what}").into()),
            None => Ok(()),
        }
    }

    fn get_one(&mut self, reader: &mut impl Reader, key: Key) -> Result<()> {
        let found = reader.get(&key, |value| self.look(&key, value))?;
        self.expect(found, "a record is not there");
        self.fault()
    }

    fn get_many(&mut self, reader: &mut impl Reader) -> Result<u64> {
        let mut keys = std::mem::take(&mut self.keys);
        keys.clear();
        keys.extend((0..MANY).map(|_| self.key()));
        let mut found = 0;
        reader.get_many(&keys, |index, value| {
            found += 1;
            self.look(&keys[index], value);
        })?;
        self.expect(found == MANY, "a record is not there");
        self.keys = keys;
        self.fault()?;
        Ok(MANY as u64)
    }

    /// Scans up to `expected` records, and says how many there were.
    fn scan(&mut self, reader: &mut impl Reader, from: Key, expected: usize) -> Result<u64> {
        let (mut count, mut last) = (0, from);
        reader.scan(&from, expected, |key, value| {
            self.expect(key >= &last[..], "keys do not rise");
            last = key.try_into().unwrap_or_default();
            self.look(key, value);
            count += 1;
            count % 1024 != 0 || Instant::now() < self.deadline
        })?;
        self.fault()?;
        Ok(count)
    }

    fn short_scan(&mut self, reader: &mut impl Reader) -> Result<u64> {
        let from = self.key();
        let count = self.scan(reader, from, SHORT_SCAN)?;
        // Random keys are spread evenly, so that only scans near the end are shorter.
        let near_the_end = u64::from_be_bytes(from) > u64::MAX - u64::MAX / self.count * 200;
        self.expect(count == 100 || near_the_end, "a scan ended early");
        self.fault()?;
        Ok(1)
    }

    /// One pass over everything, or until time is up.
    fn full_scan(&mut self, reader: &mut impl Reader) -> Result<u64> {
        let count = self.scan(reader, [0; 8], usize::MAX)?;
        let is_whole = count == self.count || Instant::now() >= self.deadline;
        self.expect(is_whole, "a scan ended early");
        self.fault()?;
        Ok(count)
    }

    fn record(&self, key: u64, generation: u64) -> (Key, Value) {
        let mut value = [0; VALUE_LEN];
        self.data.fill(key, generation, &mut value);
        (key.to_be_bytes(), value)
    }
}

/// What was done in some time.
#[derive(Default)]
struct Done {
    units: u64,
    checked: u64,
}

/// Does `step` again and again for `duration` in each thread, with one snapshot for each.
fn repeat<E: Engine>(
    db: &E,
    job: &Job,
    duration: Duration,
    stream: u64,
    step: impl for<'r> Fn(&mut Hand, &mut E::Reader<'r>) -> Result<u64> + Sync,
) -> Result<Done> {
    // Where a step is short, the clock is not asked each time.
    let steps = match job.workload {
        Workload::Get1 | Workload::Get2 => 16,
        _ => 1,
    };
    let one_thread = |thread: u64| {
        let mut hand = Hand::new(job, duration, stream * 100 + thread);
        db.read(|reader| {
            let mut units = 0;
            while Instant::now() < hand.deadline {
                for _ in 0..steps {
                    units += step(&mut hand, reader)?;
                }
            }
            black_box(hand.sum);
            let checked = hand.checked;
            Ok(Done { units, checked })
        })
    };
    let one_thread = &one_thread;
    thread::scope(|scope| {
        let threads: Vec<_> = (0..job.workload.threads())
            .map(|thread| scope.spawn(move || one_thread(thread)))
            .collect();
        let mut all = Done::default();
        for thread in threads {
            let done = thread.join().map_err(|_| "a thread panicked")??;
            all.units += done.units;
            all.checked += done.checked;
        }
        Ok(all)
    })
}

/// Measures what `work` does and how long it takes.
fn measured(job: &Job, work: impl FnOnce() -> Result<Done>) -> Result<Measured> {
    let device = block_device(&job.dir);
    let before = Snapshot::take(device.as_deref())?;
    let begin = Instant::now();
    let done = work()?;
    let seconds = begin.elapsed().as_secs_f64();
    let costs = Snapshot::take(device.as_deref())?.since(&before);
    Ok(Measured {
        seconds,
        units: done.units,
        per_s: done.units as f64 / seconds,
        values_checked: done.checked,
        cpu_ns: costs.cpu_user_ns + costs.cpu_system_ns,
        major_faults: costs.major_faults,
        read_bytes: costs.process_read_bytes,
        write_bytes: costs.process_write_bytes,
        device_reads: costs.device_reads,
        ..Measured::default()
    })
}

/// Does the job with this engine.
pub fn run<E: Engine>(job: &Job, variant: Variant) -> Result<Measured> {
    let db = E::open(&job.dir, &job.setup(variant))?;
    let backend = db.describe();
    let outcome = match job.workload {
        Workload::LoadSorted => load_sorted(&db, job),
        Workload::LoadRandom => load_random(&db, job),
        Workload::Overwrite | Workload::ColdOverwrite => overwrite(&db, job),
        Workload::YcsbA => ycsb_a(&db, job),
        Workload::ColdHot => hot_set(&db, job),
        _ => reads(&db, job),
    };
    let mut outcome = outcome?;
    db.close()?;
    outcome.backend = backend;
    Ok(outcome)
}

fn reads<E: Engine>(db: &E, job: &Job) -> Result<Measured> {
    match job.workload {
        Workload::Get1 | Workload::Get2 | Workload::ColdGet1 | Workload::ColdGet8 => {
            read_for(db, job, |hand, reader| {
                let key = hand.key();
                hand.get_one(reader, key)?;
                Ok(1)
            })
        }
        Workload::ColdGetMany => read_for(db, job, |hand, reader| hand.get_many(reader)),
        Workload::Scan100 | Workload::ColdScan100 => {
            read_for(db, job, |hand, reader| hand.short_scan(reader))
        }
        Workload::ScanFull | Workload::ColdScanRandom | Workload::ColdScanSorted => {
            read_for(db, job, |hand, reader| hand.full_scan(reader))
        }
        other => Err(format!("{other} does not read only").into()),
    }
}

/// Warms up, then measures. In memory: everything has been read once. Else: memory is full of what
/// this workload asks for; but a scan of everything begins with nothing in memory.
fn read_for<E: Engine>(
    db: &E,
    job: &Job,
    step: impl for<'r> Fn(&mut Hand, &mut E::Reader<'r>) -> Result<u64> + Sync,
) -> Result<Measured> {
    let cold_scan = matches!(
        job.workload,
        Workload::ColdScanRandom | Workload::ColdScanSorted
    );
    if job.workload.section() == Section::InMemory {
        pass(db, job)?;
    }
    if !cold_scan {
        repeat(db, job, job.window().mul_f64(0.5), 1, &step)?;
    }
    // A cold scan is measured in whole, so that it has no end in the middle of a read-ahead.
    let window = if cold_scan {
        job.window() * 5
    } else {
        job.window()
    };
    if cold_scan {
        return measured(job, || {
            let mut hand = Hand::new(job, window, 2);
            let units = db.read(|reader| hand.full_scan(reader))?;
            Ok(Done {
                units,
                checked: hand.checked,
            })
        });
    }
    measured(job, || repeat(db, job, window, 2, &step))
}

/// Reads everything once.
fn pass<E: Engine>(db: &E, job: &Job) -> Result<()> {
    let mut hand = Hand::new(job, Duration::from_secs(3600), 3);
    db.read(|reader| hand.full_scan(reader)).map(|_| ())
}

fn load_sorted<E: Engine>(db: &E, job: &Job) -> Result<Measured> {
    let hand = Hand::new(job, Duration::ZERO, 0);
    let mut keys: Vec<u64> = (0..job.records).map(|index| hand.data.key(index)).collect();
    keys.sort_unstable();
    measured(job, || {
        db.load_sorted(&mut keys.iter().map(|&key| hand.record(key, 0)))?;
        Ok(Done {
            units: job.records,
            checked: 0,
        })
    })
}

fn load_random<E: Engine>(db: &E, job: &Job) -> Result<Measured> {
    let hand = Hand::new(job, Duration::ZERO, 0);
    let indexes: Vec<u64> = (0..job.records).collect();
    measured(job, || {
        for batch in indexes.chunks(LOAD_BATCH) {
            // Keys are scrambled, so this order is random.
            let records: Vec<_> = batch
                .iter()
                .map(|&index| hand.record(hand.data.key(index), 0))
                .collect();
            db.put(&records)?;
        }
        db.sync()?;
        Ok(Done {
            units: job.records,
            checked: 0,
        })
    })
}

fn overwrite<E: Engine>(db: &E, job: &Job) -> Result<Measured> {
    if job.workload.section() == Section::InMemory {
        pass(db, job)?;
    }
    let mut hand = Hand::new(job, job.window(), 4);
    let mut generation = 0;
    let mut transaction = |hand: &mut Hand| {
        generation += 1;
        let records: Vec<_> = (0..OVERWRITES)
            .map(|_| {
                let key = u64::from_be_bytes(hand.key());
                hand.record(key, generation)
            })
            .collect();
        db.put(&records)?;
        Ok::<_, crate::Failure>(records)
    };
    let warm_until = Instant::now() + job.window() / 2;
    while Instant::now() < warm_until {
        transaction(&mut hand)?;
    }
    hand.deadline = Instant::now() + job.window();
    let mut last = Vec::new();
    let mut measured = measured(job, || {
        let mut units = 0;
        while Instant::now() < hand.deadline {
            last = transaction(&mut hand)?;
            units += OVERWRITES as u64;
        }
        Ok(Done { units, checked: 0 })
    })?;
    measured.values_checked = check_written(db, &last)?;
    Ok(measured)
}

/// Whether a transaction's records are there, the later where one was written twice.
fn check_written<E: Engine>(db: &E, written: &[(Key, Value)]) -> Result<u64> {
    db.read(|reader| {
        for (index, (key, value)) in written.iter().enumerate() {
            if written[index + 1..].iter().any(|(later, _)| later == key) {
                continue;
            }
            let mut is_right = false;
            reader.get(key, |found| is_right = found == value)?;
            if !is_right {
                return Err("a wrong answer: a record is not as it was written".into());
            }
        }
        Ok(written.len() as u64)
    })
}

fn ycsb_a<E: Engine>(db: &E, job: &Job) -> Result<Measured> {
    pass(db, job)?;
    let zipf = Zipf::new(job.records as f64, ZIPF)?;
    let mut hand = Hand::new(job, job.window(), 5);
    let operate = |hand: &mut Hand, generation: u64| {
        let index = zipf.sample(&mut hand.random) as u64 - 1;
        let key = hand.data.key(index);
        if hand.random.next_u32().is_multiple_of(2) {
            db.read(|reader| hand.get_one(reader, key.to_be_bytes()))
        } else {
            db.put(&[hand.record(key, generation)])
        }
    };
    let warm_until = Instant::now() + job.window() / 2;
    while Instant::now() < warm_until {
        operate(&mut hand, 1)?;
    }
    hand.deadline = Instant::now() + job.window();
    measured(job, || {
        let mut units = 0;
        while Instant::now() < hand.deadline {
            operate(&mut hand, units + 2)?;
            units += 1;
        }
        Ok(Done {
            units,
            checked: hand.checked,
        })
    })
}

/// A hot set of random records, on as many pages, that takes two fifths of the limit: the share of
/// look-ups without a read before a scan of everything, and right after it.
fn hot_set<E: Engine>(db: &E, job: &Job) -> Result<Measured> {
    let limit = job.limit_bytes.unwrap_or(64 << 20);
    let count = (limit * 2 / 5 / 4096).min(job.records) as usize;
    let mut hand = Hand::new(job, Duration::from_secs(3600), 6);
    let mut hot: Vec<Key> = (0..count).map(|_| hand.key()).collect();
    let mut round = |hand: &mut Hand| {
        hot.shuffle(&mut hand.random);
        measured(job, || {
            db.read(|reader| {
                for &key in &hot {
                    hand.get_one(reader, key)?;
                }
                Ok(Done {
                    units: hot.len() as u64,
                    checked: hand.checked,
                })
            })
        })
    };
    let hit_ratio = |round: &Measured| {
        let read = round.read_bytes.unwrap_or(0) as f64 / 4096.0;
        (1.0 - read / round.units.max(1) as f64).max(0.0)
    };
    for _ in 0..4 {
        round(&mut hand)?;
    }
    let before = round(&mut hand)?;
    db.read(|reader| hand.full_scan(reader))?;
    let after = round(&mut hand)?;
    Ok(Measured {
        hit_ratios: Some((hit_ratio(&before), hit_ratio(&after))),
        ..after
    })
}
