//! Which meta is written where. A torn meta is made good by its own second copy, so that no power
//! cut of the model shows a meta that was written over the newest one; a sector that a cut leaves
//! unreadable, and a device that writes both copies at once, would.

use std::sync::Arc;

use bifolio_pager::faulty::Call;
use bifolio_pager::{MetaSlot, PageSize};
use parking_lot::Mutex;

use super::logged::Machine;
use super::{Workload, commit, fill, modelled};
use crate::core::AnyPager;
use crate::database::Database;
use crate::meta::Meta;

type Written = Arc<Mutex<Vec<(MetaSlot, Meta)>>>;

/// The metas that are written from now on.
fn written(db: &Database) -> Written {
    let written = Written::default();
    let hook = {
        let written = Arc::clone(&written);
        move |_: &_, call: Call<'_>| {
            if let Call::WriteMeta { slot, meta } = call {
                written
                    .lock()
                    .push((slot, Meta::decode_slot(meta).unwrap()));
            }
        }
    };
    modelled(db).before_each(hook);
    written
}

#[test]
fn a_meta_is_never_written_over_the_newest_one() {
    let (db, _log) = Machine::new(PageSize::DEFAULT).open().unwrap();
    let written = written(&db);
    for changes in &Workload::random(500, 6).transactions {
        let mut txn = db.write().unwrap();
        fill(&mut txn, changes).unwrap();
        txn.commit().unwrap();
        db.checkpoint().unwrap();
    }
    drop(db);
    let written = written.lock();
    assert!(written.len() > 7, "the first, one for each, the last");
    let mut newest = (MetaSlot::A, 1);
    for (slot, meta) in written.iter() {
        assert_ne!(*slot, newest.0, "the newest meta was overwritten");
        assert_eq!(meta.sequence, newest.1 + 1);
        newest = (*slot, meta.sequence);
    }
    let (_, last) = written.last().unwrap();
    assert!(last.clean && last.log.is_none());
}

#[test]
fn a_checkpoint_that_reaches_the_floor_raises_it_before_it_writes_a_page() {
    let (db, _log) = Machine::new(PageSize::DEFAULT).open().unwrap();
    commit(&db, &[(vec![1], Some(vec![1]))]).unwrap();
    // As if a million transactions had been given up.
    let reached = db.open.metas.lock().meta.floor;
    let mut writer = db.open.take_writer().unwrap();
    writer.next_version = reached;
    db.open.give_writer_back(writer);
    let written = written(&db);
    db.checkpoint().unwrap();
    let written = written.lock();
    let [(_, raised), (_, checkpointed)] = written[..] else {
        panic!("{written:?}");
    };
    assert!(
        raised.version < reached && raised.floor > reached,
        "{raised:?}"
    );
    assert_eq!(checkpointed.version, reached);
}

#[test]
fn a_clean_mark_beside_a_log_is_written_again_before_the_log_is_removed() {
    let (db, log) = Machine::new(PageSize::DEFAULT).open().unwrap();
    commit(&db, &[(vec![1], Some(vec![1]))]).unwrap();
    let core = Arc::clone(db.open.core());
    let left = log.copy();
    drop(db);
    let AnyPager::Modelled(pages) = &core.pager else {
        unreachable!("the machine is modelled")
    };
    let machine = Machine {
        pages: pages.inner().power_cut(),
        log: left.copy(),
    };
    let (db, log) = machine.open().unwrap();
    let newest = {
        let metas = db.open.metas.lock();
        assert!(metas.meta.clean, "it was closed");
        (metas.slot, metas.meta)
    };
    let written = written(&db);
    let before_removal = Arc::new(Mutex::new(None));
    log.before_each({
        let (written, before) = (Arc::clone(&written), Arc::clone(&before_removal));
        move |_, _| {
            before.lock().get_or_insert_with(|| written.lock().clone());
        }
    });
    commit(&db, &[(vec![2], Some(vec![2]))]).unwrap();
    let before_removal = before_removal.lock().take();
    assert_eq!(before_removal.as_deref(), Some(&[newest][..]));
    assert!(!written.lock().last().unwrap().1.clean, "it is open now");
}
