//! A tree against a `BTreeMap`: the same operations on both must give the same answers.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use bifolio_pager::{PageId, Pager};

use super::{Dice, TestSource};
use crate::{Root, Tree, TreeMut, check, max_key_len};

/// What a tree should hold.
pub type Model = BTreeMap<Vec<u8>, Vec<u8>>;

/// Puts a pager under a tree: `ops` operations drawn from `seed`, in transactions, with look-ups,
/// ranges and old snapshots compared in between and [`check`](crate::check()) at each commit; at
/// the end everything is removed, and no page may be left.
///
/// The pager must be new; pages of 4 KiB reach the most cases. Holds at most 4 guards at once.
///
/// # Panics
/// If the tree and the model disagree, or an operation fails. The message has the seed.
pub fn run<P: Pager>(pager: &P, seed: u64, ops: usize) {
    let _seed = SeedOnPanic(seed);
    let mut test = Test {
        pager,
        source: TestSource::new(pager),
        root: Root::default(),
        model: Model::new(),
        snapshot: None,
        dice: Dice::new(seed),
        keys: Keys::draw(seed),
    };
    for op in 0..ops {
        // Half of the time the tree grows, half of the time it shrinks.
        let growing = (op * 6 / ops.max(1)).is_multiple_of(2);
        test.change(growing);
        if test.dice.one_in(20) {
            test.look_up();
        }
        if test.dice.one_in(50) {
            test.scan();
        }
        if test.dice.one_in(100) {
            test.commit();
        }
    }
    test.commit();
    test.remove_all();
}

/// Compares a tree with what it should hold: its entries from either end, its count, and every
/// key by look-up.
///
/// # Panics
/// If they differ.
pub fn assert_same<P: Pager>(tree: Tree<'_, P>, model: &Model) {
    assert_eq!(tree.len(), model.len() as u64, "the count of entries");
    let mut entries = model.iter();
    let mut range = tree.iter();
    while let Some((key, value)) = range.next_ref().expect("the tree can be read") {
        let expected = entries.next().map(|(k, v)| (&k[..], &v[..]));
        assert_eq!(Some((key, value)), expected, "from the front");
    }
    assert_eq!(entries.next(), None, "the tree ends too early");
    let mut backwards = tree.iter();
    for expected in model.iter().rev() {
        let entry = backwards.next_back_ref().expect("the tree can be read");
        let expected = (&expected.0[..], &expected.1[..]);
        assert_eq!(entry, Some(expected), "from the back");
    }
    assert_eq!(
        backwards.next_back_ref().expect("the tree can be read"),
        None
    );
    let mut value = Vec::new();
    for (key, expected) in model {
        let found = tree
            .get_into(key, &mut value)
            .expect("the tree can be read");
        assert!(found && value == *expected, "the value of {key:?}");
    }
}

/// Checks a tree and returns the pages it reaches.
///
/// # Panics
/// If anything is found.
pub fn assert_sound<P: Pager>(pager: &P, root: Root) -> BTreeSet<PageId> {
    let mut pages = BTreeSet::new();
    let report = check(pager, root, &mut |page, _| {
        assert!(pages.insert(page.id), "{page:?} is visited twice");
    });
    let findings: Vec<String> = report.findings.iter().map(ToString::to_string).collect();
    assert!(report.is_clean(), "{findings:#?}");
    assert_eq!(report.pages(), pages.len() as u64, "{report:?}");
    pages
}

/// Says which seed it was when a test fails.
struct SeedOnPanic(u64);

impl Drop for SeedOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the model test failed with seed {}", self.0);
        }
    }
}

/// How keys of a run are made.
#[derive(Clone, Copy, Debug)]
enum Keys {
    /// Numbers of eight bytes, in no order.
    Scrambled,
    /// Numbers of eight bytes, mostly ascending.
    Ascending,
    /// A few letters, among them the empty key and zero bytes.
    Short,
    /// Long common beginnings, different ends.
    Shared,
    /// As long as a key may be, different in the middle or at the end.
    Longest,
    /// All of these.
    Mixed,
}

