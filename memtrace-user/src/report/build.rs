//! Snapshot + names + facts of processes → [`Report`].
//!
//! Names are looked up only for the sites that will be printed. Stacks that mean the same on every host have one
//! [`SiteId`] and are one site, even if the probes numbered them apart.

use std::{
    cmp::Reverse,
    collections::{HashMap, HashSet},
    time::{Duration, SystemTime},
};

use super::{
    Measured, ReportOptions, Sort,
    model::{
        Ended, Filter, Frame, FrameKind, Process, Report, Runtime, RuntimeKind, SCHEMA, Site,
        State, Tier, Trust,
    },
};
use crate::{
    ids::{Bytes, ObjectId, SiteId},
    python::version::Version,
    resolve::{
        self, CodeSource, FunctionKind, Names, ObjectSource, Origin, Resolver, cut_words,
        is_plumbing,
    },
    snapshot::{BlockFilter, Forgotten, ProcessSnapshot, SiteCounts, Snapshot},
};

/// What the session knows of a process beyond its blocks.
#[derive(Clone, Debug, Default)]
pub struct ProcessFacts {
    /// Command name.
    pub comm: String,
    /// Path of the program.
    pub exe: String,
    /// What tells this generation from others with the same process id.
    pub generation: String,
    /// Resident memory, now or when last seen.
    pub rss: Bytes,
    /// How it ended, when that is known: `exited with status 3`.
    pub ended: Option<String>,
    /// What is out of the ordinary about tracing it.
    pub notes: Vec<String>,
    /// Its language runtime.
    pub runtime: RuntimeFacts,
}

/// What the session knows of the language runtime of a process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum RuntimeFacts {
    /// None that memtrace knows.
    #[default]
    Native,
    /// Another than CPython; the words say which, and what follows.
    Other(String),
    /// CPython.
    CPython {
        /// Its version, when it is known.
        version: Option<Version>,
        /// Whether stacks hold Python frames, or why not.
        stacks: Result<(), String>,
        /// The files that hold the interpreter's own code.
        objects: Vec<ObjectId>,
    },
}

/// What a report is made from.
#[expect(
    missing_debug_implementations,
    reason = "holds trait objects that have none"
)]
#[derive(Clone, Copy)]
pub struct Sources<'a> {
    /// The frozen blocks.
    pub snapshot: &'a Snapshot,
    /// Tells the facts of a process.
    pub facts: &'a dyn Fn(&ProcessSnapshot) -> ProcessFacts,
    /// The objects that frames lie in.
    pub objects: &'a dyn ObjectSource,
    /// The code objects of Python frames.
    pub codes: &'a dyn CodeSource,
    /// What the session measured of itself.
    pub measured: &'a Measured,
    /// Now.
    pub time: SystemTime,
    /// Whether it is the session's last report.
    pub is_final: bool,
}

/// The words for a site whose stack did not arrive.
const STACK_LOST: &str = "stack lost";

impl Report {
    /// Chooses, orders and names what `options` ask for.
    #[must_use]
    pub fn build(sources: &Sources<'_>, options: &ReportOptions, resolver: &mut Resolver) -> Self {
        let snapshot = sources.snapshot;
        let facts: Vec<ProcessFacts> = snapshot.processes.iter().map(sources.facts).collect();
        let runtimes = runtimes(&facts);
        let origin = Origin {
            objects: sources.objects,
            codes: sources.codes,
            runtimes: &runtimes,
        };
        let chosen = choose(snapshot, &origin, options, resolver);
        let shown = chosen.iter().flat_map(|process| &process.sites);
        let stacks =
            shown.filter_map(|site| snapshot.stacks.get(&site.counts.stack).map(AsRef::as_ref));
        let naming = Naming {
            names: resolver.resolve(stacks, sources.objects),
            origin,
            snapshot,
            native: options.native,
        };
        let mut processes: Vec<Process> = chosen
            .into_iter()
            .zip(facts)
            .map(|(chosen, facts)| process(chosen, facts, &naming))
            .collect();
        processes.sort_by_key(|process| (Reverse(process_key(process, options.sort)), process.pid));
        Self {
            schema: SCHEMA,
            time: sources.time,
            elapsed_s: seconds(snapshot.elapsed),
            is_final: sources.is_final,
            tiers: vec![Tier::Exact],
            sort: options.sort,
            filter: filter(&options.filter),
            forgotten: forgotten(&snapshot.forgotten),
            trust: Trust::of(
                sources.measured,
                snapshot,
                sources.codes.counts(),
                &processes,
            ),
            processes,
        }
    }
}

