//! The tracker's state at one moment: frozen, owned, ids only.
//!
//! Made by [`track`](crate::track) on the drain thread, consumed by [`resolve`](crate::resolve) and
//! [`report`](crate::report) elsewhere. Knows no names and no processes beyond their ids.

use std::{collections::HashMap, sync::Arc, time::Duration};

use crate::ids::{Bytes, Pid, StackId};

/// What was frozen.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Time since the session began.
    pub elapsed: Duration,
    /// Every process seen, those that have exited included.
    pub processes: Vec<ProcessSnapshot>,
    /// The stacks that the sites of this snapshot refer to. A site whose stack was lost has no entry.
    pub stacks: HashMap<StackId, Arc<Stack>>,
    /// Events applied since the session began.
    pub events: u64,
    /// Distinct stacks received since the session began.
    pub distinct_stacks: u64,
    /// Records that could not be decoded.
    pub malformed: u64,
}

/// One generation of one process.
#[derive(Clone, Debug, Default)]
pub struct ProcessSnapshot {
    /// Its process id.
    pub pid: Pid,
    /// Programs it has begun since it was first seen: 0 for the first.
    pub exec_count: u32,
    /// Whether it has exited (or begun another program, which ends the generation).
    pub exited: bool,
    /// Requested bytes that are live.
    pub live_bytes: Bytes,
    /// Blocks that are live.
    pub live_blocks: u64,
    /// Of these, blocks inherited from the parent at fork.
    pub inherited_blocks: u64,
    /// Requested bytes allocated since attach.
    pub allocated_bytes: Bytes,
    /// Blocks allocated since attach.
    pub allocated_blocks: u64,
    /// Frees of blocks that were not known: allocated before attach, or their event was lost.
    pub unknown_frees: u64,
    /// Live blocks whose address was handed out again: their free was lost.
    pub superseded_blocks: u64,
    /// Largest `live_bytes` seen.
    pub peak_bytes: Bytes,
    /// Per site; the order means nothing.
    pub sites: Vec<SiteCounts>,
}

/// One stack's share of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SiteCounts {
    /// The stack.
    pub stack: StackId,
    /// Requested bytes that are live.
    pub live_bytes: Bytes,
    /// Blocks that are live.
    pub live_blocks: u64,
    /// Requested bytes allocated since attach.
    pub allocated_bytes: Bytes,
    /// Blocks allocated since attach.
    pub allocated_blocks: u64,
    /// Age of the oldest live block; zero when none lives.
    pub oldest: Duration,
}

/// Which live blocks a freeze counts: those that pass every bound.
#[derive(Clone, Copy, Debug, Default)]
pub struct BlockFilter {
    /// Only blocks at least this old.
    pub min_age: Duration,
    /// Only blocks of at least this many bytes.
    pub min_size: Option<Bytes>,
    /// Only blocks of at most this many bytes.
    pub max_size: Option<Bytes>,
}

/// A stack as it was received.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stack {
    /// Frame words (`memtrace_common::stack::frame`), innermost first.
    pub frames: Box<[u64]>,
    /// One of `memtrace_common::stack::CUT_*`.
    pub cut: u8,
    /// Program counter at which the walk was cut; 0 when complete.
    pub cut_addr: u64,
}
