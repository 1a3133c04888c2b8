//! One picture of a comparison, to stand at the top of a page: a panel for each workload.

use std::fmt::Write;

use super::{chart, escape};
use crate::row::Row;
use crate::spec::{PagerSpec, WorkloadKind};
use crate::stats::{Cell, Group};
use crate::units;

const WIDTH: f64 = 960.0;
const COLUMNS: usize = 3;
const PANEL_WIDTH: f64 = 296.0;
const GAP: f64 = 12.0;
const LEFT: f64 = 24.0;
/// Where panels begin below a heading and the legend, and without them.
const TOP: f64 = 96.0;
const TOP_BARE: f64 = 24.0;
const BAR: f64 = 15.0;
const BAR_STEP: f64 = 21.0;

/// Whether the picture says what it is of; on a page that says so already it need not.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Heading {
    Shown,
    Left,
}

/// One bar of a panel.
struct Bar {
    pager: PagerSpec,
    value: Option<f64>,
    label: String,
}

/// A self-contained SVG that fits light and dark pages.
pub fn render(rows: &[Row], groups: &[Group<'_>], heading: Heading) -> String {
    let first_page_size = groups.first().map_or(0, |group| group.page_size_bytes);
    let shown: Vec<&Group<'_>> = groups
        .iter()
        .filter(|group| group.page_size_bytes == first_page_size)
        .collect();
    let mut pagers: Vec<PagerSpec> = Vec::new();
    for cell in shown.iter().flat_map(|group| &group.cells) {
        if !pagers.contains(&cell.pager) {
            pagers.push(cell.pager);
        }
    }
    let mut panels: Vec<(String, &str, Vec<Bar>)> = shown
        .iter()
        .map(|group| (short_title(group.workload), "/s", rates(group)))
        .collect();
    if let Some(group) = shown
        .iter()
        .find(|group| group.workload == WorkloadKind::PointUniform)
    {
        panels.push((
            "Read per lookup (less is better)".to_owned(),
            "",
            bytes_read(group),
        ));
    }
    let panel_height = 34.0 + BAR_STEP * pagers.len() as f64 + 8.0;
    let panel_rows = (panels.len() + 1).div_ceil(COLUMNS);
    let above = if heading == Heading::Shown {
        TOP
    } else {
        TOP_BARE
    };
    let height = above + panel_rows as f64 * (panel_height + GAP) + 14.0;
    let mut svg = open(height);
    if heading == Heading::Shown {
        title(&mut svg, rows, &pagers);
    }
    let place = |index: usize| {
        let (column, row) = (index % COLUMNS, index / COLUMNS);
        let x = LEFT + column as f64 * (PANEL_WIDTH + GAP);
        (x, above + row as f64 * (panel_height + GAP))
    };
    for (index, (heading, suffix, bars)) in panels.iter().enumerate() {
        let (x, y) = place(index);
        panel(&mut svg, x, y, panel_height, heading);
        draw_bars(&mut svg, x, y, bars, suffix, &pagers);
    }
    let (x, y) = place(panels.len());
    facts(&mut svg, x, y, rows);
    svg.push_str("</svg>\n");
    svg
}

fn open(height: f64) -> String {
    format!(
        "<svg xmlns='http://www.w3.org/2000/svg' class='bifolio' viewBox='0 0 {WIDTH} {height}' \
         role='img' aria-label='throughput of each pager on each workload'><style>\
         .bifolio{{{}}}@media(prefers-color-scheme:dark){{.bifolio{{{}}}}}\
         .bifolio text{{font-family:{};fill:var(--ink)}}.bifolio .h{{font-size:20px;font-weight:650}}\
         .bifolio .s{{font-size:13px;font-weight:400;fill:var(--muted)}}.bifolio .t{{font-size:13px;font-weight:600}}\
         .bifolio .v{{font-size:12px;font-variant-numeric:tabular-nums}}</style>\
         <rect width='{WIDTH}' height='{height}' rx='12' fill='var(--page)'/>",
        chart::LIGHT,
        chart::DARK,
        chart::FONT,
    )
}

fn title(svg: &mut String, rows: &[Row], pagers: &[PagerSpec]) {
    let subtitle = rows.first().map_or(String::new(), |row| {
        let plan = &row.plan;
        let data = units::bytes(plan.records * (plan.value_bytes + 8));
        match plan.limit_bytes {
            Some(limit) => format!(
                "{data} of data under a limit of {} of memory",
                units::bytes(limit)
            ),
            None => format!("{data} of data, memory not limited"),
        }
    });
    let _ = write!(
        svg,
        "<text x='{LEFT}' y='38' class='h'>One B+tree, two pagers<tspan class='s' dx='12'>{}</tspan></text>",
        escape(&subtitle),
    );
    let mut x = LEFT;
    for &pager in pagers {
        let name = pager.to_string();
        let _ = write!(
            svg,
            "<rect x='{x:.1}' y='58' width='13' height='13' rx='3' fill='var(--{})'/>\
             <text x='{:.1}' y='69' class='s'>{}</text>",
            chart::colour(pager, pagers),
            x + 19.0,
            escape(&name),
        );
        x += 19.0 + 7.4 * name.len() as f64 + 24.0;
    }
    let _ = write!(
        svg,
        "<text x='{:.1}' y='69' class='s' text-anchor='end'>longer is faster</text>",
        WIDTH - LEFT
    );
}

fn panel(svg: &mut String, x: f64, y: f64, height: f64, heading: &str) {
    let _ = write!(
        svg,
        "<rect x='{x:.1}' y='{y:.1}' width='{PANEL_WIDTH}' height='{height:.1}' rx='8' \
         fill='var(--card)' stroke='var(--line)'/><text x='{:.1}' y='{:.1}' class='t'>{}</text>",
        x + 14.0,
        y + 24.0,
        escape(heading),
    );
}

fn draw_bars(svg: &mut String, x: f64, y: f64, bars: &[Bar], suffix: &str, pagers: &[PagerSpec]) {
    let largest = bars.iter().filter_map(|bar| bar.value).fold(0.0, f64::max);
    let room = PANEL_WIDTH - 28.0 - 82.0;
    for (index, bar) in bars.iter().enumerate() {
        let top = y + 36.0 + BAR_STEP * index as f64;
        let width = match bar.value {
            Some(value) if largest > 0.0 => (value / largest * room).max(2.0),
            _ => 0.0,
        };
        let _ = write!(
            svg,
            "<g data-s='{0}'><rect x='{1:.1}' y='{top:.1}' width='{width:.1}' height='{BAR}' rx='2.5' \
             fill='var(--{0})'><title>{2}: {3}{suffix}</title></rect>\
             <text x='{4:.1}' y='{5:.1}' class='v'>{3}{suffix}</text></g>",
            chart::colour(bar.pager, pagers),
            x + 14.0,
            escape(&bar.pager.to_string()),
            escape(&bar.label),
            x + 14.0 + width + 7.0,
            top + 12.0,
        );
    }
}

fn rates(group: &Group<'_>) -> Vec<Bar> {
    let bar = |cell: &Cell<'_>| {
        let value = cell.rate();
        Bar {
            pager: cell.pager,
            value,
            label: value.map_or("failed".to_owned(), units::count),
        }
    };
    group.cells.iter().map(bar).collect()
}

