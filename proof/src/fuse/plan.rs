//! What the database is used for while the power is cut, and what it must hold afterwards.
//!
//! A *plan* says what commit number n does, from the plan's seed alone. How many commits a database
//! has is kept in a table of its own, in the same transactions. So whatever thread makes commit n,
//! after whatever crash, it does the same; and what a database must hold follows from its number.

use std::collections::BTreeMap;
use std::ops::Bound;

use bifolio::{Database, WriteTxn};
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};

/// Tables by name, with their entries.
pub type Model = BTreeMap<String, BTreeMap<Vec<u8>, Vec<u8>>>;

const COUNTER_TABLE: &str = "commits";
const COUNTER_KEY: &[u8] = b"count";

/// How a commit is made durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// Synced when `commit` returns.
    Sync,
    /// Submitted, and waited for after the next writer may have begun.
    Ticket,
    /// At some time, by the interval.
    Interval,
    /// At some time, by a checkpoint.
    Checkpoint,
}

#[derive(Clone, Debug)]
enum Step {
    Insert(String, Vec<u8>, Vec<u8>),
    Remove(String, Vec<u8>),
    RemoveRange(String, Vec<u8>, Vec<u8>),
    Clear(String),
    Drop(String),
    BulkLoad(String, Vec<(Vec<u8>, Vec<u8>)>),
}

/// One commit of a plan.
#[derive(Clone, Debug)]
pub struct Commit {
    steps: Vec<Step>,
    /// How it is made durable.
    pub how: How,
    /// Whether a checkpoint is asked for after it.
    pub checkpoint_after: bool,
}

/// What is done, commit by commit.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    seed: u64,
}

impl Plan {
    /// The plan of this seed.
    pub fn new(seed: u64) -> Self {
        Plan { seed }
    }

