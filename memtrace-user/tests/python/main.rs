//! Code objects as the interpreters themselves see them: their names, files and lines.

#![expect(clippy::unwrap_used, reason = "a panic is how a test reports")]

mod interpreters;
mod live;
mod stdlib;

use memtrace::python::{code::LineFormat, lines::Spans};

/// The form of the line tables of 3.`minor`.
fn format(minor: u32) -> LineFormat {
    match minor {
        ..=9 => LineFormat::Lnotab,
        10 => LineFormat::Ranges,
        _ => LineFormat::Locations,
    }
}

/// The line of every code unit that `runs` tell.
fn told(runs: &[(u32, i32)]) -> Vec<Option<u32>> {
    let lines = runs
        .iter()
        .flat_map(|(units, line)| std::iter::repeat_n(u32::try_from(*line).ok(), *units as usize));
    lines.collect()
}

/// The line of every one of `units` code units.
fn decoded(spans: Spans<'_>, units: usize) -> Vec<Option<u32>> {
    let mut lines = vec![None; units];
    for span in spans {
        // From the first unit that begins within it to the first that does not.
        let end = (span.end.div_ceil(2) as usize).min(units);
        let start = (span.start.div_ceil(2) as usize).min(end);
        lines[start..end].fill(span.line);
    }
    lines
}
