//! Every operation of a run fails once, or fails from then on: a typed error, no further commit
//! until reopening, reads of what is committed go on, and after reopening a state that is allowed.

use bifolio_pager::faulty::{Operations, Plan};
use bifolio_pager::{Error as PagerError, PageSize};

use super::{State, Workload, commit, create, expect_one_of, modelled, open};
use crate::error::Error;

#[test]
fn any_write_that_fails_poisons_and_loses_nothing_that_was_committed() {
    let workload = Workload::random(1, 10);
    let calm = create(PageSize::DEFAULT);
    for changes in &workload.transactions {
        commit(&calm, changes).unwrap();
    }
    let operations = modelled(&calm).performed(Operations::WRITES);
    assert!(operations > 20, "{operations}");
    for at in 0..operations {
        for plan in [
            Plan::fail_once(Operations::WRITES, at),
            Plan::fail_from(Operations::WRITES, at),
        ] {
            let db = create(PageSize::DEFAULT);
            modelled(&db).arm(plan);
            let mut returned = 0;
            let mut failure = None;
            for changes in &workload.transactions {
                match commit(&db, changes) {
                    Ok(()) => returned += 1,
                    Err(error) => {
                        failure = Some(error);
                        break;
                    }
                }
            }
            let context = format!("operation {at} failed, after {returned} commits");
            let failure = failure.unwrap_or_else(|| panic!("{context}: nobody was told"));
            assert!(
                matches!(
                    failure,
                    Error::Poisoned { .. }
                        | Error::Pager(PagerError::Io { .. } | PagerError::Poisoned { .. })
                ),
                "{context}: {failure}"
            );
            let again = commit(&db, &workload.transactions[returned]);
            assert!(
                again.is_err(),
                "{context}: a commit was accepted after the failure"
            );
            // What was committed can still be read, and nothing else can.
            expect_one_of(&db, &workload.states[returned..=returned], &context);
            // Whether the failed commit happened is known after reopening.
            let left = open(modelled(&db).inner().power_cut_torn(at)).unwrap();
            expect_one_of(&left, &workload.states[returned..=returned + 1], &context);
            drop(db);
            commit(&left, &[(b"on".to_vec(), Some(b"it goes".to_vec()))]).unwrap();
        }
    }
}

#[test]
fn any_read_that_fails_is_an_error_and_the_next_one_goes_on() {
    let workload = Workload::random(2, 10);
    let db = create(PageSize::DEFAULT);
    for changes in &workload.transactions {
        commit(&db, changes).unwrap();
    }
    let last = workload.states.len() - 1;
    let before = modelled(&db).performed(Operations::READ);
    super::content(&db);
    let reads = modelled(&db).performed(Operations::READ) - before;
    assert!(reads > 10, "{reads}");
    let mut failed = 0;
    for offset in 0..reads {
        let at = modelled(&db).performed(Operations::READ) + offset;
        modelled(&db).arm(Plan::fail_once(Operations::READ, at));
        let outcome = db
            .read()
            .and_then(|snapshot| snapshot.table("t")?.iter().collect::<Result<State, _>>());
        match outcome {
            Err(Error::Pager(PagerError::Io { .. })) => failed += 1,
            // Nobody needs what is read ahead of a scan.
            Ok(found) => assert_eq!(found, workload.states[last], "read {offset}"),
            Err(other) => panic!("read {offset}: {other}"),
        }
        expect_one_of(&db, &workload.states[last..], "after the failed read");
    }
    assert!(failed > reads / 2, "{failed} of {reads}");
}

#[test]
fn a_read_that_fails_in_a_write_transaction_leaves_rollback_only() {
    let workload = Workload::random(3, 10);
    let db = create(PageSize::DEFAULT);
    for changes in &workload.transactions {
        commit(&db, changes).unwrap();
    }
    let last = workload.states.len() - 1;
    let mut at = 0;
    loop {
        modelled(&db).arm(Plan::fail_once(
            Operations::READ,
            modelled(&db).performed(Operations::READ) + at,
        ));
        let mut txn = db.write().unwrap();
        let failed = (|| {
            let mut table = txn.table("t")?;
            for number in 0..40_u16 {
                table.insert(number.to_be_bytes(), vec![1; 200])?;
            }
            Ok::<_, Error>(())
        })();
        if failed.is_ok() {
            break;
        }
        if txn.table("t").is_err() {
            assert!(
                txn.commit().is_err(),
                "a half-done transaction was committed"
            );
        } else {
            txn.rollback();
        }
        expect_one_of(&db, &workload.states[last..], "after the rollback");
        at += 3;
    }
    assert!(at > 10, "{at}");
}

#[test]
fn a_read_that_fails_in_a_commit_rolls_back_and_it_can_be_tried_again() {
    let mut workload = Workload::random(4, 10);
    let last = workload.transactions.pop().unwrap();
    let db = create(PageSize::DEFAULT);
    for changes in &workload.transactions {
        commit(&db, changes).unwrap();
    }
    let disk = modelled(&db).inner().process_exit();
    let (mut failed, mut at) = (0, 0);
    loop {
        // A new process has nothing of the allocation map in memory.
        let db = open(disk.process_exit()).unwrap();
        let before = super::content(&db);
        let read = modelled(&db).performed(Operations::READ);
        modelled(&db).arm(Plan::fail_once(Operations::READ, read + at));
        let Err(error) = commit(&db, &last) else {
            break;
        };
        let is_that = matches!(error, Error::Pager(PagerError::Io { .. }));
        assert!(is_that, "read {at}: {error}");
        expect_one_of(&db, &[before], "rolled back");
        commit(&db, &last).unwrap();
        expect_one_of(&db, &workload.states[10..=10], "tried again");
        (failed, at) = (failed + 1, at + 1);
    }
    println!("{failed} reads");
    assert!(failed > 10, "{failed}");
}

#[test]
fn nobody_who_waits_to_write_is_left_waiting_by_a_failed_commit() {
    let db = create(PageSize::DEFAULT);
    commit(&db, &[(vec![1], Some(vec![1]))]).unwrap();
    let mut txn = db.write().unwrap();
    txn.table("t").unwrap().insert([2], [2]).unwrap();
    let told = std::thread::scope(|scope| {
        let waiting: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| db.write().map(drop)))
            .collect();
        // Most of them wait by now; whether all do makes no difference to what is right.
        std::thread::sleep(std::time::Duration::from_millis(20));
        let next = modelled(&db).performed(Operations::WRITES);
        modelled(&db).arm(Plan::fail_once(Operations::WRITES, next));
        assert!(matches!(txn.commit(), Err(Error::Poisoned { .. })));
        let ended = waiting.into_iter().map(|thread| thread.join().unwrap());
        ended.collect::<Vec<_>>()
    });
    // Nobody waits for ever. One that came between the commit's end and its failure has begun, as it
    // may, and could not have committed; whoever comes later is told.
    for outcome in told {
        assert!(
            matches!(outcome, Ok(()) | Err(Error::Poisoned { .. })),
            "{outcome:?}"
        );
    }
    assert!(matches!(db.write(), Err(Error::Poisoned { .. })));
    assert_eq!(super::content(&db).len(), 1);
}
