//! What walking a stack costs, by the kernel's own clock: the run time of memtrace's programs at several depths.
//!
//! The kernel's figure for a program holds all that it does for a call (and some 50 ns of the measuring itself): at the
//! entry of malloc, at its return with the stack and its hash, and at free. The difference between two depths is the
//! frames' alone.

use std::{collections::BTreeMap, fmt::Write as _, fs};

use anyhow::{Context as _, Result, ensure};
use memtrace_tests::{memtrace::Memtrace, workload::Workload};

/// Frames of the recursion above the allocating function; the program adds a few of its own.
const DEPTHS: [u32; 3] = [0, 20, 100];
/// Milliseconds that the loop runs at one depth.
const LOOP_MS: u32 = 400;
/// The kernel's switch for run times.
const SWITCH: &str = "/proc/sys/kernel/bpf_stats_enabled";

/// Run times are counted while this lives.
struct Counting {
    before: String,
}

impl Counting {
    fn begin() -> Result<Self> {
        let before = fs::read_to_string(SWITCH)?;
        fs::write(SWITCH, "1")?;
        Ok(Self { before })
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        // Left on, it costs every BPF program of the machine some nanoseconds; there is nothing more to be done.
        let _ = fs::write(SWITCH, &self.before);
    }
}

/// Runs and nanoseconds of all programs that a process holds: proc_pid_fdinfo(5).
fn run_times(pid: u32) -> Result<(u64, u64)> {
    let mut programs = BTreeMap::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
        // Descriptors come and go.
        let info = fs::read_to_string(entry?.path()).unwrap_or_default();
        let field = |name: &str| -> Option<u64> {
            let line = info.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim_start_matches(':').trim().parse().ok()
        };
        if let (Some(id), Some(runs), Some(ns)) =
            (field("prog_id"), field("run_cnt"), field("run_time_ns"))
        {
            programs.insert(id, (runs, ns));
        }
    }
    ensure!(!programs.is_empty(), "{pid} holds no BPF program");
    Ok(programs.values().fold((0, 0), |sum, program| {
        (sum.0 + program.0, sum.1 + program.1)
    }))
}

/// Nanoseconds that the programs take for malloc and free of one block, at a depth.
fn at_depth(frames: u32) -> Result<f64> {
    let workload = Workload::of("loop")
        .args(["1".to_owned(), LOOP_MS.to_string(), frames.to_string()])
        .start()?;
    let memtrace = Memtrace::built()?.pid(workload.pid()).start()?;
    memtrace.wait_tracing(&[workload.pid()])?;
    let (runs_before, ns_before) = run_times(memtrace.pid())?;
    workload.measure_pair(0)?;
    let (runs, ns) = run_times(memtrace.pid())?;
    let report = memtrace.stop()?.last_report()?;
    let pairs = report
        .processes
        .first()
        .context("no process")?
        .counts
        .allocated_blocks;
    ensure!(
        runs > runs_before && pairs > 1000,
        "{pairs} pairs, {} runs",
        runs - runs_before
    );
    Ok((ns - ns_before) as f64 / pairs as f64)
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
