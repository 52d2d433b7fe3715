//! Counters that the probes keep for every CPU: what was seen, what was lost, and why a stack was cut.

use crate::{event, kind, stack};

wire! {
    /// Value of the per-CPU map `STATS`.
    pub struct Stats (752) {
        /// Entries of probed functions, by kind.
        pub entries: [u64; kind::COUNT],
        /// Returns of probed functions, by kind.
        pub returns: [u64; kind::COUNT],
        /// Events produced, by event kind: consumed + lost.
        pub produced: [u64; event::COUNT],
        /// Events for which the ring had no room, by event kind.
        pub lost: [u64; event::COUNT],
        /// Stacks walked, by the reason they were cut (`CUT_NONE` = complete).
        pub walked: [u64; stack::CUT_COUNT],
        /// Frames of all walked stacks.
        pub frames: u64,
        /// Stacks sent.
        pub stacks_sent: u64,
        /// Stacks for which the stack ring had no room; sent when they are met again.
        pub stacks_lost: u64,
        /// Obituaries sent.
        pub obituaries_sent: u64,
        /// Obituaries for which the ring had no room.
        pub obituaries_lost: u64,
        /// Code objects whose end was seen and that could not be copied: not readable, or too large.
        pub obituaries_unread: u64,
        /// Notices for which the notice ring had no room.
        pub notices_lost: u64,
        /// Calls that could not be followed because the table of threads was full.
        pub threads_full: u64,
        /// Stacks that could not be walked because all scratch slots of the CPU were taken.
        pub scratch_busy: u64,
        /// Nested allocator calls that did not count.
        pub nested: u64,
        /// `posix_memalign` results that could not be read back.
        pub result_faults: u64,
        /// Kernel look-ups of a mapping that the process's own table did not have.
        pub vma_lookups: u64,
        /// Returns that belonged to no entry.
        pub stray_returns: u64,
        /// Calls whose kind the probe does not know.
        pub unknown_kinds: u64,
    }
}
