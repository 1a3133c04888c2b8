//! The bytes of pages, as they stand in files.

use bifolio_pager::page::SELF_REF;
use bifolio_pager::{PageId, PageRef, PageSize, Version};

use crate::check::layout_damage;
use crate::dump;
use crate::node::{Branch, Edit, Item, Key, Layout, Leaf, LeafRef, Overflow, Value, build};

fn page_ref(id: u64, version: u64) -> PageRef {
    PageRef {
        id: PageId::new(id),
        version: Version::new(version),
    }
}

fn empty_page() -> Vec<u8> {
    let mut page = vec![0; PageSize::DEFAULT.usable()];
    page[SELF_REF].copy_from_slice(&page_ref(0x21, 5).encode());
    page
}

fn item<'a, L: Layout>(key: &'a [u8], payload: L::Payload<'a>) -> Item<'a, L> {
    Item {
        key: Key::whole(key),
        payload,
    }
}

/// All bytes that are not zero lie in these pieces of the page.
fn assert_bytes(page: &[u8], pieces: &[(usize, &[u8])]) {
    let mut expected = vec![0; page.len()];
    for (offset, bytes) in pieces {
        expected[*offset..offset + bytes.len()].copy_from_slice(bytes);
    }
    for (offset, (found, expected)) in page.iter().zip(&expected).enumerate() {
        assert_eq!(found, expected, "byte {offset} of\n{}", dump(page));
    }
}

fn golden_leaf() -> Vec<u8> {
    let mut page = empty_page();
    let chain = Overflow {
        len: 0x1_2345,
        first: page_ref(0x31, 4),
    };
    let items = [
        item::<Leaf>(b"user:1", Value::Inline(b"Ada")),
        item::<Leaf>(b"user:10000", Value::Overflow(chain)),
    ];
    build(&mut page, 0, None, b"user:", &items).unwrap();
    page
}

#[test]
#[rustfmt::skip]
fn a_leaf_has_these_bytes() {
    assert_bytes(&golden_leaf(), &[
        (0, &[0x21, 0, 0, 0, 0, 0]),          // the page's own number
        (6, &[5, 0, 0, 0, 0, 0]),             // its version
        (12, &[2]),                           // a leaf
        (13, &[0]),                           // level 0
        (14, &[2, 0]),                        // two cells
        (16, &[5, 0]),                        // the prefix has five bytes
        (18, &[0xd7, 0x0f]),                  // cells start at 4055
        (20, &[0, 0]),                        // no dead bytes
        (24, b"user:"),                       // the prefix
        (29, &[0, 0, 0, b'1', 0xd7, 0x0f]),   // "1", zero padded; its cell at 4055
        (35, b"0001"), (39, &[0xdf, 0x0f]),   // "1000" of "10000"; its cell at 4063
        (4055, &[1, 0, 3, 0]),                // a suffix of one byte, a value of three
        (4059, b"1"), (4060, b"Ada"),
        (4063, &[5, 0, 0xff, 0xff]),          // a suffix of five bytes, a value that overflows
        (4067, b"10000"),
        (4072, &[0x45, 0x23, 0x01, 0]),       // 0x12345 bytes, the first of them
        (4076, &[0x31, 0, 0, 0, 0, 0]),       // on this page
        (4082, &[4, 0, 0, 0, 0, 0]),          // of this version
    ]);
}

#[test]
#[rustfmt::skip]
fn a_branch_has_these_bytes() {
    let mut page = empty_page();
    let items = [
        item::<Branch>(b"ka", page_ref(0x42, 3)),
        item::<Branch>(b"kbcdef", page_ref(0x43, 5)),
    ];
    build(&mut page, 1, Some(page_ref(0x41, 2)), b"k", &items).unwrap();
    assert_bytes(&page, &[
        (0, &[0x21, 0, 0, 0, 0, 0]),          // the page's own number
        (6, &[5, 0, 0, 0, 0, 0]),             // its version
        (12, &[1]),                           // a branch
        (13, &[1]),                           // one step above the leaves
        (14, &[2, 0]),                        // two cells
        (16, &[1, 0]),                        // the prefix has one byte
        (18, &[0xd6, 0x0f]),                  // cells start at 4054
        (24, &[0x41, 0, 0, 0, 0, 0]),         // the leftmost child
        (30, &[2, 0, 0, 0, 0, 0]),            // and its version
        (36, b"k"),                           // the prefix
        (37, &[0, 0, 0, b'a', 0xd6, 0x0f]),   // "a", zero padded; its cell at 4054
        (43, b"edcb"), (47, &[0xe5, 0x0f]),   // "bcde" of "bcdef"; its cell at 4069
        (4054, &[0x42, 0, 0, 0, 0, 0]),       // the child for "ka" and up
        (4060, &[3, 0, 0, 0, 0, 0]),
        (4066, &[1, 0]), (4068, b"a"),        // a suffix of one byte
        (4069, &[0x43, 0, 0, 0, 0, 0]),       // the child for "kbcdef" and up
        (4075, &[5, 0, 0, 0, 0, 0]),
        (4081, &[5, 0]), (4083, b"bcdef"),
    ]);
}

#[test]
fn a_dump_shows_what_the_page_holds() {
    let text = dump(&golden_leaf());
    assert_eq!(
        text,
        "page 33 version 5: Leaf level 0 count 2 cells_start 4055 dead 0 prefix \"user:\"\n     \
         0  head 31000000  at  4055  \"1\" = \"Ada\"\n     \
         1  head 31303030  at  4063  \"10000\" = 74565 bytes from p49@v4 on\n"
    );
    for len in [0, 1, 23, 24, 40, 4088] {
        for fill in 0..=255 {
            dump(&vec![fill; len]);
        }
    }
}

#[test]
fn removed_entries_leave_zeros_and_room() {
    let mut page = golden_leaf();
    let mut leaf = Edit::<Leaf>::new(&mut page, 0).unwrap();
    leaf.remove(1).unwrap();
    assert_eq!(layout_damage(&page), None);
    assert!(
        page[4063..].iter().all(|&byte| byte == 0),
        "no trace is left"
    );
    let leaf = LeafRef::parse(&page, 0).unwrap();
    assert_eq!((leaf.count(), leaf.used()), (1, 5 + 6 + 8));
}

#[test]
fn a_full_page_is_compacted_before_it_is_said_to_be_full() {
    let mut page = empty_page();
    build::<Leaf>(&mut page, 0, None, b"", &[]).unwrap();
    let mut leaf = Edit::<Leaf>::new(&mut page, 0).unwrap();
    let value = Value::Inline(&[7; 90]);
    let mut count = 0;
    while leaf
        .insert(count, Key::whole(&(count as u16).to_be_bytes()), &value)
        .unwrap()
    {
        count += 1;
    }
    for index in (0..count).step_by(2).collect::<Vec<_>>().into_iter().rev() {
        leaf.remove(index).unwrap();
    }
    let longer = Value::Inline(&[8; 150]);
    assert!(leaf.insert(0, Key::whole(b""), &longer).unwrap());
    assert_eq!(layout_damage(&page), None);
    let leaf = LeafRef::parse(&page, 0).unwrap();
    assert_eq!(leaf.find(b"").unwrap(), Some(longer));
    assert_eq!(leaf.find(&[0, 1]).unwrap(), Some(value));
    assert_eq!(leaf.find(&[0, 2]).unwrap(), None);
}
