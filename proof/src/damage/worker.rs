//! The process that damages and reads.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use bifolio::{Database, Error, Result as DbResult};
use bifolio_pager::{Geometry, META_AREA_LEN, META_LEN, MetaSlot, PageSize, Standing};
use clap::Args;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::sample::{self, NAME, Sample};
use crate::machine;
use crate::pagers::Pager;
use crate::simulate::steps::{self, Change, State};

const PAGE: usize = sample::PAGE;
/// Of a slot's two copies of its record.
const RECORD_LEN: usize = 512;
/// What comes of a file that is refused because of a meta.
const REFUSED_FOR_META: &str = "refused for its meta";
/// What comes of a file in which nothing is wrong, or was made good.
const RIGHT: &str = "right when read";
/// Address space that the process may use: bounded, so that a length from disk that is believed
/// shows. What a map reserves counts.
const MEMORY_BYTES: u64 = 8 << 30;

/// What the process is told.
#[derive(Args, Clone, Debug)]
pub struct WorkerArguments {
    #[arg(long, value_enum)]
    pager: Pager,
    #[arg(long)]
    seed: u64,
    #[arg(long)]
    count: u64,
    #[arg(long)]
    forge: bool,
}

/// Damages, reads, and says what came of it.
///
/// # Errors
/// If nobody listens. What goes wrong otherwise is said.
pub fn work(arguments: &WorkerArguments) -> io::Result<()> {
    damage_and_read(arguments).or_else(|error| say(&format!("wrong the test itself: {error}")))
}

fn damage_and_read(arguments: &WorkerArguments) -> io::Result<()> {
    machine::limit_memory(MEMORY_BYTES)?;
    let mut random = StdRng::seed_from_u64(arguments.seed);
    // Kept in memory: that a file lies on a disk is not the point here, and its syncs cost time.
    let scratch = || machine::scratch().map_err(io::Error::other);
    let directory = scratch()?;
    let crashed = random.random_bool(0.5);
    let pager = arguments.pager.of_case(random.random());
    let sample = {
        let apart = scratch()?;
        sample::make(apart.path(), pager, crashed)?
    };
    for number in 0..arguments.count {
        let (file, what) = draw(&sample, &mut random);
        let place = sample.files[file].0.trim_start_matches(NAME);
        let pager = arguments.pager.of_case(random.random());
        let rest = if crashed { "not closed" } else { "closed" };
        say(&format!(
            "begin damage {number}, {rest}, {pager:?}: {what:?} in the file{place}"
        ))?;
        let mut bytes = sample.files[file].1.clone();
        if !what.apply(&mut bytes, &sample) {
            say("end changed nothing")?;
            continue;
        }
        if arguments.forge && file == 0 {
            forge(&mut bytes, &sample.files[0].1);
        }
        lay_out(directory.path(), &sample, file, &bytes)?;
        let path = directory.path().join(NAME);
        match examine(&path, pager, &sample, file > 0, number.is_multiple_of(4)) {
            Ok(outcome) if what.allows(outcome) => say(&format!("end {outcome}"))?,
            Ok(outcome) => return say(&format!("wrong it is {outcome}")),
            Err(wrong) => return say(&format!("wrong {wrong}")),
        }
    }
    Ok(())
}

fn say(what: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{what}")?;
    out.flush()
}

/// One damage.
#[derive(Clone, Copy, Debug)]
enum Damage {
    Flip {
        at: usize,
        bit: u8,
    },
    Field {
        at: usize,
        len: usize,
        ones: bool,
    },
    ZeroSector {
        at: usize,
    },
    PageOverPage {
        from: usize,
        to: usize,
    },
    StalePage {
        at: usize,
    },
    Meta {
        slot: MetaSlot,
        at: usize,
        bit: u8,
        both: bool,
    },
    Truncate {
        len: usize,
    },
}

