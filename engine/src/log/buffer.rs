//! Memory that direct I/O accepts.

use std::ops::{Deref, DerefMut};

/// What direct I/O may ask of an address, an offset and a length, at most.
pub(super) const MAX_ALIGNMENT: usize = 4096;

/// A buffer of fixed capacity whose first byte lies at a multiple of [`MAX_ALIGNMENT`].
#[derive(Debug)]
pub(super) struct AlignedBuf {
    /// Its heap memory never moves: nothing is ever pushed past `front + capacity`.
    memory: Vec<u8>,
    front: usize,
    len: usize,
    capacity: usize,
}

impl AlignedBuf {
    /// An empty buffer with room for `capacity` bytes.
    pub fn new(capacity: usize) -> Self {
        let memory = vec![0; capacity + MAX_ALIGNMENT];
        let front = memory.as_ptr().align_offset(MAX_ALIGNMENT);
        assert!(front < MAX_ALIGNMENT, "bytes can be aligned");
        AlignedBuf {
            memory,
            front,
            len: 0,
            capacity,
        }
    }

    /// A buffer that is full of zeros.
    pub fn zeroed(len: usize) -> Self {
        let mut buffer = AlignedBuf::new(len);
        buffer.len = len;
        buffer
    }

    pub fn capacity(&self) -> usize {
        self.capacity
    }

    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// # Panics
    /// If the buffer is too full: the caller checks.
    pub fn push(&mut self, bytes: &[u8]) {
        let len = self.len;
        self.grow(bytes.len());
        self[len..].copy_from_slice(bytes);
    }

    /// # Panics
    /// If the buffer is too full: the caller checks.
    pub fn push_zeros(&mut self, count: usize) {
        let len = self.len;
        self.grow(count);
        self[len..].fill(0);
    }

    fn grow(&mut self, count: usize) {
        assert!(
            count <= self.capacity - self.len,
            "{count} more bytes than the buffer holds"
        );
        self.len += count;
    }
}

impl Deref for AlignedBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory[self.front..self.front + self.len]
    }
}

impl DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.front..self.front + self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_aligned_and_stays_so() {
        let mut buffer = AlignedBuf::new(10_000);
        buffer.push(b"abc");
        buffer.push_zeros(5);
        assert_eq!(&*buffer, b"abc\0\0\0\0\0");
        assert!(buffer.as_ptr().addr().is_multiple_of(MAX_ALIGNMENT));
        buffer.clear();
        buffer.push_zeros(10_000);
        assert!(
            buffer.iter().all(|&byte| byte == 0),
            "old bytes shine through"
        );
        assert!(buffer.as_ptr().addr().is_multiple_of(MAX_ALIGNMENT));
    }

    #[test]
    #[should_panic = "more bytes than the buffer holds"]
    fn a_buffer_does_not_grow() {
        AlignedBuf::new(10).push(&[0; 11]);
    }
}
