//! What can go wrong in a tree.

/// The result of a tree's operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of a tree. Each variant is here because some caller does something different with it.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The pager failed, or a page does not hold what it must
    /// ([`Corrupt`](bifolio_pager::Error::Corrupt), naming the page).
    ///
    /// When a *write* ends so, the tree may hold half of the change: abandon the transaction.
    #[error(transparent)]
    Pager(#[from] bifolio_pager::Error),
    /// The key is longer than [`max_key_len`](crate::max_key_len). Nothing was changed.
    #[error("a key of {len} bytes is too long: the limit at this page size is {max}")]
    KeyTooLong {
        /// Bytes of the key.
        len: usize,
        /// The most bytes that a key may have.
        max: usize,
    },
    /// The value is longer than [`MAX_VALUE_LEN`](crate::MAX_VALUE_LEN). Nothing was changed.
    #[error("a value of {len} bytes is too long: the limit is {max}")]
    ValueTooLong {
        /// Bytes of the value.
        len: usize,
        /// The most bytes that a value may have.
        max: usize,
    },
    /// A bulk load met a key that is not greater than the one before. Nothing was changed.
    #[error("entry {position} of a sorted load has a key that is not greater than the one before")]
    NotSorted {
        /// How many entries came before the one in question.
        position: u64,
    },
}
