//! Any one byte of a file changed: what is read is right, or is an error that names the page.
//!
//! A file that was closed cleanly in this boot is read through the page cache, so the damage that a
//! test writes there is what an opener sees, under every pager.

mod common;

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use bifolio::{Database, Error, Options, PageId, PageSize, PagerChoice, Result, WriteTxn};
use bifolio_btree::Root;
use bifolio_pager::{Geometry, Standing};
use common::{handful, options, pagers, random, scratch};
use rand::RngExt;
use rand::rngs::StdRng;
use xxhash_rust::xxh3::xxh3_64;

const PAGE: usize = 4096;
const META_AREA: usize = 131_072;
/// Where a slot's record lies twice; between the two there are zeros that nobody reads.
const RECORDS: [usize; 4] = [0, 3584, 65_536, 65_536 + 3584];
const RECORD: usize = 512;

type Tables = BTreeMap<String, BTreeMap<Vec<u8>, Vec<u8>>>;

/// A database with a page of every kind (branch, leaf, overflow, map), and free pages.
fn sample(path: &Path) -> Tables {
    let db = Database::create(path).unwrap();
    let mut tables = Tables::new();
    let fill = |txn: &mut WriteTxn, tables: &mut Tables, name: &str, count: u32, len: usize| {
        let mut table = txn.table(name).unwrap();
        for number in 0..count {
            let (key, value) = (format!("key {number:04}"), vec![number as u8; len]);
            table.insert(&key, &value).unwrap();
            let entries = tables.entry(name.to_owned()).or_default();
            entries.insert(key.into_bytes(), value);
        }
    };
    let mut txn = db.write().unwrap();
    fill(&mut txn, &mut tables, "leaves", 150, 80);
    fill(&mut txn, &mut tables, "long", 2, 9000);
    fill(&mut txn, &mut tables, "one", 1, 10);
    fill(&mut txn, &mut tables, "goes", 200, 80);
    txn.commit().unwrap();
    let mut txn = db.write().unwrap();
    assert!(txn.delete_table("goes").unwrap());
    tables.remove("goes");
    fill(&mut txn, &mut tables, "one", 1, 20);
    txn.commit().unwrap();
    db.close().unwrap();
    tables
}

/// Everything, as far as it can be read; and it is right, as far as that is.
fn read_all(db: &Database, expected: &Tables) -> Result<()> {
    let snapshot = db.read()?;
    let names = snapshot.table_names()?;
    assert!(names.iter().eq(expected.keys()), "wrong tables: {names:?}");
    let mut failure = Ok(());
    for (name, entries) in expected {
        let outcome = snapshot.table(name).and_then(|table| {
            let mut expected = entries.iter();
            for entry in table.iter() {
                let (key, value) = entry?;
                assert_eq!(
                    expected.next(),
                    Some((&key, &value)),
                    "wrong entry in {name}"
                );
            }
            assert_eq!(expected.next(), None, "{name} ends early");
            for (key, value) in entries.iter().step_by(7) {
                assert!(
                    table.get(key)?.as_ref() == Some(value),
                    "wrong value in {name}"
                );
            }
            Ok(())
        });
        failure = failure.and(outcome);
    }
    failure
}

/// What became of one change to the file.
#[derive(Debug, Default)]
struct Tally {
    refused: u32,
    found: u32,
    harmless: u32,
}

