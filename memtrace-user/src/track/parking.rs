//! Blocks whose reallocation has begun and not ended.
//!
//! Between the two events the allocator may have handed the old address to another thread, or the call may fail
//! and leave the block as it was. So the block waits here, out of the table, under the thread that reallocates
//! it. It counts as live while it waits, in the totals as well as on the ledger.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    block::{Block, Key},
    ledger::Ledger,
};
use crate::ids::{Pid, Tid};

/// A block that waits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parked {
    /// Where it is, or was.
    pub(super) key: Key,
    /// `None` when the address was unknown.
    pub(super) block: Option<Block>,
}

#[derive(Debug)]
pub(super) struct Parking {
    /// Ordered, so that two blocks parked under one address always meet the same fate.
    threads: BTreeMap<(Pid, Tid), Parked>,
    ledger: Arc<Ledger>,
}

impl Parking {
    pub(super) fn new(ledger: Arc<Ledger>) -> Self {
        Self {
            threads: BTreeMap::new(),
            ledger,
        }
    }

    /// Parks what a thread reallocates. An unknown block is not parked at the limit of stored blocks; its
    /// reallocation then counts as a plain allocation.
    pub(super) fn put(&mut self, thread: (Pid, Tid), parked: Parked) {
        if parked.block.is_some() || !self.ledger.is_full() {
            self.threads.insert(thread, parked);
            self.ledger.add(1);
        }
    }

    pub(super) fn take(&mut self, thread: (Pid, Tid)) -> Option<Parked> {
        let parked = self.threads.remove(&thread)?;
        self.ledger.sub(1);
        Some(parked)
    }

    /// Takes what the threads of one process have parked.
    pub(super) fn take_all_of(&mut self, pid: Pid) -> Vec<Parked> {
        let threads = (pid, Tid(0))..=(pid, Tid(u32::MAX));
        let left = self.threads.extract_if(threads, |_, _| true);
        let left: Vec<Parked> = left.map(|(_, parked)| parked).collect();
        self.ledger.sub(left.len());
        left
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Key, Block)> {
        self.threads
            .values()
            .filter_map(|parked| Some((parked.key, parked.block?)))
    }
}

impl Drop for Parking {
    fn drop(&mut self) {
        self.ledger.sub(self.threads.len());
    }
}
