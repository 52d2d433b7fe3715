//! Line tables: from an instruction to its line.
//!
//! Owns the three forms that CPython has had, as iterators over [`Span`]s. Takes the bytes of the table, which
//! [`code`](super::code) has read; whatever they are, the spans end with them.
//!
//! The answer is that of the version's own `PyCode_Addr2Line`, which is what `frame.f_lineno` and tracebacks say. From
//! 3.10 on an instruction may have no line: one that the compiler has made up. `f_lineno` is `None` there, and so is the
//! span's line. The 3.8 and 3.9 tables have a line for every instruction.

mod lnotab;
mod locations;
mod ranges;

use self::{lnotab::Lnotab, locations::Locations, ranges::Ranges};
use super::code::LineFormat;

/// Bytes of a code unit.
const UNIT: u32 = 2;

/// Instructions that follow each other and share a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Offset of the first one's first byte in the bytecode.
    pub start: u32,
    /// Offset behind the last one. The last span of a `co_lnotab` has no end: `u32::MAX`.
    pub end: u32,
    /// Their line; none when they have none.
    pub line: Option<u32>,
}

/// A line table, read from front to back.
#[derive(Clone, Debug)]
pub enum Spans<'a> {
    /// 3.8, 3.9.
    Lnotab(Lnotab<'a>),
    /// 3.10.
    Ranges(Ranges<'a>),
    /// 3.11 and newer.
    Locations(Locations<'a>),
}

impl<'a> Spans<'a> {
    /// The spans of a table of a code object that begins at `first_line`.
    #[must_use]
    pub fn new(format: LineFormat, table: &'a [u8], first_line: i32) -> Self {
        match format {
            LineFormat::Lnotab => Self::Lnotab(Lnotab::new(table, first_line)),
            LineFormat::Ranges => Self::Ranges(Ranges::new(table, first_line)),
            LineFormat::Locations => Self::Locations(Locations::new(table, first_line)),
        }
    }

    /// The line of an instruction, counted in code units. None when it has none or lies behind the table.
    #[must_use]
    pub fn line_of(mut self, instr: u32) -> Option<u32> {
        let addr = instr.checked_mul(UNIT)?;
        self.find(|span| addr < span.end)?.line
    }
}

impl Iterator for Spans<'_> {
    type Item = Span;

    fn next(&mut self) -> Option<Span> {
        match self {
            Self::Lnotab(spans) => spans.next(),
            Self::Ranges(spans) => spans.next(),
            Self::Locations(spans) => spans.next(),
        }
    }
}

/// A line as CPython counts: an `int` of which negative values are no line.
fn line(line: i32) -> Option<u32> {
    u32::try_from(line).ok()
}

#[cfg(test)]
mod tests;
