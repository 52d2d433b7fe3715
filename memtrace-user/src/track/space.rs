//! The memory of one process generation: its live blocks, its sites, its totals.
//!
//! Every rule of what an allocator event means stands here; which process an event belongs to, and when a
//! generation begins and ends, is decided by [`Processes`](super::processes::Processes).

use std::sync::Arc;

use super::{
    block::{Block, Key},
    codes::Codes,
    ledger::Ledger,
    live::LiveBlocks,
    parking::{Parked, Parking},
    sites::{Openings, Sites},
    tally::Tally,
};
use crate::{
    ids::{Bytes, Millis, Pid, StackId, Tid},
    snapshot::{BlockFilter, ProcessSnapshot},
};

/// What limits the blocks, the sites and the code objects of all processes together, and where opened sites are
/// announced.
#[derive(Clone, Debug)]
pub(super) struct Ledgers {
    pub(super) blocks: Arc<Ledger>,
    pub(super) sites: Arc<Ledger>,
    pub(super) codes: Arc<Ledger>,
    pub(super) openings: Arc<Openings>,
}

/// One call of an allocator that gave a block.
#[derive(Clone, Copy, Debug)]
pub(super) struct Allocation {
    pub(super) addr: u64,
    pub(super) size: u64,
    pub(super) stack: StackId,
    pub(super) now: Millis,
}

#[derive(Debug)]
pub(super) struct Space {
    pub(super) begun: Millis,
    live: LiveBlocks,
    parked: Parking,
    pub(super) sites: Sites,
    pub(super) codes: Codes,
    /// The running totals in the form in which they are frozen; has no sites.
    ///
    /// Sums of bytes wrap instead of overflowing. No sum of real sizes comes near the end of a `u64`; for sizes
    /// that a damaged event makes up, wrapping lets a free take back exactly what the allocation added.
    totals: ProcessSnapshot,
}

impl Space {
    /// The memory of a process of which nothing is known yet.
    pub(super) fn new(pid: Pid, exec_count: u32, begun: Millis, ledgers: &Ledgers) -> Self {
        Self {
            begun,
            live: LiveBlocks::new(Arc::clone(&ledgers.blocks)),
            parked: Parking::new(Arc::clone(&ledgers.blocks)),
            sites: Sites::new(
                pid,
                Arc::clone(&ledgers.openings),
                Arc::clone(&ledgers.sites),
            ),
            codes: Codes::new(Arc::clone(&ledgers.codes)),
            totals: ProcessSnapshot {
                pid,
                exec_count,
                begun: begun.into(),
                ..ProcessSnapshot::default()
            },
        }
    }

    pub(super) fn pid(&self) -> Pid {
        self.totals.pid
    }

    pub(super) fn exec_count(&self) -> u32 {
        self.totals.exec_count
    }

    /// Whether the generation has neither allocated, freed nor inherited anything.
    pub(super) fn is_untouched(&self) -> bool {
        let totals = &self.totals;
        totals.allocated_blocks == 0
            && totals.live_blocks == 0
            && totals.unknown_frees == 0
            && totals.folded_blocks == 0
    }

    /// A block was returned.
    #[inline]
    pub(super) fn alloc(&mut self, call: Allocation) {
        let site = self.sites.of(call.stack).unwrap_or_else(|| {
            self.totals.siteless_blocks += 1;
            self.sites.fallback()
        });
        let block = Block::new(call.size, site, call.now);
        let key = Key::new(call.addr);
        self.make_room(key);
        let insertion = self.live.insert(key, block);
        if let Some(old) = insertion.superseded {
            self.supersede(old);
        }
        let counts = self.sites.at(site);
        add(&mut counts.allocated_bytes, call.size);
        counts.allocated_blocks += 1;
        add(&mut self.totals.allocated_bytes, call.size);
        self.totals.allocated_blocks += 1;
        if insertion.stored {
            self.count_in(block);
        } else {
            self.count_folded(block);
        }
    }

    /// A block is about to be freed.
    #[inline]
    pub(super) fn free(&mut self, addr: u64) {
        let block = self.remove(Key::new(addr));
        self.count_freed(block);
    }

    /// A thread begins to reallocate a block.
    pub(super) fn realloc_enter(&mut self, thread: (Pid, Tid), old: u64) {
        // A thread that is inside already has lost its return. Most reallocations succeed.
        let unended = self.parked.take(thread).and_then(|parked| parked.block);
        if let Some(block) = unended {
            self.supersede(block);
        }
        let key = Key::new(old);
        let block = self.remove(key);
        self.parked.put(thread, Parked { key, block });
    }

    /// The thread's reallocation has ended. A null address means failure when a size was asked for; otherwise the
    /// allocator has freed the block.
    pub(super) fn realloc_return(&mut self, thread: (Pid, Tid), call: Allocation) {
        let failed = call.addr == 0 && call.size != 0;
        match self.parked.take(thread) {
            Some(parked) if failed => self.unpark(parked),
            Some(parked) => self.count_freed(parked.block),
            None => {}
        }
        if call.addr != 0 {
            self.alloc(call);
        }
    }

    /// A process that shared this memory goes its own way; what its threads were reallocating stays.
    pub(super) fn leave(&mut self, pid: Pid) {
        for parked in self.parked.take_all_of(pid) {
            self.unpark(parked);
        }
    }

