//! A power cut at every operation of a run, with any part of what was not synced on the disk: what
//! is found is whole, is a state between two commits, and holds every commit that returned.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bifolio_pager::faulty::Call;
use bifolio_pager::{MemPager, PageSize};
use parking_lot::Mutex;

use super::{Workload, commit, content, create, expect_one_of, modelled, open};

/// An image, and how many commits had returned and had begun when it was taken.
struct Image {
    disk: MemPager,
    returned: usize,
    begun: usize,
    moment: String,
}

/// Runs the workload and takes `seeds` images before each operation.
fn images(workload: &Workload, page_size: PageSize, seeds: u64) -> Vec<Image> {
    let db = create(page_size);
    let images = Arc::new(Mutex::new(Vec::new()));
    let (returned, begun) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let hook = {
        let (images, returned, begun) = (images.clone(), returned.clone(), begun.clone());
        let mut operations = 0;
        move |disk: &MemPager, call: Call<'_>| {
            operations += 1;
            if matches!(call, Call::Read { .. }) {
                return; // reading changes nothing on the disk
            }
            for seed in 0..seeds {
                let seed = operations * seeds + seed;
                let disk = match call {
                    Call::WriteMeta { slot, meta } => disk.power_cut_in_meta(slot, meta, seed),
                    _ => disk.power_cut_torn(seed),
                };
                images.lock().push(Image {
                    disk,
                    returned: returned.load(Ordering::SeqCst),
                    begun: begun.load(Ordering::SeqCst),
                    moment: format!("operation {operations} ({call:?}), seed {seed}"),
                });
            }
        }
    };
    modelled(&db).before_each(hook);
    for changes in &workload.transactions {
        begun.fetch_add(1, Ordering::SeqCst);
        commit(&db, changes).unwrap();
        returned.fetch_add(1, Ordering::SeqCst);
    }
    drop(db);
    Arc::into_inner(images)
        .map(Mutex::into_inner)
        .unwrap_or_else(|| panic!("the hook is gone"))
}

#[test]
fn a_power_cut_at_any_moment_leaves_a_prefix_with_every_commit_that_returned() {
    let mut count = 0;
    for (seed, page_size) in (0..6).zip(PageSize::ALL.into_iter().cycle()) {
        let workload = Workload::random(seed, 12);
        for image in images(&workload, page_size, 6) {
            let allowed = &workload.states[image.returned..=image.begun];
            let db = open(image.disk).unwrap_or_else(|error| panic!("{}: {error}", image.moment));
            expect_one_of(&db, allowed, &format!("workload {seed}, {}", image.moment));
            count += 1;
        }
    }
    println!("{count} images");
    assert!(count > 1000, "{count}");
}

#[test]
fn a_power_cut_while_going_on_after_a_power_cut_is_only_another_one() {
    let first = Workload::random(100, 5);
    let mut count = 0;
    for image in images(&first, PageSize::DEFAULT, 5).into_iter().step_by(5) {
        let db = open(image.disk).unwrap();
        let before = content(&db);
        let images = Arc::new(Mutex::new(Vec::new()));
        let hook = {
            let images = images.clone();
            move |disk: &MemPager, _: Call<'_>| {
                let mut images = images.lock();
                let seed = images.len() as u64;
                images.push(disk.power_cut_torn(seed));
            }
        };
        modelled(&db).before_each(hook);
        let key = b"after".to_vec();
        commit(&db, &[(key.clone(), Some(vec![7; 5000]))]).unwrap();
        let mut after = before.clone();
        after.insert(key, vec![7; 5000]);
        for disk in std::mem::take(&mut *images.lock()) {
            let db = open(disk).unwrap();
            expect_one_of(&db, &[before.clone(), after.clone()], &image.moment);
            count += 1;
        }
    }
    println!("{count} images");
    assert!(count > 100, "{count}");
}

#[test]
fn opening_what_a_power_cut_left_twice_finds_the_same() {
    let workload = Workload::random(200, 6);
    for image in images(&workload, PageSize::DEFAULT, 1)
        .into_iter()
        .step_by(7)
    {
        let db = open(image.disk).unwrap();
        let first = content(&db);
        let again = open(modelled(&db).inner().power_cut()).unwrap();
        assert_eq!(content(&again), first);
    }
}
