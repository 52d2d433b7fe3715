//! `str` objects (`Include/cpython/unicodeobject.h`).
//!
//! ```text
//! PyASCIIObject             length 16, state 32, before 3.12 wstr 40
//! PyCompactUnicodeObject    the same, and before 3.12 wstr_length 64
//! PyUnicodeObject           the same, and a pointer to the characters
//! ```
//!
//! A compact `str` has its characters behind its head: [`CodeLayout::ascii_text`] or [`CodeLayout::wide_text`] bytes in. One
//! that is not compact (an instance of a subclass; before 3.12 also what old extensions make) has the pointer there.

use std::{io, iter};

use super::{
    code::CodeLayout,
    memory::Memory,
    peek::{complete, word},
};

const LENGTH: usize = 16;
const STATE: usize = 32;
/// Bits 2 to 4 of the state: bytes of a character.
const KIND: u8 = 7 << 2;
const COMPACT: u8 = 1 << 5;
const ASCII: u8 = 1 << 6;

/// Length of the head of an ASCII `str` that has `wstr`, a second form of the characters (before 3.12).
const HEAD_WITH_WSTR: u32 = 48;
const WSTR: usize = 40;
const WSTR_LENGTH: usize = 64;

/// Bytes that are read at first: most names and paths fit.
const GUESS: usize = 256;
/// What stands for the rest of a text that is too long.
const CUT: char = '…';

/// Why there is no text.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    /// The memory is not there, or the process is gone.
    #[error("a str cannot be read: {0}")]
    Unreadable(#[from] io::Error),
    /// The bytes are no `str`.
    #[error("no str is where one should be")]
    NotText,
}

/// Where the characters of a `str` are.
#[derive(Clone, Copy, Debug)]
struct Characters {
    addr: u64,
    length: u64,
    /// Bytes of one.
    width: usize,
}

/// Reads the `str` at `addr`: at most `max_chars` characters, then `…`. What is no character (half a surrogate pair, as
/// Python has it for bytes of file names that are no UTF-8) becomes U+FFFD.
///
/// # Errors
/// When there is none, or it cannot be read.
pub fn read(
    memory: &impl Memory,
    addr: u64,
    layout: &CodeLayout,
    max_chars: usize,
) -> Result<String, TextError> {
    let mut bytes = memory.read_some(addr, WSTR, GUESS)?;
    let found = match layout.characters(addr, &bytes)? {
        Some(found) => found,
        None => layout.distant_characters(memory, addr, &mut bytes)?,
    };
    let kept = found.length.min(max_chars as u64) as usize;
    let read_already = found.addr.checked_sub(addr);
    let read_already = read_already.and_then(|at| bytes.get(usize::try_from(at).ok()?..));
    let mut text = read_already.unwrap_or_default().to_vec();
    complete(memory, found.addr, &mut text, kept * found.width)?;
    let cut = (found.length > kept as u64).then_some(CUT);
    Ok(decode(&text, found.width).chain(cut).collect())
}

impl CodeLayout {
    /// The characters of a compact `str`; none when it is not compact.
    fn characters(&self, addr: u64, bytes: &[u8]) -> Result<Option<Characters>, TextError> {
        let length = word(bytes, LENGTH).ok_or(TextError::NotText)?;
        let state = *bytes.get(STATE).ok_or(TextError::NotText)?;
        let width = usize::from((state & KIND) >> 2);
        if state & COMPACT == 0 {
            return Ok(None);
        }
        let offset = match (width, state & ASCII) {
            (1, ASCII) => self.ascii_text,
            (1 | 2 | 4, 0) => self.wide_text,
            _ => return Err(TextError::NotText),
        };
        let addr = addr.checked_add(offset.into()).ok_or(TextError::NotText)?;
        Ok(Some(Characters {
            addr,
            length,
            width,
        }))
    }

    /// The characters that the `str` points to.
    fn distant_characters(
        &self,
        memory: &impl Memory,
        addr: u64,
        bytes: &mut Vec<u8>,
    ) -> Result<Characters, TextError> {
        let pointer = usize::try_from(self.wide_text).map_err(|_| TextError::NotText)?;
        if bytes.len() < pointer + 8 {
            complete(memory, addr, bytes, pointer + 8)?;
        }
        let word = |at| word(bytes, at).ok_or(TextError::NotText);
        match (bytes[STATE] & KIND) >> 2 {
            width @ (1 | 2 | 4) => Ok(Characters {
                addr: word(pointer)?,
                length: word(LENGTH)?,
                width: width.into(),
            }),
            // `wchar_t`s that nobody has looked at yet.
            0 if self.ascii_text == HEAD_WITH_WSTR => Ok(Characters {
                addr: word(WSTR)?,
                length: word(WSTR_LENGTH)?,
                width: 4,
            }),
            _ => Err(TextError::NotText),
        }
    }
}

/// The characters of whole units of `width` bytes.
fn decode(bytes: &[u8], width: usize) -> impl Iterator<Item = char> {
    bytes.chunks_exact(width).map(|unit| {
        let mut code = [0; 4];
        iter::zip(&mut code, unit).for_each(|(to, from)| *to = *from);
        char::from_u32(u32::from_le_bytes(code)).unwrap_or(char::REPLACEMENT_CHARACTER)
    })
}

#[cfg(test)]
mod tests;
