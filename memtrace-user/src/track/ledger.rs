//! How much the tracker stores, against how much it may.
//!
//! Every structure that grows with the target holds a [`Ledger`] and books what it stores when it stores it,
//! and on drop books it out. What happens at the limit is decided by the holder; see
//! [`Limits`](super::Limits).

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

/// Counts of one kind of entry, shared by all who store it.
///
/// The counters are atomic only so that the tracker can move to its thread. Everyone who holds a ledger is owned
/// by one tracker and reached through its `&mut`, so a load and a store need not be one operation.
#[derive(Debug)]
pub(super) struct Ledger {
    entries: AtomicUsize,
    bytes: AtomicUsize,
    limit: usize,
}

impl Ledger {
    /// An empty ledger for at most `limit` entries.
    pub(super) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            entries: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            limit,
        })
    }

    pub(super) fn add(&self, entries: usize) {
        self.entries.store(self.entries() + entries, Relaxed);
    }

    pub(super) fn sub(&self, entries: usize) {
        self.entries.store(self.entries() - entries, Relaxed);
    }

    /// Books that an allocation of `before` bytes has become one of `after` bytes.
    pub(super) fn resize(&self, before: usize, after: usize) {
        self.bytes.store(self.bytes() + after - before, Relaxed);
    }

    pub(super) fn entries(&self) -> usize {
        self.entries.load(Relaxed)
    }

    /// Bytes allocated for the entries.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Relaxed)
    }

    /// Whether a new entry must not be stored.
    pub(super) fn is_full(&self) -> bool {
        self.entries() >= self.limit
    }

    /// Whether so many new entries may be stored.
    pub(super) fn fits(&self, entries: usize) -> bool {
        self.entries() + entries <= self.limit
    }

    /// Whether even an entry that only says "gone" must not be stored. Such entries have a quarter more room,
    /// so that a process at the limit can still free what it shares with its relatives.
    pub(super) fn is_exhausted(&self) -> bool {
        self.entries() >= self.limit.saturating_add(self.limit / 4)
    }
}
