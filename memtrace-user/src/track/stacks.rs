//! The stacks that have arrived, by id.

use std::sync::Arc;

use hashbrown::HashMap;
use memtrace_common::stack::StackHeader;

use crate::{
    ids::StackId,
    snapshot::{Domain, Stack},
};

/// Bytes that a stack needs beside its frames: the entry in a table that has just grown, and its two allocations.
const STACK_COST: usize = 128;

/// The stacks, bounded by their bytes. A stack that arrives twice stays as it was first.
#[derive(Debug)]
pub(super) struct Stacks {
    known: HashMap<StackId, Arc<Stack>>,
    bytes: usize,
    dropped: u64,
}

impl Stacks {
    pub(super) fn new() -> Self {
        Self {
            known: HashMap::new(),
            bytes: 0,
            dropped: 0,
        }
    }

    /// Keeps a stack if all together take no more than `max_bytes`. Whether it was new and is kept.
    pub(super) fn add(&mut self, header: &StackHeader, frames: &[u64], max_bytes: usize) -> bool {
        let id = StackId(header.id);
        if self.known.contains_key(&id) {
            return false;
        }
        let bytes = STACK_COST + size_of_val(frames);
        if self.bytes + bytes > max_bytes {
            self.dropped += 1;
            return false;
        }
        self.bytes += bytes;
        let (domain, frames) = Domain::split(frames);
        let stack = Stack {
            domain,
            frames: frames.into(),
            cut: header.cut,
            cut_addr: header.cut_addr,
        };
        self.known.insert(id, Arc::new(stack));
        true
    }

    pub(super) fn get(&self, id: StackId) -> Option<&Arc<Stack>> {
        self.known.get(&id)
    }

    pub(super) fn len(&self) -> usize {
        self.known.len()
    }

    /// Bytes that the stacks take at most.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Stacks that arrived when the dictionary was full. One that arrives again is counted again.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }
}
