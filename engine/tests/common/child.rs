//! Tests that need a process of their own: for its limits, its directory, its user, or its death.
//!
//! The test calls itself again, by name, in a child of the test binary.

use std::process::{Command, Output, Stdio};

const CHILD: &str = "BIFOLIO_TEST_CHILD";

/// Whether this process is the child.
pub fn is_child() -> bool {
    std::env::var_os(CHILD).is_some()
}

/// Runs `body` in a process of its own, as the test `name`.
#[track_caller]
pub fn in_child(name: &str, body: impl FnOnce()) {
    if is_child() {
        body();
    } else {
        expect_success(&mut again(name));
    }
}

/// The command that runs the test `name` as the child.
pub fn again(name: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this test has a file"));
    command
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(CHILD, "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Fails, with what the child said, unless it ran one test and that passed.
#[track_caller]
pub fn expect_success(command: &mut Command) {
    check(&command.output().expect("the child runs"));
}

/// As [`expect_success`], of a child that has ended.
#[track_caller]
pub fn check(output: &Output) {
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    println!("{out}");
    assert!(output.status.success(), "{}\n{out}\n{err}", output.status);
    assert!(out.contains("1 passed"), "no such test\n{out}\n{err}");
}
