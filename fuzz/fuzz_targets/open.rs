//! Any bytes as a database: raw ones, and edited copies of real files, cleanly closed or with a log
//! to replay. An edited page and an edited meta get their right checksums, so that damage comes
//! deeper than the first comparison. Oracle: an error or an answer, no panic, no signal, no hang; and
//! where the check finds nothing wrong, nothing that is read fails.

#![no_main]

use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use arbitrary::Arbitrary;
use bifolio::{Database, MmapConfig, Options, PagerChoice, PoolConfig, PoolSize};
use bifolio_pager::{Geometry, META_AREA_LEN, META_LEN, PageSize, Standing};
use libfuzzer_sys::fuzz_target;
use xxhash_rust::xxh3::xxh3_64;

const PAGE: usize = 4096;
const SECTOR: usize = 512;

#[derive(Arbitrary, Debug)]
enum Base {
    /// The bytes are the file.
    Raw(Vec<u8>),
    Clean,
    WithLog,
}

#[derive(Arbitrary, Debug)]
enum Edit {
    /// Bytes of a page, whose checksum is then made right.
    Page {
        page: u8,
        offset: u16,
        bytes: Vec<u8>,
    },
    /// Bytes of a meta record, likewise.
    Meta {
        second: bool,
        offset: u16,
        bytes: Vec<u8>,
    },
    /// One page over another, as when a write went to the wrong place.
    Copy {
        from: u8,
        to: u8,
    },
    /// Bytes of the file as they are.
    Rot {
        at: u32,
        bits: u8,
    },
    /// Bytes of a log segment as they are.
    Log {
        file: u8,
        at: u16,
        bytes: Vec<u8>,
    },
    Cut {
        len: u32,
    },
    CutLog {
        file: u8,
        len: u32,
    },
}

#[derive(Arbitrary, Debug)]
struct Input {
    mmap: bool,
    read_only: bool,
    base: Base,
    edits: Vec<Edit>,
}

/// A directory's files, the database first.
type Files = Vec<(String, Vec<u8>)>;

fn options(mmap: bool) -> Options {
    let pager = if mmap {
        PagerChoice::Mmap(MmapConfig::default())
    } else {
        PagerChoice::Pool(PoolConfig {
            size: PoolSize::Bytes(1 << 20),
            ..PoolConfig::default()
        })
    };
    Options::new()
        .pager(pager)
        .max_bytes(64 << 20)
        .log_bytes(1 << 18)
}

fn read(directory: &Path) -> Files {
    let mut files: Files = fs::read_dir(directory)
        .expect("our directory")
        .map(|entry| {
            let entry = entry.expect("an entry");
            let name = entry.file_name().into_string().expect("our names");
            (name, fs::read(entry.path()).expect("our file"))
        })
        .collect();
    files.sort_by_key(|(name, _)| (name != "db", name.clone()));
    files
}

static BASES: LazyLock<[Files; 2]> = LazyLock::new(|| {
    let directory = tempfile::tempdir().expect("a directory");
    let db = options(true)
        .create(directory.path().join("db"))
        .expect("a database");
    let fill = |from: u32, to: u32| {
        let mut txn = db.write().expect("to write");
        let mut table = txn.table("fruit").expect("a table");
        for key in from..to {
            let len = if key % 40 == 0 { 9000 } else { 40 };
            table
                .insert(key.to_be_bytes(), vec![key as u8; len])
                .expect("to insert");
        }
        txn.table("b")
            .expect("a table")
            .insert("k", "v")
            .expect("to insert");
        txn.commit().expect("to commit");
    };
    fill(0, 200);
    db.checkpoint().expect("a checkpoint");
    fill(150, 250);
    // Nothing is under way now: a copy is what a killed process would leave.
    let with_log = read(directory.path());
    db.close().expect("to close");
    [read(directory.path()), with_log]
});

fn overwrite(bytes: &mut [u8], at: usize, with: &[u8]) {
    if let Some(room) = bytes.get_mut(at..) {
        let len = with.len().min(room.len());
        room[..len].copy_from_slice(&with[..len]);
    }
}

fn geometry(file: &[u8]) -> Geometry {
    Geometry {
        page_size: PageSize::DEFAULT,
        seed: u64::from_le_bytes(file[16..24].try_into().expect("8 bytes")),
    }
}

