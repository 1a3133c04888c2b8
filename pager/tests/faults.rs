//! `Faulty` fails what it was told to fail, and nothing else; `Mirror` notices every difference.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bifolio_pager::faulty::{Call, ENOSPC, Operations, Plan};
use bifolio_pager::{
    Error, Faulty, Geometry, META_LEN, MemPager, MetaSlot, Mirror, PageRef, PageSize, Pager,
    Result, Version, first_page,
};
use parking_lot::Mutex;

const GEOMETRY: Geometry = Geometry {
    page_size: PageSize::DEFAULT,
    seed: 11,
};

fn nth(index: u64, version: u64) -> PageRef {
    PageRef {
        id: first_page(GEOMETRY).plus(index),
        version: Version::new(version),
    }
}

fn faulty() -> Faulty<MemPager> {
    Faulty::new(MemPager::new(GEOMETRY))
}

/// The pages of a commit: odd and even ones take turns, as in shadow paging.
fn pages_of(version: u64) -> [PageRef; 2] {
    [0, 1].map(|index| nth(2 * (version % 2) + index, version))
}

/// A commit of two pages and a meta that says so, read back: six operations that may fail.
fn commit(pager: &impl Pager, version: u64) -> Result<()> {
    let pages = pages_of(version);
    pager.grow(first_page(GEOMETRY).get() + 4)?;
    for at in pages {
        pager.discard(&[at.id])?;
        pager.create(at)?.fill_body(version as u8);
    }
    pager.seal(&pages)?;
    pager.write_back(&pages);
    let proof = pager.flush(&pages)?;
    pager.write_meta(proof, MetaSlot::A, &[version as u8; META_LEN])?;
    for at in pages {
        assert_eq!(pager.read(at)?[16], version as u8);
    }
    Ok(())
}

trait FillBody {
    fn fill_body(self, byte: u8);
}

impl<T: std::ops::DerefMut<Target = [u8]>> FillBody for T {
    fn fill_body(mut self, byte: u8) {
        self[16..].fill(byte);
    }
}

/// What a database would conclude from the file: the version of the meta, whose pages must be there.
fn committed(left: &MemPager) -> Option<u8> {
    let version = left.read_meta(MetaSlot::A)?[0];
    for at in pages_of(version.into()) {
        let page = left.read(at).expect("the meta refers to it");
        assert!(page[16..].iter().all(|&byte| byte == version));
    }
    Some(version)
}

fn is_io(error: &Error) -> bool {
    matches!(error, Error::Io { .. })
}

#[test]
fn operations_are_counted_by_kind() {
    let pager = faulty();
    commit(&pager, 1).unwrap();
    assert_eq!(pager.performed(Operations::ALL), 6);
    assert_eq!(pager.performed(Operations::WRITES), 4);
    for (of, count) in [
        (Operations::GROW, 1),
        (Operations::READ, 2),
        (Operations::FLUSH, 1),
        (Operations::WRITE_META, 1),
        (Operations::WRITE_BACK, 1),
        (Operations::FLUSH.or(Operations::READ), 3),
    ] {
        assert_eq!(pager.performed(of), count, "{of:?}");
    }
    assert!(!pager.tripped());
}

#[test]
fn each_operation_can_be_made_to_fail_and_what_was_committed_stays() {
    for at in 0..6 {
        for plan in [Plan::fail_once, Plan::fail_from, Plan::fail_late] {
            let pager = faulty();
            commit(&pager, 1).unwrap();
            let plan = plan(Operations::ALL, 6 + at);
            pager.arm(plan);
            let error = commit(&pager, 2).unwrap_err();
            assert!(pager.tripped(), "{plan:?}");
            // A hint that fails is told by the next write.
            let told = is_io(&error) || at == 1 && matches!(error, Error::Poisoned { .. });
            assert!(told, "{plan:?}: {error:?}");
            for seed in 0..20 {
                let version = committed(&pager.inner().power_cut_torn(seed));
                assert!([Some(1), Some(2)].contains(&version), "{plan:?}");
            }
        }
    }
}

#[test]
fn after_a_failed_write_only_reads_go_on() {
    for (at, kind) in [
        (0, Operations::GROW),
        (1, Operations::WRITE_BACK),
        (1, Operations::FLUSH),
        (1, Operations::WRITE_META),
    ] {
        let pager = faulty();
        commit(&pager, 1).unwrap();
        pager.arm(Plan::fail_once(kind, at.max(1)).with_errno(ENOSPC));
        commit(&pager, 2).unwrap_err();
        let told = match pager.create(nth(1, 9)) {
            Err(Error::Poisoned { first }) => first.to_string(),
            other => panic!("{kind:?}: {:?}", other.err()),
        };
        assert!(told.contains("No space left"), "{told}");
        assert!(matches!(pager.grow(1), Err(Error::Poisoned { .. })));
        assert!(matches!(pager.flush(&[]), Err(Error::Poisoned { .. })));
        pager.disarm();
        assert!(
            matches!(pager.flush(&[]), Err(Error::Poisoned { .. })),
            "it does not heal"
        );
        pager.discard(&[nth(0, 2).id]).unwrap();
    }
}

