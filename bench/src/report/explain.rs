//! Why the numbers are what they are, in sentences made from the rows.
//!
//! A sentence is left out where its rows are missing; none says more than the counters do.

use super::{ratio, recovery, variants};
use crate::measure::device::SyncRate;
use crate::row::{Outcome, Row};
use crate::spec::{Advice, PagerSpec, WorkloadKind};
use crate::stats::{Cell, Group, median};
use crate::units;

/// One reason: what it is about, and a few sentences.
pub struct Reason {
    /// A word or two, for a heading.
    pub about: &'static str,
    /// The sentences.
    pub text: String,
}

/// The reasons, most telling first. Each stands alone.
pub fn reasons(rows: &[Row], groups: &[Group<'_>]) -> Vec<Reason> {
    // Of several page sizes the first one tells the story.
    let group = |kind: WorkloadKind| groups.iter().find(|group| group.workload == kind);
    let uniform = group(WorkloadKind::PointUniform);
    let batch = group(WorkloadKind::PointBatch);
    let reasons = [
        ("Read-ahead", uniform.and_then(|group| advice(rows, group))),
        (
            "Scans",
            uniform.and_then(|group| advice_on_scans(group, groups)),
        ),
        (
            "One at a time",
            uniform.and_then(|group| one_at_a_time(rows, group)),
        ),
        ("Processor", uniform.and_then(processor)),
        (
            "Many at a time",
            uniform
                .zip(batch)
                .and_then(|(one, many)| batching(one, many)),
        ),
        (
            "Writing",
            group(WorkloadKind::UpdateRandom)
                .and_then(|one| updates(one, group(WorkloadKind::UpdateBatch))),
        ),
        (
            "Two ways to write",
            group(WorkloadKind::UpdateRandom).and_then(variants::write_styles),
        ),
        (
            "A budget for the map",
            (group(WorkloadKind::PointZipf).and_then(variants::budget))
                .or_else(|| uniform.and_then(variants::budget)),
        ),
        (
            "Commits",
            group(WorkloadKind::CommitOne)
                .and_then(|one| commits(one, group(WorkloadKind::CommitEight))),
        ),
        (
            "Recovery",
            group(WorkloadKind::Recovery).and_then(recovery::sentence),
        ),
        ("Memory and truth", memory(rows)),
    ];
    let reason =
        |(about, text): (&'static str, Option<String>)| Some(Reason { about, text: text? });
    reasons.into_iter().filter_map(reason).collect()
}

fn mmap<'g, 'r>(group: &'g Group<'r>, advice: Advice) -> Option<&'g Cell<'r>> {
    group
        .cells
        .iter()
        .find(|cell| cell.pager == PagerSpec::plain_mmap(advice))
}

/// The fastest pool of a group.
fn best_pool<'g, 'r>(group: &'g Group<'r>) -> Option<&'g Cell<'r>> {
    group
        .cells
        .iter()
        .filter(|cell| !cell.pager.is_mmap())
        .filter_map(|cell| Some((cell.rate()?, cell)))
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, cell)| cell)
}

fn bytes_per_unit(cell: &Cell<'_>) -> Option<f64> {
    cell.median_known(|outcome| Some(outcome.per_unit(outcome.costs.process_read_bytes? as f64)))
}

fn pages_per_unit(cell: &Cell<'_>) -> Option<f64> {
    cell.median_known(|outcome| outcome.page_reads_per_unit)
}

