//! A report of memtrace in its JSON format (schema 1), as a stranger reads it.
//!
//! Every field of the schema is required here, so that a report which lacks one fails its test.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

use crate::truth::Counts;

/// One report.
#[derive(Clone, Debug, Deserialize)]
pub struct Report {
    /// Version of the schema.
    pub schema: u32,
    /// When it was made, RFC 3339.
    pub time: String,
    /// Seconds since the start.
    pub elapsed_s: f64,
    /// Whether it is the last one.
    #[serde(rename = "final")]
    pub is_final: bool,
    /// Tiers of evidence in use.
    pub tiers: Vec<String>,
    /// Every generation of every process.
    pub processes: Vec<Process>,
    /// How far the report can be trusted.
    pub trust: Trust,
}

/// One generation of a process.
#[derive(Clone, Debug, Deserialize)]
pub struct Process {
    /// Process id.
    pub pid: u32,
    /// Command name.
    pub comm: String,
    /// Executable.
    pub exe: String,
    /// What tells this program of this process from all others.
    pub generation: String,
    /// `running` or `exited`.
    pub state: String,
    /// What runs in it.
    pub runtime: Runtime,
    /// Resident bytes.
    pub rss_bytes: u64,
    /// What it holds.
    #[serde(flatten)]
    pub counts: Counts,
    /// Frees of blocks that were not known.
    pub unknown_frees: u64,
    /// What is out of the ordinary about tracing it.
    pub notes: Vec<String>,
    /// Where it allocates.
    pub sites: Vec<Site>,
}

/// What runs in a process.
#[derive(Clone, Debug, Deserialize)]
pub struct Runtime {
    /// `native` or the interpreter.
    pub kind: String,
    /// Its version.
    pub version: Option<String>,
    /// Whether its stacks are in the report.
    pub python_stacks: bool,
    /// Why not.
    pub reason: Option<String>,
}

/// One distinct stack.
#[derive(Clone, Debug, Deserialize)]
pub struct Site {
    /// Stable id, 16 hexadecimal digits.
    pub site: String,
    /// Tier of evidence.
    pub tier: String,
    /// Domain of CPython's allocator.
    pub domain: Option<String>,
    /// What it holds.
    #[serde(flatten)]
    pub counts: Counts,
    /// Age of the oldest live block in seconds.
    pub oldest_s: f64,
    /// Why the stack ends before its outermost frame.
    pub cut: Option<String>,
    /// Program counter at which it was cut.
    pub cut_addr: Option<u64>,
    /// From the allocator's caller outwards.
    pub frames: Vec<Frame>,
}

/// One frame.
#[derive(Clone, Debug, Deserialize)]
pub struct Frame {
    /// `native`, `kernel` or `python`.
    pub kind: String,
    /// Function, demangled.
    pub function: String,
    /// Object.
    pub module: String,
    /// Source file.
    pub file: Option<String>,
    /// Source line.
    pub line: Option<u32>,
    /// Address relative to the object's load base.
    pub offset: u64,
    /// Whether the function was inlined into the next frame.
    pub inlined: bool,
    /// Why it has no name.
    pub reason: Option<String>,
}

/// The trust line.
#[derive(Clone, Debug, Deserialize)]
pub struct Trust {
    /// Events consumed.
    pub events: u64,
    /// Events lost.
    pub lost_events: u64,
    /// Stacks walked.
    pub stacks: u64,
    /// Of these, cut ones.
    pub cut_stacks: u64,
    /// Frames without a name.
    pub unnamed_frames: u64,
    /// Own CPU time in seconds.
    pub self_cpu_s: f64,
    /// Own resident bytes.
    pub self_rss_bytes: u64,
    /// CPU time of the targets in seconds.
    pub target_cpu_s: f64,
    /// What tracing cost them of it, in seconds.
    pub target_cost_s: f64,
    /// The same as a share.
    pub cost_pct: f64,
    /// Python code objects that have been named.
    pub python_names: u64,
    /// Python code objects that will never have a name.
    pub python_names_gone: u64,
    /// Cut stacks by reason.
    pub cut: BTreeMap<String, u64>,
    /// What cannot be known any more, in sentences.
    pub not_known: Vec<String>,
}

impl Report {
    /// Reads one line.
    ///
    /// # Errors
    ///
    /// Fails when it is not an object of schema 1.
    pub fn parse(line: &str) -> Result<Self> {
        let report: Self =
            serde_json::from_str(line).with_context(|| format!("no report: {line}"))?;
        ensure!(report.schema == 1, "schema {}", report.schema);
        Ok(report)
    }

    /// All generations of a process, oldest first.
    #[must_use]
    pub fn generations(&self, pid: u32) -> Vec<&Process> {
        let all = self.processes.iter().filter(|process| process.pid == pid);
        let mut all: Vec<&Process> = all.collect();
        all.sort_by_key(|process| process.age());
        all
    }

    /// The one generation of a process.
    ///
    /// # Errors
    ///
    /// Fails when there is none or several.
    pub fn process(&self, pid: u32) -> Result<&Process> {
        let all = self.generations(pid);
        ensure!(
            all.len() == 1,
            "{} generations of {pid}; the report has {:?}",
            all.len(),
            self.pids()
        );
        Ok(all[0])
    }

    /// The program that a process runs now, or ran last.
    ///
    /// # Errors
    ///
    /// Fails when the report does not have the process.
    pub fn current(&self, pid: u32) -> Result<&Process> {
        let all = self.generations(pid);
        all.last()
            .copied()
            .with_context(|| format!("no process {pid}; the report has {:?}", self.pids()))
    }

    /// Ids of all processes.
    #[must_use]
    pub fn pids(&self) -> Vec<u32> {
        self.processes.iter().map(|process| process.pid).collect()
    }
}

impl Process {
    /// When it came, among all generations of its id: they are written `PID-START-PROGRAMS`.
    fn age(&self) -> Option<(u64, u32)> {
        let mut parts = self.generation.rsplit('-');
        let programs = parts.next()?.parse().ok()?;
        Some((parts.next()?.parse().ok()?, programs))
    }
}

impl Site {
    /// The Python frames, from the innermost outwards.
    pub fn python(&self) -> impl Iterator<Item = &Frame> {
        self.frames.iter().filter(|frame| frame.kind == "python")
    }

    /// Whether the innermost Python frame is this function.
    #[must_use]
    pub fn is_of(&self, function: &str) -> bool {
        let mut python = self.python();
        python
            .next()
            .is_some_and(|frame| frame.function == function)
    }
}

impl Frame {
    /// The function without its parameter list, as C would name it.
    #[must_use]
    pub fn bare_name(&self) -> &str {
        self.function.split(['(', '.']).next().unwrap_or_default()
    }
}