fn apply(edit: &Edit, files: &mut Files) {
    let geometry = geometry(&BASES[0][0].1);
    let (database, logs) = files.split_first_mut().expect("the database");
    let file = &mut database.1;
    let pages = file.len() / PAGE;
    let meta_pages = META_AREA_LEN as usize / PAGE;
    match edit {
        Edit::Page {
            page,
            offset,
            bytes,
        } if pages > meta_pages => {
            let page = meta_pages + usize::from(*page) % (pages - meta_pages);
            let image = &mut file[page * PAGE..(page + 1) * PAGE];
            overwrite(image, usize::from(*offset) % PAGE, bytes);
            geometry.seal_image(image, Standing::Final);
        }
        Edit::Meta {
            second,
            offset,
            bytes,
        } if pages >= meta_pages => {
            let start = if *second {
                META_AREA_LEN as usize / 2
            } else {
                0
            };
            let slot = &mut file[start..start + META_LEN];
            let last = slot.len() - SECTOR;
            let record = &mut slot[..SECTOR];
            overwrite(record, usize::from(*offset) % SECTOR, bytes);
            let checksum = xxh3_64(&record[..SECTOR - 8]).to_le_bytes();
            record[SECTOR - 8..].copy_from_slice(&checksum);
            slot.copy_within(..SECTOR, last);
        }
        Edit::Copy { from, to } if pages > 0 => {
            let (from, to) = (usize::from(*from) % pages, usize::from(*to) % pages);
            file.copy_within(from * PAGE..(from + 1) * PAGE, to * PAGE);
        }
        Edit::Rot { at, bits } => {
            if let Some(byte) = file.get_mut(*at as usize) {
                *byte ^= bits;
            }
        }
        Edit::Cut { len } => file.truncate(*len as usize),
        Edit::Log { file, at, bytes } if !logs.is_empty() => {
            let index = usize::from(*file) % logs.len();
            overwrite(&mut logs[index].1, usize::from(*at), bytes);
        }
        Edit::CutLog { file, len } if !logs.is_empty() => {
            let index = usize::from(*file) % logs.len();
            logs[index].1.truncate(*len as usize);
        }
        Edit::Page { .. }
        | Edit::Meta { .. }
        | Edit::Copy { .. }
        | Edit::Log { .. }
        | Edit::CutLog { .. } => {}
    }
}

/// Reads all there is; whether nothing failed.
fn read_all(db: &Database) -> bool {
    let Ok(snapshot) = db.read() else {
        return false;
    };
    let Ok(names) = snapshot.table_names() else {
        return false;
    };
    names.iter().take(20).all(|name| {
        snapshot.table(name).is_ok_and(|table| {
            let all = table.iter().take(100_000).take_while(Result::is_ok).count();
            all as u64 == table.len()
        })
    })
}

fn change(db: &Database) -> bifolio::Result<()> {
    let mut txn = db.write()?;
    let mut table = txn.table("fruit")?;
    for key in 0..60_u32 {
        table.insert(key.wrapping_mul(4).to_be_bytes(), [1; 100])?;
        table.remove(key.to_be_bytes())?;
    }
    txn.commit()?;
    db.checkpoint()
}

fuzz_target!(|input: Input| {
    let mut files = match input.base {
        Base::Raw(bytes) => vec![("db".to_owned(), bytes)],
        Base::Clean => BASES[0].clone(),
        Base::WithLog => BASES[1].clone(),
    };
    for edit in input.edits.iter().take(16) {
        apply(edit, &mut files);
    }
    let directory = tempfile::tempdir().expect("a directory");
    for (name, bytes) in &files {
        fs::write(directory.path().join(name), bytes).expect("to write");
    }
    let opened = options(input.mmap)
        .read_only(input.read_only)
        .open(directory.path().join("db"));
    let Ok(db) = opened else { return };
    let sound = db.check().is_ok_and(|report| report.is_clean());
    let readable = read_all(&db);
    assert!(!sound || readable, "the check found nothing wrong");
    if !input.read_only {
        let changed = change(&db);
        assert!(!sound || changed.is_ok(), "{changed:?} in a sound file");
    }
});
