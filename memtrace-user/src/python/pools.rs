//! The pools of CPython's object allocator, recognised in raw memory, and what has changed in them.
//!
//! An arena is a piece of anonymous memory, cut into pools; a pool holds blocks of one size. A pool is told by its head,
//! whose numbers must agree with each other and with the list of free blocks: no symbol is needed, and a pool that changes
//! while it is read fails and is left out. Layout: `struct pool_header` of `Objects/obmalloc.c`, the same in 3.6 to 3.15.
//!
//! ```text
//! 0 count: u32   8 freeblock: ptr   32 arenaindex   36 szidx: u32   40 nextoffset: u32   44 maxnextoffset: u32   48 blocks
//! ```

use std::{
    collections::{HashMap, HashSet},
    ops::Range,
};

use super::{
    memory::{Memory, ProcessMemory},
    version::Version,
};
use crate::{
    ids::Pid,
    target::maps::{self, Backing, Mapping, MapsError},
};

/// Bytes that are looked at in one process; memory behind that is left out, which a comparison of two scans knows.
pub const MAX_SCANNED: u64 = 256 << 20;
/// Bytes that are read at once: a multiple of both sizes of pools.
const CHUNK: u64 = 1 << 20;
/// Bytes of a pool's head.
const HEAD: usize = 48;
/// Sizes of blocks are multiples of it.
const ALIGNMENT: usize = 16;
/// Sizes that pools have: the largest is 512.
pub const CLASSES: usize = 32;

/// A pool at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pool {
    /// Its blocks have `(class + 1) * 16` bytes.
    class: usize,
    /// One bit for each block that is in use.
    live: Box<[u64]>,
}

/// Why a piece of memory is no pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NoPool {
    /// It is something else.
    Other,
    /// It seems to be one, and its parts do not agree: it was changing.
    Unsettled,
}

/// A block that was in use at one of two moments and not at the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// Its place, from the first byte to the end.
    pub start: u64,
    /// Size class: `(class + 1) * 16` bytes.
    pub class: usize,
    /// Whether it is in use now; otherwise it was.
    pub is_made: bool,
}

/// All pools at one moment, about.
#[derive(Clone, Debug, Default)]
pub struct Scan {
    pools: HashMap<u64, Pool>,
    unsettled: HashSet<u64>,
    /// Memory that could be an arena, and the part of it that was read.
    mapped: Vec<Range<u64>>,
    read: Vec<Range<u64>>,
}

/// Bytes of a pool: 3.10 has made them larger.
#[must_use]
pub fn pool_bytes(version: Version) -> usize {
    if version.is_at_least(3, 10) {
        16 << 10
    } else {
        4 << 10
    }
}

impl Scan {
    /// Looks for pools of `pool_bytes` in a process.
    ///
    /// # Errors
    /// When its mappings cannot be read.
    pub fn of_process(pid: Pid, pool_bytes: usize) -> Result<Self, MapsError> {
        let mappings = maps::read(pid)?;
        let mapped = mappings.iter().filter(|mapping| may_hold_arenas(mapping));
        let mapped = mapped.map(|mapping| mapping.start..mapping.end).collect();
        Ok(Self::of(&ProcessMemory(pid), mapped, pool_bytes))
    }

    /// Looks for pools of `pool_bytes` in `mapped`, writable anonymous memory in ascending order.
    #[must_use]
    pub fn of(memory: &impl Memory, mapped: Vec<Range<u64>>, pool_bytes: usize) -> Self {
        let mut scan = Self::default();
        let mut left = MAX_SCANNED;
        let mut buffer = vec![0; CHUNK as usize];
        for range in &mapped {
            let mut start = range.start.next_multiple_of(pool_bytes as u64);
            while start < range.end && left > 0 {
                let end = (start + CHUNK).min(range.end).min(start + left);
                let bytes = &mut buffer[..(end - start) as usize];
                if memory.read_into(start, bytes).is_ok() {
                    scan.read.push(start..end);
                    scan.look(start, bytes, pool_bytes);
                }
                left -= end - start;
                start = end.next_multiple_of(pool_bytes as u64);
            }
        }
        scan.mapped = mapped;
        scan
    }

    fn look(&mut self, start: u64, bytes: &[u8], pool_bytes: usize) {
        for (index, bytes) in bytes.chunks_exact(pool_bytes).enumerate() {
            let addr = start + (index * pool_bytes) as u64;
            match Pool::parse(addr, bytes) {
                Ok(pool) => drop(self.pools.insert(addr, pool)),
                Err(NoPool::Unsettled) => drop(self.unsettled.insert(addr)),
                Err(NoPool::Other) => {}
            }
        }
    }

