//! The allocation map in memory: the nodes that were needed so far, and what is to be stored.
//!
//! Words: a page is *free* if the map says so that would be stored now; it is *quarantined* if it
//! is free and still read by older versions; it is *available* if it is free and not quarantined.
//! A node is *loaded* if it is in memory, *dirty* if it differs from its stored page.
//!
//! Invariants:
//! 1. The parents of a loaded node are loaded, the parents of a dirty one dirty.
//! 2. A node's counts, in its parent, are the sums of its children's counts, loaded or not.
//! 3. A quarantined page is free. Its leaf stays loaded: the quarantine is not stored.
//! 4. `dirty` lists each dirty node once, in the order in which they became so.
//! 5. The leaf of each page that was taken since the last [`Map::settled`] is loaded, so that
//!    giving it back cannot fail.
//!
//! Not here: which page to take (`allocate.rs`), when quarantine ends (`quarantine.rs`), writing
//! (`store.rs`).

use std::collections::BTreeMap;

use bifolio_pager::{Geometry, PageGuard, PageId, PageRef, Pager, Result, first_page};

use super::bits::{Bits, RUN_MAX, Row};
use super::format::{self, Child, Expected, MapRoot, Node, Shape};

/// Loaded leaves that are kept although nothing needs them now, in bytes of bitmap.
const KEPT_BYTES: usize = 4 << 20;

/// What is known of a node without loading it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Entry {
    /// Where it was stored last; `None` if it was not: then everything below it was used.
    pub page: Option<PageRef>,
    pub free: u64,
    pub quarantined: u64,
}

impl Entry {
    pub fn available(&self) -> u64 {
        self.free - self.quarantined
    }

    fn child(&self) -> Child {
        Child {
            page: self.page,
            free: self.free,
        }
    }
}

struct Leaf {
    free: Bits,
    /// `None` for none.
    quarantined: Option<Bits>,
    dirty: bool,
    /// The number of the store before which it was last asked for: for choosing what to drop.
    used: u64,
    /// No run of available pages is longer, unless this is [`RUN_MAX`]: then nobody knows. Runs that
    /// were taken may still be counted.
    longest: u64,
    /// No word has more available pages, though some may have been taken since.
    densest: u32,
}

struct Branch {
    children: Vec<Entry>,
    dirty: bool,
}

pub(super) struct Map {
    shape: Shape,
    first: u64,
    end: u64,
    /// Of the root node.
    level: u8,
    root: Entry,
    leaves: BTreeMap<u64, Leaf>,
    /// Those of level `n` at index `n - 1`.
    branches: Vec<BTreeMap<u64, Branch>>,
    dirty: Vec<Node>,
    /// Stores since the map was opened.
    stores: u64,
}

impl Map {
    /// The map that was stored at `root`, with nothing loaded.
    pub fn open(geometry: Geometry, shape: Shape, root: MapRoot) -> Result<Self> {
        root.check(geometry, shape)?;
        Ok(Map {
            shape,
            first: first_page(geometry).get(),
            end: root.end,
            level: root.level,
            root: Entry {
                page: root.page,
                free: root.free,
                quarantined: 0,
            },
            leaves: BTreeMap::new(),
            branches: (0..root.level).map(|_| BTreeMap::new()).collect(),
            dirty: Vec::new(),
            stores: 0,
        })
    }

    /// What a meta would have to refer to, if nothing is dirty.
    pub fn root(&self) -> MapRoot {
        MapRoot {
            page: self.root.page,
            level: self.level,
            end: self.end,
            free: self.root.free,
        }
    }

    /// The most pages that a store writes in a file of so many pages.
    pub fn most_nodes(&self, page_count: u64) -> u64 {
        self.shape.nodes(page_count)
    }

    pub fn totals(&self) -> Entry {
        self.root
    }

    pub fn end(&self) -> u64 {
        self.end
    }

    /// Whether there can be such a page.
    pub fn in_bounds(&self, id: PageId) -> bool {
        (self.first..self.end).contains(&id.get())
    }

    pub fn leaf_of(&self, page: u64) -> u64 {
        page / self.shape.leaf_bits
    }

    pub fn first_of_leaf(&self, leaf: u64) -> u64 {
        leaf * self.shape.leaf_bits
    }

    /// Pages from `page` to the end of its leaf.
    pub fn rest_of_leaf(&self, page: u64) -> u64 {
        self.shape.leaf_bits - page % self.shape.leaf_bits
    }

    // Nodes and what their parents say of them.

    fn parent(&self, node: Node) -> (Node, usize) {
        let Shape { fan_out, .. } = self.shape;
        let parent = Node {
            level: node.level + 1,
            index: node.index / fan_out,
        };
        (parent, (node.index % fan_out) as usize)
    }

    fn branch(&self, node: Node) -> Option<&Branch> {
        self.branches[usize::from(node.level) - 1].get(&node.index)
    }

