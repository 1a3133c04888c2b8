use bifolio_pager::PageSize;

use super::{even_numbers, insert_all, pager, small_pages};
use crate::testkit::TestSource;
use crate::testkit::model::{Model, assert_same, assert_sound};
use crate::{Error, MAX_VALUE_LEN, Root, Tree, TreeMut, max_key_len};

#[test]
fn a_key_over_the_limit_is_refused_and_changes_nothing() {
    for page_size in PageSize::ALL {
        let pager = pager(page_size);
        let mut source = TestSource::new(&pager);
        let mut root = Root::default();
        let mut tree = TreeMut::new(&pager, &mut source, &mut root);
        let max = max_key_len(page_size);
        tree.insert(&vec![1; max], b"fits").unwrap();
        let error = tree.insert(&vec![1; max + 1], b"").unwrap_err();
        assert!(matches!(error, Error::KeyTooLong { len, .. } if len == max + 1));
        assert_eq!(tree.as_tree().len(), 1);
        // A look-up of such a key is no error: there is nothing under it.
        assert_eq!(tree.as_tree().get(&vec![1; max + 1]).unwrap(), None);
        assert!(!tree.remove(&vec![1; max + 1]).unwrap());
        assert_sound(&pager, root);
    }
}

#[test]
fn a_value_over_the_limit_is_refused_and_changes_nothing() {
    let pager = small_pages();
    let mut source = TestSource::new(&pager);
    let mut root = Root::default();
    let value = vec![0; MAX_VALUE_LEN + 1];
    let error = TreeMut::new(&pager, &mut source, &mut root)
        .insert(b"key", &value)
        .unwrap_err();
    assert!(matches!(
        error,
        Error::ValueTooLong {
            max: MAX_VALUE_LEN,
            ..
        }
    ));
    assert_eq!(root, Root::default());
    assert!(source.live().is_empty());
}

#[test]
fn values_of_every_length_around_the_edges_come_back() {
    let pager = small_pages();
    let mut source = TestSource::new(&pager);
    let mut root = Root::default();
    let page = PageSize::DEFAULT.usable();
    let payload = page - 36;
    let edges = [
        0,
        1,
        page / 4,
        payload,
        2 * payload,
        3 * payload,
        20 * payload,
    ];
    let lens = edges
        .into_iter()
        .flat_map(|edge| edge.saturating_sub(30)..edge + 30);
    let model: Model = lens
        .map(|len| (len.to_be_bytes().to_vec(), vec![len as u8 | 1; len]))
        .collect();
    insert_all(&pager, &mut source, &mut root, &model);
    assert_eq!(assert_sound(&pager, root), source.live());
    assert_same(Tree::new(&pager, root), &model);
}

#[test]
fn ascending_inserts_fill_their_pages() {
    let pager = small_pages();
    let mut source = TestSource::new(&pager);
    let mut root = Root::default();
    let model = even_numbers(3000, 100);
    insert_all(&pager, &mut source, &mut root, &model);
    assert_sound(&pager, root);
    let bytes = model.len() * (4 + 6 + 8 + 100);
    let pages = source.live().len();
    let least = bytes / PageSize::DEFAULT.usable();
    assert!(
        pages <= least + least / 10,
        "{pages} pages, {least} at least"
    );
}

#[test]
fn replacing_a_value_by_one_of_its_length_splits_nothing() {
    let pager = small_pages();
    let mut source = TestSource::new(&pager);
    let mut root = Root::default();
    let model = even_numbers(1000, 100);
    insert_all(&pager, &mut source, &mut root, &model);
    let pages = source.live();
    let other: Model = model
        .keys()
        .map(|key| (key.clone(), vec![7; 100]))
        .collect();
    insert_all(&pager, &mut source, &mut root, &other);
    assert_eq!(source.live(), pages);
    assert_same(Tree::new(&pager, root), &other);
}

#[test]
fn an_older_root_reads_what_it_always_did() {
    let pager = small_pages();
    let mut source = TestSource::new(&pager);
    let mut root = Root::default();
    let model = even_numbers(2000, 50);
    insert_all(&pager, &mut source, &mut root, &model);
    source.commit().unwrap();
    let before = root;
    let mut tree = TreeMut::new(&pager, &mut source, &mut root);
    for key in model.keys().step_by(3) {
        tree.remove(key).unwrap();
    }
    tree.clear().unwrap();
    assert_same(Tree::new(&pager, before), &model);
    assert_eq!(root, Root::default());
    assert!(source.live().is_empty(), "all that was reached is retired");
}

#[test]
fn removing_what_is_not_there_copies_no_page() {
    let pager = small_pages();
    let mut source = TestSource::new(&pager);
    let mut root = Root::default();
    insert_all(&pager, &mut source, &mut root, &even_numbers(500, 50));
    source.commit().unwrap();
    let (before, pages) = (root, source.live());
    let mut tree = TreeMut::new(&pager, &mut source, &mut root);
    assert!(!tree.remove(b"absent").unwrap());
    assert_eq!((root, source.live()), (before, pages));
}
