//! What is done: the workloads and the engines by name.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::engine::Variant;

/// Records in a durable transaction of overwrites.
pub const OVERWRITES: usize = 1000;
/// Records in a transaction of the load in random order.
pub const LOAD_BATCH: usize = 10_000;
/// Keys looked up at once.
pub const MANY: usize = 64;
/// Records of a short scan.
pub const SHORT_SCAN: usize = 100;

/// An order in which a database was filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// In the order of the keys, with the engine's own way to do that.
    Sorted,
    /// In random order, in transactions of [`LOAD_BATCH`].
    Random,
}

impl Order {
    /// As it stands in the name of a directory.
    pub fn name(self) -> &'static str {
        match self {
            Order::Sorted => "sorted",
            Order::Random => "random",
        }
    }
}

/// A workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Workload {
    /// Fill a database in the order of the keys.
    LoadSorted,
    /// Fill a database in random order, nothing synced before the end.
    LoadRandom,
    /// Look up random keys, data in memory, one thread.
    Get1,
    /// The same with two threads.
    Get2,
    /// Scan 100 records from a random key on, data in memory.
    Scan100,
    /// Scan everything, data in memory.
    ScanFull,
    /// Durable transactions of 1,000 random overwrites, data in memory.
    Overwrite,
    /// Half look-ups, half overwrites, one to a transaction, nothing synced, Zipf-distributed.
    YcsbA,
    /// Look up 64 random keys at once, data larger than memory.
    ColdGetMany,
    /// Look up random keys one by one, data larger than memory, one thread.
    ColdGet1,
    /// The same with eight threads.
    ColdGet8,
    /// Scan 100 records from a random key on, after a random load, data larger than memory.
    ColdScan100,
    /// Scan everything after a random load, data larger than memory.
    ColdScanRandom,
    /// Scan everything after a sorted load, data larger than memory.
    ColdScanSorted,
    /// Durable transactions of 1,000 random overwrites, data larger than memory.
    ColdOverwrite,
    /// Look up a hot set that fits into memory, scan everything, and look it up again.
    ColdHot,
    /// Random reads of 4 KiB from the device, one in flight.
    Device1,
    /// The same, eight in flight.
    Device8,
    /// The same, 64 in flight.
    Device64,
    /// Reads of 1 MiB one after the other, four in flight.
    DeviceSequential,
}

use Workload::*;

/// Whether memory is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    /// Everything fits, and is warm.
    InMemory,
    /// A control group allows a fraction of the data.
    LargerThanMemory,
}

impl Workload {
    /// All, in the order in which they are run and shown.
    pub const ALL: [Workload; 20] = [
        LoadSorted,
        LoadRandom,
        Get1,
        Get2,
        Scan100,
        ScanFull,
        Overwrite,
        YcsbA,
        ColdGetMany,
        ColdGet1,
        ColdGet8,
        ColdScan100,
        ColdScanRandom,
        ColdScanSorted,
        ColdOverwrite,
        ColdHot,
        Device1,
        Device8,
        Device64,
        DeviceSequential,
    ];

    /// Its name, as the command line and the rows have it.
    pub fn name(self) -> &'static str {
        match self {
            LoadSorted => "load-sorted",
            LoadRandom => "load-random",
            Get1 => "get-1",
            Get2 => "get-2",
            Scan100 => "scan-100",
            ScanFull => "scan-full",
            Overwrite => "overwrite",
            YcsbA => "ycsb-a",
            ColdGetMany => "cold-get-many",
            ColdGet1 => "cold-get-1",
            ColdGet8 => "cold-get-8",
            ColdScan100 => "cold-scan-100",
            ColdScanRandom => "cold-scan-random",
            ColdScanSorted => "cold-scan-sorted",
            ColdOverwrite => "cold-overwrite",
            ColdHot => "cold-hot",
            Device1 => "device-1",
            Device8 => "device-8",
            Device64 => "device-64",
            DeviceSequential => "device-sequential",
        }
    }

    /// The workload of this name.
    pub fn named(name: &str) -> Option<Workload> {
        Workload::ALL
            .into_iter()
            .find(|workload| workload.name() == name)
    }

    /// What one unit of its rate is.
    pub fn unit(self) -> &'static str {
        match self {
            Get1 | Get2 | ColdGet1 | ColdGet8 => "look-ups",
            ColdGetMany => "keys",
            Scan100 | ColdScan100 => "scans",
            YcsbA => "operations",
            ColdHot => "look-ups after the scan",
            Device1 | Device8 | Device64 => "reads of 4 KiB",
            DeviceSequential => "reads of 1 MiB",
            _ => "records",
        }
    }

    /// Whether memory is limited.
    pub fn section(self) -> Section {
        match self {
            LoadSorted | LoadRandom | Get1 | Get2 | Scan100 | ScanFull | Overwrite | YcsbA => {
                Section::InMemory
            }
            _ => Section::LargerThanMemory,
        }
    }

    /// How its database was filled; of a load, how it fills it.
    pub fn order(self) -> Order {
        match self {
            LoadRandom | ColdScan100 | ColdScanRandom | ColdOverwrite => Order::Random,
            _ => Order::Sorted,
        }
    }

    /// Threads that do it.
    pub fn threads(self) -> u64 {
        match self {
            Get2 => 2,
            ColdGet8 => 8,
            _ => 1,
        }
    }

    /// Whether it fills an empty database.
    pub fn loads(self) -> bool {
        matches!(self, LoadSorted | LoadRandom)
    }

    /// Whether it changes the database it is given.
    pub fn changes(self) -> bool {
        matches!(self, Overwrite | YcsbA | ColdOverwrite)
    }

    /// Whether its commits are durable when they return.
    pub fn is_durable(self) -> bool {
        matches!(self, Overwrite | ColdOverwrite)
    }

    /// Reads in flight, and bytes of each, if it is the device that is measured.
    pub fn device(self) -> Option<(u32, usize)> {
        match self {
            Device1 => Some((1, 4096)),
            Device8 => Some((8, 4096)),
            Device64 => Some((64, 4096)),
            DeviceSequential => Some((4, 1 << 20)),
            _ => None,
        }
    }
}