    fn branch_mut(&mut self, node: Node) -> Option<&mut Branch> {
        self.branches[usize::from(node.level) - 1].get_mut(&node.index)
    }

    /// What is known of a node whose parent is loaded.
    pub fn entry(&self, node: Node) -> &Entry {
        if node.level == self.level {
            debug_assert_eq!(node.index, 0, "there is one root");
            return &self.root;
        }
        let (parent, slot) = self.parent(node);
        let parent = self.branch(parent).expect("invariant 1: parents first");
        &parent.children[slot]
    }

    fn entry_mut(&mut self, node: Node) -> &mut Entry {
        if node.level == self.level {
            return &mut self.root;
        }
        let (parent, slot) = self.parent(node);
        let parent = self.branch_mut(parent).expect("invariant 1: parents first");
        &mut parent.children[slot]
    }

    /// Changes the counts of a leaf and of all that is above it (invariant 2).
    fn count(&mut self, leaf: u64, free: i64, quarantined: i64) {
        for level in 0..=self.level {
            let index = leaf / self.shape.leaves(level);
            let entry = self.entry_mut(Node { level, index });
            let sum = |count: u64, change| count.checked_add_signed(change);
            entry.free = sum(entry.free, free).expect("counts are not negative");
            entry.quarantined = sum(entry.quarantined, quarantined).expect("nor this one");
        }
    }

    fn mark_dirty(&mut self, leaf: u64) {
        for level in 0..=self.level {
            let index = leaf / self.shape.leaves(level);
            let node = Node { level, index };
            let flag = match level {
                0 => &mut self.loaded_mut(leaf).dirty,
                _ => &mut self.branch_mut(node).expect("invariant 1").dirty,
            };
            if std::mem::replace(flag, true) {
                return; // invariant 1: then its parents are dirty, too
            }
            self.dirty.push(node);
        }
    }

    // Loading.

    pub fn is_loaded(&self, leaf: u64) -> bool {
        self.leaves.contains_key(&leaf)
    }

    fn loaded(&self, leaf: u64) -> &Leaf {
        let loaded = self.leaves.get(&leaf);
        loaded.expect("the leaf of a page that is taken or held is loaded (invariants 3, 5)")
    }

    fn loaded_mut(&mut self, leaf: u64) -> &mut Leaf {
        let loaded = self.leaves.get_mut(&leaf);
        loaded.expect("the leaf of a page that is taken or held is loaded (invariants 3, 5)")
    }

    /// Loads these leaves, of which those to be read are asked for at once.
    pub fn load_all<P: Pager>(&mut self, pager: &P, leaves: &[u64]) -> Result<()> {
        let mut pages = Vec::new();
        for &leaf in leaves.iter().filter(|_| leaves.len() > 1) {
            self.load_parents(pager, leaf)?;
            let node = Node::leaf(leaf);
            if !self.is_loaded(leaf) {
                pages.extend(self.entry(node).page);
            }
        }
        if pages.len() > 1 {
            pager.prefetch(&pages);
        }
        leaves.iter().try_for_each(|&leaf| self.load(pager, leaf))
    }

    fn load_parents<P: Pager>(&mut self, pager: &P, leaf: u64) -> Result<()> {
        (1..=self.level).rev().try_for_each(|level| {
            let index = leaf / self.shape.leaves(level);
            self.load_branch(pager, Node { level, index })
        })
    }

    /// Loads a leaf with all that is above it. Reads at most one page per level.
    pub fn load<P: Pager>(&mut self, pager: &P, leaf: u64) -> Result<()> {
        if let Some(leaf) = self.leaves.get_mut(&leaf) {
            leaf.used = self.stores;
            return Ok(());
        }
        self.load_parents(pager, leaf)?;
        let node = Node::leaf(leaf);
        let free = match self.expected(node) {
            Some(expected) => read(pager, &expected, format::decode_leaf)?,
            None => Bits::zeros(self.shape.leaf_bits),
        };
        let loaded = Leaf {
            free,
            quarantined: None,
            dirty: false,
            used: self.stores,
            longest: RUN_MAX.into(),
            densest: u64::BITS,
        };
        self.leaves.insert(leaf, loaded);
        Ok(())
    }

    fn load_branch<P: Pager>(&mut self, pager: &P, node: Node) -> Result<()> {
        if self.branch(node).is_some() {
            return Ok(());
        }
        let children = match self.expected(node) {
            Some(expected) => read(pager, &expected, format::decode_branch)?,
            None => vec![Child::default(); self.shape.fan_out as usize],
        };
        let of = |child: Child| Entry {
            page: child.page,
            free: child.free,
            quarantined: 0,
        };
        let branch = Branch {
            children: children.into_iter().map(of).collect(),
            dirty: false,
        };
        self.branches[usize::from(node.level) - 1].insert(node.index, branch);
        Ok(())
    }

