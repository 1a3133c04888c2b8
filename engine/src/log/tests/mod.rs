//! Tests of the log as a whole: what the engine would do with it, on a simulated disk.

mod crash;
mod damage;
mod fault;
mod group;
#[cfg(shuttle)]
mod models;
mod real;
mod records;
mod stale;

use std::ffi::OsStr;
use std::ops::Bound;
use std::sync::Arc;

use bifolio_pager::Version;

use super::sim::{SimDisk, next_random};
use super::{
    Error, History, Log, LogMark, Options, Record, RecordReader, RecordWriter, Recovered, Replay,
    SyncMethod,
};

pub(super) const ID: [u8; 16] = *b"sixteen bytes id";

pub(super) fn prefix() -> &'static OsStr {
    OsStr::new("t.db")
}

pub(super) fn options(segment_bytes: u64) -> Options {
    Options {
        segment_bytes,
        spare_segments: 2,
        buffer_bytes: 128 << 10,
        sync: SyncMethod::Fdatasync,
    }
}

/// A record that owns its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Op {
    Put(String, Vec<u8>, Vec<u8>),
    Delete(String, Vec<u8>),
    DeleteRange(String, Bound<Vec<u8>>, Bound<Vec<u8>>),
    Clear(String),
    Create(String),
    Drop(String),
    Barrier(u64),
}

impl Op {
    pub fn write(&self, to: &mut RecordWriter) {
        let slice = |bound: &Bound<Vec<u8>>| bound.clone();
        match self {
            Op::Put(table, key, value) => to.put(table, key, value),
            Op::Delete(table, key) => to.delete(table, key),
            Op::DeleteRange(table, from, end) => {
                let (from, end) = (slice(from), slice(end));
                to.delete_range(
                    table,
                    from.as_ref().map(Vec::as_slice),
                    end.as_ref().map(Vec::as_slice),
                );
            }
            Op::Clear(table) => to.clear_table(table),
            Op::Create(table) => to.create_table(table),
            Op::Drop(table) => to.drop_table(table),
            Op::Barrier(generation) => to.barrier(*generation),
        }
    }

    pub fn of(record: Record<'_>) -> Op {
        match record {
            Record::Put { table, key, value } => Op::Put(table.into(), key.into(), value.into()),
            Record::Delete { table, key } => Op::Delete(table.into(), key.into()),
            Record::DeleteRange { table, from, to } => Op::DeleteRange(
                table.into(),
                from.map(<[u8]>::to_vec),
                to.map(<[u8]>::to_vec),
            ),
            Record::Clear { table } => Op::Clear(table.into()),
            Record::CreateTable { table } => Op::Create(table.into()),
            Record::DropTable { table } => Op::Drop(table.into()),
            Record::Barrier { generation } => Op::Barrier(generation),
        }
    }
}

pub(super) type Commit = (Version, Vec<Op>);

/// A source of random things.
#[derive(Clone)]
pub(super) struct Random(pub u64);

impl Random {
    pub fn below(&mut self, bound: u64) -> u64 {
        next_random(&mut self.0) % bound
    }

    pub fn bytes(&mut self, len: u64) -> Vec<u8> {
        (0..len).map(|_| self.below(256) as u8).collect()
    }

    fn bound(&mut self) -> Bound<Vec<u8>> {
        let len = self.below(6);
        match self.below(3) {
            0 => Bound::Unbounded,
            1 => Bound::Included(self.bytes(len)),
            _ => Bound::Excluded(self.bytes(len)),
        }
    }

    /// A record of any kind but a barrier, with a value of up to `longest` bytes.
    pub fn op(&mut self, longest: u64) -> Op {
        let table = ["accounts", "b", "a table with a longer name"][self.below(3) as usize].into();
        let (key_len, value_len) = (self.below(20), self.below(longest + 1));
        match self.below(10) {
            0 => Op::Delete(table, self.bytes(key_len)),
            1 => Op::DeleteRange(table, self.bound(), self.bound()),
            2 => match self.below(3) {
                0 => Op::Clear(table),
                1 => Op::Create(table),
                _ => Op::Drop(table),
            },
            _ => Op::Put(table, self.bytes(key_len), self.bytes(value_len)),
        }
    }

    /// A commit: mostly small, sometimes empty, sometimes larger than a segment.
    pub fn commit(&mut self, version: u64, segment_bytes: u64) -> Commit {
        let (count, longest) = match self.below(12) {
            0 => (0, 0),
            1 => (1, segment_bytes * 3),
            2 => (12, segment_bytes / 4),
            _ => (1 + self.below(3), 200),
        };
        (
            Version::new(version),
            (0..count).map(|_| self.op(longest)).collect(),
        )
    }
}

/// Reads a commit whole.
pub(super) fn collect(reader: &mut RecordReader<'_>) -> Result<Vec<Op>, Error> {
    let mut ops = Vec::new();
    while let Some(record) = reader.next()? {
        ops.push(Op::of(record));
    }
    Ok(ops)
}

/// Recovers, and returns what was replayed beside the log.
pub(super) fn recover(
    disk: &SimDisk,
    mark: &LogMark,
    options: Options,
) -> Result<(Log, Recovered, Vec<Commit>), Error> {
    let mut commits = Vec::new();
    let (log, recovered) = Log::recover(
        Arc::new(disk.clone()),
        prefix(),
        ID,
        mark,
        options,
        |version, reader| {
            commits.push((version, collect(reader)?));
            Ok::<_, Error>(Replay::Continue)
        },
    )?;
    assert_eq!(recovered.commits, commits.len() as u64);
    Ok((log, recovered, commits))
}

/// What a reader finds, who changes nothing.
pub(super) fn read(disk: &SimDisk, mark: &LogMark) -> Result<Vec<Commit>, Error> {
    let mut history = History::read(Arc::new(disk.clone()), prefix(), ID, mark)?;
    let mut commits = Vec::new();
    history.replay(|version, reader| {
        commits.push((version, collect(reader)?));
        Ok::<_, Error>(Replay::Continue)
    })?;
    Ok(commits)
}

pub(super) fn encode(ops: &[Op]) -> RecordWriter {
    let mut records = RecordWriter::new();
    ops.iter().for_each(|op| op.write(&mut records));
    records
}

/// A log on a new disk, and the mark at its beginning.
pub(super) fn create(seed: u64, options: Options) -> (SimDisk, Log, LogMark) {
    let disk = SimDisk::new(seed);
    let log = Log::create(Arc::new(disk.clone()), prefix(), ID, options).unwrap();
    let mark = log.mark(log.end());
    (disk, log, mark)
}

/// Appends a commit with one short record.
pub(super) fn append(log: &Log, version: u64) -> (Commit, super::Position) {
    let key = version.to_be_bytes().to_vec();
    let value = vec![version as u8; 100 + version as usize % 50];
    let ops = vec![Op::Put("t".into(), key, value)];
    let position = log
        .append(Version::new(version), &mut encode(&ops))
        .unwrap();
    ((Version::new(version), ops), position)
}
