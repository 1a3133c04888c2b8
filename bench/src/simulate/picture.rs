//! Hit ratios by size of the pool, as one SVG: a panel for each trace.

use std::fmt::Write;

use super::Outcome;
use crate::report::{DARK, FONT, LIGHT, escape};

const PANEL: (f64, f64) = (300.0, 210.0);
const PLOT: (f64, f64) = (236.0, 140.0);
const LEFT: f64 = 40.0;
const TOP: f64 = 56.0;
const COLUMNS: usize = 3;
const COLOURS: [&str; 7] = ["m0", "bad", "muted", "p1", "m2", "p0", "p3"];

/// Each line is a policy's, the dashed one the optimum's.
pub fn render(results: &[(String, Vec<Outcome>)]) -> String {
    let columns = results.len().clamp(1, COLUMNS);
    let rows = results.len().div_ceil(COLUMNS).max(1);
    let width = 24.0 + PANEL.0 * columns as f64;
    let height = TOP + PANEL.1 * rows as f64;
    let mut svg = format!(
        "<svg xmlns='http://www.w3.org/2000/svg' class='bifolio' viewBox='0 0 {width} {height}' \
         role='img' aria-label='hit ratio of each eviction policy'><style>.bifolio{{{LIGHT}}}\
         @media(prefers-color-scheme:dark){{.bifolio{{{DARK}}}}}.bifolio text{{font-family:{FONT};\
         fill:var(--muted);font-size:11px}}.bifolio .t{{font-size:13px;font-weight:600;fill:var(--ink)}}\
         .bifolio path{{fill:none;stroke-width:2;stroke-linejoin:round}}</style>\
         <rect width='{width}' height='{height}' rx='12' fill='var(--page)'/>"
    );
    legend(&mut svg, results);
    for (index, (name, outcomes)) in results.iter().enumerate() {
        let x = 12.0 + PANEL.0 * (index % COLUMNS) as f64;
        let y = TOP + PANEL.1 * (index / COLUMNS) as f64;
        let _ = write!(svg, "<g transform='translate({x},{y})'>");
        panel(&mut svg, name, outcomes);
        svg.push_str("</g>");
    }
    svg.push_str("</svg>");
    svg
}

fn legend(svg: &mut String, results: &[(String, Vec<Outcome>)]) {
    let Some(outcome) = results.first().and_then(|(_, outcomes)| outcomes.first()) else {
        return;
    };
    let policies = outcome.policies.iter().map(|(policy, _)| policy.name());
    for (index, name) in policies.chain(["optimum"]).enumerate() {
        let x = 24.0 + 78.0 * index as f64;
        let (colour, dash) = stroke(index, name == "optimum");
        let _ = write!(
            svg,
            "<path d='M{x} 28h18' stroke='var(--{colour})'{dash}/><text x='{}' y='32'>{name}</text>",
            x + 23.0
        );
    }
}

fn stroke(index: usize, is_optimum: bool) -> (&'static str, &'static str) {
    if is_optimum {
        ("ink", " stroke-dasharray='4 3'")
    } else {
        (COLOURS[index % COLOURS.len()], "")
    }
}

/// Sizes stand at even distances, as most are chosen by factors.
fn panel(svg: &mut String, name: &str, outcomes: &[Outcome]) {
    let _ = write!(
        svg,
        "<text class='t' x='{LEFT}' y='0'>{}</text>",
        escape(name)
    );
    let steps = outcomes.len().max(2) - 1;
    let x = |index: usize| LEFT + PLOT.0 * index as f64 / steps as f64;
    let y = |ratio: f64| 14.0 + PLOT.1 * (1.0 - ratio);
    for per_cent in [0, 50, 100] {
        let level = y(f64::from(per_cent) / 100.0);
        let _ = write!(
            svg,
            "<path d='M{LEFT} {level:.1}h{}' stroke='var(--grid)'/>\
             <text x='{}' y='{:.1}' text-anchor='end'>{per_cent} %</text>",
            PLOT.0,
            LEFT - 5.0,
            level + 4.0
        );
    }
    for (index, outcome) in outcomes.iter().enumerate() {
        let _ = write!(
            svg,
            "<text x='{:.1}' y='{}' text-anchor='middle'>{}</text>",
            x(index),
            PLOT.1 + 32.0,
            outcome.frames
        );
    }
    let lines = outcomes.first().map_or(0, |outcome| outcome.policies.len());
    for line in 0..=lines {
        let ratio = |outcome: &Outcome| match outcome.policies.get(line) {
            Some((_, ratio)) => *ratio,
            None => outcome.optimum,
        };
        let mut path = String::new();
        for (index, outcome) in outcomes.iter().enumerate() {
            let verb = if index == 0 { 'M' } else { 'L' };
            let _ = write!(path, "{verb}{:.1} {:.1}", x(index), y(ratio(outcome)));
        }
        let (colour, dash) = stroke(line, line == lines);
        let _ = write!(svg, "<path d='{path}' stroke='var(--{colour})'{dash}/>");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bifolio_pager_bufpool::Policy;

    #[test]
    fn a_picture_has_a_line_for_each_policy_and_for_the_optimum() {
        let outcome = |frames| Outcome {
            frames,
            policies: vec![(Policy::Clock, 0.25), (Policy::Lru, 0.5)],
            optimum: 0.75,
        };
        let results = [("a<b".to_owned(), vec![outcome(10), outcome(20)])];
        let svg = render(&results);
        assert_eq!(svg.matches("<path d='M40.0").count(), 3, "{svg}");
        assert!(svg.contains("a&lt;b") && svg.contains("</svg>"));
        assert!(!render(&[]).contains("NaN"));
    }
}
