//! Writing with `pwrite` beside a mapping that is only read.

mod common;

use bifolio_pager::page::HEADER_LEN;
use bifolio_pager::{Error, PageRef, PageSize, Pager, first_page};
use bifolio_pager_mmap::{MmapOptions, WriteStyle};
use common::{OnFile, geometry, nth, options};

const PAGE: u64 = PageSize::DEFAULT.bytes() as u64;

/// With room for so many private pages.
fn with_buffers(count: u64) -> MmapOptions {
    MmapOptions {
        write_style: WriteStyle::Pwrite,
        private_bytes: count * PAGE,
        ..options()
    }
}

fn opened(buffers: u64, pages: u64) -> OnFile {
    let file = tempfile::tempfile().unwrap();
    let pager = OnFile::new(file, geometry(), with_buffers(buffers));
    pager.grow(first_page(geometry()).get() + pages).unwrap();
    pager
}

fn refs(count: u64) -> Vec<PageRef> {
    (0..count).map(|index| nth(index, 1)).collect()
}

#[test]
fn the_mapping_cannot_be_written() {
    let pager = opened(4, 4);
    let at = nth(0, 1);
    pager.create(at).unwrap()[HEADER_LEN..].fill(7);
    pager.seal(&[at]).unwrap();
    let guard = pager.read(at).unwrap();
    assert!(guard[HEADER_LEN..].iter().all(|&byte| byte == 7));
    let place = guard.as_ptr().addr();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let line = maps.lines().find(|line| {
        let (range, _) = line.split_once(' ').unwrap();
        let (start, end) = range.split_once('-').unwrap();
        let bound = |text| usize::from_str_radix(text, 16).unwrap();
        (bound(start)..bound(end)).contains(&place)
    });
    assert!(line.unwrap().contains(" r--s "), "{line:?}");
}

#[test]
fn a_transaction_larger_than_the_buffers_is_written_early_and_sealed_whole() {
    const COUNT: u64 = 100;
    let pager = opened(8, COUNT);
    let pages = refs(COUNT);
    for (index, &at) in pages.iter().enumerate() {
        pager.create(at).unwrap()[HEADER_LEN..].fill(index as u8);
    }
    assert_eq!(pager.counters().pages_stolen, Some(COUNT - 8));
    // Read and written again, whether they have a buffer or not.
    for (index, &at) in pages.iter().enumerate() {
        let guard = pager.read(at).unwrap();
        assert!(guard[HEADER_LEN..].iter().all(|&byte| byte == index as u8));
        drop(guard);
        pager.write(at).unwrap()[HEADER_LEN] = 200;
    }
    pager.seal(&pages).unwrap();
    let _ = pager.flush(&pages).unwrap();
    let pager = pager.reopen(options());
    for (index, &at) in pages.iter().enumerate() {
        let guard = pager.read(at).unwrap();
        assert_eq!(guard[HEADER_LEN], 200);
        let rest = &guard[HEADER_LEN + 1..];
        assert!(rest.iter().all(|&byte| byte == index as u8));
    }
}

#[test]
fn a_page_written_early_does_not_pass_for_a_final_one() {
    let pager = opened(1, 2);
    let pages = refs(2);
    drop(pager.create(pages[0]).unwrap());
    drop(pager.create(pages[1]).unwrap());
    assert_eq!(pager.counters().pages_stolen, Some(1));
    let pager = pager.reopen(with_buffers(1));
    let verdict = pager.read(pages[0]).err().unwrap();
    assert!(matches!(verdict, Error::Corrupt { page, .. } if page == pages[0].id));
}

#[test]
fn when_every_private_page_is_held_there_is_no_room_until_one_is_let_go() {
    let pager = opened(2, 3);
    let pages = refs(3);
    let first = pager.create(pages[0]).unwrap();
    let second = pager.create(pages[1]).unwrap();
    let refused = pager.create(pages[2]).err().unwrap();
    assert!(
        matches!(refused, Error::NoFreeFrame { capacity: 2 }),
        "{refused:?}"
    );
    drop(first);
    drop(pager.create(pages[2]).unwrap());
    drop(second);
    pager.seal(&pages).unwrap();
}

#[test]
fn the_pages_of_a_transaction_are_written_by_runs_and_once() {
    let pager = opened(64, 64);
    let pages = refs(64);
    for &at in &pages {
        drop(pager.create(at).unwrap());
    }
    pager.discard(&[pages[10].id, pages[11].id]).unwrap();
    let left: Vec<_> = pages
        .iter()
        .copied()
        .filter(|at| !(10..12).contains(&(at.id.get() - pages[0].id.get())))
        .collect();
    pager.seal(&left).unwrap();
    let _ = pager.flush(&left).unwrap();
    let counters = pager.counters();
    assert_eq!(counters.pages_written, Some(62));
    assert_eq!(counters.write_calls, Some(2));
}

#[test]
fn the_buffers_of_discarded_pages_are_used_again() {
    let pager = opened(4, 4);
    for version in 1..100 {
        for index in 0..4 {
            drop(pager.create(nth(index, version)).unwrap());
        }
        pager
            .discard(&refs(4).iter().map(|at| at.id).collect::<Vec<_>>())
            .unwrap();
    }
    assert_eq!(pager.counters().pages_stolen, Some(0));
}
