//! What a person sees: a table and sentences on the terminal, a page, a picture.
//!
//! All of it is made from rows, and from nothing else.

mod chart;
mod explain;
mod html;
mod picture;
mod recovery;
mod table;
mod variants;

pub(crate) use chart::{DARK, FONT, LIGHT};

use std::fs;
use std::path::Path;

use crate::error::{Error, Result};
use crate::row::Row;
use crate::stats;

/// Prints the table, says why, and writes `report.html` and `summary.svg` to `out`.
///
/// # Errors
/// [`Error::Io`].
pub fn write(rows: &[Row], out: &Path) -> Result<()> {
    let groups = stats::groups(rows);
    println!("{}", table::render(&groups));
    for reason in explain::reasons(rows, &groups) {
        println!(
            "{}\n",
            wrap(&format!("{}. {}", reason.about, reason.text), 100)
        );
    }
    let save = |name: &str, text: String| {
        let path = out.join(name);
        fs::write(&path, text).map_err(|source| Error::io("write", path, source))
    };
    save("report.html", html::render(rows, &groups))?;
    save(
        "summary.svg",
        picture::render(rows, &groups, picture::Heading::Shown),
    )?;
    println!("report  {}", out.join("report.html").display());
    println!("picture {}", out.join("summary.svg").display());
    println!("rows    {}", out.join("rows.jsonl").display());
    Ok(())
}

/// Breaks `text` into lines of at most `width` characters where words allow.
fn wrap(text: &str, width: usize) -> String {
    let mut lines = String::new();
    let mut line_len = 0;
    for word in text.split_whitespace() {
        let word_len = word.chars().count();
        if line_len > 0 && line_len + 1 + word_len > width {
            lines.push('\n');
            line_len = 0;
        }
        if line_len > 0 {
            lines.push(' ');
            line_len += 1;
        }
        lines.push_str(word);
        line_len += word_len;
    }
    lines
}

/// `text` with the characters replaced that mean something in HTML and SVG.
pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
        .replace('\'', "&#39;")
}

/// `1.6x`, or `0.011x` where two digits after the point would not do.
fn ratio(value: f64) -> String {
    match value {
        x if x >= 99.95 => format!("{x:.0}×"),
        x if x >= 9.995 => format!("{x:.1}×"),
        x if x >= 0.0995 => format!("{x:.2}×"),
        x => format!("{x:.3}×"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::tests::row;
    use crate::spec::WorkloadKind;

    /// Rows of all workloads and four pagers, two repetitions.
    pub(super) fn rows() -> Vec<Row> {
        let pagers = [
            ("mmap-random", 11_100.0),
            ("mmap-normal", 117.0),
            ("pool-pread", 14_000.0),
            ("pool-uring", 14_500.0),
        ];
        let mut rows = Vec::new();
        for repetition in [1, 2] {
            for kind in WorkloadKind::ALL {
                for (pager, rate) in pagers {
                    rows.push(row(pager, kind, repetition, rate * f64::from(repetition)));
                }
            }
        }
        rows
    }

    #[test]
    fn a_report_is_written_and_its_page_refers_to_nothing_outside() {
        let out = tempfile::tempdir().unwrap();
        let mut rows = rows();
        rows[3].outcome = None;
        rows[3].error = Some("it <broke> & \"stopped\"".to_owned());
        write(&rows, out.path()).unwrap();
        for name in ["report.html", "summary.svg"] {
            let text = fs::read_to_string(out.path().join(name)).unwrap();
            let inside = text.replace("http://www.w3.org/2000/svg", "");
            for outside in [
                "http:", "https:", "src=", "@import", "url(", "<link", "fetch(",
            ] {
                assert!(!inside.contains(outside), "{name} contains {outside}");
            }
            assert!(
                !inside.contains("<broke>"),
                "{name} shows an error unescaped"
            );
            assert!(!inside.contains("NaN"), "{name} has numbers that are none");
            assert!(!inside.contains("inf\""), "{name} has infinite numbers");
        }
    }

    #[test]
    fn a_report_of_failures_only_is_still_a_report() {
        let out = tempfile::tempdir().unwrap();
        let mut rows = rows();
        for row in &mut rows {
            row.outcome = None;
            row.error = Some("no".to_owned());
        }
        write(&rows, out.path()).unwrap();
    }

    #[test]
    fn lines_are_broken_between_words() {
        assert_eq!(wrap("a bb ccc dddd", 6), "a bb\nccc\ndddd");
        assert_eq!(wrap("unbreakable", 3), "unbreakable");
    }

    #[test]
    fn ratios_keep_their_digits() {
        let texts = [131.2, 13.12, 1.3, 0.42, 0.011].map(ratio);
        assert_eq!(texts, ["131×", "13.1×", "1.30×", "0.42×", "0.011×"]);
    }
}
