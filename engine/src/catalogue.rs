//! The catalogue: a tree from the name of a table to the root of its tree.
//!
// ANCHOR: catalogue
//! Key: the table's name in UTF-8. Value: the table's root, as `btree::Root` encodes it.
// ANCHOR_END: catalogue

use bifolio_btree::{Root, Tree};
use bifolio_pager::Pager;

use crate::error::{Error, Result};

/// The most bytes that a table's name may have: a key of the smallest page holds it.
pub const MAX_NAME_LEN: usize = 255;

pub(crate) fn check_name(name: &str) -> Result<()> {
    if name.is_empty() || name.len() > MAX_NAME_LEN {
        return Err(Error::BadTableName {
            len: name.len(),
            max: MAX_NAME_LEN,
        });
    }
    Ok(())
}

/// The root of the table `name`, if there is one.
pub(crate) fn find<P: Pager>(pager: &P, catalogue: Root, name: &str) -> Result<Option<Root>> {
    check_name(name)?;
    Tree::new(pager, catalogue)
        .get_with(name.as_bytes(), decode_entry)?
        .transpose()
        .map_err(|why| corrupt_entry(name, why))
}

/// Every table with its root, in the order of their names.
pub(crate) fn list<P: Pager>(pager: &P, catalogue: Root) -> Result<Vec<(String, Root)>> {
    let mut tables = Vec::new();
    for entry in Tree::new(pager, catalogue).iter() {
        let (name, root) = entry?;
        let name = String::from_utf8_lossy(&name).into_owned();
        let root = decode_entry(&root).map_err(|why| corrupt_entry(&name, why))?;
        tables.push((name, root));
    }
    Ok(tables)
}

/// A table, from an entry of the catalogue.
pub(crate) fn decode(name: &[u8], root: &[u8]) -> Result<(String, Root)> {
    let lossy = || String::from_utf8_lossy(name).into_owned();
    let utf8 = std::str::from_utf8(name).map_err(|_| corrupt_entry(&lossy(), "it is not UTF-8"))?;
    check_name(utf8)?;
    let root = decode_entry(root).map_err(|why| corrupt_entry(utf8, why))?;
    Ok((utf8.to_owned(), root))
}

fn decode_entry(bytes: &[u8]) -> Result<Root, &'static str> {
    if bytes.len() != Root::LEN {
        return Err("it has another length");
    }
    Root::decode(bytes)
}

fn corrupt_entry(name: &str, why: &str) -> Error {
    Error::CorruptRecord {
        what: format!("the catalogue entry of table {name:?}"),
        why: why.to_owned(),
    }
}
