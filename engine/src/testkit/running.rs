//! A database that runs on a machine: looking at each of its operations, and making them fail.

use std::io;
use std::sync::Arc;

use bifolio_pager::faulty::{self, Call, Plan};
use bifolio_pager::witness::{Verdict, Watching};
use bifolio_pager::{Cut, Faulty, MemPager};

use super::machine::{Machine, Stored};
use super::shadow::Shadow;
use crate::core::{AnyPager, Core};
use crate::database::Database;
use crate::error::Result;
use crate::log::sim::{Fault, SimDisk, Survival};
use crate::recovery::{self, Progress, RecoveryReport};

/// A booted machine.
pub struct Running {
    /// The database.
    pub db: Database,
    /// The disk of its log.
    pub log: SimDisk,
    pages: Pages,
}

/// Who knows what is synced of the pages.
pub(super) enum Pages {
    /// The pager does.
    Model,
    /// A shadow of the file.
    File(Arc<Shadow>, #[expect(dead_code, reason = "held")] Watching),
}

/// Operations that change a disk, asked for since the machine was booted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Operations {
    /// Of the pages' disk.
    pub pages: u64,
    /// Of the log's disk.
    pub log: u64,
}

/// How an operation fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failing {
    /// Once, not done.
    Once(io::ErrorKind),
    /// And all after it, not done.
    FromThen(io::ErrorKind),
    /// Once, though it was done, at least in part.
    Late(io::ErrorKind),
}

impl Failing {
    fn kind(self) -> io::ErrorKind {
        match self {
            Failing::Once(kind) | Failing::FromThen(kind) | Failing::Late(kind) => kind,
        }
    }

    pub(super) fn goes_on(self) -> bool {
        matches!(self, Failing::FromThen(_))
    }

    pub(super) fn verdict(self) -> Verdict {
        let error = self.kind().into();
        match self {
            Failing::Once(_) | Failing::FromThen(_) => Verdict::Fail(error),
            Failing::Late(_) => Verdict::DoAndFail(error),
        }
    }
}

/// The instant before an operation that changes a disk.
pub struct Moment<'m> {
    /// The operation, in words.
    pub what: String,
    pages: &'m dyn Fn(Cut, u64) -> Stored,
    log: &'m SimDisk,
    count: &'m dyn Fn() -> Operations,
}

impl Moment<'_> {
    /// What a power cut now may leave. `None` if another thread began an operation meanwhile, so
    /// that the two disks were not seen at one moment.
    pub fn cut(&self, cut: Cut, seed: u64) -> Option<Machine> {
        let before = (self.count)();
        // In this order: the log is never behind what the pages' disk has.
        let pages = (self.pages)(cut, seed);
        let survival = match cut {
            Cut::Drop => Survival::Nothing,
            Cut::Keep => Survival::Everything,
            Cut::Reorder => Survival::Some,
            Cut::Tear => Survival::Garbage,
            Cut::LengthLost => Survival::LengthLost,
        };
        let log = self.log.power_cut(seed, survival);
        let machine = Machine { pages, log };
        (before == (self.count)()).then_some(machine)
    }
}

impl Running {
    pub(super) fn new(db: Database, log: SimDisk, pages: Pages) -> Self {
        Running { db, log, pages }
    }

    /// Replays the log, as opening does.
    ///
    /// # Errors
    /// As [`Options::open`](crate::Options::open).
    pub fn recover(&self) -> Result<Option<RecoveryReport>> {
        recovery::recover(&self.db.open, Progress::new(None)).inspect_err(|error| {
            // Closing must not declare clean what was not recovered.
            let _ = self.db.open.poison(error);
        })
    }

    /// Operations asked for so far.
    pub fn operations(&self) -> Operations {
        count(self.db.open.core(), self.shadow(), &self.log)
    }

