//! The check finds what it is for: a check that finds nothing proves nothing.

use bifolio_btree::Root;
use bifolio_pager::{Kind, PageId, PageRef, PageSize};

use super::{Workload, commit, content, create, modelled};
use crate::catalogue;
use crate::core::Writer;
use crate::database::Database;

/// A database in which `harm` was done to the allocation map, and was committed.
fn harmed(harm: impl FnOnce(&Database, &mut Writer)) -> Database {
    let db = create(PageSize::DEFAULT);
    for changes in &Workload::random(400, 5).transactions {
        commit(&db, changes).unwrap();
    }
    assert!(db.check().unwrap().is_clean());
    let mut writer = db.open.take_writer().unwrap();
    harm(&db, &mut writer);
    db.open.give_writer_back(writer);
    commit(&db, &[(b"harm".to_vec(), Some(b"done".to_vec()))]).unwrap();
    db
}

fn findings(db: &Database) -> Vec<(PageId, String)> {
    let report = db.check().unwrap();
    assert_eq!(report.is_clean(), report.findings.is_empty());
    let found = report.findings.into_iter();
    found
        .map(|found| (found.finding.page, found.finding.what))
        .collect()
}

#[test]
fn the_check_finds_pages_that_nobody_has() {
    let mut lost = Vec::new();
    let db = harmed(|db, writer| {
        for _ in 0..3 {
            lost.push(writer.space.allocate(modelled(db)).unwrap());
        }
    });
    lost.sort_unstable();
    let expected = lost
        .into_iter()
        .map(|page| (page, "neither in use nor free".to_owned()));
    assert_eq!(findings(&db), expected.collect::<Vec<_>>());
    assert!(!content(&db).is_empty(), "which reading does not mind");
}

#[test]
fn the_check_finds_pages_in_use_that_may_be_handed_out() {
    let mut given_away = PageId::new(0);
    let db = harmed(|db, writer| {
        let catalogue = db.open.current().catalogue;
        let table = catalogue::find(modelled(db), catalogue, "t").unwrap();
        let overflow = find_overflow(db, table.unwrap());
        given_away = overflow.id;
        let at = writer.next_version;
        writer.space.retire(modelled(db), overflow, at).unwrap();
    });
    assert_eq!(findings(&db), [(given_away, "in use, but free".to_owned())]);
}

/// A page of a long value, which a commit does not copy unless it changes the value.
fn find_overflow(db: &Database, table: Root) -> PageRef {
    let mut found = None;
    bifolio_btree::check(modelled(db), table, &mut |page, kind| {
        if kind == Kind::Overflow {
            found = Some(page);
        }
    });
    found.expect("the workload has long values")
}
