//! What all parts of a database count, in one place.

use std::fmt;

use bifolio_pager::{Counters, Version};

use crate::log::LogCounters;
use crate::pace::CheckpointCounters;
use crate::recovery::RecoveryReport;

/// The state and the counts of an open database; see [`Database::stats`](crate::Database::stats).
///
/// The fields are the same under every pager. `None` stands for what does not apply to the pager
/// that runs, or what it cannot know, as a map does not see the kernel's reads. Counts begin when the
/// database is opened; two looks and a subtraction give a rate.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Stats {
    /// What really runs, in words: the pager, its I/O, its size.
    pub backend: String,
    /// Bytes in a page.
    pub page_bytes: u64,
    /// Pages that the file has room for, free ones included.
    pub file_pages: u64,
    /// The newest version that readers see.
    pub version: Version,
    /// The newest version that survives a loss of power.
    pub durable_version: Version,
    /// The newest version that needs no log to survive.
    pub checkpointed_version: Version,
    /// The failure after which nothing is written any more, if there was one.
    pub failure: Option<String>,
    /// What the pager counted.
    pub pager: Counters,
    /// What the redo log counted; `None` until the first write transaction makes it.
    pub log: Option<LogCounters>,
    /// What the checkpoints counted.
    pub checkpoints: CheckpointCounters,
    /// What recovery found when the database was opened, if there was something to recover.
    pub recovery: Option<RecoveryReport>,
}

impl Stats {
    /// The share of page reads that found their page in memory; not known of a map.
    pub fn hit_ratio(&self) -> Option<f64> {
        let (hits, read) = (self.pager.hits?, self.pager.pages_read?);
        let all = hits + read;
        (all > 0).then(|| hits as f64 / all as f64)
    }

    /// Commits for each sync of the log: how much they share.
    pub fn commits_per_sync(&self) -> Option<f64> {
        let log = self.log.as_ref()?;
        (log.groups > 0).then(|| log.commits as f64 / log.groups as f64)
    }
}

/// One line for each count, `n/a` where there is none.
impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = |name: &str, value: String| writeln!(f, "{name:<28} {value}");
        let or_not = |count: Option<u64>| count.map_or_else(|| "n/a".to_owned(), |n| n.to_string());
        let ratio =
            |share: Option<f64>| share.map_or_else(|| "n/a".to_owned(), |r| format!("{r:.3}"));
        line("backend", self.backend.clone())?;
        line(
            "file pages",
            format!("{} of {} bytes", self.file_pages, self.page_bytes),
        )?;
        line("version", self.version.to_string())?;
        line("durable version", self.durable_version.to_string())?;
        line(
            "checkpointed version",
            self.checkpointed_version.to_string(),
        )?;
        line(
            "failure",
            self.failure.clone().unwrap_or_else(|| "none".to_owned()),
        )?;
        let Counters {
            hits,
            pages_read,
            pages_prefetched,
            pages_written,
            write_calls,
            pages_stolen,
            waits_for_write,
            evictions,
            pages_verified,
            pages_created,
            overwrites_unread,
            syncs,
            frames,
            frames_used,
            frames_dirty,
            memory_bytes,
            ..
        } = self.pager;
        line("hit ratio", ratio(self.hit_ratio()))?;
        for (name, count) in [
            ("hits", hits),
            ("pages read", pages_read),
            ("pages prefetched", pages_prefetched),
            ("pages written", pages_written),
            ("write calls", write_calls),
            ("pages stolen", pages_stolen),
            ("waits for write", waits_for_write),
            ("evictions", evictions),
            ("pages verified", pages_verified),
            ("pages created", pages_created),
            ("overwrites unread", overwrites_unread),
            ("page syncs", syncs),
            ("frames", frames),
            ("frames used", frames_used),
            ("frames dirty", frames_dirty),
            ("pager memory bytes", memory_bytes),
            ("log commits", self.log.map(|log| log.commits)),
            ("log bytes written", self.log.map(|log| log.bytes_written)),
            ("log groups", self.log.map(|log| log.groups)),
            ("checkpoints", Some(self.checkpoints.completed)),
            ("checkpoint pages", Some(self.checkpoints.pages_written)),
            (
                "pages died unwritten",
                Some(self.checkpoints.pages_died_unwritten),
            ),
            ("writer waits", Some(self.checkpoints.writer_waits)),
            ("log bytes to replay", Some(self.checkpoints.log_bytes)),
            ("dirty bytes", Some(self.checkpoints.dirty_bytes)),
            (
                "commits recovered",
                self.recovery.map(|recovery| recovery.commits),
            ),
        ] {
            line(name, or_not(count))?;
        }
        line("commits per sync", ratio(self.commits_per_sync()))
    }
}
