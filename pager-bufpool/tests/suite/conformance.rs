//! The pager contract, on every kind of pool.

use bifolio_pager_bufpool::{Direct, IoBackend, Policy};

use crate::support::Kind;

use Direct::{Off, On};
use IoBackend::{IoUring, Pread};
use Policy::{Clock, Lru, Random, S3Fifo, Sieve, TwoQ};

const FEW: usize = 8;
const MANY: usize = 500;

bifolio_pager::conformance!(pread_direct_clock_few, Kind::new(Pread, On, Clock, FEW));
bifolio_pager::conformance!(pread_cached_lru_many, Kind::new(Pread, Off, Lru, MANY));
bifolio_pager::conformance!(
    pread_in_memory_clock_few,
    Kind::new(Pread, Off, Clock, FEW).in_memory()
);
bifolio_pager::conformance!(uring_direct_clock_many, Kind::new(IoUring, On, Clock, MANY));
bifolio_pager::conformance!(uring_direct_lru_few, Kind::new(IoUring, On, Lru, FEW));
bifolio_pager::conformance!(uring_cached_clock_few, Kind::new(IoUring, Off, Clock, FEW));
bifolio_pager::conformance!(
    uring_in_memory_lru_many,
    Kind::new(IoUring, Off, Lru, MANY).in_memory()
);
bifolio_pager::conformance!(
    pread_in_memory_random_few,
    Kind::new(Pread, Off, Random, FEW).in_memory()
);
bifolio_pager::conformance!(
    uring_in_memory_sieve_few,
    Kind::new(IoUring, Off, Sieve, FEW).in_memory()
);
bifolio_pager::conformance!(
    pread_in_memory_two_q_few,
    Kind::new(Pread, Off, TwoQ, FEW).in_memory()
);
bifolio_pager::conformance!(
    uring_in_memory_s3_fifo_few,
    Kind::new(IoUring, Off, S3Fifo, FEW).in_memory()
);
