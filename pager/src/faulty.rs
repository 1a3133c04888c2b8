//! A pager that fails when it is told to.
//!
//! [`Faulty`] passes every call on to another pager and counts the ones that may fail in the real
//! world. So a test can first run undisturbed and ask how many there were, then run again for each
//! of them with that one failing:
//!
//! ```
//! use bifolio_pager::faulty::{Faulty, Operations, Plan};
//! use bifolio_pager::{Error, Geometry, MemPager, PageSize, Pager};
//!
//! let geometry = Geometry { page_size: PageSize::DEFAULT, seed: 1 };
//! let scenario = |pager: &Faulty<MemPager>| -> Result<(), Error> {
//!     pager.grow(100)?;
//!     pager.flush(&[])?;
//!     Ok(())
//! };
//! let calm = Faulty::new(MemPager::new(geometry));
//! scenario(&calm).unwrap();
//! for at in 0..calm.performed(Operations::ALL) {
//!     let pager = Faulty::new(MemPager::new(geometry));
//!     pager.arm(Plan::fail_once(Operations::ALL, at));
//!     assert!(matches!(scenario(&pager), Err(Error::Io { .. })));
//!     let left = pager.inner().power_cut_torn(at); // and now reopen, and look
//! #   drop(left);
//! }
//! ```
//!
//! A power cut at any moment is simulated in one of two ways. [`Faulty::before_each`] calls the
//! test before every counted operation, with the pager below: over a [`MemPager`](crate::MemPager)
//! it can take a [`power_cut_torn`](crate::MemPager::power_cut_torn) there and then, so that *one*
//! run yields the images of all moments. [`Plan::freeze`] serves where the images cannot be taken
//! in passing: from that operation on the caller is told that all is well, and nothing becomes
//! durable any more.
//!
//! Not here: lies of the device's own (a sync that returns `Ok` and did nothing, a lost write). Use
//! [`MemPager::corrupt`](crate::MemPager::corrupt) for what those leave.

use std::io;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::page::{Geometry, PageId, PageRef};
use crate::pager::{Access, Counters, Flushed, MetaSlot, Pager};
use crate::sync::Mutex;

/// What the operating system says when a device fails.
pub const EIO: i32 = 5;
/// What it says when the device is full.
pub const ENOSPC: i32 = 28;

/// A call that may fail in the real world, as it is about to be made.
///
/// `create`, `write`, `seal` and `discard` are not among them: what they do to storage is done by
/// write-back, at a moment of the pager's own choosing.
#[derive(Clone, Copy, Debug)]
pub enum Call<'c> {
    /// [`Pager::grow`].
    Grow {
        /// Pages to make room for.
        page_count: u64,
    },
    /// [`Pager::read`]. Every one counts: whether it needs storage is not known out here.
    Read {
        /// The page to read.
        at: PageRef,
    },
    /// [`Pager::flush`].
    Flush {
        /// The pages to make durable.
        pages: &'c [PageRef],
    },
    /// [`Pager::write_meta`].
    WriteMeta {
        /// Where to.
        slot: MetaSlot,
        /// What.
        meta: &'c [u8],
    },
    /// [`Pager::write_back`].
    WriteBack {
        /// The pages to start writing.
        pages: &'c [PageRef],
    },
}

impl Call<'_> {
    const fn index(self) -> usize {
        match self {
            Call::Grow { .. } => 0,
            Call::Read { .. } => 1,
            Call::Flush { .. } => 2,
            Call::WriteMeta { .. } => 3,
            Call::WriteBack { .. } => 4,
        }
    }

    const fn name(self) -> &'static str {
        ["grow", "read", "flush", "write_meta", "write_back"][self.index()]
    }

    /// The set that holds just this kind of call.
    pub const fn kind(self) -> Operations {
        Operations(1 << self.index())
    }
}

/// A set of kinds of calls: what a [`Plan`] counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operations(u8);

impl Operations {
    /// Calls of `grow`.
    pub const GROW: Operations = Operations(1);
    /// Calls of `read`.
    pub const READ: Operations = Operations(1 << 1);
    /// Calls of `flush`.
    pub const FLUSH: Operations = Operations(1 << 2);
    /// Calls of `write_meta`.
    pub const WRITE_META: Operations = Operations(1 << 3);
    /// Calls of `write_back`.
    pub const WRITE_BACK: Operations = Operations(1 << 4);
    /// Everything that changes storage.
    pub const WRITES: Operations = Operations(0b11101);
    /// Everything that may fail.
    pub const ALL: Operations = Operations(0b11111);

    /// The kinds in either set.
    pub const fn or(self, other: Operations) -> Operations {
        Operations(self.0 | other.0)
    }

    /// Whether every kind in `other` is in this set.
    pub const fn contains(self, other: Operations) -> bool {
        self.0 & other.0 == other.0
    }
}

