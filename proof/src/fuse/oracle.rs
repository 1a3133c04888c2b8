//! What a database must hold after a cut, whatever was cut.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use rand::RngExt;
use rand::rngs::StdRng;

use super::disk::Disk;
use super::plan::{self, Model, Plan};
use crate::machine::scratch;
use crate::pagers::Pager;
use crate::tally::Tally;

/// The database's name in its file system.
pub const NAME: &str = "cut.bifolio";

/// Knows how many commits a database has for certain, and what they made.
pub struct Oracle {
    plan: Plan,
    model: Model,
    /// Whether an image that breaks the claim is kept for a person to look at.
    keeps: bool,
}

impl Oracle {
    /// For a database that does not exist yet and follows this plan.
    pub fn new(plan: Plan, keeps: bool) -> Self {
        let model = Model::new();
        Oracle { plan, model, keeps }
    }

    /// How many commits it has for certain.
    pub fn commits(&self) -> u64 {
        plan::commits_in(&self.model)
    }

    /// What a cut left must hold the state after n commits, for an n from `least` on: under a pager
    /// of each kind, and once more after a clean close.
    ///
    /// # Errors
    /// How it breaks the claim.
    pub fn look(
        &mut self,
        left: &Disk,
        least: u64,
        random: &mut StdRng,
        tally: &mut Tally,
    ) -> Result<(), String> {
        let pool = [Pager::Pread, Pager::Uring][random.random_range(0..2)];
        let mut pagers = [Pager::Mmap, pool];
        if random.random() {
            pagers.reverse();
        }
        let least = least.max(self.commits());
        if left.find(OsStr::new(NAME)).is_none() {
            tally.add("cuts before there was a file", 1);
            return match least {
                0 => Ok(()),
                _ => Err(format!(
                    "there is no file; {least} commits were acknowledged"
                )),
            };
        }
        let outcome = self.recover(left, pagers, least, tally);
        outcome.map_err(|what| match self.keeps.then(|| keep(left)) {
            None => what,
            Some(Ok(kept)) => format!("{what} (kept in {})", kept.display()),
            Some(Err(error)) => format!("{what} (not kept: {error})"),
        })
    }

    fn recover(
        &mut self,
        left: &Disk,
        [first, second]: [Pager; 2],
        least: u64,
        tally: &mut Tally,
    ) -> Result<(), String> {
        let (one, other) = (scratch()?, scratch()?);
        for directory in [&one, &other] {
            left.save(directory.path()).map_err(|e| e.to_string())?;
        }
        let before = self.commits();
        let after = self.expect_a_prefix(one.path(), first, least, tally)?;
        tally.add("surviving commits", after - before);
        // Recovery is decided by the image, and is done once and for all.
        for (directory, pager) in [(&other, second), (&one, second)] {
            let again = self.expect_a_prefix(directory.path(), pager, after, tally)?;
            if again != after {
                return Err(format!(
                    "{after} commits under {first:?}, {again} under {second:?}"
                ));
            }
        }
        Ok(())
    }

    /// Opens the database in `directory`, checks it, brings the model to what it holds, and closes
    /// it. Returns how many commits it has.
    ///
    /// # Errors
    /// How it breaks the claim.
    pub fn expect_a_prefix(
        &mut self,
        directory: &Path,
        pager: Pager,
        least: u64,
        tally: &mut Tally,
    ) -> Result<u64, String> {
        let opened = pager.options().open(directory.join(NAME));
        let db = opened.map_err(|error| format!("{pager:?} cannot open it: {error}"))?;
        if db.recovery_report().is_some() {
            tally.add("recoveries", 1);
        }
        let report = db.check().map_err(|error| error.to_string())?;
        if !report.is_clean() {
            return Err(format!("the check under {pager:?} found: {report}"));
        }
        let found = plan::content(&db).map_err(|error| error.to_string())?;
        let commits = plan::commits_in(&found);
        if commits < least {
            return Err(format!(
                "{commits} commits are there; {least} were acknowledged"
            ));
        }
        for number in self.commits()..commits {
            self.plan.apply_to_model(number, &mut self.model);
        }
        if found != self.model {
            return Err(format!(
                "it does not hold what {commits} commits made: {}",
                differences(&found, &self.model)
            ));
        }
        db.close()
            .map_err(|error| format!("it cannot be closed: {error}"))?;
        Ok(commits)
    }
}

/// Keeps what broke the claim, where a person can look at it.
fn keep(disk: &Disk) -> io::Result<PathBuf> {
    let kept = tempfile::Builder::new()
        .prefix("bifolio-finding-")
        .tempdir()?
        .keep();
    disk.save(&kept)?;
    File::open(&kept)?.sync_all()?;
    Ok(kept)
}

/// In which tables two contents differ, in words.
fn differences(found: &Model, expected: &Model) -> String {
    let names = found.keys().chain(expected.keys());
    let mut words: Vec<_> = names
        .filter(|name| found.get(*name) != expected.get(*name))
        .map(|name| {
            let len = |model: &Model| model.get(name).map(|table| table.len());
            format!(
                "{name:?}: {:?} entries and not {:?}",
                len(found),
                len(expected)
            )
        })
        .collect();
    words.dedup();
    words.join("; ")
}