fn bytes_read(group: &Group<'_>) -> Vec<Bar> {
    let bar = |cell: &Cell<'_>| {
        let value = cell.median_known(|outcome| {
            Some(outcome.per_unit(outcome.costs.process_read_bytes? as f64))
        });
        let label = value.map_or("n/a".to_owned(), |bytes| units::bytes(bytes as u64));
        Bar {
            pager: cell.pager,
            value,
            label,
        }
    };
    group.cells.iter().map(bar).collect()
}

fn facts(svg: &mut String, x: f64, y: f64, rows: &[Row]) {
    let Some(row) = rows.first() else { return };
    let environment = &row.environment;
    let mut lines = vec![
        format!(
            "{} records, 8 + {} bytes",
            units::count(row.plan.records as f64),
            row.plan.value_bytes
        ),
        format!(
            "pages of {}, one file for all",
            units::bytes(row.plan.page_size_bytes)
        ),
        format!(
            "Linux {}, {} processors",
            environment.kernel.as_deref().unwrap_or("?"),
            environment.cpus
        ),
    ];
    if let Some(file_system) = &environment.file_system {
        let ahead = environment.read_ahead_kib.map_or(String::new(), |kib| {
            format!(", read-ahead {}", units::bytes(kib << 10))
        });
        lines.push(format!("{file_system}{ahead}"));
    }
    for (index, line) in lines.iter().enumerate() {
        let _ = write!(
            svg,
            "<text x='{:.1}' y='{:.1}' class='s'>{}</text>",
            x + 14.0,
            y + 28.0 + 21.0 * index as f64,
            escape(line)
        );
    }
}

fn short_title(kind: WorkloadKind) -> String {
    let (title, unit) = match kind {
        WorkloadKind::PointUniform => ("Point reads, uniform", "lookups"),
        WorkloadKind::PointZipf => ("Point reads, zipfian", "lookups"),
        WorkloadKind::PointBatch => ("Point reads, 64 at a time", "lookups"),
        WorkloadKind::ScanShort => ("Short scans", "of 100 records"),
        WorkloadKind::ScanFull => ("Full scan", "records"),
        WorkloadKind::UpdateRandom => ("Random updates, durable", "records"),
        WorkloadKind::UpdateBatch => ("Updates in batches, durable", "records"),
        WorkloadKind::InsertRandom => ("Random inserts, durable", "records"),
        WorkloadKind::CommitOne => ("1 thread, durable", "single commits"),
        WorkloadKind::CommitEight => ("8 threads, durable", "single commits"),
        WorkloadKind::Checkpoint => ("steady, beside", "checkpoints"),
        WorkloadKind::Recovery => ("Log replayed after a kill", "records"),
    };
    format!("{title} ({unit})")
}