/// What goes wrong, and when.
///
/// Operation number `at` is the one before which `at` operations of the kinds in `of` were
/// performed, counted from when the [`Faulty`] was made.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    of: Operations,
    at: u64,
    fault: Fault,
    errno: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Once,
    FromThen,
    Late,
    Freeze,
}

impl Plan {
    /// Operation `at` is not done and fails. After a failed write everything is refused that clause
    /// 5 says; after a failed read all goes on.
    pub const fn fail_once(of: Operations, at: u64) -> Self {
        Self::that(Fault::Once, of, at)
    }

    /// Operation `at` and all after it, of the kinds in `of`, are not done and fail.
    pub const fn fail_from(of: Operations, at: u64) -> Self {
        Self::that(Fault::FromThen, of, at)
    }

    /// Operation `at` is done, and reported as failed all the same: the caller must not conclude
    /// from an error that nothing happened.
    pub const fn fail_late(of: Operations, at: u64) -> Self {
        Self::that(Fault::Late, of, at)
    }

    /// From operation `at` on, of any kind, nothing becomes durable, and the caller is told that it
    /// did. Pages are still written and read in memory, and the file still grows (a length that is
    /// not flushed may or may not survive).
    ///
    /// Over [`MemPager`](crate::MemPager) this is exact as far as
    /// [`power_cut`](crate::MemPager::power_cut) goes. A torn power cut should be taken when the
    /// freeze begins ([`Faulty::before_each`]), since later page writes are not frozen out of it.
    pub const fn freeze(of: Operations, at: u64) -> Self {
        Self::that(Fault::Freeze, of, at)
    }

    /// The same with another error than [`EIO`], for instance [`ENOSPC`].
    pub const fn with_errno(self, errno: i32) -> Self {
        Plan { errno, ..self }
    }

    const fn that(fault: Fault, of: Operations, at: u64) -> Self {
        Plan {
            of,
            at,
            fault,
            errno: EIO,
        }
    }
}

/// A pager that fails when it is told to; see the [module](self).
///
/// After a failed `grow`, `flush`, `write_meta` or `write_back` (which cannot say so) it behaves as
/// clause 5 demands of every pager: `grow`, `flush` and `write_meta`, and also `create` and `write`,
/// are refused with [`Error::Poisoned`]; reads, `seal` and `discard` go on.
pub struct Faulty<P> {
    inner: P,
    state: Mutex<State>,
    hook: Mutex<Option<Hook<P>>>,
}

