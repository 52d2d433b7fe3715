//! The tracker against a model that is too simple to be wrong, and each of its rules by name.

mod bounds;
mod calls;
mod codes;
mod lifetimes;
mod model;
mod obituaries;
mod random;

use std::time::Duration;

use memtrace_common::event::{self, Event};

use super::{Limits, Tracker};
use crate::{
    ids::{Bytes, Millis, Pid, StackId},
    snapshot::{BlockFilter, ProcessSnapshot, SiteCounts, Snapshot},
};

/// Limits that no test reaches.
fn ample() -> Limits {
    Limits::from_memory(Bytes(1 << 30))
}

/// An event of a process, by its first thread.
fn event(kind: u8, tgid: u32, addr: u64, size: u64, stack: u64) -> Event {
    Event {
        kind_and_size: Event::pack(kind, size),
        tgid,
        tid: tgid,
        addr,
        stack,
    }
}

fn alloc(tgid: u32, addr: u64, size: u64, stack: u64) -> Event {
    event(event::ALLOC, tgid, addr, size, stack)
}

fn free(tgid: u32, addr: u64) -> Event {
    event(event::FREE, tgid, addr, 0, 0)
}

fn realloc_enter(tgid: u32, old: u64) -> Event {
    event(event::REALLOC_ENTER, tgid, old, 0, 0)
}

fn realloc_return(tgid: u32, addr: u64, size: u64, stack: u64) -> Event {
    event(event::REALLOC_RETURN, tgid, addr, size, stack)
}

fn fork(tgid: u32, child: u32) -> Event {
    event(event::FORK, tgid, child.into(), 0, 0)
}

fn vfork(tgid: u32, child: u32) -> Event {
    event(event::FORK, tgid, child.into(), 1, 0)
}

fn exec(tgid: u32) -> Event {
    event(event::EXEC, tgid, 0, 0, 0)
}

fn exit(tgid: u32) -> Event {
    event(event::EXIT, tgid, 0, 0, 0)
}

/// The same event by another thread of the process.
fn by(tid: u32, event: Event) -> Event {
    Event { tid, ..event }
}

/// A tracker that has seen these events, one a second from second 0 on.
fn tracker(limits: Limits, events: &[Event]) -> Tracker {
    let mut tracker = Tracker::new(limits, BlockFilter::default());
    for (second, event) in (0..).zip(events) {
        tracker.apply(event, Millis(second * 1_000));
    }
    tracker
}

/// What is known in the second after the last of these events.
fn after(events: &[Event]) -> Snapshot {
    let elapsed = Duration::from_secs(events.len() as u64);
    tracker(ample(), events).freeze(BlockFilter::default(), elapsed)
}

/// The processes with this id: exited generations last, in the order in which they ended.
fn generations(snapshot: &Snapshot, pid: u32) -> Vec<&ProcessSnapshot> {
    let processes = snapshot.processes.iter();
    processes
        .filter(|process| process.pid == Pid(pid))
        .collect()
}

/// The only process.
fn only(snapshot: &Snapshot) -> &ProcessSnapshot {
    assert_eq!(snapshot.processes.len(), 1, "{:?}", snapshot.processes);
    &snapshot.processes[0]
}

fn live(process: &ProcessSnapshot) -> (u64, u64) {
    (process.live_blocks, process.live_bytes.0)
}

fn site(process: &ProcessSnapshot, stack: u64) -> SiteCounts {
    let site = process
        .sites
        .iter()
        .find(|site| site.stack == StackId(stack));
    site.copied().unwrap_or_default()
}