impl Damage {
    /// Whether it changed anything.
    fn apply(self, bytes: &mut Vec<u8>, sample: &Sample) -> bool {
        let before = bytes.clone();
        match self {
            Damage::Flip { at, bit } => bytes[at] ^= 1 << bit,
            Damage::Field { at, len, ones } => {
                let end = bytes.len().min(at + len);
                bytes[at..end].fill(if ones { 0xFF } else { 0 });
            }
            Damage::ZeroSector { at } => bytes[at..at + 512].fill(0),
            Damage::PageOverPage { from, to } => bytes.copy_within(from..from + PAGE, to),
            Damage::StalePage { at } => {
                if let Some(older) = sample.older.get(at..at + PAGE) {
                    bytes[at..at + PAGE].copy_from_slice(older);
                }
            }
            Damage::Meta {
                slot,
                at,
                bit,
                both,
            } => {
                let first = slot.offset() as usize + at;
                bytes[first] ^= 1 << bit;
                if both {
                    bytes[first + META_LEN - RECORD_LEN] ^= 1 << bit;
                }
            }
            Damage::Truncate { len } => bytes.truncate(len),
        }
        *bytes != before
    }

    /// Whether that may come of it. A record of a meta is there twice: with one copy damaged the
    /// other counts, and with both the file is refused, since what they said may have been the newest.
    fn allows(self, outcome: &str) -> bool {
        match self {
            Damage::Meta { both: true, .. } => outcome == REFUSED_FOR_META,
            Damage::Meta { both: false, .. } => outcome == RIGHT,
            _ => true,
        }
    }
}

/// Which file is damaged, and how.
fn draw(sample: &Sample, random: &mut StdRng) -> (usize, Damage) {
    let file = match sample.files.len() {
        1 => 0,
        _ if random.random_bool(0.5) => 0,
        count => random.random_range(1..count),
    };
    let bytes = &sample.files[file].1;
    // What is zeros to the end was never written.
    let used = bytes.iter().rposition(|&byte| byte != 0).unwrap_or(0) + 1;
    let used = used.next_multiple_of(PAGE).min(bytes.len());
    let page = |random: &mut StdRng| random.random_range(0..used / PAGE) * PAGE;
    let damage = match random.random_range(0..14) {
        0..=4 => Damage::Flip {
            at: random.random_range(0..used),
            bit: random.random_range(0..8),
        },
        5 | 6 => Damage::Field {
            at: page(random) + random.random_range(0..32) * 2,
            len: 1 << random.random_range(0..4),
            ones: random.random(),
        },
        7 | 8 => Damage::ZeroSector {
            at: random.random_range(0..used / 512) * 512,
        },
        9 => Damage::PageOverPage {
            from: page(random),
            to: page(random),
        },
        10 | 11 if file == 0 && !sample.stale.is_empty() => Damage::StalePage {
            at: sample.stale[random.random_range(0..sample.stale.len())],
        },
        12 if file == 0 => Damage::Meta {
            slot: match random.random() {
                true => MetaSlot::A,
                false => MetaSlot::B,
            },
            // Before come the magic and the format, which say whose file it is.
            at: random.random_range(16..RECORD_LEN),
            bit: random.random_range(0..8),
            both: random.random(),
        },
        _ => Damage::Truncate {
            len: random.random_range(0..bytes.len()),
        },
    };
    (file, damage)
}

/// Makes the checksums of damaged pages good: what no checksum sees any more.
fn forge(bytes: &mut [u8], whole: &[u8]) {
    let geometry = Geometry {
        page_size: PageSize::DEFAULT,
        seed: u64::from_le_bytes(whole[16..24].try_into().expect("eight bytes")),
    };
    let area = META_AREA_LEN as usize;
    let pages = bytes.get_mut(area..).unwrap_or_default();
    for (page, whole) in pages.chunks_exact_mut(PAGE).zip(whole[area..].chunks(PAGE)) {
        if page != whole {
            geometry.seal_image(page, Standing::Final);
        }
    }
}

