//! The check of a whole database: every page below the end is reached exactly once, or is free.
//!
//! Reads the file as one snapshot sees it, so it runs beside a writer. It collects what it finds
//! and goes on; damaged bytes of any kind are findings and never a panic.

use std::fmt;

use bifolio_btree::{self as btree, Finding};
use bifolio_pager::{Error as PagerError, PageId, Pager, first_page};

use crate::core::{Committed, with_pager};
use crate::database::Database;
use crate::error::{Error, Result};
use crate::salvage;
use crate::space::{self, Found};

/// What a check of the whole file found.
#[derive(Clone, Debug, Default)]
pub struct CheckReport {
    /// Everything that is wrong, each with the way that leads to it; empty for a whole database.
    pub findings: Vec<CheckFinding>,
    /// Tables that were gone through.
    pub tables: u64,
    /// Entries that were found in them.
    pub entries: u64,
    /// Pages reached by the catalogue, the tables and the allocation map.
    pub reached_pages: u64,
    /// Pages below the end that are free.
    pub free_pages: u64,
    /// Pages of which it is not known what they are, because what leads to them is damaged.
    pub hidden_pages: u64,
    /// Page numbers from here on were never used.
    pub end_pages: u64,
}

/// One thing that is wrong. The finding names the page, the way to it from the top of the tree or of
/// the map, and the keys, or the pages, of which nothing is known because of it.
#[derive(Clone, Debug)]
pub struct CheckFinding {
    /// Where: `"catalogue"`, `"allocation map"`, or a table's name in quotes.
    pub place: String,
    /// What the tree's own check found there.
    pub finding: Finding,
}

impl CheckReport {
    /// Whether nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }
}

impl fmt::Display for CheckReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} tables, {} entries, {} pages reached, {} free, end at page {}: {}",
            self.tables,
            self.entries,
            self.reached_pages,
            self.free_pages,
            self.end_pages,
            if self.is_clean() { "whole" } else { "DAMAGED" }
        )?;
        if self.hidden_pages > 0 {
            writeln!(f, "{} pages hidden by the damage", self.hidden_pages)?;
        }
        for CheckFinding { place, finding } in &self.findings {
            writeln!(f, "{place}: {finding}")?;
        }
        Ok(())
    }
}

