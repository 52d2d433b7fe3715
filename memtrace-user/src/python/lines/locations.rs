//! `co_linetable` of 3.11 and newer (`Objects/locations.md`, `InternalDocs/code_objects.md`).
//!
//! ```text
//! 1 kind:4 length-1:3   0…   0…        an entry: its first byte has the highest bit set, no other has
//! ```

use super::{Span, UNIT, line};

/// Set in the first byte of an entry and in no other.
const FIRST: u8 = 0x80;
/// Kinds 10 to 12: the line is 0 to 2 lines on. Smaller ones stay on the line.
const ONE_LINE: u8 = 10;
/// The step of the line follows as a signed varint.
const NO_COLUMNS: u8 = 13;
/// The same; ends and columns follow it.
const LONG: u8 = 14;
/// These instructions have no line.
const NO_LINE: u8 = 15;

/// Bits of a number in a byte of a varint; the next one says that another byte follows.
const VARINT_BITS: u32 = 6;
const VARINT_MORE: u8 = 1 << VARINT_BITS;

/// Entries of a kind, a length in code units, and what the kind needs.
#[derive(Clone, Debug)]
pub struct Locations<'a> {
    rest: &'a [u8],
    addr: u32,
    line: i32,
}

impl<'a> Locations<'a> {
    pub(super) fn new(table: &'a [u8], first_line: i32) -> Self {
        Self {
            rest: table,
            addr: 0,
            line: first_line,
        }
    }
}

impl Iterator for Locations<'_> {
    type Item = Span;

    fn next(&mut self) -> Option<Span> {
        let (&head, rest) = self.rest.split_first()?;
        let body = rest.iter().position(|byte| byte & FIRST != 0);
        let (body, rest) = rest.split_at(body.unwrap_or(rest.len()));
        self.rest = rest;
        let start = self.addr;
        self.addr = start.saturating_add((u32::from(head & 7) + 1) * UNIT);
        let kind = (head >> 3) & 15;
        let step = match kind {
            NO_COLUMNS | LONG => signed_varint(body),
            ONE_LINE..NO_COLUMNS => i32::from(kind - ONE_LINE),
            _ => 0,
        };
        self.line = self.line.wrapping_add(step);
        Some(Span {
            start,
            end: self.addr,
            line: line(self.line).filter(|_| kind != NO_LINE),
        })
    }
}

/// The number at the head of `bytes`: six bits a byte, the lowest first, of which the lowest is the sign. What does not
/// fit 32 bits is lost, as in CPython.
fn signed_varint(bytes: &[u8]) -> i32 {
    let mut value = 0_u32;
    for (byte, shift) in bytes
        .iter()
        .zip((0..u32::BITS).step_by(VARINT_BITS as usize))
    {
        value |= u32::from(byte & (VARINT_MORE - 1)) << shift;
        if byte & VARINT_MORE == 0 {
            break;
        }
    }
    let magnitude = (value >> 1).cast_signed();
    if value & 1 == 1 {
        -magnitude
    } else {
        magnitude
    }
}
