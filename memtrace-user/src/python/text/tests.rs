//! Every form of `str`, made by hand. The interpreters' own: `tests/python`.

use super::*;
use crate::{
    ids::Pid,
    python::{code::LineFormat, memory::ProcessMemory},
};

const OLD: CodeLayout = layout(48, 72);
const NEW: CodeLayout = layout(40, 56);

const fn layout(ascii_text: u32, wide_text: u32) -> CodeLayout {
    CodeLayout {
        code_type: 0,
        filename: 0,
        name: 0,
        qualname: None,
        first_line: 0,
        line_table: 0,
        lines: LineFormat::Lnotab,
        ascii_text,
        wide_text,
    }
}

/// A head, and what is behind it.
fn object(length: u64, state: u8, head: u32, behind: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; head as usize];
    bytes[LENGTH..LENGTH + 8].copy_from_slice(&length.to_le_bytes());
    bytes[STATE] = state;
    bytes.extend(behind);
    bytes
}

/// Bytes of each unit, the lowest first.
fn units(width: usize, units: &[u32]) -> Vec<u8> {
    let bytes = units
        .iter()
        .flat_map(|unit| unit.to_le_bytes().into_iter().take(width));
    bytes.collect()
}

fn at_most(object: &[u8], layout: &CodeLayout, max_chars: usize) -> Result<String, TextError> {
    // Room behind it: a read may go on to the end of the page.
    let mut bytes = object.to_vec();
    bytes.resize(object.len() + 8192, 0x99);
    let own = ProcessMemory(Pid(std::process::id()));
    read(&own, bytes.as_ptr() as u64, layout, max_chars)
}

fn text(object: &[u8], layout: &CodeLayout) -> String {
    at_most(object, layout, 1000).unwrap()
}

fn compact(width: u8) -> u8 {
    COMPACT | width << 2
}

#[test]
fn compact_ones_of_every_width() {
    for layout in [OLD, NEW] {
        let wide = |width: u8, codes: &[u32]| {
            let behind = units(width.into(), codes);
            text(
                &object(
                    codes.len() as u64,
                    compact(width),
                    layout.wide_text,
                    &behind,
                ),
                &layout,
            )
        };
        let ascii = object(4, compact(1) | ASCII, layout.ascii_text, b"main");
        assert_eq!(text(&ascii, &layout), "main");
        assert_eq!(wide(1, &[0x67, 0xfc, 0xff]), "güÿ");
        assert_eq!(wide(2, &[0x3b1, 0x5f, 0x6f22]), "α_漢");
        assert_eq!(wide(4, &[0x1f600, 0x78]), "😀x");
        assert_eq!(
            wide(2, &[0x61, 0xdc80, 0xd83d, 0xde00]),
            "a\u{fffd}\u{fffd}\u{fffd}"
        );
        assert_eq!(wide(4, &[0x11_0000, 0xffff_ffff]), "\u{fffd}\u{fffd}");
        assert_eq!(wide(2, &[]), "");
    }
}

#[test]
fn characters_elsewhere() {
    let far = units(2, &[0x3b1, 0x3b2]);
    let pointer = (far.as_ptr() as u64).to_le_bytes();
    for layout in [OLD, NEW] {
        let subclass = object(2, 2 << 2, layout.wide_text, &pointer);
        assert_eq!(text(&subclass, &layout), "αβ");
    }
    let wchars = units(4, &[0x1f600, 0x3b1]);
    let mut unready = object(0, 0, 72, &[0; 8]);
    unready[WSTR..WSTR + 8].copy_from_slice(&(wchars.as_ptr() as u64).to_le_bytes());
    unready[WSTR_LENGTH..WSTR_LENGTH + 8].copy_from_slice(&2_u64.to_le_bytes());
    assert_eq!(text(&unready, &OLD), "😀α");
    assert!(matches!(
        at_most(&unready, &NEW, 9),
        Err(TextError::NotText)
    ));
}

#[test]
fn the_limit_counts_characters() {
    let long = object(5000, compact(2), 56, &units(2, &[0x3b1; 5000]));
    assert_eq!(at_most(&long, &NEW, 5000).unwrap(), "α".repeat(5000));
    assert_eq!(at_most(&long, &NEW, 4999).unwrap(), "α".repeat(4999) + "…");
    assert_eq!(at_most(&long, &NEW, 0).unwrap(), "…");
    let endless = object(u64::MAX, compact(1) | ASCII, 40, b"abc");
    assert_eq!(at_most(&endless, &NEW, 3).unwrap(), "abc…");
}

#[test]
fn other_states_are_no_text() {
    for state in [
        compact(0),
        compact(3),
        compact(7),
        compact(2) | ASCII,
        3 << 2,
    ] {
        let object = object(1, state, 56, &[0; 8]);
        assert!(
            matches!(at_most(&object, &NEW, 9), Err(TextError::NotText)),
            "{state}"
        );
    }
    let nowhere = object(1, 1 << 2, 56, &[0; 8]);
    assert!(matches!(
        at_most(&nowhere, &NEW, 9),
        Err(TextError::Unreadable(_))
    ));
}

#[test]
fn the_end_of_the_last_page_is_no_fault() {
    // The str ends where the mapping does: the guess must stop there.
    use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, munmap};
    let size = std::num::NonZeroUsize::new(8192).unwrap();
    let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_ANONYMOUS;
    // SAFETY: a fresh mapping; its second page is given back before anything else is mapped there.
    let start = unsafe {
        let start = mmap_anonymous(
            None,
            size,
            ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
            flags,
        )
        .unwrap();
        munmap(start.byte_add(4096), 4096).unwrap();
        start
    };
    let object = object(3, compact(1) | ASCII, 40, b"end");
    let at = start.as_ptr() as usize + 4096 - object.len();
    // SAFETY: the bytes lie within the first page, which is writable and nobody else's.
    unsafe { std::ptr::copy_nonoverlapping(object.as_ptr(), at as *mut u8, object.len()) };
    let own = ProcessMemory(Pid(std::process::id()));
    assert_eq!(read(&own, at as u64, &NEW, 99).unwrap(), "end");
    // SAFETY: mapped above, and not used any more.
    unsafe { munmap(start, 4096).unwrap() };
}