/// MADV_NORMAL against MADV_RANDOM.
fn advice(rows: &[Row], group: &Group<'_>) -> Option<String> {
    let (normal, random) = (mmap(group, Advice::Normal)?, mmap(group, Advice::Random)?);
    let (normal_bytes, random_bytes) = (bytes_per_unit(normal)?, bytes_per_unit(random)?);
    let (normal_rate, random_rate) = (normal.rate()?, random.rate()?);
    let window = match rows.first()?.environment.read_ahead_kib {
        Some(kib) => format!(
            "up to {} around it (read_ahead_kb is {kib} on this device)",
            units::bytes(kib << 10)
        ),
        None => "its neighbours as well".to_owned(),
    };
    Some(format!(
        "MADV_NORMAL and MADV_RANDOM differ by read-ahead alone. With MADV_NORMAL the kernel answers \
         a fault on one page by reading {window}: {} from the device for each lookup, where the tree \
         asked for a page of {}. With MADV_RANDOM it read {}. What was read ahead is not only wasted, \
         it pushes out of the limited memory what was useful. So MADV_NORMAL did {} lookups a second \
         and MADV_RANDOM {}, a factor of {}.",
        units::bytes(normal_bytes as u64),
        units::bytes(group.page_size_bytes),
        units::bytes(random_bytes as u64),
        units::count(normal_rate),
        units::count(random_rate),
        ratio(random_rate / normal_rate).trim_end_matches('×'),
    ))
}

/// The other side of read-ahead.
fn advice_on_scans(uniform: &Group<'_>, groups: &[Group<'_>]) -> Option<String> {
    let scan = groups.iter().find(|group| {
        group.workload == WorkloadKind::ScanFull && group.page_size_bytes == uniform.page_size_bytes
    })?;
    let normal = mmap(scan, Advice::Normal)?.rate()?;
    let random = mmap(scan, Advice::Random)?.rate()?;
    let moral = if normal > random * 1.1 {
        "there the neighbours are what comes next. No one setting is right for both, which is why \
         advice belongs to the access and not to the file"
    } else {
        "though the neighbours are what comes next there: the tree asks for the next leaves itself, \
         so it does not depend on the kernel's guess"
    };
    Some(format!(
        "On the full scan the same read-ahead made MADV_NORMAL {} as fast as MADV_RANDOM; {moral}.",
        ratio(normal / random).replace('×', " times"),
    ))
}

/// What bounds a lookup that waits for one page.
fn one_at_a_time(rows: &[Row], group: &Group<'_>) -> Option<String> {
    let (map, pool) = (mmap(group, Advice::Random)?, best_pool(group)?);
    let device = rows
        .iter()
        .filter(|row| row.plan.workload == group.workload)
        .filter_map(|row| Some(row.device?.one_in_flight_reads_per_s))
        .collect();
    let device = median(device)?;
    Some(format!(
        "A single lookup that misses waits for the device, under either pager: {} read {} pages per \
         lookup, mmap-random {}. This device by itself gave {} random 4 KiB reads a second with one in \
         flight, and neither pager can do more lookups than that divided by its pages per lookup: {} \
         did {} a second, mmap-random {}.",
        pool.pager,
        units::three_digits(pages_per_unit(pool)?),
        units::three_digits(pages_per_unit(map)?),
        units::count(device),
        pool.pager,
        units::count(pool.rate()?),
        units::count(map.rate()?),
    ))
}

/// What a lookup costs the processor.
fn processor(group: &Group<'_>) -> Option<String> {
    let (map, pool) = (mmap(group, Advice::Random)?, best_pool(group)?);
    let part = |cell: &Cell<'_>, of: fn(&Outcome) -> u64| {
        cell.median(|outcome| outcome.per_unit(of(outcome) as f64))
            .map(units::ns)
    };
    let system = |outcome: &Outcome| outcome.costs.cpu_system_ns;
    let user = |outcome: &Outcome| outcome.costs.cpu_user_ns;
    let major = map.median(|outcome| outcome.per_unit(outcome.costs.major_faults as f64))?;
    Some(format!(
        "For each lookup mmap-random spent {} in the kernel and {} in user space, with {} major faults, \
         each of which has to find a page to give up inside of the limit and to change the page \
         table; {} spent {} and {}, with {} faults of any kind, because it reads past the page cache \
         into memory that it has already.",
        part(map, system)?,
        part(map, user)?,
        units::three_digits(major),
        pool.pager,
        part(pool, system)?,
        part(pool, user)?,
        units::three_digits(pool.median(Outcome::faults_per_unit)?),
    ))
}

