//! Running a workload on a machine, and looking at what a power cut leaves at every moment.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bifolio::testkit::{Cut, Failing, Machine, Moment, On, Operations, Running};
use bifolio::{Durability, Error, ReadTxn, Result, Ticket};

use super::steps::{self, How, State, Step};
use crate::tally::Tally;

/// What must and what may survive.
#[derive(Clone, Default)]
pub struct Marks {
    /// Commits that were acknowledged as durable.
    durable: Arc<AtomicUsize>,
    /// Commits that were begun.
    begun: Arc<AtomicUsize>,
}

impl Marks {
    /// Commits that were acknowledged.
    pub fn durable(&self) -> usize {
        self.durable.load(Ordering::SeqCst)
    }

    /// Commits that were begun.
    pub fn begun(&self) -> usize {
        self.begun.load(Ordering::SeqCst)
    }

    fn begin(&self) -> usize {
        self.begun.fetch_add(1, Ordering::SeqCst) + 1
    }

    fn acknowledge(&self, commits: usize) {
        self.durable.fetch_max(commits, Ordering::SeqCst);
    }
}

/// A workload on a machine.
pub struct Film {
    /// On what the pages are reached.
    pub on: On,
    /// What is done.
    pub steps: Vec<Step>,
    /// What there is after each commit.
    pub states: Arc<Vec<State>>,
    /// Commits that are synced later are called durable at once.
    pub early_acks: bool,
    /// Syncs of the log do nothing.
    pub lying: bool,
    /// What fails, until the machine is booted a second time.
    pub fault: Option<Fault>,
    /// Operations of the machine until then.
    pub first_boot: Mutex<Option<Operations>>,
}

/// One operation that fails.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// Whether it is one of the log's disk, or of the pages'.
    pub of_log: bool,
    /// Which one.
    pub at: u64,
    /// How.
    pub failing: Failing,
}

