//! Pages that are not what they should be, past every checksum.

use bifolio_pager::page::SELF_REF;
use bifolio_pager::{Kind, PageId, PageSize, Pager};

use super::rigged::{Rig, Rigged};
use super::small_pages;
use crate::node::{Branch, Layout, Leaf, LeafRef, View, cell_offset};
use crate::testkit::model::{Model, assert_same};
use crate::testkit::{Dice, TestSource};
use crate::{Error, Root, Tree, TreeMut, check, retire_all};

/// A tree of two branch levels, a few leaves and a value on several pages.
fn small_tree(pager: &Rigged) -> (Root, Model, Vec<PageId>) {
    let mut source = TestSource::new(pager);
    let mut root = Root::default();
    let mut model = Model::new();
    let mut tree = TreeMut::new(pager, &mut source, &mut root);
    for number in 0..24u8 {
        let mut key = vec![b'k'; 900];
        key.extend([number, 1]);
        let value = vec![number; usize::from(number) * 10];
        tree.insert(&key, &value).unwrap();
        model.insert(key, value);
    }
    tree.insert(b"large", &[5; 14_000]).unwrap();
    model.insert(b"large".to_vec(), vec![5; 14_000]);
    tree.insert(b"small", b"5").unwrap();
    model.insert(b"small".to_vec(), b"5".to_vec());
    source.commit().unwrap();
    assert!(root.depth == 3, "{root:?}");
    let pages = source.live().into_iter().collect();
    (root, model, pages)
}

fn report_of(pager: &Rigged, root: Root) -> crate::Report {
    check(pager, root, &mut |_, _| {})
}

/// Reads everything there is to read; errors are fine, panics are not.
fn read_all(tree: Tree<'_, Rigged>, model: &Model) {
    let mut value = Vec::new();
    for key in model.keys() {
        let _ = tree.get_into(key, &mut value);
        let _ = tree.contains_key(key);
    }
    let _ = tree.get_many(&model.keys().collect::<Vec<_>>(), |_, _| {});
    for _ in tree.iter().take(100) {}
    for _ in tree.iter().rev().take(100) {}
    for _ in tree.range(&b"k"[..]..&b"l"[..]).take(100) {}
}

/// Bytes of a page that only a checksum can vouch for: keys (but for their heads) and values.
fn unproven<L: Layout>(page: &[u8], level: u8) -> Vec<bool> {
    let node = View::<L>::parse(page, level).unwrap();
    let mut unproven = vec![false; page.len()];
    for (index, slot) in node.slots().iter().enumerate() {
        let start = cell_offset(slot);
        let len = L::cell_len(node.cell(index).unwrap()).unwrap();
        unproven[start..start + len].fill(true);
    }
    unproven
}

#[test]
fn every_flipped_byte_that_the_tree_can_prove_wrong_is_found() {
    let pager = Rigged::new(small_pages(), 4);
    let (root, model, pages) = small_tree(&pager);
    assert!(report_of(&pager, root).is_clean());
    let mut dice = Dice::new(3);
    for &id in &pages {
        pager.rig(Rig::Nothing);
        let mut image = Vec::new();
        let mut at = None;
        check(&pager, root, &mut |page, _| {
            if page.id == id {
                at = Some(page);
            }
        });
        image.extend_from_slice(&pager.read(at.unwrap()).unwrap());
        let unproven = match Kind::of(&image).unwrap() {
            Kind::Leaf => unproven::<Leaf>(&image, 0),
            Kind::Branch => unproven::<Branch>(&image, image[13]),
            _ => (0..image.len())
                .map(|offset| offset >= 36 && image[offset] != 0)
                .collect(),
        };
        for offset in SELF_REF.end..image.len() {
            // Gap, keys and values are long and all alike.
            let dull = image[offset] == 0 || unproven[offset];
            if dull && offset > 80 && !dice.one_in(200) {
                continue;
            }
            let bits = 1 << dice.below(8);
            pager.rig(Rig::Flip(id, offset, bits));
            let found = !report_of(&pager, root).is_clean();
            assert!(
                found || unproven[offset],
                "page {id} byte {offset} bits {bits}"
            );
            if dice.one_in(20) || offset < 40 {
                read_all(Tree::new(&pager, root), &model);
            }
        }
    }
}

#[test]
fn a_damaged_tree_is_changed_without_a_panic() {
    let mut dice = Dice::new(4);
    for _ in 0..250 {
        let pager = Rigged::new(small_pages(), 4);
        let (mut root, model, pages) = small_tree(&pager);
        pager.grow(600).unwrap();
        let mut source = Careless(200);
        let keys: Vec<&Vec<u8>> = model.keys().collect();
        for _ in 0..20 {
            let offset = match dice.one_in(2) {
                true => 12 + dice.below(50),
                false => 12 + dice.below(PageSize::DEFAULT.usable() - 12),
            };
            pager.rig(Rig::Flip(
                pages[dice.below(pages.len())],
                offset,
                1 << dice.below(8),
            ));
            let key = keys[dice.below(keys.len())];
            let mut tree = TreeMut::new(&pager, &mut source, &mut root);
            let _ = match dice.below(3) {
                0 => tree.remove(key),
                1 => tree.insert(key, &vec![3; dice.below(5000)]),
                _ => tree.insert(&[&key[..], b"x"].concat(), &vec![3; dice.below(900)]),
            };
        }
        let _ = retire_all(&pager, &mut source, root);
    }
}

