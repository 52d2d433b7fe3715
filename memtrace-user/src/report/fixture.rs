//! A made-up trace for the tests of this folder: two processes, inlined C++ frames, a cut stack, a lost one.

use std::time::{Duration, UNIX_EPOCH};

use memtrace_common::{event, stack, stats::Stats};

use super::{
    Measured, Sort,
    model::{
        Ended, Filter, Frame, FrameKind, Process, Report, Runtime, RuntimeKind, SCHEMA, Site,
        State, Tier, Trust,
    },
};
use crate::{
    ids::{Bytes, Pid, SiteId},
    python::{book::BookCounts, name::Gone},
    snapshot::Snapshot,
};

pub(super) const LONG: &str = "std::vector<std::pair<std::basic_string<char, std::char_traits<char>, std::allocator<char> >, int>, \
    std::allocator<std::pair<std::basic_string<char>, int> > >::_M_realloc_insert<std::pair<std::string, int> >";

pub(super) fn frame(function: &str, file: Option<(&str, u32)>, module: &str, offset: u64) -> Frame {
    Frame {
        kind: FrameKind::Native,
        function: function.to_owned(),
        module: module.to_owned(),
        file: file.map(|(file, _)| file.to_owned()),
        line: file.map(|(_, line)| line),
        offset,
        inlined: false,
        reason: None,
    }
}

pub(super) fn site(id: u64, live_bytes: u64, live_blocks: u64, frames: Vec<Frame>) -> Site {
    Site {
        site: SiteId(id),
        tier: Tier::Exact,
        domain: None,
        live_bytes: Bytes(live_bytes),
        live_blocks,
        allocated_bytes: Bytes(live_bytes * 3),
        allocated_blocks: live_blocks * 3,
        oldest_s: 33.25,
        cut: None,
        cut_addr: None,
        frames,
    }
}

pub(super) fn process(pid: u32, comm: &str, sites: Vec<Site>) -> Process {
    Process {
        pid: Pid(pid),
        comm: comm.to_owned(),
        exe: format!("/usr/bin/{comm}"),
        generation: format!("{pid}-8812345-0"),
        state: State::Running,
        ended: None,
        runtime: Runtime {
            kind: RuntimeKind::Native,
            version: None,
            python_stacks: false,
            reason: None,
        },
        rss_bytes: Bytes(34_603_008),
        live_bytes: sites.iter().map(|site| site.live_bytes).sum(),
        live_blocks: sites.iter().map(|site| site.live_blocks).sum(),
        allocated_bytes: sites.iter().map(|site| site.allocated_bytes).sum(),
        allocated_blocks: sites.iter().map(|site| site.allocated_blocks).sum(),
        unknown_frees: 12,
        peak_bytes: Bytes(15_000_000),
        inherited_blocks: 0,
        superseded_blocks: 0,
        folded_blocks: 0,
        folded_bytes: Bytes(0),
        siteless_blocks: 0,
        notes: Vec::new(),
        sites_total: sites.len() + 7,
        sites,
    }
}

fn server() -> Process {
    let inlined = Frame {
        inlined: true,
        ..frame(
            LONG,
            Some(("/usr/include/c++/12/bits/vector.tcc", 439)),
            "/usr/bin/server",
            0x1a2b,
        )
    };
    let outer = frame(
        "Cache::insert(Key const&)",
        Some(("../src/cache/cache.cpp", 120)),
        "/usr/bin/server",
        0x1a2b,
    );
    let start = frame(
        "__libc_start_main",
        None,
        "/usr/lib/x86_64-linux-gnu/libc.so.6",
        0x2724a,
    );
    let unnamed = Frame {
        reason: Some("no symbols: stripped".to_owned()),
        ..frame("", None, "/opt/lib/libplugin.so.3", 0x4711)
    };
    let cut = Site {
        cut: Some("generated code or no mapped file"),
        cut_addr: Some(0x7f12_3456_7890),
        ..site(0xabc, 4096, 1, vec![unnamed, outer.clone()])
    };
    let lost = Site {
        cut: Some("stack lost"),
        ..site(0, 100, 2, Vec::new())
    };
    let main = site(
        0x9f3c_2d00_1122_3344,
        13_002_342,
        3201,
        vec![inlined, outer, start],
    );
    process(4711, "server", vec![main, cut, lost])
}