impl Database {
    /// Reads the whole database and reports everything that is wrong with it.
    ///
    /// Costs a read of every page in use, and memory of two bits per page of the file.
    ///
    /// # Errors
    /// Only what keeps the check from running; damage is in the report.
    pub fn check(&self) -> Result<CheckReport> {
        self.open.refuse_in_child()?;
        if !self.open.read_only {
            // Only a checkpoint has a map that goes with its trees. After a failure, or while a
            // transaction runs, the last one is checked.
            match self.open.checkpoint_if_idle() {
                Ok(()) | Err(Error::Poisoned { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        let at = self.open.checkpointed();
        if at.map.is_none() {
            let why = "a database in memory is checked between write transactions, not during one";
            return Err(Error::BadOption(why.to_owned()));
        }
        with_pager!(&self.open.pager, pager => Check::new(pager, &at).run())
    }
}

struct Check<'c, P> {
    pager: &'c P,
    at: &'c Committed,
    report: CheckReport,
    reached: Bits,
    free: Bits,
    map_is_damaged: bool,
}

impl<'c, P: Pager> Check<'c, P> {
    fn new(pager: &'c P, at: &'c Committed) -> Self {
        // A damaged end is bounded by the file: the walk over the map reports it.
        let pages = at.map().end.min(pager.page_count());
        let report = CheckReport {
            end_pages: at.map().end,
            ..CheckReport::default()
        };
        Check {
            pager,
            at,
            report,
            reached: Bits::new(pages),
            free: Bits::new(pages),
            map_is_damaged: false,
        }
    }

    fn run(mut self) -> Result<CheckReport> {
        self.map();
        self.tree("catalogue", self.at.catalogue);
        // What cannot be read of the catalogue's pages is found already; the tables behind it are
        // gone through all the same.
        let mut no_tables = Vec::new();
        let tables = salvage::tables(self.pager, self.at.catalogue, &mut |finding| {
            no_tables.push(finding);
        });
        let known = &self.report.findings;
        let is_new = |finding: &Finding| known.iter().all(|known| known.finding != *finding);
        no_tables.retain(is_new);
        let place = "catalogue".to_owned();
        let no_tables = no_tables.into_iter().map(|finding| CheckFinding {
            place: place.clone(),
            finding,
        });
        self.report.findings.extend(no_tables);
        for (name, root) in tables {
            self.report.tables += 1;
            self.report.entries += self.tree(&format!("{name:?}"), root);
        }
        self.compare();
        Ok(self.report)
    }

    fn map(&mut self) {
        let place = "allocation map";
        let (pager, root) = (self.pager, self.at.map());
        let (mut twice, mut damaged) = (Vec::new(), false);
        let (report, reached, free) = (&mut self.report, &mut self.reached, &mut self.free);
        space::walk(pager, root, &mut |found| match found {
            Found::Page(page, _) => {
                if !reached.insert(page.id) {
                    twice.push(page.id);
                }
            }
            Found::Free(pages) => pages.for_each(|number| {
                free.insert(PageId::new(number));
            }),
            Found::Damage { path, error, hides } => {
                damaged = true;
                let page = match &error {
                    PagerError::Corrupt { page, .. } => *page,
                    _ => PageId::new(0),
                };
                let what = format!("{error}; it is for pages {} to {}", hides.start, hides.end);
                let finding = Finding {
                    path: path.to_vec(),
                    page,
                    what,
                    lost: None,
                };
                report.findings.push(CheckFinding {
                    place: place.to_owned(),
                    finding,
                });
            }
        });
        self.map_is_damaged = damaged;
        for page in twice {
            self.find(place, page, "the page is reached a second time".to_owned());
        }
    }

    /// Returns how many entries were found.
    fn tree(&mut self, place: &str, root: btree::Root) -> u64 {
        let mut twice = Vec::new();
        let reached = &mut self.reached;
        let report = btree::check(self.pager, root, &mut |page, _| {
            if !reached.insert(page.id) {
                twice.push(page.id);
            }
        });
        let found = report.findings.into_iter();
        self.report
            .findings
            .extend(found.map(|finding| CheckFinding {
                place: place.to_owned(),
                finding,
            }));
        for page in twice {
            self.find(place, page, "the page is reached a second time".to_owned());
        }
        report.entries
    }

    /// Every page below the end is reached or free, and not both.
    fn compare(&mut self) {
        let first = first_page(self.pager.geometry()).get();
        // What hangs below damage is no damage of its own.
        let hides = |found: &CheckFinding| found.finding.lost.is_some();
        let is_hidden = self.map_is_damaged || self.report.findings.iter().any(hides);
        for number in first..self.reached.len() {
            let page = PageId::new(number);
            match (self.reached.contains(page), self.free.contains(page)) {
                (true, false) => self.report.reached_pages += 1,
                (false, true) => self.report.free_pages += 1,
                (true, true) => self.find("allocation map", page, "in use, but free".to_owned()),
                (false, false) if is_hidden => self.report.hidden_pages += 1,
                (false, false) => {
                    self.find("allocation map", page, "neither in use nor free".to_owned());
                }
            }
        }
    }

    fn find(&mut self, place: &str, page: PageId, what: String) {
        let finding = Finding {
            path: Vec::new(),
            page,
            what,
            lost: None,
        };
        self.report.findings.push(CheckFinding {
            place: place.to_owned(),
            finding,
        });
    }
}

/// A set of page numbers below a bound.
struct Bits {
    words: Vec<u64>,
    len: u64,
}

impl Bits {
    fn new(len: u64) -> Self {
        Bits {
            words: vec![0; len.div_ceil(64) as usize],
            len,
        }
    }

    fn len(&self) -> u64 {
        self.len
    }

    fn contains(&self, page: PageId) -> bool {
        let number = page.get();
        number < self.len && self.words[(number / 64) as usize] >> (number % 64) & 1 == 1
    }

    /// Says whether the page was not there before. One past the bound is never kept.
    fn insert(&mut self, page: PageId) -> bool {
        let fresh = !self.contains(page);
        let number = page.get();
        if number < self.len {
            self.words[(number / 64) as usize] |= 1 << (number % 64);
        }
        fresh
    }
}
