//! A report: everything a format needs, and nothing it has to look up.
//!
//! The serialized form is a promise (`--format json`): fields are only ever added. Sizes are bytes, times seconds.

use std::{collections::BTreeMap, time::SystemTime};

use serde::{Serialize, Serializer};

use super::Sort;
use crate::{
    ids::{Bytes, Pid, SiteId},
    snapshot::Domain,
};

/// Version of the serialized form.
pub const SCHEMA: u32 = 1;

/// The state of all targets at one moment.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: u32,
    /// When it was made.
    #[serde(serialize_with = "rfc3339")]
    pub time: SystemTime,
    /// Seconds since the session began.
    pub elapsed_s: f64,
    /// The last report of the session.
    #[serde(rename = "final")]
    pub is_final: bool,
    /// Where the numbers come from.
    pub tiers: Vec<Tier>,
    /// What sites are ordered by.
    pub sort: Sort,
    /// Bounds that live blocks had to pass to be counted; all null = none.
    pub filter: Filter,
    /// Every process seen, the ones with most first.
    pub processes: Vec<Process>,
    /// The sum of ended processes that are no longer listed, the oldest ones first.
    pub forgotten: Ended,
    /// How far the numbers can be trusted and what they cost.
    pub trust: Trust,
}

/// The sum of some ended processes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Ended {
    /// How many.
    pub processes: u64,
    /// Requested bytes that were live at their ends.
    pub live_bytes: Bytes,
    /// Blocks that were live at their ends.
    pub live_blocks: u64,
    /// Requested bytes they allocated.
    pub allocated_bytes: Bytes,
    /// Blocks they allocated.
    pub allocated_blocks: u64,
    /// Frees of blocks that were not known.
    pub unknown_frees: u64,
}

/// How an allocation came to be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    /// Every call was seen.
    Exact,
}

/// Which live blocks are counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Filter {
    /// At least this old.
    pub min_age_s: Option<f64>,
    /// At least this large.
    pub min_size_bytes: Option<Bytes>,
    /// At most this large.
    pub max_size_bytes: Option<Bytes>,
}

/// One generation of one process.
#[derive(Clone, Debug, Serialize)]
pub struct Process {
    /// Process id.
    pub pid: Pid,
    /// Command name.
    pub comm: String,
    /// Path of the program.
    pub exe: String,
    /// What tells it from other processes that had or will have this id.
    pub generation: String,
    /// Whether it still runs.
    pub state: State,
    /// How it ended, when that is known.
    pub ended: Option<String>,
    /// Its language runtime.
    pub runtime: Runtime,
    /// Resident memory when the report was made, or last seen.
    pub rss_bytes: Bytes,
    /// Requested bytes that are live.
    pub live_bytes: Bytes,
    /// Live blocks.
    pub live_blocks: u64,
    /// Requested bytes allocated since attach.
    pub allocated_bytes: Bytes,
    /// Blocks allocated since attach.
    pub allocated_blocks: u64,
    /// Frees of blocks that were not known: mostly allocated before attach.
    pub unknown_frees: u64,
    /// Largest `live_bytes` seen.
    pub peak_bytes: Bytes,
    /// Live blocks inherited from the parent at fork.
    pub inherited_blocks: u64,
    /// Blocks whose address was handed out again: their free was lost.
    pub superseded_blocks: u64,
    /// Blocks that are only counted in `allocated_blocks`, not followed: the memory limit was reached.
    pub folded_blocks: u64,
    /// Requested bytes of these.
    pub folded_bytes: Bytes,
    /// Blocks whose site is not known because the limit of sites was reached.
    pub siteless_blocks: u64,
    /// What is out of the ordinary about tracing it.
    pub notes: Vec<String>,
    /// Sites there are; `sites` may hold fewer.
    pub sites_total: usize,
    /// The sites with most.
    pub sites: Vec<Site>,
}

/// Whether a process runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It runs.
    Running,
    /// It has exited or begun another program.
    Exited,
}

/// The language runtime of a process.
#[derive(Clone, Debug, Serialize)]
pub struct Runtime {
    /// Which one.
    pub kind: RuntimeKind,
    /// Its version.
    pub version: Option<String>,
    /// Whether stacks hold Python frames.
    pub python_stacks: bool,
    /// Why not, where one could expect them.
    pub reason: Option<String>,
}

/// Kinds of runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RuntimeKind {
    /// None: native code.
    Native,
    /// CPython.
    Cpython,
}

