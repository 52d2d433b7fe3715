//! A process's report against the program's own truth, block for block.
//!
//! A block belongs to the innermost frame that is one of the workload's site functions; several stacks of one site
//! are added up. Blocks that belong to no site are a difference too: the workloads allocate nowhere else after the go.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use anyhow::{Result, bail};

use crate::{
    report::{Frame, Process},
    truth::{Counts, Truth},
    workload::Told,
};

/// Name under which the report's other blocks are compared with nothing.
pub const ELSEWHERE: &str = "(no site function)";

/// The innermost site function among `frames`.
#[must_use]
pub fn owner<'a>(frames: &'a [Frame], sites: &BTreeSet<&str>) -> Option<&'a str> {
    frames
        .iter()
        .map(Frame::bare_name)
        .find(|name| sites.contains(name))
}

/// What the report says of each site function of `truth`.
#[must_use]
pub fn by_site(truth: &Truth, process: &Process) -> BTreeMap<String, Counts> {
    let names: BTreeSet<&str> = truth.iter().map(|(name, _)| name.as_str()).collect();
    let mut sums = BTreeMap::<String, Counts>::new();
    for site in &process.sites {
        let name = owner(&site.frames, &names).unwrap_or(ELSEWHERE);
        *sums.entry(name.to_owned()).or_default() += site.counts;
    }
    sums
}

/// Compares by site and in total.
///
/// # Errors
///
/// Fails with a table of what differs, and the stacks of blocks that belong to no site.
pub fn assert_equal_by_site(told: &Told, process: &Process) -> Result<()> {
    let seen = by_site(&told.sites, process);
    let mut differences = String::new();
    let mut expected_total = Counts::default();
    for (name, expected) in &told.sites {
        expected_total += *expected;
        let actual = seen.get(name).copied().unwrap_or_default();
        differ(&mut differences, name, *expected, actual);
    }
    let elsewhere = seen.get(ELSEWHERE).copied().unwrap_or_default();
    differ(&mut differences, ELSEWHERE, Counts::default(), elsewhere);
    differ(
        &mut differences,
        "the whole process",
        expected_total,
        process.counts,
    );
    if differences.is_empty() {
        return Ok(());
    }
    if elsewhere != Counts::default() {
        differences += &stacks_elsewhere(&told.sites, process);
    }
    bail!(
        "process {} ({}), program {}, differs from its own truth:\n{differences}",
        told.pid,
        process.comm,
        told.exec
    )
}

fn differ(table: &mut String, name: &str, expected: Counts, actual: Counts) {
    if expected != actual {
        // Writing to a string cannot fail.
        let _ = writeln!(
            table,
            "  {name}\n    truth    {expected}\n    memtrace {actual}"
        );
    }
}

fn stacks_elsewhere(truth: &Truth, process: &Process) -> String {
    let names: BTreeSet<&str> = truth.iter().map(|(name, _)| name.as_str()).collect();
    let strange = process
        .sites
        .iter()
        .filter(|site| owner(&site.frames, &names).is_none());
    strange.take(5).fold(String::new(), |mut text, site| {
        let frames: Vec<String> = site.frames.iter().map(describe).collect();
        let _ = writeln!(
            text,
            "  elsewhere: {}\n    {}",
            site.counts,
            frames.join("\n    ")
        );
        text
    })
}

/// A frame in one line.
#[must_use]
pub fn describe(frame: &Frame) -> String {
    let reason = frame
        .reason
        .as_deref()
        .map(|reason| format!(" [{reason}]"))
        .unwrap_or_default();
    format!(
        "{}!{}+{:#x}{reason}",
        frame.module, frame.function, frame.offset
    )
}