type Hook<P> = Arc<Mutex<Box<dyn FnMut(&P, Call<'_>) + Send>>>;

#[derive(Default)]
struct State {
    performed: [u64; 5],
    plan: Option<Plan>,
    tripped: bool,
    frozen: bool,
    poisoned: Option<Arc<str>>,
}

/// What becomes of one call.
enum Verdict {
    Do,
    Fail(Error),
    DoAndFail(Error),
    Pretend,
}

impl<P: Pager> Faulty<P> {
    /// Passes everything on to `inner`, and counts.
    pub fn new(inner: P) -> Self {
        Faulty {
            inner,
            state: Mutex::default(),
            hook: Mutex::default(),
        }
    }

    /// Makes a plan the only one. Operations performed before count too.
    pub fn arm(&self, plan: Plan) {
        self.state.lock().plan = Some(plan);
    }

    /// Takes the plan back. What has happened stays: a poisoned pager remains so.
    pub fn disarm(&self) {
        self.state.lock().plan = None;
    }

    /// Operations of these kinds that were asked for since the pager was made, failed ones included.
    /// As a number of a [`Plan`], the next one to come.
    pub fn performed(&self, of: Operations) -> u64 {
        self.state.lock().performed(of)
    }

    /// Whether a plan has come to pass.
    pub fn tripped(&self) -> bool {
        self.state.lock().tripped
    }

    /// Calls `hook` before every counted operation from now on, whether it will fail or not. The
    /// hook gets the pager below, for a look or for a power cut. It may also use this one: operations
    /// from within the hook are counted and not announced to it.
    pub fn before_each(&self, hook: impl FnMut(&P, Call<'_>) + Send + 'static) {
        *self.hook.lock() = Some(Arc::new(Mutex::new(Box::new(hook))));
    }

    /// The pager below.
    pub fn inner(&self) -> &P {
        &self.inner
    }

    /// The pager below, for good.
    pub fn into_inner(self) -> P {
        self.inner
    }

    /// Counts a call and decides what becomes of it.
    fn judge(&self, call: Call<'_>) -> Verdict {
        let hook = self.hook.lock().clone();
        if let Some(hook) = hook
            && let Some(mut hook) = hook.try_lock()
        {
            hook(&self.inner, call);
        }
        self.state.lock().judge(call)
    }

    fn expect_healthy(&self) -> Result<()> {
        self.state.lock().expect_healthy()
    }
}

impl State {
    fn performed(&self, of: Operations) -> u64 {
        (0..)
            .zip(&self.performed)
            .filter(|&(kind, _)| of.0 & (1 << kind) != 0)
            .map(|(_, n)| n)
            .sum()
    }

    fn expect_healthy(&self) -> Result<()> {
        match &self.poisoned {
            Some(first) => Err(Error::Poisoned {
                first: first.clone(),
            }),
            None => Ok(()),
        }
    }

    fn judge(&mut self, call: Call<'_>) -> Verdict {
        let due = self
            .plan
            .filter(|plan| plan.of.contains(call.kind()))
            .filter(|plan| {
                let number = self.performed(plan.of);
                number == plan.at || (number > plan.at && plan.fault == Fault::FromThen)
            });
        self.performed[call.index()] += 1;
        let writes = Operations::WRITES.contains(call.kind());
        if writes && let Err(poisoned) = self.expect_healthy() {
            return Verdict::Fail(poisoned);
        }
        if let Some(plan) = due {
            self.tripped = true;
            if plan.fault == Fault::Freeze {
                self.frozen = true;
            } else {
                return self.fail(plan, call, writes);
            }
        }
        if self.frozen {
            Verdict::Pretend
        } else {
            Verdict::Do
        }
    }

    fn fail(&mut self, plan: Plan, call: Call<'_>, writes: bool) -> Verdict {
        let error = Error::io(call.name(), io::Error::from_raw_os_error(plan.errno));
        if writes {
            self.poisoned = Some(error.to_string().into());
        }
        match plan.fault {
            Fault::Late => Verdict::DoAndFail(error),
            _ => Verdict::Fail(error),
        }
    }
}

impl Verdict {
    /// Carries the verdict out; `pretend` is what a frozen pager does instead.
    fn carry_out<T>(
        self,
        call: impl FnOnce() -> Result<T>,
        pretend: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        match self {
            Verdict::Do => call(),
            Verdict::Fail(error) => Err(error),
            Verdict::DoAndFail(error) => call().and(Err(error)),
            Verdict::Pretend => pretend(),
        }
    }
}

impl<P: Pager> Pager for Faulty<P> {
    type Ref<'p>
        = P::Ref<'p>
    where
        Self: 'p;
    type Mut<'p>
        = P::Mut<'p>
    where
        Self: 'p;

    fn geometry(&self) -> Geometry {
        self.inner.geometry()
    }

    fn page_count(&self) -> u64 {
        self.inner.page_count()
    }

    fn grow(&self, page_count: u64) -> Result<()> {
        let grow = || self.inner.grow(page_count);
        // Frozen too: a length is durable with the next flush only, and that does not come.
        self.judge(Call::Grow { page_count }).carry_out(grow, grow)
    }

    fn read(&self, at: PageRef) -> Result<P::Ref<'_>> {
        let read = || self.inner.read(at);
        self.judge(Call::Read { at }).carry_out(read, read)
    }

    fn create(&self, at: PageRef) -> Result<P::Mut<'_>> {
        self.expect_healthy()?;
        self.inner.create(at)
    }

    fn write(&self, at: PageRef) -> Result<P::Mut<'_>> {
        self.expect_healthy()?;
        self.inner.write(at)
    }

    fn seal(&self, pages: &[PageRef]) -> Result<()> {
        self.inner.seal(pages)
    }

    fn discard(&self, pages: &[PageId]) -> Result<()> {
        self.inner.discard(pages)
    }

    fn flush(&self, pages: &[PageRef]) -> Result<Flushed> {
        self.judge(Call::Flush { pages })
            .carry_out(|| self.inner.flush(pages), || Ok(Flushed::proven()))
    }

    fn write_meta(&self, after: Flushed, slot: MetaSlot, meta: &[u8]) -> Result<()> {
        self.judge(Call::WriteMeta { slot, meta })
            .carry_out(|| self.inner.write_meta(after, slot, meta), || Ok(()))
    }

    fn prefetch(&self, pages: &[PageRef]) {
        self.inner.prefetch(pages);
    }

    fn write_back(&self, pages: &[PageRef]) {
        // A hint cannot report its failure; the next write does.
        let _ = self.judge(Call::WriteBack { pages }).carry_out(
            || {
                self.inner.write_back(pages);
                Ok(())
            },
            || Ok(()),
        );
    }

    fn advise(&self, access: Access) {
        self.inner.advise(access);
    }

    fn counters(&self) -> Counters {
        self.inner.counters()
    }

    fn effective_backend(&self) -> String {
        format!("{}, with faults", self.inner.effective_backend())
    }
}
