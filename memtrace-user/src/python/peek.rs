//! Reads of objects whose size is in their head: the head and, by luck, all the rest with it.

use std::io;

use super::memory::Memory;

/// Adds what `bytes`, read at `addr`, lack of `size` bytes, and drops what is too much.
pub(super) fn complete(
    memory: &impl Memory,
    addr: u64,
    bytes: &mut Vec<u8>,
    size: usize,
) -> io::Result<()> {
    let have = bytes.len();
    bytes.resize(size, 0);
    if size <= have {
        return Ok(());
    }
    let addr = addr
        .checked_add(have as u64)
        .ok_or(io::ErrorKind::InvalidInput)?;
    memory.read_into(addr, &mut bytes[have..])
}

/// The word at `at`, if all of it is there.
pub(super) fn word(bytes: &[u8], at: usize) -> Option<u64> {
    let word = bytes.get(at..at.checked_add(8)?)?;
    Some(u64::from_le_bytes(word.try_into().ok()?))
}
