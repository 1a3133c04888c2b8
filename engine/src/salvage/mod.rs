//! Reading out what is left of a damaged database.
//!
//! Three ways, the best that works:
//! 1. open it for reading, as ever, with its log replayed in memory;
//! 2. where the log cannot be replayed, or one meta is damaged: from the newest meta that can be read;
//! 3. where no meta can be read: look at every page of the file for the catalogue (`scan.rs`).
//!
//! From there the trees are walked, and what cannot be believed is reported and passed over. Nothing
//! that is handed out is wrong: every page has the checksum, the number and the stamp that what leads to
//! it expects. It may be old, in the second and third way, and the report says so. The file and its log
//! are opened for reading and never changed.

mod scan;

use std::fmt;
use std::ops::ControlFlow;
use std::path::Path;

use bifolio_btree::{Finding, KeyRange, Root, Salvaged};
use bifolio_pager::{PageId, Pager, Version};

use crate::catalogue;
use crate::check::CheckFinding;
use crate::core::{AnyPager, with_pager};
use crate::database;
use crate::error::{Error, Result};
use crate::file::{self, Access};
use crate::options::Options;

/// Where [`salvage`] found the state that it read out.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SalvagedFrom {
    /// The newest meta, and the log behind it if there is one: the newest state there is.
    Newest,
    /// The newest meta that can be read, without the log. Commits after it are missing.
    Meta {
        /// Why not more.
        why: String,
    },
    /// A catalogue that was found by looking at every page. Commits after it are missing.
    Scan {
        /// Why not more.
        why: String,
    },
}

/// What [`salvage`] read out, and what it could not.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SalvageReport {
    /// Where the state was found.
    pub from: SalvagedFrom,
    /// The commit that the state is of.
    pub version: Version,
    /// The tables that were found, in the order of their names; of some all entries may be lost.
    pub tables: Vec<String>,
    /// Entries that were read out.
    pub entries: u64,
    /// Everything that could not be read, each with the keys that are lost with it. Of the place
    /// `"catalogue"`, the keys are names of tables.
    pub lost: Vec<CheckFinding>,
}

impl SalvageReport {
    /// Whether this is all that was ever committed.
    pub fn is_complete(&self) -> bool {
        self.from == SalvagedFrom::Newest && self.lost.is_empty()
    }
}

impl fmt::Display for SalvageReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (tables, entries) = (self.tables.len(), self.entries);
        writeln!(
            f,
            "{entries} entries of {tables} tables, as of commit {}",
            self.version
        )?;
        match &self.from {
            SalvagedFrom::Newest => {}
            SalvagedFrom::Meta { why } | SalvagedFrom::Scan { why } => {
                writeln!(f, "later commits are missing: {why}")?;
            }
        }
        for CheckFinding { place, finding } in &self.lost {
            writeln!(f, "{place}: {finding}")?;
        }
        Ok(())
    }
}

/// Reads out of the database at `path` what can still be read, however damaged the file is: each table
/// in the order of their names, each entry in the order of the keys, to `take`. The file is not
/// changed. The options say which pager, how much memory, and what [`Options::read_only`] has to know.
///
/// ```no_run
/// use bifolio::{Options, salvage};
///
/// let report = salvage("damaged.bifolio", &Options::new(), |table, key, value| {
///     println!("{table}: {key:?} = {value:?}");
///     Ok(())
/// })?;
/// eprint!("{report}");
/// # Ok::<(), bifolio::Error>(())
/// ```
///
/// # Errors
/// Those of [`Options::open`] that are not about damage; [`Error::DamagedMeta`],
/// [`Error::NotADatabase`] and the like where nothing in the file can be believed; the first error
/// of `take`, at which it stops.
pub fn salvage(
    path: impl AsRef<Path>,
    options: &Options,
    mut take: impl FnMut(&str, &[u8], &[u8]) -> Result<()>,
) -> Result<SalvageReport> {
    let path = path.as_ref();
    let options = options.clone().read_only(true);
    let why = match options.open(path) {
        Ok(db) => {
            let at = db.open.current();
            let begin = Beginning {
                from: SalvagedFrom::Newest,
                version: at.version,
                catalogue: at.catalogue,
            };
            return begin.read_out(&db.open.pager, &mut take);
        }
        Err(error) if is_about_damage(&error) => error,
        Err(error) => return Err(error),
    };
    let access = Access {
        read_only: true,
        allow_network: options.allow_network,
    };
    let (file, lock) = file::open_locked(path, access)?;
    let mut metas: Vec<_> = file::read_slots(&file, path)?
        .into_iter()
        .filter_map(std::result::Result::ok)
        .collect();
    metas.sort_by_key(|meta| meta.sequence);
    let (geometry, known) = match metas.pop() {
        Some(meta) => (meta.geometry(), Some((meta.version, meta.catalogue))),
        None => (scan::geometry(&file, path)?.ok_or(why.clone())?, None),
    };
    let scanned = match known {
        Some(_) => Vec::new(),
        None => scan::tops(&file, path, geometry)?,
    };
    let len = file::inspect(&file, path)?.len();
    let pager = database::open_pager(file, geometry, len, &options)?;
    let why = why.to_string();
    let begin = match known {
        Some((version, catalogue)) => Beginning {
            from: SalvagedFrom::Meta { why },
            version,
            catalogue,
        },
        None => {
            let best = with_pager!(&pager, pager => scan::best_catalogue(pager, &scanned));
            let Some((version, catalogue)) = best else {
                return Err(Error::NotADatabase {
                    path: path.to_owned(),
                    why: format!("no catalogue was found in its pages, and {why}"),
                });
            };
            Beginning {
                from: SalvagedFrom::Scan { why },
                version,
                catalogue,
            }
        }
    };
    let report = begin.read_out(&pager, &mut take);
    drop((pager, lock));
    report
}

