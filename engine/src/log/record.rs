//! Logical records: what a commit did, table by table.
//!
//! A commit's records follow each other without gaps, and are cut into frames wherever it fits.
//!
// ANCHOR: record
//! | tag | record       | what follows                                                           |
//! |----:|--------------|------------------------------------------------------------------------|
//! |   1 | name table   | *bytes*: gives this name the next number, from 0, and selects it       |
//! |   2 | select table | *number*                                                               |
//! |   3 | put          | *bytes* key, *bytes* value                                             |
//! |   4 | delete       | *bytes* key                                                            |
//! |   5 | delete range | bound, bound                                                           |
//! |   6 | clear table  |                                                                        |
//! |   7 | create table |                                                                        |
//! |   8 | drop table   |                                                                        |
//! |   9 | barrier      | *number*: the generation of the meta that a bulk commit waits for      |
// ANCHOR_END: record
//!
//! A *number* is LEB128 in at most ten bytes, the shortest form only; *bytes* are a number, then that
//! many bytes; a *bound* is one byte (0 unbounded, 1 included, 2 excluded), then *bytes* unless it
//! is 0. Records 3 to 8 are about the selected table. Names and numbers hold within one commit.

use std::ops::{Bound, Range};

pub(super) const NAME_TABLE: u8 = 1;
pub(super) const SELECT_TABLE: u8 = 2;
pub(super) const PUT: u8 = 3;
pub(super) const DELETE: u8 = 4;
pub(super) const DELETE_RANGE: u8 = 5;
pub(super) const CLEAR: u8 = 6;
pub(super) const CREATE: u8 = 7;
pub(super) const DROP: u8 = 8;
pub(super) const BARRIER: u8 = 9;

pub(super) const UNBOUNDED: u8 = 0;
pub(super) const INCLUDED: u8 = 1;
pub(super) const EXCLUDED: u8 = 2;

/// One change that a commit made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Record<'a> {
    /// The key has this value from now on.
    Put {
        /// The name of the table.
        table: &'a str,
        /// The key.
        key: &'a [u8],
        /// Its new value.
        value: &'a [u8],
    },
    /// The key has no value any more.
    Delete {
        /// The name of the table.
        table: &'a str,
        /// The key.
        key: &'a [u8],
    },
    /// No key between these bounds has a value any more.
    DeleteRange {
        /// The name of the table.
        table: &'a str,
        /// Where the range begins.
        from: Bound<&'a [u8]>,
        /// Where it ends.
        to: Bound<&'a [u8]>,
    },
    /// The table is empty now.
    Clear {
        /// The name of the table.
        table: &'a str,
    },
    /// The table exists now, and is empty.
    CreateTable {
        /// Its name.
        table: &'a str,
    },
    /// The table, and all that was in it, is gone.
    DropTable {
        /// Its name.
        table: &'a str,
    },
    /// This commit is not in the log but in the meta of this generation, and nothing after it was
    /// acknowledged before that meta was durable. Replay onto an older meta stops here.
    Barrier {
        /// The generation of the meta.
        generation: u64,
    },
}

/// A record's parts as ranges of the bytes it was parsed from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Parts {
    NameTable(Range<usize>),
    SelectTable(u64),
    Put(Range<usize>, Range<usize>),
    Delete(Range<usize>),
    DeleteRange(Bound<Range<usize>>, Bound<Range<usize>>),
    Clear,
    Create,
    Drop,
    Barrier(u64),
}

/// Why bytes do not begin with a whole record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unparsed {
    /// More bytes are needed to tell.
    Incomplete,
    /// No further bytes can make this a record.
    Bad(&'static str),
}

