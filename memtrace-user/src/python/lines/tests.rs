//! The examples of CPython's own notes, and bytes that no compiler writes. All real tables: `tests/python`.

use proptest::prelude::*;

use super::*;

const FORMATS: [LineFormat; 3] = [
    LineFormat::Lnotab,
    LineFormat::Ranges,
    LineFormat::Locations,
];

fn spans(format: LineFormat, table: &[u8], first_line: i32) -> Vec<(u32, u32, Option<u32>)> {
    let spans = Spans::new(format, table, first_line);
    spans
        .map(|span| (span.start, span.end, span.line))
        .collect()
}

#[test]
fn the_lnotab_of_the_notes() {
    // Offsets 0, 6, 50, 350, 361 are at lines 1, 2, 7, 207, 208.
    let table = [6, 1, 44, 5, 255, 0, 45, 127, 0, 73, 11, 1];
    let expected = [
        (0, 6, Some(1)),
        (6, 50, Some(2)),
        (50, 305, Some(7)),
        (305, 350, Some(7)),
        (350, 361, Some(207)),
        (361, u32::MAX, Some(208)),
    ];
    assert_eq!(spans(LineFormat::Lnotab, &table, 1), expected);
    assert_eq!(spans(LineFormat::Lnotab, &[], 9), [(0, u32::MAX, Some(9))]);
    let back = [0, 5, 2, 0xff];
    let expected = [(0, 2, Some(6)), (2, u32::MAX, Some(5))];
    assert_eq!(spans(LineFormat::Lnotab, &back, 1), expected);
}

#[test]
fn the_ranges_of_the_notes() {
    // A range without a line keeps the line that the next step counts from; an empty one moves it.
    let table = [2, 1, 4, 0x80, 0, 127, 6, 3, 2, 0xfe];
    let expected = [
        (0, 2, Some(2)),
        (2, 6, None),
        (6, 6, Some(129)),
        (6, 12, Some(132)),
        (12, 14, Some(130)),
    ];
    assert_eq!(spans(LineFormat::Ranges, &table, 1), expected);
    let line = |instr| Spans::new(LineFormat::Ranges, &table, 1).line_of(instr);
    assert_eq!(line(1), None);
    assert_eq!(line(3), Some(132));
    assert_eq!(line(6), Some(130));
    assert_eq!(line(7), None);
}

#[test]
fn every_kind_of_location() {
    let table = [
        0x80, 0x11, // kind 0, 1 unit
        0xd9, 4, 5, // kind 11, 2 units: 1 line on
        0xe0, 4, 5,    // kind 12: 2 lines on
        0xf8, // no line
        0xe8, 0x42, 0x01, // no columns: 0b1_000010 / 2 = 33 on
        0xf7, 0x07, 1, 2, 3, // long: 3 back, 8 units
        0xd0, 0, 0, // kind 10: same line
    ];
    let expected = [
        (0, 2, Some(7)),
        (2, 6, Some(8)),
        (6, 8, Some(10)),
        (8, 10, None),
        (10, 12, Some(43)),
        (12, 28, Some(40)),
        (28, 30, Some(40)),
    ];
    assert_eq!(spans(LineFormat::Locations, &table, 7), expected);
}

#[test]
fn a_line_below_zero_is_none() {
    assert_eq!(spans(LineFormat::Ranges, &[2, 0xff], 0), [(0, 2, None)]);
    let line = |format| Spans::new(format, &[], -1).line_of(0);
    assert_eq!(FORMATS.map(line), [None; 3]);
}

proptest! {
    #[test]
    fn any_bytes_are_a_table(table: Vec<u8>, first_line: i32, instr: u32) {
        for format in FORMATS {
            let spans: Vec<Span> = Spans::new(format, &table, first_line).collect();
            prop_assert!(spans.len() <= table.len() + 1);
            prop_assert!(spans.iter().all(|span| span.start <= span.end));
            prop_assert!(spans.windows(2).all(|pair| pair[0].end == pair[1].start));
            let line = Spans::new(format, &table, first_line).line_of(instr);
            let within = |span: &&Span| (u64::from(span.start)..u64::from(span.end)).contains(&(u64::from(instr) * 2));
            prop_assert_eq!(line, spans.iter().find(within).and_then(|span| span.line));
        }
    }
}
