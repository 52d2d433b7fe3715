//! What the ids in events stand for: stacks, and the code objects that their Python frames mean in a process.
//!
//! Stacks and bindings share one bound of bytes and are kept for the whole run: sites refer to them. What the
//! names' side must hear ([`Word`]) is collected here until the drain takes it.

use std::{
    hash::{BuildHasher as _, RandomState},
    mem,
    sync::Arc,
};

use hashbrown::{HashMap, HashTable};
use memtrace_common::stack::StackHeader;

use super::{
    obituaries::{End, Obituaries},
    stacks::Stacks,
};
use crate::{
    ids::{BindingId, CodeId, Pid, StackId},
    python::{book::Word, obituary::Obituary},
    snapshot::{Binding, Stack},
};

/// Words kept until they are taken; beyond them, names are given up ([`Word::Missed`]).
const MAX_WORDS: usize = 1 << 16;
/// Processes and stacks that came too late, in all; beyond them, sites stay unbound.
const MAX_LATE: usize = 1 << 14;
/// Bytes that a binding takes beside its codes.
const BINDING_COST: usize = 112;

/// Stacks, bindings and the numbers of code objects.
#[derive(Debug)]
pub(super) struct Dictionary {
    stacks: Stacks,
    bindings: Vec<Arc<Binding>>,
    by_content: HashTable<BindingId>,
    hasher: RandomState,
    binding_bytes: usize,
    max_bytes: usize,
    next_code: u32,
    pub(super) obituaries: Obituaries,
    words: Vec<Word>,
    missed: bool,
    /// Stacks that had not arrived when their sites were to be bound, and whose sites those are.
    late: HashMap<StackId, Vec<Pid>>,
    late_count: usize,
    unbound_sites: u64,
}

impl Dictionary {
    pub(super) fn new(max_bytes: usize) -> Self {
        Self {
            stacks: Stacks::new(),
            bindings: Vec::new(),
            by_content: HashTable::new(),
            hasher: RandomState::new(),
            binding_bytes: 0,
            max_bytes,
            next_code: CodeId::FIRST.0,
            obituaries: Obituaries::default(),
            words: Vec::new(),
            missed: false,
            late: HashMap::new(),
            late_count: 0,
            unbound_sites: 0,
        }
    }

    /// Keeps a stack. Gives back the processes that have waited for it too long.
    pub(super) fn add_stack(&mut self, header: &StackHeader, frames: &[u64]) -> Vec<Pid> {
        let taken = self.binding_bytes;
        if !self.stacks.add(header, frames, self.max_bytes - taken) {
            return Vec::new();
        }
        let waiting = self.late.remove(&StackId(header.id)).unwrap_or_default();
        self.late_count -= waiting.len();
        waiting
    }

    pub(super) fn stack(&self, id: StackId) -> Option<&Arc<Stack>> {
        self.stacks.get(id)
    }

    pub(super) fn stacks(&self) -> &Stacks {
        &self.stacks
    }

    pub(super) fn binding(&self, id: BindingId) -> Option<&Arc<Binding>> {
        let index = id.0.checked_sub(1)? as usize;
        self.bindings.get(index)
    }

    /// The number of a binding; [`BindingId::NONE`] when there is no room.
    pub(super) fn bind(&mut self, stack: StackId, codes: Vec<CodeId>) -> BindingId {
        let hash = |binding: &Binding| self.hasher.hash_one(binding);
        let codes = codes.into();
        let binding = Binding { stack, codes };
        let at = |id: BindingId| &self.bindings[id.0 as usize - 1];
        let known = self
            .by_content
            .find(hash(&binding), |id| **at(*id) == binding);
        if let Some(known) = known {
            return *known;
        }
        let bytes = BINDING_COST + size_of_val(&*binding.codes);
        if self.stacks.bytes() + self.binding_bytes + bytes > self.max_bytes {
            self.unbound_sites += 1;
            return BindingId::NONE;
        }
        self.binding_bytes += bytes;
        let id = BindingId(self.bindings.len() as u32 + 1);
        self.by_content
            .insert_unique(hash(&binding), id, |id| hash(at(*id)));
        self.bindings.push(Arc::new(binding));
        id
    }

    /// A number for a code object that was not known.
    pub(super) fn number(&mut self, pid: Pid, addr: u64) -> CodeId {
        let id = CodeId(self.next_code);
        // Four thousand million code objects in one run: whoever makes them gets no names for the rest.
        let Some(next) = self.next_code.checked_add(1) else {
            return CodeId::NO_ROOM;
        };
        self.next_code = next;
        self.tell(Word::New { id, pid, addr });
        id
    }

    /// Keeps what was copied of a code object at its end.
    pub(super) fn add_obituary(&mut self, obituary: Obituary) {
        if let Some((id, obituary)) = self.obituaries.add(obituary) {
            self.tell(Word::Copied { id, obituary });
        }
    }

    /// Tells that `pid` has freed a code object, with its obituary if one was sent.
    pub(super) fn tell_freed(&mut self, id: CodeId, pid: Pid, end: Option<End>) {
        if let Some(end) = end {
            match self.obituaries.take(&end) {
                Some(obituary) => self.tell(Word::Copied { id, obituary }),
                None => self.obituaries.wait_for(end, id),
            }
        }
        self.tell(Word::Freed { id, pid });
    }

    pub(super) fn tell(&mut self, word: Word) {
        if self.words.len() < MAX_WORDS {
            self.words.push(word);
        } else {
            self.missed = true;
        }
    }

    /// What is to be told, in order.
    pub(super) fn take_words(&mut self) -> Vec<Word> {
        let mut words = mem::take(&mut self.words);
        if mem::take(&mut self.missed) {
            words.push(Word::Missed);
        }
        words
    }

    /// A site of `pid` could not be bound because its stack is not there.
    pub(super) fn wait_for(&mut self, stack: StackId, pid: Pid) {
        self.unbound_sites += 1;
        if self.late_count < MAX_LATE {
            self.late_count += 1;
            self.late.entry(stack).or_default().push(pid);
        }
    }

    /// Counts sites that will never be bound.
    pub(super) fn count_unbound(&mut self, sites: usize) {
        self.unbound_sites += sites as u64;
    }

    pub(super) fn unbound_sites(&self) -> u64 {
        self.unbound_sites
    }

    /// Bytes that stacks and bindings take at most.
    pub(super) fn bytes(&self) -> usize {
        self.stacks.bytes() + self.binding_bytes
    }
}