/// The files that are an interpreter's own, in whichever process.
fn runtimes(facts: &[ProcessFacts]) -> HashSet<ObjectId> {
    let objects = facts.iter().map(|facts| match &facts.runtime {
        RuntimeFacts::Native | RuntimeFacts::Other(_) => &[][..],
        RuntimeFacts::CPython { objects, .. } => objects,
    });
    objects.flatten().copied().collect()
}

/// What the stacks of chosen sites are named by.
struct Naming<'a> {
    names: Names,
    origin: Origin<'a>,
    snapshot: &'a Snapshot,
    /// Whether the interpreter's own frames are shown.
    native: bool,
}

/// The sites of a process that will be printed, in their order.
struct Chosen<'a> {
    process: &'a ProcessSnapshot,
    sites: Vec<ChosenSite>,
    total: usize,
}

struct ChosenSite {
    id: SiteId,
    counts: SiteCounts,
}

fn choose<'a>(
    snapshot: &'a Snapshot,
    origin: &Origin<'_>,
    options: &ReportOptions,
    resolver: &mut Resolver,
) -> Vec<Chosen<'a>> {
    let all = snapshot.processes.iter().flat_map(|process| &process.sites);
    let bound = all.map(|site| ((site.stack, site.binding), snapshot.bound(site)));
    let ids = resolver.site_ids(bound, origin);
    let choose_of = |process: &'a ProcessSnapshot| {
        let mut sites: HashMap<SiteId, ChosenSite> = HashMap::new();
        for &counts in &process.sites {
            let id = ids[&(counts.stack, counts.binding)];
            sites
                .entry(id)
                .and_modify(|site| add(&mut site.counts, &counts))
                .or_insert(ChosenSite { id, counts });
        }
        let total = sites.len();
        let mut sites: Vec<ChosenSite> = sites.into_values().collect();
        sites.sort_unstable_by_key(|site| (Reverse(site_key(&site.counts, options.sort)), site.id));
        sites.truncate(options.top.unwrap_or(total));
        Chosen {
            process,
            sites,
            total,
        }
    };
    snapshot.processes.iter().map(choose_of).collect()
}

fn add(sum: &mut SiteCounts, other: &SiteCounts) {
    sum.live_bytes += other.live_bytes;
    sum.live_blocks += other.live_blocks;
    sum.allocated_bytes += other.allocated_bytes;
    sum.allocated_blocks += other.allocated_blocks;
    sum.oldest = sum.oldest.max(other.oldest);
}

fn site_key(counts: &SiteCounts, sort: Sort) -> u128 {
    match sort {
        Sort::LiveBytes => counts.live_bytes.0.into(),
        Sort::LiveBlocks => counts.live_blocks.into(),
        Sort::AllocatedBytes => counts.allocated_bytes.0.into(),
        Sort::AllocatedBlocks => counts.allocated_blocks.into(),
        Sort::Oldest => counts.oldest.as_nanos(),
    }
}

fn process_key(process: &Process, sort: Sort) -> u64 {
    match sort {
        Sort::LiveBytes | Sort::Oldest => process.live_bytes.0,
        Sort::LiveBlocks => process.live_blocks,
        Sort::AllocatedBytes => process.allocated_bytes.0,
        Sort::AllocatedBlocks => process.allocated_blocks,
    }
}

