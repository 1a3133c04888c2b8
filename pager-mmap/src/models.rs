//! The life of a mapped page, and the table of the `SIGBUS` handler, under every execution that the
//! memory model allows. `--cfg loom`, see `bifolio_pager::sync`, and its hazards' models for what stands
//! for `membarrier`.
//!
//! The bytes of the page are a loom `UnsafeCell`, which fails the model when somebody reads them
//! while another writes: invariants 1 to 4 of `state.rs`.

use std::sync::Arc;

use bifolio_pager::sync::atomic::{AtomicUsize, Ordering};
use bifolio_pager::sync::loom::cell::UnsafeCell;
use bifolio_pager::sync::{Mutex, explore, thread};
use bifolio_pager::{Error, PageId};

use crate::pages::Pages;
use crate::watched::{Table, Watch};

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

/// Bytes of a system page in the models of the handler.
const PAGE: usize = 8;

/// One mapping of two pages, of which the first cannot be brought in, under the handler's care. For the
/// bytes that an access finds stands a number; what `mmap` puts in their place is seen by whoever
/// reads it as other writes are: by release.
struct Watched {
    watch: Watch<'static>,
    table: &'static Table<2>,
    bytes: AtomicUsize,
}

const START: usize = 100 * PAGE;
const FAULT: usize = 2;
const ZEROS: usize = 0;

/// A table for one execution; what a watch borrows must outlive all threads, so it is never freed.
fn table<const SLOTS: usize>() -> &'static Table<SLOTS> {
    Box::leak(Box::new(Table::new()))
}

impl Watched {
    fn new() -> Arc<Self> {
        let table = table();
        // In the second slot, so that a handler passes by those that come and go in the first.
        let first = table.watch(0, PAGE, true).unwrap();
        let watch = table.watch(START, 2 * PAGE, true).unwrap();
        drop(first);
        Arc::new(Watched {
            watch,
            table,
            bytes: AtomicUsize::new(FAULT),
        })
    }

    /// A read of the first page, with the handler's step where it faults; told if it saw zeros.
    fn read(&self) {
        let mut found = self.bytes.load(Ordering::Relaxed);
        if found == FAULT {
            let mended = self.table.lose(START + 3, PAGE, |start, len, writable| {
                assert!(start == START && writable, "{start} is not what was lost");
                assert!(len == PAGE || len == 2 * PAGE, "{len}");
                self.bytes.store(ZEROS, Ordering::Release);
                true
            });
            assert!(mended, "a fault of ours was not taken for one");
            found = self.bytes.load(Ordering::Relaxed);
        }
        if found == ZEROS {
            assert!(self.watch.lost(|| 0..PAGE), "zeros were believed");
        }
    }

    /// Other mappings come and go.
    fn others(&self) {
        for start in [0, 200 * PAGE] {
            drop(self.table.watch(start, PAGE, false).unwrap());
        }
    }
}

fn side_by_side<const N: usize>(watched: &Arc<Watched>, work: [fn(&Watched); N]) {
    let threads = work.map(|work| {
        let watched = watched.clone();
        thread::spawn(move || work(&watched))
    });
    threads
        .into_iter()
        .for_each(|thread| thread.join().unwrap());
}

#[test]
fn whoever_reads_zeros_for_a_lost_page_is_told() {
    explore("mmap: two readers of a lost page", 3, || {
        let watched = Watched::new();
        side_by_side(&watched, [Watched::read, Watched::read]);
        assert!(watched.watch.any());
    });
}

#[test]
fn a_fault_of_ours_is_mended_whatever_other_mappings_come_and_go() {
    explore("mmap: a fault, other mappings", 3, || {
        let watched = Watched::new();
        side_by_side(&watched, [Watched::read, Watched::others]);
    });
}

#[test]
fn a_fault_in_what_is_no_longer_ours_or_never_was_goes_on() {
    // One slot, used twice: by a long mapping, and then by a short one behind it.
    explore("mmap: foreign faults, a slot used again", 4, || {
        let table = table::<1>();
        let unmapped = Arc::new(Mutex::new(false));
        let owner = thread::spawn({
            let unmapped = unmapped.clone();
            move || {
                drop(table.watch(START, 10 * PAGE, true).unwrap());
                *unmapped.lock() = true;
                let _short = table.watch(START + 20 * PAGE, PAGE, true).unwrap();
            }
        });
        let foreign = |address| {
            let zeros = |_, _, _| panic!("zeros over what is not ours");
            assert!(!table.lose(address, PAGE, zeros), "{address} is not ours");
        };
        // In the long mapping if it began where the short one does, which it never did.
        foreign(START + 25 * PAGE);
        // The lock stands for the kernel's: who maps a file where one was before comes after that.
        if *unmapped.lock() {
            foreign(START + 5 * PAGE);
        }
        owner.join().unwrap();
    });
}
