//! What a workload does, step by step, and what a database holds after each of its commits.

use std::collections::BTreeMap;

use bifolio::{Database, Result, WriteTxn};
use rand::RngExt;
use rand::rngs::StdRng;

/// The tables and what they hold: what every image is compared with.
pub type State = BTreeMap<String, BTreeMap<Vec<u8>, Vec<u8>>>;

/// One change in a transaction.
#[derive(Clone, Debug)]
pub enum Change {
    /// A key gets a value.
    Put(&'static str, Vec<u8>, Vec<u8>),
    /// A key is removed, if it is there.
    Delete(&'static str, Vec<u8>),
    /// The keys from the first up to the second are removed.
    DeleteRange(&'static str, Vec<u8>, Vec<u8>),
    /// Every entry is removed.
    Clear(&'static str),
    /// The table is there.
    CreateTable(&'static str),
    /// The table is gone.
    DropTable(&'static str),
    /// The table is emptied and loaded with so many entries, values of so many bytes.
    BulkLoad(&'static str, u32, usize),
}

/// How a commit becomes durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// Before `commit` returns.
    Sync,
    /// Within the interval: here by whatever syncs next.
    Interval,
    /// By the next checkpoint.
    Checkpoint,
    /// When its ticket is waited for.
    Ticket,
}

/// One step of a workload.
#[derive(Clone, Debug)]
pub enum Step {
    /// A transaction.
    Commit(Vec<Change>, How),
    /// A transaction that is rolled back.
    Abort(Vec<Change>),
    /// All tickets are waited for, the newest first.
    WaitForTickets,
    /// A checkpoint.
    Checkpoint,
    /// A checkpoint, and while it writes pages, this transaction.
    CheckpointBeside(Vec<Change>),
    /// A snapshot is taken, and compared with what it was when it is let go.
    HoldReader,
    /// The snapshots are let go.
    LetReadersGo,
    /// The database is closed and opened.
    Reopen,
    /// The power is cut and the database opened.
    PowerCut,
}

/// A workload being written: random where the seed decides.
pub struct Script<'r> {
    /// Decides what is not said.
    pub random: &'r mut StdRng,
    /// What there is so far.
    pub steps: Vec<Step>,
}

impl Script<'_> {
    /// Appends a step.
    pub fn step(&mut self, step: Step) {
        self.steps.push(step);
    }

    /// Appends a transaction, synced.
    pub fn commit(&mut self, changes: Vec<Change>) {
        self.step(Step::Commit(changes, How::Sync));
    }

    /// A value of this length.
    pub fn value(&mut self, len: usize) -> Vec<u8> {
        let byte: u8 = self.random.random();
        (0..len).map(|at| byte.wrapping_add(at as u8)).collect()
    }

    /// `key = value` in table `t`, the value of this length.
    pub fn put(&mut self, key: u32, len: usize) -> Change {
        let value = self.value(len);
        Change::Put("t", key_of(key), value)
    }

    /// Puts of so many random keys below `universe`, values shorter than `longest`.
    pub fn puts(&mut self, count: u32, universe: u32, longest: usize) -> Vec<Change> {
        (0..count)
            .map(|_| {
                let key = self.random.random_range(0..universe);
                let len = self.random.random_range(0..longest);
                self.put(key, len)
            })
            .collect()
    }
}

/// The key of a number: of any length up to 96, in the order of the numbers.
pub fn key_of(number: u32) -> Vec<u8> {
    let mut key = number.to_be_bytes().to_vec();
    key.resize(4 + (number as usize * 37) % 93, b'k');
    key
}

fn bulk(count: u32, len: usize) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> {
    (0..count).map(move |number| (key_of(number), vec![number as u8; len]))
}

/// Does to the model what [`apply`] does to a database.
pub fn advance(state: &mut State, changes: &[Change]) {
    for change in changes {
        match change {
            Change::Put(name, key, value) => {
                _ = state
                    .entry((*name).to_owned())
                    .or_default()
                    .insert(key.clone(), value.clone());
            }
            Change::Delete(name, key) => {
                _ = state.entry((*name).to_owned()).or_default().remove(key);
            }
            Change::DeleteRange(name, from, to) => state
                .entry((*name).to_owned())
                .or_default()
                .retain(|key, _| !(from <= key && key < to)),
            Change::Clear(name) => state.entry((*name).to_owned()).or_default().clear(),
            Change::CreateTable(name) => _ = state.entry((*name).to_owned()).or_default(),
            Change::DropTable(name) => _ = state.remove(*name),
            Change::BulkLoad(name, count, len) => {
                *state.entry((*name).to_owned()).or_default() = bulk(*count, *len).collect();
            }
        }
    }
}

/// Makes the changes in a transaction.
///
/// # Errors
/// What the engine says.
pub fn apply(txn: &mut WriteTxn, changes: &[Change]) -> Result<()> {
    for change in changes {
        match change {
            Change::Put(name, key, value) => _ = txn.table(name)?.insert(key, value)?,
            Change::Delete(name, key) => _ = txn.table(name)?.remove(key)?,
            Change::DeleteRange(name, from, to) => {
                txn.table(name)?.remove_range(from.clone()..to.clone())?;
            }
            Change::Clear(name) => txn.table(name)?.clear()?,
            Change::CreateTable(name) => _ = txn.table(name)?,
            Change::DropTable(name) => _ = txn.delete_table(name)?,
            Change::BulkLoad(name, count, len) => {
                let mut table = txn.table(name)?;
                table.clear()?;
                table.bulk_load(bulk(*count, *len))?;
            }
        }
    }
    Ok(())
}

/// Everything a snapshot of the database holds.
///
/// # Errors
/// What the engine says.
pub fn content(db: &Database) -> Result<State> {
    let snapshot = db.read()?;
    let mut state = State::new();
    for name in snapshot.table_names()? {
        let entries = snapshot.table(&name)?.iter().collect::<Result<_>>()?;
        state.insert(name, entries);
    }
    Ok(state)
}

/// The states before the first transaction and after each.
pub fn states(steps: &[Step]) -> Vec<State> {
    let mut states = vec![State::new()];
    for step in steps {
        if let Step::Commit(changes, _) | Step::CheckpointBeside(changes) = step {
            let mut next = states.last().expect("there is a first").clone();
            advance(&mut next, changes);
            states.push(next);
        }
    }
    states
}
