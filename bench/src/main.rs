//! The comparison as a program; see the library of the same name.

use std::process::ExitCode;

fn main() -> ExitCode {
    bifolio_bench::main()
}
