//! Who holds which memory: live blocks, their sites, and the stacks of those.
//!
//! ```text
//!  Event ─► Tracker ─► Processes ─► Space ─┬► LiveBlocks ─► Shard ─► Table    who is live, by address
//!  stack ─►   │                            ├► Sites                           who allocated it
//!             └─► Stacks                   └► Parking                         who is being reallocated
//! ```
//!
//! The tracker is owned by the drain, which feeds it decoded records in ring order, and hands out frozen
//! [`Snapshot`]s. It knows no names, no probes and no clock: time is what the drain says. Everything it stores is
//! bounded by [`Limits`].

mod block;
mod exited;
mod ledger;
mod limits;
mod live;
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
    stack::StackHeader,
};

pub use self::limits::Limits;
use self::{processes::Processes, space::Allocation, stacks::Stacks};
use crate::{
    ids::{Bytes, Millis, Pid, StackId, Tid},
    snapshot::{BlockFilter, ProcessSnapshot, Snapshot, Stack},
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
    stacks: Stacks,
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
            stacks: Stacks::new(limits.stack_bytes),
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
        self.processes.end(pid, now);
    }

    /// A process runs the program that it has begun as its `exec_count`-th, which no event may have told of.
    pub fn exec(&mut self, pid: Pid, exec_count: u32, now: Millis) {
        if self.processes.exec_count(pid) < exec_count && self.processes.exec(pid, now).is_none() {
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
        self.stacks.add(header, frames);
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
            processes,
            events: self.events,
            distinct_stacks: self.stacks.len() as u64,
            malformed: self.malformed,
            refused_events: self.refused_events,
            dropped_stacks: self.stacks.dropped(),
            forgotten: self.processes.exited().forgotten(),
        }
    }

    /// Memory that the tracker uses, as it knows it: what its tables have allocated, without the allocator's
    /// own overhead.
    #[must_use]
    pub fn memory_used(&self) -> Bytes {
        Bytes((self.processes.memory() + self.stacks.bytes()) as u64)
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
            event::EXEC => self.processes.exec(pid, now)?,
            event::EXIT => self.processes.end(pid, now),
            _ => self.malformed += 1,
        }
        Some(())
    }

    fn fork(&mut self, event: &Event, now: Millis) -> Option<()> {
        match u32::try_from(event.addr) {
            Ok(child) if child != event.tgid => {
                let shares = event.size() == 1;
                self.processes
                    .fork(Pid(event.tgid), Pid(child), shares, now)
            }
            _ => {
                self.malformed += 1;
                Some(())
            }
        }
    }

    fn stacks_of(&self, processes: &[ProcessSnapshot]) -> HashMap<StackId, Arc<Stack>> {
        let sites = processes.iter().flat_map(|process| &process.sites);
        let known = sites.filter_map(|site| Some((site.stack, self.stacks.get(site.stack)?)));
        known.map(|(id, stack)| (id, Arc::clone(stack))).collect()
    }
}