/// Whether another way may do where this error ended one.
fn is_about_damage(error: &Error) -> bool {
    use bifolio_pager::Error as Below;
    match error {
        Error::Truncated { .. }
        | Error::DamagedMeta { .. }
        | Error::NotADatabase { .. }
        | Error::NeedsRecovery { .. }
        | Error::CorruptRecord { .. }
        | Error::Poisoned { .. }
        | Error::Log(_)
        | Error::Tree(_) => true,
        Error::Pager(below) => matches!(below, Below::Corrupt { .. } | Below::Io { .. }),
        _ => false,
    }
}

/// Whoever is given table, key and value of what is read out.
type Taker<'t> = dyn FnMut(&str, &[u8], &[u8]) -> Result<()> + 't;

/// A state to read out.
struct Beginning {
    from: SalvagedFrom,
    version: Version,
    catalogue: Root,
}

impl Beginning {
    fn read_out(self, pager: &AnyPager, take: &mut Taker<'_>) -> Result<SalvageReport> {
        with_pager!(pager, pager => {
            let mut lost = Vec::new();
            let tables = tables(pager, self.catalogue, &mut |finding| {
                lost.push(CheckFinding { place: "catalogue".to_owned(), finding });
            });
            let mut entries = 0;
            for (name, root) in &tables {
                let mut failure = None;
                let flow = bifolio_btree::salvage(pager, *root, &mut |salvaged| match salvaged {
                    Salvaged::Entry { key, value } => match take(name, key, value) {
                        Ok(()) => {
                            entries += 1;
                            ControlFlow::Continue(())
                        }
                        Err(error) => {
                            failure = Some(error);
                            ControlFlow::Break(())
                        }
                    },
                    Salvaged::Lost(finding) => {
                        lost.push(CheckFinding { place: format!("{name:?}"), finding });
                        ControlFlow::Continue(())
                    }
                });
                if let (ControlFlow::Break(()), Some(error)) = (flow, failure) {
                    return Err(error);
                }
            }
            Ok(SalvageReport {
                from: self.from,
                version: self.version,
                tables: tables.into_iter().map(|(name, _)| name).collect(),
                entries,
                lost,
            })
        })
    }
}

/// The tables of a catalogue that can be found, with what cannot told to `lose`.
pub(crate) fn tables<P: Pager>(
    pager: &P,
    catalogue: Root,
    lose: &mut dyn FnMut(Finding),
) -> Vec<(String, Root)> {
    let mut tables = Vec::new();
    let _ = bifolio_btree::salvage(pager, catalogue, &mut |salvaged| {
        match salvaged {
            Salvaged::Entry { key, value } => match catalogue::decode(key, value) {
                Ok(table) => tables.push(table),
                Err(error) => lose(Finding {
                    path: Vec::new(),
                    page: catalogue.page.map_or(PageId::new(0), |page| page.id),
                    what: error.to_string(),
                    lost: Some(KeyRange {
                        from: Some(key.to_vec()),
                        to: Some([key, &[0]].concat()),
                    }),
                }),
            },
            Salvaged::Lost(finding) => lose(finding),
        }
        ControlFlow::Continue(())
    });
    tables
}
