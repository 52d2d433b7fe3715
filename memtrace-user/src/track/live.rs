//! The live blocks of one process by address.
//!
//! Split into shards by a hash of the address, so that a table that grows moves a 64th of the blocks: the drain
//! is never held up for longer than that takes, and no more than that exists twice. How related processes
//! share blocks is the [`Shard`]'s business; what a block counts for is the [`Space`](super::space::Space)'s.

use std::sync::Arc;

use super::{
    block::{Block, Key},
    ledger::Ledger,
    shard::Shard,
};

const SHARDS: usize = 64;

#[derive(Debug)]
pub(super) struct LiveBlocks {
    shards: [Shard; SHARDS],
    ledger: Arc<Ledger>,
}

/// What became of a block that was to be stored.
#[derive(Clone, Copy, Debug)]
pub(super) struct Insertion {
    /// The live block that had the same address.
    pub(super) superseded: Option<Block>,
    /// False when the limit of stored blocks is reached.
    pub(super) stored: bool,
}

impl LiveBlocks {
    pub(super) fn new(ledger: Arc<Ledger>) -> Self {
        let shards = std::array::from_fn(|_| Shard::new(Arc::clone(&ledger)));
        Self { shards, ledger }
    }

    /// Stores a block. At the limit it takes the room of the one it supersedes, if there is one.
    #[inline]
    pub(super) fn insert(&mut self, key: Key, block: Block) -> Insertion {
        let shard = &mut self.shards[key.shard(SHARDS)];
        if !self.ledger.is_full() {
            return Insertion {
                superseded: shard.insert(key, block),
                stored: true,
            };
        }
        let superseded = shard.remove(key);
        let stored = !self.ledger.is_full();
        if stored {
            shard.insert(key, block);
        }
        Insertion { superseded, stored }
    }

    #[inline]
    pub(super) fn remove(&mut self, key: Key) -> Option<Block> {
        self.shards[key.shard(SHARDS)].remove(key)
    }

    pub(super) fn contains(&self, key: Key) -> bool {
        self.shards[key.shard(SHARDS)].contains(key)
    }

    /// The blocks as a forked child has them: the same ones, by reference. `site_end` is the length of the
    /// parent's site table.
    pub(super) fn fork(&mut self, site_end: u32) -> Self {
        let shards = std::array::from_fn(|index| self.shards[index].fork(site_end));
        Self {
            shards,
            ledger: Arc::clone(&self.ledger),
        }
    }

    /// Calls `visit` with every live block whose site is not below `first_site`.
    pub(super) fn for_each(&self, first_site: u32, mut visit: impl FnMut(u64, Block)) {
        for shard in &self.shards {
            shard.for_each(first_site, &mut visit);
        }
    }

    /// Whether a removal may need room that the limit does not leave; see [`LiveBlocks::forget_shared`].
    #[inline]
    pub(super) fn is_exhausted(&self) -> bool {
        self.ledger.is_exhausted()
    }

    /// Lets go of what the shard of `key` shares with other processes; `forgotten` gets every live block of it.
    pub(super) fn forget_shared(&mut self, key: Key, forgotten: impl FnMut(Block)) {
        self.shards[key.shard(SHARDS)].forget_shared(forgotten);
    }
}
