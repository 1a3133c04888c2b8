//! Encoding a commit's records while its transaction runs.

use std::collections::HashMap;
use std::ops::Bound;

use super::record::{
    BARRIER, CLEAR, CREATE, DELETE, DELETE_RANGE, DROP, EXCLUDED, INCLUDED, NAME_TABLE, PUT,
    SELECT_TABLE, UNBOUNDED,
};

/// The records of one commit, encoded into a buffer that is used again for the next.
///
/// [`Log::append`](super::Log::append) takes them and leaves the writer empty. A transaction too
/// large for memory hands over what there is from time to time, by
/// [`Log::append_piece`](super::Log::append_piece).
#[derive(Debug, Default)]
pub struct RecordWriter {
    bytes: Vec<u8>,
    /// The name of the selected table, and the number of every name.
    selected: Option<Box<str>>,
    numbers: HashMap<Box<str>, u64>,
}

impl RecordWriter {
    /// A writer with nothing in it.
    pub fn new() -> Self {
        Self::default()
    }

    /// Any bytes, as if they were records.
    #[cfg(fuzzing)]
    pub(crate) fn from_bytes(bytes: Vec<u8>) -> Self {
        RecordWriter {
            bytes,
            ..Self::default()
        }
    }

    /// Bytes encoded and not yet handed to the log.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether nothing is waiting to be handed to the log.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Forgets everything, as when a transaction is rolled back. Keeps the buffer's memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.selected = None;
        self.numbers.clear();
    }

    /// The key has this value from now on.
    pub fn put(&mut self, table: &str, key: &[u8], value: &[u8]) {
        self.begin(table, PUT);
        self.put_bytes(key);
        self.put_bytes(value);
    }

    /// The key has no value any more.
    pub fn delete(&mut self, table: &str, key: &[u8]) {
        self.begin(table, DELETE);
        self.put_bytes(key);
    }

    /// No key between these bounds has a value any more.
    pub fn delete_range(&mut self, table: &str, from: Bound<&[u8]>, to: Bound<&[u8]>) {
        self.begin(table, DELETE_RANGE);
        self.put_bound(from);
        self.put_bound(to);
    }

    /// The table is empty now.
    pub fn clear_table(&mut self, table: &str) {
        self.begin(table, CLEAR);
    }

    /// The table exists now, and is empty.
    pub fn create_table(&mut self, table: &str) {
        self.begin(table, CREATE);
    }

    /// The table, and all that was in it, is gone.
    pub fn drop_table(&mut self, table: &str) {
        self.begin(table, DROP);
    }

    /// The rest of this commit is in the meta of this generation and not in the log. A commit
    /// with a barrier has no other record.
    pub fn barrier(&mut self, generation: u64) {
        self.bytes.push(BARRIER);
        self.put_number(generation);
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Forgets what the log has taken; the names of tables stay known to the rest of the commit.
    pub(super) fn forget_bytes(&mut self) {
        self.bytes.clear();
    }

    fn begin(&mut self, table: &str, tag: u8) {
        if self.selected.as_deref() != Some(table) {
            self.select(table);
        }
        self.bytes.push(tag);
    }

    fn select(&mut self, table: &str) {
        if let Some(&number) = self.numbers.get(table) {
            self.bytes.push(SELECT_TABLE);
            self.put_number(number);
        } else {
            self.numbers.insert(table.into(), self.numbers.len() as u64);
            self.bytes.push(NAME_TABLE);
            self.put_bytes(table.as_bytes());
        }
        self.selected = Some(table.into());
    }

    fn put_number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.bytes.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.bytes.push(number as u8);
    }

    /// # Panics
    /// At 4 GiB: the limits on keys, values and names lie far below, and are checked before.
    fn put_bytes(&mut self, bytes: &[u8]) {
        assert!(
            bytes.len() <= u32::MAX as usize,
            "{} bytes in one record",
            bytes.len()
        );
        self.put_number(bytes.len() as u64);
        self.bytes.extend_from_slice(bytes);
    }

    fn put_bound(&mut self, bound: Bound<&[u8]>) {
        let (tag, bytes) = match bound {
            Bound::Unbounded => (UNBOUNDED, None),
            Bound::Included(bytes) => (INCLUDED, Some(bytes)),
            Bound::Excluded(bytes) => (EXCLUDED, Some(bytes)),
        };
        self.bytes.push(tag);
        if let Some(bytes) = bytes {
            self.put_bytes(bytes);
        }
    }
}
