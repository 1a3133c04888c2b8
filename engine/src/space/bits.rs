//! A row of bits, and the search for runs of ones in it.
//!
//! Bit `i` is bit `i % 64` of word `i / 64`, so that the words, stored little-endian, are a row of
//! bytes whose byte `i / 8` has bit `i` at `i % 8`.

use std::ops::Range;

/// A row of bits of fixed length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bits(Box<[u64]>);

impl Bits {
    /// `len` zeros.
    pub fn zeros(len: u64) -> Self {
        Bits(vec![0; len.div_ceil(64) as usize].into())
    }

    /// The bits stored in `bytes`, whose number is a multiple of eight.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let (words, rest) = bytes.as_chunks::<8>();
        assert!(rest.is_empty(), "{} bytes are no whole words", bytes.len());
        Bits(words.iter().map(|&word| u64::from_le_bytes(word)).collect())
    }

    /// The bytes of all words, in order.
    pub fn write_to(&self, bytes: &mut [u8]) {
        let (words, rest) = bytes.as_chunks_mut::<8>();
        assert_eq!((words.len(), rest.len()), (self.0.len(), 0));
        for (to, word) in words.iter_mut().zip(&self.0) {
            *to = word.to_le_bytes();
        }
    }

    #[inline]
    pub fn get(&self, bit: u64) -> bool {
        self.0[(bit / 64) as usize] >> (bit % 64) & 1 == 1
    }

    #[inline]
    pub fn set(&mut self, bit: u64) {
        self.0[(bit / 64) as usize] |= 1 << (bit % 64);
    }

    #[inline]
    pub fn clear(&mut self, bit: u64) {
        self.0[(bit / 64) as usize] &= !(1 << (bit % 64));
    }

    pub fn count(&self) -> u64 {
        self.0.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    /// Whether a one lies outside of `range`. Costs a look at every word.
    pub fn any_outside(&self, range: Range<u64>) -> bool {
        let inside = |bits: Range<u64>| {
            // The bits of one word that lie in the range.
            let (from, to) = (range.start.max(bits.start), range.end.min(bits.end));
            if from >= to {
                return 0;
            }
            u64::MAX >> (64 - (to - from)) << (from - bits.start)
        };
        (0..)
            .zip(&self.0)
            .any(|(at, word)| word & !inside(at * 64..(at + 1) * 64) != 0)
    }

    /// The ones, as ranges in order.
    pub fn runs(&self) -> impl Iterator<Item = Range<u64>> {
        let row = self.row();
        let mut from = 0;
        std::iter::from_fn(move || {
            let start = row.find_run(from, 1)?;
            from = start + row.run_at(start, u64::MAX);
            Some(start..from)
        })
    }

    /// The bits, for searching.
    pub fn row(&self) -> Row<'_> {
        Row {
            ones: &self.0,
            without: &[],
        }
    }

    /// Those of the ones that are zeros in `without`, for searching.
    pub fn row_without<'b>(&'b self, without: Option<&'b Bits>) -> Row<'b> {
        Row {
            ones: &self.0,
            without: without.map_or(&[], |bits| &bits.0),
        }
    }
}

/// The longest run that can be looked for: one word.
pub(super) const RUN_MAX: u32 = 64;

/// Bits that are searched: the ones of one row that are not ones of another.
#[derive(Clone, Copy)]
pub(super) struct Row<'b> {
    ones: &'b [u64],
    /// Of the same length, or empty.
    without: &'b [u64],
}

