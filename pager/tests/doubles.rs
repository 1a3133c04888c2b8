//! The test doubles keep the contract too: what a test over them finds is the test's own business.

use bifolio_pager::conformance::Fixture;
use bifolio_pager::faulty::{Operations, Plan};
use bifolio_pager::{Faulty, Geometry, MemPager, MetaSlot, Mirror, PageId, conformance};

struct WithFaults;

impl Fixture for WithFaults {
    type Pager = Faulty<MemPager>;

    fn create(&self, geometry: Geometry) -> Self::Pager {
        Faulty::new(MemPager::new(geometry))
    }

    fn reopen(&self, pager: Self::Pager) -> Self::Pager {
        Faulty::new(pager.inner().power_cut())
    }

    fn break_device(&self, pager: &Self::Pager) -> bool {
        let next = pager.performed(Operations::WRITES);
        pager.arm(Plan::fail_from(Operations::WRITES, next));
        true
    }
}

struct Mirrored;

impl Fixture for Mirrored {
    type Pager = Mirror<MemPager, Faulty<MemPager>>;

    fn create(&self, geometry: Geometry) -> Self::Pager {
        Mirror::new(
            MemPager::new(geometry),
            Faulty::new(MemPager::new(geometry)),
        )
    }

    fn reopen(&self, pager: Self::Pager) -> Self::Pager {
        let (left, right) = (pager.left().power_cut(), pager.right().inner().power_cut());
        Mirror::new(left, Faulty::new(right))
    }

    fn reopen_damaged(
        &self,
        pager: Self::Pager,
        id: PageId,
        damage: &mut dyn FnMut(&mut [u8]),
    ) -> Option<Self::Pager> {
        let pager = self.reopen(pager);
        pager.left().corrupt(id, &mut *damage);
        pager.right().inner().corrupt(id, damage);
        Some(pager)
    }

    fn stored_meta(&self, pager: &Self::Pager, slot: MetaSlot) -> Option<Vec<u8>> {
        let left = pager.left().read_meta(slot);
        assert_eq!(left, pager.right().inner().read_meta(slot));
        left
    }
}

struct Volatile;

impl Fixture for Volatile {
    type Pager = MemPager;

    fn create(&self, geometry: Geometry) -> MemPager {
        MemPager::volatile(geometry)
    }

    /// Nothing outlives a volatile pager, so the clauses about reopening get the same one again.
    fn reopen(&self, pager: MemPager) -> MemPager {
        pager
    }
}

conformance!(faulty, WithFaults);
conformance!(mirror, Mirrored);

#[test]
fn a_volatile_pager_keeps_what_does_not_ask_for_reopening() {
    use bifolio_pager::PageSize;
    use bifolio_pager::conformance::{exclusive, one_life, own_writes, run, stable};
    let clauses = [
        stable::what_a_guard_exposes_stays_after_the_page_is_discarded::<Volatile>,
        exclusive::a_created_page_is_zeros_but_for_its_reference,
        exclusive::a_number_is_not_reused_under_a_guard_of_its_former_life,
        own_writes::private_pages_can_be_rewritten_after_thousands_of_others,
        one_life::a_new_life_wins_over_all_input_and_output_of_the_old_one,
        one_life::lives_come_and_go_while_others_read,
    ];
    for clause in clauses {
        run(&Volatile, &PageSize::ALL, clause);
    }
}
