//! The report page: one file that needs nothing else, for light and dark.

use std::fmt::Write;

use super::chart::{self, Bar, Latency, Line};
use super::{escape, explain, picture, ratio, recovery};
use crate::row::{Outcome, Row};
use crate::spec::{PagerSpec, WorkloadKind};
use crate::stats::{Cell, Group};
use crate::units;

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// The whole page.
pub fn render(rows: &[Row], groups: &[Group<'_>]) -> String {
    let mut pagers: Vec<PagerSpec> = Vec::new();
    for cell in groups.iter().flat_map(|group| &group.cells) {
        if !pagers.contains(&cell.pager) {
            pagers.push(cell.pager);
        }
    }
    let mut page = format!(
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>\
         <meta name='viewport' content='width=device-width,initial-scale=1'>\
         <meta name='color-scheme' content='light dark'><title>bifolio-bench</title>\
         <style>:root{{{}}}@media(prefers-color-scheme:dark){{:root{{{}}}}}\
         body{{font-family:{}}}{STYLE}{}</style></head><body><main>",
        chart::LIGHT,
        chart::DARK,
        chart::FONT,
        focus_rules(&pagers),
    );
    header(&mut page, rows);
    legend(&mut page, &pagers);
    page.push_str("<section class='picture'>");
    page.push_str(&picture::render(rows, groups, picture::Heading::Left));
    page.push_str("</section>");
    explanation(&mut page, rows, groups);
    let many_sizes = groups
        .iter()
        .any(|g| g.page_size_bytes != groups[0].page_size_bytes);
    for group in groups {
        workload(&mut page, group, &pagers, many_sizes);
    }
    method(&mut page);
    environment(&mut page, rows);
    let _ = writeln!(page, "</main><script>{SCRIPT}</script></body></html>");
    page
}

/// While the reader points at one pager, the others step back.
fn focus_rules(pagers: &[PagerSpec]) -> String {
    let mut rules = String::new();
    for &pager in pagers {
        let colour = chart::colour(pager, pagers);
        let _ = write!(
            rules,
            "body[data-focus={colour}] [data-s]:not([data-s={colour}]){{opacity:.16}}"
        );
    }
    rules
}

fn header(page: &mut String, rows: &[Row]) {
    let Some(row) = rows.first() else {
        page.push_str("<header><h1>Nothing was measured</h1></header>");
        return;
    };
    let plan = &row.plan;
    let data = units::bytes(plan.records * (plan.value_bytes + 8));
    let memory = plan.limit_bytes.map_or("no limit".to_owned(), units::bytes);
    let checked: u64 = rows
        .iter()
        .filter_map(|row| Some(row.outcome.as_ref()?.values_checked))
        .sum();
    let failed = rows.iter().filter(|row| row.error.is_some()).count();
    let device = row.device.map_or("n/a".to_owned(), |device| {
        format!("{}/s", units::count(device.one_in_flight_reads_per_s))
    });
    let pool = rows.iter().find_map(|row| row.plan.pool_budget_bytes);
    let facts = [
        (
            "memory for each run",
            memory.clone(),
            format!("{}, page cache included", plan.limit_mechanism),
        ),
        (
            "buffer pool",
            pool.map_or("none".to_owned(), units::bytes),
            format!("{} left to the process", units::bytes(plan.reserve_bytes)),
        ),
        (
            "data",
            data.clone(),
            format!(
                "{} records, file of {}",
                units::count(plan.records as f64),
                units::bytes(plan.file_bytes)
            ),
        ),
        (
            "the device alone",
            device,
            "random 4 KiB reads, one in flight".to_owned(),
        ),
        (
            "runs",
            rows.len().to_string(),
            if failed == 0 {
                format!(
                    "none failed, {} values checked",
                    units::count(checked as f64)
                )
            } else {
                format!("{failed} FAILED")
            },
        ),
    ];
    let _ = write!(
        page,
        "<header><p class='mark'>bifolio-bench {} · {}</p><h1>One B+tree, two pagers</h1>\
         <p class='lead'>{data} of data in {memory} of memory: the same file, the same tree and the \
         same keys, through a memory map and through a buffer pool. Only the pager differs.</p>\
         <div class='facts'>",
        escape(&row.environment.version),
        escape(&row.environment.started_utc),
    );
    for (name, value, note) in facts {
        let _ = write!(
            page,
            "<div class='fact'><span>{name}</span><b>{}</b><small>{}</small></div>",
            escape(&value),
            escape(&note)
        );
    }
    page.push_str("</div>");
    if !row.environment.optimised {
        page.push_str("<p class='bad'>Built without optimisation: the rates mean nothing.</p>");
    }
    page.push_str("</header>");
}

fn explanation(page: &mut String, rows: &[Row], groups: &[Group<'_>]) {
    let reasons = explain::reasons(rows, groups);
    if reasons.is_empty() {
        return;
    }
    page.push_str("<section class='why'><h2>Why</h2>");
    for reason in reasons {
        let _ = write!(
            page,
            "<h3>{}</h3><p>{}</p>",
            reason.about,
            escape(&reason.text)
        );
    }
    page.push_str("</section>");
}

fn legend(page: &mut String, pagers: &[PagerSpec]) {
    page.push_str("<nav class='legend' aria-label='pagers'>");
    for &pager in pagers {
        let colour = chart::colour(pager, pagers);
        let _ = write!(
            page,
            "<button type='button' data-pick='{colour}'><i style='background:var(--{colour})'></i>{}</button>",
            escape(&pager.to_string())
        );
    }
    page.push_str("<span>point at one to single it out</span></nav>");
}

fn workload(page: &mut String, group: &Group<'_>, pagers: &[PagerSpec], name_size: bool) {
    let kind = group.workload;
    let size = if name_size {
        format!(
            " <small>{} pages</small>",
            units::bytes(group.page_size_bytes)
        )
    } else {
        String::new()
    };
    let commit = if kind.writes() {
        " Each transaction is durable by the redo log when its commit returns; checkpoints write the \
         pages in the background."
    } else {
        ""
    };
    let _ = write!(
        page,
        "<section class='card' id='{}-{}'><h2>{}{size}</h2><p class='what'>{}{commit}</p>\
         <div class='pair'><figure><figcaption>Throughput, {}s per second <em>longer is better; a thin \
         line spans the repetitions</em></figcaption>{}</figure>\
         <figure><figcaption>Latency of {} <em>further left is better; ● p50, ○ p99, ▎p99.9</em>\
         </figcaption>{}</figure></div>",
        kind.name(),
        group.page_size_bytes,
        kind.title(),
        description(kind),
        kind.unit(),
        throughput(group, pagers),
        kind.latency_of(),
        latency(group, pagers),
    );
    if kind != WorkloadKind::Recovery {
        let _ = write!(
            page,
            "<figure><figcaption>Throughput over the measured window, {}s per second <em>one line a \
             run, the middle one bold</em></figcaption>{}</figure>",
            kind.unit(),
            over_time(group, pagers),
        );
    }
    beside_checkpoints(page, group, pagers);
    recovery::table(page, group, pagers);
    numbers(page, group, pagers);
    page.push_str("</section>");
}

fn description(kind: WorkloadKind) -> &'static str {
    match kind {
        WorkloadKind::PointUniform => {
            "One get at a time, every key as likely as any other. Nearly every lookup misses, so this \
             shows what one miss costs."
        }
        WorkloadKind::PointZipf => {
            "One get at a time; a few keys, spread over the whole file, are asked for most. This shows \
             how well memory keeps what is wanted again."
        }
        WorkloadKind::PointBatch => {
            "64 random keys in one call, so that the tree can ask for many pages before it waits."
        }
        WorkloadKind::ScanShort => {
            "100 records in key order from a random key on: a few leaves each."
        }
        WorkloadKind::ScanFull => "All records in key order, from the first to the last and again.",
        WorkloadKind::UpdateRandom => {
            "Overwrites of random keys, 1000 to a transaction, on a fresh copy of the file."
        }
        WorkloadKind::UpdateBatch => {
            "The same overwrites, but the 1000 of a transaction are collected first and applied as one \
             batch, so that their pages are read together before the writer is taken."
        }
        WorkloadKind::InsertRandom => {
            "New keys all over the key space, 1000 to a transaction, on a fresh copy of the file."
        }
        WorkloadKind::CommitOne => {
            "One record of a few thousand that are in memory is overwritten in each transaction, by one \
             thread. This shows what a sync costs."
        }
        WorkloadKind::CommitEight => {
            "The same by eight threads, each in transactions of its own. Those that commit at once share \
             a sync."
        }
        WorkloadKind::Recovery => {
            "A process overwrites single records until its log is as long as the limit at which a \
             checkpoint begins, and is killed. The database is opened again, with nothing of it in \
             memory: the log is replayed, and a checkpoint made. Three limits, in the table below."
        }
        WorkloadKind::Checkpoint => {
            "2000 gets and 250 transactions of 8 overwrites a second, all in memory, each due at its time, \
             whether those before are done or not. Shaded: a checkpoint ran, in the colour of its pager. \
             A pool's checkpoint writes a few pages at a time with pauses, past the page cache, and others \
             go on beside it. Under a map the pages that are written are the kernel's: while one is on its \
             way, a store to it may wait (stable pages), its dirty pages count against the group's limit and \
             throttle whoever writes, and the sync of the whole map is one request."
        }
    }
}

/// What a checkpoint did to others: the two halves of each pager's middle run beside each other.
fn beside_checkpoints(page: &mut String, group: &Group<'_>, pagers: &[PagerSpec]) {
    let runs: Vec<_> = group
        .cells
        .iter()
        .filter_map(|cell| {
            let middle = middle_run(cell);
            let row = cell.rows.iter().find(|row| row.plan.repetition == middle)?;
            let phases = row.outcome.as_ref()?.checkpoint_phases.as_ref()?;
            Some((cell.pager, row.outcome.as_ref()?, phases))
        })
        .collect();
    if runs.is_empty() {
        return;
    }
    page.push_str(
        "<div class='scroll'><table><thead><tr><th></th><th colspan='3'>gets, p99.9</th>\
         <th colspan='3'>transactions, p99.9</th><th colspan='3'>checkpoints</th></tr>\
         <tr><th></th><th>without</th><th>during</th><th>ratio</th><th>without</th><th>during</th>\
         <th>ratio</th><th>number</th><th>pages</th><th>time each</th></tr></thead><tbody>",
    );
    for (pager, outcome, phases) in runs {
        let colour = chart::colour(pager, pagers);
        let [reads, commits] = phases
            .ratios()
            .map(|found| found.map_or("n/a".to_owned(), ratio));
        let counters = outcome.checkpoint_counters;
        let each = counters.checkpoint_ns / counters.checkpoints.max(1);
        let _ = write!(
            page,
            "<tr data-s='{colour}'><th>{}</th><td>{}</td><td>{}</td><td>{reads}</td><td>{}</td>\
             <td>{}</td><td>{commits}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            escape(&pager.to_string()),
            units::ns(phases.reads_without.p999_ns as f64),
            units::ns(phases.reads_during.p999_ns as f64),
            units::ns(phases.commits_without.p999_ns as f64),
            units::ns(phases.commits_during.p999_ns as f64),
            counters.checkpoints,
            units::count(counters.checkpoint_pages as f64),
            units::ns(each as f64),
        );
    }
    page.push_str("</tbody></table></div>");
}

fn throughput(group: &Group<'_>, pagers: &[PagerSpec]) -> String {
    let base = group.cells.first().and_then(Cell::rate);
    let bars: Vec<Bar> = group
        .cells
        .iter()
        .map(|cell| {
            let rate = cell.rate();
            Bar {
                colour: chart::colour(cell.pager, pagers),
                name: cell.pager.to_string(),
                value: rate,
                range: cell.rate_range().unwrap_or_default(),
                label: rate.map_or("failed".to_owned(), units::count),
                note: rate
                    .zip(base)
                    .map_or(String::new(), |(rate, base)| ratio(rate / base)),
            }
        })
        .collect();
    chart::bars(&bars, group.workload.unit())
}

fn latency(group: &Group<'_>, pagers: &[PagerSpec]) -> String {
    let lines: Vec<Latency> = group
        .cells
        .iter()
        .map(|cell| {
            let at = |of: fn(&Outcome) -> u64| cell.median(|outcome| of(outcome) as f64);
            let ns = at(|outcome| outcome.latency.p50_ns)
                .zip(at(|outcome| outcome.latency.p99_ns))
                .zip(at(|outcome| outcome.latency.p999_ns))
                .map(|((p50, p99), p999)| [p50, p99, p999]);
            Latency {
                colour: chart::colour(cell.pager, pagers),
                name: cell.pager.to_string(),
                ns,
            }
        })
        .collect();
    chart::latencies(&lines)
}

fn over_time(group: &Group<'_>, pagers: &[PagerSpec]) -> String {
    let mut lines = Vec::new();
    for cell in &group.cells {
        let middle = middle_run(cell);
        for row in &cell.rows {
            let Some(outcome) = &row.outcome else {
                continue;
            };
            let per_s = 1e3 / outcome.timeline_bucket_ms;
            let mut rates: Vec<f64> = outcome
                .timeline_units
                .iter()
                .map(|&units| units as f64 * per_s)
                .collect();
            // The last bar is cut off by the end of the window.
            if rates.len() > 2 {
                rates.pop();
            }
            lines.push(Line {
                colour: chart::colour(cell.pager, pagers),
                name: format!("{}, repetition {}", cell.pager, row.plan.repetition),
                rates,
                bucket_ms: outcome.timeline_bucket_ms,
                shaded_ms: outcome
                    .checkpoint_phases
                    .as_ref()
                    .map_or(Vec::new(), |phases| phases.spans_ms.clone()),
                is_main: row.plan.repetition == middle,
            });
        }
    }
    chart::timeline(&lines, group.workload.unit())
}

/// The repetition whose throughput is the median, or the one below it.
fn middle_run(cell: &Cell<'_>) -> u32 {
    let mut runs: Vec<(f64, u32)> = cell
        .rows
        .iter()
        .filter_map(|row| Some((row.units_per_s()?, row.plan.repetition)))
        .collect();
    runs.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
    runs.get(runs.len().saturating_sub(1) / 2)
        .map_or(0, |run| run.1)
}

/// A column of the table: the heading it shares with its neighbours, its own, and what is in it.
struct Column {
    over: &'static str,
    name: &'static str,
    value: fn(&Cell<'_>) -> Option<String>,
}

const fn column(
    over: &'static str,
    name: &'static str,
    value: fn(&Cell<'_>) -> Option<String>,
) -> Column {
    Column { over, name, value }
}

const COLUMNS: [Column; 14] = [
    column("rate", "per second", |cell| cell.rate().map(units::count)),
    column("latency", "p50", |cell| {
        cell.median(|o| o.latency.p50_ns as f64).map(units::ns)
    }),
    column("latency", "p99", |cell| {
        cell.median(|o| o.latency.p99_ns as f64).map(units::ns)
    }),
    column("latency", "p99.9", |cell| {
        cell.median(|o| o.latency.p999_ns as f64).map(units::ns)
    }),
    column("latency", "max", |cell| {
        cell.median(|o| o.latency.max_ns as f64).map(units::ns)
    }),
    column("latency", COMMIT, |cell| {
        cell.median(|o| o.commit_latency.p50_ns as f64)
            .map(units::ns)
    }),
    column("processor", "user", |cell| {
        cell.median(|o| o.per_unit(o.costs.cpu_user_ns as f64))
            .map(units::ns)
    }),
    column("processor", "kernel", |cell| {
        cell.median(|o| o.per_unit(o.costs.cpu_system_ns as f64))
            .map(units::ns)
    }),
    column("faults", "minor", |cell| {
        cell.median(|o| o.per_unit(o.costs.minor_faults as f64))
            .map(units::three_digits)
    }),
    column("faults", "major", |cell| {
        cell.median(|o| o.per_unit(o.costs.major_faults as f64))
            .map(units::three_digits)
    }),
    column("device", "pages read", |cell| {
        cell.median_known(|o| o.page_reads_per_unit)
            .map(units::three_digits)
    }),
    column("device", "written", |cell| {
        cell.median_known(|o| Some(o.per_unit(o.costs.process_write_bytes? as f64)))
            .map(size)
    }),
    column("memory", "peak", |cell| {
        cell.median_known(|o| Some(o.memory.peak_bytes? as f64))
            .map(size)
    }),
    column("memory", "page cache", |cell| {
        cell.median_known(|o| Some(o.memory.cache_bytes? as f64))
            .map(size)
    }),
];

/// The column that only writing workloads have.
const COMMIT: &str = "commit";

fn size(bytes: f64) -> String {
    units::bytes(bytes as u64)
}

fn numbers(page: &mut String, group: &Group<'_>, pagers: &[PagerSpec]) {
    let columns: Vec<&Column> = COLUMNS
        .iter()
        .filter(|column| column.name != COMMIT || group.workload.writes())
        .collect();
    page.push_str("<div class='scroll'><table><thead>");
    headings(page, &columns);
    page.push_str("</thead><tbody>");
    for cell in &group.cells {
        let colour = chart::colour(cell.pager, pagers);
        let ran = cell
            .outcomes()
            .next()
            .map_or("", |outcome| outcome.effective_backend.as_str());
        let _ = write!(
            page,
            "<tr data-s='{colour}' title='{}'><th><i style='background:var(--{colour})'></i>{}</th>",
            escape(ran),
            escape(&cell.pager.to_string())
        );
        if cell.rate().is_none() {
            let why = cell.error().unwrap_or("did not run");
            let _ = write!(
                page,
                "<td colspan='{}' class='bad'>{}</td>",
                columns.len(),
                escape(why)
            );
        } else {
            for column in &columns {
                let value = (column.value)(cell).unwrap_or_else(|| "–".to_owned());
                let _ = write!(page, "<td>{}</td>", escape(&value));
            }
        }
        page.push_str("</tr>");
    }
    let _ = write!(
        page,
        "</tbody></table></div><p class='foot'>Medians over the repetitions. Processor time, faults, \
         and what was read and written are for each {}.</p>",
        group.workload.unit()
    );
}

/// Two lines of headings: what neighbours share above what is their own.
fn headings(page: &mut String, columns: &[&Column]) {
    page.push_str("<tr class='over'><th></th>");
    for run in columns.chunk_by(|a, b| a.over == b.over) {
        let _ = write!(page, "<th colspan='{}'>{}</th>", run.len(), run[0].over);
    }
    page.push_str("</tr><tr><th></th>");
    for column in columns {
        let _ = write!(page, "<th>{}</th>", column.name);
    }
    page.push_str("</tr>");
}

fn method(page: &mut String) {
    page.push_str(
        "<section class='card'><h2>How this was measured</h2><ul>\
         <li>Each run is a process of its own in a control group of its own, whose limit covers all \
         that it holds: heap, page tables and page cache. The map may use all of it as page cache; the \
         pool gets it less what the process needs, and reads with O_DIRECT.</li>\
         <li>A control group reclaims in the thread that asks for memory. A machine that is short of \
         memory as a whole reclaims in the background instead: another experiment.</li>\
         <li>Before each run the file is synced and dropped from the page cache. Point reads are warmed \
         up by batches of the same keys, until memory is full or the time is up; then the window begins.</li>\
         <li>Runs that write start from a copy of one pristine file that was cleanly closed, end with a commit, \
         and are read back \
         through the other pager after their process has ended.</li>\
         <li>Repetitions are interleaved: every pager once, then every pager again, beginning with \
         another one. Rates are medians.</li>\
         <li>A commit is durable by the redo log: written in order and synced, once for all who wait. \
         Right before each run of single commits, and right after, the device alone is measured: 512 bytes overwritten in a \
         preallocated file and synced, with nothing else.</li>\
         <li>The loop is closed: an operation begins when the last one has ended. A stall shows in the \
         maximum and over time, and not as a queue.</li>\
         <li>Bytes read are what storage was asked for on behalf of the process, read-ahead included. \
         Bytes written through a map are counted by the kernel when a page becomes dirty.</li></ul></section>",
    );
}

fn environment(page: &mut String, rows: &[Row]) {
    let Some(row) = rows.first() else { return };
    let e = &row.environment;
    let unknown = || "n/a".to_owned();
    let text = |value: &Option<String>| value.clone().unwrap_or_else(unknown);
    let size = |value: Option<u64>| value.map_or_else(unknown, units::bytes);
    let entries = [
        ("Started (UTC)", e.started_utc.clone()),
        ("Version", e.version.clone()),
        ("Commit", text(&e.commit)),
        ("Kernel", text(&e.kernel)),
        ("Processor", format!("{}, {} usable", text(&e.cpu), e.cpus)),
        ("Memory", size(e.ram_bytes)),
        ("Swap", size(e.swap_bytes)),
        (
            "File system",
            format!("{} ({})", text(&e.file_system), text(&e.mount_options)),
        ),
        (
            "Block device",
            format!(
                "{}, scheduler {}",
                text(&e.block_device),
                text(&e.scheduler)
            ),
        ),
        ("Read-ahead", size(e.read_ahead_kib.map(|kib| kib << 10))),
        ("Transparent huge pages", text(&e.transparent_huge_pages)),
        ("Seed", row.plan.seed.to_string()),
        ("Threads", row.plan.threads.to_string()),
    ];
    page.push_str("<section class='card'><h2>What ran, and where</h2><dl>");
    for (pager, ran) in what_ran(rows) {
        let _ = write!(page, "<dt>{}</dt><dd>{}</dd>", escape(&pager), escape(ran));
    }
    for (name, value) in entries {
        let _ = write!(page, "<dt>{name}</dt><dd>{}</dd>", escape(&value));
    }
    page.push_str("</dl></section>");
}

/// Each pager that ran, in the engine's own words.
fn what_ran(rows: &[Row]) -> Vec<(String, &str)> {
    let mut ran: Vec<(String, &str)> = Vec::new();
    for row in rows {
        let pager = row.plan.pager.to_string();
        if let Some(outcome) = &row.outcome
            && !ran.iter().any(|(known, _)| *known == pager)
        {
            ran.push((pager, &outcome.effective_backend));
        }
    }
    ran
}