/// What many keys in one call bring.
fn batching(one: &Group<'_>, many: &Group<'_>) -> Option<String> {
    let gain = |cell: &Cell<'_>| {
        let single = one.cell(&cell.pager.to_string())?.rate()?;
        Some(format!(
            "{} {} ({})",
            cell.pager,
            ratio(cell.rate()? / single),
            units::count(cell.rate()?)
        ))
    };
    let gains: Vec<String> = many.cells.iter().filter_map(gain).collect();
    let deep = median(
        many.cells
            .iter()
            .flat_map(|cell| &cell.rows)
            .filter_map(|row| Some(row.device?.sixteen_in_flight_reads_per_s))
            .collect(),
    );
    (!gains.is_empty()).then(|| {
        let ceiling = deep
            .map(|deep| {
                format!(
                    "; with sixteen reads in flight the device gives {} a second",
                    units::count(deep)
                )
            })
            .unwrap_or_default();
        format!(
            "Asking for 64 keys at once, so that their misses can be under way together, gave this \
             many times the lookups of one at a time: {}{ceiling}.",
            gains.join(", "),
        )
    })
}

/// Where the time of an update goes.
fn updates(group: &Group<'_>, batches: Option<&Group<'_>>) -> Option<String> {
    let describe = |cell: &Cell<'_>| {
        let commit = cell.median(|outcome| outcome.commit_latency.p50_ns as f64)?;
        let written = cell.median_known(|outcome| {
            Some(outcome.per_unit(outcome.pager_counters.pager_pages_written? as f64))
        });
        let read = units::three_digits(pages_per_unit(cell)?);
        let written = written.map_or("what the kernel wrote".to_owned(), |pages| {
            format!("{} written", units::three_digits(pages))
        });
        let commit = units::ns(commit);
        Some(format!(
            "{} {commit} a commit, {read} pages read per record and {written}",
            cell.pager
        ))
    };
    let parts: Vec<String> = group.cells.iter().filter_map(describe).collect();
    let gain = |cell: &Cell<'_>| {
        let batched = batches?.cell(&cell.pager.to_string())?.rate()?;
        Some(format!("{} {}", cell.pager, ratio(batched / cell.rate()?)))
    };
    let gains: Vec<String> = group.cells.iter().filter_map(gain).collect();
    let gains = match gains.is_empty() {
        true => String::new(),
        false => format!(
            " A batch has its pages read together before the writer is taken, for this many times as \
             many records a second: {}.",
            gains.join("; ")
        ),
    };
    (!parts.is_empty()).then(|| {
        format!(
            "A random update first reads a cold page. Its commit is durable by the redo log: it waits \
             until its up to 1000 records are in the log and synced, and for no page of the tree, which a \
             checkpoint writes later, or the pool sooner if memory is short: {}.{gains}",
            parts.join("; "),
        )
    })
}

/// What a durable commit of one record costs, and what threads that commit together share.
fn commits(one: &Group<'_>, eight: Option<&Group<'_>>) -> Option<String> {
    let describe = |cell: &Cell<'_>| {
        let rate = cell.rate()?;
        let mut text = format!("{} {} a second", cell.pager, units::count(rate));
        if let Some(share) = share_of_device(cell) {
            text += &format!(", {share:.2} of the device");
        }
        let shared = eight.and_then(|group| group.cell(&cell.pager.to_string()));
        if let Some((shared, many)) = shared.and_then(|cell| Some((cell, cell.rate()?))) {
            let size = shared.median(|outcome| {
                let log = &outcome.log_counters;
                log.log_commits as f64 / log.log_groups.max(1) as f64
            })?;
            text += &format!(
                ", and with eight threads {} ({}), {} commits to a sync",
                units::count(many),
                ratio(many / rate),
                units::three_digits(size),
            );
        }
        Some(text)
    };
    let parts: Vec<String> = one.cells.iter().filter_map(describe).collect();
    let rows = || one.cells.iter().flat_map(|cell| &cell.rows);
    let device = |of: fn(&SyncRate) -> f64| {
        median(
            rows()
                .filter_map(|row| row.device_syncs.as_ref().map(of))
                .collect(),
        )
    };
    let fdatasync = device(|rate| rate.overwrite_fdatasync_per_s)?;
    let dsync = device(|rate| rate.overwrite_dsync_per_s)?;
    let log_bytes = rows().next()?.plan.log_bytes;
    (!parts.is_empty()).then(|| {
        format!(
            "A commit of one record is one write to the redo log and one sync. This device by itself \
             overwrote and synced 512 bytes {} times a second with fdatasync and {} with O_DSYNC, of which \
             the log takes the faster. With checkpoints after every {} of log, one thread committed (beside it the share \
             of the device's rate with fdatasync around that run): {}.",
            units::count(fdatasync),
            units::count(dsync),
            units::bytes(log_bytes),
            parts.join("; "),
        )
    })
}

