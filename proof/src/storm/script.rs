//! What the processes of a storm commit: decided by the seed and the commit's number, so that the
//! state after n commits is known to whoever reads the file.

use std::collections::BTreeMap;

use bifolio::{Database, Result};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// The table that holds everything, and the key that counts.
pub const TABLE: &str = "t";
const NUMBER: &[u8] = b"number";

/// One change: a value, or `None` to remove the key.
pub type Change = (Vec<u8>, Option<Vec<u8>>);

/// The commits of one storm, by number, from 1.
#[derive(Clone, Copy, Debug)]
pub struct Script {
    seed: u64,
}

/// How a commit becomes durable, and what goes with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// `commit`.
    Sync,
    /// A ticket, waited for some commits later.
    Ticket,
    /// `Durability::Interval`.
    Interval,
    /// `Durability::Checkpoint`.
    Checkpoint,
    /// `commit`, and a checkpoint after it.
    ThenCheckpoint,
    /// A bulk load beside the changes.
    BulkLoad,
}

impl Script {
    /// The commits of a seed.
    pub fn new(seed: u64) -> Self {
        Script { seed }
    }

    fn random(self, number: u64) -> StdRng {
        StdRng::seed_from_u64(self.seed ^ number.wrapping_mul(0x9E37_79B9_7F4A_7C15))
    }

    /// How a commit is made.
    pub fn step(self, number: u64) -> Step {
        match self.random(!number).random_range(0..20) {
            0..=8 => Step::Sync,
            9..=12 => Step::Ticket,
            13..=15 => Step::Interval,
            16 | 17 => Step::Checkpoint,
            18 => Step::ThenCheckpoint,
            _ => Step::BulkLoad,
        }
    }

    /// What a commit changes, the key that counts included.
    pub fn changes(self, number: u64) -> Vec<Change> {
        let mut random = self.random(number);
        let mut changes: Vec<Change> = (0..random.random_range(1..30))
            .map(|_| {
                let key: u16 = random.random_range(0..600);
                let length = match random.random_range(0..30) {
                    0 => random.random_range(4000..20_000),
                    _ => random.random_range(0..300),
                };
                let value = random
                    .random_bool(0.75)
                    .then(|| vec![random.random(); length]);
                (key.to_be_bytes().to_vec(), value)
            })
            .collect();
        changes.push((NUMBER.to_vec(), Some(number.to_le_bytes().to_vec())));
        changes
    }
}

/// What the file holds after a number of commits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// How many commits.
    pub commits: u64,
    /// The table's entries.
    pub entries: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl State {
    /// Applies the commits up to `number`.
    pub fn advance(&mut self, script: &Script, number: u64) {
        while self.commits < number {
            self.commits += 1;
            for (key, value) in script.changes(self.commits) {
                match value {
                    Some(value) => self.entries.insert(key, value),
                    None => self.entries.remove(&key),
                };
            }
        }
    }

    /// What a database holds, read entry by entry.
    pub fn read(db: &Database) -> Result<Self> {
        let snapshot = db.read()?;
        let table = match snapshot.table(TABLE) {
            Ok(table) => table,
            Err(bifolio::Error::NoSuchTable { .. }) => return Ok(State::default()),
            Err(error) => return Err(error),
        };
        let entries: BTreeMap<_, _> = table.iter().collect::<Result<_>>()?;
        let number = entries
            .get(NUMBER)
            .and_then(|bytes| bytes[..].try_into().ok());
        let commits = number.map_or(0, u64::from_le_bytes);
        Ok(State { commits, entries })
    }
}
