//! A `SIGBUS` becomes an error of the operation that met it, and other people's signals stay theirs.
//!
//! Each scenario runs in a process of its own, since a wrong answer may be the end of it: the test
//! starts this same binary again, told by a variable what to do.

mod common;

use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus, exit};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use bifolio_pager::page::HEADER_LEN;
use bifolio_pager::{Error, Geometry, PageGuard, PageSize, Pager, first_page};
use bifolio_pager_mmap::MmapPager;
use common::{OnFile, fill, filled, geometry, nth, options};

const SCENARIO: &str = "BIFOLIO_SIGBUS_SCENARIO";
const PAGE: u64 = PageSize::DEFAULT.bytes() as u64;
const HANDLED_BY_PREVIOUS: i32 = 77;

fn in_a_child(scenario: &str) -> ExitStatus {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "the_scenario_that_the_parent_asked_for"])
        .arg("--nocapture")
        .env(SCENARIO, scenario)
        .output()
        .unwrap();
    println!("{}", String::from_utf8_lossy(&output.stdout));
    println!("{}", String::from_utf8_lossy(&output.stderr));
    output.status
}

fn assert_survives(scenario: &str) {
    let status = in_a_child(scenario);
    assert!(status.success(), "{scenario}: {status}");
}

/// Run by the other tests in a child process; does nothing otherwise.
#[test]
fn the_scenario_that_the_parent_asked_for() {
    let Ok(scenario) = std::env::var(SCENARIO) else {
        return;
    };
    match scenario.as_str() {
        "reading" => reading_what_was_cut_off(),
        "first touch" => reading_for_the_first_time_what_was_cut_off(),
        "guard" => holding_a_guard_while_the_file_is_cut_off(),
        "large page" => losing_a_part_of_a_large_page(),
        "many" => losing_more_pages_than_are_noted(),
        "storing" => storing_where_the_file_was_cut_off(),
        "two files" => losing_one_file_of_two(),
        "previous" => a_fault_of_somebody_elses(true),
        "default" => a_fault_of_somebody_elses(false),
        "sent" => a_signal_that_was_sent(),
        other => panic!("no scenario {other}"),
    }
    exit(0);
}

/// Cuts the file off so that the pages from `index` on are gone.
fn cut_off(pager: &OnFile, index: u64) {
    pager.file.set_len(nth(index, 0).id.get() * PAGE).unwrap();
}

fn assert_unreadable(pager: &OnFile, index: u64) {
    let outcome = pager.read(nth(index, 1)).and_then(|guard| guard.confirm());
    assert!(
        matches!(outcome, Err(Error::Io { .. })),
        "page {index}: {outcome:?}"
    );
}

#[test]
fn reading_a_page_that_was_cut_off_is_an_error_on_every_thread() {
    assert_survives("reading");
}

fn reading_what_was_cut_off() {
    let pager = filled(60);
    cut_off(&pager, 30);
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for index in 0..60 {
                    if index < 30 {
                        let guard = pager.read(nth(index, 1)).unwrap();
                        assert!(guard[HEADER_LEN..].iter().all(|&byte| byte == index as u8));
                    } else {
                        assert_unreadable(&pager, index);
                    }
                }
            });
        }
    });
    // What is there is good, and what is not stays an error.
    for index in 0..30 {
        pager.read(nth(index, 1)).unwrap().confirm().unwrap();
    }
    assert_unreadable(&pager, 45);
    let refused = pager.create(nth(3, 2)).err().unwrap();
    assert!(matches!(refused, Error::Io { .. }), "{refused:?}");
    let refused = pager.flush(&[]).unwrap_err();
    assert!(matches!(refused, Error::Poisoned { .. }), "{refused:?}");
    let pager = pager.reopen(options());
    pager.read(nth(29, 1)).unwrap().confirm().unwrap();
    pager.grow(nth(40, 0).id.get()).unwrap();
    drop(pager.create(nth(35, 2)).unwrap());
}

#[test]
fn a_page_that_cannot_be_brought_in_to_be_verified_is_an_error() {
    assert_survives("first touch");
}

fn reading_for_the_first_time_what_was_cut_off() {
    let pager = filled(60).reopen(options());
    cut_off(&pager, 30);
    pager.read(nth(29, 1)).unwrap().confirm().unwrap();
    for _ in 0..2 {
        assert_unreadable(&pager, 30);
    }
}

#[test]
fn a_guard_does_not_confirm_what_was_lost_under_it() {
    assert_survives("guard");
}

fn holding_a_guard_while_the_file_is_cut_off() {
    let pager = filled(60);
    let (lost, kept) = (
        pager.read(nth(40, 1)).unwrap(),
        pager.read(nth(10, 1)).unwrap(),
    );
    lost.confirm().unwrap();
    cut_off(&pager, 30);
    assert!(
        lost.iter().all(|&byte| byte == 0),
        "zeros in place of the page"
    );
    assert!(matches!(lost.confirm(), Err(Error::Io { .. })));
    assert!(kept[HEADER_LEN..].iter().all(|&byte| byte == 10));
    kept.confirm().unwrap();
}

#[test]
fn losing_one_piece_of_a_large_page_loses_the_page() {
    assert_survives("large page");
}

