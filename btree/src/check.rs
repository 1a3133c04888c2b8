//! Proving that a tree is what the format says.
//!
//! For every page that the root reaches: (1) it is reached once; (2) header, prefix, slots, gap,
//! cells and dead bytes cover it without overlap or hole, and what must be zero is; (3) its prefix
//! is that of its fences; (4) keys rise and lie between the fences; (5) all leaves are at the same
//! depth; (6) a value overflows exactly when it must, and its chain is whole. And the root's count
//! of entries is right. The pager proves checksums and stamps while it reads.
//!
//! The file may hold anything: nothing here panics, memory and time are bounded by the file's size.

use bifolio_pager::page::KIND;
use bifolio_pager::{Kind, PageGuard, PageId, PageRef, Pager};

use crate::node::{
    Branch, BranchRef, CELLS_START, DEAD, Damage, Key, Layout, Leaf, LeafRef, Overflow, RESERVED,
    SLOT_LEN, Value, View, cell_offset, common_prefix, get_u16, head_of, is_inline, max_key_len,
    no_cell, slot_head,
};
use crate::overflow::{Piece, bounded_len};
use crate::root::Root;

/// Pages asked for at once.
const WINDOW: usize = 64;

/// Something in the file that should not be so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The pages from the root to the one in question, without it.
    pub path: Vec<PageId>,
    /// The page in question.
    pub page: PageId,
    /// What is wrong with it.
    pub what: String,
    /// The keys whose entries are lost with it, or may be: where it cannot be read.
    pub lost: Option<KeyRange>,
}

/// Keys from one to another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyRange {
    /// The first key; `None`: from the beginning.
    pub from: Option<Vec<u8>>,
    /// The first key that is not meant any more; `None`: to the end.
    pub to: Option<Vec<u8>>,
}

impl KeyRange {
    pub(crate) fn between((low, high): FenceRefs<'_>) -> Self {
        KeyRange {
            from: low.map(<[u8]>::to_vec),
            to: high.map(<[u8]>::to_vec),
        }
    }

    /// One key alone.
    pub(crate) fn of(key: &[u8]) -> Self {
        KeyRange {
            from: Some(key.to_vec()),
            to: Some([key, &[0]].concat()),
        }
    }

    /// Whether `key` is among them.
    pub fn contains(&self, key: &[u8]) -> bool {
        self.from.as_deref().is_none_or(|from| from <= key)
            && self.to.as_deref().is_none_or(|to| key < to)
    }
}

impl std::fmt::Display for KeyRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.from {
            Some(from) => write!(f, "from \"{}\"", from.escape_ascii())?,
            None => write!(f, "from the first")?,
        }
        match &self.to {
            Some(to) => write!(f, " to before \"{}\"", to.escape_ascii()),
            None => write!(f, " to the last"),
        }
    }
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for page in &self.path {
            write!(f, "{page} > ")?;
        }
        write!(f, "{}: {}", self.page, self.what)?;
        match &self.lost {
            Some(keys) => write!(f, "; with it, keys {keys}"),
            None => Ok(()),
        }
    }
}

/// What [`check`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// What is wrong, in the order in which it was met; empty for a sound tree.
    pub findings: Vec<Finding>,
    /// Branches reached.
    pub branches: u64,
    /// Leaves reached.
    pub leaves: u64,
    /// Overflow pages reached.
    pub overflow_pages: u64,
    /// Entries found.
    pub entries: u64,
    /// Bytes on branches and leaves that hold nothing.
    pub unused_bytes: u64,
}

impl Report {
    /// Whether nothing was found.
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }

    /// Pages reached.
    pub fn pages(&self) -> u64 {
        self.branches + self.leaves + self.overflow_pages
    }
}

/// Reads every page of the tree and reports all that is wrong with it.
///
/// `visit` is told every page that something refers to, readable or not, once, with the kind that
/// is expected of it: for comparing with what is allocated. Where a page is damaged, what lies
/// below it is not reached. Takes a bit of memory per page of the file.
pub fn check<P: Pager>(pager: &P, root: Root, visit: &mut dyn FnMut(PageRef, Kind)) -> Report {
    let mut checker = Checker {
        pager,
        visit,
        report: Report::default(),
        path: Vec::new(),
        seen: Seen::default(),
    };
    if let Some(top) = root.page {
        checker.node(top, root.top_level(), (None, None));
        let found = checker.report.entries;
        if checker.report.is_clean() && found != root.entries {
            let what = format!("the tree has {found} entries, not {}", root.entries);
            checker.found(top, what);
        }
    }
    checker.report
}

pub(crate) type FenceRefs<'k> = (Option<&'k [u8]>, Option<&'k [u8]>);

struct Checker<'c, P> {
    pager: &'c P,
    visit: &'c mut dyn FnMut(PageRef, Kind),
    report: Report,
    path: Vec<PageId>,
    seen: Seen,
}

/// A bit for each page of the file: whether it was reached.
#[derive(Default)]
pub(crate) struct Seen(Vec<u64>);

