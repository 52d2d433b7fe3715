//! Stacks made by hand, right ones and wrong ones.

use super::*;
use crate::{report::Runtime, truth::Counts};

fn frame(function: &str, line: u32) -> Frame {
    Frame {
        kind: "python".to_owned(),
        function: function.to_owned(),
        module: String::new(),
        file: Some("app.py".to_owned()),
        line: Some(line),
        offset: 0,
        inlined: false,
        reason: None,
    }
}

fn native(function: &str) -> Frame {
    Frame {
        kind: "native".to_owned(),
        file: None,
        line: None,
        ..frame(function, 0)
    }
}

/// A frame of which nothing is known but why.
fn gone() -> Frame {
    Frame {
        file: None,
        line: None,
        reason: Some("gone".to_owned()),
        ..frame("", 0)
    }
}

/// A frame whose line is not known.
fn lineless(function: &str) -> Frame {
    Frame {
        line: None,
        reason: Some("no line table".to_owned()),
        ..frame(function, 0)
    }
}

fn site(blocks: u64, bytes: u64, frames: &[Frame]) -> Site {
    Site {
        site: "00000000000000aa".to_owned(),
        tier: "exact".to_owned(),
        domain: None,
        counts: Counts {
            live_blocks: blocks,
            live_bytes: bytes,
            ..Counts::default()
        },
        oldest_s: 0.0,
        cut: None,
        cut_addr: None,
        frames: frames.to_vec(),
    }
}

fn process(sites: Vec<Site>) -> Process {
    Process {
        pid: 7,
        comm: "python".to_owned(),
        exe: "/usr/bin/python3".to_owned(),
        generation: "7-1-0".to_owned(),
        state: "running".to_owned(),
        runtime: Runtime {
            kind: "cpython".to_owned(),
            version: Some("3.12.1".to_owned()),
            python_stacks: true,
            reason: None,
        },
        rss_bytes: 0,
        counts: Counts::default(),
        unknown_frees: 0,
        notes: Vec::new(),
        sites,
    }
}

fn truth_frame(function: &str, line: Option<u32>) -> PythonFrame {
    PythonFrame {
        function: function.to_owned(),
        file: "app.py".to_owned(),
        line,
        first_line: 3,
    }
}

/// `inner` at line 5, called by `outer` at 9.
fn stack() -> Vec<PythonFrame> {
    vec![truth_frame("inner", Some(5)), truth_frame("outer", Some(9))]
}

fn judged(frames: &[Frame]) -> Verdict {
    verdict(&site(1, 1, frames), &stack())
}

fn is_wrong(frames: &[Frame]) -> bool {
    matches!(judged(frames), Verdict::Wrong(_))
}

#[test]
fn native_frames_between_are_not_looked_at() {
    let frames = [
        native("malloc"),
        frame("inner", 5),
        native("eval"),
        frame("outer", 9),
        native("main"),
    ];
    assert_eq!(judged(&frames), Verdict::Equal);
}

#[test]
fn every_untruth_is_wrong() {
    let (inner, outer) = (frame("inner", 5), frame("outer", 9));
    let elsewhere = Frame {
        file: Some("other.py".to_owned()),
        ..outer.clone()
    };
    let unreasoned = Frame {
        reason: None,
        ..gone()
    };
    let unlined = Frame {
        reason: None,
        ..lineless("outer")
    };
    let stacks = [
        vec![inner.clone(), frame("other", 9)],
        vec![inner.clone(), frame("outer", 8)],
        vec![inner.clone(), elsewhere],
        vec![outer.clone(), inner.clone()],
        vec![inner.clone()],
        vec![outer.clone()],
        vec![],
        vec![inner.clone(), outer.clone(), outer],
        vec![inner.clone(), unreasoned],
        vec![inner.clone(), unlined],
        vec![gone(), frame("other", 9)],
        vec![lineless("other"), frame("outer", 9)],
    ];
    for frames in &stacks {
        assert!(is_wrong(frames), "{frames:?}");
    }
}

