//! The same with the redo log: pages and log on modelled disks that lose power together, at every
//! operation of either, and during the recovery that follows.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use bifolio_pager::faulty::Call;
use bifolio_pager::{Faulty, MemPager, MetaSlot, PageSize};
use parking_lot::Mutex;

use super::{State, Workload, content, expect_one_of, fill, first_disk, modelled};
use crate::core::{AnyPager, Keeping};
use crate::database::Database;
use crate::durability::Durability;
use crate::error::Result;
use crate::file;
use crate::log::sim::{Fault, SimDisk, Survival};
use crate::log::{self, SyncMethod};
use crate::meta::Meta;
use crate::options::LogPlace;
use crate::pace::Background;
use crate::recovery::{self, Progress};

/// Both disks of a machine.
pub(super) struct Machine {
    pub pages: MemPager,
    pub log: SimDisk,
}

impl Machine {
    pub fn new(page_size: PageSize) -> Self {
        Machine {
            pages: first_disk(page_size),
            log: SimDisk::new(1),
        }
    }

    /// Opens the database as the product does, but that checkpoints come only when asked for: the
    /// two images of a moment must be of the same moment.
    pub fn open(self) -> Result<(Database, SimDisk)> {
        let (db, log) = self.assemble(1 << 40)?;
        match recovery::recover(&db.open, Progress::new(None)) {
            Ok(_) => Ok((db, log)),
            Err(error) => Err(db.open.poison(&error)),
        }
    }

    /// The database before its recovery, with checkpoints due after so many bytes of log.
    pub fn assemble(self, limit_bytes: u64) -> Result<(Database, SimDisk)> {
        self.assemble_with(limit_bytes, None)
    }

    /// The same, with these threads in the background.
    pub fn assemble_with(
        self,
        limit_bytes: u64,
        background: Option<Background>,
    ) -> Result<(Database, SimDisk)> {
        let read = |slot| Meta::decode_slot(&self.pages.read_meta(slot).unwrap_or_default());
        let newest = file::newest_of(Path::new("modelled"), read(MetaSlot::A), read(MetaSlot::B))?;
        let place = LogPlace {
            disk: Arc::new(self.log.clone()),
            prefix: "modelled".into(),
            options: log::Options {
                segment_bytes: 1 << 14,
                spare_segments: 1,
                buffer_bytes: 1 << 17,
                sync: SyncMethod::Fdatasync,
            },
            limit_bytes,
        };
        let pager = AnyPager::Modelled(Faulty::new(self.pages));
        let keeping = Keeping::Log(place);
        let db = Database::assemble(PathBuf::new(), pager, keeping, newest, false, background)?;
        Ok((db, self.log))
    }
}

/// A machine without power, and the commits that must and that may be on it.
pub(super) struct Image {
    pub machine: Machine,
    synced: usize,
    begun: usize,
    pub moment: String,
}

/// Takes images of both disks of `db` before every operation of either, until it is dropped.
pub(super) struct Camera {
    pub images: Arc<Mutex<Vec<Image>>>,
    synced: Arc<AtomicUsize>,
    begun: Arc<AtomicUsize>,
}

impl Camera {
    pub fn on(db: &Database, log: &SimDisk, seeds: u64) -> Self {
        let camera = Camera {
            images: Arc::default(),
            synced: Arc::default(),
            begun: Arc::default(),
        };
        let operations = Arc::new(AtomicU64::new(0));
        let shoot = {
            let (images, synced, begun) = (
                camera.images.clone(),
                camera.synced.clone(),
                camera.begun.clone(),
            );
            move |pages: &dyn Fn(u64) -> MemPager, log: &SimDisk, what: &str| {
                let operation = operations.fetch_add(1, Ordering::SeqCst);
                for seed in 0..seeds {
                    let seed = operation * seeds + seed;
                    let survival = [Survival::Some, Survival::Garbage, Survival::Nothing];
                    let log = log.power_cut(seed, survival[(seed % 3) as usize]);
                    images.lock().push(Image {
                        machine: Machine {
                            pages: pages(seed),
                            log,
                        },
                        synced: synced.load(Ordering::SeqCst),
                        begun: begun.load(Ordering::SeqCst),
                        moment: format!("operation {operation} ({what}), seed {seed}"),
                    });
                }
            }
        };
        let shoot = Arc::new(shoot);
        modelled(db).before_each({
            let (shoot, log) = (shoot.clone(), log.clone());
            move |pages: &MemPager, call: Call<'_>| match call {
                Call::Read { .. } => {}
                Call::WriteMeta { slot, meta } => {
                    shoot(
                        &|seed| pages.power_cut_in_meta(slot, meta, seed),
                        &log,
                        "meta",
                    );
                }
                call => shoot(
                    &|seed| pages.power_cut_torn(seed),
                    &log,
                    &format!("{call:?}"),
                ),
            }
        });
        let open = Arc::downgrade(&db.open);
        log.before_each(move |log, _| {
            let Some(open) = open.upgrade() else { return };
            let AnyPager::Modelled(pager) = &open.pager else {
                return;
            };
            shoot(&|seed| pager.inner().power_cut_torn(seed), log, "log");
        });
        camera
    }
}

