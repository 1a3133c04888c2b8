//! The results file of a campaign: what was run, where, and what was counted.
//!
//! A long campaign is run in slices. Each run with the same file begins with the seed after the last
//! one of the file, so the same command again is the next slice. Runs that follow each other with one
//! program on one machine are one slice.

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

/// One run of the program, or several that follow each other.
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
    /// When it began, the first of them, in seconds since 1970.
    pub started: u64,
    /// How long it took, all of them together.
    pub seconds: u64,
}

impl Slice {
    /// Whether `next` is more of the same. Of a program with changes nobody knows that.
    fn goes_on_with(&self, next: &Slice) -> bool {
        self.next_seed == next.first_seed
            && self.commit == next.commit
            && !self.commit.ends_with('+')
            && self.machine == next.machine
    }
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

    /// Appends a run and what it found.
    pub fn push(&mut self, slice: Slice, findings: impl IntoIterator<Item = String>) {
        self.counts.merge(&slice.counts);
        self.findings.extend(findings);
        match self.slices.last_mut() {
            Some(last) if last.goes_on_with(&slice) => {
                last.next_seed = slice.next_seed;
                last.counts.merge(&slice.counts);
                last.seconds += slice.seconds;
            }
            _ => self.slices.push(slice),
        }
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
        // Runs that do not follow each other, that do, and that do but with another program.
        let follows = Slice {
            next_seed: 11,
            first_seed: 6,
            ..slice.clone()
        };
        let other = Slice {
            first_seed: 11,
            next_seed: 16,
            commit: "other+".to_owned(),
            ..slice.clone()
        };
        record.push(slice, []);
        record.push(follows, []);
        record.push(other.clone(), []);
        record.push(
            Slice {
                first_seed: 16,
                next_seed: 21,
                ..other
            },
            [],
        );
        let ranges = record.slices.iter();
        let ranges: Vec<_> = ranges.map(|s| (s.first_seed, s.next_seed)).collect();
        assert_eq!(ranges, [(1, 6), (1, 11), (11, 16), (16, 21)]);
        record.save(&path).unwrap();
        let again = Record::load(&path, "storm", &arguments).unwrap();
        assert_eq!(again, record);
        assert_eq!(
            (again.next_seed(), again.counts.get("kills")),
            (Some(21), 25)
        );
        assert!(Record::load(&path, "simulate", &arguments).is_err());
    }
}
