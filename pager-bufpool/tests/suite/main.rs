//! One program for all tests, because each program costs a link.

mod background;
mod conformance;
mod kept;
mod policies;
mod pool;
mod support;
mod tree;
