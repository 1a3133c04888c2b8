//! A directory of files in two images: what programs see, and what a power cut leaves.
//!
//! The disk model of docs/TESTING.md, made code:
//! 1. A sector of a write survives whole or not at all; bytes outside a write do not change.
//! 2. What was not synced survives in any subset. (In any order too: of two writes to one sector
//!    that were both not synced, the earlier one alone is a subset.)
//! 3. A change of length is a change of its own, and so is a change of names.
//! 4. A sync of a file makes its bytes and its length durable, and not its name: only a sync of the
//!    directory does that, and only that. A file that is named durably and was never synced is empty.
//! 5. A rename is one step.
//!
//! A sync that fails loses what it should have written for ever, and the next sync succeeds: so does
//! Linux, which marks pages clean when their write has failed.
//!
//! Not here: the kernel's requests (`server.rs`).

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::path::Path;

use rand::rngs::StdRng;
use rand::{Rng, RngExt};

use super::content::Content;

/// Names a file; never used again.
pub type Ino = u64;

/// The directory's own number, which no file has.
pub const ROOT: Ino = 1;

/// What the disk of the model writes whole or not at all, in bytes.
pub const SECTOR: usize = 512;

#[derive(Clone, Debug)]
enum Change {
    Length(u64),
    Bytes(u64, Vec<u8>),
}

impl Change {
    fn apply(&self, content: &mut Content) {
        match self {
            Change::Length(len) => content.set_len(*len),
            Change::Bytes(offset, data) => content.write(*offset, data),
        }
    }
}

/// What is taken away and what is given, in one step.
#[derive(Clone, Debug)]
struct Naming {
    gone: Option<OsString>,
    given: Option<(OsString, Ino)>,
}

impl Naming {
    fn apply(&self, names: &mut BTreeMap<OsString, Ino>) {
        if let Some(gone) = &self.gone {
            names.remove(gone);
        }
        if let Some((name, ino)) = &self.given {
            names.insert(name.clone(), *ino);
        }
    }
}

#[derive(Clone, Debug, Default)]
struct Inode {
    live: Content,
    durable: Content,
    unsynced: Vec<Change>,
}

/// How much of what was not synced survives a power cut.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Survival {
    /// Nothing of it.
    Nothing,
    /// All of it, as when only the process dies.
    Everything,
    /// Each sector, change of length and change of names with this probability.
    Some(f64),
}

impl Survival {
    /// One of them, the interesting ones more often.
    pub fn draw(random: &mut StdRng) -> Self {
        match random.random_range(0..8) {
            0 => Survival::Nothing,
            1 => Survival::Everything,
            2 => Survival::Some(0.1),
            3 => Survival::Some(0.9),
            _ => Survival::Some(0.5),
        }
    }

    fn spares(self, random: &mut impl Rng) -> bool {
        match self {
            Survival::Nothing => false,
            Survival::Everything => true,
            Survival::Some(share) => random.random_bool(share),
        }
    }
}

/// A directory of files.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    files: BTreeMap<Ino, Inode>,
    names: BTreeMap<OsString, Ino>,
    durable_names: BTreeMap<OsString, Ino>,
    unsynced_names: Vec<Naming>,
    /// Files made so far.
    made: u64,
}

impl Disk {
    /// The file of this name.
    pub fn find(&self, name: &OsStr) -> Option<Ino> {
        self.names.get(name).copied()
    }

    /// The names there are, in order, with their files.
    pub fn names(&self) -> impl Iterator<Item = (&OsStr, Ino)> {
        self.names
            .iter()
            .map(|(name, &ino)| (name.as_os_str(), ino))
    }

    /// Names that this file has.
    pub fn links(&self, ino: Ino) -> usize {
        self.names.values().filter(|&&named| named == ino).count()
    }

    /// What the file holds; `None` if there is no such file.
    pub fn content(&self, ino: Ino) -> Option<&Content> {
        Some(&self.files.get(&ino)?.live)
    }

    /// Bytes that all files have together, holes included.
    pub fn bytes(&self) -> u64 {
        self.files.values().map(|file| file.live.len()).sum()
    }

    /// An empty file of this name, which is free.
    pub fn create(&mut self, name: &OsStr) -> Ino {
        self.made += 1;
        let ino = ROOT + self.made;
        self.files.insert(ino, Inode::default());
        self.link(ino, name);
        ino
    }

    /// Gives a file this name too, taking it from the file that has it.
    pub fn link(&mut self, ino: Ino, name: &OsStr) {
        self.rename_step(None, Some((name.to_owned(), ino)));
    }

