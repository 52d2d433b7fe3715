//! Tests of the helpers: a helper that cannot fail proves nothing.

use std::{path::Path, thread, time::Duration};

use anyhow::Result;

use crate::{
    compare, gdb,
    memtrace::Memtrace,
    procfs, programs,
    report::{Frame, Process, Report, Site},
    truth::{self, Counts, Line},
    workload::{Told, Workload},
};

fn frame(function: &str) -> Frame {
    Frame {
        kind: "native".into(),
        function: function.into(),
        module: "program".into(),
        file: None,
        line: None,
        offset: 0,
        inlined: false,
        reason: None,
    }
}

fn counts(blocks: u64, bytes: u64) -> Counts {
    Counts {
        live_blocks: blocks,
        live_bytes: bytes,
        allocated_blocks: blocks,
        allocated_bytes: bytes,
    }
}

fn process(sites: Vec<(Counts, Vec<&str>)>) -> Process {
    let mut total = Counts::default();
    let sites = sites.into_iter().map(|(counts, functions)| {
        total += counts;
        Site {
            site: String::new(),
            tier: "exact".into(),
            domain: None,
            counts,
            oldest_s: 0.0,
            cut: None,
            cut_addr: None,
            frames: functions.into_iter().map(frame).collect(),
        }
    });
    let sites = sites.collect();
    Process {
        pid: 1,
        comm: "program".into(),
        exe: String::new(),
        generation: String::new(),
        state: "running".into(),
        runtime: crate::report::Runtime {
            kind: "native".into(),
            version: None,
            python_stacks: false,
            reason: None,
        },
        rss_bytes: 0,
        counts: total,
        unknown_frees: 0,
        notes: Vec::new(),
        sites,
    }
}

fn told(sites: &[(&str, Counts)]) -> Told {
    let sites = sites
        .iter()
        .map(|(name, counts)| ((*name).to_owned(), *counts))
        .collect();
    Told {
        pid: 1,
        exec: 0,
        sites,
        calls: 0,
        seconds: 1.0,
    }
}

#[test]
fn stacks_of_one_site_are_added_up_and_the_innermost_site_owns_a_block() {
    let truth = told(&[
        ("site_a", counts(3, 30)),
        ("site_b", counts(1, 5)),
        ("site_unused", counts(0, 0)),
    ]);
    let report = process(vec![
        (counts(1, 10), vec!["strdup", "site_a", "main"]),
        (
            counts(2, 20),
            vec!["site_a(unsigned long)", "site_b", "main"],
        ),
        (counts(1, 5), vec!["site_b.constprop.0", "main"]),
    ]);
    compare::assert_equal_by_site(&truth, &report).unwrap();
}

#[test]
fn one_block_too_few_is_told_with_both_numbers() {
    let truth = told(&[("site_a", counts(3, 30))]);
    let report = process(vec![(counts(2, 20), vec!["site_a", "main"])]);
    let error = compare::assert_equal_by_site(&truth, &report)
        .unwrap_err()
        .to_string();
    assert!(error.contains("site_a"), "{error}");
    assert!(error.contains("truth    live 3 blocks 30 B"), "{error}");
    assert!(error.contains("memtrace live 2 blocks 20 B"), "{error}");
}

#[test]
fn a_block_of_no_site_is_a_difference_shown_with_its_stack() {
    let truth = told(&[("site_a", counts(1, 10))]);
    let report = process(vec![
        (counts(1, 10), vec!["site_a"]),
        (counts(1, 1), vec!["stranger", "main"]),
    ]);
    let error = compare::assert_equal_by_site(&truth, &report)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains(compare::ELSEWHERE) && error.contains("program!stranger+0x0"),
        "{error}"
    );
}

#[test]
fn a_workloads_lines_are_told_apart_by_process_program_and_stage() {
    let lines: Vec<String> = [
        r#"{"ready":7,"exec":0}"#,
        "a library's warning",
        r#"{"pid":7,"exec":0,"site":"site_a","live_blocks":1,"live_bytes":2,"allocated_blocks":3,"allocated_bytes":4}"#,
        r#"{"pid":8,"exec":0,"site":"site_a","live_blocks":9,"live_bytes":9,"allocated_blocks":9,"allocated_bytes":9}"#,
        r#"{"done":7,"exec":0,"calls":5,"ns":6}"#,
        r#"{"pid":7,"exec":0,"site":"site_a","live_blocks":2,"live_bytes":2,"allocated_blocks":3,"allocated_bytes":4}"#,
        r#"{"done":7,"exec":0,"calls":9,"ns":9}"#,
    ]
    .map(str::to_owned)
    .into();
    let lines = truth::parse(&lines);
    assert_eq!(lines.len(), 6);
    let (sites, done) = truth::told(&lines, 7, 0, 0).unwrap();
    assert_eq!(
        done,
        Line::Done {
            done: 7,
            exec: 0,
            calls: 5,
            ns: 6
        }
    );
    assert_eq!(sites.len(), 1);
    assert_eq!(sites[0].1.live_blocks, 1);
    assert_eq!(truth::told(&lines, 7, 0, 1).unwrap().0[0].1.live_blocks, 2);
    assert!(
        truth::told(&lines, 8, 0, 0).is_none(),
        "process 8 has not said that it is done"
    );
    assert!(truth::told(&lines, 7, 1, 0).is_none());
}

