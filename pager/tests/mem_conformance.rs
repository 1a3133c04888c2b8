//! The reference pager keeps the contract, whatever is left of its file when it is reopened.

use bifolio_pager::conformance::Fixture;
use bifolio_pager::{Geometry, MemPager, MetaSlot, PageId, conformance};

struct InMemory(fn(&MemPager) -> MemPager);

impl Fixture for InMemory {
    type Pager = MemPager;

    fn create(&self, geometry: Geometry) -> MemPager {
        MemPager::new(geometry)
    }

    fn reopen(&self, pager: MemPager) -> MemPager {
        self.0(&pager)
    }

    fn reopen_damaged(
        &self,
        pager: MemPager,
        id: PageId,
        damage: &mut dyn FnMut(&mut [u8]),
    ) -> Option<MemPager> {
        let pager = self.0(&pager);
        pager.corrupt(id, damage);
        Some(pager)
    }

    fn stored_meta(&self, pager: &MemPager, slot: MetaSlot) -> Option<Vec<u8>> {
        pager.read_meta(slot)
    }
}

conformance!(after_a_power_cut, InMemory(MemPager::power_cut));
conformance!(
    after_a_torn_power_cut,
    InMemory(|pager| pager.power_cut_torn(7))
);
conformance!(after_a_process_exit, InMemory(MemPager::process_exit));
