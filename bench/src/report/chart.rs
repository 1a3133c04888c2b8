//! Charts as SVG text. Colours are CSS variables, so that one chart fits light and dark.

use std::fmt::Write;

use super::escape;
use crate::spec::PagerSpec;
use crate::units;

/// Colours for light pages: blues for maps, warm ones for pools.
pub const LIGHT: &str = "--ink:#161a20;--muted:#5b6470;--line:#dfe3e8;--grid:#eceff2;\
    --card:#ffffff;--page:#f6f7f9;--m0:#1f66e5;--m1:#4fb3e8;--m2:#0d8f80;--p0:#d9480f;\
    --p1:#f0a202;--p2:#b8327a;--p3:#7a4fd0;--bad:#c0262d";
/// The same for dark pages.
pub const DARK: &str = "--ink:#e7ebf0;--muted:#9aa5b1;--line:#2c343e;--grid:#232a33;\
    --card:#161b22;--page:#0d1117;--m0:#5b9bff;--m1:#7fd3fa;--m2:#3fc7b4;--p0:#ff8551;\
    --p1:#ffc94d;--p2:#f27ab8;--p3:#b495ff;--bad:#ff7b80";
/// Fonts that are on the reader's machine.
pub const FONT: &str =
    "ui-sans-serif,system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica Neue',Arial,sans-serif";

/// Which colour a pager has: the n-th map or the n-th pool of the comparison.
pub fn colour(pager: PagerSpec, all: &[PagerSpec]) -> String {
    let family = all
        .iter()
        .filter(|other| other.is_mmap() == pager.is_mmap());
    let index = family.take_while(|&&other| other != pager).count();
    if pager.is_mmap() {
        format!("m{}", index % 3)
    } else {
        format!("p{}", index % 4)
    }
}

/// One bar of [`bars`].
pub struct Bar {
    pub colour: String,
    pub name: String,
    /// `None` for a run that failed.
    pub value: Option<f64>,
    /// The lowest and the highest value over the repetitions.
    pub range: (f64, f64),
    /// The value in words.
    pub label: String,
    /// What stands behind it, smaller.
    pub note: String,
}

const WIDTH: f64 = 560.0;
const NAME_WIDTH: f64 = 118.0;
const ROW: f64 = 36.0;

/// Horizontal bars from nought, with the range over repetitions as a thin line.
pub fn bars(bars: &[Bar], unit: &str) -> String {
    let height = ROW * bars.len() as f64 + 8.0;
    let room = WIDTH - NAME_WIDTH - 130.0;
    let largest = bars
        .iter()
        .filter_map(|bar| Some(bar.range.1.max(bar.value?)))
        .fold(0.0, f64::max);
    let x = |value: f64| {
        NAME_WIDTH
            + if largest > 0.0 {
                value / largest * room
            } else {
                0.0
            }
    };
    let mut svg = open(height, &format!("throughput in {unit} per second"));
    for (index, bar) in bars.iter().enumerate() {
        let middle = ROW * (index as f64 + 0.5) + 4.0;
        begin_series(&mut svg, &bar.colour);
        name(&mut svg, &bar.name, middle);
        match bar.value {
            None => text(&mut svg, NAME_WIDTH + 4.0, middle, "bad", &bar.label),
            Some(value) => {
                let (low, high) = bar.range;
                let title = format!("{}: {} {unit}/s", bar.name, bar.label);
                let _ = write!(
                    svg,
                    "<rect x='{NAME_WIDTH}' y='{:.1}' width='{:.1}' height='20' rx='3' fill='var(--{})'>\
                     <title>{}, from {} to {}</title></rect>",
                    middle - 10.0,
                    (x(value) - NAME_WIDTH).max(1.5),
                    bar.colour,
                    escape(&title),
                    units::count(low),
                    units::count(high),
                );
                if high > low {
                    let _ = write!(
                        svg,
                        "<path d='M{:.1} {middle:.1}H{:.1}M{0:.1} {:.1}v8M{1:.1} {2:.1}v8' class='whisker'/>",
                        x(low),
                        x(high),
                        middle - 4.0,
                    );
                }
                let after = x(value.max(high)) + 8.0;
                let _ = write!(
                    svg,
                    "<text x='{after:.1}' y='{:.1}' class='value'>{}<tspan dx='6' class='note'>{}</tspan></text>",
                    middle + 4.5,
                    escape(&bar.label),
                    escape(&bar.note),
                );
            }
        }
        svg.push_str("</g>");
    }
    svg.push_str("</svg>");
    svg
}

/// One line of [`latencies`].
pub struct Latency {
    pub colour: String,
    pub name: String,
    /// p50, p99 and p99.9 in nanoseconds; `None` for a run that failed.
    pub ns: Option<[f64; 3]>,
}