/// Opens a file in which something was changed within `page` (`None`: in the meta area). Never is
/// anything read that is not right; whatever fails says where; and what can be read reads so often.
fn examine(
    path: &Path,
    choice: &PagerChoice,
    expected: &Tables,
    page: Option<PageId>,
    tally: &mut Tally,
) {
    let db = match options(choice).open(path) {
        Ok(db) => db,
        Err(error) => {
            assert_eq!(page, None, "only metas are read to open: {error}");
            let is_typed = matches!(
                error,
                Error::DamagedMeta { .. } | Error::NewerFormat { .. } | Error::NotADatabase { .. }
            );
            assert!(is_typed, "{error}");
            tally.refused += 1;
            return;
        }
    };
    let report = db.check().unwrap();
    match read_all(&db, expected) {
        Ok(()) if report.is_clean() => tally.harmless += 1,
        Ok(()) => tally.found += 1, // of the allocation map, which reading does not need
        Err(error) => {
            assert_eq!(error.corrupt_page(), page, "{error}");
            assert!(!report.is_clean(), "only reading found out: {error}");
            let again = read_all(&db, expected).unwrap_err();
            assert_eq!(again.corrupt_page(), page, "found out, and then forgotten");
            tally.found += 1;
        }
    }
    for found in &report.findings {
        let near = page.is_some_and(|page| {
            found.finding.page == page || found.finding.what.contains(&page.to_string())
        });
        let follows = found.finding.what.contains("neither in use nor free");
        assert!(near || follows, "it names another page: {report}");
    }
    // A writer meets the map: it commits, or fails with the page's name. (Now and then: it syncs.)
    if !(tally.found + tally.harmless).is_multiple_of(4) {
        return;
    }
    let outcome = db.write().and_then(|mut txn| {
        let mut table = txn.table("more")?;
        for number in 0..40_u32 {
            table.insert(number.to_be_bytes(), [1; 100])?;
        }
        txn.commit()
    });
    if let Err(error) = outcome {
        let words = error.to_string();
        let named = page.is_some_and(|page| words.contains(&format!("page {page} ")));
        assert!(named, "{words}");
    }
}

/// Changes bytes of a file and takes the change back.
struct Surgeon<'s> {
    file: File,
    whole: &'s [u8],
}

impl Surgeon<'_> {
    fn with(&self, at: usize, bytes: &[u8], look: impl FnOnce()) {
        self.file.write_all_at(bytes, at as u64).unwrap();
        look();
        // What looked may have written anywhere.
        self.file.write_all_at(self.whole, 0).unwrap();
        self.file.set_len(self.whole.len() as u64).unwrap();
    }
}

fn choices() -> Vec<PagerChoice> {
    let [(_, pread), _, (_, io_uring)] = <[_; 3]>::try_from(handful(PAGE, 8)).expect("three");
    let (_, mmap) = pagers(PAGE).remove(0);
    vec![mmap, pread, io_uring]
}

