//! What a workload says of itself: the lines of `workloads/truth.h`.

use std::fmt;

use serde::Deserialize;

/// Blocks and bytes, live now and allocated since the go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Counts {
    /// Blocks not freed.
    pub live_blocks: u64,
    /// Their requested bytes.
    pub live_bytes: u64,
    /// Blocks ever returned.
    pub allocated_blocks: u64,
    /// Their requested bytes.
    pub allocated_bytes: u64,
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.live_blocks += other.live_blocks;
        self.live_bytes += other.live_bytes;
        self.allocated_blocks += other.allocated_blocks;
        self.allocated_bytes += other.allocated_bytes;
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "live {} blocks {} B, allocated {} blocks {} B",
            self.live_blocks, self.live_bytes, self.allocated_blocks, self.allocated_bytes
        )
    }
}

/// One line that a workload prints.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(untagged)]
pub enum Line {
    /// What a site holds.
    Site {
        /// The process.
        pid: u32,
        /// Which program of an exec chain.
        exec: u32,
        /// The site's function.
        site: String,
        /// What it holds.
        #[serde(flatten)]
        counts: Counts,
    },
    /// All work is done, the truth is told.
    Done {
        /// The process.
        done: u32,
        /// Which program of an exec chain.
        exec: u32,
        /// Calls of the allocator since the go.
        calls: u64,
        /// Wall time since the go.
        ns: u64,
    },
    /// Waits for its go.
    Ready {
        /// The process.
        ready: u32,
        /// Which program of an exec chain.
        exec: u32,
    },
    /// What the benchmark loop measured.
    Pair {
        /// Nanoseconds of CPU time that malloc and free of one block take.
        ns_per_pair: f64,
    },
}

/// The sites of one program and what they hold, in the order of their declaration.
pub type Truth = Vec<(String, Counts)>;

/// Parses the lines that are a workload's; other lines (a preloaded library's warnings) are left out.
#[must_use]
pub fn parse(lines: &[String]) -> Vec<Line> {
    lines
        .iter()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect()
}

/// The truth that program `exec` of `pid` has told at the end of its `stage` (from 0), and its `Done`.
#[must_use]
pub fn told(lines: &[Line], pid: u32, exec: u32, stage: usize) -> Option<(Truth, Line)> {
    let is_done = |line: &&Line| matches!(line, Line::Done { done, exec: e, .. } if (*done, *e) == (pid, exec));
    let done = lines.iter().filter(is_done).nth(stage)?;
    let mut stages = lines.split_inclusive(|line| is_done(&line));
    let sites = stages.nth(stage)?.iter().filter_map(|line| match line {
        Line::Site {
            pid: p,
            exec: e,
            site,
            counts,
        } if (*p, *e) == (pid, exec) => Some((site.clone(), *counts)),
        _ => None,
    });
    Some((sites.collect(), done.clone()))
}
