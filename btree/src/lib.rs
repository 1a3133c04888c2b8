//! The copy-on-write B+tree of Bifolio, on any pager.
