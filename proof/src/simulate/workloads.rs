//! The workloads: small, each for one thing that can go wrong, all random in the rest.

use rand::RngExt;
use rand::rngs::StdRng;

use super::steps::{Change, How, Script, Step, key_of};

/// A workload's name, and what writes its steps.
pub type Workload = (&'static str, fn(&mut Script<'_>));

/// All of them. A case's seed chooses one by its remainder.
pub const WORKLOADS: &[Workload] = &[
    ("single puts", |s| {
        for key in 0..12 {
            let put = s.put(key, 40);
            s.commit(vec![put]);
        }
    }),
    ("overwrites of one key", |s| {
        for len in [10, 300, 0, 3000, 20, 20] {
            let put = s.put(7, len);
            s.commit(vec![put]);
        }
    }),
    ("overwrites in place", |s| {
        fill(s, 60);
        for _ in 0..8 {
            let puts = s.puts(6, 60, 100);
            s.commit(puts);
        }
    }),
    ("deletes", |s| {
        fill(s, 80);
        for from in 0..8 {
            let keys = (0..10).map(|key| Change::Delete("t", key_of(key * 8 + from)));
            let keys = keys.collect();
            s.commit(keys);
        }
    }),
    ("deletes of what is not there", |s| {
        fill(s, 10);
        s.commit(vec![Change::Delete("t", key_of(999))]);
        let put = s.put(3, 9);
        s.commit(vec![Change::Delete("t", key_of(998)), put]);
    }),
    ("range deletes", |s| {
        fill(s, 120);
        for from in [100, 0, 40, 45] {
            s.commit(vec![Change::DeleteRange(
                "t",
                key_of(from),
                key_of(from + 20),
            )]);
        }
    }),
    ("splits", |s| {
        for from in 0..6 {
            let puts = (0..15).map(|key| s.put(from + key * 6, 250)).collect();
            s.commit(puts);
        }
    }),
    ("merges", |s| {
        fill(s, 150);
        s.step(Step::Checkpoint);
        for part in 0..5 {
            let keys = (part * 28..part * 28 + 28).map(|key| Change::Delete("t", key_of(key)));
            let keys = keys.collect();
            s.commit(keys);
        }
    }),
    ("overflow values", |s| {
        for (key, len) in [(1, 5000), (2, 20_000), (1, 12_000), (2, 10), (3, 9000)] {
            let put = s.put(key, len);
            s.commit(vec![put]);
        }
        s.commit(vec![Change::Delete("t", key_of(1))]);
    }),
    ("many tables", |s| {
        const NAMES: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];
        for round in 0..3 {
            for (index, name) in NAMES.into_iter().enumerate() {
                let value = s.value(30 * index);
                s.commit(vec![
                    Change::Put(name, key_of(round), value),
                    Change::Put(NAMES[(index + 3) % 8], key_of(9), vec![1]),
                ]);
            }
        }
    }),
    ("tables made, dropped and made again", |s| {
        s.commit(vec![Change::CreateTable("x")]);
        s.commit(vec![Change::Put("x", key_of(1), vec![1; 500])]);
        s.commit(vec![Change::DropTable("x")]);
        s.commit(vec![
            Change::CreateTable("x"),
            Change::Put("x", key_of(2), vec![2]),
        ]);
        s.commit(vec![
            Change::DropTable("x"),
            Change::Put("x", key_of(3), vec![3]),
        ]);
    }),
    ("a large table dropped", |s| {
        fill(s, 150);
        s.step(Step::Checkpoint);
        s.commit(vec![Change::DropTable("t")]);
        fill(s, 20);
    }),
    ("tables cleared", |s| {
        for _ in 0..3 {
            fill(s, 50);
            s.commit(vec![Change::Clear("t")]);
        }
    }),
    ("a bulk load and commits after it", |s| {
        fill(s, 10);
        s.commit(vec![Change::BulkLoad("bulk", 200, 60)]);
        let puts = s.puts(5, 20, 90);
        s.commit(puts);
    }),
    ("a bulk load that nobody waits for", |s| {
        s.step(Step::Commit(
            vec![Change::BulkLoad("bulk", 90, 60)],
            How::Ticket,
        ));
        for _ in 0..3 {
            let puts = s.puts(3, 20, 90);
            s.step(Step::Commit(puts, How::Interval));
        }
        let puts = s.puts(3, 20, 90);
        s.commit(puts);
    }),
    ("bulk loads one after the other", |s| {
        for count in [50, 150, 20] {
            s.step(Step::Commit(
                vec![Change::BulkLoad("bulk", count, 80)],
                How::Ticket,
            ));
        }
        s.step(Step::WaitForTickets);
    }),
    ("commits of the interval", |s| {
        for _ in 0..10 {
            let puts = s.puts(4, 40, 200);
            s.step(Step::Commit(puts, How::Interval));
        }
    }),
    ("commits that wait for a checkpoint", |s| {
        for round in 0..3 {
            for _ in 0..3 {
                let puts = s.puts(4, 40, 200 + round);
                s.step(Step::Commit(puts, How::Checkpoint));
            }
            s.step(Step::Checkpoint);
        }
    }),
    ("every level of durability in turn", |s| {
        for round in 0..4 {
            for how in [How::Interval, How::Ticket, How::Checkpoint, How::Sync] {
                let puts = s.puts(3, 50, 150 + round);
                s.step(Step::Commit(puts, how));
            }
        }
        s.step(Step::WaitForTickets);
    }),
    ("tickets", |s| {
        for _ in 0..3 {
            for _ in 0..4 {
                let puts = s.puts(2, 40, 100);
                s.step(Step::Commit(puts, How::Ticket));
            }
            s.step(Step::WaitForTickets);
        }
    }),
    ("a group as of many threads", |s| {
        for _ in 0..24 {
            let puts = s.puts(1, 40, 60);
            s.step(Step::Commit(puts, How::Ticket));
        }
        s.step(Step::WaitForTickets);
    }),
    ("checkpoints in the middle", |s| {
        for _ in 0..5 {
            let puts = s.puts(8, 60, 200);
            s.commit(puts);
            s.step(Step::Checkpoint);
        }
    }),
    ("checkpoints with nothing new", |s| {
        fill(s, 10);
        for _ in 0..3 {
            s.step(Step::Checkpoint);
        }
        let put = s.put(1, 3);
        s.commit(vec![put]);
    }),
    ("commits while a checkpoint writes", |s| {
        for _ in 0..5 {
            let puts = s.puts(10, 80, 200);
            s.commit(puts);
            // The checkpoint has the log synced for this one, and then more than that is synced.
            let puts = s.puts(2, 80, 200);
            s.step(Step::Commit(puts, How::Interval));
            let beside = s.puts(10, 80, 200);
            s.step(Step::CheckpointBeside(beside));
        }
        let put = s.put(5, 5);
        s.commit(vec![put]);
    }),
    ("a bulk load while a checkpoint writes", |s| {
        fill(s, 40);
        s.step(Step::CheckpointBeside(vec![Change::DropTable("t")]));
        fill(s, 40);
        s.step(Step::CheckpointBeside(vec![Change::Clear("t")]));
        s.commit(vec![Change::BulkLoad("bulk", 60, 200)]);
    }),
    ("transactions larger than a segment", |s| {
        for _ in 0..3 {
            let puts = s.puts(90, 400, 600);
            s.commit(puts);
        }
    }),
    ("a log that is used again and again", |s| {
        for _ in 0..12 {
            let puts = s.puts(8, 40, 1500);
            s.commit(puts);
            if s.random.random_bool(0.4) {
                s.step(Step::Checkpoint);
            }
        }
    }),
    ("more pages than a pool has frames", |s| {
        for _ in 0..4 {
            let puts = s.puts(60, 600, 1200);
            s.commit(puts);
        }
        s.step(Step::Checkpoint);
    }),
    ("closed and opened", |s| {
        for _ in 0..3 {
            let puts = s.puts(8, 60, 200);
            s.commit(puts);
            s.step(Step::Reopen);
        }
        let put = s.put(5, 5);
        s.commit(vec![put]);
    }),
    ("cut and opened", |s| {
        for _ in 0..4 {
            let puts = s.puts(8, 60, 200);
            s.commit(puts);
            s.step(Step::PowerCut);
        }
        let put = s.put(5, 5);
        s.commit(vec![put]);
    }),
    ("opened and closed and cut with nothing done", |s| {
        fill(s, 10);
        for step in [
            Step::Reopen,
            Step::Reopen,
            Step::PowerCut,
            Step::PowerCut,
            Step::Reopen,
        ] {
            s.step(step);
        }
        fill(s, 10);
    }),
    ("long readers across checkpoints", |s| {
        fill(s, 60);
        s.step(Step::HoldReader);
        for round in 0..5 {
            let puts = s.puts(15, 60, 200);
            s.commit(puts);
            s.step(Step::Checkpoint);
            if round == 2 {
                s.step(Step::HoldReader);
            }
        }
        s.step(Step::LetReadersGo);
        for _ in 0..2 {
            let puts = s.puts(15, 60, 200);
            s.commit(puts);
            s.step(Step::Checkpoint);
        }
    }),
    ("transactions that change nothing", |s| {
        s.commit(vec![]);
        fill(s, 5);
        s.commit(vec![]);
        s.step(Step::Checkpoint);
        s.commit(vec![]);
    }),
    ("transactions rolled back", |s| {
        fill(s, 40);
        for _ in 0..4 {
            let puts = s.puts(30, 100, 300);
            s.step(Step::Abort(puts));
            let puts = s.puts(3, 60, 300);
            s.commit(puts);
        }
        s.step(Step::Abort(vec![
            Change::BulkLoad("bulk", 50, 50),
            Change::DropTable("t"),
        ]));
        s.step(Step::Checkpoint);
    }),
    ("pages that live and die between checkpoints", |s| {
        for _ in 0..3 {
            for _ in 0..4 {
                let puts = s.puts(12, 30, 400);
                s.commit(puts);
            }
            s.commit(vec![Change::Clear("t")]);
            s.step(Step::Checkpoint);
        }
    }),
    ("of everything something", |s| {
        for _ in 0..14 {
            let step = anything(s);
            s.step(step);
        }
        s.step(Step::WaitForTickets);
    }),
];

