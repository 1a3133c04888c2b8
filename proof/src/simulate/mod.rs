//! Layer A: the power is cut at every operation of small workloads, on modelled disks.
//!
//! A case is one workload on one kind of machine. Before each operation that changes either of its
//! disks, five images are taken: everything that was not synced is gone, is there, is there in any
//! subset and order, is torn by sectors, or has lost every change of length. Each image is opened, and
//! must be whole (every page reached or free), in a state between two commits that leaves out none
//! that was acknowledged, and in the same when it is opened again. Of some images the recovery itself
//! is cut, before each of its operations.
//!
//! `steps.rs` is what workloads are made of, `workloads.rs` has them, `film.rs` runs and compares.

pub mod film;
pub mod steps;
pub mod workloads;

use std::io;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};

use bifolio::PageSize;
use bifolio::testkit::{Cut, Machine, Moment, On};
use clap::{Args, ValueEnum};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use self::film::{Film, Look, Marks, lock};
use crate::campaign::{self, Common, Layer};
use crate::defects;
use crate::tally::Tally;

/// Of so many images, one has its recovery cut.
const RECOVERY_EVERY: u64 = 40;

/// What `bifolio-proof simulate` can be told.
#[derive(Args, Clone, Debug)]
pub struct Arguments {
    #[command(flatten)]
    common: Common,
    /// On what pages are reached.
    #[arg(long, value_enum, default_value_t = Target::Any)]
    on: Target,
    /// Breaks something on purpose.
    #[arg(long, value_enum)]
    control: Option<Control>,
}

/// On what a case runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Target {
    /// The pager that models storage.
    Model,
    /// The mmap pager.
    Mmap,
    /// The buffer pool with `pread`.
    Pread,
    /// The buffer pool with io_uring.
    Uring,
    /// Each case the one that its seed says.
    Any,
}

impl Target {
    const EACH: [On; 4] = [On::Model, On::Mmap, On::Pread, On::Uring];

    /// What a case runs on.
    pub fn of_case(self, random: &mut StdRng) -> On {
        let drawn = Self::EACH[random.random_range(0..4)];
        match self {
            Target::Model => On::Model,
            Target::Mmap => On::Mmap,
            Target::Pread => On::Pread,
            Target::Uring => On::Uring,
            Target::Any => drawn,
        }
    }

    /// As on the command line.
    pub fn arguments(self) -> Vec<String> {
        let value = self.to_possible_value().expect("no value is hidden");
        vec!["--on".to_owned(), value.get_name().to_owned()]
    }
}

/// What can be broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Control {
    /// Commits that are synced later are acknowledged at once.
    EarlyAcks,
    /// Syncs of the log return `Ok` and do nothing.
    LyingSync,
}

/// Runs the layer.
///
/// # Errors
/// As [`campaign::run`].
pub fn run(arguments: &Arguments) -> io::Result<ExitCode> {
    campaign::run(arguments, &arguments.common)
}

impl Layer for Arguments {
    fn name(&self) -> &'static str {
        "simulate"
    }

    fn unit(&self) -> &'static str {
        "images"
    }

    fn default_count(&self) -> u64 {
        100_000
    }

    fn arguments(&self) -> Vec<String> {
        self.on.arguments()
    }

    fn is_control(&self) -> bool {
        self.control.is_some()
    }

    fn case(&self, seed: u64, tally: &mut Tally) -> Result<(), String> {
        let mut random = StdRng::seed_from_u64(seed);
        let on = self.on.of_case(&mut random);
        let page_size = page_size(on, &mut random);
        let (name, steps) = workloads::of_seed(seed, &mut random);
        let film = Film {
            on,
            states: Arc::new(steps::states(&steps)),
            steps,
            early_acks: self.control == Some(Control::EarlyAcks),
            lying: self.control == Some(Control::LyingSync),
            fault: None,
            first_boot: Mutex::default(),
        };
        let context = |what: String| format!("{name:?} on {on:?}, {page_size:?}: {what}");
        let seen = Arc::new(Seen::new(seed, on, Arc::clone(&film.states)));
        let look: Look = {
            let seen = Arc::clone(&seen);
            Arc::new(move |moment, marks| seen.look(moment, marks))
        };
        let marks = Marks::default();
        let outcome = film.run(Machine::new(page_size, on), &marks, Some(&look));
        if let Some(error) = &outcome.error
            && !outcome.lost_its_tail()
        {
            return Err(context(format!("with nothing wrong: {error}")));
        }
        drop(outcome.running); // closing is looked at too
        let (images, findings) = std::mem::take(&mut *lock(&seen.found));
        tally.merge(&images);
        findings
            .into_iter()
            .next()
            .map_or(Ok(()), |what| Err(context(what)))
    }
}

/// A page size: small ones more often, since they make more operations of the same work. A real
/// pager's file is compared byte by byte, so it is to be small.
pub fn page_size(on: On, random: &mut StdRng) -> PageSize {
    let sizes = match on {
        On::Model => [4096, 4096, 4096, 8192, 16_384, 65_536],
        On::Mmap | On::Pread | On::Uring => [4096, 4096, 4096, 4096, 4096, 8192],
    };
    let bytes = sizes[random.random_range(0..6)];
    PageSize::new(bytes).expect("a size that there is")
}

/// What was seen of one run.
struct Seen {
    seed: u64,
    on: On,
    states: Arc<Vec<steps::State>>,
    found: Mutex<(Tally, Vec<String>)>,
}

impl Seen {
    fn new(seed: u64, on: On, states: Arc<Vec<steps::State>>) -> Self {
        Seen {
            seed,
            on,
            states,
            found: Mutex::default(),
        }
    }

    fn look(&self, moment: &Moment<'_>, marks: &Marks) {
        let mut found = lock(&self.found);
        let (tally, findings) = &mut *found;
        if !findings.is_empty() {
            return;
        }
        tally.add("operations", 1);
        let operation = tally.get("operations") as usize;
        // With a mistake planted it matters more to see all workloads soon.
        let cuts = match defects::is_planted() {
            true => &Cut::ALL[operation % 5..][..1],
            false => &Cut::ALL[..],
        };
        for &cut in cuts {
            let number = tally.get("images");
            // What must be there was acknowledged before the image; what may be was begun by then.
            let durable = marks.durable();
            let seed = self.seed ^ number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
            let Some(image) = moment.cut(cut, seed) else {
                continue;
            };
            let allowed = &self.states[durable..=marks.begun()];
            tally.add("images", 1);
            tally.add(cut.name(), 1);
            let copy = number.is_multiple_of(RECOVERY_EVERY).then(|| image.copy());
            let outcome = film::verify(image, self.on, allowed).and_then(|expected| match copy {
                Some(copy) => film::cut_recovery(copy, self.on, &expected, seed, tally),
                None => Ok(()),
            });
            if let Err(what) = outcome {
                let name = cut.name();
                findings.push(format!("before {} ({name}): {what}", moment.what));
                return;
            }
        }
    }
}