fn lay_out(directory: &Path, sample: &Sample, damaged: usize, bytes: &[u8]) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        fs::remove_file(entry?.path())?;
    }
    for (index, (name, whole)) in sample.files.iter().enumerate() {
        let content = if index == damaged { bytes } else { whole };
        let file = fs::File::create(directory.join(name))?;
        // Sparse: most of a new file is zeros.
        let used = content
            .iter()
            .rposition(|&byte| byte != 0)
            .map_or(0, |at| at + 1);
        std::os::unix::fs::FileExt::write_all_at(&file, &content[..used], 0)?;
        file.set_len(content.len() as u64)?;
    }
    Ok(())
}

/// Opens and reads a damaged database. Returns what came of it.
fn examine(
    path: &Path,
    pager: Pager,
    sample: &Sample,
    of_log: bool,
    writes: bool,
) -> Result<&'static str, String> {
    let db = match pager.options().open(path) {
        Ok(db) => db,
        Err(Error::DamagedMeta { .. }) => return Ok(REFUSED_FOR_META),
        Err(error) => return told(&error).map(|()| "refused to open"),
    };
    // What the log's last groups held cannot be missed, if nothing was written after them.
    let newest = sample.states.last().expect("there is one");
    let allowed = if of_log {
        &sample.states[..]
    } else {
        std::slice::from_ref(newest)
    };
    let outcome = match read(&db, allowed) {
        Ok(outcome) => outcome,
        Err(Read::Wrong(wrong)) => return Err(wrong),
        Err(Read::Told(error)) => {
            told(&error)?;
            "error when read"
        }
    };
    let report = db
        .check()
        .map_err(|error| format!("the check fails: {error}"))?;
    if outcome == "error when read" && report.is_clean() {
        return Err("reading fails, and the check finds nothing".to_owned());
    }
    if writes {
        let written = db.write().and_then(|mut txn| {
            steps::apply(
                &mut txn,
                &[Change::Put("t", b"more".to_vec(), vec![1; 100])],
            )?;
            txn.commit()
        });
        if let Err(error) = written {
            told(&error)?;
        }
    }
    Ok(outcome)
}

enum Read {
    Wrong(String),
    Told(Error),
}

impl From<Error> for Read {
    fn from(error: Error) -> Self {
        Read::Told(error)
    }
}

/// Reads every table, entry by entry and from both ends: each entry is right, and none is missing
/// where no error was told.
fn read(db: &Database, allowed: &[State]) -> Result<&'static str, Read> {
    let snapshot = db.read()?;
    let mut possible: Vec<&State> = allowed.iter().collect();
    let mut failed = None;
    let names = snapshot.table_names()?;
    possible.retain(|state| state.keys().eq(&names));
    for name in &names {
        let table = snapshot.table(name)?;
        let all: DbResult<Vec<_>> = table.iter().collect();
        match all {
            Ok(entries) => possible.retain(|state| {
                let due = state.get(name).into_iter().flatten();
                due.eq(entries.iter().map(|(key, value)| (key, value)))
            }),
            Err(error) => {
                failed.get_or_insert(error);
                // What comes before the error is right, and so is each single answer.
                for entry in table.iter().map_while(Result::ok) {
                    possible.retain(|state| {
                        state.get(name).and_then(|entries| entries.get(&entry.0)) == Some(&entry.1)
                    });
                }
            }
        }
    }
    match (possible.is_empty(), failed) {
        (true, _) => Err(Read::Wrong(
            "what is read is not what was written".to_owned(),
        )),
        (false, Some(error)) => Err(Read::Told(error)),
        (false, None) => Ok(RIGHT),
    }
}

/// An error of damage: it says that something is not what was written.
fn told(error: &Error) -> Result<(), String> {
    match error {
        Error::BadOption(_) | Error::Interrupted | Error::ReadOnly => {
            Err(format!("damage is told as {error:?}"))
        }
        _ => Ok(()),
    }
}