impl Row<'_> {
    /// A word; zeros past the end.
    #[inline]
    fn word(&self, at: u64) -> u64 {
        let word = |row: &[u64]| row.get(at as usize).copied().unwrap_or(0);
        word(self.ones) & !word(self.without)
    }

    /// The first bit from `from` on with which `need` ones in a row begin, `need` at most
    /// [`RUN_MAX`].
    ///
    /// Looks at whole words: a few instructions for each, however torn the row is.
    pub fn find_run(&self, from: u64, need: u32) -> Option<u64> {
        assert!(
            (1..=RUN_MAX).contains(&need),
            "no such run can be looked for"
        );
        // Ones at the top of the words before this one, as far as they hang together.
        let mut carry = 0;
        let mut mask = u64::MAX << (from % 64);
        for at in from / 64..self.ones.len() as u64 {
            let word = self.word(at) & std::mem::replace(&mut mask, u64::MAX);
            if carry + u64::from(word.trailing_ones()) >= u64::from(need) {
                return Some(at * 64 - carry);
            }
            if let Some(bit) = run_in_word(word, need) {
                return Some(at * 64 + bit);
            }
            carry = match word {
                u64::MAX => carry + 64,
                _ => u64::from(word.leading_ones()),
            };
        }
        None
    }

    /// The first one, from bit `from` on, of a word that has `need` ones or more from there on.
    pub fn find_dense(&self, from: u64, need: u32) -> Option<u64> {
        let mut mask = u64::MAX << (from % 64);
        (from / 64..self.ones.len() as u64).find_map(|at| {
            let word = self.word(at) & std::mem::replace(&mut mask, u64::MAX);
            (word.count_ones() >= need).then(|| at * 64 + u64::from(word.trailing_zeros()))
        })
    }

    /// The next one from bit `from` on in the same word.
    pub fn next_in_word(&self, from: u64) -> Option<u64> {
        let rest = self.word(from / 64) & u64::MAX << (from % 64);
        (rest != 0).then(|| from / 64 * 64 + u64::from(rest.trailing_zeros()))
    }

    /// How many ones there are in the word of this bit.
    pub fn density(&self, bit: u64) -> u32 {
        self.word(bit / 64).count_ones()
    }

    /// How many ones lie in a row from bit `from` on, counting up to `most`.
    pub fn run_at(&self, from: u64, most: u64) -> u64 {
        let mut len = u64::from((self.word(from / 64) >> (from % 64)).trailing_ones());
        if len == 64 - from % 64 {
            for at in from / 64 + 1.. {
                let word = self.word(at);
                len += u64::from(word.trailing_ones());
                if word != u64::MAX || len >= most {
                    break;
                }
            }
        }
        len.min(most)
    }

    /// How many ones lie in a row around bit `bit`, which is one, counting up to [`RUN_MAX`].
    pub fn run_around(&self, bit: u64) -> u64 {
        let (at, bit) = (bit / 64, bit % 64);
        let mut before = u64::from((self.word(at) << (63 - bit)).leading_ones());
        if before == bit + 1 && at > 0 {
            before += u64::from(self.word(at - 1).leading_ones());
        }
        let behind = self.run_at(at * 64 + bit, RUN_MAX.into());
        (before + behind - 1).min(RUN_MAX.into())
    }
}

/// The lowest bit at which `need` ones begin that lie in this word together.
fn run_in_word(word: u64, need: u32) -> Option<u64> {
    // Bit i of `starts` is one if bits i .. i + have of the word are; `have` grows by doubling.
    let (mut starts, mut have) = (word, 1);
    while have < need && starts != 0 {
        let step = have.min(need - have);
        starts &= starts >> step;
        have += step;
    }
    (starts != 0).then(|| u64::from(starts.trailing_zeros()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bits(len: u64, ones: impl IntoIterator<Item = Range<u64>>) -> Bits {
        let mut bits = Bits::zeros(len);
        ones.into_iter().flatten().for_each(|bit| bits.set(bit));
        bits
    }

    #[test]
    fn a_run_over_a_word_boundary_is_found() {
        let row = bits(256, [3..10, 60..70, 100..250]);
        assert_eq!(row.row().find_run(0, 7), Some(3));
        assert_eq!(row.row().find_run(0, 8), Some(60));
        assert_eq!(row.row().find_run(0, 64), Some(100));
        assert_eq!(row.row().find_run(62, 8), Some(62));
        assert_eq!(row.row().find_run(63, 8), Some(100));
        assert_eq!(row.row().run_at(100, 1000), 150);
        assert_eq!(row.row().run_at(100, 30), 30);
        assert_eq!(row.row().run_at(10, 30), 0);
    }

    #[test]
    fn ones_outside_a_range_are_seen() {
        let row = bits(192, [5..130, 7..9]);
        assert!(!row.any_outside(5..130));
        assert!(!row.any_outside(0..192));
        for short in [6..130, 5..129, 64..130, 5..64, 0..0, 190..192] {
            assert!(row.any_outside(short.clone()), "{short:?}");
        }
    }

    proptest! {
        #[test]
        fn runs_are_found_as_a_bit_by_bit_search_finds_them(
            ones in prop::collection::vec((0_u64..300, 1_u64..90), 0..8),
            from in 0_u64..320,
            need in 1_u32..=64,
        ) {
            let ones = ones.into_iter().map(|(at, len)| at..(at + len).min(320));
            let row = bits(320, ones);
            let plain = (from..320).find(|&start| {
                (start..start + u64::from(need)).all(|bit| bit < 320 && row.get(bit))
            });
            prop_assert_eq!(row.row().find_run(from, need), plain);
            let len = (from..320).take_while(|&bit| row.get(bit)).count() as u64;
            prop_assert_eq!(row.row().run_at(from, u64::MAX), len);
            if row.get(from.min(319)) {
                let bit = from.min(319);
                let start = (0..=bit).rev().take_while(|&bit| row.get(bit)).last().unwrap();
                let len = row.row().run_at(start, u64::MAX);
                prop_assert_eq!(row.row().run_around(bit), len.min(64));
            }
            let mut again = Bits::zeros(320);
            row.runs().flatten().for_each(|bit| again.set(bit));
            prop_assert_eq!(&again, &row);
            let mut bytes = vec![0; 40];
            row.write_to(&mut bytes);
            prop_assert_eq!(Bits::from_bytes(&bytes), row);
        }
    }
}
