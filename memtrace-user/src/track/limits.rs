//! How much the tracker may keep.

use crate::ids::Bytes;

/// Every limit of the tracker. What happens at a limit is counted and stands in the snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Live blocks of all processes together; those that relatives share count once. Beyond it, new blocks are
    /// folded: counted but not followed (`folded_blocks`).
    ///
    /// Marks that a process has freed what its relatives still share may take a quarter more; beyond that, what it
    /// shares is folded. A single fork may exceed the limit once, by copying up to as much as is stored.
    pub live_blocks: usize,
    /// Sites of all processes together. Beyond it, blocks count under the null stack (`siteless_blocks`).
    pub sites: usize,
    /// Bytes of the dictionary of stacks and bindings. Beyond it, new stacks are dropped (`dropped_stacks`) and their sites
    /// have no frames; new bindings are left out (`unbound_sites`) and their Python frames have no names.
    pub stack_bytes: usize,
    /// Bytes for the Python code objects of all processes and for who relies on them. Beyond it, new ones have no names.
    pub code_bytes: usize,
    /// Running processes, and as many children that share the memory of one. Beyond it, events of new processes
    /// are refused (`refused_events`).
    pub processes: usize,
    /// Exited processes kept. Beyond it, the oldest are only summed up (`forgotten`).
    pub exited: usize,
    /// Sites of all exited processes kept; beyond it, the same.
    pub exited_sites: usize,
}

/// Bytes that a live block may need, table growth and marks of freed shared blocks included:
/// (24 + 1) / (7/16) for the emptiest table, times 5/4.
const BLOCK_COST: usize = 72;
/// Bytes that a site may need: its counts in a vector that has just grown, and its entry in the index.
const SITE_COST: usize = 192;
/// Bytes of one exited process's site.
const EXITED_SITE_COST: usize = 64;
/// Bytes of a process that has done nothing yet.
const PROCESS_COST: usize = 8 << 10;

impl Limits {
    /// Divides the memory that the tracker may use, in 32nds: 21 for live blocks, 4 for stacks, 2 each for sites, exited
    /// processes and running ones, 1 for code objects.
    #[must_use]
    pub fn from_memory(memory: Bytes) -> Self {
        let sixteenth = usize::try_from(memory.0 / 16).unwrap_or(usize::MAX / 16);
        Self {
            live_blocks: sixteenth * 21 / 2 / BLOCK_COST,
            sites: sixteenth / SITE_COST,
            stack_bytes: sixteenth * 2,
            code_bytes: sixteenth / 2,
            processes: sixteenth / PROCESS_COST,
            exited: 1024,
            exited_sites: sixteenth / EXITED_SITE_COST,
        }
    }
}
