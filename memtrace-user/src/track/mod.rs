//! Who holds which memory: live blocks, their sites, and the stacks of those.
//!
//! ```text
//!  Event ─► Tracker ─► Processes ─► Space ─┬► LiveBlocks ─► Shard ─► Table    who is live, by address
//!  stack ─►   │                            ├► Sites ─► Codes                 who allocated it
//!             │                            └► Parking                         who is being reallocated
//!             └─► Dictionary ─► Stacks                                         what ids stand for
//! ```
//!
//! The tracker is owned by the drain, which feeds it decoded records in ring order, and hands out frozen
//! [`Snapshot`]s. It knows no names, no probes and no clock: time is what the drain says. Everything it stores is
//! bounded by [`Limits`].

mod binding;
mod block;
mod codes;
mod dictionary;
mod exited;
mod ledger;
mod limits;
mod live;
mod obituaries;
mod parking;
mod processes;
mod shard;
mod sites;
mod space;
mod stacks;
mod table;
mod tally;
#[cfg(test)]
mod tests;

use std::{collections::HashMap, sync::Arc, time::Duration};

use memtrace_common::{
    event::{self, Event},
    stack::{FRAME_PYTHON, StackHeader},
};

pub use self::limits::Limits;
use self::{dictionary::Dictionary, obituaries::End, processes::Processes, space::Allocation};
use crate::{
    ids::{BindingId, Bytes, Millis, Pid, StackId, Tid},
    python::{book::Word, obituary::Obituary},
    snapshot::{Binding, BlockFilter, ProcessSnapshot, Snapshot, Stack},
};

/// Follows the allocations of all traced processes.
///
/// ```
/// use std::time::Duration;
///
/// use memtrace::{ids::{Bytes, Millis}, snapshot::BlockFilter, track::{Limits, Tracker}};
/// use memtrace_common::event::{self, Event};
///
/// let limits = Limits::from_memory(Bytes(64 << 20));
/// let mut tracker = Tracker::new(limits, BlockFilter::default());
/// let kind_and_size = Event::pack(event::ALLOC, 100);
/// let alloc = Event { kind_and_size, tgid: 7, tid: 7, addr: 0x5000, stack: 1 };
/// tracker.apply(&alloc, Millis(0));
///
/// let snapshot = tracker.freeze(BlockFilter::default(), Duration::from_secs(1));
/// assert_eq!(snapshot.processes[0].live_bytes, Bytes(100));
/// ```
#[derive(Debug)]
pub struct Tracker {
    processes: Processes,
    dictionary: Dictionary,
    events: u64,
    malformed: u64,
    refused_events: u64,
}

impl Tracker {
    /// A tracker that knows nothing yet. `exit_filter` chooses the blocks that the last state of an ended process
    /// counts: a later filter finds none to look at.
    #[must_use]
    pub fn new(limits: Limits, exit_filter: BlockFilter) -> Self {
        Self {
            processes: Processes::new(&limits, exit_filter),
            dictionary: Dictionary::new(limits.stack_bytes),
            events: 0,
            malformed: 0,
            refused_events: 0,
        }
    }

    /// Makes `pid` known before its first event, so that it appears in snapshots.
    pub fn begin(&mut self, pid: Pid, now: Millis) {
        self.processes.begin(pid, now);
    }

    /// Ends `pid` like an exit event does, for a process whose exit was learnt in another way. Nothing happens
    /// when it is unknown.
    pub fn end(&mut self, pid: Pid, now: Millis) {
        self.processes.end(pid, now, &mut self.dictionary);
    }

    /// A process runs the program that it has begun as its `exec_count`-th, which no event may have told of.
    pub fn exec(&mut self, pid: Pid, exec_count: u32, now: Millis) {
        let missed = self.processes.exec_count(pid) < exec_count;
        if missed
            && self
                .processes
                .exec(pid, now, &mut self.dictionary)
                .is_none()
        {
            self.refused_events += 1;
        }
    }

    /// Applies one event of the ring, in ring order. `now` is the time at which its batch was drained.
    #[inline]
    pub fn apply(&mut self, event: &Event, now: Millis) {
        self.events += 1;
        if self.dispatch(event, now).is_none() {
            self.refused_events += 1;
        }
    }

    /// Keeps a stack that events refer to; see [`crate::drain::decode::stack`].
    pub fn add_stack(&mut self, header: &StackHeader, frames: &[u64]) {
        let is_python = frames.iter().any(|frame| frame & FRAME_PYTHON != 0);
        for pid in self.dictionary.add_stack(header, frames) {
            if is_python {
                self.processes.close_stack(pid, StackId(header.id));
            }
        }
    }

    /// Keeps what was copied of a Python code object until the event of its end.
    pub fn add_obituary(&mut self, obituary: Obituary) {
        self.dictionary.add_obituary(obituary);
    }

    /// Whether the event of an end, as it is, lacks its obituary.
    #[must_use]
    pub fn lacks_obituary(&self, event: &Event) -> bool {
        end_of(event).is_some_and(|end| !self.dictionary.obituaries.has(&end))
    }

