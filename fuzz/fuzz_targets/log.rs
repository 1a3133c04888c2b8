//! Any bytes as commits of the log, in sound frames; and sound logs with edits. Oracle: an error or
//! the commits, no panic, no hang; and of a log that was not edited, all commits that were synced.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: bifolio::fuzzing::LogInput| bifolio::fuzzing::log(&input));