impl Keys {
    fn draw(seed: u64) -> Self {
        use Keys::*;
        [Mixed, Scrambled, Ascending, Short, Shared, Longest][(seed % 6) as usize]
    }

    fn key(self, dice: &mut Dice, max: usize, written: usize) -> Vec<u8> {
        match self {
            Keys::Scrambled => (dice.below(3000) as u64)
                .wrapping_mul(0x9e37_79b9_7f4a_7c15)
                .to_be_bytes()
                .to_vec(),
            Keys::Ascending => (written as u64 + dice.roll() % 4).to_be_bytes().to_vec(),
            Keys::Short => {
                let len = dice.below(6);
                (0..len)
                    .map(|_| [0, b'a', b'b', 255][dice.below(4)])
                    .collect()
            }
            Keys::Shared => {
                let mut key = vec![b'p'; dice.below(4) * 40];
                key.extend(format!("{:05}", dice.below(1000)).bytes());
                key
            }
            Keys::Longest => {
                let mut key = vec![b'x'; max];
                let at = [max / 2, max - 2][dice.below(2)];
                key[at] = dice.roll() as u8;
                key[at + 1] = b'a' + dice.below(4) as u8;
                key
            }
            Keys::Mixed => {
                use Keys::*;
                let kind = [Scrambled, Ascending, Short, Shared, Longest][dice.below(5)];
                kind.key(dice, max, written)
            }
        }
    }
}

struct Test<'p, P: Pager> {
    pager: &'p P,
    source: TestSource<'p, P>,
    root: Root,
    model: Model,
    snapshot: Option<(Root, Model)>,
    dice: Dice,
    keys: Keys,
}

