//! Any bytes as the pages of a tree: `check`, look-ups and scans, forward and back. Checksums and
//! stamps are right, as if a bug had written the pages. Oracle: an error or an answer, no panic; and
//! where `check` finds nothing wrong, no error.

#![no_main]

use arbitrary::Arbitrary;
use bifolio_btree::{Root, Tree, check, dump};
use bifolio_pager::page::SELF_REF;
use bifolio_pager::{Geometry, MemPager, PageRef, PageSize, Pager, Version, first_page};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
struct Input {
    depth: u8,
    entries: u16,
    keys: Vec<Vec<u8>>,
    /// Each page's bytes from behind its own number on: what follows is zero, but for a `tail`.
    pages: Vec<(Vec<u8>, Vec<u8>)>,
}

fuzz_target!(|input: Input| {
    let geometry = Geometry {
        page_size: PageSize::DEFAULT,
        seed: 1,
    };
    let pager = MemPager::volatile(geometry);
    let first = first_page(geometry);
    let version = Version::new(1);
    let count = input.pages.len().min(8) as u64;
    if count == 0 || pager.grow(first.get() + count).is_err() {
        return;
    }
    for (index, (head, tail)) in input.pages.iter().take(8).enumerate() {
        let at = PageRef {
            id: first.plus(index as u64),
            version,
        };
        let mut page = pager.create(at).expect("a new page");
        let body = &mut page[SELF_REF.end..];
        let head_len = head.len().min(body.len());
        body[..head_len].copy_from_slice(&head[..head_len]);
        let tail_len = tail.len().min(body.len() - head_len);
        let start = body.len() - tail_len;
        body[start..].copy_from_slice(&tail[..tail_len]);
        let _ = dump(&page);
        drop(page);
        pager.seal(&[at]).expect("it was just created");
    }
    let top = PageRef { id: first, version };
    let root = Root {
        page: Some(top),
        depth: input.depth % 40,
        entries: u64::from(input.entries),
    };
    let Ok(root) = Root::decode(&root.encode()) else {
        return;
    };
    let sound = check(&pager, root, &mut |_, _| {}).is_clean();
    let tree = Tree::new(&pager, root);
    for key in input.keys.iter().take(8) {
        let got = tree.get(key);
        assert!(!sound || got.is_ok(), "{got:?} in a sound tree");
    }
    let forward = tree.iter().take(10_000).take_while(Result::is_ok).count();
    let back = tree
        .iter()
        .rev()
        .take(10_000)
        .take_while(Result::is_ok)
        .count();
    if sound {
        assert_eq!((forward as u64, back as u64), (root.entries, root.entries));
    }
});