#[test]
fn a_report_that_lacks_a_field_is_refused() {
    let whole = r#"{"schema":1,"time":"","elapsed_s":0.0,"final":true,"tiers":[],"processes":[],"trust":{"events":0,
        "lost_events":0,"stacks":0,"cut_stacks":0,"unnamed_frames":0,"self_cpu_s":0.0,"self_rss_bytes":0,
        "target_cpu_s":0.0,"target_cost_s":0.0,"cost_pct":0.0,"python_names":0,"python_names_gone":0,"cut":{},"not_known":[]}}"#;
    assert!(Report::parse(whole).unwrap().is_final);
    assert!(Report::parse(&whole.replace("\"lost_events\":0,", "")).is_err());
    assert!(Report::parse(&whole.replace("\"schema\":1", "\"schema\":2")).is_err());
}

#[test]
fn a_workload_waits_for_its_go_tells_its_truth_and_dies_with_its_value() -> Result<()> {
    let workload = Workload::of("leak")
        .args(["5", "100"])
        .named("leaky3.2")
        .start()?;
    let pid = workload.pid();
    assert_eq!(procfs::comm(pid)?, "leaky3.2");
    thread::sleep(Duration::from_millis(50));
    assert!(
        !workload
            .lines()
            .iter()
            .any(|line| matches!(line, Line::Done { .. }))
    );
    workload.go()?;
    let told = workload.told()?;
    assert_eq!(told.sites, [("site_leak".to_owned(), counts(5, 500))]);
    drop(workload);
    assert!(!procfs::is_alive(pid));
    Ok(())
}

#[test]
fn every_program_builds_and_tells_a_truth_that_adds_up() -> Result<()> {
    for (program, args) in [
        ("every", ["50", ""]),
        ("threads", ["4", "500"]),
        ("storm", ["4", "500"]),
        ("new", ["50", ""]),
    ] {
        let workload = Workload::of(program)
            .args(args.into_iter().filter(|arg| !arg.is_empty()))
            .start()?;
        workload.go()?;
        let told = workload.told()?;
        let taken: u64 = told
            .sites
            .iter()
            .map(|(_, counts)| counts.allocated_blocks)
            .sum();
        assert!(taken > 100 && told.calls > taken, "{program}: {told:?}");
        for (site, counts) in told.sites {
            assert!(
                counts.live_blocks <= counts.allocated_blocks,
                "{program} {site}: {counts}"
            );
        }
    }
    Ok(())
}

#[test]
fn a_missing_source_is_named() {
    let error = programs::build("no-such-program", programs::Link::Dynamic)
        .unwrap_err()
        .to_string();
    assert!(error.contains("no-such-program"), "{error}");
}

#[test]
fn the_runner_kills_on_drop_and_tells_exit_codes() -> Result<()> {
    let sleeping = Memtrace::at(Path::new("/bin/sleep"))
        .arg("100")
        .start_bare()?;
    let pid = sleeping.pid();
    assert!(procfs::is_alive(pid));
    drop(sleeping);
    assert!(!procfs::is_alive(pid));
    let failing = Memtrace::at(Path::new("/bin/sh"))
        .args(["-c", "echo out; echo words >&2; exit 3"])
        .start_bare()?;
    let outcome = failing.end()?;
    assert_eq!(
        (
            outcome.code(),
            outcome.stderr.as_str(),
            outcome.stdout.as_str()
        ),
        (3, "words", "out")
    );
    Ok(())
}

#[test]
fn gdb_sees_the_recursion_that_a_program_is_known_to_make() -> Result<()> {
    let deep = Workload::of("frames").args([
        "8".into(),
        programs::build("plugin", programs::Link::Shared)?.into_os_string(),
    ]);
    let deep = deep.start()?;
    deep.go()?;
    deep.told()?;
    let threads = gdb::backtraces(deep.pid())?;
    let leaves = threads.iter().filter(|t| {
        t.frames
            .iter()
            .any(|frame| frame.name.as_deref() == Some("site_leaf"))
    });
    assert_eq!(leaves.count(), 8);
    assert!(
        threads.iter().all(|thread| thread.frames.len() > 3),
        "{threads:?}"
    );
    Ok(())
}

#[test]
fn a_maps_line_is_read_whole() {
    let line = "7f00-8f00 r-xp 00001000 fd:01 99                         /usr/lib/a b.so (deleted)";
    let mapping = procfs::parse_mapping(line).unwrap();
    assert_eq!(
        (mapping.start, mapping.end, mapping.offset),
        (0x7f00, 0x8f00, 0x1000)
    );
    assert_eq!(mapping.path, "/usr/lib/a b.so (deleted)");
    assert!(procfs::parse_mapping("nonsense").is_none());
}
