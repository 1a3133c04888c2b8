//! The life of a mapped page under every execution that the memory model allows. `--cfg loom`, see
//! `bifolio_pager::sync`, and its hazards' models for what stands for `membarrier`.
//!
//! The bytes of the page are a loom `UnsafeCell`, which fails the model when somebody reads them
//! while another writes: invariants 1 to 4 of `state.rs`.

use std::sync::Arc;

use bifolio_pager::sync::loom::cell::UnsafeCell;
use bifolio_pager::sync::{explore, thread};
use bifolio_pager::{Error, PageId};

use crate::pages::Pages;

const ID: PageId = PageId::new(3);

struct File {
    pages: Pages,
    bytes: UnsafeCell<u64>,
}

impl File {
    /// A file with one page that nothing is known of.
    fn new() -> Arc<Self> {
        Arc::new(File {
            pages: Pages::new(PageId::new(1), 4, true),
            bytes: UnsafeCell::new(0),
        })
    }

    /// The same, and the page sealed.
    fn sealed() -> Arc<Self> {
        let file = File::new();
        file.pages.create(ID).unwrap().seal();
        file
    }

    fn read_sealed(&self) {
        if let Some(_hold) = self.pages.use_sealed(ID) {
            self.bytes.with(|_| ());
        }
    }

    /// A reader that knows nothing of the page, and verifies it if it is the first.
    fn read(&self) {
        let hold = self.pages.hold(ID, |_| {
            self.bytes.with(|_| ());
            Ok(())
        });
        if let Ok(_hold) = hold {
            self.bytes.with(|_| ());
        }
    }

    /// The page's next life, where nobody is in the way.
    fn create_and_seal(&self) {
        match self.pages.create(ID) {
            Ok(exclusive) => {
                self.bytes.with_mut(|_| ());
                exclusive.seal();
            }
            Err(Error::Guarded { .. } | Error::WrongState { .. }) => {}
            Err(other) => panic!("{other}"),
        }
    }
}

fn beside<const N: usize>(file: &Arc<File>, work: [fn(&File); N]) -> [thread::JoinHandle<()>; N] {
    work.map(|work| {
        let file = file.clone();
        thread::spawn(move || work(&file))
    })
}

#[test]
fn a_page_is_not_created_anew_under_a_reader() {
    explore("mmap: read, discard, create", 4, || {
        let file = File::sealed();
        let threads = beside(&file, [File::read_sealed]);
        file.pages.discard(&[ID]).unwrap();
        file.create_and_seal();
        threads
            .into_iter()
            .for_each(|thread| thread.join().unwrap());
    });
}

#[test]
fn a_page_is_not_created_under_one_who_verifies_it() {
    explore("mmap: verify, discard, create", 3, || {
        let file = File::new();
        let threads = beside(&file, [File::read]);
        file.pages.discard(&[ID]).unwrap();
        file.create_and_seal();
        threads
            .into_iter()
            .for_each(|thread| thread.join().unwrap());
    });
}

#[test]
fn two_who_verify_at_once_both_read_and_a_third_may_retire_the_page() {
    explore("mmap: two verifiers, discard", 2, || {
        let file = File::new();
        let threads = beside(&file, [File::read, File::read]);
        file.pages.discard(&[ID]).unwrap();
        threads
            .into_iter()
            .for_each(|thread| thread.join().unwrap());
    });
}

#[test]
fn a_private_page_is_read_or_written_and_never_both() {
    explore("mmap: private page", 3, || {
        let file = File::new();
        drop(file.pages.create(ID).unwrap());
        let threads = beside(&file, [File::read]);
        if let Ok(exclusive) = file.pages.write(ID) {
            file.bytes.with_mut(|_| ());
            drop(exclusive);
        }
        if let Ok(exclusive) = file.pages.seal(ID) {
            exclusive.seal();
        }
        threads
            .into_iter()
            .for_each(|thread| thread.join().unwrap());
    });
}

#[test]
fn a_snapshot_older_than_the_page_s_last_retirement_frees_nothing() {
    // One discards, and may be slow to reclaim; another gives the page a life of its own meanwhile.
    explore("mmap: two lives in one discard", 3, || {
        let file = File::sealed();
        let threads = beside(
            &file,
            [
                |file| _ = file.pages.discard(&[ID]),
                |file| {
                    file.create_and_seal();
                    file.read_sealed();
                },
            ],
        );
        let _ = file.pages.discard(&[ID]);
        file.create_and_seal();
        threads
            .into_iter()
            .for_each(|thread| thread.join().unwrap());
    });
}