impl TryFrom<String> for Workload {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        Workload::named(&name).ok_or_else(|| format!("there is no workload {name:?}"))
    }
}

impl From<Workload> for String {
    fn from(workload: Workload) -> String {
        workload.name().to_owned()
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Which engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// The device itself, under no engine.
    Device,
    /// Bifolio.
    Bifolio,
    /// LMDB.
    Lmdb,
    /// redb.
    Redb,
    /// SQLite.
    Sqlite,
    /// fjall.
    Fjall,
    /// RocksDB.
    #[cfg(feature = "rocksdb")]
    RocksDb,
}

impl Family {
    /// The part of a directory's name; engines of one family share their databases.
    pub fn name(self) -> &'static str {
        match self {
            Family::Device | Family::Bifolio => "bifolio",
            Family::Lmdb => "lmdb",
            Family::Redb => "redb",
            Family::Sqlite => "sqlite",
            Family::Fjall => "fjall",
            #[cfg(feature = "rocksdb")]
            Family::RocksDb => "rocksdb",
        }
    }
}

/// An engine with the way it is run.
#[derive(Clone, Copy, Debug)]
pub struct EngineChoice {
    /// Its name, as the command line and the rows have it.
    pub name: &'static str,
    /// Which engine it is.
    pub family: Family,
    /// How it is run.
    pub variant: Variant,
}

const fn engine(name: &'static str, family: Family, variant: Variant) -> EngineChoice {
    EngineChoice {
        name,
        family,
        variant,
    }
}

/// All engines. The device comes first, so that its rate is measured beside every engine's.
pub const ENGINES: &[EngineChoice] = &[
    engine("device", Family::Device, Variant::Plain),
    engine("bifolio-mmap", Family::Bifolio, Variant::Mmap),
    engine("bifolio-pool", Family::Bifolio, Variant::Plain),
    engine("lmdb", Family::Lmdb, Variant::Plain),
    engine("lmdb-nra", Family::Lmdb, Variant::NoReadAhead),
    engine("lmdb-writemap", Family::Lmdb, Variant::Mmap),
    engine("redb", Family::Redb, Variant::Plain),
    engine("sqlite", Family::Sqlite, Variant::Plain),
    engine("sqlite-mmap", Family::Sqlite, Variant::Mmap),
    engine("fjall", Family::Fjall, Variant::Plain),
    #[cfg(feature = "rocksdb")]
    engine("rocksdb", Family::RocksDb, Variant::Plain),
];

impl EngineChoice {
    /// The engine of this name.
    pub fn named(name: &str) -> Option<EngineChoice> {
        ENGINES.iter().copied().find(|engine| engine.name == name)
    }

    /// Whether this engine, run this way, is worth measuring there: `lmdb-nra` differs from `lmdb`
    /// only where data is larger than memory, `lmdb-writemap` is of interest only where it writes.
    pub fn takes_part(&self, workload: Workload) -> bool {
        if (self.family == Family::Device) != workload.device().is_some() {
            return false;
        }
        let writes = workload.loads() || workload.changes();
        match (self.family, self.variant) {
            (Family::Lmdb, Variant::NoReadAhead) => workload.section() == Section::LargerThanMemory,
            (Family::Lmdb, Variant::Mmap) => writes,
            (Family::Sqlite, Variant::Mmap) => !writes,
            _ => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_workload_is_found_by_its_name_and_is_encoded_as_such() {
        for workload in Workload::ALL {
            assert_eq!(Workload::named(workload.name()), Some(workload));
            let encoded = serde_json::to_string(&workload).unwrap();
            assert_eq!(encoded, format!("\"{workload}\""));
        }
    }

    #[test]
    fn every_workload_has_somebody_who_does_it() {
        for workload in Workload::ALL {
            assert!(
                ENGINES.iter().any(|engine| engine.takes_part(workload)),
                "{workload}"
            );
        }
    }
}