    /// What the page of a node must be; `None` if it has none.
    fn expected(&self, node: Node) -> Option<Expected> {
        let entry = self.entry(node);
        Some(Expected {
            at: entry.page?,
            node,
            free: entry.free,
            shape: self.shape,
            bounds: (self.first, self.end),
        })
    }

    // Pages of loaded leaves.

    fn place(&self, page: u64) -> (u64, u64) {
        (page / self.shape.leaf_bits, page % self.shape.leaf_bits)
    }

    /// Whether the page is free. Its leaf is loaded.
    pub fn is_free(&self, page: u64) -> bool {
        let (leaf, bit) = self.place(page);
        self.loaded(leaf).free.get(bit)
    }

    /// How many available pages follow one another from `page` on within its leaf, up to `most`.
    pub fn run_at(&self, page: u64, most: u64) -> u64 {
        let (leaf, bit) = self.place(page);
        let Some(leaf) = self.leaves.get(&leaf) else {
            return 0;
        };
        leaf.available().run_at(bit, most)
    }

    /// The first available page of a loaded leaf, from bit `from` on, with which a run of `need`
    /// begins.
    pub fn find_run(&mut self, leaf: u64, from: u64, need: u32) -> Option<u64> {
        let base = leaf * self.shape.leaf_bits;
        let leaf = self.loaded_mut(leaf);
        if leaf.longest < need.into() {
            return None;
        }
        let found = leaf.available().find_run(from, need);
        if found.is_none() && from == 0 {
            leaf.longest = u64::from(need) - 1;
        }
        found.map(|bit| base + bit)
    }

    /// The first available page of a loaded leaf, from bit `from` on, of a block of 64 that has `need`
    /// available pages or more from there on.
    pub fn find_dense(&mut self, leaf: u64, from: u64, need: u32) -> Option<u64> {
        let base = leaf * self.shape.leaf_bits;
        let leaf = self.loaded_mut(leaf);
        if leaf.densest < need {
            return None;
        }
        let found = leaf.available().find_dense(from, need);
        if found.is_none() && from == 0 {
            leaf.densest = need - 1;
        }
        found.map(|bit| base + bit)
    }

    /// The next available page from `page` on in its block of 64, if its leaf is loaded.
    pub fn next_in_block(&self, page: u64) -> Option<u64> {
        let (leaf, bit) = self.place(page);
        let next = self.leaves.get(&leaf)?.available().next_in_word(bit)?;
        Some(self.first_of_leaf(leaf) + next)
    }

    /// The first leaf from `from` on with at least `need` available pages. Reads branches, and of
    /// these only those below which there are so many.
    pub fn next_leaf<P: Pager>(&mut self, pager: &P, from: u64, need: u64) -> Result<Option<u64>> {
        if self.root.available() < need {
            return Ok(None);
        }
        let root = Node {
            level: self.level,
            index: 0,
        };
        self.next_leaf_below(pager, root, from, need)
    }

    fn next_leaf_below<P: Pager>(
        &mut self,
        pager: &P,
        node: Node,
        from: u64,
        need: u64,
    ) -> Result<Option<u64>> {
        let Some(level) = node.level.checked_sub(1) else {
            return Ok(Some(node.index).filter(|&leaf| leaf >= from));
        };
        self.load_branch(pager, node)?;
        let first = node.index * self.shape.fan_out;
        // The child that has the leaf `from` in it; those before it are passed over.
        let mut slot = (from / self.shape.leaves(level)).saturating_sub(first) as usize;
        loop {
            let branch = self.branch(node).expect("it was loaded above");
            let rest = branch.children.iter().enumerate().skip(slot);
            let mut with_enough = rest.filter(|(_, child)| child.available() >= need);
            let Some((at, _)) = with_enough.next() else {
                return Ok(None);
            };
            let child = Node {
                level,
                index: first + at as u64,
            };
            if let Some(leaf) = self.next_leaf_below(pager, child, from, need)? {
                return Ok(Some(leaf));
            }
            slot = at + 1;
        }
    }

    /// Takes `len` available pages of one loaded leaf: they are used now.
    pub fn take(&mut self, start: u64, len: u64) {
        let (leaf, bit) = self.place(start);
        let row = &mut self.loaded_mut(leaf).free;
        for bit in bit..bit + len {
            assert!(row.get(bit), "a page is handed out once");
            row.clear(bit);
        }
        self.count(leaf, -(len as i64), 0);
        self.mark_dirty(leaf);
    }

