//! What Python's frames cost the walk, by the kernel's own clock: the run time of memtrace's programs for malloc and free
//! of one block, under stacks of several depths. The difference between two depths is the frames' alone.

use std::{collections::BTreeMap, fmt::Write as _, path::Path};

use anyhow::{Context as _, Result, ensure};
use memtrace_tests::{gdb, memtrace::Memtrace, run_time::RunTime};

use crate::{
    median,
    program::{self, Program},
};

/// Python frames of the plain stacks.
const PLAIN: [u32; 4] = [1, 11, 21, 41];
/// Python frames of the mixed ones.
const MIXED: [u32; 2] = [2, 8];
/// Seconds that the loop runs at one depth.
const SECONDS: &str = "0.4";
/// Native and Python frames of the stack whose cost is told.
const FRAMES: f64 = 40.0;

/// Python frames below those that call each other: the module's, and that of the function which allocates.
const MORE: u32 = 2;
/// The interpreter's loop.
const LOOP: &str = "_PyEval_EvalFrameDefault";

/// One stack, measured.
#[derive(Clone, Copy)]
struct Stack {
    /// Native and Python frames, but for the few between the innermost Python function and malloc.
    frames: f64,
    /// Run time of the programs for a block.
    ns: f64,
}

/// Lets the program allocate under one stack, and gives the run time of the programs for a block.
fn measure(python: &Path, kind: &str, depth: u32) -> Result<f64> {
    let mut program = start(python, kind, depth)?;
    let memtrace = Memtrace::built()?.pid(program.pid()).start()?;
    memtrace.wait_tracing(&[program.pid()])?;
    let before = RunTime::of(memtrace.pid())?;
    program.go()?;
    program.wait_for("done")?;
    let after = RunTime::of(memtrace.pid())?;
    let report = memtrace.final_report()?;
    ensure!(report.trust.cut_stacks == 0, "stacks are cut");
    let process = report.process(program.pid())?;
    ensure!(process.runtime.python_stacks, "no Python stacks");
    let blocks = process.counts.allocated_blocks;
    ensure!(blocks > 1000, "{blocks} blocks");
    Ok((after.ns - before.ns) as f64 / blocks as f64)
}

/// Counts the frames of a stack, by gdb.
fn count(python: &Path, kind: &str, depth: u32) -> Result<f64> {
    let mut program = start(python, kind, depth)?;
    program.go()?;
    program.wait_for("done")?;
    let threads = gdb::backtraces(program.pid())?;
    let frames = &threads.first().context("no thread")?.frames;
    let is_loop = |name: &str| name.starts_with(LOOP);
    let inner = frames
        .iter()
        .position(|frame| frame.name.as_deref().is_some_and(is_loop));
    let inner = inner.with_context(|| format!("no {LOOP}"))?;
    Ok((frames.len() - inner) as f64 + f64::from(depth + MORE))
}

fn start(python: &Path, kind: &str, depth: u32) -> Result<Program> {
    let source = program::source("frames.py");
    let depth = depth.to_string();
    let source = source.as_os_str();
    Program::start(
        python,
        [source, kind.as_ref(), depth.as_ref(), SECONDS.as_ref()],
    )
}

/// All stacks of an interpreter, each the median of the rounds.
fn stacks(python: &Path, rounds: usize) -> Result<BTreeMap<(&'static str, u32), Stack>> {
    let plain = PLAIN.map(|depth| ("plain", depth));
    let all: Vec<(&str, u32)> = plain
        .into_iter()
        .chain(MIXED.map(|depth| ("mixed", depth)))
        .collect();
    let mut figures: BTreeMap<(&'static str, u32), Vec<f64>> = BTreeMap::new();
    for _ in 0..rounds {
        for (kind, depth) in &all {
            let ns = measure(python, kind, *depth)
                .with_context(|| format!("{}, {depth} {kind} frames", python.display()))?;
            figures.entry((kind, *depth)).or_default().push(ns);
        }
    }
    figures
        .into_iter()
        .map(|((kind, depth), all)| {
            let frames = count(python, kind, depth)?;
            let ns = median(all);
            Ok(((kind, depth), Stack { frames, ns }))
        })
        .collect()
}

/// The table for these interpreters.
pub(crate) fn table(pythons: &[impl AsRef<Path>], rounds: usize) -> Result<String> {
    let mut text = String::from(
        "\nrun time of the probes for malloc and free of one block, by the kernel's clock\n\n",
    );
    text += "| interpreter | ns under 1 frame | 11 | 21 | 41 | ns a Python frame | native frames with it | us at 40 mixed frames |\n";
    text += "|---|--:|--:|--:|--:|--:|--:|--:|\n";
    for python in pythons {
        let python = python.as_ref();
        let stacks = stacks(python, rounds)?;
        let plain: Vec<Stack> = PLAIN
            .iter()
            .map(|depth| stacks[&("plain", *depth)])
            .collect();
        let [few, many] = MIXED.map(|depth| stacks[&("mixed", depth)]);
        let (first, last) = (plain[0], plain[plain.len() - 1]);
        let levels = f64::from(PLAIN[PLAIN.len() - 1] - PLAIN[0]);
        let native = (last.frames - first.frames) / levels - 1.0;
        let each = (few.ns - many.ns) / (few.frames - many.frames);
        write!(text, "| {} |", version(python)?)?;
        for stack in &plain {
            write!(text, " {:.0} |", stack.ns)?;
        }
        writeln!(
            text,
            " {:.0} | {native:.1} | {:.2} |",
            (last.ns - first.ns) / levels,
            (few.ns + (FRAMES - few.frames) * each) / 1000.0
        )?;
    }
    Ok(text + "a Python frame: at most 200 ns; a mixed stack of 40 frames: at most 8 us\n")
}

/// What an interpreter says of itself.
fn version(python: &Path) -> Result<String> {
    let output = std::process::Command::new(python)
        .arg("--version")
        .output()?;
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}
