//! A stamp is never used twice: else a page whose newest write was lost could pass for the new one.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bifolio_pager::faulty::{Call, Operations};
use bifolio_pager::page::SELF_REF;
use bifolio_pager::{MemPager, PageId, PageRef, PageSize, Pager, Version};
use parking_lot::Mutex;

use super::{Workload, commit, content, create, modelled, open};

/// The highest stamp on any page of the disk, whether anything leads to it or not.
fn highest_stamp(disk: &MemPager) -> Version {
    let mut highest = Version::ZERO;
    for number in bifolio_pager::first_page(disk.geometry()).get()..disk.page_count() {
        disk.corrupt(PageId::new(number), |image| {
            let own = PageRef::decode(&image[SELF_REF]); // only a look
            if own.id.get() == number {
                highest = highest.max(own.version);
            }
        });
    }
    highest
}

#[test]
fn after_a_crash_no_stamp_is_used_that_is_on_the_disk() {
    let workload = Workload::random(300, 10);
    let db = create(PageSize::DEFAULT);
    let images = Arc::new(Mutex::new(Vec::new()));
    let hook = {
        let images = Arc::clone(&images);
        move |disk: &MemPager, call: Call<'_>| {
            let cuts = [disk.process_exit(), disk.power_cut()];
            let moment = format!("{call:?}");
            images.lock().extend(cuts.map(|cut| (cut, moment.clone())));
        }
    };
    modelled(&db).before_each(hook);
    for (number, changes) in workload.transactions.iter().enumerate() {
        commit(&db, changes).unwrap();
        // One that is given up has used its stamp as well.
        let mut txn = db.write().unwrap();
        txn.table("t").unwrap().insert([number as u8], "x").unwrap();
        txn.rollback();
    }
    drop(db);
    let mut beyond_the_meta = 0;
    for (disk, moment) in std::mem::take(&mut *images.lock()) {
        let highest = highest_stamp(&disk);
        let db = open(disk).unwrap();
        beyond_the_meta += u32::from(highest > db.read().unwrap().version());
        let next = db.write().unwrap().version();
        assert!(next > highest, "{moment}: {next} is on a page already");
    }
    assert!(beyond_the_meta > 20, "{beyond_the_meta}: nothing was tried");
}

#[test]
fn where_the_floor_is_reached_it_is_raised_before_a_page_is_written() {
    let db = create(PageSize::DEFAULT);
    commit(&db, &[(vec![1], Some(vec![1]))]).unwrap();
    // As if a million transactions had been given up.
    let mut writer = db.open.take_writer().unwrap();
    writer.next_version = Version::new(db.open.floor.load(Ordering::Relaxed));
    let reached = writer.next_version;
    db.open.give_writer_back(writer);
    let metas = modelled(&db).performed(Operations::WRITE_META);
    let mut txn = db.write().unwrap();
    assert_eq!(txn.version(), reached);
    assert_eq!(modelled(&db).performed(Operations::WRITE_META), metas + 1);
    txn.table("t").unwrap().insert([2], [2]).unwrap();
    let left = open(modelled(&db).inner().process_exit()).unwrap();
    assert!(left.write().unwrap().version() > reached);
    assert_eq!(content(&left).len(), 1);
    txn.commit().unwrap();
    assert_eq!(content(&db).len(), 2);
}
