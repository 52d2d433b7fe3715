//! Every format of one made-up trace, and the building of reports from snapshots.

mod python;

use std::{
    collections::HashMap,
    fs::File,
    path::PathBuf,
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use memtrace_common::{stack, unwind::FileKey};
use proptest::prelude::*;
use serde_json::Value;

use super::{
    fixture,
    layout::width,
    model::{Frame, FrameKind, State},
    *,
};
use crate::{
    ids::{BindingId, Bytes, ObjectId, Pid, StackId},
    python::book::{BookLimits, CodeBook},
    resolve::{ResolveOptions, Resolver},
    snapshot::{Domain, ProcessSnapshot, SiteCounts, Snapshot, Stack},
    target::object::Object,
};

fn text(renderer: &dyn Render, report: &Report) -> String {
    let mut bytes = Vec::new();
    renderer.render(report, &mut bytes).unwrap();
    String::from_utf8(bytes).unwrap()
}

fn table(width: usize) -> Table {
    Table {
        width: Some(width),
        height: None,
    }
}

#[test]
fn a_table_fits_its_width() {
    insta::assert_snapshot!("table_100", text(&table(100), &fixture::report()));
    insta::assert_snapshot!("table_60", text(&table(60), &fixture::report()));
    insta::assert_snapshot!(
        "table_unlimited",
        text(&Table::default(), &fixture::report())
    );
}

#[test]
fn a_domain_stands_beside_its_site() {
    let mut report = fixture::report();
    assert!(!text(&Table::default(), &report).contains("domain"));
    report.processes[0].sites[0].domain = Some(Domain::Object);
    let lines = text(&Table::default(), &report);
    assert!(lines.contains(" · object domain · site "), "{lines}");
}

#[test]
fn a_live_table_fits_its_height_and_keeps_the_trust_line() {
    let mut report = fixture::report();
    report.is_final = false;
    for height in [12, 16, 24] {
        let table = Table {
            width: Some(100),
            height: Some(height),
        };
        let text = text(&table, &report);
        assert!(text.lines().count() <= height, "{text}");
        assert!(
            text.contains("\ntrust: ")
                && text.contains("more lines; the final report has them all"),
            "{text}"
        );
    }
}

#[test]
fn json_is_one_line_of_the_documented_shape() {
    let line = text(&Json, &fixture::report());
    assert_eq!(line.matches('\n').count(), 1);
    let value: Value = serde_json::from_str(&line).unwrap();
    insta::assert_snapshot!("json", serde_json::to_string_pretty(&value).unwrap());
    // The example of the documentation; `|` separates what a word may be.
    let documented: Value = serde_json::from_str(include_str!("schema.json")).unwrap();
    assert_has_shape(&documented, &value, "report");
}

/// Every documented field is there with a value of its type. Null stands for any type.
fn assert_has_shape(documented: &Value, value: &Value, place: &str) {
    match (documented, value) {
        (Value::Object(documented), Value::Object(value)) => {
            for (name, documented) in documented {
                let field = value
                    .get(name)
                    .unwrap_or_else(|| panic!("{place}.{name} is missing"));
                assert_has_shape(documented, field, &format!("{place}.{name}"));
            }
        }
        (Value::Array(documented), Value::Array(values)) => {
            let Some(documented) = documented.first() else {
                return;
            };
            for value in values {
                assert_has_shape(documented, value, &format!("{place}[]"));
            }
        }
        (Value::Null, _) | (Value::String(_), Value::Null) => {}
        (Value::String(words), Value::String(word)) if words.contains('|') => {
            assert!(
                words.split('|').any(|known| known == word),
                "{place}: {word}"
            );
        }
        (documented, value) => {
            assert_eq!(
                std::mem::discriminant(documented),
                std::mem::discriminant(value),
                "{place}: {value}"
            );
        }
    }
}

#[test]
fn collapsed_stacks_are_lines_that_flame_graph_tools_read() {
    let mut report = fixture::report();
    let text_of = |report: &Report| text(&Collapsed, report);
    insta::assert_snapshot!("collapsed", text_of(&report));
    report.sort = Sort::AllocatedBlocks;
    let frames = vec![
        fixture::frame("a;b\nc", None, "m", 1),
        fixture::frame("main", None, "m", 1),
    ];
    report.processes = vec![fixture::process(
        3,
        "",
        vec![fixture::site(1, 10, 4, frames)],
    )];
    assert_eq!(text_of(&report), "pid 3;main;a_b_c 12\n");
}

fn any_frame() -> impl Strategy<Value = Frame> {
    let file = prop::option::of(("/?([a-z+._-]{1,12}/){0,4}[a-z+._-]{1,20}", 1..100_000_u32));
    (
        "\\PC{0,120}",
        file,
        "(/[a-z.]{1,9}){1,4}",
        any::<u32>(),
        any::<bool>(),
        prop::sample::select(vec![FrameKind::Native, FrameKind::Python]),
    )
        .prop_map(|(function, file, module, offset, inlined, kind)| Frame {
            kind,
            inlined,
            ..fixture::frame(
                &function,
                file.as_ref().map(|(file, line)| (file.as_str(), *line)),
                &module,
                offset.into(),
            )
        })
}

proptest! {
    #[test]
    fn no_line_is_wider_than_the_terminal_and_every_place_is_whole(
        frames in prop::collection::vec(any_frame(), 1..8),
        columns in 40_usize..160,
        comm in "\\PC{0,15}",
        bytes in any::<u32>(),
    ) {
        let process = fixture::process(1, &comm, vec![fixture::site(1, u64::from(bytes) + 1, 3, frames.clone())]);
        let report = fixture::with_processes(vec![process], &Snapshot::default(), &Measured::default());
        let text = text(&table(columns), &report);
        for line in text.lines() {
            prop_assert!(width(line) <= columns, "{} columns: {line}", width(line));
        }
        for frame in &frames {
            if let (Some(file), Some(line)) = (&frame.file, frame.line) {
                let name = file.rsplit('/').next().filter(|name| !name.is_empty()).unwrap_or(file);
                prop_assert!(text.contains(&format!("{name}:{line}")), "{name}:{line} in {text}");
            }
        }
    }
}

/// A relative address behind the end of this test's file.
const NOWHERE: u32 = 0xfff0_0000;

/// A snapshot of one process with three stacks in this test's own file: two objects that are one file give one
/// site, the third stack is lost.
fn snapshot() -> (Snapshot, HashMap<ObjectId, Arc<Object>>) {
    let object = |id: u32| {
        let file = File::open("/proc/self/exe").unwrap();
        let object = Object::new(
            ObjectId(id),
            FileKey::default(),
            PathBuf::from("/bin/own"),
            Ok(file),
        );
        (ObjectId(id), Arc::new(object))
    };
    let stack = |object, cut| {
        let frames = [
            stack::frame(object, NOWHERE),
            stack::frame(object, NOWHERE + 9),
        ]
        .into();
        Arc::new(Stack {
            domain: None,
            frames,
            cut,
            cut_addr: u64::from(cut),
        })
    };
    let site = |stack, bytes, oldest| SiteCounts {
        stack: StackId(stack),
        binding: BindingId::NONE,
        live_bytes: Bytes(bytes),
        live_blocks: 1,
        allocated_bytes: Bytes(1000 - bytes),
        allocated_blocks: 10,
        oldest: Duration::from_secs(oldest),
    };
    let process = ProcessSnapshot {
        pid: Pid(5),
        exited: true,
        sites: vec![
            site(1, 10, 7),
            site(2, 30, 3),
            site(3, 50, 1),
            site(4, 1, 1),
        ],
        ..ProcessSnapshot::default()
    };
    let stacks = [(1, 1, 0), (2, 2, 0), (4, 1, stack::CUT_DEPTH)];
    let snapshot = Snapshot {
        processes: vec![process],
        stacks: stacks
            .map(|(id, object, cut)| (StackId(id), stack(object, cut)))
            .into(),
        ..Snapshot::default()
    };
    (snapshot, HashMap::from([object(1), object(2)]))
}

/// A book in which nothing is written.
fn codes() -> CodeBook {
    CodeBook::new(BookLimits::default())
}

fn build(options: &ReportOptions) -> Report {
    let (snapshot, objects) = snapshot();
    let sources = Sources {
        snapshot: &snapshot,
        facts: &|process| ProcessFacts {
            comm: format!("comm {}", process.pid),
            ..ProcessFacts::default()
        },
        objects: &objects,
        codes: &codes(),
        measured: &Measured::default(),
        time: UNIX_EPOCH,
        is_final: false,
    };
    Report::build(
        &sources,
        options,
        &mut Resolver::new(ResolveOptions::default()),
    )
}

fn options(sort: Sort, top: Option<usize>) -> ReportOptions {
    ReportOptions {
        sort,
        top,
        native: false,
        filter: BlockFilter::default(),
    }
}

#[test]
fn equal_stacks_are_one_site_and_lost_ones_say_so() {
    let report = build(&options(Sort::LiveBytes, None));
    let process = &report.processes[0];
    assert_eq!(
        (process.comm.as_str(), process.state, process.sites_total),
        ("comm 5", State::Exited, 3)
    );
    let [lost, merged, cut] = &process.sites[..] else {
        panic!("{:?}", process.sites)
    };
    assert_eq!(
        (lost.cut, lost.frames.len(), lost.live_bytes),
        (Some("stack lost"), 0, Bytes(50))
    );
    assert_eq!(
        (
            merged.live_bytes,
            merged.live_blocks,
            merged.allocated_blocks
        ),
        (Bytes(40), 2, 20)
    );
    assert_eq!(
        (merged.oldest_s, merged.cut, merged.cut_addr),
        (7.0, None, None)
    );
    assert_eq!(
        (cut.cut, cut.cut_addr),
        (Some("deeper than 256 frames"), Some(1))
    );
    let frame = &merged.frames[1];
    assert_eq!(
        (frame.module.as_str(), frame.offset),
        ("/bin/own", u64::from(NOWHERE) + 9)
    );
    assert_eq!(
        frame.reason.as_deref(),
        Some("no symbol covers the address")
    );
    assert_eq!((report.trust.frames, report.trust.unnamed_frames), (4, 4));
    assert_eq!(report.trust.unnamed["no symbol covers the address"], 4);
}

#[test]
fn sites_are_ordered_and_counted_as_asked() {
    let first = |sort| {
        let report = build(&options(sort, Some(1)));
        assert_eq!(
            (
                report.processes[0].sites.len(),
                report.processes[0].sites_total
            ),
            (1, 3)
        );
        report.processes[0].sites[0].cut
    };
    assert_eq!(first(Sort::LiveBytes), Some("stack lost"));
    assert_eq!(first(Sort::LiveBlocks), None);
    assert_eq!(first(Sort::AllocatedBytes), None);
    assert_eq!(first(Sort::Oldest), None);
}

#[test]
fn what_is_lost_is_said_by_cause_and_consequence() {
    let mut measured = Measured::default();
    measured.stats.lost[..8].copy_from_slice(&[0, 1, 2, 3, 4, 5, 6, 7]);
    measured.stats.stacks_lost = 8;
    measured.stats.notices_lost = 1;
    (measured.skipped_tracepoints, measured.skipped_probes) = (2, 1);
    measured.refused_objects = 4;
    let snapshot = Snapshot {
        events: 100,
        malformed: 2,
        refused_events: 3,
        ..Snapshot::default()
    };
    let trust = fixture::with_processes(Vec::new(), &snapshot, &measured).trust;
    assert_eq!((trust.events, trust.lost_events), (100, 28));
    insta::assert_snapshot!(trust.lost.causes().join(", "), @"1 allocation, 2 frees, 3 entered reallocs, 4 returned reallocs, 5 forks, 13 program ends, 8 stacks, 1 process notice, 2 skipped tracepoints, 1 skipped probe, 2 malformed records, 3 refused events, 4 unopened files");
    insta::assert_snapshot!(trust.not_known.join("\n"), @r"
    live may be too small by up to 5 blocks (lost allocations)
    up to 9 blocks shown live may be gone (lost frees)
    5 child processes may miss inherited blocks
    blocks of 13 ended programs may be shown live
    8 stacks did not arrive; their blocks have no site
    1 process may not be traced (lost notices)
    2 tracepoints (fork, exec, exit of any process) skipped by the kernel: processes were looked for, not all can be found
    1 allocator call passed unseen (skipped by the kernel)
    2 records could not be understood
    3 events came from processes beyond the limit; these are not followed
    4 files beyond the limit of objects: frames there have no names, allocators there are not traced
    ");
}
