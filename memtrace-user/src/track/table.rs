//! One hash table of blocks by address.
//!
//! Knows tombstones only as blocks. Entries and bytes stand on the ledger from the moment they are stored until
//! the table is dropped. An entry takes 24 bytes and a tag; the table is between 7/16 and 7/8 full, so
//! 29 to 57 bytes for a block.

use std::sync::Arc;

use hashbrown::{HashTable, hash_table::Entry as Place};

use super::{
    block::{Block, Key},
    ledger::Ledger,
};

#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub(super) addr: u64,
    pub(super) block: Block,
}

#[derive(Debug)]
pub(super) struct Table {
    entries: HashTable<Entry>,
    ledger: Arc<Ledger>,
}

/// Tables smaller than this never shrink.
const MIN_SHRINK: usize = 1024;

fn hash(entry: &Entry) -> u64 {
    Key::new(entry.addr).hash
}

impl Table {
    /// An empty table; allocates nothing.
    pub(super) fn new(ledger: Arc<Ledger>) -> Self {
        Self {
            entries: HashTable::new(),
            ledger,
        }
    }

    /// An empty table on the same ledger.
    pub(super) fn sibling(&self) -> Self {
        Self::new(Arc::clone(&self.ledger))
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    #[inline]
    pub(super) fn find(&self, key: Key) -> Option<Block> {
        let found = self.entries.find(key.hash, |entry| entry.addr == key.addr);
        found.map(|entry| entry.block)
    }

    /// Stores a block; gives back the one that was there.
    #[inline]
    pub(super) fn insert(&mut self, key: Key, block: Block) -> Option<Block> {
        if self.entries.len() == self.entries.capacity() {
            self.grow();
        }
        match self
            .entries
            .entry(key.hash, |entry| entry.addr == key.addr, hash)
        {
            Place::Occupied(mut place) => {
                Some(std::mem::replace(&mut place.get_mut().block, block))
            }
            Place::Vacant(place) => {
                place.insert(Entry {
                    addr: key.addr,
                    block,
                });
                self.ledger.add(1);
                None
            }
        }
    }

    #[inline]
    pub(super) fn remove(&mut self, key: Key) -> Option<Block> {
        let place = self
            .entries
            .find_entry(key.hash, |entry| entry.addr == key.addr);
        let (entry, _) = place.ok()?.remove();
        self.ledger.sub(1);
        if self.entries.len() * 8 < self.entries.num_buckets() {
            self.shrink();
        }
        Some(entry.block)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Entry> {
        self.entries.iter().copied()
    }

    /// Drops every entry for which `keep` is false.
    pub(super) fn retain(&mut self, mut keep: impl FnMut(Entry) -> bool) {
        let before = self.len();
        self.entries.retain(|entry| keep(*entry));
        self.ledger.sub(before - self.len());
    }

    #[cold]
    fn grow(&mut self) {
        let before = self.entries.allocation_size();
        self.entries.reserve(1, hash);
        self.ledger.resize(before, self.entries.allocation_size());
    }

    /// Gives memory back once seven eighths are unused. The new size is a quarter of the old or less, so
    /// growing and shrinking cannot alternate.
    #[cold]
    fn shrink(&mut self) {
        if self.entries.num_buckets() < MIN_SHRINK {
            return;
        }
        let before = self.entries.allocation_size();
        self.entries.shrink_to(self.len() * 2, hash);
        self.ledger.resize(before, self.entries.allocation_size());
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        self.ledger.sub(self.len());
        self.ledger.resize(self.entries.allocation_size(), 0);
    }
}