#[test]
fn a_failed_read_poisons_nothing() {
    let pager = faulty();
    pager.arm(Plan::fail_once(Operations::READ, 0));
    assert!(is_io(&commit(&pager, 1).unwrap_err()));
    commit(&pager, 2).unwrap();

    pager.arm(Plan::fail_from(
        Operations::READ,
        pager.performed(Operations::READ),
    ));
    for version in 3..5 {
        assert!(is_io(&commit(&pager, version).unwrap_err()));
    }
    assert_eq!(committed(&pager.inner().power_cut()), Some(4));
}

#[test]
fn a_late_failure_has_done_its_work() {
    let pager = faulty();
    pager.arm(Plan::fail_late(Operations::WRITE_META, 0));
    assert!(is_io(&commit(&pager, 1).unwrap_err()));
    assert_eq!(committed(&pager.inner().power_cut()), Some(1));

    let pager = faulty();
    pager.arm(Plan::fail_once(Operations::WRITE_META, 0));
    assert!(is_io(&commit(&pager, 1).unwrap_err()));
    assert_eq!(committed(&pager.inner().power_cut()), None);
}

#[test]
fn a_frozen_pager_pretends_and_a_power_cut_finds_the_past() {
    for at in 0..6 {
        let pager = faulty();
        commit(&pager, 1).unwrap();
        pager.arm(Plan::freeze(Operations::ALL, 6 + at));
        for version in 2..6 {
            commit(&pager, version).unwrap();
        }
        assert!(pager.tripped());
        let expected = if at <= 3 { 1 } else { 2 };
        let left = pager.inner().power_cut();
        assert_eq!(committed(&left), Some(expected), "frozen at {at}");
    }
}

#[test]
fn the_hook_sees_the_file_before_every_operation() {
    let pager = faulty();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let images = seen.clone();
    pager.before_each(move |below: &MemPager, call| {
        if let Call::WriteMeta { slot, meta } = call {
            images.lock().push(below.power_cut_in_meta(slot, meta, 5));
        }
        images.lock().push(below.power_cut());
    });
    commit(&pager, 1).unwrap();
    let seen = seen.lock();
    assert_eq!(seen.len(), 7);
    let metas = seen
        .iter()
        .filter(|image| image.read_meta(MetaSlot::A).is_some())
        .count();
    assert_eq!(
        metas, 3,
        "torn on its way, and before each of the two reads"
    );
    assert_eq!(committed(seen.last().unwrap()), Some(1));
}

fn mirror() -> Mirror<MemPager, Faulty<MemPager>> {
    Mirror::new(MemPager::new(GEOMETRY), faulty())
}

fn panics(work: impl FnOnce()) -> bool {
    catch_unwind(AssertUnwindSafe(work)).is_err()
}

#[test]
fn a_mirror_notices_damage_on_either_side() {
    let damage = |image: &mut [u8]| image[77] ^= 1;
    let pager = mirror();
    commit(&pager, 1).unwrap();
    let [one, two] = pages_of(1);
    pager.left().corrupt(one.id, damage);
    pager.right().inner().corrupt(two.id, damage);
    for at in [one, two] {
        assert!(panics(|| drop(pager.read(at))), "{at:?}");
    }
    pager.right().inner().corrupt(one.id, damage);
    let refused = pager.read(one).err().expect("both are damaged");
    assert!(matches!(refused, Error::Corrupt { .. }), "{refused:?}");
}

#[test]
fn a_mirror_notices_other_content_and_another_state() {
    let pager = mirror();
    pager.grow(first_page(GEOMETRY).get() + 4).unwrap();
    let at = nth(0, 1);
    pager.create(at).unwrap().fill_body(1);
    pager.right().write(at).unwrap().fill_body(2);
    assert!(panics(|| drop(pager.read(at))));
    assert!(panics(|| drop(pager.write(at))));
    pager.left().seal(&[at]).unwrap();
    assert!(panics(|| drop(pager.seal(&[at]))));
    pager.left().discard(&[at.id]).unwrap();
    assert!(panics(|| drop(pager.create(nth(0, 2)))));
}

#[test]
fn a_mirror_writes_both_sides() {
    let pager = mirror();
    commit(&pager, 1).unwrap();
    let (left, right) = pager.into_parts();
    assert_eq!(committed(&left.power_cut()), Some(1));
    assert_eq!(committed(&right.inner().power_cut()), Some(1));
}

#[test]
fn what_the_world_does_to_one_side_is_passed_on_and_taken_back_on_the_other() {
    let pager = mirror();
    commit(&pager, 1).unwrap();
    pager.right().arm(Plan::fail_once(Operations::FLUSH, 1));
    assert!(is_io(&pager.flush(&[]).unwrap_err()));
    for _ in 0..2 {
        // Were the left page not taken back, the second attempt would be refused otherwise.
        assert!(matches!(
            pager.create(nth(0, 2)),
            Err(Error::Poisoned { .. })
        ));
    }
    drop(pager.left().create(nth(0, 2)).unwrap());
    assert_eq!(pager.read(pages_of(1)[0]).unwrap()[16], 1);
}

#[test]
#[should_panic(expected = "share a geometry")]
fn pagers_of_different_geometry_are_not_mirrored() {
    let other = Geometry {
        seed: 12,
        ..GEOMETRY
    };
    let _ = Mirror::new(MemPager::new(GEOMETRY), MemPager::new(other));
}
