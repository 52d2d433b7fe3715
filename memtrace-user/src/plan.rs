//! What will be done: every layer's options, checked against each other. Touches no system.
//!
//! Made by [`cli`](crate::cli) from the arguments, carried out by [`session`](crate::session).

use std::{ffi::OsString, time::Duration};

use crate::{
    ids::Bytes,
    probe::ProbeOptions,
    report::{Destination, Format, ReportOptions},
    resolve::ResolveOptions,
    target::rule::Rule,
};

/// A trace as it was asked for.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Who is traced.
    pub selection: Selection,
    /// The program to start and its arguments.
    pub command: Option<Vec<OsString>>,
    /// Wait when nothing matches yet.
    pub wait: bool,
    /// Probe CPython's allocator where every call of it can be seen.
    pub domains: bool,
    /// How the probes are loaded.
    pub probes: ProbeOptions,
    /// Memory that the tracker may take.
    pub memory_limit: Bytes,
    /// How names are looked up.
    pub resolve: ResolveOptions,
    /// What reports hold.
    pub report: ReportOptions,
    /// Their form.
    pub format: Format,
    /// Where they go.
    pub destination: Destination,
    /// When they are made.
    pub pace: Pace,
    /// How much memtrace says of itself on standard error.
    pub verbosity: log::LevelFilter,
}

/// Who is traced.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// A process is selected when any of these takes it.
    pub rules: Vec<Rule>,
    /// Children of a selected process are selected.
    pub follow_children: bool,
}

/// When reports are made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pace {
    /// Between live reports; `None` = only the final one.
    pub interval: Option<Duration>,
    /// Until the session ends by itself; `None` = when it is told to, or no target is left.
    pub duration: Option<Duration>,
}

/// Memory below which the tracker cannot work.
const LEAST_MEMORY: Bytes = Bytes(16 << 20);
/// A ring is at least a page.
const LEAST_RING: u32 = 4096;

/// Why arguments make no plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// Neither a selector nor a command.
    #[error("nothing to trace: name a process or give a command")]
    NothingSelected,
    /// No block can pass.
    #[error("no block is at least {min} and at most {max} bytes large (--min-size, --max-size)")]
    EmptySizeRange {
        /// Lower bound.
        min: Bytes,
        /// Upper bound.
        max: Bytes,
    },
    /// The trace would end before it begins.
    #[error("a trace of no duration sees nothing (--duration)")]
    NoDuration,
    /// The kernel takes ring buffers of powers of two of pages only.
    #[error("a ring has a power of two of bytes, at least 4096 (--ring-bytes)")]
    RingSize,
    /// Too little to work with.
    #[error("the tracker needs at least 16 MiB (--memory-limit)")]
    MemoryLimit,
}

impl Plan {
    /// The plan, if its parts agree with each other.
    pub fn checked(self) -> Result<Self, PlanError> {
        if self.selection.rules.is_empty() && self.command.is_none() {
            return Err(PlanError::NothingSelected);
        }
        if let (Some(min), Some(max)) = (self.report.filter.min_size, self.report.filter.max_size)
            && min > max
        {
            return Err(PlanError::EmptySizeRange { min, max });
        }
        if self.pace.duration == Some(Duration::ZERO) {
            return Err(PlanError::NoDuration);
        }
        let ring = self.probes.event_ring_bytes;
        if ring < LEAST_RING || !ring.is_power_of_two() {
            return Err(PlanError::RingSize);
        }
        if self.memory_limit < LEAST_MEMORY {
            return Err(PlanError::MemoryLimit);
        }
        Ok(self)
    }
}