/// The workload of a seed, written out.
pub fn of_seed(seed: u64, random: &mut StdRng) -> (&'static str, Vec<Step>) {
    let (name, write) = WORKLOADS[(seed % WORKLOADS.len() as u64) as usize];
    let mut script = Script {
        random,
        steps: Vec::new(),
    };
    write(&mut script);
    (name, script.steps)
}

/// So many keys, in one transaction.
fn fill(s: &mut Script<'_>, count: u32) {
    let puts = (0..count).map(|key| s.put(key, 120)).collect();
    s.commit(puts);
}

fn anything(s: &mut Script<'_>) -> Step {
    let how = [
        How::Sync,
        How::Sync,
        How::Interval,
        How::Checkpoint,
        How::Ticket,
    ][s.random.random_range(0..5)];
    match s.random.random_range(0..16) {
        0 => Step::Checkpoint,
        1 => Step::Reopen,
        2 => Step::PowerCut,
        3 => Step::HoldReader,
        4 => Step::LetReadersGo,
        5 => Step::WaitForTickets,
        6 => Step::Abort(s.puts(10, 90, 200)),
        7 => Step::CheckpointBeside(s.puts(10, 90, 200)),
        8 => Step::Commit(vec![Change::BulkLoad("bulk", 40, 90)], how),
        9 => Step::Commit(vec![Change::Clear("t")], how),
        10 => Step::Commit(vec![Change::DropTable("bulk")], how),
        11 => Step::Commit(vec![Change::DeleteRange("t", key_of(20), key_of(50))], how),
        _ => {
            let count = s.random.random_range(1..30);
            Step::Commit(s.puts(count, 90, 300), how)
        }
    }
}