/// Reads the record at the front of `bytes`. Returns it and its length. Looks at lengths and tags
/// only, so that trying again with more bytes costs little.
pub(super) fn parse(bytes: &[u8]) -> Result<(Parts, usize), Unparsed> {
    let mut input = Input { bytes, at: 0 };
    let parts = match input.byte()? {
        NAME_TABLE => Parts::NameTable(input.bytes()?),
        SELECT_TABLE => Parts::SelectTable(input.number()?),
        PUT => Parts::Put(input.bytes()?, input.bytes()?),
        DELETE => Parts::Delete(input.bytes()?),
        DELETE_RANGE => Parts::DeleteRange(input.bound()?, input.bound()?),
        CLEAR => Parts::Clear,
        CREATE => Parts::Create,
        DROP => Parts::Drop,
        BARRIER => Parts::Barrier(input.number()?),
        _ => return Err(Unparsed::Bad("no record has this tag")),
    };
    Ok((parts, input.at))
}

struct Input<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Input<'_> {
    fn byte(&mut self) -> Result<u8, Unparsed> {
        let byte = *self.bytes.get(self.at).ok_or(Unparsed::Incomplete)?;
        self.at += 1;
        Ok(byte)
    }

    fn number(&mut self) -> Result<u64, Unparsed> {
        let mut number = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let digit = u64::from(byte & 0x7F);
            if shift == 63 && digit > 1 {
                return Err(Unparsed::Bad("a number is too large"));
            }
            number |= digit << shift;
            if byte & 0x80 == 0 {
                let shortest = digit != 0 || shift == 0;
                return if shortest {
                    Ok(number)
                } else {
                    Err(Unparsed::Bad("a number is longer than it need be"))
                };
            }
        }
        Err(Unparsed::Bad("a number is too long"))
    }

    fn bytes(&mut self) -> Result<Range<usize>, Unparsed> {
        let len = self.number()?;
        if len > u64::from(u32::MAX) {
            return Err(Unparsed::Bad("a key, value or name is too long"));
        }
        let from = self.at;
        let to = from
            .checked_add(len as usize)
            .ok_or(Unparsed::Bad("a length is too large"))?;
        if to > self.bytes.len() {
            return Err(Unparsed::Incomplete);
        }
        self.at = to;
        Ok(from..to)
    }

    fn bound(&mut self) -> Result<Bound<Range<usize>>, Unparsed> {
        Ok(match self.byte()? {
            UNBOUNDED => Bound::Unbounded,
            INCLUDED => Bound::Included(self.bytes()?),
            EXCLUDED => Bound::Excluded(self.bytes()?),
            _ => return Err(Unparsed::Bad("no bound has this number")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_cut_short_is_incomplete_and_never_bad() {
        let put = [PUT, 3, b'k', b'e', b'y', 2, b'o', b'k', 99];
        assert_eq!(parse(&put), Ok((Parts::Put(2..5, 6..8), 8)));
        for len in 0..8 {
            assert_eq!(parse(&put[..len]), Err(Unparsed::Incomplete), "{len}");
        }
    }

    #[test]
    fn numbers_have_one_form_only() {
        let number = |bytes: &[u8]| Input { bytes, at: 0 }.number();
        assert_eq!(number(&[0]), Ok(0));
        assert_eq!(number(&[0xFF, 0x01]), Ok(255));
        let largest = [0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x01];
        assert_eq!(number(&largest), Ok(u64::MAX));
        assert!(matches!(number(&[0x80, 0x00]), Err(Unparsed::Bad(_))));
        let too_large = [0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x02];
        assert!(matches!(number(&too_large), Err(Unparsed::Bad(_))));
        assert!(matches!(number(&[0xFF; 11]), Err(Unparsed::Bad(_))));
    }

    #[test]
    fn unknown_tags_and_bounds_and_absurd_lengths_are_bad() {
        for bytes in [
            &[0][..],
            &[10],
            &[255],
            &[DELETE_RANGE, 3],
            &[PUT, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F],
        ] {
            assert!(matches!(parse(bytes), Err(Unparsed::Bad(_))), "{bytes:?}");
        }
    }
}
