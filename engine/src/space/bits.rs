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
        let mut from = 0;
        std::iter::from_fn(move || {
            let start = find_run(self.words(), from, 1)?;
            let end = start + run_at(self.words(), start, u64::MAX);
            from = end;
            Some(start..end)
        })
    }

    /// The words, for [`find_run`] and [`run_at`].
    pub fn words(&self) -> impl ExactSizeIterator<Item = u64> + Clone {
        self.0.iter().copied()
    }

    /// The ones that are zeros in `without`.
    pub fn words_without<'b>(
        &'b self,
        without: Option<&'b Bits>,
    ) -> impl ExactSizeIterator<Item = u64> + Clone {
        let without = without.map_or(&[][..], |bits| &bits.0);
        let at = move |(at, word): (usize, &u64)| word & !without.get(at).copied().unwrap_or(0);
        self.0.iter().enumerate().map(at)
    }
}

/// The first bit from `from` on with which `need` ones in a row begin. `need` is 1 to 64.
///
/// Looks at whole words: a few instructions for each, however torn the row is.
pub(super) fn find_run(
    words: impl ExactSizeIterator<Item = u64>,
    from: u64,
    need: u32,
) -> Option<u64> {
    assert!(
        (1..=64).contains(&need),
        "runs of 1 to 64 can be looked for"
    );
    let first = from / 64;
    // Ones at the top of the words before this one, as far as they hang together.
    let mut carry = 0;
    for (at, mut word) in (first..).zip(words.skip(first as usize)) {
        if at == first {
            word &= u64::MAX << (from % 64);
        }
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

/// How many ones lie in a row from bit `from` on, counting up to `most`.
pub(super) fn run_at(words: impl Iterator<Item = u64>, from: u64, most: u64) -> u64 {
    let mut words = words.skip((from / 64) as usize);
    let Some(word) = words.next() else { return 0 };
    let mut len = u64::from((word >> (from % 64)).trailing_ones());
    if len == 64 - from % 64 {
        for word in words {
            len += u64::from(word.trailing_ones());
            if word != u64::MAX || len >= most {
                break;
            }
        }
    }
    len.min(most)
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
        assert_eq!(find_run(row.words(), 0, 7), Some(3));
        assert_eq!(find_run(row.words(), 0, 8), Some(60));
        assert_eq!(find_run(row.words(), 0, 64), Some(100));
        assert_eq!(find_run(row.words(), 62, 8), Some(62));
        assert_eq!(find_run(row.words(), 63, 8), Some(100));
        assert_eq!(run_at(row.words(), 100, 1000), 150);
        assert_eq!(run_at(row.words(), 100, 30), 30);
        assert_eq!(run_at(row.words(), 10, 30), 0);
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
            prop_assert_eq!(find_run(row.words(), from, need), plain);
            let len = (from..320).take_while(|&bit| row.get(bit)).count() as u64;
            prop_assert_eq!(run_at(row.words(), from, u64::MAX), len);
            let mut again = Bits::zeros(320);
            row.runs().flatten().for_each(|bit| again.set(bit));
            prop_assert_eq!(&again, &row);
            let mut bytes = vec![0; 40];
            row.write_to(&mut bytes);
            prop_assert_eq!(Bits::from_bytes(&bytes), row);
        }
    }
}
