//! Reports on processes with Python stacks.

use serde_json::json;

use super::*;
use crate::{
    ids::CodeId,
    python::{book::Word, name::CodeName, version::Version},
    report::model::RuntimeKind,
    snapshot::Binding,
};

#[test]
fn python_stacks_are_headed_by_the_innermost_python_function() {
    let report = fixture::python_report();
    insta::assert_snapshot!("python_table_100", text(&table(100), &report));
    insta::assert_snapshot!("python_table_60", text(&table(60), &report));
    insta::assert_snapshot!("python_collapsed", text(&Collapsed, &report));
    let value: Value = serde_json::from_str(&text(&Json, &report)).unwrap();
    let process = &value["processes"][0];
    let runtime =
        json!({"kind": "cpython", "version": "3.11.7", "python_stacks": true, "reason": null});
    assert_eq!(process["runtime"], runtime);
    let frame = json!({
        "kind": "python", "function": "Cache.insert", "module": "cache", "file": "/srv/shop/cache.py", "line": 120,
        "offset": 42, "inlined": false, "reason": null,
    });
    assert_eq!(process["sites"][0]["frames"][1], frame);
    let gone = json!({
        "kind": "python", "function": "", "module": "", "file": null, "line": null, "offset": 0, "inlined": false,
        "reason": "code object freed before it could be read",
    });
    assert_eq!(process["sites"][1]["frames"][0], gone);
}

#[derive(Debug)]
struct Name;

impl CodeName for Name {
    fn function(&self) -> &str {
        "View.handle"
    }

    fn file(&self) -> &str {
        "/srv/shop/views.py"
    }

    fn line(&self, instr: u32) -> Option<u32> {
        Some(40 + instr)
    }

    fn bytes(&self) -> usize {
        1
    }
}

/// A report on a process of CPython: code object 2 has a name, 3 was freed, the interpreter is object 1 and has no symbol
/// where its frames are. Its sites differ in where in the interpreter they are, and in what object 3 stood for.
fn build_python(native: bool) -> Report {
    let (mut snapshot, objects) = snapshot();
    let mut book = codes();
    for id in [2, 3] {
        let (id, pid) = (CodeId(id), Pid(5));
        book.tell(Word::New { id, pid, addr: 8 });
        assert!(book.next(Duration::ZERO).is_some());
        book.hand_in(id, Ok(Arc::new(Name)), Duration::ZERO);
    }
    let (id, pid) = (CodeId(3), Pid(5));
    book.tell(Word::Freed { id, pid });
    book.drained(Duration::ZERO);
    let stack = |rel| {
        let frames = [
            stack::frame(1, NOWHERE + rel),
            stack::python_frame(0x1000, 2),
            stack::frame(1, NOWHERE),
            stack::python_frame(0x2000, stack::INSTR_UNKNOWN),
            stack::frame(2, NOWHERE),
        ];
        Arc::new(Stack {
            frames: frames.into(),
            ..Stack::default()
        })
    };
    snapshot.stacks = [1, 2, 3].map(|id| (StackId(id), stack(id as u32))).into();
    let binding = |id: u32, codes: [u32; 2]| {
        let stack = StackId(id.into());
        let codes = codes.map(CodeId).into();
        (BindingId(id), Arc::new(Binding { stack, codes }))
    };
    snapshot.bindings = [binding(1, [2, 3]), binding(2, [2, 3])].into();
    for site in &mut snapshot.processes[0].sites {
        let bound = site.stack < StackId(3);
        site.binding = BindingId(if bound { site.stack.0 as u32 } else { 0 });
    }
    let sources = Sources {
        snapshot: &snapshot,
        facts: &|_| ProcessFacts {
            runtime: RuntimeFacts::CPython {
                version: Some(Version::from_hex(0x030b_07f0)),
                stacks: Ok(()),
                objects: vec![ObjectId(1)],
            },
            ..ProcessFacts::default()
        },
        objects: &objects,
        codes: &book,
        measured: &Measured::default(),
        time: UNIX_EPOCH,
        is_final: false,
    };
    let options = ReportOptions {
        native,
        ..options(Sort::LiveBytes, None)
    };
    let mut resolver = Resolver::new(ResolveOptions::default());
    Report::build(&sources, &options, &mut resolver)
}

#[test]
fn python_frames_are_named_right_or_gone_and_the_interpreter_is_folded() {
    let folded = build_python(false);
    let runtime = &folded.processes[0].runtime;
    assert_eq!(
        (
            runtime.kind,
            runtime.version.as_deref(),
            runtime.python_stacks
        ),
        (RuntimeKind::Cpython, Some("3.11.7"), true)
    );
    // Two sites that differ only inside the interpreter are one; the third has no names; the fourth has lost its stack.
    let sites = &folded.processes[0].sites;
    assert_eq!(sites.len(), 3);
    let frames = &sites
        .iter()
        .find(|site| site.live_bytes == Bytes(40))
        .unwrap()
        .frames;
    let shown: Vec<_> = frames
        .iter()
        .map(|frame| (frame.kind, frame.function.as_str(), frame.module.as_str()))
        .collect();
    assert_eq!(
        shown,
        [
            (FrameKind::Python, "View.handle", "views"),
            (FrameKind::Python, "", ""),
            (FrameKind::Native, "", "/bin/own")
        ]
    );
    assert_eq!((frames[0].line, frames[0].offset), (Some(42), 4));
    let reason = frames[1].reason.as_deref();
    assert_eq!(reason, Some("code object freed before it could be read"));
    let late = sites
        .iter()
        .find(|site| site.live_bytes == Bytes(50))
        .unwrap();
    let reason = late.frames[0].reason.as_deref();
    assert_eq!(
        reason,
        Some("stack arrived late: may be another code object")
    );
    assert_eq!(
        (folded.trust.python_names, folded.trust.python_names_gone),
        (1, 1)
    );
    let freed = "code object freed before it could be read";
    assert_eq!(folded.trust.unnamed[freed], 1);
}

#[test]
fn with_everything_shown_the_sites_are_the_same() {
    let [folded, native] = [false, true].map(build_python);
    let ids = |report: &Report| -> Vec<_> {
        let sites = &report.processes[0].sites;
        sites
            .iter()
            .map(|site| (site.site, site.live_bytes))
            .collect()
    };
    assert_eq!(ids(&folded), ids(&native));
    assert!(
        native.processes[0]
            .sites
            .iter()
            .any(|site| site.frames.len() == 5)
    );
}