/// A page source that believes all it is told, as no other should.
struct Careless(u64);

impl crate::PageSource for Careless {
    fn version(&self) -> bifolio_pager::Version {
        bifolio_pager::Version::new(50)
    }

    fn allocate(&mut self) -> bifolio_pager::Result<PageId> {
        self.0 += 1;
        Ok(PageId::new(self.0))
    }

    fn retire(&mut self, _: bifolio_pager::PageRef) -> bifolio_pager::Result<()> {
        Ok(())
    }
}

#[test]
fn a_page_that_vanishes_while_it_is_read_is_an_error_and_no_answer() {
    let pager = Rigged::new(small_pages(), 4);
    let (root, model, _) = small_tree(&pager);
    let tree = Tree::new(&pager, root);
    let large = &b"large"[..];
    for reads in 0..3 {
        let vanish = || pager.rig(Rig::Vanish(reads));
        for key in model.keys() {
            vanish();
            let error = tree.get(key).unwrap_err();
            assert!(error.to_string().contains("vanished"), "{error}");
            vanish();
            assert!(tree.get_with(key, |_| ()).is_err());
            vanish();
            assert!(tree.contains_key(key).is_err());
            vanish();
            assert!(tree.range(&key[..]..).next().unwrap().is_err());
            vanish();
            assert!(tree.range(..=&key[..]).next_back().unwrap().is_err());
            vanish();
            assert!(
                tree.get_many(&[key], |_, _| panic!("nothing is known"))
                    .is_err()
            );
        }
    }
    for reads in 3..7 {
        pager.rig(Rig::Vanish(reads));
        assert!(
            tree.get(large).is_err(),
            "page {reads} on the way is of the value"
        );
    }
    pager.rig(Rig::Nothing);
    assert_same(tree, &model);
}

#[test]
fn a_blank_page_is_reported_with_the_path_to_it() {
    let pager = Rigged::new(small_pages(), 4);
    let (root, model, pages) = small_tree(&pager);
    for page in pages {
        pager.rig(Rig::Blank(page));
        let report = report_of(&pager, root);
        let finding = &report.findings[0];
        assert_eq!(finding.page, page);
        let top = root.page.unwrap().id;
        assert_eq!(finding.path.first().copied().unwrap_or(page), top);
        read_all(Tree::new(&pager, root), &model);
    }
}

#[test]
fn a_cursor_that_met_an_error_stands_nowhere_until_it_seeks() {
    let pager = Rigged::new(small_pages(), 4);
    let (root, _, _) = small_tree(&pager);
    let mut cursor = Tree::new(&pager, root).cursor();
    pager.rig(Rig::Vanish(2));
    assert!(cursor.next().is_err());
    pager.rig(Rig::Nothing);
    assert_eq!(cursor.next().unwrap(), None);
    cursor.seek_first().unwrap();
    assert!(cursor.next().unwrap().is_some());
}

#[test]
fn a_wrong_count_of_entries_is_found() {
    let pager = Rigged::new(small_pages(), 4);
    let (mut root, _, _) = small_tree(&pager);
    root.entries += 1;
    let report = report_of(&pager, root);
    assert!(report.findings[0].what.contains("entries"), "{report:?}");
}

#[test]
fn a_root_that_leads_elsewhere_is_an_error() {
    let pager = Rigged::new(small_pages(), 4);
    let (good, _, _) = small_tree(&pager);
    for depth in [0, 1, 2, 4, 32, 255] {
        let root = Root { depth, ..good };
        let error = Tree::new(&pager, root).get(b"small").unwrap_err();
        assert!(matches!(
            error,
            Error::Pager(bifolio_pager::Error::Corrupt { .. })
        ));
        assert!(!report_of(&pager, root).is_clean());
    }
    let page = good.page.unwrap();
    for id in [0, 1, page.id.get() + 1000, PageId::MAX.get()] {
        let page = bifolio_pager::PageRef {
            id: PageId::new(id),
            ..page
        };
        let root = Root {
            page: Some(page),
            ..good
        };
        assert!(Tree::new(&pager, root).get(b"small").is_err());
        assert!(!report_of(&pager, root).is_clean());
    }
}

#[test]
fn any_bytes_are_a_leaf_or_an_error() {
    let mut dice = Dice::new(5);
    for _ in 0..2000 {
        let mut page: Vec<u8> = (0..4088).map(|_| dice.roll() as u8).collect();
        // Close enough to a leaf to be taken for one now and then.
        page[12..18].copy_from_slice(&[2, 0, dice.roll() as u8 % 64, 0, dice.roll() as u8, 0]);
        page[18..20].copy_from_slice(&(3000u16 + dice.roll() as u16 % 1200).to_le_bytes());
        if let Ok(leaf) = LeafRef::parse(&page, 0) {
            for index in 0..leaf.count() + 2 {
                let _ = (leaf.key(index).map(|key| key.len()), leaf.payload(index));
            }
            let _ = leaf.find(b"some key that is long enough for any prefix there can be here");
            let _ = leaf.items();
        }
        crate::dump(&page);
        crate::check::layout_damage(&page);
    }
}
