//! Random histories, compared with sets of page numbers.
//!
//! The model knows, for each version that may still be read, which pages it reaches. Whatever is
//! handed out must lie in none of these sets; whatever is stored must be their exact complement;
//! whatever is held must be what some live version reaches.

use std::collections::{BTreeMap, BTreeSet};

use bifolio_pager::{
    Geometry, Kind, MemPager, PageId, PageRef, PageSize, Pager, Version, first_page,
};
use proptest::prelude::*;

use super::super::check::{Found, walk_shape};
use super::super::format::Shape;
use super::super::{MapRoot, Space};
use super::{full, geometry, page, v};

#[derive(Clone, Debug)]
enum Step {
    Allocate(usize),
    Run(u64),
    GiveBack(Vec<prop::sample::Index>),
    Rollback,
    /// Commits: retires these pages, maybe stores the map, releases.
    Commit {
        retire: Vec<prop::sample::Index>,
        store: bool,
    },
    Snapshot,
    Close(prop::sample::Index),
    /// The power goes; what of the unflushed pages is left follows from the seed.
    PowerCut(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let some = |most| prop::collection::vec(any::<prop::sample::Index>(), 0..most);
    prop_oneof![
        4 => (1_usize..30).prop_map(Step::Allocate),
        2 => (1_u64..200).prop_map(Step::Run),
        1 => some(20).prop_map(Step::GiveBack),
        1 => Just(Step::Rollback),
        6 => (some(40), any::<bool>()).prop_map(|(retire, store)| Step::Commit { retire, store }),
        2 => Just(Step::Snapshot),
        2 => any::<prop::sample::Index>().prop_map(Step::Close),
        1 => any::<u64>().prop_map(Step::PowerCut),
    ]
}

struct Reached {
    version: Version,
    pages: BTreeSet<u64>,
}

struct World {
    pager: MemPager,
    geometry: Geometry,
    shape: Shape,
    space: Space,
    /// The last committed version, and its pages of trees.
    version: Version,
    trees: BTreeMap<u64, Version>,
    /// Pages of trees of the last version that were not flushed.
    unflushed: BTreeSet<PageRef>,
    running: BTreeSet<u64>,
    /// The last stored map.
    root: MapRoot,
    map_pages: BTreeSet<PageRef>,
    /// What the durable meta reaches: trees, and with the map.
    durable_trees: BTreeMap<u64, Version>,
    durable: Reached,
    snapshots: Vec<Reached>,
    /// Retired pages, and when, until no live version reaches them.
    held: Vec<(PageRef, Version)>,
}

impl World {
    /// A file of `used` pages, written by version 1.
    fn new(geometry: Geometry, shape: Shape, used: u64) -> Self {
        let first = first_page(geometry).get();
        let root = full(shape, first + used);
        let pager = MemPager::new(geometry);
        pager.grow(root.end).unwrap();
        let written: Vec<_> = (first..root.end).map(|number| page(number, 1)).collect();
        written
            .iter()
            .for_each(|&at| drop(pager.create(at).unwrap()));
        pager.seal(&written).unwrap();
        let _ = pager.flush(&written).unwrap();
        let trees: BTreeMap<_, _> = (first..root.end).map(|number| (number, v(1))).collect();
        World {
            geometry,
            shape,
            space: Space::with_shape(geometry, shape, root).unwrap(),
            pager,
            version: v(1),
            trees: trees.clone(),
            unflushed: BTreeSet::new(),
            running: BTreeSet::new(),
            root,
            map_pages: BTreeSet::new(),
            durable: Reached {
                version: v(1),
                pages: trees.keys().copied().collect(),
            },
            durable_trees: trees,
            snapshots: Vec::new(),
            held: Vec::new(),
        }
    }

    fn next(&self) -> Version {
        self.version.next()
    }

    fn take(&mut self, id: PageId, len: u64) {
        for number in id.get()..id.get() + len {
            assert!(!self.trees.contains_key(&number), "{number} is in use");
            let of_map = self.map_pages.iter().any(|at| at.id.get() == number);
            assert!(!of_map, "{number} is a page of the map");
            assert!(!self.durable.pages.contains(&number), "{number} is durable");
            for snapshot in &self.snapshots {
                let version = snapshot.version;
                assert!(
                    !snapshot.pages.contains(&number),
                    "{number} is read by {version:?}"
                );
            }
            assert!(self.running.insert(number), "{number} was handed out twice");
            // Refused by the pager, unless the number's former life was ended.
            drop(self.pager.create(page(number, self.next().get())).unwrap());
        }
    }

