//! Reads of objects whose size is in their head: the head and, by luck, all the rest with it.

use std::io;

use super::memory::Memory;

/// No mapping ends within a page.
const PAGE: u64 = 4096;

/// Reads at least `least` bytes, and up to `most` as far as that touches no further page: what is not needed can be
/// missing, but cannot make the read fail.
pub(super) fn peek(
    memory: &impl Memory,
    addr: u64,
    least: usize,
    most: usize,
) -> io::Result<Vec<u8>> {
    let end = addr
        .checked_add(least as u64)
        .ok_or(io::ErrorKind::InvalidInput)?;
    let left_of_page = (PAGE - end % PAGE) % PAGE;
    let more = most.saturating_sub(least) as u64;
    memory.read(addr, least + left_of_page.min(more) as usize)
}

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
