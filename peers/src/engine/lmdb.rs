//! LMDB, through `heed`.
//!
//! `lmdb` is the default: a read-only map with the kernel's read-ahead, pages written by `pwrite`.
//! `lmdb-nra` has `MDB_NORDAHEAD`, which random reads of data larger than memory need;
//! `lmdb-writemap` writes through the map. Sorted loads use `MDB_APPEND`. Where nothing need be
//! durable it runs with `MDB_NOSYNC`.

use std::ops::Bound;
use std::path::Path;

use heed::types::Bytes;
use heed::{CommitOrAbort, Database, Env, EnvFlags, EnvOpenOptions, PutFlags, RoTxn, WithoutTls};

use super::{Engine, Key, Reader, Setup, Value, Variant};
use crate::Result;

/// An open environment.
pub struct Lmdb {
    env: Env<WithoutTls>,
    table: Database<'static, Bytes, Bytes>,
    variant: Variant,
}

/// A read transaction.
pub struct Snapshot<'r> {
    txn: RoTxn<'r, WithoutTls>,
    table: Database<'static, Bytes, Bytes>,
}

impl Engine for Lmdb {
    type Reader<'r> = Snapshot<'r>;

    fn open(dir: &Path, setup: &Setup) -> Result<Self> {
        let mut flags = EnvFlags::empty();
        match setup.variant {
            Variant::Plain => {}
            Variant::NoReadAhead => flags |= EnvFlags::NO_READ_AHEAD,
            Variant::Mmap => flags |= EnvFlags::WRITE_MAP,
        }
        if !setup.durable {
            flags |= EnvFlags::NO_SYNC;
        }
        let mut options = EnvOpenOptions::new().read_txn_without_tls();
        // Random insertion fills pages by two thirds.
        let map_size = (setup.data_bytes as usize * 4).next_multiple_of(1 << 20);
        options.map_size(map_size.max(64 << 20)).max_readers(64);
        // SAFETY: what the flags ask for is that nobody else writes the files and that a crash may
        // lose what was not synced; the directory is this program's own, and it expects that.
        unsafe { options.flags(flags) };
        // SAFETY: as above; and the environment is opened once in this process.
        let env = unsafe { options.open(dir) }?;
        let table = env
            .create_databases_and_commit(env.write_txn()?, |opener, txn| {
                let table = opener.create_database(txn, None)?;
                Ok::<_, heed::Error>(CommitOrAbort::<_, ()>::Commit(table))
            })?
            .commit()
            .ok_or("the table was not made")?;
        Ok(Lmdb {
            env,
            table,
            variant: setup.variant,
        })
    }

    fn describe(&self) -> String {
        format!("LMDB {:?}", self.variant)
    }

    fn read<T>(&self, work: impl for<'r> FnOnce(&mut Snapshot<'r>) -> Result<T>) -> Result<T> {
        work(&mut Snapshot {
            txn: self.env.read_txn()?,
            table: self.table,
        })
    }

    fn put(&self, records: &[(Key, Value)]) -> Result<()> {
        let mut txn = self.env.write_txn()?;
        for (key, value) in records {
            self.table.put(&mut txn, key, value)?;
        }
        Ok(txn.commit()?)
    }

    fn load_sorted(&self, records: &mut dyn Iterator<Item = (Key, Value)>) -> Result<()> {
        let mut txn = self.env.write_txn()?;
        for (key, value) in records {
            (self.table).put_with_flags(&mut txn, PutFlags::APPEND, &key, &value)?;
        }
        Ok(txn.commit()?)
    }

    fn sync(&self) -> Result<()> {
        Ok(self.env.force_sync()?)
    }

    fn close(self) -> Result<()> {
        self.env.prepare_for_closing().wait();
        Ok(())
    }
}

impl Reader for Snapshot<'_> {
    fn get(&mut self, key: &Key, look: impl FnOnce(&[u8])) -> Result<bool> {
        Ok(self.table.get(&self.txn, key)?.map(look).is_some())
    }

    fn scan(
        &mut self,
        from: &Key,
        expected: usize,
        mut visit: impl FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<()> {
        let bounds = (Bound::Included(&from[..]), Bound::Unbounded);
        for entry in self.table.range(&self.txn, &bounds)?.take(expected) {
            let (key, value) = entry?;
            if !visit(key, value) {
                break;
            }
        }
        Ok(())
    }
}