#[test]
fn what_is_left_out_has_a_reason() {
    let missing = |reason: &str| Verdict::Missing(reason.to_owned());
    assert_eq!(judged(&[frame("inner", 5), gone()]), missing("gone"));
    assert_eq!(
        judged(&[lineless("inner"), frame("outer", 9)]),
        missing("no line table")
    );
    let mut cut = site(1, 1, &[frame("inner", 5)]);
    cut.cut = Some("too deep".to_owned());
    assert_eq!(verdict(&cut, &stack()), missing("cut: too deep"));
    cut.frames[0].line = Some(6);
    assert!(matches!(verdict(&cut, &stack()), Verdict::Wrong(_)));
    // Cut behind the last frame of Python: nothing is missing.
    cut.frames = vec![frame("inner", 5), frame("outer", 9)];
    assert_eq!(verdict(&cut, &stack()), Verdict::Equal);
}

#[test]
fn without_a_line_the_functions_will_do() {
    let truth = [truth_frame("inner", None)];
    let judged = |line| {
        let frame = Frame {
            line,
            ..frame("inner", 0)
        };
        verdict(&site(1, 1, &[frame]), &truth)
    };
    assert_eq!(judged(Some(3)), Verdict::Equal);
    assert_eq!(judged(None), Verdict::Equal);
    assert!(matches!(judged(Some(4)), Verdict::Wrong(_)));
}

#[test]
fn blocks_are_counted_by_their_size() {
    let stack = |size, count, name| PythonStack {
        size,
        count,
        frames: vec![truth_frame(name, Some(5))],
    };
    let truth = PythonTruth {
        pid: 7,
        python: "3.12.1".to_owned(),
        samples: 15,
        stacks: vec![
            stack(1001, 6, "a"),
            stack(1035, 4, "b"),
            stack(1069, 3, "c"),
            stack(1103, 2, "d"),
        ],
    };
    let outcome = truth.compare(&process(vec![
        // Two native ways to one Python stack.
        site(4, 4004, &[native("malloc"), frame("a", 5)]),
        site(2, 2002, &[native("calloc"), frame("a", 5)]),
        site(3, 3105, &[frame("c", 5)]),
        site(3, 3207, &[gone()]),
        site(4, 4412, &[frame("d", 5)]),
        // Nobody's, and two sizes in one site.
        site(9, 900, &[frame("e", 5)]),
        site(2, 2003, &[frame("a", 5)]),
    ]));
    assert_eq!((outcome.samples, outcome.equal, outcome.wrong), (15, 10, 3));
    assert_eq!((outcome.absent, outcome.invented), (1, 2));
    assert_eq!(outcome.missing, BTreeMap::from([("gone".to_owned(), 3)]));
    assert!(!outcome.is_true());
    assert!(
        outcome
            .to_string()
            .contains("`c` (app.py:5) where `b` (app.py:5) is"),
        "{outcome}"
    );
}

#[test]
fn stacks_that_cannot_be_told_apart_are_judged_by_their_sums() {
    let stack = |size, count, name| PythonStack {
        size,
        count,
        frames: vec![truth_frame(name, Some(5)), truth_frame("outer", Some(9))],
    };
    let truth = PythonTruth {
        pid: 7,
        python: "3.12.1".to_owned(),
        samples: 10,
        stacks: vec![
            stack(1001, 6, "a"),
            stack(1035, 3, "b"),
            stack(1069, 1, "c"),
        ],
    };
    let compare = |blocks, bytes, outer: u32| {
        truth.compare(&process(vec![
            // One of the blocks has its name.
            site(1, 1001, &[frame("a", 5), frame("outer", 9)]),
            site(blocks, bytes, &[gone(), frame("outer", outer)]),
        ]))
    };
    let right = compare(9, 5 * 1001 + 3 * 1035 + 1069, 9);
    assert!(right.is_true());
    assert_eq!((right.equal, right.absent), (1, 0));
    assert_eq!(right.missing, BTreeMap::from([("gone".to_owned(), 9)]));
    // Bytes of somebody else.
    let wrong = compare(9, 5 * 1001 + 3 * 1035 + 1070, 9);
    assert_eq!((wrong.equal, wrong.wrong), (1, 9));
    let fewer = compare(8, 5 * 1001 + 3 * 1035, 9);
    assert!(fewer.is_true());
    assert_eq!(fewer.absent, 1);
    assert_eq!(compare(10, 10_000, 9).invented, 1);
    // What it does say is not so: it is none of these.
    let elsewhere = compare(9, 5 * 1001 + 3 * 1035 + 1069, 8);
    assert_eq!((elsewhere.equal, elsewhere.absent), (1, 9));
}
