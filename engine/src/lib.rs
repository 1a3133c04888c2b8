//! An embedded, transactional, ordered key-value store with two pagers: mmap and a buffer pool.