impl<P: Pager> Test<'_, P> {
    fn tree(&self) -> Tree<'_, P> {
        Tree::new(self.pager, self.root)
    }

    fn value(&mut self) -> Vec<u8> {
        let page = self.pager.geometry().page_size.bytes();
        let dice = &mut self.dice;
        let len = match dice.below(40) {
            0 => 0,
            1..=20 => dice.below(24),
            21..=33 => dice.below(300),
            // Around where values begin to overflow.
            34..=36 => page / 5 + dice.below(page / 10),
            37..=38 => dice.below(2 * page),
            _ => dice.below(12 * page),
        };
        let first = dice.roll();
        (0..len as u64)
            .map(|i| (first.wrapping_add(i * 7)) as u8)
            .collect()
    }

    fn key(&mut self) -> Vec<u8> {
        let max = max_key_len(self.pager.geometry().page_size);
        self.keys.key(&mut self.dice, max, self.model.len())
    }

    /// A key that is there, if there is any; else any.
    fn present_key(&mut self) -> Vec<u8> {
        let wish = self.key();
        let found = self.model.range(wish.clone()..).next();
        found.map_or(wish, |(key, _)| key.clone())
    }

    fn change(&mut self, growing: bool) {
        let inserts = if growing { 8 } else { 3 };
        if self.dice.below(10) < inserts {
            let key = match self.dice.one_in(4) {
                true => self.present_key(),
                false => self.key(),
            };
            let mut value = self.value();
            if self.dice.one_in(4)
                && let Some(old) = self.model.get(&key)
            {
                value.resize(old.len(), 7);
            }
            let mut tree = TreeMut::new(self.pager, &mut self.source, &mut self.root);
            let replaced = tree.insert(&key, &value).expect("inserting works");
            let expected = self.model.insert(key.clone(), value).is_some();
            assert_eq!(replaced, expected, "inserting {key:?}");
        } else {
            let key = match self.dice.one_in(8) {
                true => self.key(),
                false => self.present_key(),
            };
            self.remove(&key);
        }
    }

    fn remove(&mut self, key: &[u8]) {
        let mut tree = TreeMut::new(self.pager, &mut self.source, &mut self.root);
        let removed = tree.remove(key).expect("removing works");
        let expected = self.model.remove(key).is_some();
        assert_eq!(removed, expected, "removing {key:?}");
    }

    fn look_up(&mut self) {
        let keys: Vec<Vec<u8>> = (0..self.dice.below(100))
            .map(|i| {
                if i % 2 == 0 {
                    self.key()
                } else {
                    self.present_key()
                }
            })
            .collect();
        let tree = self.tree();
        for key in keys.iter().take(3) {
            let expected = self.model.get(key);
            assert_eq!(tree.get(key).expect("reading works").as_ref(), expected);
            let len = tree.get_with(key, <[u8]>::len).expect("reading works");
            assert_eq!(len, expected.map(Vec::len));
            let contained = tree.contains_key(key).expect("reading works");
            assert_eq!(contained, expected.is_some());
        }
        let mut answered = vec![false; keys.len()];
        tree.get_many(&keys, |index, value| {
            assert!(!answered[index], "key {index} is answered twice");
            answered[index] = true;
            assert_eq!(value, self.model.get(&keys[index]).map(Vec::as_slice));
        })
        .expect("reading works");
        assert!(answered.iter().all(|&answered| answered));
        let first = tree.first().expect("reading works");
        let last = tree.last().expect("reading works");
        let owned = |(key, value): (&Vec<u8>, &Vec<u8>)| (key.clone(), value.clone());
        assert_eq!(first, self.model.first_key_value().map(owned));
        assert_eq!(last, self.model.last_key_value().map(owned));
    }

    fn bound(&mut self) -> Bound<Vec<u8>> {
        let key = match self.dice.one_in(2) {
            true => self.key(),
            false => self.present_key(),
        };
        match self.dice.below(5) {
            0 => Bound::Unbounded,
            1..=2 => Bound::Included(key),
            _ => Bound::Excluded(key),
        }
    }

    /// Takes a range from both ends, in turns that the dice choose, until they meet.
    fn scan(&mut self) {
        let (low, high) = (self.bound(), self.bound());
        let slices = (
            low.as_ref().map(Vec::as_slice),
            high.as_ref().map(Vec::as_slice),
        );
        let mut expected: Vec<_> = if is_empty(slices) {
            Vec::new()
        } else {
            let range = self.model.range::<[u8], _>(slices);
            range
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect()
        };
        let mut range = Tree::new(self.pager, self.root).range(slices);
        let turns = 1 + self.dice.below(3);
        loop {
            let from_front = self.dice.below(3) < turns;
            let (found, expected) = if from_front {
                let first = (!expected.is_empty()).then(|| expected.remove(0));
                (range.next(), first)
            } else {
                (range.next_back(), expected.pop())
            };
            let found = found.transpose().expect("reading works");
            assert_eq!(found, expected, "in {low:?} to {high:?}");
            if found.is_none() {
                return;
            }
        }
    }

    /// Ends a transaction. The snapshot of an earlier one must not have changed.
    fn commit(&mut self) {
        assert_eq!(assert_sound(self.pager, self.root), self.source.live());
        self.source.commit().expect("sealing works");
        if self.dice.one_in(2) {
            if let Some((root, model)) = self.snapshot.take() {
                assert_same(Tree::new(self.pager, root), &model);
            }
            self.source.release().expect("discarding works");
            self.snapshot = Some((self.root, self.model.clone()));
        }
    }

    fn remove_all(mut self) {
        assert_same(self.tree(), &self.model);
        let mut keys: Vec<Vec<u8>> = self.model.keys().cloned().collect();
        while !keys.is_empty() {
            let key = keys.swap_remove(self.dice.below(keys.len()));
            self.remove(&key);
        }
        assert_eq!(self.root, Root::default(), "an empty tree has no pages");
        assert_eq!(self.source.live(), BTreeSet::new(), "no page is left over");
        if let Some((root, model)) = self.snapshot.take() {
            assert_same(Tree::new(self.pager, root), &model);
        }
        self.source.release().expect("discarding works");
    }
}

/// Whether bounds cross, which `BTreeMap` refuses.
fn is_empty(bounds: (Bound<&[u8]>, Bound<&[u8]>)) -> bool {
    match bounds {
        (Bound::Included(low), Bound::Included(high)) => low > high,
        (
            Bound::Included(low) | Bound::Excluded(low),
            Bound::Included(high) | Bound::Excluded(high),
        ) => low >= high,
        _ => false,
    }
}
