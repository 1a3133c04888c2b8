//! The bytes of a file, most of which may never have been written.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

const BLOCK_LEN: usize = 4096;

type Block = [u8; BLOCK_LEN];

/// What a file holds. A clone shares its blocks until one of the two changes them.
///
/// Bytes past the length may be there and cannot be read: a write and the change of length that
/// came with it survive a power cut each by itself.
#[derive(Clone, Debug, Default)]
pub struct Content {
    /// What is not here is zeros.
    blocks: BTreeMap<u64, Arc<Block>>,
    len: u64,
}

/// The pieces that `len` bytes at `offset` are cut into by the blocks: number, begin, length.
fn pieces(offset: u64, len: usize) -> impl Iterator<Item = (u64, usize, usize)> {
    let end = offset + len as u64;
    let mut at = offset;
    std::iter::from_fn(move || {
        let within = (at % BLOCK_LEN as u64) as usize;
        let count = (BLOCK_LEN - within).min((end - at) as usize);
        let piece = (at / BLOCK_LEN as u64, within, count);
        at += count as u64;
        (count > 0).then_some(piece)
    })
}

impl Content {
    /// Bytes in the file.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Up to `len` bytes from `offset` on; fewer at the end of the file.
    pub fn read(&self, offset: u64, len: usize) -> Vec<u8> {
        let len = (len as u64).min(self.len.saturating_sub(offset)) as usize;
        let mut bytes = Vec::with_capacity(len);
        for (number, begin, count) in pieces(offset, len) {
            match self.blocks.get(&number) {
                Some(block) => bytes.extend_from_slice(&block[begin..begin + count]),
                None => bytes.resize(bytes.len() + count, 0),
            }
        }
        bytes
    }

    /// Puts `data` at `offset`. The length stays.
    pub fn write(&mut self, offset: u64, data: &[u8]) {
        let mut rest = data;
        for (number, begin, count) in pieces(offset, data.len()) {
            let (piece, others) = rest.split_at(count);
            rest = others;
            let zeros = || Arc::new([0; BLOCK_LEN]);
            let block = self.blocks.entry(number).or_insert_with(zeros);
            Arc::make_mut(block)[begin..begin + count].copy_from_slice(piece);
        }
    }

    /// Makes the file this long. What a shorter file had behind its new end is zeros from now on.
    pub fn set_len(&mut self, len: u64) {
        if len < self.len {
            self.cut(len);
        }
        self.len = len;
    }

    /// Forgets what lies past the end.
    pub fn trim(&mut self) {
        self.cut(self.len);
    }

    fn cut(&mut self, len: u64) {
        let within = (len % BLOCK_LEN as u64) as usize;
        drop(self.blocks.split_off(&len.div_ceil(BLOCK_LEN as u64)));
        if within > 0
            && let Some(block) = self.blocks.get_mut(&(len / BLOCK_LEN as u64))
        {
            Arc::make_mut(block)[within..].fill(0);
        }
    }

    /// What `file` holds. What is zeros takes no memory.
    ///
    /// # Errors
    /// What the file says.
    pub fn load(file: &File) -> io::Result<Self> {
        let mut content = Content::default();
        content.set_len(file.metadata()?.len());
        let mut piece = vec![0; 1 << 20];
        let mut offset = 0;
        while offset < content.len {
            let count = (content.len - offset).min(piece.len() as u64) as usize;
            file.read_exact_at(&mut piece[..count], offset)?;
            for (index, block) in piece[..count].chunks(BLOCK_LEN).enumerate() {
                if block.iter().any(|&byte| byte != 0) {
                    content.write(offset + (index * BLOCK_LEN) as u64, block);
                }
            }
            offset += count as u64;
        }
        Ok(content)
    }

    /// Writes everything to `file`, which is empty.
    ///
    /// # Errors
    /// What the file says.
    pub fn save(&self, file: &File) -> io::Result<()> {
        file.set_len(self.len)?;
        for (&number, block) in &self.blocks {
            let offset = number * BLOCK_LEN as u64;
            let count = (BLOCK_LEN as u64).min(self.len.saturating_sub(offset)) as usize;
            file.write_all_at(&block[..count], offset)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_across_blocks_and_the_rest_is_zeros() {
        let mut content = Content::default();
        content.set_len(20_000);
        content.write(4000, &[7; 5000]);
        let mut expected = vec![0; 20_000];
        expected[4000..9000].fill(7);
        assert_eq!(content.read(0, 1 << 20), expected);
        assert_eq!(content.read(19_999, 5), [0]);
        assert!(content.read(20_000, 5).is_empty());
    }

    #[test]
    fn a_file_that_was_cut_and_grows_again_has_zeros_there() {
        let mut content = Content::default();
        content.set_len(9000);
        content.write(0, &[7; 9000]);
        content.set_len(5000);
        content.set_len(9000);
        assert_eq!(content.read(0, 5000), [7; 5000]);
        assert_eq!(content.read(5000, 4000), [0; 4000]);
    }

    #[test]
    fn bytes_past_the_end_appear_with_the_length_unless_they_are_trimmed() {
        let mut content = Content::default();
        content.write(100, &[7; 100]);
        let mut grown = content.clone();
        grown.set_len(200);
        assert_eq!(grown.read(100, 100), [7; 100]);
        content.trim();
        content.set_len(200);
        assert_eq!(content.read(100, 100), [0; 100]);
    }
}
