//! The first failure, kept for good.
//!
//! After a failed write or sync the kernel marks the pages clean and reports success the next time,
//! with the old bytes on the device. So nobody asks twice: the first failure is recorded here, and
//! every later write is refused with it (clause 5).

use std::sync::{Arc, OnceLock};

use bifolio_pager::{Error, Result};

/// Empty until something failed.
#[derive(Default)]
pub(crate) struct Poison(OnceLock<Arc<str>>);

impl Poison {
    /// Refuses, if anything failed before.
    #[inline]
    pub(crate) fn check(&self) -> Result<()> {
        match self.0.get() {
            None => Ok(()),
            Some(first) => Err(Error::Poisoned {
                first: Arc::clone(first),
            }),
        }
    }

    /// Records a failure, if it is the first, and hands it back to be returned.
    #[cold]
    pub(crate) fn record(&self, error: Error) -> Error {
        self.0.get_or_init(|| error.to_string().into());
        error
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_failure_is_the_one_that_is_told() {
        let poison = Poison::default();
        poison.check().unwrap();
        for text in ["one", "two"] {
            let _ = poison.record(Error::BadOption(text.into()));
        }
        let refused = poison.check().unwrap_err();
        assert!(matches!(&refused, Error::Poisoned { first } if first.contains("one")));
    }
}
