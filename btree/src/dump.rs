//! Printing a page as the format's tables print it.

use std::fmt::{self, Write};

use bifolio_pager::page::{KIND, SELF_REF};
use bifolio_pager::{Kind, PageRef};

use crate::node::{
    Branch, BranchRef, CELLS_START, DEAD, LEVEL, Layout, Leaf, NODE_HEADER_LEN, Value, View,
    cell_offset, get_u16, slot_head,
};
use crate::overflow::describe;

/// The most bytes of a key or value that are printed.
const SHOWN: usize = 32;

/// A page of a tree in words, one line for each part of it. Any bytes will do: what does not make
/// sense is said to make none.
pub fn dump(page: &[u8]) -> String {
    let mut out = String::new();
    write_page(&mut out, page).expect("writing to a string does not fail");
    out
}

fn write_page(out: &mut String, page: &[u8]) -> fmt::Result {
    if page.len() < NODE_HEADER_LEN {
        return writeln!(out, "{} bytes, too few for a page", page.len());
    }
    let own = PageRef::decode(&page[SELF_REF]);
    write!(out, "page {} version {}: ", own.id, own.version)?;
    match Kind::of(page) {
        Some(Kind::Branch) => write_node::<Branch>(out, page, write_children),
        Some(Kind::Leaf) => write_node::<Leaf>(out, page, write_entries),
        Some(Kind::Overflow) => writeln!(out, "{}", describe(page)),
        Some(kind) => writeln!(out, "{kind:?}, not a page of a tree"),
        None => writeln!(out, "kind {}, which there is not", page[KIND.start]),
    }
}

fn write_node<L: Layout>(
    out: &mut String,
    page: &[u8],
    write_cells: impl Fn(&mut String, &View<'_, L>) -> fmt::Result,
) -> fmt::Result {
    let node = match View::<L>::parse(page, page[LEVEL.start]) {
        Ok(node) => node,
        Err(what) => return writeln!(out, "{:?}, but {what}", L::KIND),
    };
    writeln!(
        out,
        "{:?} level {} count {} cells_start {} dead {} prefix {}",
        L::KIND,
        page[LEVEL.start],
        node.count(),
        get_u16(page, CELLS_START),
        get_u16(page, DEAD),
        Bytes(node.prefix()),
    )?;
    write_cells(out, &node)
}

fn write_slot<L: Layout>(out: &mut String, node: &View<'_, L>, index: usize) -> fmt::Result {
    let slot = &node.slots()[index];
    let (head, offset) = (slot_head(slot), cell_offset(slot));
    write!(out, "  {index:>4}  head {head:08x}  at {offset:>5}  ")?;
    match node.suffix(index) {
        Ok(suffix) => write!(out, "{}", Bytes(suffix)),
        Err(what) => write!(out, "({what})"),
    }
}

fn write_children(out: &mut String, branch: &BranchRef<'_>) -> fmt::Result {
    for index in 0..=branch.count() {
        match index.checked_sub(1) {
            None => write!(out, "  leftmost")?,
            Some(slot) => write_slot(out, branch, slot)?,
        }
        match branch.child(index) {
            Ok(child) => writeln!(out, " -> {child:?}")?,
            Err(what) => writeln!(out, " -> ({what})")?,
        }
    }
    Ok(())
}

fn write_entries(out: &mut String, leaf: &View<'_, Leaf>) -> fmt::Result {
    for index in 0..leaf.count() {
        write_slot(out, leaf, index)?;
        match leaf.payload(index) {
            Ok(Value::Inline(value)) => writeln!(out, " = {}", Bytes(value))?,
            Ok(Value::Overflow(chain)) => {
                writeln!(out, " = {} bytes from {:?} on", chain.len, chain.first)?;
            }
            Err(what) => writeln!(out, " = ({what})")?,
        }
    }
    Ok(())
}

/// Bytes as a person reads them best: text where they are text.
struct Bytes<'a>(&'a [u8]);

impl fmt::Display for Bytes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (shown, more) = match self.0.split_at_checked(SHOWN) {
            Some((shown, rest)) => (shown, rest.len()),
            None => (self.0, 0),
        };
        write!(f, "\"{}\"", shown.escape_ascii())?;
        if more > 0 {
            write!(f, " and {more} bytes")?;
        }
        Ok(())
    }
}