impl Seen {
    /// Notes that a page was reached; `false` if it was before.
    pub(crate) fn mark(&mut self, id: PageId, page_count: u64) -> bool {
        if id.get() >= page_count {
            return true; // reading it fails
        }
        let (word, bit) = ((id.get() / 64) as usize, 1 << (id.get() % 64));
        if word >= self.0.len() {
            self.0.resize(word + 1, 0);
        }
        let before = self.0[word];
        self.0[word] |= bit;
        before & bit == 0
    }
}

impl<P: Pager> Checker<'_, P> {
    fn found(&mut self, at: PageRef, what: impl Into<String>) {
        self.found_losing(at, what, None);
    }

    fn found_losing(&mut self, at: PageRef, what: impl Into<String>, lost: Option<KeyRange>) {
        self.report.findings.push(Finding {
            path: self.path.clone(),
            page: at.id,
            what: what.into(),
            lost,
        });
    }

    /// A copy of the page, if it was not reached before and can be read.
    fn reach(&mut self, at: PageRef, kind: Kind, lost: &dyn Fn() -> KeyRange) -> Option<Vec<u8>> {
        if !self.seen.mark(at.id, self.pager.page_count()) {
            self.found(at, "the page is reached a second time");
            return None;
        }
        (self.visit)(at, kind);
        let copy = self.pager.read(at).and_then(|page| {
            let copy = page.to_vec();
            page.confirm()?;
            Ok(copy)
        });
        copy.map_err(|error| self.found_losing(at, error.to_string(), Some(lost())))
            .ok()
    }

    fn node(&mut self, at: PageRef, level: u8, fences: FenceRefs<'_>) {
        let kind = if level == 0 { Kind::Leaf } else { Kind::Branch };
        let Some(image) = self.reach(at, kind, &|| KeyRange::between(fences)) else {
            return;
        };
        let damage = if level == 0 {
            self.report.leaves += 1;
            self.leaf(at, &image, fences)
        } else {
            self.report.branches += 1;
            self.branch(at, &image, level, fences)
        };
        if let Err(what) = damage {
            self.found_losing(at, what, Some(KeyRange::between(fences)));
        }
    }

    fn leaf(&mut self, at: PageRef, page: &[u8], fences: FenceRefs<'_>) -> Result<(), Damage> {
        let leaf = LeafRef::parse(page, 0)?;
        layout(&leaf)?;
        keys(&leaf, fences)?;
        if leaf.count() == 0 {
            return Err("a leaf is empty");
        }
        self.report.entries += leaf.count() as u64;
        self.report.unused_bytes += unused(&leaf);
        let mut overflows = Vec::new();
        for item in leaf.items()? {
            let value_len = match item.payload {
                Value::Inline(value) => value.len(),
                Value::Overflow(overflow) => overflow.len as usize,
            };
            let should_be_inline = is_inline(item.key.len(), value_len, page.len());
            match item.payload {
                Value::Inline(_) if !should_be_inline => return Err("a value should overflow"),
                Value::Overflow(_) if should_be_inline => {
                    return Err("a value overflows needlessly");
                }
                Value::Inline(_) => {}
                Value::Overflow(overflow) => overflows.push((item.key.to_vec(), overflow)),
            }
        }
        self.path.push(at.id);
        for (key, overflow) in overflows {
            self.chain(&key, overflow);
        }
        self.path.pop();
        Ok(())
    }

    fn branch(
        &mut self,
        at: PageRef,
        page: &[u8],
        level: u8,
        fences: FenceRefs<'_>,
    ) -> Result<(), Damage> {
        let branch = BranchRef::parse(page, level)?;
        layout(&branch)?;
        keys(&branch, fences)?;
        if branch.count() == 0 {
            return Err("a branch has no keys");
        }
        self.report.unused_bytes += unused(&branch);
        let children = (0..=branch.count())
            .map(|index| branch.child(index))
            .collect::<Result<Vec<PageRef>, Damage>>()?;
        let separators = (0..branch.count())
            .map(|index| Ok(branch.key(index)?.to_vec()))
            .collect::<Result<Vec<Vec<u8>>, Damage>>()?;
        self.path.push(at.id);
        for (index, &child) in children.iter().enumerate() {
            if index % WINDOW == 0 {
                let window = &children[index..children.len().min(index + WINDOW)];
                self.pager.prefetch(window);
            }
            let low = match index.checked_sub(1) {
                Some(before) => Some(&separators[before][..]),
                None => fences.0,
            };
            let high = separators.get(index).map(Vec::as_slice).or(fences.1);
            self.node(child, level - 1, (low, high));
        }
        self.path.pop();
        Ok(())
    }

    /// Follows the chain of a value. Each page has a part of the value, so it comes to an end.
    fn chain(&mut self, key: &[u8], overflow: Overflow) {
        let lost = || KeyRange::of(key);
        let mut remaining = match bounded_len(self.pager, overflow) {
            Ok(len) => len,
            Err(error) => {
                return self.found_losing(overflow.first, error.to_string(), Some(lost()));
            }
        };
        let mut next = Some(overflow.first);
        let mut promised = None; // what the page before says of this one's run
        while let Some(at) = next {
            let Some(image) = self.reach(at, Kind::Overflow, &lost) else {
                return;
            };
            self.report.overflow_pages += 1;
            match chain_page(&image, at, remaining, promised) {
                Err(what) => return self.found_losing(at, what, Some(lost())),
                Ok(piece) => {
                    remaining -= piece.payload.len();
                    promised = piece.run.checked_sub(1);
                    next = piece.next;
                }
            }
        }
    }
}

