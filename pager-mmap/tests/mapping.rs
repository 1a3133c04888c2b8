//! What the mmap pager does beyond the contract, and at its own limits.

mod common;

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use bifolio_pager::page::HEADER_LEN;
use bifolio_pager::{
    Access, Error, META_AREA_LEN, META_LEN, MetaSlot, PageGuard, PageSize, Pager, first_page,
};
use bifolio_pager_mmap::{Advice, MmapOptions, MmapPager, WriteStyle};
use common::{MAX_BYTES, OnFile, fill, filled, geometry, nth, options};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

const PAGE: u64 = PageSize::DEFAULT.bytes() as u64;

fn read_only() -> MmapOptions {
    MmapOptions {
        read_only: true,
        ..options()
    }
}

#[test]
fn growth_by_much_keeps_the_bytes_of_a_live_guard_where_they_are() {
    let pager = filled(10);
    let guard = pager.read(nth(7, 1)).unwrap();
    let (place, bytes) = (guard.as_ptr(), guard.to_vec());
    pager.grow(50_000).unwrap();
    assert_eq!(pager.page_count(), 50_000);
    assert_eq!(pager.file.metadata().unwrap().len(), 50_000 * PAGE);
    assert_eq!(guard.as_ptr(), place);
    assert_eq!(*guard, bytes);
    guard.confirm().unwrap();
}

#[test]
fn growth_past_the_reservation_is_refused_and_poisons_nothing() {
    let pager = filled(10);
    let refused = pager.grow(MAX_BYTES / PAGE + 1).unwrap_err();
    assert!(
        matches!(refused, Error::Full { limit_bytes } if limit_bytes == MAX_BYTES),
        "{refused:?}"
    );
    pager.grow(MAX_BYTES / PAGE / 16).unwrap();
    drop(pager.create(nth(5000, 2)).unwrap());
}

#[test]
fn a_file_longer_than_the_reservation_is_mapped_whole_and_cannot_grow() {
    let pager = filled(100);
    let len = pager.file.metadata().unwrap().len();
    let pager = pager.reopen(MmapOptions {
        max_bytes: 1,
        ..options()
    });
    assert_eq!(pager.pager.reserved_bytes(), len);
    pager.read(nth(99, 1)).unwrap().confirm().unwrap();
    let refused = pager.grow(pager.page_count() + 1).unwrap_err();
    assert!(matches!(refused, Error::Full { .. }), "{refused:?}");
}

#[test]
fn bytes_past_the_last_whole_page_are_no_page() {
    let pager = filled(3);
    let pages = pager.page_count();
    pager.file.set_len(pages * PAGE + 1000).unwrap();
    let pager = pager.reopen(options());
    assert_eq!(pager.page_count(), pages);
    let past = nth(3, 1);
    let refused = pager.read(past).err().unwrap();
    assert!(matches!(&refused, Error::Corrupt { page, .. } if *page == past.id));
    pager.grow(pages + 1).unwrap();
    drop(pager.create(past).unwrap());
}

#[test]
fn an_empty_file_is_a_pager_without_pages_that_can_grow() {
    let pager = OnFile::new(tempfile::tempfile().unwrap(), geometry(), options());
    assert_eq!(pager.page_count(), 0);
    for number in [0, 1, first_page(geometry()).get()] {
        let at = bifolio_pager::PageRef {
            id: bifolio_pager::PageId::new(number),
            ..nth(0, 1)
        };
        assert!(matches!(pager.read(at), Err(Error::Corrupt { .. })));
    }
    // A meta can be written before there are pages.
    let proof = pager.flush(&[]).unwrap();
    pager
        .write_meta(proof, MetaSlot::B, &[7; META_LEN])
        .unwrap();
    assert!(pager.file.metadata().unwrap().len() <= META_AREA_LEN);
    fill(&pager, 3);
    let pager = pager.reopen(options());
    pager.read(nth(2, 1)).unwrap().confirm().unwrap();
}

