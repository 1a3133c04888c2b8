//! Several processes that open one database at the same moment: one has it, the others are told.

mod common;

use std::time::Duration;

use bifolio::{Database, Error, Options};
use common::opener::{Opener, Outcome, open_if_asked};
use common::{pagers, scratch};

const PROCESSES: usize = 8;

/// The holder's number and the longest time that one of those who were refused waited.
struct Round {
    winner: usize,
    longest: Duration,
}

/// Lets all of them open the database at once.
fn race(openers: &mut [Opener]) -> Round {
    openers.iter_mut().for_each(Opener::go);
    let outcomes: Vec<_> = openers.iter_mut().map(Opener::outcome).collect();
    let winners: Vec<_> = (0..openers.len())
        .filter(|&index| outcomes[index] == Outcome::Open)
        .collect();
    assert_eq!(winners.len(), 1, "{outcomes:?}");
    let winner = winners[0];
    let mut longest = Duration::ZERO;
    for outcome in outcomes {
        if let Outcome::InUse { holder, after } = outcome {
            assert_eq!(holder, Some(openers[winner].id()), "the holder is named");
            longest = longest.max(after);
        }
    }
    Round { winner, longest }
}

#[test]
fn of_eight_processes_that_open_at_once_one_wins_and_the_others_are_told_who() {
    const TEST: &str = "of_eight_processes_that_open_at_once_one_wins_and_the_others_are_told_who";
    open_if_asked();
    let mut longest = Duration::ZERO;
    for (pager, (name, _)) in pagers(4096).into_iter().enumerate() {
        let (_directory, path) = scratch();
        let start = || Opener::start(TEST, &path, pager, false);
        let mut openers: Vec<_> = (0..PROCESSES).map(|_| start()).collect();
        let mut keys = Vec::new();
        for round in 0..8 {
            let Round {
                winner,
                longest: waited,
            } = race(&mut openers);
            longest = longest.max(waited);
            let key = format!("{round:02}");
            openers[winner].commit(&key);
            keys.push(key.into_bytes());
            if round % 2 == 0 {
                openers.iter_mut().for_each(Opener::close);
            } else {
                // The next one recovers what it left.
                let dead = openers.swap_remove(winner);
                openers.iter_mut().for_each(Opener::close);
                dead.kill();
                openers.push(start());
            }
        }
        drop(openers);
        let db = Database::open(&path).unwrap();
        let snapshot = db.read().unwrap();
        let found: Vec<_> = snapshot
            .table("t")
            .unwrap()
            .iter()
            .map(|entry| entry.unwrap().0)
            .collect();
        assert_eq!(found, keys, "{name}");
    }
    println!("refused after at most {} ms", longest.as_millis());
}

#[test]
fn readers_share_and_a_writer_is_told_that_they_are_there() {
    const TEST: &str = "readers_share_and_a_writer_is_told_that_they_are_there";
    open_if_asked();
    let (_directory, path) = scratch();
    Database::create(&path).unwrap().close().unwrap();
    let mut readers: Vec<_> = (0..3)
        .map(|_| Opener::start(TEST, &path, 0, true))
        .collect();
    for reader in &mut readers {
        reader.go();
        assert_eq!(reader.outcome(), Outcome::Open);
    }
    match Database::open(&path) {
        Err(Error::InUse { holder, .. }) => {
            let holder = holder.expect("one of them is named");
            assert!(readers.iter().any(|reader| reader.id() == holder));
        }
        other => panic!("{other:?}"),
    }
    drop(Options::new().read_only(true).open(&path).unwrap());
    while let Some(reader) = readers.pop() {
        assert!(Database::open(&path).is_err(), "somebody still reads");
        reader.kill();
    }
    drop(Database::open(&path).unwrap());
}
