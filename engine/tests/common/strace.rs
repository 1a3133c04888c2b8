//! What a process asks of the system, in its order, as strace(1) tells it.

use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use super::child;

/// A question mark: the system call need not be there on every machine.
const TRACED: &str = "trace=openat,fcntl,fsync,fdatasync,fadvise64,pread64,preadv,preadv2,mmap,\
    pwrite64,pwritev,pwritev2,write,msync,ftruncate,fallocate,?rename,?renameat,renameat2,linkat,\
    ?link,?unlink,unlinkat,?io_uring_setup,?io_uring_enter";

/// A call that has returned, with all strings in clear: paths and bytes.
pub struct Call {
    pub name: String,
    /// The arguments as strace writes them. A file descriptor is followed by its path, in `<>`.
    pub arguments: String,
    /// Strings among the arguments, whole.
    pub strings: Vec<Vec<u8>>,
    pub failed: bool,
}

impl Call {
    pub fn is(&self, names: &[&str]) -> bool {
        names.contains(&self.name.as_str())
    }

    /// Whether it is a call on a file descriptor of the file `path`.
    pub fn is_on(&self, path: &str) -> bool {
        self.arguments.contains(&format!("<{path}>"))
    }

    /// The last argument, if it is a number: the offset of `pread64` and `pwrite64`.
    pub fn last_number(&self) -> Option<u64> {
        self.arguments.rsplit(", ").next()?.parse().ok()
    }

    /// Whether the process said here, by [`say`], that it is so far.
    pub fn says(&self, word: &str) -> bool {
        let said = format!("mark: {word}\n").into_bytes();
        self.name == "write" && self.strings.first() == Some(&said)
    }
}

/// Leaves a mark in the trace.
pub fn say(word: &str) {
    let said = format!("mark: {word}\n");
    std::io::stderr().write_all(said.as_bytes()).unwrap();
}

/// The calls of the test `name` of this binary, run as the child with `variables`; strings longer
/// than `longest` are cut. `None` where there is no strace, or it may not trace.
pub fn trace(
    name: &str,
    variables: &[(&str, &Path)],
    longest: usize,
    to: &Path,
) -> Option<Vec<Call>> {
    let probe = Command::new("strace")
        .args(["-qq", "-o", "/dev/null", "true"])
        .output();
    let works = probe.is_ok_and(|output| output.status.success());
    if !works {
        println!("SKIPPED {name}: no strace here, or it may not trace");
        return None;
    }
    let again = child::again(name);
    let mut command = Command::new("strace");
    command
        .args(["-f", "-qq", "-y", "-xx", "-s", &longest.to_string()])
        .args(["-e", TRACED, "-e", "signal=none", "-o"])
        .arg(to)
        .arg(again.get_program())
        .args(again.get_args());
    for (key, value) in again.get_envs() {
        command.env(key, value.expect("it is set"));
    }
    command.envs(variables.iter().copied());
    child::expect_success(&mut command);
    let calls = parse(&fs::read_to_string(to).expect("it is ASCII"));
    fs::remove_file(to).expect("it is ours");
    assert!(calls.len() > 10, "this is no trace");
    Some(calls)
}

fn parse(text: &str) -> Vec<Call> {
    let mut begun = HashMap::new();
    let mut calls = Vec::new();
    for line in text.lines() {
        let (process, line) = line.split_once(' ').expect("it begins with a number");
        let line = line.trim_start();
        if let Some(beginning) = line.strip_suffix(" <unfinished ...>") {
            begun.insert(process, beginning);
        } else if let Some((_, end)) = line.split_once(" resumed>") {
            let beginning = begun.remove(process).expect("it was begun");
            calls.extend(call(&format!("{beginning}{end}")));
        } else {
            calls.extend(call(line));
        }
    }
    calls
}

fn call(line: &str) -> Option<Call> {
    let (name, rest) = line.split_once('(')?;
    let (arguments, result) = rest.rsplit_once(" = ")?;
    let arguments = arguments.trim_end().strip_suffix(')')?;
    let strings = arguments.split('"').skip(1).step_by(2);
    Some(Call {
        name: name.to_owned(),
        arguments: String::from_utf8_lossy(&unescape(arguments)).into_owned(),
        strings: strings.map(unescape).collect(),
        failed: result.starts_with('-'),
    })
}

/// `\x` and two digits are a byte.
fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut parts = text.split("\\x");
    bytes.extend(parts.next().unwrap_or_default().bytes());
    for part in parts {
        let (digits, rest) = part.split_at(2);
        bytes.push(u8::from_str_radix(digits, 16).expect("two digits"));
        bytes.extend(rest.bytes());
    }
    bytes
}
