//! The results file of a campaign: what was run, where, and what was counted.
//!
//! A long campaign is run in slices. Each run with the same file appends one, and begins with the
//! seed after the last one of the file, so the same command again is the next slice.

use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::machine::Machine;
use crate::tally::Tally;

/// All slices of one campaign.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The layer's name, as its subcommand.
    pub layer: String,
    /// What the layer was told besides seeds and counts.
    pub arguments: Vec<String>,
    /// The sums of all slices.
    pub counts: Tally,
    /// Cases that broke the claim, in words.
    pub findings: Vec<String>,
    /// What was run, in order.
    pub slices: Vec<Slice>,
}

/// One run of the program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slice {
    /// The first seed.
    pub first_seed: u64,
    /// The seed after the last one.
    pub next_seed: u64,
    /// What was counted.
    pub counts: Tally,
    /// The commit of the program; `+` means that files differed.
    pub commit: String,
    /// Where it ran.
    pub machine: Machine,
    /// When it began, in seconds since 1970.
    pub started: u64,
    /// How long it took.
    pub seconds: u64,
}

impl Record {
    /// What the file holds; an empty record if there is none.
    ///
    /// # Errors
    /// If it cannot be read, is not a record, or is one of something else.
    pub fn load(path: &Path, layer: &str, arguments: &[String]) -> io::Result<Self> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Record {
                    layer: layer.to_owned(),
                    arguments: arguments.to_vec(),
                    ..Record::default()
                });
            }
            Err(error) => return Err(error),
        };
        let record: Record = serde_json::from_str(&text)?;
        if record.layer != layer || record.arguments != arguments {
            let of = format!("{} {}", record.layer, record.arguments.join(" "));
            return Err(io::Error::other(format!(
                "{} is a record of {of:?}",
                path.display()
            )));
        }
        Ok(record)
    }

    /// The seed that the next slice begins with; `None` if there was no slice yet.
    pub fn next_seed(&self) -> Option<u64> {
        self.slices.last().map(|slice| slice.next_seed)
    }

    /// Appends a slice and what it found.
    pub fn push(&mut self, slice: Slice, findings: impl IntoIterator<Item = String>) {
        self.counts.merge(&slice.counts);
        self.findings.extend(findings);
        self.slices.push(slice);
    }

    /// Writes the file.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        fs::write(path, serde_json::to_string_pretty(self)? + "\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_slice_begins_where_the_last_one_ended() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("storm.json");
        let arguments = ["--pager".to_owned(), "mmap".to_owned()];
        let mut record = Record::load(&path, "storm", &arguments).unwrap();
        assert_eq!(record.next_seed(), None);
        let mut counts = Tally::default();
        counts.add("kills", 5);
        let slice = Slice {
            first_seed: 1,
            next_seed: 6,
            counts,
            commit: String::new(),
            machine: Machine::default(),
            started: 0,
            seconds: 1,
        };
        record.push(slice.clone(), ["seed 3".to_owned()]);
        record.push(slice, []);
        record.save(&path).unwrap();
        let again = Record::load(&path, "storm", &arguments).unwrap();
        assert_eq!(again, record);
        assert_eq!(
            (again.next_seed(), again.counts.get("kills")),
            (Some(6), 10)
        );
        assert!(Record::load(&path, "simulate", &arguments).is_err());
    }
}