fn chain_page(
    page: &[u8],
    at: PageRef,
    remaining: usize,
    promised: Option<u64>,
) -> Result<Piece<'_>, Damage> {
    let piece = Piece::parse(page, remaining)?;
    if piece.rest(page).iter().any(|&byte| byte != 0) {
        return Err("an overflow page has bytes after its part of the value");
    }
    if promised.is_some_and(|promised| promised != piece.run) {
        return Err("the pages of a run of overflow pages disagree about its length");
    }
    if let Some(next) = piece.next {
        if next.version != at.version {
            return Err("the pages of a chain carry different stamps");
        }
        if piece.run > 0 && Some(next.id.get()) != at.id.get().checked_add(1) {
            return Err("a page of a run of overflow pages is not followed by its neighbour");
        }
    }
    Ok(piece)
}

fn unused<L: Layout>(node: &View<'_, L>) -> u64 {
    (node.bytes().len() - L::HEADER_LEN).saturating_sub(node.used()) as u64
}

/// What is wrong with how a branch or leaf covers its page, if anything.
pub(crate) fn layout_damage(page: &[u8]) -> Option<Damage> {
    let level = page[crate::node::LEVEL.start];
    let verdict = match page[KIND.start] {
        kind if kind == Kind::Leaf as u8 => View::<Leaf>::parse(page, 0).and_then(|n| layout(&n)),
        _ => View::<Branch>::parse(page, level).and_then(|n| layout(&n)),
    };
    verdict.err()
}

/// Header, prefix, slots, gap, cells and dead bytes cover the page; heads are those of the keys.
pub(crate) fn layout<L: Layout>(node: &View<'_, L>) -> Result<(), Damage> {
    let page = node.bytes();
    if page[RESERVED] != [0; 2] {
        return Err("reserved bytes are not zero");
    }
    let cells_start = get_u16(page, CELLS_START);
    let slots_end = L::HEADER_LEN + node.prefix().len() + node.count() * SLOT_LEN;
    if page[slots_end..cells_start].iter().any(|&byte| byte != 0) {
        return Err("the gap is not zero");
    }
    let mut cells = Vec::with_capacity(node.count());
    for (index, slot) in node.slots().iter().enumerate() {
        let len = L::cell_len(node.cell(index)?).ok_or_else(no_cell)?;
        cells.push((cell_offset(slot), len));
        if slot_head(slot) != head_of(node.suffix(index)?) {
            return Err("a slot does not have the head of its key");
        }
    }
    cells.sort_unstable();
    let mut end = cells_start;
    let mut dead = 0;
    for (start, len) in cells.into_iter().chain([(page.len(), 0)]) {
        let hole = page
            .get(end..start)
            .ok_or("two cells overlap, or one the slots")?;
        if hole.iter().any(|&byte| byte != 0) {
            return Err("dead bytes are not zero");
        }
        dead += hole.len();
        end = start + len;
    }
    if dead != get_u16(page, DEAD) {
        return Err("the count of dead bytes is wrong");
    }
    if node.count() == 0 && cells_start != page.len() {
        return Err("a page without cells has a cell area");
    }
    Ok(())
}

/// The prefix is that of the fences; keys rise, lie between the fences, and are not too long.
pub(crate) fn keys<L: Layout>(
    node: &View<'_, L>,
    (low, high): FenceRefs<'_>,
) -> Result<(), Damage> {
    let prefix = match (low, high) {
        (Some(low), Some(high)) => &low[..common_prefix(low, high)],
        _ => &[],
    };
    if node.prefix() != prefix {
        return Err("the prefix is not what the separators around the page have in common");
    }
    let max_len = bifolio_pager::PageSize::ALL
        .into_iter()
        .find(|size| size.usable() == node.bytes().len())
        .map_or(0, max_key_len);
    let mut before: Option<Key<'_>> = None;
    for index in 0..node.count() {
        let key = node.key(index)?;
        if key.len() > max_len {
            return Err("a key is too long");
        }
        if before.is_some_and(|before| before.cmp(&key).is_ge()) {
            return Err("keys do not rise");
        }
        before = Some(key);
    }
    let outside = |index: usize| -> Result<bool, Damage> {
        let key = node.key(index)?;
        let below = low.is_some_and(|low| key.cmp(&Key::whole(low)).is_lt());
        let above = high.is_some_and(|high| key.cmp(&Key::whole(high)).is_ge());
        Ok(below || above)
    };
    if node.count() > 0 && (outside(0)? || outside(node.count() - 1)?) {
        return Err("a key does not lie between the separators around its page");
    }
    Ok(())
}