    fn give_back(&mut self, numbers: &[u64]) {
        let ids: Vec<_> = numbers.iter().map(|&number| PageId::new(number)).collect();
        self.pager.discard(&ids).unwrap();
        for id in ids {
            assert!(self.running.remove(&id.get()));
            self.space.give_back(id);
        }
    }

    fn commit(&mut self, retire: &[prop::sample::Index], store: bool) {
        let version = self.next();
        let old: Vec<_> = self
            .trees
            .iter()
            .map(|(&id, &born)| page(id, born.get()))
            .collect();
        let retired: BTreeSet<_> = retire
            .iter()
            .filter(|_| !old.is_empty())
            .map(|at| *at.get(&old))
            .collect();
        let retired: Vec<_> = retired.into_iter().collect();
        self.space
            .retire_all(&self.pager, &retired, version)
            .unwrap();
        for at in retired {
            self.trees.remove(&at.id.get());
            self.held.push((at, version));
        }
        let born: Vec<_> = self
            .running
            .iter()
            .map(|&id| page(id, version.get()))
            .collect();
        self.pager.seal(&born).unwrap();
        self.running.clear();
        self.trees
            .extend(born.iter().map(|at| (at.id.get(), version)));
        self.unflushed.extend(born);
        self.version = version;
        if store {
            self.store();
        }
        self.release();
    }

    fn store(&mut self) {
        let stored = self.space.store(&self.pager, self.version).unwrap();
        assert_eq!(MapRoot::decode(&stored.root.encode()).unwrap(), stored.root);
        self.pager.seal(&stored.pages).unwrap();
        let trees = &self.trees;
        let reached = |at: &PageRef| trees.get(&at.id.get()) == Some(&at.version);
        let mut flush: Vec<_> = std::mem::take(&mut self.unflushed)
            .into_iter()
            .filter(reached)
            .collect();
        flush.extend(&stored.pages);
        let _ = self.pager.flush(&flush).unwrap();

        let before = std::mem::take(&mut self.map_pages);
        self.root = stored.root;
        self.map_pages = self.check_stored();
        let new: BTreeSet<_> = stored.pages.iter().copied().collect();
        assert_eq!(
            new.len(),
            stored.pages.len(),
            "each map page is written once"
        );
        assert_eq!(
            &self.map_pages - &before,
            new,
            "what is written is what is new"
        );
        let version = self.version;
        self.held
            .extend((&before - &self.map_pages).iter().map(|&at| (at, version)));

        self.durable_trees = self.trees.clone();
        let map = self.map_pages.iter().map(|at| at.id.get());
        self.durable = Reached {
            version,
            pages: self.trees.keys().copied().chain(map).collect(),
        };
    }

    /// Reads the stored map back: it is the complement of the trees and of itself. Returns its pages.
    fn check_stored(&self) -> BTreeSet<PageRef> {
        let mut seen: BTreeSet<_> = self.trees.keys().copied().collect();
        let mut pages = BTreeSet::new();
        let mut free = 0;
        walk_shape(
            &self.pager,
            self.shape,
            self.root,
            &mut |found| match found {
                Found::Page(at, kind) => {
                    assert!(matches!(kind, Kind::MapLeaf | Kind::MapBranch));
                    assert!(pages.insert(at));
                    assert!(seen.insert(at.id.get()), "{at:?} is reached twice");
                }
                Found::Free(range) => {
                    free += range.end - range.start;
                    for number in range {
                        assert!(seen.insert(number), "{number} is free and reached");
                    }
                }
                Found::Damage { error, .. } => panic!("{error}"),
            },
        );
        assert_eq!(free, self.root.free);
        let first = first_page(self.geometry).get();
        assert!(
            seen.iter().copied().eq(first..self.root.end),
            "some page is neither"
        );
        pages
    }

    fn release(&mut self) {
        let mut live: Vec<_> = self
            .snapshots
            .iter()
            .map(|snapshot| snapshot.version)
            .collect();
        live.extend([self.durable.version, self.version]);
        live.sort_unstable();
        let before = self.held.len();
        let blocked = |(at, retired): &(PageRef, Version)| {
            live.iter()
                .any(|version| (at.version..*retired).contains(version))
        };
        let (held, let_go): (Vec<(PageRef, Version)>, Vec<_>) = std::mem::take(&mut self.held)
            .into_iter()
            .partition(blocked);
        self.held = held;
        let released = self.space.release(&self.pager, &live).unwrap();
        assert_eq!(released, before - self.held.len());
        let let_go = let_go.into_iter().map(|(at, _)| at);
        self.unflushed = &self.unflushed - &let_go.collect();
    }

