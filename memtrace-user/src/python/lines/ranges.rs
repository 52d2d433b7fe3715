//! `co_linetable` of 3.10 (PEP 626, `Objects/lnotab_notes.txt`).

use super::{Span, line};

/// Line step of a range without a line.
const NO_LINE: i8 = -128;

/// Pairs of an unsigned length, in bytes, and the signed step of the line to that range's own.
#[derive(Clone, Debug)]
pub struct Ranges<'a> {
    pairs: std::slice::ChunksExact<'a, u8>,
    addr: u32,
    line: i32,
}

impl<'a> Ranges<'a> {
    pub(super) fn new(table: &'a [u8], first_line: i32) -> Self {
        Self {
            pairs: table.chunks_exact(2),
            addr: 0,
            line: first_line,
        }
    }
}

impl Iterator for Ranges<'_> {
    type Item = Span;

    fn next(&mut self) -> Option<Span> {
        let pair = self.pairs.next()?;
        let start = self.addr;
        self.addr = start.saturating_add(u32::from(pair[0]));
        let step = pair[1].cast_signed();
        if step != NO_LINE {
            self.line = self.line.wrapping_add(i32::from(step));
        }
        Some(Span {
            start,
            end: self.addr,
            line: line(self.line).filter(|_| step != NO_LINE),
        })
    }
}
