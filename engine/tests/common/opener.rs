//! Processes that open the database at one path at the same moment, and say how it went.
//!
//! An opener is the test binary itself, run again for the test of a given name, which begins with
//! [`open_if_asked`]. It says what it found on its standard output, one word a line, and does what it
//! is told on its standard input.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use bifolio::{Error, Options};

use super::{child, options, pagers};

const PATH: &str = "BIFOLIO_OPENER_PATH";
const PAGER: &str = "BIFOLIO_OPENER_PAGER";
const READ_ONLY: &str = "BIFOLIO_OPENER_READ_ONLY";

/// What an opener was told by the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The database is open there.
    Open,
    /// It is open elsewhere.
    InUse {
        holder: Option<u32>,
        after: Duration,
    },
}

/// A process that opens the database when it is told to.
pub struct Opener {
    process: Child,
    to: Option<ChildStdin>,
    from: BufReader<ChildStdout>,
}

impl Opener {
    /// Starts one, which waits.
    pub fn start(test: &str, path: &Path, pager: usize, read_only: bool) -> Self {
        let mut command: Command = child::again(test);
        command
            .env(PATH, path)
            .env(PAGER, pager.to_string())
            .env(READ_ONLY, read_only.to_string())
            .stdin(Stdio::piped())
            .stderr(Stdio::inherit());
        let mut process = command.spawn().expect("the opener runs");
        let to = process.stdin.take();
        let from = BufReader::new(process.stdout.take().expect("it is a pipe"));
        let mut opener = Opener { process, to, from };
        opener.expect("ready");
        opener
    }

    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Tells it to open the database.
    pub fn go(&mut self) {
        self.tell("go");
    }

    /// How opening went.
    pub fn outcome(&mut self) -> Outcome {
        let line = self.line();
        let mut words = line.split(' ');
        match (words.next(), words.next(), words.next()) {
            (Some("open"), None, None) => Outcome::Open,
            (Some("in-use"), Some(holder), Some(micros)) => Outcome::InUse {
                holder: holder.parse().ok(),
                after: Duration::from_micros(micros.parse().expect("a number")),
            },
            _ => panic!("the opener says {line:?}"),
        }
    }

    /// Tells it to commit something, and waits until that returned.
    pub fn commit(&mut self, key: &str) {
        self.tell(key);
        self.expect("committed");
    }

    /// Tells it to close the database, and to be ready for the next round.
    pub fn close(&mut self) {
        self.tell("close");
        self.expect("ready");
    }

    /// Kills it: `SIGKILL`.
    pub fn kill(mut self) {
        self.process.kill().expect("it is ours");
        self.process.wait().expect("it is ours");
    }

    fn tell(&mut self, word: &str) {
        let to = self.to.as_mut().expect("it is not gone");
        writeln!(to, "{word}").expect("it listens");
    }

    /// The next line that is for us: the test harness of the child writes lines too.
    fn line(&mut self) -> String {
        let mut line = String::new();
        loop {
            line.clear();
            let read = self.from.read_line(&mut line).expect("it is text");
            assert!(read > 0, "the opener ended: {:?}", self.process.wait());
            if let Some((_, said)) = line.trim_end().split_once("opener: ") {
                return said.to_owned();
            }
        }
    }

    fn expect(&mut self, word: &str) {
        let said = self.line();
        assert_eq!(said, word);
    }
}

impl Drop for Opener {
    fn drop(&mut self) {
        drop(self.to.take()); // at the end of its input it ends
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The opener's side. Returns at once in any other process.
pub fn open_if_asked() {
    let Some(path) = std::env::var_os(PATH).map(PathBuf::from) else {
        return;
    };
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let (_, pager) = pagers(4096).swap_remove(number(PAGER).unwrap_or(0));
    let read_only = std::env::var(READ_ONLY).is_ok_and(|text| text == "true");
    let options: Options = options(&pager).read_only(read_only);
    let mut open = None;
    println!("\nopener: ready");
    for word in std::io::stdin().lines() {
        match (word.expect("it is text").as_str(), &open) {
            ("go", _) => {
                let begun = Instant::now();
                match options.create(&path) {
                    Ok(db) => {
                        println!("opener: open");
                        open = Some(db);
                    }
                    Err(Error::InUse { holder, .. }) => {
                        let holder = holder.map_or("-".to_owned(), |pid| pid.to_string());
                        let micros = begun.elapsed().as_micros();
                        println!("opener: in-use {holder} {micros}");
                    }
                    Err(error) => println!("opener: {error}"),
                }
            }
            ("close", _) => {
                if let Some(db) = open.take() {
                    db.close().expect("it closes");
                }
                println!("opener: ready");
            }
            (key, Some(db)) => {
                let mut txn = db.write().expect("it is the only one");
                txn.table("t").unwrap().insert(key, "value").unwrap();
                txn.commit().unwrap();
                println!("opener: committed");
            }
            (word, None) => println!("opener: what is {word:?}?"),
        }
    }
    std::process::exit(0);
}