/// Sets up the sample and calls `test` with each pager in turn.
fn on_a_sample(test: impl FnOnce(&Path, &Surgeon<'_>, &Tables, &[PagerChoice])) {
    let (_directory, path) = scratch();
    let expected = sample(&path);
    let whole = fs::read(&path).unwrap();
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    let surgeon = Surgeon {
        file,
        whole: &whole,
    };
    test(&path, &surgeon, &expected, &choices());
}

/// Pages in use, by the check of a copy.
fn end_of(path: &Path) -> usize {
    let db = Options::new().read_only(true).open(path).unwrap();
    let report = db.check().unwrap();
    assert!(report.is_clean() && report.free_pages > 5, "{report}");
    report.end_pages as usize
}

#[test]
fn one_byte_of_a_meta_record_is_seen_or_made_good_by_its_copy() {
    on_a_sample(|path, surgeon, expected, choices| {
        let mut tally = Tally::default();
        for (number, at) in RECORDS
            .into_iter()
            .flat_map(|at| at..at + RECORD)
            .enumerate()
        {
            let bytes = [surgeon.whole[at] ^ (1 << (number % 8))];
            surgeon.with(at, &bytes, || {
                let choice = &choices[number % choices.len()];
                examine(path, choice, expected, None, &mut tally);
            });
        }
        println!("{tally:?}");
        assert_eq!((tally.refused, tally.found), (0, 0));
    });
}

#[test]
fn one_byte_of_both_copies_of_a_meta_record_is_refused() {
    on_a_sample(|path, surgeon, expected, choices| {
        let mut tally = Tally::default();
        for slot in [0, 65_536] {
            for byte in 0..RECORD {
                let mut bytes = surgeon.whole[slot..slot + 4096].to_vec();
                bytes[byte] ^= 1 << (byte % 8);
                bytes[3584 + byte] ^= 1 << (byte % 8);
                surgeon.with(slot, &bytes, || {
                    let choice = &choices[byte % choices.len()];
                    examine(path, choice, expected, None, &mut tally);
                });
            }
        }
        println!("{tally:?}");
        assert_eq!((tally.found, tally.harmless), (0, 0));
    });
}

/// Every byte of every page, spread over the pagers; the header and the ends of the page with each.
#[test]
fn one_byte_of_a_page_is_never_believed() {
    on_a_sample(|path, surgeon, expected, choices| {
        let end = end_of(path);
        let (mut found, mut harmless) = (0, 0);
        for page in META_AREA / PAGE..end {
            let mut tally = Tally::default();
            let id = Some(PageId::new(page as u64));
            let bytes = (0..24)
                .chain((24..PAGE - 16).step_by(97))
                .chain(PAGE - 16..PAGE);
            for (number, byte) in bytes.enumerate() {
                let at = page * PAGE + byte;
                let flipped = [surgeon.whole[at] ^ (1 << ((page + byte) % 8))];
                surgeon.with(at, &flipped, || {
                    let choice = &choices[(page + number) % choices.len()];
                    examine(path, choice, expected, id, &mut tally);
                });
            }
            assert!(tally.found == 0 || tally.harmless == 0, "{page}: {tally:?}");
            found += u32::from(tally.found > 0);
            harmless += u32::from(tally.harmless > 0);
        }
        println!("{found} pages in use, {harmless} free");
        assert!(found > 10 && harmless > 3);
    });
}

/// A write that was lost leaves what was there before: a page that is sound, of an older version.
#[test]
fn a_page_as_it_was_before_its_last_write_is_never_believed() {
    let (_directory, path) = scratch();
    let mut expected = sample(&path);
    let mut images = Vec::new();
    for round in 0..12_u8 {
        images.push(fs::read(&path).unwrap());
        let db = Database::open(&path).unwrap();
        let mut txn = db.write().unwrap();
        let mut table = txn.table("leaves").unwrap();
        for (key, value) in expected.get_mut("leaves").unwrap().iter_mut().take(60) {
            value.fill(round);
            table.insert(key, &*value).unwrap();
        }
        txn.commit().unwrap();
    }
    let whole = fs::read(&path).unwrap();
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    let surgeon = Surgeon {
        file,
        whole: &whole,
    };
    let mut tally = Tally::default();
    for page in META_AREA / PAGE..end_of(&path) {
        let bytes = page * PAGE..(page + 1) * PAGE;
        let older = images
            .iter()
            .rev()
            .filter_map(|image| image.get(bytes.clone()));
        let Some(older) = older
            .into_iter()
            .find(|older| **older != whole[bytes.clone()])
        else {
            continue; // it was written once
        };
        for choice in choices() {
            surgeon.with(bytes.start, older, || {
                let id = Some(PageId::new(page as u64));
                examine(&path, &choice, &expected, id, &mut tally);
            });
        }
    }
    println!("{tally:?}");
    assert!(tally.found > 10, "{tally:?}");
}

#[test]
fn pages_of_zeros_torn_pages_and_pages_of_others_are_never_believed() {
    on_a_sample(|path, surgeon, expected, choices| {
        let end = end_of(path);
        let mut tally = Tally::default();
        for page in META_AREA / PAGE..end {
            let id = Some(PageId::new(page as u64));
            let other = META_AREA / PAGE + (page * 7 + 3) % (end - META_AREA / PAGE);
            let image = |page: usize| &surgeon.whole[page * PAGE..][..PAGE];
            let mut half = image(page).to_vec();
            half[..2048].copy_from_slice(&image(other)[..2048]);
            let mut lost = image(page).to_vec();
            lost[512..1024].fill(0);
            for damage in [&[0; PAGE][..], image(other), &half, &lost] {
                if damage == image(page) {
                    continue;
                }
                for choice in choices {
                    surgeon.with(page * PAGE, damage, || {
                        examine(path, choice, expected, id, &mut tally);
                    });
                }
            }
        }
        println!("{tally:?}");
        assert!(tally.found > 100, "{tally:?}");
    });
}

fn file_seed(whole: &[u8]) -> u64 {
    u64::from_le_bytes(whole[16..24].try_into().expect("eight bytes"))
}

/// Makes the checksums of a page, or of both copies of a meta record, right again.
fn reseal(file_seed: u64, bytes: &mut [u8], page: usize) {
    if page >= META_AREA / PAGE {
        let geometry = Geometry {
            page_size: PageSize::DEFAULT,
            seed: file_seed,
        };
        geometry.seal_image(bytes, Standing::Final);
        return;
    }
    let sum = xxh3_64(&bytes[..RECORD - 8]).to_le_bytes();
    bytes[RECORD - 8..RECORD].copy_from_slice(&sum);
    bytes.copy_within(..RECORD, PAGE - RECORD);
}

/// Reads and writes whatever can be.
fn use_all(db: &Database) -> Result<()> {
    let snapshot = db.read()?;
    let mut names = snapshot.table_names()?;
    names.truncate(20);
    let mut value = Vec::new();
    for name in &names {
        let Ok(table) = snapshot.table(name) else {
            continue;
        };
        for entries in [table.iter().count(), table.iter().rev().count()] {
            assert!(entries < 100_000, "a small file with many entries");
        }
        let keys = [&b""[..], b"key 0001", b"key 0100", &[255; 100]];
        for key in keys {
            let _ = table.get_into(key, &mut value);
        }
        let _ = table.get_many(&keys, |_, _| ());
        let _ = (table.first(), table.last());
    }
    for how in 0..4 {
        let mut txn = db.write()?;
        for name in &names {
            let _ = match how {
                0 => txn.delete_table(name).map(drop),
                1 => txn.table(name)?.insert("key 0001x", [0; 300]).map(drop),
                2 => txn.table(name)?.remove("key 0001").map(drop),
                _ => txn.table(name)?.clear(),
            };
        }
        let _ = txn
            .table("new")
            .and_then(|mut table| table.insert("a", "b"));
        match how {
            0 => txn.rollback(),
            _ => _ = txn.commit()?,
        }
    }
    Ok(())
}

/// A few bytes of a page changed, to what might matter.
fn forge(random: &mut StdRng, whole: &[u8], page: usize) -> Vec<u8> {
    let mut bytes = whole[page * PAGE..][..PAGE].to_vec();
    let reach = match page {
        _ if page < META_AREA / PAGE => RECORD,
        _ if random.random_ratio(1, 2) => 120,
        _ => PAGE,
    };
    for _ in 0..random.random_range(1..4) {
        let at = random.random_range(0..reach - 16);
        match random.random_range(0..5) {
            0 => bytes[at] = [0, 1, 127, 128, 255][random.random_range(0..5)],
            1 => bytes[at] = bytes[at].wrapping_add([1, 255][random.random_range(0..2)]),
            2 => bytes[at..at + 8].fill([0, 255][random.random_range(0..2)]),
            3 => bytes[at..at + 2].copy_from_slice(&random.random::<u16>().to_le_bytes()),
            _ => {
                let from = random.random_range(META_AREA..whole.len() - 16);
                bytes[at..at + 12].copy_from_slice(&whole[from..from + 12]);
            }
        }
    }
    reseal(file_seed(whole), &mut bytes, page);
    bytes
}

/// The file with the catalogue's root of table `of` replaced by what `forge` makes of all roots.
fn with_root(
    surgeon: &Surgeon<'_>,
    expected: &Tables,
    of: &str,
    root: impl FnOnce(Root) -> Root,
    look: impl FnOnce(),
) {
    let at = place_of_root(surgeon.whole, expected, of);
    let page = at / PAGE;
    let mut image = surgeon.whole[page * PAGE..][..PAGE].to_vec();
    let bytes = &mut image[at - page * PAGE..][..Root::LEN];
    let forged = root(Root::decode(bytes).unwrap());
    bytes.copy_from_slice(&forged.encode());
    reseal(file_seed(surgeon.whole), &mut image, page);
    surgeon.with(page * PAGE, &image, look);
}

/// Where the catalogue has the root of a table: at what has the count of its entries.
fn place_of_root(whole: &[u8], expected: &Tables, table: &str) -> usize {
    let entries = expected[table].len() as u64;
    let mut places = (META_AREA..whole.len() - Root::LEN).filter(|&at| {
        let root = Root::decode(&whole[at..]);
        root.is_ok_and(|root| root.page.is_some() && root.entries == entries)
    });
    places.next_back().expect("the catalogue has its root")
}

#[test]
fn two_tables_that_lead_to_one_page_are_found() {
    on_a_sample(|path, surgeon, expected, choices| {
        let other = place_of_root(surgeon.whole, expected, "leaves");
        let other = Root::decode(&surgeon.whole[other..]).unwrap();
        with_root(
            surgeon,
            expected,
            "long",
            |_| other,
            || {
                for choice in choices {
                    let report = options(choice).open(path).unwrap().check().unwrap();
                    let mut found = report.findings.iter().map(|found| &found.finding.what);
                    assert!(found.any(|what| what.contains("a second time")), "{report}");
                }
            },
        );
    });
}

#[test]
fn a_count_of_entries_that_cannot_be_is_found_and_breaks_nothing() {
    on_a_sample(|path, surgeon, expected, choices| {
        for entries in [0, 1, u64::MAX] {
            let forged = |root| Root { entries, ..root };
            with_root(surgeon, expected, "leaves", forged, || {
                let db = options(&choices[0]).open(path).unwrap();
                assert!(!db.check().unwrap().is_clean());
                let mut txn = db.write().unwrap();
                let mut table = txn.table("leaves").unwrap();
                table.insert("new", "entry").unwrap();
                assert!(table.remove("key 0001").unwrap() && table.remove("key 0002").unwrap());
                txn.commit().unwrap();
            });
        }
    });
}

/// A checksum proves nothing to somebody who can compute one. What such a file says may be wrong;
/// that it is opened, read, checked and written without a panic, and ends, is all that is asked.
#[test]
fn a_forged_file_is_wrong_and_nothing_worse() {
    let rounds = std::env::var("BIFOLIO_ROUNDS").map_or(600, |rounds| rounds.parse().unwrap());
    let mut random = random(21);
    on_a_sample(|path, surgeon, _, choices| {
        let end = end_of(path);
        let (mut opened, mut used) = (0, 0);
        for round in 0..rounds {
            let page = match random.random_range(0..8) {
                0 => 0,
                1 => 65_536 / PAGE,
                _ => random.random_range(META_AREA / PAGE..end),
            };
            let bytes = forge(&mut random, surgeon.whole, page);
            surgeon.with(page * PAGE, &bytes, || {
                let Ok(db) = options(&choices[round % choices.len()]).open(path) else {
                    return;
                };
                opened += 1;
                let report = db.check().unwrap();
                assert!(report.to_string().len() < 1 << 20, "a report without end");
                used += u32::from(use_all(&db).is_ok());
            });
        }
        println!("{opened} of {rounds} opened, {used} used to the end");
        assert!(opened > rounds / 2 && used > 0);
    });
}
