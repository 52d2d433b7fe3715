//! What is kept of one live block, and the address it is found by.

use crate::ids::Millis;

/// A live block in 16 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Block {
    /// Requested size in the 56 bits an event can carry; [`GONE`] above them.
    size: u64,
    /// Index in the process's [`Sites`](super::sites::Sites).
    pub(super) site: u32,
    /// When it was allocated.
    pub(super) birth: Millis,
}

/// Set in a block that stands for "not here any more", over a block of the same address in a shared layer.
const GONE: u64 = 1 << 63;
const _: () = assert!(memtrace_common::event::MAX_SIZE < GONE);

impl Block {
    /// The mark that hides a block of a lower layer.
    pub(super) const TOMBSTONE: Self = Self {
        size: GONE,
        site: 0,
        birth: Millis(0),
    };

    pub(super) fn new(size: u64, site: u32, birth: Millis) -> Self {
        Self {
            size: size & !GONE,
            site,
            birth,
        }
    }

    pub(super) fn size(&self) -> u64 {
        self.size & !GONE
    }

    /// The block itself, unless it is a tombstone.
    pub(super) fn live(self) -> Option<Self> {
        (self.size & GONE == 0).then_some(self)
    }
}

/// An address with its hash, computed once for the shard and all layers it may be looked up in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Key {
    pub(super) addr: u64,
    pub(super) hash: u64,
}

impl Key {
    /// A 64 × 64 → 128 bit multiply folded to 64 bits: addresses differ in their middle bits, and this
    /// spreads them over the low bits (bucket), the top 7 (hashbrown's tag) and [`Key::shard`]'s.
    ///
    /// The constant is fixed. A target could choose addresses that collide, but all it would win is a slow
    /// collector, which it also gets by allocating faster than it is drained: both end as counted loss.
    #[inline]
    pub(super) fn new(addr: u64) -> Self {
        const GOLDEN_RATIO: u64 = 0x9e37_79b9_7f4a_7c15;
        let product = u128::from(addr ^ (addr >> 32)) * u128::from(GOLDEN_RATIO);
        let hash = (product as u64) ^ ((product >> 64) as u64);
        Self { addr, hash }
    }

    /// One of `count` shards, by bits that neither bucket nor tag use.
    #[inline]
    pub(super) fn shard(&self, count: usize) -> usize {
        (self.hash >> 40) as usize % count
    }
}
