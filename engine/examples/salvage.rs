//! Copies what can be read of a damaged database into a new one:
//! `cargo run --release --example salvage damaged.bifolio new.bifolio`

use std::error::Error;

use bifolio::{Database, Options, salvage};

/// Entries in a transaction: as many as are worth a sync.
const BATCH: u64 = 10_000;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let [damaged, new] = &arguments[..] else {
        return Err("usage: salvage DAMAGED NEW".into());
    };
    if std::path::Path::new(new).exists() {
        return Err("the new database exists already".into());
    }
    let db = Database::create(new)?;
    let mut txn = Some(db.write()?);
    let mut copied = 0;
    let report = salvage(damaged, &Options::new(), |table, key, value| {
        let open = match &mut txn {
            Some(open) => open,
            none => none.insert(db.write()?),
        };
        open.table(table)?.insert(key, value)?;
        copied += 1;
        if copied % BATCH == 0
            && let Some(full) = txn.take()
        {
            full.commit()?;
        }
        Ok(())
    })?;
    if let Some(last) = txn {
        last.commit()?;
    }
    db.close()?;
    print!("{report}");
    Ok(())
}