    /// The memory as a child has it that was forked at `now`: the same blocks by reference, all of them inherited.
    ///
    /// Where the limits leave no room, the child's inheritance is folded as a whole.
    pub(super) fn fork(&mut self, child: Pid, now: Millis, ledgers: &Ledgers) -> Self {
        let mut space = Self::new(child, 0, now, ledgers);
        let ours = &self.totals;
        space.totals.frees_uncertain = ours.frees_uncertain;
        if ledgers.blocks.is_full() || !ledgers.sites.fits(self.sites.len() as usize) {
            space.totals.folded_blocks = ours.live_blocks;
            space.totals.folded_bytes = ours.live_bytes;
            space.totals.frees_uncertain |= ours.live_blocks > 0;
            return space;
        }
        space.totals.live_blocks = ours.live_blocks;
        space.totals.live_bytes = ours.live_bytes;
        space.totals.inherited_blocks = ours.live_blocks;
        space.live = self.live.fork(self.sites.len());
        space.sites = self.sites.fork(child);
        if let Some(codes) = self.codes.fork() {
            space.codes = codes;
            space.sites.set_opened(self.sites.opened().to_vec());
        }
        // The child has none of the parent's other threads: what they reallocate stays as it is, unless the
        // allocator had already given the address away.
        for (key, block) in self.parked.iter() {
            if !space.restore(key, block) {
                space.count_out(block);
            }
        }
        space.totals.peak_bytes = space.totals.live_bytes;
        space
    }

    /// The state at `now`, counting the live blocks that pass `filter`.
    ///
    /// Reads every block of this process's own; inherited ones only when their sizes matter, because until then
    /// the sites know all about them: they share one age.
    pub(super) fn freeze(&self, filter: &BlockFilter, now: Millis) -> ProcessSnapshot {
        let first_own = self.sites.first_own();
        let first_read = if filter.depends_on_size() {
            0
        } else {
            first_own
        };
        let mut tally = Tally::new(&self.sites, filter, self.begun, now);
        self.live
            .for_each(first_read, |_, block| tally.count(block));
        let parked = self.parked.iter().map(|(_, block)| block);
        parked
            .filter(|block| block.site >= first_read)
            .for_each(|block| tally.count(block));
        tally.count_sites_below(first_read);
        tally.finish(&self.totals)
    }

    /// Bytes that this process alone needs beyond its blocks.
    pub(super) fn memory(&self) -> usize {
        size_of::<Self>() + self.sites.memory() + self.codes.memory()
    }

    /// Takes a block out of the table.
    #[inline]
    fn remove(&mut self, key: Key) -> Option<Block> {
        self.make_room(key);
        self.live.remove(key)
    }

    /// Sees to it that a removal at `key` needs no room where the limit leaves none.
    #[inline]
    fn make_room(&mut self, key: Key) {
        if self.live.is_exhausted() {
            self.fold_shared(key);
        }
    }

    /// Folds the part of what this process shares with its relatives that `key` belongs to.
    #[cold]
    fn fold_shared(&mut self, key: Key) {
        let mut forgotten = Vec::new();
        self.live.forget_shared(key, |block| forgotten.push(block));
        forgotten.into_iter().for_each(|block| self.fold(block));
    }

    /// Ends a reallocation that left the block as it was.
    fn unpark(&mut self, parked: Parked) {
        if let Some(block) = parked.block
            && !self.restore(parked.key, block)
        {
            self.supersede(block);
        }
    }

    /// Puts a block that never ceased to count back into the table; `false` when its address is in use by now.
    fn restore(&mut self, key: Key, block: Block) -> bool {
        if self.live.contains(key) {
            return false;
        }
        if !self.live.insert(key, block).stored {
            self.fold(block);
        }
        true
    }

    fn fold(&mut self, block: Block) {
        self.count_out(block);
        self.count_folded(block);
    }

    fn count_freed(&mut self, block: Option<Block>) {
        match block {
            Some(block) => self.count_out(block),
            None => self.totals.unknown_frees += 1,
        }
    }

    fn supersede(&mut self, old: Block) {
        self.count_out(old);
        self.totals.superseded_blocks += 1;
    }

    #[inline]
    fn count_in(&mut self, block: Block) {
        let counts = self.sites.at(block.site);
        add(&mut counts.live_bytes, block.size());
        counts.live_blocks += 1;
        add(&mut self.totals.live_bytes, block.size());
        self.totals.live_blocks += 1;
        self.totals.peak_bytes = self.totals.peak_bytes.max(self.totals.live_bytes);
    }

    #[inline]
    fn count_out(&mut self, block: Block) {
        let inherited = block.site < self.sites.first_own();
        let counts = self.sites.at(block.site);
        sub(&mut counts.live_bytes, block.size());
        counts.live_blocks -= 1;
        sub(&mut self.totals.live_bytes, block.size());
        self.totals.live_blocks -= 1;
        self.totals.inherited_blocks -= u64::from(inherited);
    }

    fn count_folded(&mut self, block: Block) {
        self.totals.folded_blocks += 1;
        add(&mut self.totals.folded_bytes, block.size());
        self.totals.frees_uncertain = true;
    }
}

fn add(sum: &mut Bytes, size: u64) {
    sum.0 = sum.0.wrapping_add(size);
}

fn sub(sum: &mut Bytes, size: u64) {
    sum.0 = sum.0.wrapping_sub(size);
}