/// Runs the workload with commits of every kind, and a checkpoint now and then.
fn run(db: &Database, workload: &Workload, seed: u64, camera: &Camera) -> Result<()> {
    for (index, changes) in workload.transactions.iter().enumerate() {
        camera.begun.store(index + 1, Ordering::SeqCst);
        let kind = (seed + index as u64 * 7) % 10;
        let mut txn = db.write()?;
        fill(&mut txn, changes)?;
        match kind {
            0..=5 => {
                txn.commit()?;
                camera.synced.store(index + 1, Ordering::SeqCst);
            }
            6 => drop(txn.commit_with(Durability::Interval)?),
            7 => {
                // Not logged: a barrier, and a checkpoint before it counts.
                txn.table("bulk")?.clear()?;
                txn.table("bulk")?
                    .bulk_load((0..50_u32).map(|key| (key.to_be_bytes(), [1; 90])))?;
                txn.commit()?;
                camera.synced.store(index + 1, Ordering::SeqCst);
            }
            8 => {
                txn.table("bulk")?.clear()?;
                txn.table("bulk")?
                    .bulk_load([("unlogged", "and nobody waits")])?;
                drop(txn.submit()?);
            }
            _ => {
                txn.commit()?;
                camera.synced.store(index + 1, Ordering::SeqCst);
                db.checkpoint()?;
            }
        }
    }
    Ok(())
}

pub(super) fn images(
    workload: &Workload,
    page_size: PageSize,
    seed: u64,
    seeds: u64,
) -> Vec<Image> {
    let (db, log) = Machine::new(page_size).open().unwrap();
    let camera = Camera::on(&db, &log, seeds);
    run(&db, workload, seed, &camera).unwrap();
    log.unhook();
    drop(db);
    std::mem::take(&mut *camera.images.lock())
}

#[test]
fn a_power_cut_at_any_moment_leaves_a_prefix_with_every_commit_that_was_synced() {
    let (mut count, mut replayed) = (0, 0);
    for (seed, page_size) in (0..8).zip(PageSize::ALL.into_iter().cycle()) {
        let workload = Workload::random(1000 + seed, 14);
        for image in images(&workload, page_size, seed, 3) {
            let context = format!("workload {seed}, {}", image.moment);
            let (db, _) = image
                .machine
                .open()
                .unwrap_or_else(|error| panic!("{context}: {error}"));
            expect_one_of(&db, &workload.states[image.synced..=image.begun], &context);
            replayed += db.open.log.get().map_or(0, |_| 1);
            count += 1;
        }
    }
    println!("{count} images, {replayed} of them with a log");
    assert!(count > 1000 && replayed > 500, "{count}, {replayed}");
}

#[test]
fn a_power_cut_during_recovery_is_only_another_one() {
    let mut count = 0;
    for seed in 0..3 {
        let workload = Workload::random(2000 + seed, 10);
        for image in images(&workload, PageSize::DEFAULT, seed, 1)
            .into_iter()
            .step_by(5)
        {
            let allowed = &workload.states[image.synced..=image.begun];
            // Recovery changes the disks from the first to the last of its operations.
            let again = Machine {
                pages: image.machine.pages.power_cut(),
                log: image.machine.log.copy(),
            };
            let expected: State = content(&image.machine.open().unwrap().0);
            assert!(allowed.contains(&expected), "{}", image.moment);
            for cut in recovery_images(again) {
                let (db, _) = cut
                    .open()
                    .unwrap_or_else(|error| panic!("{}: {error}", image.moment));
                expect_one_of(&db, std::slice::from_ref(&expected), &image.moment);
                count += 1;
            }
        }
    }
    println!("{count} images");
    assert!(count > 100, "{count}");
}

/// What power cuts at every operation of the log during one recovery leave.
fn recovery_images(machine: Machine) -> Vec<Machine> {
    let cuts: Arc<Mutex<Vec<SimDisk>>> = Arc::default();
    let base = machine.pages.power_cut();
    machine.log.before_each({
        let cuts = cuts.clone();
        move |log, operation| cuts.lock().push(log.power_cut(operation, Survival::Some))
    });
    let (db, log) = machine.open().unwrap();
    log.unhook();
    // Until the checkpoint's meta is written nothing durable has changed on the pages' disk, so
    // cuts before it go with the pages as they were; the last image is of both as they are.
    let mut machines: Vec<_> = std::mem::take(&mut *cuts.lock())
        .into_iter()
        .take(3)
        .map(|log| Machine {
            pages: base.power_cut(),
            log,
        })
        .collect();
    machines.push(Machine {
        pages: modelled(&db).inner().power_cut(),
        log: log.copy(),
    });
    machines
}

#[test]
fn any_log_write_that_fails_poisons_and_loses_nothing_that_was_synced() {
    let workload = Workload::random(3000, 10);
    let (db, log) = Machine::new(PageSize::DEFAULT).open().unwrap();
    run(&db, &workload, 0, &Camera::on(&db, &SimDisk::new(9), 0)).unwrap();
    let operations = log.operations();
    assert!(operations > 20, "{operations}");
    for at in 0..operations {
        for fault in [
            Fault::Error(std::io::ErrorKind::StorageFull),
            Fault::Partly,
            Fault::PowerOff,
        ] {
            let (db, log) = Machine::new(PageSize::DEFAULT).open().unwrap();
            log.fail_at(at, fault);
            let camera = Camera::on(&db, &SimDisk::new(9), 0);
            let outcome = run(&db, &workload, 0, &camera);
            let context = format!("operation {at} of the log, {fault:?}: {outcome:?}");
            let (synced, begun) = (
                camera.synced.load(Ordering::SeqCst),
                camera.begun.load(Ordering::SeqCst),
            );
            if outcome.is_err() {
                assert!(
                    db.write().is_err(),
                    "{context}: a transaction was begun after it"
                );
                let seen = content(&db);
                assert!(workload.states[synced..=begun].contains(&seen), "{context}");
            }
            let left = Machine {
                pages: modelled(&db).inner().power_cut_torn(at),
                log: log.power_cut(at, Survival::Some),
            };
            drop(db);
            let (db, _) = left
                .open()
                .unwrap_or_else(|error| panic!("{context}: {error}"));
            expect_one_of(&db, &workload.states[synced..=begun], &context);
        }
    }
}