fn process(chosen: Chosen<'_>, facts: ProcessFacts, naming: &Naming<'_>) -> Process {
    let Chosen {
        process,
        sites,
        total,
    } = chosen;
    Process {
        pid: process.pid,
        comm: facts.comm,
        exe: facts.exe,
        generation: facts.generation,
        state: if process.exited {
            State::Exited
        } else {
            State::Running
        },
        ended: facts.ended,
        runtime: runtime(facts.runtime),
        rss_bytes: facts.rss,
        live_bytes: process.live_bytes,
        live_blocks: process.live_blocks,
        allocated_bytes: process.allocated_bytes,
        allocated_blocks: process.allocated_blocks,
        unknown_frees: process.unknown_frees,
        peak_bytes: process.peak_bytes,
        inherited_blocks: process.inherited_blocks,
        superseded_blocks: process.superseded_blocks,
        folded_blocks: process.folded_blocks,
        folded_bytes: process.folded_bytes,
        siteless_blocks: process.siteless_blocks,
        notes: facts.notes,
        sites_total: total,
        sites: sites.iter().map(|chosen| site(chosen, naming)).collect(),
    }
}

fn runtime(facts: RuntimeFacts) -> Runtime {
    match facts {
        RuntimeFacts::Native => Runtime {
            kind: RuntimeKind::Native,
            version: None,
            python_stacks: false,
            reason: None,
        },
        RuntimeFacts::Other(reason) => Runtime {
            kind: RuntimeKind::Native,
            version: None,
            python_stacks: false,
            reason: Some(reason),
        },
        RuntimeFacts::CPython {
            version, stacks, ..
        } => Runtime {
            kind: RuntimeKind::Cpython,
            version: version.map(|version| version.to_string()),
            python_stacks: stacks.is_ok(),
            reason: stacks.err(),
        },
    }
}

fn site(chosen: &ChosenSite, naming: &Naming<'_>) -> Site {
    let ChosenSite { id, counts } = chosen;
    let bound = naming.snapshot.bound(counts);
    let stack = bound.map(|bound| bound.stack);
    Site {
        site: *id,
        tier: Tier::Exact,
        domain: stack.and_then(|stack| stack.domain),
        live_bytes: counts.live_bytes,
        live_blocks: counts.live_blocks,
        allocated_bytes: counts.allocated_bytes,
        allocated_blocks: counts.allocated_blocks,
        oldest_s: seconds(counts.oldest),
        cut: stack.map_or(Some(STACK_LOST), |stack| cut_words(stack.cut)),
        cut_addr: stack.map(|stack| stack.cut_addr).filter(|&addr| addr != 0),
        frames: bound.map_or(Vec::new(), |bound| {
            let frames = naming.names.frames(bound, &naming.origin);
            frames
                .flat_map(|frame| functions(frame, naming.native))
                .collect()
        }),
    }
}

/// The functions of a frame that are shown, innermost first.
fn functions(frame: resolve::Frame, native: bool) -> Vec<Frame> {
    let folds = frame.is_interpreter && !native;
    let bare = Frame {
        kind: match frame.kind {
            FunctionKind::Native => FrameKind::Native,
            FunctionKind::Python => FrameKind::Python,
        },
        function: String::new(),
        module: frame.module.as_deref().unwrap_or_default().to_owned(),
        file: None,
        line: None,
        offset: frame.rel.into(),
        inlined: false,
        reason: None,
    };
    match frame.functions {
        Ok(functions) => functions
            .iter()
            .filter(|function| !folds || !is_plumbing(&function.name))
            .map(|function| Frame {
                function: function.name.to_string(),
                file: function.file.as_deref().map(str::to_owned),
                line: function.line,
                inlined: function.inlined,
                ..bare.clone()
            })
            .collect(),
        Err(_) if folds => Vec::new(),
        Err(reason) => vec![Frame {
            reason: Some(reason.to_string()),
            ..bare
        }],
    }
}

fn filter(filter: &BlockFilter) -> Filter {
    Filter {
        min_age_s: (!filter.min_age.is_zero()).then(|| seconds(filter.min_age)),
        min_size_bytes: filter.min_size,
        max_size_bytes: filter.max_size,
    }
}

fn forgotten(forgotten: &Forgotten) -> Ended {
    Ended {
        processes: forgotten.processes,
        live_bytes: forgotten.live_bytes,
        live_blocks: forgotten.live_blocks,
        allocated_bytes: forgotten.allocated_bytes,
        allocated_blocks: forgotten.allocated_blocks,
        unknown_frees: forgotten.unknown_frees,
    }
}

/// Seconds to the millisecond.
fn seconds(duration: Duration) -> f64 {
    duration.as_millis() as f64 / 1000.0
}
