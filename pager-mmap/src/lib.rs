//! The mmap pager of Bifolio: a shared mapping, madvise and msync.