/// What is seen before each operation of a machine that runs, with how many commits must, and how
/// many may, be there.
pub type Look = Arc<dyn Fn(&Moment<'_>, &Marks) + Send + Sync>;

/// A snapshot and what it held.
type Held = (ReadTxn, State);

impl Film {
    /// Does all steps, with `look` before each operation.
    ///
    /// # Errors
    /// What the engine says, and which step it was.
    pub fn run(&self, machine: Machine, marks: &Marks, look: Option<&Look>) -> Outcome {
        let mut running = match self.boot(machine, marks, look) {
            Ok(running) => running,
            Err(error) => return Outcome::unbooted(error),
        };
        let mut tickets: Vec<(usize, Ticket)> = Vec::new();
        let mut readers: Vec<Held> = Vec::new();
        for step in &self.steps {
            let done = self.step(&mut running, step, marks, &mut tickets, &mut readers, look);
            if let Err(error) = done {
                return Outcome {
                    running: Some(running),
                    error: Some(error),
                };
            }
        }
        Outcome {
            running: Some(running),
            error: None,
        }
    }

    fn boot(&self, machine: Machine, marks: &Marks, look: Option<&Look>) -> Result<Running> {
        let running = machine.assemble(self.on, 1 << 40)?;
        if self.lying {
            running.log.lie();
        }
        if let Some(look) = look {
            let (look, marks) = (Arc::clone(look), marks.clone());
            running.watch(move |moment| look(moment, &marks));
        }
        if let Some(fault) = &self.fault
            && lock(&self.first_boot).is_none()
        {
            match fault.of_log {
                true => running.fail_log(fault.at, fault.failing),
                false => running.fail_pages(fault.at, fault.failing),
            }
        }
        running.recover()?;
        Ok(running)
    }

    fn step(
        &self,
        running: &mut Running,
        step: &Step,
        marks: &Marks,
        tickets: &mut Vec<(usize, Ticket)>,
        readers: &mut Vec<Held>,
        look: Option<&Look>,
    ) -> Result<()> {
        let db = &running.db;
        match step {
            Step::Commit(changes, how) => {
                let mut txn = db.write()?;
                steps::apply(&mut txn, changes)?;
                let number = marks.begin();
                match how {
                    How::Sync => {
                        txn.commit()?;
                        // A transaction that changes nothing waits for nothing.
                        let states = &self.states;
                        if states[number] != states[number - 1] {
                            marks.acknowledge(number);
                        }
                    }
                    How::Interval => _ = txn.commit_with(Durability::Interval)?,
                    How::Checkpoint => _ = txn.commit_with(Durability::Checkpoint)?,
                    How::Ticket => tickets.push((number, txn.submit()?)),
                }
                if self.early_acks {
                    marks.acknowledge(number);
                }
            }
            Step::Abort(changes) => {
                let mut txn = db.write()?;
                steps::apply(&mut txn, changes)?;
                txn.rollback();
            }
            Step::WaitForTickets => {
                while let Some((number, ticket)) = tickets.pop() {
                    ticket.wait()?;
                    if self.states[number] != self.states[number - 1] {
                        marks.acknowledge(number);
                    }
                }
            }
            Step::Checkpoint => {
                let number = marks.begun();
                db.checkpoint()?;
                marks.acknowledge(number);
            }
            Step::CheckpointBeside(changes) => {
                self.checkpoint_beside(running, changes, marks, look)?
            }
            Step::HoldReader => readers.push((db.read()?, steps::content(db)?)),
            Step::LetReadersGo => {
                for (snapshot, held) in readers.drain(..) {
                    expect_unchanged(&snapshot, &held)?;
                }
            }
            Step::Reopen => {
                tickets.clear();
                readers.clear();
                let number = marks.begun();
                db.checkpoint()?;
                marks.acknowledge(number);
                // What closing does more is seen by the looks at the end.
                self.reboot(running, Cut::Keep, marks, look)?;
            }
            Step::PowerCut => {
                tickets.clear();
                readers.clear();
                self.reboot(running, Cut::Tear, marks, look)?;
            }
        }
        Ok(())
    }

    /// A checkpoint in another thread's time: the transaction is made when the checkpoint is about
    /// to write pages, by the look itself.
    fn checkpoint_beside(
        &self,
        running: &Running,
        changes: &[steps::Change],
        marks: &Marks,
        look: Option<&Look>,
    ) -> Result<()> {
        let before = marks.begun();
        let beside = Arc::new(Mutex::new(Some(changes.to_vec())));
        let failed = Arc::new(Mutex::new(None));
        let commit = {
            let (db, marks, beside, failed) = (
                running.db.clone(),
                marks.clone(),
                Arc::clone(&beside),
                Arc::clone(&failed),
            );
            move || {
                let Some(changes) = lock(&beside).take() else {
                    return;
                };
                let outcome = db.write().and_then(|mut txn| {
                    steps::apply(&mut txn, &changes)?;
                    marks.begin();
                    // Waiting may need a checkpoint, and this thread is in one.
                    txn.commit_with(Durability::Interval).map(drop)
                });
                *lock(&failed) = outcome.err();
            }
        };
        let commit = Arc::new(commit);
        running.watch({
            let (look, marks, commit) = (look.cloned(), marks.clone(), Arc::clone(&commit));
            move |moment| {
                if let Some(look) = &look {
                    look(moment, &marks);
                }
                if !moment.what.starts_with("log") {
                    commit();
                    // The same moment again, with the commit done.
                    if let Some(look) = &look {
                        look(moment, &marks);
                    }
                }
            }
        });
        let outcome = running.db.checkpoint();
        running.unwatch();
        if let Some(look) = look {
            let (look, marks) = (Arc::clone(look), marks.clone());
            running.watch(move |moment| look(moment, &marks));
        }
        outcome?;
        marks.acknowledge(before);
        commit(); // if the checkpoint had nothing to do
        lock(&failed).take().map_or(Ok(()), Err)
    }

    fn reboot(
        &self,
        running: &mut Running,
        cut: Cut,
        marks: &Marks,
        look: Option<&Look>,
    ) -> Result<()> {
        running.unwatch();
        lock(&self.first_boot).get_or_insert(running.operations());
        let (durable, begun) = (marks.durable(), marks.begun());
        let left = running.power_cut(cut, begun as u64);
        *running = self.boot(left, marks, look)?;
        // What survived is what is there from now on: the states between are not any more.
        let found = steps::content(&running.db)?;
        let found = (durable..=begun).rev().find(|&at| self.states[at] == found);
        match found {
            Some(at) if self.states[at] == self.states[begun] => {
                marks.acknowledge(begun);
                Ok(())
            }
            _ => Err(Error::BadOption(LOST_TAIL.to_owned())),
        }
    }
}

/// The rest of the workload builds on commits that a power cut in it lost, as it may.
const LOST_TAIL: &str = "the workload ends here: commits that nobody waited for are lost";

/// How a run ended.
pub struct Outcome {
    /// The machine, still with power, if it booted at all.
    pub running: Option<Running>,
    /// The first error.
    pub error: Option<Error>,
}

impl Outcome {
    fn unbooted(error: Error) -> Self {
        Outcome {
            running: None,
            error: Some(error),
        }
    }

    /// Whether the run ended where a power cut of its own had lost what was not synced.
    pub fn lost_its_tail(&self) -> bool {
        matches!(&self.error, Some(Error::BadOption(why)) if why == LOST_TAIL)
    }
}

fn expect_unchanged(snapshot: &ReadTxn, held: &State) -> Result<()> {
    for (name, entries) in held {
        let found: Vec<_> = snapshot.table(name)?.iter().collect::<Result<_>>()?;
        let same = found.into_iter().eq(entries.clone());
        assert!(same, "table {name:?} changed under a snapshot");
    }
    Ok(())
}

/// Opens what a power cut left, and compares it with the states allowed: whole, no page lost, one of
/// the states, and the same when it is opened again. Returns what was found.
///
/// # Errors
/// What broke the claim, in words.
pub fn verify(machine: Machine, on: On, allowed: &[State]) -> Result<State, String> {
    let running = machine
        .open(on)
        .map_err(|error| format!("it cannot be opened: {error}"))?;
    // Recovery ends in a checkpoint, so that nothing depends on what was not synced. The second cut
    // comes before the check, which makes a checkpoint where there is none.
    let again = running.power_cut(Cut::Drop, 0);
    let found = look_through(&running)?;
    if !allowed.contains(&found) {
        let tables = found.len();
        let entries: usize = found.values().map(|entries| entries.len()).sum();
        return Err(format!(
            "{tables} tables with {entries} entries, in none of the {} states allowed",
            allowed.len()
        ));
    }
    running.log.unhook();
    let cannot = |error: Error| format!("it cannot be opened a second time: {error}");
    let again = again.assemble(on, 1 << 40).map_err(cannot)?;
    let report = again.recover().map_err(cannot)?;
    let replayed = report.map_or(0, |report| report.commits);
    if replayed > 0 {
        return Err(format!(
            "the second opening replays {replayed} commits again"
        ));
    }
    let second = steps::content(&again.db).map_err(|error| error.to_string())?;
    if second != found {
        return Err("the second opening finds another state".to_owned());
    }
    Ok(found)
}

/// The content of a database that must be whole.
///
/// # Errors
/// What is wrong with it, in words.
pub fn look_through(running: &Running) -> Result<State, String> {
    let report = running
        .db
        .check()
        .map_err(|error| format!("the check fails: {error}"))?;
    if !report.is_clean() {
        return Err(format!("the check finds: {report}"));
    }
    steps::content(&running.db).map_err(|error| format!("it cannot be read: {error}"))
}

/// Cuts the power during the recovery of `machine`, before each operation, and compares with the one
/// state that it recovers to.
///
/// # Errors
/// What broke the claim, in words.
pub fn cut_recovery(
    machine: Machine,
    on: On,
    expected: &State,
    seed: u64,
    tally: &mut Tally,
) -> Result<(), String> {
    let running = machine
        .assemble(on, 1 << 40)
        .map_err(|error| error.to_string())?;
    let seen: Arc<Mutex<(u64, Vec<String>)>> = Arc::default();
    running.watch({
        let (seen, expected) = (Arc::clone(&seen), expected.clone());
        move |moment| {
            let mut seen = lock(&seen);
            let cut = Cut::ALL[(seen.0 % 5) as usize];
            let Some(left) = moment.cut(cut, seed ^ seen.0) else {
                return;
            };
            seen.0 += 1;
            if let Err(what) = verify(left, on, std::slice::from_ref(&expected)) {
                let (name, moment) = (cut.name(), &moment.what);
                seen.1
                    .push(format!("in recovery, before {moment}, {name}: {what}"));
            }
        }
    });
    running.recover().map_err(|error| error.to_string())?;
    running.unwatch();
    let (images, findings) = std::mem::take(&mut *lock(&seen));
    tally.add("images", images);
    tally.add("images in recovery", images);
    findings.into_iter().next().map_or(Ok(()), Err)
}

/// A lock that nobody poisons: what panics here is a finding elsewhere.
pub fn lock<T: ?Sized>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
