//! What tracing costs the traced program, side by side with its peers in one run: `cargo xtask bench cost`.
//!
//! Rounds are interleaved: in every round each tracer is measured once, so that a slow minute of the machine slows all
//! of them. A figure is the median over the rounds of CPU time (not wall time) of the traced program.
//!
//! Needs root. `MEMTRACE_BIN` names the binary, `MEMTRACE_PEERS` the folder that peers are unpacked in;
//! `MEMTRACE_ROUNDS` sets the number of rounds (7). An argument measures only the workloads whose title contains it.

#![expect(clippy::print_stdout, reason = "a benchmark prints its table")]

mod floor;
mod frames;
mod redis;
mod table;
mod tracer;

use anyhow::{Result, ensure};
use memtrace_tests::{privilege, workload::Workload};

use crate::{table::Table, tracer::Tracer};

/// Milliseconds that a loop runs in one round.
const LOOP_MS: u32 = 400;

const NOT_A_TARGET: &str = "a process that is not a target: ns of CPU time a pair";

fn main() -> Result<()> {
    ensure!(privilege::turn()?.is_some(), "tracing needs root");
    let rounds = std::env::var("MEMTRACE_ROUNDS")
        .ok()
        .and_then(|rounds| rounds.parse().ok())
        .unwrap_or(7);
    let tracers = Tracer::available()?;
    let wanted = std::env::args()
        .skip(1)
        .find(|argument| !argument.starts_with('-'));
    let workloads: [(&str, Measure); 3] = [
        (
            "malloc(64) + free in one thread: ns of CPU time a pair",
            |tracer| in_loop(tracer, 1),
        ),
        (
            "malloc(64) + free in four threads: ns of CPU time a pair",
            |tracer| in_loop(tracer, 4),
        ),
        (
            "redis-server (glibc) under redis-benchmark: ns of CPU time a request",
            redis::cost,
        ),
    ];
    let is_wanted = |title: &str| {
        wanted
            .as_deref()
            .is_none_or(|wanted| title.contains(wanted))
    };
    for (title, workload) in workloads {
        if is_wanted(title) {
            println!("{}", measure(title, &tracers, rounds, workload)?);
        }
    }
    if is_wanted(NOT_A_TARGET) {
        println!("{}", beside_a_target(rounds)?);
    }
    if is_wanted("frames") {
        println!("{}", frames::table(rounds)?);
    }
    Ok(())
}

/// Measures one tracer on one workload.
type Measure = fn(Tracer) -> Result<f64>;

/// Measures every tracer once a round.
fn measure(title: &'static str, tracers: &[Tracer], rounds: usize, one: Measure) -> Result<Table> {
    let mut table = Table::new(title);
    for round in 1..=rounds {
        for tracer in tracers {
            let figure =
                one(*tracer).map_err(|error| error.context(format!("{tracer}, round {round}")))?;
            table.add(*tracer, figure);
        }
    }
    Ok(table)
}

fn loop_workload(threads: u32) -> memtrace_tests::workload::Builder {
    Workload::of("loop").args([threads.to_string(), LOOP_MS.to_string()])
}

/// The loop under a tracer.
fn in_loop(tracer: Tracer, threads: u32) -> Result<f64> {
    let environment = tracer.environment(&[])?;
    let workload = environment
        .into_iter()
        .fold(loop_workload(threads), |w, (name, value)| {
            w.environment(name, value)
        });
    let workload = workload.start()?;
    let _attached = tracer.attach(workload.pid())?;
    workload.measure_pair(0)
}

/// The loop before, while and after another process is traced: one process in all three, since two runs of one program
/// differ by more than what is looked for.
fn beside_a_target(rounds: usize) -> Result<Table> {
    let mut table = Table::new(NOT_A_TARGET);
    for _ in 0..rounds {
        let target = Workload::of("leak").args(["0", "64", "100"]).start()?;
        let workload = loop_workload(1).start()?;
        let before = workload.measure_pair(0)?;
        let attached = Tracer::Memtrace.attach(target.pid())?;
        target.go()?;
        table.add(Tracer::Memtrace, workload.measure_pair(1)?);
        drop(attached);
        table.add(Tracer::Nothing, (before + workload.measure_pair(2)?) / 2.0);
    }
    Ok(table)
}