    /// Makes a used page of a loaded leaf free, and quarantined if `held`.
    pub fn free(&mut self, page: u64, held: bool) {
        let (leaf, bit) = self.place(page);
        let bits = self.shape.leaf_bits;
        let row = self.loaded_mut(leaf);
        assert!(!row.free.get(bit), "page {page} is free already");
        row.free.set(bit);
        if held {
            let zeros = || Bits::zeros(bits);
            row.quarantined.get_or_insert_with(zeros).set(bit);
        } else {
            row.note_available(bit);
        }
        self.count(leaf, 1, held.into());
        self.mark_dirty(leaf);
    }

    /// Undoes `free(page, true)`; the leaf stays dirty.
    pub fn unfree_held(&mut self, page: u64) {
        self.end_quarantine(page);
        self.take(page, 1);
    }

    /// Makes a quarantined page available.
    pub fn end_quarantine(&mut self, page: u64) {
        let (leaf, bit) = self.place(page);
        let row = self.loaded_mut(leaf);
        let held = row.quarantined.as_mut().filter(|held| held.get(bit));
        held.expect("a page is let go that was held").clear(bit);
        row.note_available(bit);
        self.count(leaf, 0, -1);
        let node = Node::leaf(leaf);
        if self.entry(node).quarantined == 0 {
            self.loaded_mut(leaf).quarantined = None;
        }
    }

    /// Takes `len` pages at the end of the file, all in one leaf, which moves the end. They need
    /// no bits changed, but their leaf is loaded (invariant 5), and the tree may get a level.
    pub fn extend<P: Pager>(&mut self, pager: &P, len: u64) -> Result<u64> {
        let start = self.end;
        assert!(len <= self.rest_of_leaf(start));
        while self.shape.level_for(start + len) > self.level {
            self.raise();
        }
        self.load(pager, self.leaf_of(start))?;
        self.end = start + len;
        Ok(start)
    }

    /// Puts a new root above the root.
    fn raise(&mut self) {
        let mut children = vec![Entry::default(); self.shape.fan_out as usize];
        children[0] = self.root;
        let dirty = true;
        self.branches
            .push(BTreeMap::from([(0, Branch { children, dirty })]));
        self.level += 1;
        self.root.page = None;
        self.dirty.push(Node {
            level: self.level,
            index: 0,
        });
    }

    // For storing.

    /// The dirty node that became so as the `nth`.
    pub fn nth_dirty(&self, nth: usize) -> Option<Node> {
        self.dirty.get(nth).copied()
    }

    /// Whether a page must be stored for a dirty node: not if all below it is used.
    pub fn needs_page(&self, node: Node) -> bool {
        match node.level {
            0 => self.entry(node).free > 0,
            _ => {
                let branch = self.branch(node).expect("dirty nodes are loaded");
                branch.children.iter().any(|child| child.page.is_some())
            }
        }
    }

    /// The node has no stored page from now on; returns which it had.
    pub fn unstore(&mut self, node: Node) -> Option<PageRef> {
        self.entry_mut(node).page.take()
    }

    /// The node is stored here from now on.
    pub fn store_at(&mut self, node: Node, at: PageRef) {
        let before = self.entry_mut(node).page.replace(at);
        assert_eq!(before, None, "a map page is copied once per store");
    }

    /// Fills in the page of a loaded node.
    pub fn encode(&self, node: Node, page: &mut [u8]) {
        if node.level == 0 {
            format::encode_leaf(page, &self.loaded(node.index).free, self.shape);
        } else {
            let branch = self.branch(node).expect("dirty nodes are loaded");
            let children = branch.children.iter().map(Entry::child);
            format::encode_branch(page, node.level, children);
        }
    }

    /// What was dirty is stored. Drops leaves that nobody has used lately, where many are loaded.
    pub fn settled(&mut self) {
        for node in std::mem::take(&mut self.dirty) {
            match node.level {
                0 => self.loaded_mut(node.index).dirty = false,
                _ => self.branch_mut(node).expect("still loaded").dirty = false,
            }
        }
        if self.leaves.len() * self.shape.leaf_bits as usize / 8 > KEPT_BYTES {
            let now = self.stores;
            self.leaves
                .retain(|_, leaf| leaf.used == now || leaf.quarantined.is_some());
        }
        self.stores += 1;
    }
}

impl Leaf {
    fn available(&self) -> Row<'_> {
        self.free.row_without(self.quarantined.as_ref())
    }

    /// The page of this bit has just become available.
    fn note_available(&mut self, bit: u64) {
        let run = self.available().run_around(bit);
        self.longest = self.longest.max(run);
        self.densest = self.densest.max(self.available().density(bit));
    }
}

/// Reads a page and what is in it. What a page says is believed once its guard has confirmed it,
/// and so is what is wrong with it.
pub(super) fn read<P: Pager, T>(
    pager: &P,
    expected: &Expected,
    decode: impl Fn(&[u8], &Expected) -> Result<T>,
) -> Result<T> {
    let page = pager.read(expected.at)?;
    let decoded = decode(&page, expected);
    page.confirm()?;
    decoded
}