    /// Whether there are no pools, in all the memory that there is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let bytes = |ranges: &[Range<u64>]| -> u64 { ranges.iter().map(|r| r.end - r.start).sum() };
        self.pools.is_empty() && self.unsettled.is_empty() && bytes(&self.mapped) <= MAX_SCANNED
    }

    /// Blocks in use.
    #[must_use]
    pub fn live_blocks(&self) -> u64 {
        let words = self.pools.values().flat_map(|pool| &pool.live);
        words.map(|word| u64::from(word.count_ones())).sum()
    }

    /// What has changed since an earlier scan, as far as both have seen it.
    pub fn changes_since<'a>(&'a self, earlier: &'a Self) -> impl Iterator<Item = Change> + 'a {
        self.pools
            .iter()
            .filter(|(addr, _)| earlier.has_seen(**addr))
            .flat_map(|(addr, now)| {
                let before = earlier.pools.get(addr);
                let same = before.filter(|before| before.class == now.class);
                let other = before.filter(|before| before.class != now.class);
                let made = now.blocks(*addr, same, true);
                let ended = same.map(|before| before.blocks(*addr, Some(now), false));
                let replaced = other.map(|before| before.blocks(*addr, None, false));
                made.chain(ended.into_iter().flatten())
                    .chain(replaced.into_iter().flatten())
            })
    }

    /// Whether it is known what was at `pool`: a pool, something else, or nothing.
    fn has_seen(&self, pool: u64) -> bool {
        let among = |ranges: &[Range<u64>]| {
            let behind = ranges.partition_point(|range| range.end <= pool);
            ranges.get(behind).is_some_and(|range| range.start <= pool)
        };
        !self.unsettled.contains(&pool) && (among(&self.read) || !among(&self.mapped))
    }
}

impl Pool {
    fn parse(addr: u64, bytes: &[u8]) -> Result<Self, NoPool> {
        let number = |at: usize| {
            let bytes = bytes
                .get(at..at + 4)
                .and_then(|bytes| bytes.try_into().ok());
            bytes.map(|bytes| u32::from_le_bytes(bytes) as usize)
        };
        let (Some(count), Some(class), Some(next), Some(last)) =
            (number(0), number(36), number(40), number(44))
        else {
            return Err(NoPool::Other);
        };
        let size = (class.min(CLASSES) + 1) * ALIGNMENT;
        let is_head = class < CLASSES
            && last == bytes.len() - size
            && (HEAD..=last + size).contains(&next)
            && (next - HEAD).is_multiple_of(size);
        if !is_head {
            return Err(NoPool::Other);
        }
        let carved = (next - HEAD) / size;
        let mut live = vec![0_u64; carved.div_ceil(64)];
        for block in 0..carved {
            live[block / 64] |= 1 << (block % 64);
        }
        let mut free = 0;
        let mut block = word(bytes, 8).ok_or(NoPool::Other)?;
        while block != 0 {
            let offset = block.wrapping_sub(addr).wrapping_sub(HEAD as u64);
            let index = usize::try_from(offset).unwrap_or(usize::MAX) / size;
            if index >= carved || !offset.is_multiple_of(size as u64) {
                return Err(NoPool::Unsettled);
            }
            let bit = 1 << (index % 64);
            if live[index / 64] & bit == 0 {
                return Err(NoPool::Unsettled); // a list in a circle
            }
            live[index / 64] &= !bit;
            free += 1;
            block = word(bytes, HEAD + index * size).ok_or(NoPool::Unsettled)?;
        }
        if carved - free != count {
            return Err(NoPool::Unsettled);
        }
        Ok(Self {
            class,
            live: live.into(),
        })
    }

    /// The blocks of the pool at `addr` that are in use here and not in `other`.
    fn blocks<'a>(
        &'a self,
        addr: u64,
        other: Option<&'a Self>,
        is_made: bool,
    ) -> impl Iterator<Item = Change> + 'a {
        let size = (self.class + 1) * ALIGNMENT;
        (0..self.live.len() * 64)
            .filter(move |block| self.has(*block) && !other.is_some_and(|other| other.has(*block)))
            .map(move |block| Change {
                start: addr + (HEAD + block * size) as u64,
                class: self.class,
                is_made,
            })
    }

    fn has(&self, block: usize) -> bool {
        let word = self.live.get(block / 64).copied().unwrap_or(0);
        word & 1 << (block % 64) != 0
    }
}

/// Whether it is what `mmap` gives: memory of no file, to which the kernel or the program may have given a name.
fn may_hold_arenas(mapping: &Mapping) -> bool {
    let name = mapping.path.as_os_str().as_encoded_bytes();
    mapping.backing() == Backing::Memory
        && mapping.access.read
        && mapping.access.write
        && !mapping.access.shared
        && (name.is_empty() || name.starts_with(b"[anon"))
}

fn word(bytes: &[u8], at: usize) -> Option<u64> {
    let bytes = bytes.get(at..at + 8)?;
    Some(u64::from_le_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests;
