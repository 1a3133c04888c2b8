//! Runs one B+tree on mmap and on a buffer pool, with data larger than memory, side by side.