/// p50, p99 and p99.9 of each pager on one logarithmic axis.
pub fn latencies(lines: &[Latency]) -> String {
    let height = ROW * lines.len() as f64 + 30.0;
    let right = WIDTH - 168.0;
    let known = || {
        lines
            .iter()
            .filter_map(|line| line.ns)
            .flatten()
            .filter(|&ns| ns > 0.0)
    };
    let low = known().fold(f64::INFINITY, f64::min);
    let high = known().fold(0.0, f64::max);
    let mut svg = open(height, "latency at p50, p99 and p99.9, logarithmic");
    if high > 0.0 {
        let (from, to) = (low.log10().floor(), high.log10().ceil());
        let to = to.max(from + 1.0);
        let left = NAME_WIDTH + 8.0;
        let x = |ns: f64| left + (ns.max(1.0).log10() - from) / (to - from) * (right - left);
        log_grid(&mut svg, from as i32, to as i32, &x, height - 26.0);
        for (index, line) in lines.iter().enumerate() {
            let middle = ROW * (index as f64 + 0.5) + 4.0;
            begin_series(&mut svg, &line.colour);
            name(&mut svg, &line.name, middle);
            match line.ns {
                None => text(&mut svg, left, middle, "bad", "failed"),
                Some(ns) => latency_marks(&mut svg, line, ns, middle, &x, right),
            }
            svg.push_str("</g>");
        }
    }
    svg.push_str("</svg>");
    svg
}

fn latency_marks(
    svg: &mut String,
    line: &Latency,
    ns: [f64; 3],
    middle: f64,
    x: &impl Fn(f64) -> f64,
    right: f64,
) {
    let [p50, p99, p999] = ns;
    let words = ns.map(units::ns);
    let colour = &line.colour;
    let _ = write!(
        svg,
        "<g><title>{}: p50 {}, p99 {}, p99.9 {}</title>\
         <path d='M{:.1} {middle:.1}H{:.1}' stroke='var(--{colour})' stroke-width='3' opacity='.45'/>\
         <circle cx='{:.1}' cy='{middle:.1}' r='6' fill='var(--{colour})'/>\
         <circle cx='{:.1}' cy='{middle:.1}' r='5' fill='var(--card)' stroke='var(--{colour})' stroke-width='2.5'/>\
         <path d='M{:.1} {:.1}v14' stroke='var(--{colour})' stroke-width='3' stroke-linecap='round'/></g>",
        escape(&line.name),
        words[0],
        words[1],
        words[2],
        x(p50),
        x(p999),
        x(p50),
        x(p99),
        x(p999),
        middle - 7.0,
    );
    let _ = write!(
        svg,
        "<text x='{:.1}' y='{:.1}' class='value small'>{}<tspan class='note'> · {} · {}</tspan></text>",
        right + 12.0,
        middle + 4.5,
        words[0],
        words[1],
        words[2],
    );
}

fn log_grid(svg: &mut String, from: i32, to: i32, x: &impl Fn(f64) -> f64, bottom: f64) {
    for decade in from..=to {
        let ns = 10f64.powi(decade);
        let _ = write!(
            svg,
            "<path d='M{0:.1} 2V{bottom:.1}' class='grid'/>\
             <text x='{0:.1}' y='{1:.1}' class='tick' text-anchor='middle'>{2}</text>",
            x(ns),
            bottom + 18.0,
            units::ns(ns),
        );
    }
}

/// One run of [`timeline`].
pub struct Line {
    pub colour: String,
    pub name: String,
    /// Units a second in each bar of the time line.
    pub rates: Vec<f64>,
    pub bucket_ms: f64,
    /// Stretches of time to be shaded: from and to.
    pub shaded_ms: Vec<(f64, f64)>,
    /// Whether it is the one of several repetitions that is drawn boldly.
    pub is_main: bool,
}

/// Throughput over the measured window, one line a run.
pub fn timeline(lines: &[Line], unit: &str) -> String {
    const WIDE: f64 = 1140.0;
    const LEFT: f64 = 58.0;
    const TOP: f64 = 8.0;
    const BOTTOM: f64 = 176.0;
    let highest = lines
        .iter()
        .flat_map(|line| &line.rates)
        .copied()
        .fold(0.0, f64::max);
    let end_ms = lines
        .iter()
        .map(|line| line.rates.len() as f64 * line.bucket_ms)
        .fold(0.0, f64::max);
    let mut svg = format!(
        "<svg viewBox='0 0 {WIDE} 200' role='img' aria-label='{}s per second over time'>",
        escape(unit)
    );
    if highest > 0.0 && end_ms > 0.0 {
        let top = round_up(highest);
        let x = |ms: f64| LEFT + ms / end_ms * (WIDE - LEFT - 12.0);
        let y = |rate: f64| BOTTOM - rate / top * (BOTTOM - TOP);
        for quarter in 0..=4 {
            let rate = top * f64::from(quarter) / 4.0;
            let _ = write!(
                svg,
                "<path d='M{LEFT} {0:.1}H{WIDE}' class='grid'/>\
                 <text x='{1}' y='{2:.1}' class='tick' text-anchor='end'>{3}</text>",
                y(rate),
                LEFT - 8.0,
                y(rate) + 4.0,
                units::count(rate),
            );
        }
        let step = round_up(end_ms / 8.0);
        let ticks = (end_ms / step) as usize;
        for tick in 0..=ticks {
            let ms = tick as f64 * step;
            let _ = write!(
                svg,
                "<text x='{:.1}' y='196' class='tick' text-anchor='middle'>{} s</text>",
                x(ms).min(WIDE - 16.0),
                units::three_digits(ms / 1e3),
            );
        }
        for line in lines.iter().filter(|line| line.is_main) {
            for &(from, to) in &line.shaded_ms {
                let (from, to) = (x(from), x(to.min(end_ms)));
                begin_series(&mut svg, &line.colour);
                let _ = write!(
                    svg,
                    "<rect x='{from:.1}' y='{TOP}' width='{:.1}' height='{:.1}' \
                     fill='var(--{})' opacity='.18'/></g>",
                    (to - from).max(1.0),
                    BOTTOM - TOP,
                    line.colour,
                );
            }
        }
        // Faint ones first, so that the bold ones lie above.
        for line in lines
            .iter()
            .filter(|line| !line.is_main)
            .chain(lines.iter().filter(|l| l.is_main))
        {
            polyline(&mut svg, line, &x, &y);
        }
    }
    svg.push_str("</svg>");
    svg
}