    fn power_cut(&mut self, seed: u64) {
        self.pager = self.pager.power_cut_torn(seed);
        self.space = Space::with_shape(self.geometry, self.shape, self.root).unwrap();
        self.trees = self.durable_trees.clone();
        // Stamps are not used twice: versions go on from where they were.
        self.unflushed.clear();
        self.running.clear();
        self.snapshots.clear();
        self.held.clear();
        for (&id, &born) in &self.trees {
            self.pager.read(page(id, born.get())).unwrap();
        }
        assert_eq!(self.check_stored(), self.map_pages);
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Allocate(count) => {
                for _ in 0..count {
                    let id = self.space.allocate(&self.pager).unwrap();
                    self.take(id, 1);
                }
            }
            Step::Run(want) => {
                let (id, len) = self.space.allocate_run(&self.pager, want).unwrap();
                assert!((1..=want).contains(&len));
                self.take(id, len);
            }
            Step::GiveBack(picks) => {
                let running: Vec<_> = self.running.iter().copied().collect();
                let picked: BTreeSet<_> = picks
                    .iter()
                    .filter(|_| !running.is_empty())
                    .map(|at| *at.get(&running))
                    .collect();
                self.give_back(&picked.into_iter().collect::<Vec<_>>());
            }
            Step::Rollback => {
                let all: Vec<_> = self.running.iter().copied().collect();
                self.give_back(&all);
            }
            Step::Commit { retire, store } => self.commit(&retire, store),
            Step::Snapshot => self.snapshots.push(Reached {
                version: self.version,
                pages: self.trees.keys().copied().collect(),
            }),
            Step::Close(which) => {
                if !self.snapshots.is_empty() {
                    self.snapshots
                        .swap_remove(which.index(self.snapshots.len()));
                }
                self.release();
            }
            Step::PowerCut(seed) => self.power_cut(seed),
        }
        self.check_counts();
    }

    fn check_counts(&mut self) {
        let first = first_page(self.geometry).get();
        let used = self.trees.len() + self.running.len() + self.map_pages.len();
        assert_eq!(self.space.quarantined(), self.held.len() as u64);
        assert_eq!(self.space.end() - first - self.space.free(), used as u64);
        assert!(self.space.end() <= self.pager.page_count());
    }

    fn end(&mut self) {
        self.step(Step::Rollback);
        for number in 0..self.space.end() + 3 {
            let used = self.trees.contains_key(&number)
                || self.map_pages.iter().any(|at| at.id.get() == number)
                || number < first_page(self.geometry).get();
            let free = self
                .space
                .is_free(&self.pager, PageId::new(number))
                .unwrap();
            assert_eq!(free, !used, "{number}");
        }
        self.snapshots.clear();
        self.commit(&[], true);
        assert_eq!(
            self.space.quarantined(),
            0,
            "nobody reads, so nothing is held"
        );
    }
}

fn run(geometry: Geometry, shape: Shape, used: u64, steps: Vec<Step>) {
    let mut world = World::new(geometry, shape, used);
    for step in steps {
        world.step(step);
    }
    world.end();
}

fn small(leaf_bits: u64, fan_out: u64) -> Shape {
    Shape { leaf_bits, fan_out }
}

fn history() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(step(), 1..80)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn a_deep_map_of_small_nodes_is_always_the_complement(
        used in 0_u64..1500, fan_out in 2_u64..5, steps in history(),
    ) {
        run(geometry(PageSize::DEFAULT), small(64, fan_out), used, steps);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn a_map_of_one_leaf_is_always_the_complement(used in 0_u64..300, steps in history()) {
        let geometry = geometry(PageSize::DEFAULT);
        run(geometry, Shape::of(geometry), used, steps);
    }

    #[test]
    fn a_map_in_the_largest_pages_is_always_the_complement(
        used in 0_u64..300, deep in any::<bool>(), steps in history(),
    ) {
        let geometry = geometry(PageSize::new(65536).unwrap());
        run(geometry, if deep { small(128, 2) } else { Shape::of(geometry) }, used, steps);
    }
}