/// A Python function in `/srv/shop/FILE`.
pub(super) fn python(function: &str, file: &str, line: u32) -> Frame {
    Frame {
        kind: FrameKind::Python,
        offset: 42,
        ..frame(
            function,
            Some((&format!("/srv/shop/{file}.py"), line)),
            file,
            0,
        )
    }
}

/// A Python function whose name could not be read in time.
pub(super) fn gone() -> Frame {
    Frame {
        kind: FrameKind::Python,
        reason: Some(Gone::Freed.to_string()),
        ..frame("", None, "", 0)
    }
}

/// A service in Python, and one whose Python is not known.
pub(super) fn python_report() -> Report {
    let resize = frame(
        "list_resize",
        Some(("Objects/listobject.c", 70)),
        "/usr/bin/python3.11",
        0x1234,
    );
    let handle = python("View.handle.<locals>.render", "views", 42);
    let main = python("<module>", "__main__", 7);
    let cache = site(
        0x1,
        13_002_342,
        3201,
        vec![
            resize.clone(),
            python("Cache.insert", "cache", 120),
            handle,
            main.clone(),
        ],
    );
    let lost = site(0x2, 4096, 1, vec![gone(), main]);
    let unnamed = site(0x3, 100, 2, vec![resize, gone()]);
    let mut service = process(4711, "python3", vec![cache, lost, unnamed]);
    service.runtime = Runtime {
        kind: RuntimeKind::Cpython,
        version: Some("3.11.7".to_owned()),
        python_stacks: true,
        reason: None,
    };
    let mut other = process(4713, "python3", vec![site(0x4, 8, 1, Vec::new())]);
    other.runtime = Runtime {
        kind: RuntimeKind::Cpython,
        version: Some("3.7".to_owned()),
        python_stacks: false,
        reason: Some("no frame offsets for 3.7".to_owned()),
    };
    let mut measured = Measured::default();
    measured.stats.lost[usize::from(event::CODE_FREED)] = 2;
    let snapshot = Snapshot {
        unbound_sites: 1,
        ..Snapshot::default()
    };
    let mut report = with_processes(vec![service, other], &snapshot, &measured);
    report.trust.python_names = 310;
    report.trust.python_names_gone = 2;
    report
}

/// Counters of a trace with losses.
fn measured() -> Measured {
    let mut stats = Stats::default();
    stats.walked[usize::from(stack::CUT_NONE)] = 119_980;
    stats.walked[usize::from(stack::CUT_NO_MAPPING)] = 20;
    stats.lost[usize::from(event::ALLOC)] = 7;
    stats.lost[usize::from(event::FREE)] = 5;
    Measured {
        stats,
        self_cpu: Duration::from_millis(420),
        self_rss: Bytes(31 << 20),
        target_cpu: Duration::from_millis(12_300),
        target_cost: Duration::from_millis(210),
        ..Measured::default()
    }
}

/// A trace with losses.
pub(super) fn report() -> Report {
    let mut exited = process(
        4712,
        "worker;\u{1b}[31m",
        vec![site(0x77, 0, 0, Vec::new())],
    );
    exited.state = State::Exited;
    exited.ended = Some("was ended by signal 9".to_owned());
    exited.notes = vec!["libfoo.so: not an ELF file".to_owned()];
    exited.folded_blocks = 12_000;
    exited.folded_bytes = Bytes(40 << 20);
    let mut quiet = process(1, "init", Vec::new());
    quiet.unknown_frees = 0;
    let snapshot = Snapshot {
        events: 1_204_118,
        distinct_stacks: 310,
        ..Snapshot::default()
    };
    with_processes(vec![server(), exited, quiet], &snapshot, &measured())
}

/// A final report on processes.
pub(super) fn with_processes(
    processes: Vec<Process>,
    snapshot: &Snapshot,
    measured: &Measured,
) -> Report {
    Report {
        schema: SCHEMA,
        time: UNIX_EPOCH + Duration::from_millis(1_790_000_000_123),
        elapsed_s: 35.012,
        is_final: true,
        tiers: vec![Tier::Exact],
        sort: Sort::LiveBytes,
        filter: Filter::default(),
        forgotten: Ended::default(),
        trust: Trust::of(measured, snapshot, BookCounts::default(), &processes),
        processes,
    }
}