#[test]
fn a_read_only_pager_reads_and_refuses_every_change() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("data");
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)
        .unwrap();
    let pager = OnFile::new(file, geometry(), options());
    fill(&pager, 4);
    let proof = pager.flush(&[]).unwrap();
    let before = std::fs::read(&path).unwrap();
    drop(pager);

    let pager = MmapPager::open(File::open(&path).unwrap(), geometry(), read_only()).unwrap();
    for index in 0..4 {
        let guard = pager.read(nth(index, 1)).unwrap();
        assert!(guard[HEADER_LEN..].iter().all(|&byte| byte == index as u8));
        guard.confirm().unwrap();
    }
    let at = nth(0, 1);
    let refusals = [
        pager.grow(pager.page_count() + 1).err(),
        pager.create(at).err(),
        pager.write(at).err(),
        pager.seal(&[at]).err(),
        pager.discard(&[at.id]).err(),
        pager.flush(&[at]).err(),
        pager.write_meta(proof, MetaSlot::A, &[1; META_LEN]).err(),
    ];
    for refusal in refusals {
        assert!(matches!(refusal, Some(Error::ReadOnly)), "{refusal:?}");
    }
    pager.write_back(&[at]);
    pager.prefetch(&[at]);
    pager.read(at).unwrap().confirm().unwrap();
    assert!(pager.effective_backend().contains("read-only"));
    drop(pager);
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

#[test]
fn a_flipped_bit_anywhere_in_a_page_is_reported_with_the_pages_number() {
    const PAGES: u64 = 200;
    let seed = rand::random();
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let pager = filled(PAGES).reopen(options());
    for index in 0..PAGES {
        let bit = rng.random_range(0..PAGE as usize * 8);
        pager.damage(nth(index, 1).id, &mut |image| {
            image[bit / 8] ^= 1 << (bit % 8);
        });
    }
    for index in 0..PAGES {
        let at = nth(index, 1);
        let error = pager.read(at).err().expect("the damage is found");
        assert!(
            matches!(error, Error::Corrupt { page, .. } if page == at.id),
            "{at:?}: {error:?}"
        );
    }
}

#[test]
fn one_flush_is_one_sync_and_a_flush_of_nothing_new_is_none() {
    let pager = filled(100);
    let syncs = || pager.counters().syncs.unwrap();
    let pages: Vec<_> = (100..200).step_by(3).map(|index| nth(index, 2)).collect();
    pager.grow(nth(200, 0).id.get()).unwrap();
    let before = syncs();
    let _ = pager.flush(&[]).unwrap();
    assert_eq!(syncs(), before + 1, "the new length is made durable");
    for &at in &pages {
        drop(pager.create(at).unwrap());
    }
    pager.seal(&pages).unwrap();
    let before = syncs();
    let _ = pager.flush(&pages).unwrap();
    assert_eq!(syncs(), before + 1);
    let _ = pager.flush(&pages).unwrap();
    assert_eq!(syncs(), before + 1);
}

#[test]
fn pages_written_back_early_are_durable_after_a_flush_that_does_not_name_them() {
    let pager = filled(1);
    pager.grow(nth(64, 0).id.get()).unwrap();
    let _ = pager.flush(&[]).unwrap();
    let pages: Vec<_> = (1..64).map(|index| nth(index, 2)).collect();
    for &at in &pages {
        drop(pager.create(at).unwrap());
    }
    pager.seal(&pages).unwrap();
    pager.write_back(&pages);
    let before = pager.counters().syncs.unwrap();
    let _ = pager.flush(&[]).unwrap();
    assert_eq!(pager.counters().syncs, Some(before + 1));
    let pager = pager.reopen(options());
    for at in pages {
        pager.read(at).unwrap().confirm().unwrap();
    }
}

#[test]
fn a_file_that_was_cut_off_fails_the_flush_and_every_later_write() {
    let pager = filled(20);
    pager.grow(nth(40, 0).id.get()).unwrap();
    let at = nth(30, 2);
    drop(pager.create(at).unwrap());
    pager.seal(&[at]).unwrap();
    pager.file.set_len(nth(25, 0).id.get() * PAGE).unwrap();
    let first = pager.flush(&[at]).unwrap_err();
    assert!(matches!(first, Error::Io { .. }), "{first:?}");
    let later = pager.create(nth(3, 3)).err().unwrap();
    assert!(matches!(later, Error::Poisoned { .. }), "{later:?}");
    pager.read(nth(19, 1)).unwrap().confirm().unwrap();
}

