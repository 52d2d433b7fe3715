//! What walking a stack costs, by the kernel's own clock: the run time of memtrace's programs at several depths.
//!
//! The kernel's figure for a program holds all that it does for a call: at the entry of malloc, at its return with the
//! stack and its hash, and at free. The difference between two depths is the frames' alone.

use std::{collections::BTreeMap, fmt::Write as _};

use anyhow::{Context as _, Result, ensure};
use memtrace_tests::{
    memtrace::Memtrace,
    run_time::{Counting, RunTime},
    workload::Workload,
};

/// Frames of the recursion above the allocating function; the program adds a few of its own.
const DEPTHS: [u32; 3] = [0, 20, 100];
/// Milliseconds that the loop runs at one depth.
const LOOP_MS: u32 = 400;
/// Nanoseconds that the programs take for malloc and free of one block, at a depth.
fn at_depth(frames: u32) -> Result<f64> {
    let workload = Workload::of("loop")
        .args(["1".to_owned(), LOOP_MS.to_string(), frames.to_string()])
        .start()?;
    let memtrace = Memtrace::built()?.pid(workload.pid()).start()?;
    memtrace.wait_tracing(&[workload.pid()])?;
    let before = RunTime::of(memtrace.pid())?;
    workload.measure_pair(0)?;
    let after = RunTime::of(memtrace.pid())?;
    let report = memtrace.stop()?.last_report()?;
    let pairs = report
        .processes
        .first()
        .context("no process")?
        .counts
        .allocated_blocks;
    ensure!(
        after.runs > before.runs && pairs > 1000,
        "{pairs} pairs, {} runs",
        after.runs - before.runs
    );
    Ok((after.ns - before.ns) as f64 / pairs as f64)
}

/// The table.
pub(crate) fn table(rounds: usize) -> Result<String> {
    let _counting = Counting::begin()?;
    let mut figures: BTreeMap<u32, Vec<f64>> = BTreeMap::new();
    for _ in 0..rounds {
        for depth in DEPTHS {
            figures.entry(depth).or_default().push(at_depth(depth)?);
        }
    }
    let medians: Vec<(u32, f64)> = figures
        .into_iter()
        .map(|(depth, mut all)| {
            all.sort_by(f64::total_cmp);
            (depth, all[all.len() / 2])
        })
        .collect();
    let mut text = String::from(
        "\nrun time of the probes for malloc and free of one block, by the kernel's clock\n\n",
    );
    text +=
        "| frames more |  ns a pair | ns a frame |\n|------------:|-----------:|-----------:|\n";
    let base = medians[0].1;
    for (depth, ns) in medians {
        let each = (ns - base) / f64::from(depth);
        let each = if depth == 0 {
            String::new()
        } else {
            format!("{each:.1}")
        };
        writeln!(text, "| {depth:>11} | {ns:>10.1} | {each:>10} |")?;
    }
    Ok(text + "a frame: at most 50 ns; a stack of 20 frames with its hash: at most 1000 ns\n")
}