    /// Takes a name away.
    pub fn unlink(&mut self, name: &OsStr) {
        self.rename_step(Some(name.to_owned()), None);
    }

    /// Gives the file of one name, which there is, another one.
    pub fn rename(&mut self, from: &OsStr, to: &OsStr) {
        let ino = self.names[from];
        self.rename_step(Some(from.to_owned()), Some((to.to_owned(), ino)));
    }

    fn rename_step(&mut self, gone: Option<OsString>, given: Option<(OsString, Ino)>) {
        let naming = Naming { gone, given };
        naming.apply(&mut self.names);
        self.unsynced_names.push(naming);
    }

    /// Puts bytes into a file, making it longer if they reach past its end.
    pub fn write(&mut self, ino: Ino, offset: u64, data: &[u8]) {
        let end = offset + data.len() as u64;
        if self.content(ino).is_some_and(|content| content.len() < end) {
            self.set_len(ino, end);
        }
        self.change(ino, Change::Bytes(offset, data.to_vec()));
    }

    /// Makes a file this long.
    pub fn set_len(&mut self, ino: Ino, len: u64) {
        self.change(ino, Change::Length(len));
    }

    fn change(&mut self, ino: Ino, change: Change) {
        if let Some(file) = self.files.get_mut(&ino) {
            change.apply(&mut file.live);
            file.unsynced.push(change);
        }
    }

    /// Makes a file's bytes and length durable (rule 4).
    pub fn sync(&mut self, ino: Ino) {
        if let Some(file) = self.files.get_mut(&ino) {
            for change in std::mem::take(&mut file.unsynced) {
                change.apply(&mut file.durable);
            }
            file.durable.trim();
        }
    }

    /// A sync that fails: what was written since the last one never will be durable. The length,
    /// which is not data, still may.
    pub fn lose_unsynced(&mut self, ino: Ino) {
        if let Some(file) = self.files.get_mut(&ino) {
            file.unsynced
                .retain(|change| matches!(change, Change::Length(_)));
        }
    }

    /// Makes the names durable.
    pub fn sync_names(&mut self) {
        for naming in std::mem::take(&mut self.unsynced_names) {
            naming.apply(&mut self.durable_names);
        }
    }

    /// What a power cut now leaves, where the disk writes `sector` bytes whole or not at all: a disk
    /// with everything on it durable.
    pub fn power_cut(&self, survival: Survival, sector: usize, random: &mut StdRng) -> Disk {
        let mut names = self.durable_names.clone();
        for naming in &self.unsynced_names {
            if survival.spares(random) {
                naming.apply(&mut names);
            }
        }
        let left = |ino: &Ino| names.values().any(|named| named == ino);
        let files = self.files.iter().filter(|(ino, _)| left(ino));
        let files = files.map(|(&ino, file)| (ino, file.after_cut(survival, sector, random)));
        Disk {
            files: files.collect(),
            durable_names: names.clone(),
            names,
            unsynced_names: Vec::new(),
            made: self.made,
        }
    }

    /// A disk with the files of a directory of another file system, everything on it durable.
    ///
    /// # Errors
    /// What that file system says.
    pub fn load(directory: &Path) -> io::Result<Self> {
        let mut disk = Disk::default();
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            if !entry.file_type()?.is_file() {
                continue;
            }
            let file = File::open(entry.path())?;
            let content = Content::load(&file)?;
            let ino = disk.create(&entry.file_name());
            disk.files.insert(ino, Inode::of(content));
        }
        disk.sync_names();
        Ok(disk)
    }

    /// Writes all files into a directory of another file system, durable or not there.
    ///
    /// # Errors
    /// What that file system says.
    pub fn save(&self, directory: &Path) -> io::Result<()> {
        for (name, ino) in self.names() {
            let file = File::create_new(directory.join(name))?;
            self.files[&ino].live.save(&file)?;
        }
        Ok(())
    }
}

impl Inode {
    fn after_cut(&self, survival: Survival, sector: usize, random: &mut StdRng) -> Inode {
        let mut left = self.durable.clone();
        for change in &self.unsynced {
            match change {
                Change::Length(_) if survival.spares(random) => change.apply(&mut left),
                Change::Length(_) => {}
                Change::Bytes(offset, data) => {
                    for (at, piece) in sectors(*offset, data, sector) {
                        if survival.spares(random) {
                            left.write(at, piece);
                        }
                    }
                }
            }
        }
        left.trim();
        Inode::of(left)
    }