#[test]
fn readers_of_dying_pages_see_one_life_or_an_error() {
    // More hostile than the engine ever is: readers go on reading numbers whose pages are retired
    // and begun anew. A guard shows one version all over; anything else is refused.
    const PAGES: u64 = 16;
    let pager = filled(PAGES);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for reader in 0..3 {
            let (pager, done) = (&pager, &done);
            scope.spawn(move || {
                let mut rng = StdRng::seed_from_u64(reader);
                let mut seen = 0_u64;
                let mut version = 1;
                while !done.load(Ordering::Relaxed) {
                    let at = nth(rng.random_range(0..PAGES), version);
                    match pager.read(at) {
                        Ok(guard) => {
                            let first = guard[HEADER_LEN];
                            assert!(guard[HEADER_LEN..].iter().all(|&byte| byte == first));
                            seen += 1;
                        }
                        Err(Error::Corrupt { .. } | Error::Guarded { .. }) => version += 1,
                        Err(error) => panic!("{error}"),
                    }
                    if version > 300 {
                        version = 1;
                    }
                }
                seen
            });
        }
        for version in 2..300 {
            let pages: Vec<_> = (0..PAGES).map(|index| nth(index, version)).collect();
            let ids: Vec<_> = pages.iter().map(|at| at.id).collect();
            pager.discard(&ids).unwrap();
            let mut created = Vec::new();
            for &at in &pages {
                match pager.create(at) {
                    Ok(mut page) => {
                        page[HEADER_LEN..].fill(version as u8);
                        created.push(at);
                    }
                    Err(Error::Guarded { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
            // A reader of a private page may stand in the way for a moment.
            while let Err(error) = pager.seal(&created) {
                assert!(matches!(error, Error::Guarded { .. }), "{error}");
            }
            if version % 10 == 0 {
                let _ = pager.flush(&created).unwrap();
            }
        }
        done.store(true, Ordering::Relaxed);
    });
}

#[test]
fn the_backend_says_what_was_chosen() {
    for (advice, name) in [
        (Advice::Random, "MADV_RANDOM"),
        (Advice::Normal, "MADV_NORMAL"),
        (Advice::Sequential, "MADV_SEQUENTIAL"),
    ] {
        let options = MmapOptions {
            advice,
            ..options()
        };
        let pager = OnFile::new(tempfile::tempfile().unwrap(), geometry(), options);
        let backend = pager.effective_backend();
        assert_eq!(
            backend,
            format!("mmap, {name}, stores, msync, 1 GiB reserved")
        );
        for access in [Access::Normal, Access::Random, Access::Sequential] {
            pager.advise(access);
        }
    }
}

#[test]
fn tables_cost_little_and_are_counted() {
    let default = OnFile::new(
        tempfile::tempfile().unwrap(),
        geometry(),
        MmapOptions::default(),
    );
    assert!(default.effective_backend().ends_with("1024 GiB reserved"));
    let empty = default.counters().memory_bytes.unwrap();
    assert!(empty < 1 << 20, "{empty} bytes for an empty file");
    fill(&default, 100);
    let used = default.counters().memory_bytes.unwrap();
    assert!((1..1 << 20).contains(&(used - empty)), "{empty} {used}");
}

/// Run in a process of its own, because the limit is the process's.
#[test]
fn where_address_space_is_short_less_is_reserved_and_reported() {
    const CHILD: &str = "BIFOLIO_SHORT_OF_ADDRESSES";
    if std::env::var_os(CHILD).is_none() {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--nocapture"])
            .arg("where_address_space_is_short_less_is_reserved_and_reported")
            .env(CHILD, "1")
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        return;
    }
    let limit = rustix::process::Rlimit {
        current: Some(8 << 30),
        maximum: Some(8 << 30),
    };
    rustix::process::setrlimit(rustix::process::Resource::As, limit).unwrap();
    let file = tempfile::tempfile().unwrap();
    let pager = OnFile::new(file, geometry(), MmapOptions::default());
    assert_eq!(pager.pager.reserved_bytes(), 4 << 30);
    let backend = pager.effective_backend();
    assert!(backend.ends_with("4 GiB reserved"), "{backend}");
    fill(&pager, 10);
    pager.read(nth(9, 1)).unwrap().confirm().unwrap();

    // A file larger than all address space cannot be mapped at all.
    pager.file.set_len(16 << 30).unwrap();
    let file = pager.file.try_clone().unwrap();
    drop(pager);
    let refused = MmapPager::open(file, geometry(), options()).err().unwrap();
    assert!(matches!(refused, Error::Unavailable { .. }), "{refused:?}");
}

#[test]
fn a_full_disk_is_an_error_that_stops_writing_and_not_reading() {
    let Some(mount) = SmallDisk::mount() else {
        println!("SKIPPED: cannot mount a tmpfs here (needs root)");
        return;
    };
    let file = File::create_new(mount.path().join("data")).unwrap();
    drop(file);
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(mount.path().join("data"))
        .unwrap();
    let pager = OnFile::new(file, geometry(), options());
    fill(&pager, 100);
    let before = pager.page_count();
    let first = pager.grow(before + (8 << 20) / PAGE).unwrap_err();
    let no_space = matches!(&first, Error::Io { source, .. }
        if source.kind() == std::io::ErrorKind::StorageFull);
    assert!(no_space, "{first:?}");
    assert_eq!(pager.page_count(), before);
    let later = pager.create(nth(3, 3)).err().unwrap();
    assert!(
        matches!(&later, Error::Poisoned { first } if first.contains("growing")),
        "{later:?}"
    );
    for index in 0..100 {
        pager.read(nth(index, 1)).unwrap().confirm().unwrap();
    }
    let mut stored = vec![0; PAGE as usize];
    pager
        .file
        .read_exact_at(&mut stored, nth(5, 1).id.get() * PAGE)
        .unwrap();
    assert_eq!(stored[HEADER_LEN], 5);
}

/// A tmpfs of four megabytes, unmounted when dropped.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> Option<Self> {
        let at = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=4m", "bifolio-test"])
            .arg(at.path())
            .output();
        let mounted = mounted.is_ok_and(|output| output.status.success());
        mounted.then_some(SmallDisk(at))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily, because the test's file is still open when a test fails.
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

#[test]
fn hints_for_pages_in_memory_and_outside_the_file_change_nothing_however_often_given() {
    let pager = filled(100);
    let pager = pager.reopen(options());
    let pages: Vec<_> = (0..120).map(|index| nth(index, 1)).collect();
    for _ in 0..600 {
        pager.prefetch(&pages); // more often than there are ages
    }
    assert_eq!(pager.counters().pages_prefetched, Some(600 * 100));
    for (index, &at) in pages[..100].iter().enumerate() {
        assert_eq!(pager.read(at).unwrap()[HEADER_LEN], index as u8);
    }
}

/// Bytes that this thread has had read from devices.
fn bytes_read() -> u64 {
    io_counter("read_bytes:")
}

/// Bytes of the page cache that this thread has made dirty.
fn bytes_dirtied() -> u64 {
    io_counter("write_bytes:")
}

fn io_counter(name: &str) -> u64 {
    let stat = std::fs::read_to_string("/proc/thread-self/io").unwrap();
    let line = stat.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap().trim().parse().unwrap()
}

#[test]
fn a_cold_read_brings_in_that_page_alone_hinted_at_or_not() {
    const COUNT: u64 = 1000;
    for (page_size, hinted) in [(4096, false), (4096, true), (16_384, false), (16_384, true)] {
        let geometry = bifolio_pager::Geometry {
            page_size: PageSize::new(page_size).unwrap(),
            ..geometry()
        };
        let at = |index: u64| bifolio_pager::PageRef {
            id: first_page(geometry).plus(index),
            version: bifolio_pager::Version::new(1),
        };
        let pager = OnFile::new(tempfile::tempfile().unwrap(), geometry, options());
        pager.grow(first_page(geometry).get() + COUNT).unwrap();
        let pages: Vec<_> = (0..COUNT).map(at).collect();
        for &at in &pages {
            drop(pager.create(at).unwrap());
        }
        pager.seal(&pages).unwrap();
        let _ = pager.flush(&pages).unwrap();
        let pager = pager.reopen(options());
        rustix::fs::fadvise(&pager.file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
        let before = bytes_read();
        for &at in pages.iter().step_by(10) {
            if hinted {
                pager.prefetch(&[at]);
            }
            drop(pager.read(at).unwrap());
        }
        let read = bytes_read() - before;
        let asked = COUNT / 10 * page_size as u64;
        if read == 0 {
            println!("SKIPPED: the cached pages were not dropped, or reads are not counted");
            return;
        }
        // A little more: the test's own code may come in meanwhile.
        assert!(read <= asked + asked / 10, "{read} bytes for {asked}");
    }
}

#[test]
fn a_store_makes_one_page_dirty_however_the_kernel_keeps_it() {
    const COUNT: u64 = 1024;
    // Written by long calls, so that the kernel may keep many pages together.
    let by_pwrite = MmapOptions {
        write_style: WriteStyle::Pwrite,
        ..options()
    };
    let pager = OnFile::new(tempfile::tempfile().unwrap(), geometry(), by_pwrite);
    fill(&pager, COUNT);
    let pager = pager.reopen(options());
    let before = bytes_dirtied();
    let mut created = 0;
    for index in (0..COUNT).step_by(16) {
        drop(pager.create(nth(index, 2)).unwrap());
        created += PAGE;
    }
    let dirtied = bytes_dirtied() - before;
    assert!(dirtied <= 2 * created, "{dirtied} bytes for {created}");
    // What lies beside them is as it was.
    for index in (0..COUNT).filter(|index| index % 16 != 0) {
        assert_eq!(pager.read(nth(index, 1)).unwrap()[HEADER_LEN], index as u8);
    }
}

#[test]
fn old_content_that_is_not_in_memory_is_overwritten_without_being_read() {
    const COUNT: u64 = 500;
    for page_size in [PageSize::DEFAULT, PageSize::new(16_384).unwrap()] {
        let geometry = bifolio_pager::Geometry {
            page_size,
            ..geometry()
        };
        let at = |index: u64, version| bifolio_pager::PageRef {
            id: first_page(geometry).plus(index),
            version: bifolio_pager::Version::new(version),
        };
        let pager = OnFile::new(tempfile::tempfile().unwrap(), geometry, options());
        pager.grow(first_page(geometry).get() + COUNT).unwrap();
        let old: Vec<_> = (0..COUNT).map(|index| at(index, 1)).collect();
        for &at in &old {
            pager.create(at).unwrap()[HEADER_LEN..].fill(1);
        }
        pager.seal(&old).unwrap();
        let _ = pager.flush(&old).unwrap();
        assert_eq!(pager.counters().overwrites_unread, Some(0), "new room");

        // Opened anew, with none of it in memory.
        let pager = pager.reopen(options());
        rustix::fs::fadvise(&pager.file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
        let before = bytes_read();
        let new: Vec<_> = (0..COUNT).map(|index| at(index, 2)).collect();
        for &at in &new {
            let mut page = pager.create(at).unwrap();
            assert!(page[HEADER_LEN..].iter().all(|&byte| byte == 0));
            page[HEADER_LEN..].fill(2);
        }
        if pager.counters().overwrites_unread == Some(0) {
            println!("SKIPPED: the cached pages were not dropped, or the kernel does not say so");
            continue;
        }
        assert_eq!(pager.counters().overwrites_unread, Some(COUNT));
        // Not none at all: the test's own code may come in meanwhile.
        let read = bytes_read() - before;
        assert!(read < COUNT * PAGE / 10, "{read} bytes were read");
        pager.seal(&new).unwrap();
        let _ = pager.flush(&new).unwrap();
        let pager = pager.reopen(options());
        for &at in &new {
            let page = pager.read(at).unwrap();
            assert!(page[HEADER_LEN..].iter().all(|&byte| byte == 2));
        }
    }
}
