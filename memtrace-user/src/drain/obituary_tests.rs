//! Copies of code objects of every layout: decoded, and read as if they were memory.

use memtrace_common::{
    obituary::{BYTES_HEAD, LARGE, MAX_HEAD, ObituaryHeader, SMALL, Slots},
    stack::INSTR_UNKNOWN,
};
use proptest::prelude::*;
use zerocopy::IntoBytes as _;

use super::decode;
use crate::python::{
    code::{CodeLayout, LineFormat, NoLines},
    memory::Memory as _,
    obituary::Obituary,
};

const CODE: u64 = 0x7f00_0000_1000;
const FILE: u64 = 0x7f00_0000_2030;
const NAME: u64 = 0x7f00_0000_3000;
const LINES: u64 = 0x7f00_0000_4000;
const TYPE: u64 = 0x5555_0000_1000;

/// 3.8 (3.9 is equal), 3.10, 3.11, 3.12 (3.13 is equal).
fn layouts() -> [CodeLayout; 4] {
    let old = CodeLayout {
        code_type: TYPE,
        filename: 104,
        name: 112,
        qualname: None,
        first_line: 40,
        line_table: 120,
        lines: LineFormat::Lnotab,
        ascii_text: 48,
        wide_text: 72,
    };
    let in_3_11 = CodeLayout {
        filename: 112,
        name: 120,
        qualname: Some(128),
        first_line: 72,
        line_table: 136,
        lines: LineFormat::Locations,
        ..old
    };
    [
        old,
        CodeLayout {
            lines: LineFormat::Ranges,
            ..old
        },
        in_3_11,
        CodeLayout {
            first_line: 68,
            ascii_text: 40,
            wide_text: 56,
            ..in_3_11
        },
    ]
}

fn put(bytes: &mut [u8], at: u32, word: u64) {
    let at = at as usize;
    bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
}

fn head(layout: &CodeLayout) -> Vec<u8> {
    let mut bytes = vec![0; layout.head_size()];
    put(&mut bytes, 8, TYPE);
    put(&mut bytes, layout.first_line, 40);
    put(&mut bytes, layout.filename, FILE);
    put(&mut bytes, layout.shown_name(), NAME);
    put(&mut bytes, layout.line_table, LINES);
    bytes
}

/// A compact `str`: as narrow as its characters allow, or nearly.
fn text(text: &str, layout: &CodeLayout) -> Vec<u8> {
    let (width, ascii) = match text.chars().max() {
        Some('\u{10000}'..) => (4, false),
        Some('\u{80}'..) => (2, false),
        _ => (1, true),
    };
    let start = if ascii {
        layout.ascii_text
    } else {
        layout.wide_text
    };
    let mut bytes = vec![0; start as usize];
    put(&mut bytes, 16, text.chars().count() as u64);
    bytes[32] = width << 2 | 1 << 5 | u8::from(ascii) << 6;
    for character in text.chars() {
        bytes.extend(&u32::from(character).to_le_bytes()[..usize::from(width)]);
    }
    bytes
}

fn lines(table: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; BYTES_HEAD];
    put(&mut bytes, 16, table.len() as u64);
    bytes.extend(table);
    bytes
}

fn header() -> ObituaryHeader {
    ObituaryHeader {
        addr: CODE,
        stamp: 9,
        file: FILE,
        name: NAME,
        lines: LINES,
        tgid: 1,
        ..ObituaryHeader::default()
    }
}

fn obituary(layout: &CodeLayout, name: &str, table: &[u8]) -> Obituary {
    let (head, lines) = (head(layout), lines(table));
    let (file, name) = (text("/srv/app.py", layout), text(name, layout));
    Obituary::new(&header(), [&head, &file, &name, &lines])
}

#[test]
fn an_end_of_every_version_is_read() {
    for layout in layouts() {
        let table: &[u8] = match layout.lines {
            LineFormat::Lnotab => &[2, 1],
            LineFormat::Ranges => &[4, 1],
            LineFormat::Locations => &[0xd9, 0, 0],
        };
        let code = obituary(&layout, "Shop.sell", table).code(&layout).unwrap();
        assert_eq!((&*code.file, &*code.name), ("/srv/app.py", "Shop.sell"));
        assert_eq!(code.first_line, Some(40));
        assert_eq!(code.line(1), Some(41), "{:?}", layout.lines);
    }
}

