use bifolio_pager::{PageSize, Pager};

use super::{even_numbers, pager, small_pages};
use crate::testkit::model::{Model, assert_same, assert_sound};
use crate::testkit::{Dice, TestSource};
use crate::{Error, Root, Tree, TreeMut, bulk_load, check, max_key_len};

fn long_keys(count: usize, page_size: PageSize) -> Model {
    let max = max_key_len(page_size);
    (0..count)
        .map(|number| {
            let mut key = vec![b'k'; max - 6];
            key.extend(format!("{number:06}").bytes());
            (key, vec![number as u8; number % 50])
        })
        .collect()
}

fn load(model: &Model, page_size: PageSize, fill: f64) {
    let pager = pager(page_size);
    let mut source = TestSource::new(&pager);
    let mut root = bulk_load(&pager, &mut source, model, fill).unwrap();
    assert_eq!(assert_sound(&pager, root), source.live());
    assert_same(Tree::new(&pager, root), model);

    // What was loaded is a tree like any other, in the same transaction and in a later one.
    let mut model = model.clone();
    change_half(&pager, &mut source, &mut root, &mut model, 1);
    source.commit().unwrap();
    change_half(&pager, &mut source, &mut root, &mut model, 2);
}

fn change_half<P: Pager>(
    pager: &P,
    source: &mut TestSource<'_, P>,
    root: &mut Root,
    model: &mut Model,
    seed: u64,
) {
    let mut dice = Dice::new(seed);
    let keys: Vec<Vec<u8>> = model.keys().cloned().collect();
    let mut tree = TreeMut::new(pager, source, root);
    for key in keys {
        if dice.one_in(2) {
            assert!(tree.remove(&key).unwrap());
            model.remove(&key);
        } else if dice.one_in(4) {
            let value = vec![1; dice.below(300)];
            assert!(tree.insert(&key, &value).unwrap());
            model.insert(key, value);
        }
    }
    assert_eq!(assert_sound(pager, *root), source.live());
    assert_same(Tree::new(pager, *root), model);
}

#[test]
fn a_loaded_tree_holds_what_was_loaded() {
    for count in [0, 1, 2, 30, 31, 2000] {
        load(&even_numbers(count, 100), PageSize::DEFAULT, 1.0);
    }
    load(&even_numbers(2000, 100), PageSize::DEFAULT, 0.5);
    load(&even_numbers(300, 100), PageSize::DEFAULT, 0.0);
    load(&even_numbers(60, 9000), PageSize::DEFAULT, 1.0);
    for page_size in PageSize::ALL {
        load(&even_numbers(3000, 30), page_size, 1.0);
    }
}

#[test]
fn keys_that_fit_only_with_their_prefix_are_loaded() {
    // The last page of a level has no right fence, so no prefix, and room for four such keys only.
    for count in (1..40).chain([500, 3000]) {
        load(&long_keys(count, PageSize::DEFAULT), PageSize::DEFAULT, 1.0);
    }
    load(&long_keys(2000, PageSize::ALL[1]), PageSize::ALL[1], 0.9);
}

#[test]
fn loading_fills_pages_and_writes_them_in_key_order() {
    let pager = small_pages();
    let mut source = TestSource::new(&pager);
    let model = even_numbers(5000, 100);
    let root = bulk_load(&pager, &mut source, &model, 1.0).unwrap();
    let mut leaves = Vec::new();
    let report = check(&pager, root, &mut |page, kind| {
        if kind == bifolio_pager::Kind::Leaf {
            leaves.push(page.id);
        }
    });
    assert!(report.is_clean());
    assert!(leaves.is_sorted(), "children are visited in key order");
    let room = report.leaves * PageSize::DEFAULT.usable() as u64;
    assert!(report.unused_bytes < room / 20, "{report:?}");
}

#[test]
fn a_load_that_is_refused_leaves_no_page() {
    let pager = small_pages();
    let mut source = TestSource::new(&pager);
    let mut entries: Vec<(Vec<u8>, Vec<u8>)> = even_numbers(5000, 100).into_iter().collect();
    entries[4000].1 = vec![1; 10_000];
    entries.push(entries[0].clone());
    let error = bulk_load(&pager, &mut source, entries.clone(), 1.0).unwrap_err();
    assert!(
        matches!(error, Error::NotSorted { position: 5000 }),
        "{error}"
    );
    assert!(source.live().is_empty());

    let last = entries.len() - 1;
    entries[last] = (vec![255; 5000], Vec::new());
    let error = bulk_load(&pager, &mut source, entries, 1.0).unwrap_err();
    assert!(
        matches!(error, Error::KeyTooLong { len: 5000, .. }),
        "{error}"
    );
    assert!(source.live().is_empty());

    let twice = [(b"a", b"1"), (b"a", b"2")];
    let error = bulk_load(&pager, &mut source, twice, 1.0).unwrap_err();
    assert!(matches!(error, Error::NotSorted { position: 1 }), "{error}");
    assert!(source.live().is_empty());
}

#[test]
fn loading_nothing_makes_an_empty_tree() {
    let pager = small_pages();
    let mut source = TestSource::new(&pager);
    let nothing: [(&[u8], &[u8]); 0] = [];
    assert_eq!(
        bulk_load(&pager, &mut source, nothing, 1.0).unwrap(),
        Root::default()
    );
}
