//! The engine over a modelled disk: power cuts at every moment, failures of every operation, stamps
//! that are never used twice, and damage that the check must find.

mod check;
mod crash;
mod durability;
mod faults;
mod logged;
mod metas;
#[cfg(shuttle)]
mod models;
mod races;
mod recovery;
mod stamps;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bifolio_pager::{Faulty, MemPager, MetaSlot, PageSize, Pager};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::core::{AnyPager, Keeping};
use crate::database::Database;
use crate::error::Result;
use crate::file;
use crate::meta::Meta;
use crate::write::WriteTxn;

/// What the tables hold: the model that every image is compared with.
type State = BTreeMap<Vec<u8>, Vec<u8>>;

/// One change: a value, or `None` to remove the key.
type Change = (Vec<u8>, Option<Vec<u8>>);

/// A run of transactions, and the states before and after each.
struct Workload {
    transactions: Vec<Vec<Change>>,
    states: Vec<State>,
}

impl Workload {
    fn random(seed: u64, transactions: usize) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let mut state = State::new();
        let mut workload = Workload {
            transactions: Vec::new(),
            states: vec![state.clone()],
        };
        for _ in 0..transactions {
            let changes: Vec<_> = (0..random.random_range(1..40))
                .map(|_| random_change(&mut random))
                .collect();
            for (key, value) in &changes {
                match value {
                    Some(value) => state.insert(key.clone(), value.clone()),
                    None => state.remove(key),
                };
            }
            workload.transactions.push(changes);
            workload.states.push(state.clone());
        }
        workload
    }
}

fn random_change(random: &mut StdRng) -> Change {
    let number: u16 = random.random_range(0..150);
    let mut key = number.to_be_bytes().to_vec();
    key.resize(2 + usize::from(number) % 90, b'k');
    let length = match random.random_range(0..25) {
        0 => random.random_range(4000..12_000),
        _ => random.random_range(0..300),
    };
    let value = random
        .random_bool(0.7)
        .then(|| vec![random.random(); length]);
    (key, value)
}

/// Applies one transaction and commits it.
fn commit(db: &Database, changes: &[Change]) -> Result<()> {
    let mut txn = db.write()?;
    fill(&mut txn, changes)?;
    txn.commit()?;
    Ok(())
}

fn fill(txn: &mut WriteTxn, changes: &[Change]) -> Result<()> {
    let mut table = txn.table("t")?;
    for (key, value) in changes {
        match value {
            Some(value) => table.insert(key, value)?,
            None => table.remove(key)?,
        };
    }
    Ok(())
}

/// A modelled disk with a new database on it, its first metas durable.
fn first_disk(page_size: PageSize) -> MemPager {
    let (newest, other) = file::first_metas(page_size);
    let disk = MemPager::new(newest.geometry());
    for (slot, meta) in [(MetaSlot::A, newest), (MetaSlot::B, other)] {
        let flushed = disk.flush(&[]).unwrap();
        disk.write_meta(flushed, slot, &meta.encode_slot()).unwrap();
    }
    disk
}

/// A new database on a modelled disk.
fn create(page_size: PageSize) -> Database {
    open(first_disk(page_size)).unwrap()
}

/// Opens what is on a modelled disk.
fn open(disk: MemPager) -> Result<Database> {
    let read = |slot| Meta::decode_slot(&disk.read_meta(slot).unwrap_or_default());
    let (meta, slot) =
        file::newest_of(Path::new("modelled"), read(MetaSlot::A), read(MetaSlot::B))?;
    let pager = AnyPager::Modelled(Faulty::new(disk));
    Database::assemble(
        PathBuf::new(),
        pager,
        Keeping::Checkpoints,
        (meta, slot),
        false,
        None,
    )
}

fn modelled(db: &Database) -> &Faulty<MemPager> {
    match &db.open.pager {
        AnyPager::Modelled(pager) => pager,
        _ => unreachable!("these tests run on the modelled disk"),
    }
}

/// Everything in the table, read entry by entry.
fn content(db: &Database) -> State {
    let snapshot = db.read().unwrap();
    match snapshot.table("t") {
        Ok(table) => table.iter().map(Result::unwrap).collect(),
        Err(_) => State::new(),
    }
}

/// Fails unless the database is whole and is in one of `states`; returns which.
#[track_caller]
fn expect_one_of(db: &Database, states: &[State], context: &str) -> usize {
    let report = db.check().unwrap();
    assert!(report.is_clean(), "{context}: {report}");
    let found = content(db);
    states
        .iter()
        .rposition(|state| *state == found)
        .unwrap_or_else(|| {
            panic!(
                "{context}: {} entries, in none of the states allowed",
                found.len()
            )
        })
}