    /// Calls `look` before each operation that changes a disk, until [`Running::unwatch`]. It may use
    /// the database; operations from within are not announced to it.
    pub fn watch(&self, look: impl Fn(&Moment<'_>) + Send + Sync + 'static) {
        let look = Arc::new(look);
        let log = self.log.clone();
        match &self.pages {
            Pages::Model => {
                let open = Arc::downgrade(self.db.open.core());
                modelled(&self.db.open).before_each({
                    let (look, log, open) = (Arc::clone(&look), log.clone(), open.clone());
                    move |pages: &MemPager, call: Call<'_>| {
                        let Some(open) = open.upgrade() else { return };
                        let cut = |cut, seed| {
                            Stored::Model(match call {
                                Call::WriteMeta { slot, meta } => {
                                    pages.power_cut_in_meta_as(slot, meta, cut, seed)
                                }
                                _ => pages.power_cut_as(cut, seed),
                            })
                        };
                        if !matches!(call, Call::Read { .. }) {
                            look(&Moment {
                                what: format!("{call:?}"),
                                pages: &cut,
                                log: &log,
                                count: &|| count(&open, None, &log),
                            });
                        }
                    }
                });
                self.log.before_each(move |log, index| {
                    let Some(open) = open.upgrade() else { return };
                    let pages = modelled(&open).inner();
                    look(&Moment {
                        what: format!("log operation {index}"),
                        pages: &|cut, seed| Stored::Model(pages.power_cut_as(cut, seed)),
                        log,
                        count: &|| count(&open, None, log),
                    });
                });
            }
            Pages::File(shadow, _) => {
                let moment = {
                    let shadow = Arc::clone(shadow);
                    let open = Arc::downgrade(self.db.open.core());
                    move |what: String, log: &SimDisk| {
                        let Some(open) = open.upgrade() else { return };
                        look(&Moment {
                            what,
                            pages: &|cut, seed| Stored::File(shadow.cut(cut, seed)),
                            log,
                            count: &|| count(&open, Some(&shadow), log),
                        });
                    }
                };
                let moment = Arc::new(moment);
                shadow.before_each({
                    let moment = Arc::clone(&moment);
                    move |operation| moment(format!("{operation:?}"), &log)
                });
                self.log
                    .before_each(move |log, index| moment(format!("log operation {index}"), log));
            }
        }
    }

    /// Nobody looks any more.
    pub fn unwatch(&self) {
        self.log.unhook();
        match &self.pages {
            Pages::Model => modelled(&self.db.open).before_each(|_, _| {}),
            Pages::File(shadow, _) => shadow.unhook(),
        }
    }

    /// Makes operation number `at` of the pages' disk fail.
    pub fn fail_pages(&self, at: u64, failing: Failing) {
        match &self.pages {
            Pages::Model => {
                let writes = faulty::Operations::WRITES;
                let errno = match failing.kind() {
                    io::ErrorKind::StorageFull => faulty::ENOSPC,
                    _ => faulty::EIO,
                };
                let plan = match failing {
                    Failing::Once(_) => Plan::fail_once(writes, at),
                    Failing::FromThen(_) => Plan::fail_from(writes, at),
                    Failing::Late(_) => Plan::fail_late(writes, at),
                };
                modelled(&self.db.open).arm(plan.with_errno(errno));
            }
            Pages::File(shadow, _) => shadow.fail(at, failing),
        }
    }

    /// Makes operation number `at` of the log's disk fail.
    pub fn fail_log(&self, at: u64, failing: Failing) {
        let fault = match failing {
            Failing::Once(kind) => Fault::Error(kind),
            Failing::FromThen(_) => Fault::PowerOff,
            Failing::Late(_) => Fault::Partly,
        };
        self.log.fail_at(at, fault);
    }

    /// What a power cut now may leave.
    pub fn power_cut(&self, cut: Cut, seed: u64) -> Machine {
        let moment = Moment {
            what: String::new(),
            pages: &|cut, seed| match &self.pages {
                Pages::Model => {
                    Stored::Model(modelled(&self.db.open).inner().power_cut_as(cut, seed))
                }
                Pages::File(shadow, _) => Stored::File(shadow.cut(cut, seed)),
            },
            log: &self.log,
            count: &Operations::default,
        };
        moment.cut(cut, seed).expect("nothing is counted")
    }

    fn shadow(&self) -> Option<&Shadow> {
        match &self.pages {
            Pages::Model => None,
            Pages::File(shadow, _) => Some(shadow),
        }
    }
}

fn count(core: &Core, shadow: Option<&Shadow>, log: &SimDisk) -> Operations {
    Operations {
        pages: match shadow {
            Some(shadow) => shadow.operations(),
            None => modelled(core).performed(faulty::Operations::WRITES),
        },
        log: log.operations(),
    }
}

fn modelled(core: &Core) -> &Faulty<MemPager> {
    match &core.pager {
        AnyPager::Modelled(pager) => pager,
        _ => unreachable!("this machine's pages are modelled"),
    }
}
