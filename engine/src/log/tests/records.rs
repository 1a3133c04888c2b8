//! Records through the log and back, and bytes that are no records.

use std::ops::Bound;

use bifolio_pager::Version;
use proptest::prelude::*;

use super::super::record_reader::Pieces;
use super::super::{Error, RecordReader, Result};
use super::{Op, Random, collect, create, encode, options, read};

/// A commit in memory, cut into pieces anywhere.
struct Cut {
    pieces: Vec<Vec<u8>>,
    at: usize,
}

impl Cut {
    fn new(bytes: &[u8], mut lens: impl FnMut() -> usize) -> Self {
        let mut pieces = Vec::new();
        let mut rest = bytes;
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(lens().min(rest.len()));
            pieces.push(piece.to_vec());
            rest = after;
        }
        if pieces.is_empty() {
            pieces.push(Vec::new());
        }
        Cut { pieces, at: 0 }
    }
}

impl Pieces for Cut {
    fn piece(&self) -> &[u8] {
        &self.pieces[self.at]
    }

    fn advance(&mut self) -> Result<bool> {
        let more = self.at + 1 < self.pieces.len();
        self.at += usize::from(more);
        Ok(more)
    }

    fn place(&self) -> (u64, u64) {
        (3, self.at as u64)
    }
}

fn decode(bytes: &[u8], lens: impl FnMut() -> usize) -> Result<Vec<Op>> {
    collect(&mut RecordReader::new(&mut Cut::new(bytes, lens)))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn records_read_back_however_they_are_cut(seed in any::<u64>(), count in 0_usize..40) {
        let mut random = Random(seed);
        let ops: Vec<_> = (0..count).map(|_| random.op(300)).collect();
        let records = encode(&ops);
        for longest in [1, 7, 100, 100_000] {
            let found = decode(records.bytes(), || 1 + random.below(longest) as usize);
            prop_assert_eq!(&found.unwrap(), &ops);
        }
    }

    #[test]
    fn damaged_records_are_an_error_or_other_records_and_never_a_panic(
        seed in any::<u64>(),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut random = Random(seed);
        let ops: Vec<_> = (0..6).map(|_| random.op(40)).collect();
        let mut bytes = encode(&ops).bytes().to_vec();
        for (at, byte) in flips {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let _ = decode(&bytes, || 17);
    }

    #[test]
    fn any_bytes_at_all_are_records_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Err(error) = decode(&bytes, || 9) {
            prop_assert!(matches!(error, Error::Corrupt { segment: 3, .. }), "{}", error);
        }
    }
}

#[test]
fn a_commit_cut_off_within_a_record_is_an_error_with_its_place() {
    let records = encode(&[Op::Put("t".into(), b"key".to_vec(), b"value".to_vec())]);
    for len in 4..records.len() {
        let error = decode(&records.bytes()[..len], || 2).unwrap_err();
        assert!(
            matches!(error, Error::Corrupt { segment: 3, .. }),
            "{len}: {error}"
        );
    }
}

#[test]
fn a_record_before_any_table_and_an_unknown_table_are_errors() {
    assert!(decode(&[6], || 1).is_err(), "clear of no table");
    assert!(decode(&[2, 0], || 1).is_err(), "select of no table");
    assert!(
        decode(&[1, 1, 0xFF, 6], || 4).is_err(),
        "a name that is no UTF-8"
    );
}

#[test]
fn the_bytes_of_records_are_these() {
    let ops = [
        Op::Create("t".into()),
        Op::Put("t".into(), b"k".to_vec(), b"v".to_vec()),
        Op::Delete("u".into(), b"k".to_vec()),
        Op::DeleteRange("t".into(), Bound::Included(b"a".to_vec()), Bound::Unbounded),
        Op::Clear("u".into()),
        Op::Drop("u".into()),
        Op::Barrier(300),
    ];
    #[rustfmt::skip]
    let expected = [
        1, 1, b't', 7,          // name table t = 0, create it
        3, 1, b'k', 1, b'v',    // put k = v
        1, 1, b'u', 4, 1, b'k', // name table u = 1, delete k
        2, 0, 5, 1, 1, b'a', 0, // select table 0, delete from a on
        2, 1, 6, 8,             // select table 1, clear it, drop it
        9, 0xAC, 0x02,          // barrier 300
    ];
    assert_eq!(encode(&ops).bytes(), expected);
    assert_eq!(decode(&expected, || 2).unwrap(), ops);
}

#[test]
fn names_stay_known_through_the_pieces_of_a_commit_and_no_further() {
    let (disk, log, mark) = create(1, options(4096));
    let mut records = encode(&[Op::Clear("a".into()), Op::Clear("b".into())]);
    log.append_piece(Version::new(1), &mut records).unwrap();
    assert!(records.is_empty());
    Op::Clear("a".into()).write(&mut records);
    assert_eq!(records.bytes(), [2, 0, 6], "selected by number");
    log.append(Version::new(1), &mut records).unwrap();
    Op::Clear("a".into()).write(&mut records);
    assert_eq!(
        records.bytes(),
        [1, 1, b'a', 6],
        "named again in the next commit"
    );
    let end = log.append(Version::new(2), &mut records).unwrap();
    log.wait_durable(end).unwrap();
    let clear = |table: &str| Op::Clear(table.into());
    assert_eq!(
        read(&disk, &mark).unwrap(),
        [
            (Version::new(1), vec![clear("a"), clear("b"), clear("a")]),
            (Version::new(2), vec![clear("a")]),
        ]
    );
}
