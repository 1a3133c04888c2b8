//! Why a map that writes by `pwrite`, or keeps to a budget, differs from the plain map with the same advice.

use super::ratio;
use crate::row::Outcome;
use crate::spec::PagerSpec;
use crate::stats::{Cell, Group};
use crate::units;

/// Stores against `pwrite`, from random updates.
pub fn write_styles(updates: &Group<'_>) -> Option<String> {
    let is_variant = |pager| match pager {
        PagerSpec::Mmap { pwrite, budget, .. } => pwrite && !budget,
        PagerSpec::Pool { .. } => false,
    };
    let (by_store, by_pwrite) = with_plain(updates, is_variant)?;
    let commit = |cell: &Cell<'_>| {
        let p50 = cell.median(|outcome| outcome.commit_latency.p50_ns as f64)?;
        Some(units::ns(p50))
    };
    let faults = |cell: &Cell<'_>| {
        let faults = cell.median(|outcome| outcome.per_unit(outcome.costs.major_faults as f64))?;
        Some(units::three_digits(faults))
    };
    let dirtied = |cell: &Cell<'_>| {
        let page_size = updates.page_size_bytes as f64;
        let pages = cell.median_known(|outcome| {
            Some(outcome.per_unit(outcome.costs.process_write_bytes? as f64) / page_size)
        })?;
        Some(units::three_digits(pages))
    };
    Some(format!(
        "{} stores into its pages through the mapping and pays with faults, {} major ones a record; {} changes \
         them in memory of its own, {} faults a record, and copies them to the page cache when it \
         commits. So a commit took {} with stores and {} by pwrite, where the rate was {} that with \
         stores. The kernel counted {} pages a record as made dirty by stores and {} by pwrite: pages \
         that one call wrote are kept together, and counted together whenever one of them changes.",
        by_store.pager,
        faults(by_store)?,
        by_pwrite.pager,
        faults(by_pwrite)?,
        commit(by_store)?,
        commit(by_pwrite)?,
        ratio(by_pwrite.rate()? / by_store.rate()?).replace('×', " times"),
        dirtied(by_store)?,
        dirtied(by_pwrite)?,
    ))
}

/// The budget's clock against the kernel's own way of making room, from point reads.
pub fn budget(reads: &Group<'_>) -> Option<String> {
    let is_variant = |pager| match pager {
        PagerSpec::Mmap { pwrite, budget, .. } => budget && !pwrite,
        PagerSpec::Pool { .. } => false,
    };
    let (plain, kept) = with_plain(reads, is_variant)?;
    let pages = |cell: &Cell<'_>| {
        let pages = cell.median_known(|outcome| outcome.page_reads_per_unit)?;
        Some(units::three_digits(pages))
    };
    let given_back = kept.median_known(|outcome| {
        Some(outcome.per_unit(outcome.pager_counters.pager_evictions? as f64))
    })?;
    if given_back == 0.0 {
        return None; // all of it had room
    }
    let budget = kept.rows.first()?.plan.pool_budget_bytes?;
    let held = kept
        .median_known(|outcome| Some(outcome.memory.cache_bytes? as f64))
        .map_or(String::new(), |bytes| {
            format!(
                ", and had {} in the page cache at the end",
                units::bytes(bytes as u64)
            )
        });
    let cost = kept.median(Outcome::cpu_ns_per_unit)? / plain.median(Outcome::cpu_ns_per_unit)?;
    Some(format!(
        "{} keeps to {} by a clock of its own{held}. A thread beside the readers gave {} pages back for \
         each lookup, so that a fault need not make room itself; and it goes by what was used, which the \
         kernel does not under MADV_RANDOM. It read {} pages a lookup, {} with all of the \
         limit {}, at {} the rate and {} the processor time.",
        kept.pager,
        units::bytes(budget),
        units::three_digits(given_back),
        pages(kept)?,
        plain.pager,
        pages(plain)?,
        ratio(kept.rate()? / plain.rate()?).replace('×', " times"),
        ratio(cost).replace('×', " times"),
    ))
}

/// The first map that is such a variant, after the plain map with the same advice.
fn with_plain<'g, 'r>(
    group: &'g Group<'r>,
    is_variant: impl Fn(PagerSpec) -> bool,
) -> Option<(&'g Cell<'r>, &'g Cell<'r>)> {
    let mut variants = group.cells.iter().filter(|cell| is_variant(cell.pager));
    variants.find_map(|variant| {
        let PagerSpec::Mmap { advice, .. } = variant.pager else {
            return None;
        };
        let plain = PagerSpec::plain_mmap(advice);
        let plain = group.cells.iter().find(|cell| cell.pager == plain)?;
        Some((plain, variant))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::{Row, tests::row};
    use crate::spec::WorkloadKind;
    use crate::stats::groups;

    /// One row of each pager; in the order in which they are given, each does as much as the one before, and half more.
    fn rows(kind: WorkloadKind, pagers: &[&str]) -> Vec<Row> {
        let rows = pagers.iter().zip([8_000.0, 12_000.0]);
        let rows = rows.map(|(pager, rate)| {
            let mut row = row(pager, kind, 1, rate);
            row.plan.pool_budget_bytes = row.plan.pager.takes_budget().then_some(56 << 20);
            let outcome = row.outcome.as_mut().unwrap();
            outcome.pager_counters.pager_evictions = Some(outcome.units / 2);
            outcome.memory.cache_bytes = Some(55 << 20);
            row
        });
        rows.collect()
    }

    #[test]
    fn a_variant_is_held_against_the_plain_map_with_its_advice() {
        let rows = rows(
            WorkloadKind::UpdateRandom,
            &["mmap-normal", "mmap-normal-pwrite"],
        );
        let text = write_styles(&groups(&rows)[0]).unwrap();
        for part in [
            "mmap-normal stores",
            "mmap-normal-pwrite changes",
            "1.50 times that",
        ] {
            assert!(text.contains(part), "{part} is missing:\n{text}");
        }
    }

    #[test]
    fn a_budget_is_explained_by_what_it_gave_back_and_held() {
        let rows = rows(
            WorkloadKind::PointZipf,
            &["mmap-random", "mmap-random-budget"],
        );
        let text = budget(&groups(&rows)[0]).unwrap();
        for part in [
            "keeps to 56 MiB",
            "had 55 MiB",
            "gave 0.5 pages back",
            "1.50 times the rate",
        ] {
            assert!(text.contains(part), "{part} is missing:\n{text}");
        }
    }

    #[test]
    fn a_variant_without_its_plain_map_is_not_explained() {
        let rows = rows(
            WorkloadKind::PointZipf,
            &["mmap-normal", "mmap-random-budget"],
        );
        assert!(budget(&groups(&rows)[0]).is_none());
        assert!(write_styles(&groups(&rows)[0]).is_none());
    }
}
