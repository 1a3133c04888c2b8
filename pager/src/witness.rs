//! Who watches a real pager's system calls, and can make them fail: for tests of the pagers as they
//! are, with power cuts and failing devices that no test can arrange otherwise.
//!
//! Every call that changes the file or makes it durable goes through [`witnessed`]. Without the
//! feature `testkit` that is the call itself and nothing else. With it, a test can put a [`Witness`]
//! to one open file ([`watch`]), found by its inode: it is asked before the call and told after it.

use std::fs::File;
use std::io;
use std::ops::Range;

/// What is about to be done to a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// It gets this length, with space for all of it.
    Allocate {
        /// Bytes it will have.
        len: u64,
    },
    /// Something is written to it by a call, not through a mapping.
    Write,
    /// Its bytes in `range` become durable.
    SyncData {
        /// Bytes of the file.
        range: Range<u64>,
    },
    /// Everything written to it becomes durable, and its length.
    SyncAll,
}

/// What a witness wants done about an operation.
#[derive(Debug)]
pub enum Verdict {
    /// It is done.
    Do,
    /// It is not done, and fails.
    Fail(io::Error),
    /// It is done, and reported as failed all the same.
    DoAndFail(io::Error),
}

/// One who watches a file.
pub trait Witness: Send + Sync {
    /// Called before each operation.
    fn before(&self, file: &File, operation: &Operation) -> Verdict;

    /// Called after an operation that was done and succeeded, before the pager knows.
    fn done(&self, file: &File, operation: &Operation);
}

/// Does `call`, which is `operation` on `file`, as its witness decides, if there is one.
#[cfg(not(feature = "testkit"))]
#[inline(always)]
pub fn witnessed<T>(
    _: &File,
    _: impl FnOnce() -> Operation,
    call: impl FnOnce() -> io::Result<T>,
) -> io::Result<T> {
    call()
}

#[cfg(feature = "testkit")]
pub use watching::{Watching, watch, witnessed};

#[cfg(feature = "testkit")]
mod watching {
    use std::collections::HashMap;
    use std::fs::File;
    use std::io;
    use std::os::unix::fs::MetadataExt;
    use std::sync::{Arc, LazyLock};

    use parking_lot::RwLock;

    use super::{Operation, Verdict, Witness};

    type Key = (u64, u64);
    type Witnesses = HashMap<Key, Arc<dyn Witness>>;

    static WITNESSES: LazyLock<RwLock<Witnesses>> = LazyLock::new(RwLock::default);

    /// The witness watches until this is dropped.
    pub struct Watching(Key);

    impl Drop for Watching {
        fn drop(&mut self) {
            WITNESSES.write().remove(&self.0);
        }
    }

    /// Has `witness` watch a file from now on, whoever opens it in this process.
    ///
    /// # Errors
    /// If the file cannot be inspected.
    pub fn watch(file: &File, witness: Arc<dyn Witness>) -> io::Result<Watching> {
        let key = key(file)?;
        WITNESSES.write().insert(key, witness);
        Ok(Watching(key))
    }

    fn key(file: &File) -> io::Result<Key> {
        let metadata = file.metadata()?;
        Ok((metadata.dev(), metadata.ino()))
    }

    /// Does `call`, which is `operation` on `file`, as its witness decides, if there is one.
    pub fn witnessed<T>(
        file: &File,
        operation: impl FnOnce() -> Operation,
        call: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        // Looked up, and let go, before the witness is asked: it may open files itself.
        let found = if WITNESSES.read().is_empty() {
            None
        } else {
            let key = key(file)?;
            WITNESSES.read().get(&key).cloned()
        };
        let Some(witness) = found else { return call() };
        let operation = operation();
        match witness.before(file, &operation) {
            Verdict::Fail(error) => Err(error),
            Verdict::Do => {
                let done = call()?;
                witness.done(file, &operation);
                Ok(done)
            }
            Verdict::DoAndFail(error) => {
                call()?;
                witness.done(file, &operation);
                Err(error)
            }
        }
    }
}
