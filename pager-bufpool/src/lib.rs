//! The buffer-pool pager of Bifolio: frames, eviction, pread or io_uring, write-back.
