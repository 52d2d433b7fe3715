//! Whether the debug hooks of CPython's allocator are at work (`PYTHONMALLOC=debug`, `-X dev`, debug builds).
//!
//! With them a block has 16 bytes in front, its size and marks, and the program gets an address behind these. Somebody who
//! has seen a block made by the C library's allocator would not recognise it when it is freed through CPython's.

use std::ops::Range;

use super::memory::{Memory, ProcessMemory};
use crate::{
    ids::Pid,
    target::maps::{self, Backing, MapsError},
};

/// Bytes that are looked at in each piece of memory: the first blocks are the interpreter's own.
const SAMPLE: u64 = 1 << 20;
/// Pieces that are looked at.
const MAX_PIECES: usize = 4;
/// Marked blocks in a piece that are no accident.
const ENOUGH: usize = 32;
/// `PYMEM_FORBIDDENBYTE` in front of a block (3.8 and newer).
const FORBIDDEN: [u8; 7] = [0xfd; 7];

/// Looks at a process.
///
/// # Errors
/// When its mappings cannot be read.
pub fn are_active_in(pid: Pid) -> Result<bool, MapsError> {
    let mut memory = maps::read(pid)?;
    memory.retain(|mapping| mapping.backing() == Backing::Memory && mapping.access.write);
    memory.sort_by_key(|mapping| mapping.path.as_os_str() != "[heap]");
    let pieces = memory.iter().map(|mapping| mapping.start..mapping.end);
    Ok(are_active(&ProcessMemory(pid), pieces))
}

/// Looks at the beginnings of some `pieces` of writable memory, the C library's heap first.
#[must_use]
fn are_active(memory: &impl Memory, pieces: impl Iterator<Item = Range<u64>>) -> bool {
    let marks_of = |piece: Range<u64>| {
        let size = (piece.end - piece.start).min(SAMPLE) as usize;
        memory
            .read(piece.start, size)
            .map_or(0, |bytes| marks(&bytes))
    };
    pieces
        .take(MAX_PIECES)
        .any(|piece| marks_of(piece) >= ENOUGH)
}

/// Heads of blocks: the size, one letter for the domain, and forbidden bytes up to the block.
fn marks(bytes: &[u8]) -> usize {
    let is_mark = |head: &&[u8]| matches!(head, [_, _, _, _, _, _, _, _, b'r' | b'm' | b'o', rest @ ..] if rest == FORBIDDEN);
    bytes.chunks_exact(16).filter(is_mark).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_of_blocks_are_marks() {
        let mut bytes = vec![0; 64];
        bytes[24] = b'o';
        bytes[25..32].copy_from_slice(&FORBIDDEN);
        assert_eq!(marks(&bytes), 1);
        bytes[24] = b'x';
        assert_eq!(marks(&bytes), 0);
    }
}