/// One distinct stack of a process.
#[derive(Clone, Debug, Serialize)]
pub struct Site {
    /// Stable id, 16 hexadecimal digits.
    #[serde(serialize_with = "as_text")]
    pub site: SiteId,
    /// How it came to be known.
    pub tier: Tier,
    /// Domain of CPython's allocator that was called; null = another allocator, or one that is not probed.
    pub domain: Option<Domain>,
    /// Requested bytes that are live.
    pub live_bytes: Bytes,
    /// Live blocks.
    pub live_blocks: u64,
    /// Requested bytes allocated since attach.
    pub allocated_bytes: Bytes,
    /// Blocks allocated since attach.
    pub allocated_blocks: u64,
    /// Age of the oldest live block.
    pub oldest_s: f64,
    /// Why the stack ends before its outermost frame; null when it is complete.
    pub cut: Option<&'static str>,
    /// Program counter at which it was cut.
    pub cut_addr: Option<u64>,
    /// From the allocator's caller outwards.
    pub frames: Vec<Frame>,
}

/// One function of a stack.
#[derive(Clone, Debug, Serialize)]
pub struct Frame {
    /// What kind of code it is.
    pub kind: FrameKind,
    /// Name, of a Python function its qualified one; empty when there is none, then `reason` says why.
    pub function: String,
    /// Path of the mapped file as the process sees it; empty when unknown. Of a Python function the last part of its
    /// module's name, guessed from the file.
    pub module: String,
    /// Source file.
    pub file: Option<String>,
    /// Line in it.
    pub line: Option<u32>,
    /// Program counter (behind the call, as debuggers print it) relative to the module's load base; of a Python function the
    /// instruction's offset in its bytecode.
    pub offset: u64,
    /// The function was inlined into the next one.
    pub inlined: bool,
    /// Why there is no name.
    pub reason: Option<String>,
}

/// Kinds of code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FrameKind {
    /// Machine code of a mapped file.
    Native,
    /// A Python function.
    Python,
}

/// How far a report can be trusted, and what it cost.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Trust {
    /// Events applied since the session began.
    pub events: u64,
    /// Events that found no room in the ring.
    pub lost_events: u64,
    /// Stacks walked.
    pub stacks: u64,
    /// Stacks that end before their outermost frame.
    pub cut_stacks: u64,
    /// Frames of this report that have no name.
    pub unnamed_frames: u64,
    /// CPU time memtrace itself has used.
    pub self_cpu_s: f64,
    /// Resident memory of memtrace.
    pub self_rss_bytes: Bytes,
    /// CPU time the targets have used since attach.
    pub target_cpu_s: f64,
    /// Part of it that the probes took: hits times measured cost.
    pub target_cost_s: f64,
    /// The same in per cent.
    pub cost_pct: f64,
    /// Distinct stacks received.
    pub distinct_stacks: u64,
    /// Frames of this report.
    pub frames: u64,
    /// Python code objects that have been named.
    pub python_names: u64,
    /// Python code objects that will never have a name.
    pub python_names_gone: u64,
    /// Everything lost, by cause.
    pub lost: Losses,
    /// Cut stacks by reason.
    pub cut: BTreeMap<&'static str, u64>,
    /// Unnamed frames by reason.
    pub unnamed: BTreeMap<String, u64>,
    /// What cannot be known any more, in sentences.
    pub not_known: Vec<String>,
}

/// What was lost, by cause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Losses {
    /// Allocations: no room in the ring.
    pub allocations: u64,
    /// Frees: no room in the ring.
    pub frees: u64,
    /// Beginnings of reallocations: no room in the ring.
    pub realloc_enters: u64,
    /// Ends of reallocations: no room in the ring.
    pub realloc_returns: u64,
    /// Forks: no room in the ring.
    pub forks: u64,
    /// Ends of programs (exec, exit): no room in the ring.
    pub ends: u64,
    /// Ends of Python code objects: no room in the ring.
    pub code_ends: u64,
    /// Copies of Python code objects that were freed: no room. Some of them may have no names.
    pub obituaries: u64,
    /// Sites whose Python frames have no names, since their stack was lost on its way or there was no room.
    pub unbound_sites: u64,
    /// Stacks: no room in their ring; sent when they are met again.
    pub stacks: u64,
    /// Stacks that could not be walked: scratch memory busy.
    pub unwalked_stacks: u64,
    /// Calls that could not be followed to their return: table of threads full.
    pub unfollowed_calls: u64,
    /// Results that could not be read from the target's memory.
    pub unread_results: u64,
    /// Process notices: no room in their ring.
    pub notices: u64,
    /// Forks, execs, exits and renames of any process on the machine: the kernel has skipped the probes' program.
    pub skipped_tracepoints: u64,
    /// Entries and returns of allocator functions: the kernel has skipped the probes' program.
    pub skipped_probes: u64,
    /// Records that could not be decoded.
    pub malformed: u64,
    /// Events of processes beyond the limit of processes.
    pub refused_events: u64,
    /// Stacks beyond the limit of stacks.
    pub dropped_stacks: u64,
    /// Files beyond the limit of objects.
    pub refused_objects: u64,
}

fn rfc3339<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&humantime::format_rfc3339_millis(*time))
}

fn as_text<S: Serializer>(site: &SiteId, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(site)
}
