use std::{fs::File, path::Path};

use memtrace_common::{stack::CUT_NO_ROW, unwind::FileKey};

use super::*;
use crate::unwind::pages;

fn open(id: u32, path: &str) -> Object {
    Object::new(
        ObjectId(id),
        FileKey::default(),
        Path::new(path).into(),
        Ok(File::open(path).unwrap()),
    )
}

const LIBC: &str = "/lib/x86_64-linux-gnu/libc.so.6";
const LINKER: &str = "/lib64/ld-linux-x86-64.so.2";

/// Every row of the object is found through the probe's arrays, at its beginning and at its end.
fn assert_readable(tables: &Tables<Vec<u64>>, object: &Object, loaded: &wire::Object) {
    let built = ObjectRows::build(object).unwrap();
    let pages = &tables.pages.words[loaded.page_base as usize..][..loaded.page_count as usize];
    for &row in &built.rows {
        let rel = wire::row_rel(row);
        for rel in [rel, rel.saturating_sub(1)] {
            assert_eq!(
                pages::lookup(&tables.rows.words, pages, rel),
                built.lookup(rel),
                "at {rel:#x}"
            );
        }
    }
}

#[test]
fn objects_are_found_side_by_side() {
    let mut tables = Tables::new(vec![0; 100_000], vec![0; 10_000]);
    let (libc, linker) = (open(1, LIBC), open(2, LINKER));
    let loaded = [tables.load(&libc), tables.load(&linker)];
    assert_eq!(tables.load(&libc), loaded[0], "an object is loaded once");
    assert_readable(&tables, &libc, &loaded[0]);
    assert_readable(&tables, &linker, &loaded[1]);
}

#[test]
fn an_object_that_finds_no_room_says_so() {
    let mut tables = Tables::new(vec![0; 29_000], vec![0; 10_000]);
    let (libc, linker) = (open(1, LIBC), open(2, LINKER));
    tables.load(&libc);
    let full = tables.load(&linker);
    assert_eq!(
        (full.page_count, full.reason, full.id),
        (0, CUT_TABLE_FULL.into(), 2)
    );
    assert_ne!(full.segments[0].size, 0, "it can be placed all the same");
    assert_eq!(tables.load(&linker), full);
}

#[test]
fn an_object_without_rows_has_a_reason() {
    let mut tables = Tables::new(vec![0; 10], vec![0; 10]);
    let loaded = tables.load(&open(1, "/etc/passwd"));
    assert_eq!((loaded.page_count, loaded.reason), (0, CUT_NO_ROW.into()));
}
