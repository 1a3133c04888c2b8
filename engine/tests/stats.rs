//! One struct of counts, under every pager.

mod common;

use bifolio::{Database, Durability};
use common::{options, pagers, scratch};

#[test]
fn the_counts_have_the_same_fields_under_every_pager_and_agree_with_what_was_done() {
    for (name, choice) in pagers(4096) {
        let (_directory, path) = scratch();
        let db = options(&choice).create(&path).unwrap();
        let empty = db.stats().unwrap();
        assert_eq!(
            empty.log, None,
            "{name}: there is no log before the first write"
        );
        for index in 0..10_u32 {
            let mut txn = db.write().unwrap();
            txn.table("t")
                .unwrap()
                .insert(index.to_be_bytes(), "value")
                .unwrap();
            txn.commit_with(Durability::Sync).unwrap();
        }
        db.checkpoint().unwrap();
        let stats = db.stats().unwrap();
        let log = stats.log.unwrap();
        assert_eq!(log.commits, 10, "{name}");
        assert_eq!(
            stats.commits_per_sync(),
            Some(log.commits as f64 / log.groups as f64)
        );
        assert_eq!(stats.version, stats.durable_version, "{name}");
        assert_eq!(stats.version, stats.checkpointed_version, "{name}");
        assert!(stats.checkpoints.completed >= 1, "{name}");
        assert!(
            stats.pager.pages_created > empty.pager.pages_created,
            "{name}"
        );
        assert_eq!(stats.failure, None);
        assert_eq!(stats.recovery, None);
        assert_eq!(
            stats.hit_ratio().is_none(),
            name.starts_with("mmap"),
            "{name}"
        );
        // The same lines in the same order, whatever the pager knows.
        let names = |text: String| -> Vec<String> {
            text.lines()
                .map(|line| line[..28].trim().to_owned())
                .collect()
        };
        let in_memory = Database::in_memory().unwrap().stats().unwrap();
        assert_eq!(
            names(stats.to_string()),
            names(in_memory.to_string()),
            "{name}"
        );
    }
}