fn losing_a_part_of_a_large_page() {
    let geometry = Geometry {
        page_size: PageSize::new(65536).unwrap(),
        ..geometry()
    };
    let pager = OnFile::new(tempfile::tempfile().unwrap(), geometry, options());
    pager.grow(first_page(geometry).get() + 2).unwrap();
    let at = bifolio_pager::PageRef {
        id: first_page(geometry).plus(1),
        version: bifolio_pager::Version::new(1),
    };
    pager.create(at).unwrap()[HEADER_LEN..].fill(5);
    pager.seal(&[at]).unwrap();
    let _ = pager.flush(&[at]).unwrap();
    pager
        .file
        .set_len(geometry.page_size.offset(at.id) + 8192)
        .unwrap();
    // The header is still there, so the page can be had; what lies behind it cannot.
    let guard = pager.read(at).unwrap();
    assert_eq!(guard[20_000], 0);
    assert!(guard.confirm().is_err());
    drop(guard);
    let again = pager.read(at).and_then(|guard| guard.confirm());
    assert!(again.is_err(), "the loss is not forgotten");
}

#[test]
fn losing_very_many_pages_loses_the_mapping_and_not_the_process() {
    assert_survives("many");
}

fn losing_more_pages_than_are_noted() {
    let pager = filled(3000);
    cut_off(&pager, 10);
    for index in 10..3000 {
        assert_unreadable(&pager, index);
    }
    assert_unreadable(&pager, 5);
    let pager = pager.reopen(options());
    pager.read(nth(5, 1)).unwrap().confirm().unwrap();
}

#[test]
fn a_store_where_the_file_was_cut_off_ends_writing() {
    assert_survives("storing");
}

fn storing_where_the_file_was_cut_off() {
    let pager = filled(60);
    pager.grow(nth(100, 0).id.get()).unwrap();
    cut_off(&pager, 30);
    drop(pager.create(nth(80, 2)).unwrap()); // the guard is had, and the store went nowhere
    let refused = pager.seal(&[nth(80, 2)]).unwrap_err();
    assert!(matches!(refused, Error::Io { .. }), "{refused:?}");
    for _ in 0..2 {
        let refused = pager.flush(&[]).unwrap_err();
        assert!(matches!(refused, Error::Poisoned { .. }), "{refused:?}");
    }
    pager.read(nth(20, 1)).unwrap().confirm().unwrap();
}

#[test]
fn a_fault_in_one_file_leaves_another_alone() {
    assert_survives("two files");
}

fn losing_one_file_of_two() {
    let (lost, other) = (filled(60), filled(60));
    cut_off(&lost, 30);
    assert_unreadable(&lost, 50);
    other.read(nth(50, 1)).unwrap().confirm().unwrap();
    drop(lost);
    let at = nth(60, 2);
    other.grow(at.id.get() + 1).unwrap();
    drop(other.create(at).unwrap());
    other.seal(&[at]).unwrap();
    let _ = other.flush(&[at]).unwrap();
    // A new pager may stand where the old one stood, and knows nothing of its faults.
    let new = OnFile::new(tempfile::tempfile().unwrap(), geometry(), options());
    fill(&new, 60);
    new.read(nth(50, 1)).unwrap().confirm().unwrap();
}

#[test]
fn a_fault_that_is_not_ours_goes_to_the_handler_before_us() {
    assert_eq!(in_a_child("previous").code(), Some(HANDLED_BY_PREVIOUS));
}

#[test]
fn a_fault_that_is_nobodys_ends_the_process_by_its_signal() {
    assert_eq!(in_a_child("default").signal(), Some(libc::SIGBUS));
}

#[test]
fn a_signal_that_was_sent_and_not_met_is_not_swallowed() {
    assert_eq!(in_a_child("sent").signal(), Some(libc::SIGBUS));
}

extern "C" fn previous_handler(_signal: libc::c_int) {
    // SAFETY: ends the process at once; takes a number.
    unsafe { libc::_exit(HANDLED_BY_PREVIOUS) }
}

fn set_handler(handler: usize) {
    // SAFETY: all zeros is a valid `sigaction`.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler;
    // SAFETY: the action is the default one or a handler of the type that no flags mean.
    let done = unsafe { libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut()) };
    assert_eq!(done, 0);
}

fn a_fault_of_somebody_elses(with_previous: bool) {
    let handler: extern "C" fn(libc::c_int) = previous_handler;
    set_handler(if with_previous {
        handler as usize
    } else {
        libc::SIG_DFL
    });
    let pager = filled(60);
    cut_off(&pager, 30);
    assert_unreadable(&pager, 50); // ours is in place and at work

    let foreign = tempfile::tempfile().unwrap();
    foreign.set_len(8192).unwrap();
    let map = memmap_of(&foreign);
    foreign.set_len(0).unwrap();
    // SAFETY: none; this is the fault that the scenario is about.
    unsafe { std::ptr::read_volatile(map) };
    panic!("the fault was swallowed");
}

fn memmap_of(file: &File) -> *const u8 {
    let map = memmap2::MmapOptions::new().map_raw_read_only(file).unwrap();
    let start = map.as_ptr();
    std::mem::forget(map);
    start
}

fn a_signal_that_was_sent() {
    set_handler(libc::SIG_DFL);
    let file = tempfile::tempfile().unwrap();
    let _pager = MmapPager::open(file, geometry(), options()).unwrap();
    // SAFETY: takes a number.
    unsafe { libc::raise(libc::SIGBUS) };
    static NOT_REACHED: AtomicUsize = AtomicUsize::new(0);
    NOT_REACHED.fetch_add(1, Ordering::Relaxed);
    panic!("the signal was swallowed");
}
