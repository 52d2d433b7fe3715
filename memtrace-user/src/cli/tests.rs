//! Arguments → plan, without touching the system.

use std::{path::PathBuf, time::Duration};

use clap::{CommandFactory as _, Parser as _, error::ErrorKind};

use super::*;
use crate::{
    ids::{Bytes, Pid},
    plan::PlanError,
    probe::{AttachLevel, Unwinder},
    report::{Destination, Format, Sort},
    target::rule::Rule,
};

fn parse(words: &str) -> Result<TraceArgs, clap::Error> {
    let words = ["memtrace"].into_iter().chain(words.split_whitespace());
    Ok(Args::try_parse_from(words)?.trace)
}

fn plan(words: &str) -> Plan {
    parse(words).unwrap().plan().unwrap()
}

#[test]
fn the_definition_is_sound() {
    Args::command().debug_assert();
}

#[test]
fn the_defaults_are_the_documented_ones() {
    let plan = plan("-p 4711");
    assert!(matches!(plan.selection.rules[..], [Rule::Pid(Pid(4711))]));
    assert_eq!(plan.pace.interval, Some(Duration::from_secs(5)));
    assert_eq!(plan.pace.duration, None);
    assert_eq!(
        (plan.report.sort, plan.report.top),
        (Sort::LiveBytes, Some(10))
    );
    assert_eq!(
        (plan.format, plan.destination),
        (Format::Table, Destination::Stdout)
    );
    assert_eq!(plan.memory_limit, Bytes(1 << 30));
    assert!(plan.wait && plan.command.is_none() && !plan.probes.watch_all);
    assert_eq!(
        (plan.verbosity, plan.probes.log_level),
        (log::LevelFilter::Warn, 0)
    );
}

#[test]
fn selectors_are_united() {
    let plan = plan(
        "-p 1,2 -p 3 -c python -c redis* --cgroup /sys/fs/cgroup/system.slice --cgroup app --all --follow-children",
    );
    let words: Vec<String> = plan
        .selection
        .rules
        .iter()
        .map(|rule| format!("{rule:?}"))
        .collect();
    assert_eq!(words.len(), 8, "{words:?}");
    assert!(
        words[5].contains("\"/system.slice\"") && words[6].contains("\"/app\""),
        "{words:?}"
    );
    assert!(plan.selection.follow_children && plan.probes.watch_all);
}

#[test]
fn everything_can_be_said() {
    let plan = plan(
        "-c x --no-wait --exact --yes -i 500ms -d 30 -n 3 --sort oldest --min-age 1m --min-size 10k --max-size 1MiB \
         --format json -o out.json --memory-limit 64M -vv --attach-level single --unwinder tail-call --ring-bytes 8k \
         --unwind-rows 1000",
    );
    assert!(!plan.wait);
    assert_eq!(plan.pace.interval, Some(Duration::from_millis(500)));
    assert_eq!(plan.pace.duration, Some(Duration::from_secs(30)));
    assert_eq!((plan.report.sort, plan.report.top), (Sort::Oldest, Some(3)));
    assert_eq!(plan.report.filter.min_age, Duration::from_secs(60));
    assert_eq!(plan.report.filter.min_size, Some(Bytes(10_240)));
    assert_eq!(plan.report.filter.max_size, Some(Bytes(1 << 20)));
    assert_eq!(
        (plan.format, plan.destination),
        (Format::Json, Destination::File(PathBuf::from("out.json")))
    );
    assert_eq!(plan.memory_limit, Bytes(64 << 20));
    assert_eq!(
        (plan.verbosity, plan.probes.log_level),
        (log::LevelFilter::Debug, 4)
    );
    assert_eq!(
        (plan.probes.level, plan.probes.unwinder),
        (Some(AttachLevel::Single), Some(Unwinder::TailCall))
    );
    assert_eq!(
        (plan.probes.event_ring_bytes, plan.probes.unwind_rows),
        (8192, 1000)
    );
}

#[test]
fn machines_get_all_sites_and_flame_graphs_one_moment() {
    assert_eq!(plan("-p 1 --format json").report.top, None);
    assert_eq!(plan("-p 1 --format json -n 5").report.top, Some(5));
    assert_eq!(plan("-p 1 -n 0").report.top, None);
    assert_eq!(plan("-p 1 --format collapsed -n 5").report.top, None);
    assert_eq!(plan("-p 1 --format collapsed").pace.interval, None);
    assert_eq!(
        plan("-p 1 --format collapsed -i 1").pace.interval,
        Some(Duration::from_secs(1))
    );
    assert_eq!(plan("-p 1 -i 0").pace.interval, None);
    assert_eq!(plan("-p 1 -o -").destination, Destination::Stdout);
}

#[test]
fn a_command_keeps_its_own_options() {
    let plan = plan("-d 1 -- ./server -p 80 --help doctor");
    assert_eq!(
        plan.command.unwrap(),
        ["./server", "-p", "80", "--help", "doctor"]
    );
    assert!(plan.selection.rules.is_empty());
}

#[test]
fn the_verb_stands_alone() {
    let args = Args::try_parse_from(["memtrace", "doctor"]).unwrap();
    assert_eq!(args.verb, Some(Verb::Doctor));
    assert!(Args::try_parse_from(["memtrace", "-p", "1", "doctor"]).is_err());
}

#[test]
fn wrong_values_are_usage_errors() {
    for (words, kind) in [
        ("-p nonsense", ErrorKind::ValueValidation),
        ("-p 0", ErrorKind::ValueValidation),
        ("-p 1 --format nonsense", ErrorKind::InvalidValue),
        ("-p 1 --sort nonsense", ErrorKind::InvalidValue),
        ("-p 1 -i soon", ErrorKind::ValueValidation),
        ("-p 1 --min-size 1X", ErrorKind::ValueValidation),
        ("-c a[", ErrorKind::ValueValidation),
        ("-p 1 -q -v", ErrorKind::ArgumentConflict),
        ("--no-such-option", ErrorKind::UnknownArgument),
        ("4711", ErrorKind::UnknownArgument),
    ] {
        let error = parse(words).unwrap_err();
        assert_eq!(error.kind(), kind, "{words}");
        assert_eq!(error.exit_code(), 2, "{words}");
    }
}

#[test]
fn arguments_that_contradict_each_other_make_no_plan() {
    let error = |words: &str| parse(words).unwrap().plan().unwrap_err();
    assert_eq!(error(""), PlanError::NothingSelected);
    assert_eq!(error("--follow-children -d 5"), PlanError::NothingSelected);
    assert_eq!(
        error("-p 1 --min-size 2k --max-size 1k"),
        PlanError::EmptySizeRange {
            min: Bytes(2048),
            max: Bytes(1024)
        }
    );
    assert_eq!(error("-p 1 -d 0"), PlanError::NoDuration);
    assert_eq!(error("-p 1 --ring-bytes 5000"), PlanError::RingSize);
    assert_eq!(error("-p 1 --memory-limit 1k"), PlanError::MemoryLimit);
}

#[test]
fn the_help_fits_and_has_examples() {
    let help = Args::command().term_width(100).render_help().to_string();
    insta::assert_snapshot!(help);
}