fn polyline(svg: &mut String, line: &Line, x: &impl Fn(f64) -> f64, y: &impl Fn(f64) -> f64) {
    let mut path = String::new();
    for (index, &rate) in line.rates.iter().enumerate() {
        let verb = if index == 0 { 'M' } else { 'L' };
        let _ = write!(
            path,
            "{verb}{:.1} {:.1}",
            x((index as f64 + 0.5) * line.bucket_ms),
            y(rate)
        );
    }
    let (width, opacity) = if line.is_main { (2.2, 1.0) } else { (1.3, 0.4) };
    begin_series(svg, &line.colour);
    let _ = write!(
        svg,
        "<title>{}</title><path d='{path}' fill='none' stroke='transparent' stroke-width='10'/>\
         <path d='{path}' fill='none' stroke='var(--{})' stroke-width='{width}' opacity='{opacity}' \
         stroke-linejoin='round'/></g>",
        escape(&line.name),
        line.colour,
    );
}

/// The next of 1, 2, 2.5, 4, 5, 8 times a power of ten: an axis that ends there has round quarters.
pub fn round_up(value: f64) -> f64 {
    let power = 10f64.powf(value.log10().floor());
    let steps = [1.0, 2.0, 2.5, 4.0, 5.0, 8.0, 10.0];
    steps
        .iter()
        .map(|step| step * power)
        .find(|&round| round >= value * 0.999)
        .unwrap_or(value)
}

fn open(height: f64, label: &str) -> String {
    format!(
        "<svg viewBox='0 0 {WIDTH} {height}' role='img' aria-label='{}'>",
        escape(label)
    )
}

fn begin_series(svg: &mut String, colour: &str) {
    let _ = write!(svg, "<g data-s='{colour}'>");
}

fn name(svg: &mut String, name: &str, middle: f64) {
    let _ = write!(
        svg,
        "<text x='{}' y='{:.1}' class='name' text-anchor='end'>{}</text>",
        NAME_WIDTH - 10.0,
        middle + 4.5,
        escape(name)
    );
}

fn text(svg: &mut String, x: f64, middle: f64, class: &str, text: &str) {
    let text: String = text.chars().take(60).collect();
    let _ = write!(
        svg,
        "<text x='{x:.1}' y='{:.1}' class='{class}'>{}</text>",
        middle + 4.5,
        escape(&text)
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_family_has_its_colours_in_the_order_of_the_comparison() {
        let all: Vec<PagerSpec> = ["mmap-random", "pool-pread", "mmap-normal", "pool-uring"]
            .map(|name| name.parse().unwrap())
            .to_vec();
        let colours: Vec<String> = all.iter().map(|&pager| colour(pager, &all)).collect();
        assert_eq!(colours, ["m0", "p0", "m1", "p1"]);
    }

    #[test]
    fn axes_end_on_round_numbers() {
        for (value, round) in [(1.0, 1.0), (1.1, 2.0), (117.0, 200.0), (14_500.0, 20_000.0)] {
            assert!((round_up(value) - round).abs() < 1e-6 * round, "{value}");
        }
    }

    #[test]
    fn charts_without_numbers_are_empty_and_not_broken() {
        let bar = Bar {
            colour: "m0".to_owned(),
            name: "mmap".to_owned(),
            value: None,
            range: (0.0, 0.0),
            label: "failed".to_owned(),
            note: String::new(),
        };
        for svg in [
            bars(&[bar], "lookup"),
            latencies(&[]),
            timeline(&[], "lookup"),
        ] {
            assert!(svg.ends_with("</svg>") && !svg.contains("NaN"), "{svg}");
        }
    }
}
