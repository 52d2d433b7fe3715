//! A made-up trace for the tests of this folder: two processes, inlined C++ frames, a cut stack, a lost one.

use std::{
    collections::HashMap,
    time::{Duration, UNIX_EPOCH},
};

use super::{
    Measured, ReportOptions, Sort,
    model::{Frame, FrameKind, Process, Report, Runtime, RuntimeKind, Site, State, Tier},
};
use crate::{
    ids::{Bytes, Pid, SiteId},
    snapshot::{BlockFilter, Snapshot},
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
        notes: Vec::new(),
        sites_total: sites.len() + 7,
        sites,
    }
}

fn server() -> Process {
    let inlined = Frame {
        inlined: true,
        ..frame(LONG, Some(("/usr/include/c++/12/bits/vector.tcc", 439)), "/usr/bin/server", 0x1a2b)
    };
    let outer = frame("Cache::insert(Key const&)", Some(("../src/cache/cache.cpp", 120)), "/usr/bin/server", 0x1a2b);
    let start = frame("__libc_start_main", None, "/usr/lib/x86_64-linux-gnu/libc.so.6", 0x2724a);
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
    let main = site(0x9f3c_2d00_1122_3344, 13_002_342, 3201, vec![inlined, outer, start]);
    process(4711, "server", vec![main, cut, lost])
}

/// A trace with losses.
pub(super) fn report() -> Report {
    let mut stats = memtrace_common::stats::Stats::default();
    stats.walked[0] = 119_980;
    stats.walked[2] = 20;
    stats.lost[usize::from(memtrace_common::event::ALLOC)] = 7;
    stats.lost[usize::from(memtrace_common::event::FREE)] = 5;
    let measured = Measured {
        stats,
        self_cpu: Duration::from_millis(420),
        self_rss: Bytes(31 << 20),
        target_cpu: Duration::from_millis(12_300),
        target_cost: Duration::from_millis(210),
    };
    let snapshot = Snapshot {
        elapsed: Duration::from_millis(35_012),
        events: 1_204_118,
        distinct_stacks: 310,
        ..Snapshot::default()
    };
    let exited = Process {
        state: State::Exited,
        ended: Some("killed by signal 9".to_owned()),
        notes: vec!["libfoo.so: not an ELF file".to_owned()],
        ..process(4712, "worker;\u{1b}[31m", vec![site(0x77, 0, 0, vec![frame("main", None, "/usr/bin/worker", 9)])])
    };
    let mut quiet = process(1, "init", Vec::new());
    quiet.unknown_frees = 0;
    with_processes(&snapshot, &measured, vec![server(), exited, quiet])
}

pub(super) fn with_processes(snapshot: &Snapshot, measured: &Measured, processes: Vec<Process>) -> Report {
    let mut report = Report::build(
        &super::Sources {
            snapshot,
            facts: &|_| super::ProcessFacts::default(),
            objects: &HashMap::new(),
            measured,
            time: UNIX_EPOCH + Duration::from_millis(1_790_000_000_123),
            is_final: true,
        },
        &ReportOptions {
            sort: Sort::LiveBytes,
            top: Some(10),
            filter: BlockFilter::default(),
        },
        &mut crate::resolve::Resolver::new(crate::resolve::ResolveOptions::default()),
    );
    report.trust = super::model::Trust::of(measured, snapshot, &processes);
    report.processes = processes;
    report
}
