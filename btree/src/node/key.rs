//! A key in two pieces: the page's prefix and the cell's suffix.

use std::cmp::Ordering;

/// The first four bytes of a suffix as a big-endian number, zeros where there are fewer: compares
/// as the suffix does, except that different suffixes can have equal heads.
#[inline]
pub(crate) fn head_of(suffix: &[u8]) -> u32 {
    match suffix.first_chunk() {
        Some(bytes) => u32::from_be_bytes(*bytes),
        None => {
            let mut bytes = [0; 4];
            bytes[..suffix.len()].copy_from_slice(suffix);
            u32::from_be_bytes(bytes)
        }
    }
}

/// Bytes that two strings have in common at the front.
pub(crate) fn common_prefix(a: &[u8], b: &[u8]) -> usize {
    const CHUNK: usize = 16;
    let chunks = a.chunks_exact(CHUNK).zip(b.chunks_exact(CHUNK));
    let equal = CHUNK * chunks.take_while(|(a, b)| a == b).count();
    let rest = a[equal..].iter().zip(&b[equal..]);
    equal + rest.take_while(|(a, b)| a == b).count()
}

/// A whole key, without joining its pieces.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Key<'a> {
    front: &'a [u8],
    back: &'a [u8],
}

impl<'a> Key<'a> {
    pub(crate) fn new(front: &'a [u8], back: &'a [u8]) -> Self {
        Key { front, back }
    }

    pub(crate) fn whole(key: &'a [u8]) -> Self {
        Key::new(&[], key)
    }

    pub(crate) fn len(&self) -> usize {
        self.front.len() + self.back.len()
    }

    /// The key without its first `count` bytes, of which there must be so many.
    pub(crate) fn skip(&self, count: usize) -> Self {
        match count.checked_sub(self.front.len()) {
            None => Key::new(&self.front[count..], self.back),
            Some(beyond) => Key::new(&[], &self.back[beyond..]),
        }
    }

    fn bytes(&self) -> impl Iterator<Item = u8> + 'a {
        self.front.iter().chain(self.back).copied()
    }

    pub(crate) fn head(&self) -> u32 {
        let mut bytes = self.bytes();
        let head: [u8; 4] = std::array::from_fn(|_| bytes.next().unwrap_or(0));
        u32::from_be_bytes(head)
    }

    pub(crate) fn common_prefix(&self, other: &Key<'_>) -> usize {
        if self.front.len() > other.front.len() {
            return other.common_prefix(self);
        }
        let (beside, rest) = other.front.split_at(self.front.len());
        let (middle, end) = self.back.split_at(rest.len().min(self.back.len()));
        let mut equal = 0;
        for (a, b) in [(self.front, beside), (middle, rest), (end, other.back)] {
            let more = common_prefix(a, b);
            equal += more;
            if more < a.len().max(b.len()) {
                break;
            }
        }
        equal
    }

    pub(crate) fn starts_with(&self, prefix: &[u8]) -> bool {
        match prefix.split_at_checked(self.front.len()) {
            None => self.front.starts_with(prefix),
            Some((front, back)) => self.front == front && self.back.starts_with(back),
        }
    }

    pub(crate) fn cmp(&self, other: &Key<'_>) -> Ordering {
        if self.front.len() > other.front.len() {
            return other.cmp(self).reverse();
        }
        let (beside, rest) = other.front.split_at(self.front.len());
        let (middle, end) = self.back.split_at(rest.len().min(self.back.len()));
        (self.front.cmp(beside))
            .then_with(|| middle.cmp(rest)) // less, too, where `self` ends within `rest`
            .then_with(|| end.cmp(other.back))
    }

    /// Copies the key to the front of `to`, which must have room.
    pub(crate) fn copy_to(&self, to: &mut [u8]) {
        let (front, rest) = to.split_at_mut(self.front.len());
        front.copy_from_slice(self.front);
        rest[..self.back.len()].copy_from_slice(self.back);
    }

    pub(crate) fn to_vec(self) -> Vec<u8> {
        [self.front, self.back].concat()
    }

    /// Replaces the content of `to` by the key.
    pub(crate) fn copy_into(&self, to: &mut Vec<u8>) {
        to.clear();
        to.extend_from_slice(self.front);
        to.extend_from_slice(self.back);
    }

    /// The shortest string that is greater than `self` and not greater than `right`, which must
    /// be greater than `self`: what a branch needs to tell two neighbours apart.
    pub(crate) fn separator(&self, right: &Key<'_>) -> Vec<u8> {
        let mut separator = right.to_vec();
        separator.truncate(self.common_prefix(right) + 1);
        separator
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_compare_as_suffixes_do() {
        let mut suffixes: Vec<&[u8]> = vec![b"", b"\0", b"a", b"a\0", b"ab", b"abc", b"abcd", b"b"];
        suffixes.push(b"\xff\xff\xff\xff");
        assert!(suffixes.is_sorted());
        assert!(suffixes.iter().is_sorted_by_key(|suffix| head_of(suffix)));
        for suffix in suffixes {
            let (front, back) = suffix.split_at(suffix.len() / 2);
            assert_eq!(Key::new(front, back).head(), head_of(suffix));
        }
    }

    #[test]
    fn skipping_crosses_the_seam_between_the_pieces() {
        let key = Key::new(b"abc", b"def");
        for count in 0..=6 {
            assert_eq!(key.skip(count).to_vec(), b"abcdef"[count..]);
        }
    }

    #[test]
    fn keys_compare_as_if_their_pieces_were_joined() {
        let mut joined = vec![vec![]];
        for _ in 0..3 {
            let longer = |key: &Vec<u8>| [0, 1].map(|byte| [&key[..], &[byte]].concat());
            joined.extend(joined.iter().flat_map(longer).collect::<Vec<_>>());
        }
        joined.push([vec![0; 40], vec![1]].concat());
        joined.push([vec![0; 40], vec![2]].concat());
        for a in &joined {
            for b in &joined {
                for at_a in [0, a.len() / 2, a.len()] {
                    for at_b in [0, b.len() / 2, b.len()] {
                        let (x, y) = (a.split_at(at_a), b.split_at(at_b));
                        let (x, y) = (Key::new(x.0, x.1), Key::new(y.0, y.1));
                        assert_eq!(x.cmp(&y), a.cmp(b), "{x:?} {y:?}");
                        let common = a.iter().zip(b).take_while(|(a, b)| a == b).count();
                        assert_eq!(x.common_prefix(&y), common, "{x:?} {y:?}");
                        let starts = x.starts_with(b);
                        assert_eq!(starts, a.starts_with(b), "{x:?} {y:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_separator_is_the_shortest_that_tells_two_keys_apart() {
        let separator = |a: &[u8], b: &[u8]| Key::whole(a).separator(&Key::whole(b));
        assert_eq!(separator(b"apple", b"banana"), b"b");
        assert_eq!(separator(b"apple", b"apricot"), b"apr");
        assert_eq!(separator(b"app", b"apple"), b"appl");
        assert_eq!(separator(b"", b"a"), b"a");
    }
}
