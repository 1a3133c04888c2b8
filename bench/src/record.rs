//! Keys and values that can be checked when they are read.
//!
//! Record `index` has the key `scramble(index)`, so that neighbours in key order have nothing to do
//! with each other, and a value that is a function of the key and of a *generation*: 0 as loaded,
//! and another number for each overwrite. The generation stands at the front of the value and the
//! rest is computed from both, so that whoever reads a value can tell whether it is one that was
//! ever written under that key, without a copy of the data.

use crate::error::{Error, Result};

/// Bytes of a key: a `u64`, big-endian, so that byte order is number order.
pub const KEY_LEN: usize = 8;
/// The smallest value: its generation and one word that depends on the key.
pub const VALUE_LEN_MIN: usize = 16;

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// The finisher of SplitMix64: a bijection of 64-bit numbers without visible pattern.
pub fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// The records of one database: what its keys and values are.
#[derive(Clone, Copy, Debug)]
pub struct Records {
    offset: u64,
    value_len: usize,
}

impl Records {
    /// Records drawn from `seed`, with values of `value_len` bytes.
    ///
    /// # Panics
    /// If `value_len` is less than [`VALUE_LEN_MIN`]; the command line refuses it before.
    pub fn new(seed: u64, value_len: usize) -> Self {
        assert!(
            value_len >= VALUE_LEN_MIN,
            "a value has {VALUE_LEN_MIN} bytes or more"
        );
        Records {
            offset: mix(seed.wrapping_add(GOLDEN)),
            value_len,
        }
    }

    /// Bytes of a value.
    pub fn value_len(&self) -> usize {
        self.value_len
    }

    /// The key of record `index`. No two records share one.
    pub fn key(&self, index: u64) -> u64 {
        mix(index.wrapping_add(self.offset))
    }

    /// Writes the value of `key` in `generation` to `value`, which has [`Records::value_len`] bytes.
    pub fn fill(&self, key: u64, generation: u64, value: &mut [u8]) {
        let (head, body) = value.split_at_mut(8);
        head.copy_from_slice(&generation.to_le_bytes());
        let mut state = body_seed(key, generation);
        for chunk in body.chunks_mut(8) {
            state = state.wrapping_add(GOLDEN);
            chunk.copy_from_slice(&mix(state).to_le_bytes()[..chunk.len()]);
        }
    }

    /// Whether `value` was ever written under `key`, and in which generation. Reads every byte.
    ///
    /// # Errors
    /// [`Error::WrongData`] if it was not.
    pub fn check(&self, key: u64, value: &[u8]) -> Result<u64> {
        if value.len() != self.value_len {
            let what = format!(
                "a value of {} bytes, not of {}",
                value.len(),
                self.value_len
            );
            return Err(Error::WrongData { key, what });
        }
        let (head, body) = value.split_at(8);
        let generation = word(head);
        let mut state = body_seed(key, generation);
        let mut words = body.chunks_exact(8);
        let mut difference = 0;
        for chunk in &mut words {
            state = state.wrapping_add(GOLDEN);
            difference |= mix(state) ^ word(chunk);
        }
        let tail = words.remainder();
        state = state.wrapping_add(GOLDEN);
        let tail_is_right = *tail == mix(state).to_le_bytes()[..tail.len()];
        if difference == 0 && tail_is_right {
            Ok(generation)
        } else {
            let what = format!("not the bytes of generation {generation}");
            Err(Error::WrongData { key, what })
        }
    }
}

fn body_seed(key: u64, generation: u64) -> u64 {
    mix(key ^ mix(generation.wrapping_add(GOLDEN)))
}

fn word(bytes: &[u8]) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(bytes);
    u64::from_le_bytes(word)
}

/// The number that a key's bytes encode.
///
/// # Errors
/// [`Error::WrongData`] for a key that is not of [`KEY_LEN`] bytes: nobody wrote it.
pub fn decode_key(bytes: &[u8]) -> Result<u64> {
    let Ok(bytes) = <[u8; KEY_LEN]>::try_from(bytes) else {
        let what = format!("a key of {} bytes came back", bytes.len());
        return Err(Error::WrongData { key: 0, what });
    };
    Ok(u64::from_be_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_value_passes_its_check_whatever_its_length_and_generation() {
        for len in [16, 17, 23, 24, 120, 121, 1000] {
            let records = Records::new(7, len);
            let mut value = vec![0; len];
            for generation in [0, 1, u64::MAX] {
                records.fill(42, generation, &mut value);
                assert_eq!(records.check(42, &value).unwrap(), generation);
            }
        }
    }

    #[test]
    fn every_flipped_bit_of_a_value_is_seen() {
        let records = Records::new(7, 123);
        let mut value = vec![0; 123];
        records.fill(42, 3, &mut value);
        for bit in 0..value.len() * 8 {
            value[bit / 8] ^= 1 << (bit % 8);
            assert!(records.check(42, &value).is_err(), "bit {bit}");
            value[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn a_value_of_another_key_or_length_is_refused() {
        let records = Records::new(7, 120);
        let mut value = vec![0; 120];
        records.fill(42, 0, &mut value);
        assert!(records.check(43, &value).is_err());
        assert!(records.check(42, &value[..119]).is_err());
        assert!(records.check(42, &[]).is_err());
    }

    #[test]
    fn no_two_records_share_a_key() {
        let records = Records::new(1, 16);
        let keys: HashSet<u64> = (0..100_000).map(|index| records.key(index)).collect();
        assert_eq!(keys.len(), 100_000);
    }

    #[test]
    fn other_seeds_give_other_keys() {
        assert_ne!(Records::new(1, 16).key(0), Records::new(2, 16).key(0));
    }

    #[test]
    fn a_key_of_a_wrong_length_is_an_error() {
        assert_eq!(decode_key(&7u64.to_be_bytes()).unwrap(), 7);
        assert!(decode_key(b"short").is_err());
    }
}
