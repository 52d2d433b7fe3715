//! `co_lnotab` of 3.8 and 3.9 (`Objects/lnotab_notes.txt`).

use super::{Span, line};

/// Pairs of an unsigned step of the address, in bytes, and a signed step of the line. A line holds until the address
/// moves; behind the last pair, the last line holds to the end of the code.
#[derive(Clone, Debug)]
pub struct Lnotab<'a> {
    pairs: std::slice::ChunksExact<'a, u8>,
    addr: u32,
    line: i32,
    ended: bool,
}

impl<'a> Lnotab<'a> {
    pub(super) fn new(table: &'a [u8], first_line: i32) -> Self {
        Self {
            pairs: table.chunks_exact(2),
            addr: 0,
            line: first_line,
            ended: false,
        }
    }
}

impl Iterator for Lnotab<'_> {
    type Item = Span;

    fn next(&mut self) -> Option<Span> {
        if self.ended {
            return None;
        }
        let start = self.addr;
        for pair in self.pairs.by_ref() {
            let held = line(self.line);
            self.addr = self.addr.saturating_add(u32::from(pair[0]));
            self.line = self.line.wrapping_add(i32::from(pair[1].cast_signed()));
            if self.addr != start {
                return Some(Span {
                    start,
                    end: self.addr,
                    line: held,
                });
            }
        }
        self.ended = true;
        Some(Span {
            start,
            end: u32::MAX,
            line: line(self.line),
        })
    }
}