    /// Commit number `number`; the first is 0.
    pub fn commit(self, number: u64) -> Commit {
        let seed = self.seed ^ (number + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let random = &mut StdRng::seed_from_u64(seed);
        let steps = match random.random_range(0..100) {
            0 => vec![Step::Clear(table(random))],
            1..3 => vec![Step::Drop(table(random))],
            3..5 => bulk_load(random),
            // More than the log may hold.
            5 => (0..400).map(|_| insert(random, 1000)).collect(),
            6..12 => vec![remove_range(random)],
            12..20 => (0..40).map(|_| change(random)).collect(),
            _ => (0..random.random_range(1..4))
                .map(|_| change(random))
                .collect(),
        };
        let how = match random.random_range(0..10) {
            0..6 => How::Sync,
            6 | 7 => How::Ticket,
            8 => How::Interval,
            _ => How::Checkpoint,
        };
        Commit {
            steps,
            how,
            checkpoint_after: random.random_range(0..25) == 0,
        }
    }

    /// Does commit number `number` to a model.
    pub fn apply_to_model(self, number: u64, model: &mut Model) {
        for step in self.commit(number).steps {
            match step {
                Step::Insert(table, key, value) => {
                    model.entry(table).or_default().insert(key, value);
                }
                Step::Remove(table, key) => {
                    model.entry(table).or_default().remove(&key);
                }
                Step::RemoveRange(table, from, to) => {
                    let table = model.entry(table).or_default();
                    table.retain(|key, _| *key < from || *key >= to);
                }
                Step::Clear(table) => model.entry(table).or_default().clear(),
                Step::Drop(table) => _ = model.remove(&table),
                Step::BulkLoad(table, entries) => {
                    model.insert(table, entries.into_iter().collect());
                }
            }
        }
        let count = (number + 1).to_be_bytes().to_vec();
        let counter = model.entry(COUNTER_TABLE.to_owned()).or_default();
        counter.insert(COUNTER_KEY.to_vec(), count);
    }

    /// Does the next commit in a transaction, all but the commit itself, and says which it is.
    ///
    /// # Errors
    /// What the database says.
    pub fn apply(self, txn: &mut WriteTxn) -> bifolio::Result<(u64, Commit)> {
        let number = count_from(txn.table(COUNTER_TABLE)?.get(COUNTER_KEY)?);
        let commit = self.commit(number);
        for step in &commit.steps {
            match step {
                Step::Insert(table, key, value) => _ = txn.table(table)?.insert(key, value)?,
                Step::Remove(table, key) => _ = txn.table(table)?.remove(key)?,
                Step::RemoveRange(table, from, to) => {
                    let range = (Bound::Included(from.clone()), Bound::Excluded(to.clone()));
                    txn.table(table)?.remove_range::<Vec<u8>>(range)?;
                }
                Step::Clear(table) => txn.table(table)?.clear()?,
                Step::Drop(table) => _ = txn.delete_table(table)?,
                Step::BulkLoad(table, entries) => {
                    txn.delete_table(table)?;
                    let entries = entries.iter().map(|(key, value)| (key, value));
                    txn.table(table)?.bulk_load(entries)?;
                }
            }
        }
        let mut counter = txn.table(COUNTER_TABLE)?;
        counter.insert(COUNTER_KEY, (number + 1).to_be_bytes())?;
        Ok((number, commit))
    }
}

/// Everything that a database holds.
///
/// # Errors
/// What the database says.
pub fn content(db: &Database) -> bifolio::Result<Model> {
    let snapshot = db.read()?;
    let mut model = Model::new();
    for name in snapshot.table_names()? {
        let entries = snapshot
            .table(&name)?
            .iter()
            .collect::<bifolio::Result<_>>()?;
        model.insert(name, entries);
    }
    Ok(model)
}

/// How many commits a content is the outcome of.
pub fn commits_in(model: &Model) -> u64 {
    let counter = model.get(COUNTER_TABLE);
    count_from(counter.and_then(|counter| counter.get(COUNTER_KEY).cloned()))
}

fn count_from(bytes: Option<Vec<u8>>) -> u64 {
    let bytes = bytes.and_then(|bytes| <[u8; 8]>::try_from(bytes).ok());
    bytes.map_or(0, u64::from_be_bytes)
}

fn change(random: &mut StdRng) -> Step {
    if random.random_range(0..5) == 0 {
        return Step::Remove(table(random), key(random));
    }
    let len = match random.random_range(0..20) {
        0 => random.random_range(0..15_000),
        1 => 0,
        _ => random.random_range(0..300),
    };
    insert(random, len)
}

fn insert(random: &mut StdRng, len: usize) -> Step {
    Step::Insert(table(random), key(random), value(random, len))
}

fn remove_range(random: &mut StdRng) -> Step {
    let (one, other) = (key(random), key(random));
    Step::RemoveRange(
        table(random),
        one.clone().min(other.clone()),
        one.max(other),
    )
}

fn bulk_load(random: &mut StdRng) -> Vec<Step> {
    let count = random.random_range(1..600_u32);
    let entries = (0..count).map(|number| {
        let value = value(random, (number % 100) as usize);
        (number.to_be_bytes().to_vec(), value)
    });
    let entries = entries.collect();
    vec![Step::BulkLoad(table(random), entries)]
}

fn table(random: &mut impl Rng) -> String {
    format!("table {}", random.random_range(0..4))
}

/// From a small universe, so that work meets itself again.
fn key(random: &mut impl Rng) -> Vec<u8> {
    let number: u32 = random.random_range(0..600);
    let mut key = number.to_be_bytes().to_vec();
    key.resize(4 + number as usize % 40, b'.');
    key
}

fn value(random: &mut impl Rng, len: usize) -> Vec<u8> {
    let first: u8 = random.random();
    (0..len)
        .map(|index| first.wrapping_add(index as u8))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_that_follows_a_plan_holds_what_its_model_holds() {
        let db = Database::in_memory().unwrap();
        let (plan, mut model) = (Plan::new(7), Model::new());
        for number in 0..300 {
            let mut txn = db.write().unwrap();
            assert_eq!(plan.apply(&mut txn).unwrap().0, number);
            txn.commit().unwrap();
            plan.apply_to_model(number, &mut model);
        }
        let content = content(&db).unwrap();
        assert!(content == model);
        assert_eq!(commits_in(&content), 300);
    }
}