    /// Whether an obituary is to come whose event has come.
    #[must_use]
    pub fn awaits_obituaries(&self) -> bool {
        self.dictionary.obituaries.awaits()
    }

    /// Ends a round: every stack that events so far refer to has been added, unless it was lost.
    pub fn settle(&mut self) {
        self.processes.settle(&mut self.dictionary);
        self.dictionary.obituaries.settle();
    }

    /// What is to be told of code objects since this was last asked, in ring order.
    #[must_use]
    pub fn take_words(&mut self) -> Vec<Word> {
        self.dictionary.take_words()
    }

    /// Events of kind `CODE_FREED` were lost, none of them before `since`: every code object begins anew, and what was
    /// counted under the old ones has no names.
    pub fn distrust_codes(&mut self, since: Duration) {
        self.processes
            .distrust_codes(since.into(), &mut self.dictionary);
        self.dictionary.obituaries.distrust();
        self.dictionary.tell(Word::Distrust { since });
    }

    /// Counts records that could not be decoded.
    pub fn count_malformed(&mut self, records: u64) {
        self.malformed += records;
    }

    /// The state of every process, counting the live blocks that pass `filter`.
    #[must_use]
    pub fn freeze(&self, filter: BlockFilter, elapsed: Duration) -> Snapshot {
        let processes = self.processes.freeze(&filter, elapsed.into());
        Snapshot {
            elapsed,
            stacks: self.stacks_of(&processes),
            bindings: self.bindings_of(&processes),
            processes,
            events: self.events,
            distinct_stacks: self.dictionary.stacks().len() as u64,
            malformed: self.malformed,
            refused_events: self.refused_events,
            dropped_stacks: self.dictionary.stacks().dropped(),
            unbound_sites: self.dictionary.unbound_sites(),
            dropped_obituaries: self.dictionary.obituaries.dropped(),
            forgotten: self.processes.exited().forgotten(),
        }
    }

    /// Memory that the tracker uses, as it knows it: what its tables have allocated, without the allocator's
    /// own overhead.
    #[must_use]
    pub fn memory_used(&self) -> Bytes {
        Bytes((self.processes.memory() + self.dictionary.bytes()) as u64)
    }

    /// Events applied since the session began.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.events
    }

    /// `None` when the event belongs to one process too many.
    #[inline]
    fn dispatch(&mut self, event: &Event, now: Millis) -> Option<()> {
        let pid = Pid(event.tgid);
        let thread = (pid, Tid(event.tid));
        let call = Allocation {
            addr: event.addr,
            size: event.size(),
            stack: StackId(event.stack),
            now,
        };
        match event.kind() {
            event::ALLOC => self.processes.space(pid, now)?.alloc(call),
            event::FREE => self.processes.space(pid, now)?.free(event.addr),
            event::REALLOC_ENTER => {
                self.processes
                    .space(pid, now)?
                    .realloc_enter(thread, event.addr);
            }
            event::REALLOC_RETURN => {
                self.processes.space(pid, now)?.realloc_return(thread, call);
            }
            event::FORK => self.fork(event, now)?,
            event::EXEC => self.processes.exec(pid, now, &mut self.dictionary)?,
            event::EXIT => self.processes.end(pid, now, &mut self.dictionary),
            event::CODE_FREED => {
                let end = end_of(event);
                self.processes
                    .code_freed(pid, event.addr, end, &mut self.dictionary);
                // Nobody has asked for it: no stack has the code object.
                end.and_then(|end| self.dictionary.obituaries.take(&end));
            }
            _ => self.malformed += 1,
        }
        Some(())
    }

    fn fork(&mut self, event: &Event, now: Millis) -> Option<()> {
        match u32::try_from(event.addr) {
            Ok(child) if child != event.tgid => {
                let shares = event.size() == 1;
                let parent = Pid(event.tgid);
                self.processes
                    .fork(parent, Pid(child), shares, now, &mut self.dictionary)
            }
            _ => {
                self.malformed += 1;
                Some(())
            }
        }
    }

    fn stacks_of(&self, processes: &[ProcessSnapshot]) -> HashMap<StackId, Arc<Stack>> {
        let sites = processes.iter().flat_map(|process| &process.sites);
        let known = sites.filter_map(|site| Some((site.stack, self.dictionary.stack(site.stack)?)));
        known.map(|(id, stack)| (id, Arc::clone(stack))).collect()
    }

    fn bindings_of(&self, processes: &[ProcessSnapshot]) -> HashMap<BindingId, Arc<Binding>> {
        let sites = processes.iter().flat_map(|process| &process.sites);
        let bound =
            sites.filter_map(|site| Some((site.binding, self.dictionary.binding(site.binding)?)));
        bound
            .map(|(id, binding)| (id, Arc::clone(binding)))
            .collect()
    }
}

/// The end that an event tells of, when an obituary was sent of it.
fn end_of(event: &Event) -> Option<End> {
    let has_obituary = event.kind() == event::CODE_FREED && event.size() != 0;
    has_obituary.then_some(End {
        stamp: event.stack,
        pid: Pid(event.tgid),
        addr: event.addr,
    })
}
