//! What fuzzing needs of the log, which is not public. Only under `--cfg fuzzing`, see `fuzz/`.

use std::ffi::OsStr;
use std::sync::Arc;

use arbitrary::Arbitrary;
use bifolio_pager::Version;

use crate::log::sim::{SimDisk, Survival};
use crate::log::{Disk, Log, Options, RecordWriter, Replay, SyncMethod};

/// A log to be made, and what happens to it.
#[derive(Arbitrary, Debug)]
pub struct LogInput {
    /// Each commit's records, as bytes, and whether somebody waits for it.
    commits: Vec<(Vec<u8>, bool)>,
    /// A commit this long goes over the ends of segments.
    long: u16,
    survival: u8,
    seed: u64,
    /// Bytes of some segment that are overwritten.
    edits: Vec<(u8, u16, Vec<u8>)>,
}

const ID: [u8; 16] = *b"a fuzzed log's  ";

/// Makes a log of sound frames around the commits' bytes, cuts its power, edits it, and recovers.
///
/// # Panics
/// If commits that were synced are not there, and nothing was edited.
pub fn log(input: &LogInput) {
    let prefix = OsStr::new("fuzzed");
    let options = Options {
        segment_bytes: 1 << 14,
        spare_segments: 1,
        buffer_bytes: 128 << 10,
        sync: SyncMethod::Fdatasync,
    };
    let disk = SimDisk::new(input.seed);
    let log = Log::create(Arc::new(disk.clone()), prefix, ID, options).expect("an empty disk");
    let mark = log.mark(log.end());
    let mut synced = 0;
    for (number, (bytes, wait)) in (1..).zip(input.commits.iter().take(40)) {
        let mut bytes = bytes.clone();
        if number % 8 == 7 {
            bytes.resize(usize::from(input.long), 0);
        }
        let mut records = RecordWriter::from_bytes(bytes);
        let end = log
            .append(Version::new(number), &mut records)
            .expect("a sound disk");
        if *wait {
            log.wait_durable(end).expect("a sound disk");
            synced = number;
        }
    }
    let survival = match input.survival % 4 {
        0 => Survival::Nothing,
        1 => Survival::Everything,
        2 => Survival::Some,
        _ => Survival::Garbage,
    };
    let image = disk.power_cut(input.seed, survival);
    let names = image.list().expect("a sound disk");
    for (file, at, bytes) in input.edits.iter().take(8) {
        if let Some(name) = names.get(usize::from(*file) % names.len().max(1)) {
            let mut content = image.content(name);
            let at = usize::from(*at).min(content.len());
            let len = bytes.len().min(content.len() - at);
            content[at..at + len].copy_from_slice(&bytes[..len]);
            image.damage(name, content);
        }
    }
    let mut replayed = 0;
    let outcome = Log::recover(
        Arc::new(image),
        prefix,
        ID,
        &mark,
        options,
        |version, reader| {
            assert_eq!(version.get(), replayed + 1, "in the order of the commits");
            replayed += 1;
            // Records that make no sense are the engine's affair: it refuses the log.
            while let Ok(Some(_)) = reader.next() {}
            Ok::<_, crate::log::Error>(Replay::Continue)
        },
    );
    if input.edits.is_empty() {
        outcome.expect("the log is sound");
        assert!(
            replayed >= synced,
            "{replayed} of {synced} that were synced"
        );
    }
}