/// Commits for each of the device's own overwrites with `fdatasync`, measured around the run.
fn share_of_device(cell: &Cell<'_>) -> Option<f64> {
    let share = |row: &&Row| Some(row.units_per_s()? / row.device_syncs?.overwrite_fdatasync_per_s);
    median(cell.rows.iter().filter_map(share).collect())
}

/// Whether the limit held.
fn memory(rows: &[Row]) -> Option<String> {
    let limit = rows.first()?.plan.limit_bytes?;
    let outcomes = || rows.iter().filter_map(|row| row.outcome.as_ref());
    let peak = outcomes()
        .filter_map(|outcome| outcome.memory.peak_bytes)
        .max()?;
    let over = outcomes()
        .filter(|outcome| {
            let counters = &outcome.pager_counters;
            counters.pager_frames_used > counters.pager_frames
        })
        .count();
    let checked: u64 = outcomes().map(|outcome| outcome.values_checked).sum();
    let back: u64 = outcomes().map(|outcome| outcome.records_read_back).sum();
    let budget = if over == 0 {
        "no pool held more frames than its budget".to_owned()
    } else {
        format!("in {over} runs a pool held MORE frames than its budget")
    };
    Some(format!(
        "The limit was {}, the most that any run was charged {}; {budget}. {} values were read and \
         checked byte by byte, {} more were read back after writing, through the other pager.",
        units::bytes(limit),
        units::bytes(peak),
        units::count(checked as f64),
        units::count(back as f64),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::rows;
    use crate::stats::groups;

    fn texts(rows: &[Row]) -> Vec<String> {
        reasons(rows, &groups(rows))
            .into_iter()
            .map(|reason| reason.text)
            .collect()
    }

    #[test]
    fn the_difference_between_the_advices_is_explained_by_the_bytes_read() {
        let rows = rows();
        let text = texts(&rows).join("\n");
        for part in [
            "MADV_NORMAL",
            "read_ahead_kb is 8192",
            "4.77 MiB from the device",
            "of 94.9",
        ] {
            assert!(text.contains(part), "{part} is missing:\n{text}");
        }
    }

    #[test]
    fn a_whole_comparison_has_between_three_and_eight_reasons() {
        let rows = rows();
        let count = texts(&rows).len();
        assert!((3..=8).contains(&count), "{count}");
    }

    #[test]
    fn commits_are_held_against_the_device_and_threads_against_one() {
        let rows = rows();
        let text = texts(&rows).join("\n");
        for part in [
            "one sync",
            "of the device",
            "eight threads",
            "4 commits to a sync",
            "A batch has its pages read together",
        ] {
            assert!(text.contains(part), "{part} is missing:\n{text}");
        }
    }

    #[test]
    fn what_was_not_run_is_not_explained() {
        let rows: Vec<Row> = rows()
            .into_iter()
            .filter(|row| row.plan.workload == WorkloadKind::InsertRandom)
            .collect();
        let text = texts(&rows).join("\n");
        assert!(!text.contains("MADV"), "{text}");
        assert!(texts(&[]).is_empty());
    }
}
