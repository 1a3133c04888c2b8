//! One page number of a [`MemPager`](super::MemPager): its life, its bytes, and what storage has.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::page::{Geometry, PageId, PageRef, SELF_REF, Standing};

/// A whole page, checksum word included. Shared by guards, and by storage once it is flushed; what
/// is shared is never changed.
pub(super) type Image = Arc<Box<[u8]>>;

/// Where in its life a page number is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Life {
    /// Nothing was heard of it since the pager was made or opened.
    #[default]
    Unknown,
    /// Its bytes may be written.
    Private,
    /// Its bytes are with the write guard, which brings them back.
    Writing,
    /// Its bytes are final and carry their checksum.
    Sealed,
    /// It has none.
    Free,
}

/// Invariants:
/// 1. A page that is `Private` or `Sealed` has an image; one that is `Free` or `Writing` has none.
/// 2. The image of a private page is shared with guards at most.
#[derive(Default)]
pub(super) struct Slot {
    pub life: Life,
    pub image: Option<Image>,
    /// Whether the image's checksum was checked, or is known to be due.
    pub verified: bool,
    /// What survives a power cut for certain.
    pub durable: Option<Image>,
    /// The last image of a former life that was not flushed: storage may have it.
    pub late: Option<Image>,
    /// Every read guard of this number, of whatever life, holds one.
    token: Option<Arc<()>>,
}

/// What a read guard holds. The image goes first, so that whoever sees the token gone can have the
/// image for itself.
pub(super) struct Held {
    pub image: Image,
    _token: Arc<()>,
}

impl Slot {
    /// A page of a file that was just opened.
    pub fn stored(durable: Option<Image>) -> Self {
        Slot {
            image: durable.clone(),
            durable,
            ..Slot::default()
        }
    }

    pub fn hold(&mut self) -> Held {
        Held {
            image: self
                .image
                .clone()
                .expect("a page that can be read has an image"),
            _token: self.token.get_or_insert_default().clone(),
        }
    }

    /// Refuses while a read guard or a write guard of this number lives.
    pub fn expect_unguarded(&mut self, page: PageId) -> Result<()> {
        // `get_mut` has acquire semantics: what the dropped guards read was read before.
        let read = self
            .token
            .as_mut()
            .is_some_and(|token| Arc::get_mut(token).is_none());
        if read || self.life == Life::Writing {
            return Err(Error::Guarded { page });
        }
        Ok(())
    }

    /// Refuses unless the page is private, unguarded, and the one that `at` refers to.
    pub fn expect_private(
        &mut self,
        geometry: &Geometry,
        at: PageRef,
        verb: &'static str,
    ) -> Result<()> {
        let state = match self.life {
            Life::Private | Life::Writing => {
                self.expect_unguarded(at.id)?;
                self.verify(geometry, at.id)?;
                if self.own_ref() == Some(at) {
                    return Ok(());
                }
                "of another version"
            }
            other => other.in_words(),
        };
        Err(Error::WrongState {
            page: at.id,
            verb,
            state,
        })
    }

    /// Checks the image if that was not done since the file was opened (clause 6). `true` if it
    /// was checked now.
    pub fn verify(&mut self, geometry: &Geometry, id: PageId) -> Result<bool> {
        if self.verified {
            return Ok(false);
        }
        let Some(image) = &self.image else {
            return Err(Error::corrupt(id, "nothing was ever written here"));
        };
        geometry.verify_image(image, id, self.standing())?;
        self.verified = true;
        Ok(true)
    }

    /// The reference that the page itself carries.
    pub fn own_ref(&self) -> Option<PageRef> {
        Some(PageRef::decode(&self.image.as_ref()?[SELF_REF]))
    }

    pub fn standing(&self) -> Standing {
        match self.life {
            Life::Private => Standing::Private,
            _ => Standing::Final,
        }
    }

    /// The image as it would be written out now, if there is one that storage does not have.
    pub fn unflushed(&self, geometry: &Geometry) -> Option<Image> {
        let image = self.image.as_ref()?;
        match (&self.durable, self.life) {
            (_, Life::Private) if self.verified => {
                let mut stolen = image.as_ref().clone();
                geometry.seal_image(&mut stolen, Standing::Private);
                Some(Arc::new(stolen))
            }
            (Some(durable), _) if Arc::ptr_eq(image, durable) => None,
            _ => Some(image.clone()),
        }
    }
}

impl Life {
    pub fn in_words(self) -> &'static str {
        match self {
            Life::Unknown => "not known to be private",
            Life::Private => "private",
            Life::Writing => "being written",
            Life::Sealed => "sealed",
            Life::Free => "free",
        }
    }
}

impl Slot {
    /// Different images that this slot holds.
    pub fn images(&self) -> usize {
        let mut images: Vec<_> = [&self.image, &self.durable, &self.late]
            .into_iter()
            .flatten()
            .map(Arc::as_ptr)
            .collect();
        images.dedup();
        images.len() + usize::from(self.life == Life::Writing)
    }
}