#[test]
fn a_large_line_table_leaves_the_line_of_the_function() {
    let [.., layout] = layouts();
    let [mut head, file, name, mut lines] = [
        head(&layout),
        text("f.py", &layout),
        text("f", &layout),
        lines(&[]),
    ];
    put(&mut lines, 16, (LARGE.lines - BYTES_HEAD) as u64);
    let parts: [&[u8]; 4] = [&head, &file, &name, &lines];
    let code = Obituary::new(&header(), parts).code(&layout).unwrap();
    assert_eq!(code.no_lines(), Some(NoLines::NotCopied));
    assert_eq!(code.frame_line(3), Some(40));
    // One byte less would have been copied.
    put(&mut lines, 16, (LARGE.lines - BYTES_HEAD - 1) as u64);
    let parts: [&[u8]; 4] = [&head, &file, &name, &lines];
    assert!(Obituary::new(&header(), parts).code(&layout).is_err());
    // And what is of another type is no code object.
    put(&mut head, 8, TYPE + 8);
    let parts: [&[u8]; 4] = [&head, &file, &name, &lines];
    assert!(Obituary::new(&header(), parts).code(&layout).is_err());
}

#[test]
fn nothing_is_there_but_what_was_copied() {
    let [layout, ..] = layouts();
    let copy = obituary(&layout, "f", &[1, 2]);
    assert_eq!(copy.read(LINES + 32, 2).unwrap(), [1, 2]);
    assert_eq!(copy.read_some(LINES + 32, 1, 100).unwrap(), [1, 2]);
    assert_eq!(copy.read_some(LINES + 32, 1, 0).unwrap(), [1]);
    assert!(copy.read(LINES + 32, 3).is_err());
    assert!(copy.read_some(LINES + 32, 3, 100).is_err());
    assert!(copy.read(LINES + 34, 0).is_err() && copy.read(FILE - 1, 1).is_err());
    assert!(copy.read(u64::MAX, 1).is_err());
}

/// A record as the ring holds it.
fn record(slots: Slots, header: &ObituaryHeader, parts: [&[u8]; 4]) -> Vec<u8> {
    let mut bytes = header.as_bytes().to_vec();
    let sizes = [MAX_HEAD, slots.file, slots.name, slots.lines];
    for (part, slot) in parts.into_iter().zip(sizes) {
        let end = bytes.len() + slot;
        bytes.extend(part);
        bytes.resize(end, 0xaa);
    }
    bytes
}

proptest! {
    #[test]
    fn every_name_comes_through(
        name in "[a-z<>.]{0,60}|\\PC{0,60}",
        table in prop::collection::vec(any::<u8>(), 0..400),
        version in 0..4_usize,
        large: bool,
    ) {
        let layout = layouts()[version];
        let (head, file, name_bytes, lines) =
            (head(&layout), text("/srv/app.py", &layout), text(&name, &layout), lines(&table));
        let header = ObituaryHeader {
            head_size: head.len() as u32,
            file_size: file.len() as u32,
            name_size: name_bytes.len() as u32,
            lines_size: lines.len() as u32,
            ..header()
        };
        let slots = if large || name_bytes.len() > SMALL.name { LARGE } else { SMALL };
        let bytes = record(slots, &header, [&head, &file, &name_bytes, &lines]);
        let decoded = decode::obituary(&bytes).unwrap();
        let parts = [decoded.head, decoded.file, decoded.name, decoded.lines];
        let code = Obituary::new(&decoded.header, parts).code(&layout).unwrap();
        prop_assert_eq!(&*code.name, name.as_str());
        prop_assert_eq!(&*code.file, "/srv/app.py");
        prop_assert!(code.frame_line(INSTR_UNKNOWN) == Some(40));
    }

    #[test]
    fn damaged_records_are_errors_or_copies(
        sizes: [u32; 4],
        small_sizes in any::<[u16; 4]>(),
        wild: bool,
        large: bool,
        cut in 0..3_usize,
        content in prop::collection::vec(any::<u8>(), 256),
    ) {
        let sizes = if wild { sizes } else { small_sizes.map(|size| u32::from(size) % 300) };
        let slots = if large { LARGE } else { SMALL };
        let [head_size, file_size, name_size, lines_size] = sizes;
        let header = ObituaryHeader { head_size, file_size, name_size, lines_size, ..header() };
        let bytes = record(slots, &header, [&content; 4]);
        let bytes = &bytes[..bytes.len() - cut];
        let fits = [MAX_HEAD, slots.file, slots.name, slots.lines]
            .iter()
            .zip(sizes)
            .all(|(slot, size)| size as usize <= *slot);
        let decoded = decode::obituary(bytes);
        prop_assert_eq!(decoded.is_ok(), cut == 0 && fits);
        if let Ok(decoded) = decoded {
            let parts = [decoded.head, decoded.file, decoded.name, decoded.lines];
            prop_assert_eq!(parts.map(|part| part.len() as u32), sizes);
            for layout in layouts() {
                // Whatever comes of it, it is no panic.
                let _ = Obituary::new(&decoded.header, parts).code(&layout);
            }
        }
    }
}
