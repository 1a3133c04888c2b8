//! `docs/FORMAT.md` shows the byte tables that stand in the code, and nothing else; the README shows
//! the example that is compiled.
//!
//! To bring the page up to date: `BIFOLIO_BLESS=1 cargo test -p bifolio --test format_doc`.

use std::fs;
use std::path::Path;

/// The lines between `ANCHOR: name` and `ANCHOR_END: name` of a module's header, as Markdown.
fn table(source: &str, name: &str) -> String {
    let begin = format!("// ANCHOR: {name}");
    let end = format!("// ANCHOR_END: {name}");
    let lines = source
        .lines()
        .skip_while(|line| line.trim() != begin)
        .skip(1);
    let lines: Vec<_> = lines
        .take_while(|line| line.trim() != end)
        .map(|line| {
            line.trim()
                .trim_start_matches("//!")
                .trim_start_matches("///")
        })
        .map(|line| line.strip_prefix(' ').unwrap_or(line))
        .collect();
    assert!(!lines.is_empty(), "no anchor {name}");
    lines.join("\n")
}

/// The page with every marked table taken anew from the code.
fn rendered(page: &str, root: &Path) -> String {
    let mut out = String::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        out += line;
        out += "\n";
        let marker = line
            .strip_prefix("<!-- table: ")
            .and_then(|rest| rest.strip_suffix(" -->"));
        let Some((file, name)) = marker.and_then(|marker| marker.split_once(' ')) else {
            continue;
        };
        let source = fs::read_to_string(root.join(file)).unwrap_or_else(|error| {
            panic!("{file}, which docs/FORMAT.md takes a table from: {error}")
        });
        out += &table(&source, name);
        out += "\n<!-- end -->\n";
        assert!(
            lines.any(|line| line == "<!-- end -->"),
            "the table of {name} is not ended"
        );
    }
    out
}

#[test]
fn the_format_page_shows_the_tables_of_the_code() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let path = root.join("docs/FORMAT.md");
    let page = fs::read_to_string(&path).unwrap();
    let fresh = rendered(&page, root);
    if std::env::var_os("BIFOLIO_BLESS").is_some() {
        fs::write(&path, &fresh).unwrap();
    } else {
        assert!(
            page == fresh,
            "docs/FORMAT.md is behind the code; see the head of this test"
        );
    }
}

#[test]
fn the_readme_shows_the_example_that_is_compiled() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let example = fs::read_to_string(root.join("engine/examples/embed.rs")).unwrap();
    let begin = example.find("// ANCHOR: embed\n").unwrap();
    let end = example.find("    // ANCHOR_END: embed").unwrap();
    let lines = example[begin..end].lines().skip(1);
    let shown: Vec<_> = lines
        .map(|line| line.strip_prefix("    ").unwrap_or(line))
        .collect();
    let readme = fs::read_to_string(root.join("README.md")).unwrap();
    let block = format!("```rust\n{}\n```", shown.join("\n"));
    assert!(
        readme.contains(&block),
        "the README's first example is not engine/examples/embed.rs"
    );
}
