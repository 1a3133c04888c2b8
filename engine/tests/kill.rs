//! A process that is killed in the middle of its work: what it was told is committed is there, the
//! next process gets the lock, and goes on from there.

mod common;

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::Stdio;

use bifolio::{Database, PagerChoice};
use common::child;
use common::{assert_whole, handful, options, pagers, random, scratch};
use rand::RngExt;

fn choices() -> Vec<(&'static str, PagerChoice)> {
    pagers(4096).into_iter().chain(handful(4096, 12)).collect()
}

const ENTRIES: u64 = 60;

/// Commits number after number for ever, and says so after each.
fn work(db: &Database) {
    let mut number = count(db);
    loop {
        number += 1;
        let mut txn = db.write().unwrap();
        let mut table = txn.table("t").unwrap();
        for entry in 0..ENTRIES {
            let key = (entry * number % 1000).to_be_bytes();
            let value = vec![number as u8; (entry * 13) as usize];
            table.insert(key, value).unwrap();
        }
        table.insert("number", number.to_le_bytes()).unwrap();
        txn.commit().unwrap();
        let mut out = std::io::stdout().lock();
        writeln!(out, "\ncommitted {number}").unwrap();
        out.flush().unwrap();
    }
}

/// The number that was committed last.
fn count(db: &Database) -> u64 {
    let snapshot = db.read().unwrap();
    let table = snapshot.table("t").ok();
    let number = table.and_then(|table| table.get("number").unwrap());
    number.map_or(0, |bytes| u64::from_le_bytes(bytes.try_into().unwrap()))
}

#[test]
fn what_was_committed_before_a_kill_is_there_after_it() {
    const TEST: &str = "what_was_committed_before_a_kill_is_there_after_it";
    if child::is_child() {
        let argument = |name| std::env::var(name).unwrap();
        let (_, choice) = choices().remove(argument("BIFOLIO_CHOICE").parse().unwrap());
        let path = PathBuf::from(argument("BIFOLIO_PATH"));
        return work(&options(&choice).create(path).unwrap());
    }
    let kills: u32 = std::env::var("BIFOLIO_ROUNDS").map_or(4, |n| n.parse().unwrap());
    let mut random = random(31);
    for (index, (name, choice)) in choices().into_iter().enumerate() {
        let (_directory, path) = scratch();
        let mut told = 0;
        for _ in 0..kills {
            let mut command = child::again(TEST);
            command.env("BIFOLIO_CHOICE", index.to_string());
            command.env("BIFOLIO_PATH", &path);
            let mut worker = command.stderr(Stdio::null()).spawn().unwrap();
            let lines = BufReader::new(worker.stdout.take().unwrap()).lines();
            let numbers = lines.map_while(Result::ok).filter_map(|line| {
                let number = line.strip_prefix("committed ")?;
                number.parse::<u64>().ok()
            });
            let mut numbers = numbers.peekable();
            let enough = told + random.random_range(1..12);
            let last = numbers.by_ref().find(|&number| number >= enough);
            std::thread::sleep(std::time::Duration::from_micros(
                random.random_range(0..8000),
            ));
            worker.kill().unwrap();
            told = numbers.last().or(last).expect("it commits");
            worker.wait().unwrap();
            let db = options(&choice).open(&path).unwrap();
            let found = count(&db);
            assert!(
                (told..=told + 1).contains(&found),
                "{name}: told of {told}, found {found}"
            );
            assert_whole(&db);
            told = found;
        }
        println!("{name}: {told} commits, {kills} kills");
    }
}