    /// With everything durable.
    fn of(content: Content) -> Inode {
        Inode {
            live: content.clone(),
            durable: content,
            unsynced: Vec::new(),
        }
    }
}

/// A write in the pieces that survive each by itself, with where they go.
fn sectors(offset: u64, data: &[u8], sector: usize) -> impl Iterator<Item = (u64, &[u8])> {
    let first = (sector - (offset % sector as u64) as usize).min(data.len());
    let (head, tail) = data.split_at(first);
    let whole = std::iter::once(head).chain(tail.chunks(sector));
    whole.scan(offset, |at, sector| {
        let begin = *at;
        *at += sector.len() as u64;
        Some((begin, sector))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    fn name(name: &str) -> &OsStr {
        OsStr::new(name)
    }

    fn cut(disk: &Disk, survival: Survival, seed: u64) -> Disk {
        disk.power_cut(survival, SECTOR, &mut StdRng::seed_from_u64(seed))
    }

    fn bytes(disk: &Disk, file: &str) -> Option<Vec<u8>> {
        let content = disk.content(disk.find(name(file))?)?;
        Some(content.read(0, 1 << 20))
    }

    #[test]
    fn a_synced_file_without_a_synced_name_is_gone() {
        let mut disk = Disk::default();
        let ino = disk.create(name("a"));
        disk.write(ino, 0, b"content");
        disk.sync(ino);
        assert_eq!(bytes(&cut(&disk, Survival::Nothing, 1), "a"), None);
        disk.sync_names();
        let left = cut(&disk, Survival::Nothing, 1);
        assert_eq!(bytes(&left, "a").unwrap(), b"content");
    }

    #[test]
    fn a_named_file_that_was_never_synced_is_empty() {
        let mut disk = Disk::default();
        let ino = disk.create(name("a"));
        disk.write(ino, 0, b"content");
        disk.sync_names();
        let left = cut(&disk, Survival::Nothing, 1);
        assert_eq!(bytes(&left, "a").unwrap(), b"");
    }

    #[test]
    fn every_subset_of_sectors_survives_and_nothing_else_changes() {
        let mut disk = Disk::default();
        let ino = disk.create(name("a"));
        disk.write(ino, 0, &[1; 2048]);
        disk.sync(ino);
        disk.sync_names();
        disk.write(ino, 256, &[2; 1024]);
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..200 {
            let left = bytes(&cut(&disk, Survival::Some(0.5), seed), "a").unwrap();
            assert_eq!(left.len(), 2048);
            let parts = [&left[256..512], &left[512..1024], &left[1024..1280]];
            for part in parts {
                assert!(part.iter().all(|byte| *byte == part[0]), "a torn sector");
            }
            assert!(
                left[..256]
                    .iter()
                    .chain(&left[1280..])
                    .all(|&byte| byte == 1)
            );
            seen.insert(parts.map(|part| part[0]));
        }
        assert_eq!(seen.len(), 8);
    }

    #[test]
    fn a_length_and_the_bytes_behind_the_old_end_survive_each_by_itself() {
        let mut disk = Disk::default();
        let ino = disk.create(name("a"));
        disk.sync_names();
        disk.write(ino, 0, &[1; 100]);
        let lefts = (0..50).map(|seed| bytes(&cut(&disk, Survival::Some(0.5), seed), "a").unwrap());
        let lefts: std::collections::BTreeSet<_> = lefts.collect();
        let expected = [vec![], vec![0; 100], vec![1; 100]];
        assert_eq!(lefts, expected.into_iter().collect());
    }

    #[test]
    fn a_rename_leaves_one_of_the_two_names() {
        let mut disk = Disk::default();
        let ino = disk.create(name("a"));
        disk.write(ino, 0, b"x");
        disk.sync(ino);
        disk.sync_names();
        disk.rename(name("a"), name("b"));
        for seed in 0..20 {
            let left = cut(&disk, Survival::Some(0.5), seed);
            let named: Vec<_> = left.names().map(|(name, _)| name).collect();
            assert!(named == ["a"] || named == ["b"], "{named:?}");
        }
    }

    #[test]
    fn after_a_failed_sync_the_next_one_saves_nothing_of_what_was_lost() {
        let mut disk = Disk::default();
        let ino = disk.create(name("a"));
        disk.write(ino, 0, &[1; 512]);
        disk.sync(ino);
        disk.sync_names();
        disk.write(ino, 0, &[2; 512]);
        disk.lose_unsynced(ino);
        disk.sync(ino);
        let left = cut(&disk, Survival::Everything, 1);
        assert_eq!(bytes(&left, "a").unwrap(), [1; 512]);
    }
}
