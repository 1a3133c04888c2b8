//! The databases that are damaged: files and logs as bytes, and what they hold.

use std::fs;
use std::io;
use std::path::Path;

use bifolio::{Database, Durability};
use bifolio_pager::page::SELF_REF;
use bifolio_pager::{META_AREA_LEN, PageRef};

use crate::pagers::Pager;
use crate::simulate::steps::{self, Change, State};

/// Bytes of a page.
pub const PAGE: usize = 4096;

/// A file of a sample, by name.
pub type File = (String, Vec<u8>);

/// A database at rest.
pub struct Sample {
    /// The database file first, then its log's.
    pub files: Vec<File>,
    /// The database file as it was some commits earlier.
    pub older: Vec<u8>,
    /// Where in the database file a page is that has been written again since, so that the older one
    /// differs from it by its stamp and content only: what a write that got lost leaves.
    pub stale: Vec<usize>,
    /// What it holds; and before, what it held one and two commits earlier, which a damage of the
    /// log's last groups cannot be told from.
    pub states: Vec<State>,
}

/// The name of the database file.
pub const NAME: &str = "sample.bifolio";

/// Makes a database in `directory`; `crashed` leaves it as a process that was killed does.
pub fn make(directory: &Path, pager: Pager, crashed: bool) -> io::Result<Sample> {
    let path = directory.join(NAME);
    let failed = |error: bifolio::Error| io::Error::other(error.to_string());
    let open = || {
        pager
            .options()
            .log_bytes(256 << 10)
            .create(&path)
            .map_err(failed)
    };
    let mut state = State::new();
    let db = open()?;
    commit(&db, &mut state, &first()).map_err(failed)?;
    db.close().map_err(failed)?;
    let older = fs::read(&path)?;
    let db = open()?;
    let mut states = Vec::new();
    for round in 0..8_u8 {
        commit(&db, &mut state, &later(round)).map_err(failed)?;
        if round <= 4 {
            db.checkpoint().map_err(failed)?;
        }
        states.push(state.clone());
    }
    let states = if crashed {
        states.split_off(5)
    } else {
        states.split_off(7)
    };
    if !crashed {
        db.close().map_err(failed)?;
        let files = vec![(NAME.to_owned(), fs::read(&path)?)];
        return Ok(Sample::of(files, older, states));
    }
    // The database has a thread that makes and renames segments: what is copied is what lies still.
    loop {
        let files = copy(directory);
        if let Ok(files) = files
            && copy(directory).is_ok_and(|again| again == files)
        {
            return Ok(Sample::of(files, older, states));
        }
    }
}

impl Sample {
    fn of(files: Vec<File>, older: Vec<u8>, states: Vec<State>) -> Self {
        let own = |page: &[u8]| PageRef::decode(&page[SELF_REF]);
        let pages = files[0].1.chunks_exact(PAGE).zip(older.chunks_exact(PAGE));
        let pages = pages.enumerate().skip(META_AREA_LEN as usize / PAGE);
        let stale = pages.filter(|(number, (now, older))| {
            let (now, older) = (own(now), own(older));
            let number = *number as u64;
            now.id.get() == number && older.id.get() == number && now.version > older.version
        });
        let stale = stale.map(|(number, _)| number * PAGE).collect();
        Sample {
            files,
            older,
            stale,
            states,
        }
    }
}

/// The database file and its log's.
fn copy(directory: &Path) -> io::Result<Vec<File>> {
    let mut files = vec![(NAME.to_owned(), fs::read(directory.join(NAME))?)];
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.starts_with("sample.bifolio-log") {
            files.push((name.clone(), fs::read(directory.join(&name))?));
        }
    }
    files[1..].sort();
    Ok(files)
}

fn commit(db: &Database, state: &mut State, changes: &[Change]) -> bifolio::Result<()> {
    let mut txn = db.write()?;
    steps::apply(&mut txn, changes)?;
    txn.commit_with(Durability::Sync)?;
    steps::advance(state, changes);
    Ok(())
}

fn first() -> Vec<Change> {
    let mut changes: Vec<_> = (0..400)
        .map(|key| Change::Put("t", steps::key_of(key), vec![key as u8; 90]))
        .collect();
    changes.push(Change::Put("large", steps::key_of(1), vec![7; 30_000]));
    changes.push(Change::CreateTable("empty"));
    changes.push(Change::BulkLoad("bulk", 100, 50));
    changes
}

/// Larger than any damage, so that one damage meets two groups of the log at most.
fn later(round: u8) -> Vec<Change> {
    let mut changes: Vec<_> = (0..30)
        .map(|key| {
            Change::Put(
                "t",
                steps::key_of(key * 11 + u32::from(round)),
                vec![round; 120],
            )
        })
        .collect();
    changes.push(Change::Put(
        "large",
        steps::key_of(u32::from(round) % 3),
        vec![round; 6000],
    ));
    changes.push(Change::DeleteRange(
        "t",
        steps::key_of(390),
        steps::key_of(395),
    ));
    changes
}
