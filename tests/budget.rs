//! What memtrace itself takes: idle CPU, the time to attach and detach, and that it keeps up with the fastest target.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use memtrace_tests::{figure, memtrace::Memtrace, privilege, procfs, workload::Workload};

/// Targets over which the time for one is averaged.
const TARGETS: u32 = 100;

#[test]
fn an_idle_target_costs_nothing() -> Result<()> {
    let Some(_turn) = privilege::turn()? else {
        return Ok(());
    };
    let target = Workload::of("leak").start()?;
    let memtrace = Memtrace::built()?.pid(target.pid()).start()?;
    memtrace.wait_tracing(&[target.pid()])?;
    thread::sleep(Duration::from_secs(1));
    let (before, began) = (procfs::cpu_time(memtrace.pid())?, Instant::now());
    thread::sleep(Duration::from_secs(6));
    let used = procfs::cpu_time(memtrace.pid())? - before;
    let share = 100.0 * used.as_secs_f64() / began.elapsed().as_secs_f64();
    figure::show(&format!(
        "{share:.3} % of a CPU while the target does nothing"
    ));
    ensure!(share < 0.5, "{share:.2} % of a CPU");
    memtrace.final_report()?;
    Ok(())
}

/// Seconds from the start until all of `count` targets are traced, and from the signal to the end.
fn attach_and_detach(count: u32) -> Result<(f64, f64)> {
    let targets = (0..count)
        .map(|_| Workload::of("leak").start())
        .collect::<Result<Vec<_>>>()?;
    let pids: Vec<u32> = targets.iter().map(Workload::pid).collect();
    let began = Instant::now();
    let memtrace = pids
        .iter()
        .fold(Memtrace::built()?, |builder, pid| builder.pid(*pid))
        .start()?;
    memtrace.wait_tracing(&pids)?;
    let attached = began.elapsed();
    let began = Instant::now();
    memtrace.final_report()?;
    Ok((attached.as_secs_f64(), began.elapsed().as_secs_f64()))
}

#[test]
fn attach_and_detach_of_one_process_more() -> Result<()> {
    let Some(_turn) = privilege::turn()? else {
        return Ok(());
    };
    // The difference of two runs: the quickest of three stands for a run on a quiet machine.
    let ones = [
        attach_and_detach(1)?,
        attach_and_detach(1)?,
        attach_and_detach(1)?,
    ];
    let quickest = |times: [f64; 3]| times.into_iter().fold(f64::INFINITY, f64::min);
    let (one_attach, one_detach) = (
        quickest(ones.map(|times| times.0)),
        quickest(ones.map(|times| times.1)),
    );
    let (attach, detach) = attach_and_detach(TARGETS + 1)?;
    let (each_attach, each_detach) = (
        1e3 * (attach - one_attach) / f64::from(TARGETS),
        1e3 * (detach - one_detach) / f64::from(TARGETS),
    );
    figure::show(&format!(
        "attach {each_attach:.1} ms, detach {each_detach:.1} ms for each process more; \
         for one, start to traced {one_attach:.2} s, signal to end {one_detach:.2} s"
    ));
    ensure!(each_attach <= 50.0, "attach: {each_attach:.1} ms");
    ensure!(each_detach <= 100.0, "detach: {each_detach:.1} ms");
    Ok(())
}

#[test]
fn nothing_is_lost_at_full_speed() -> Result<()> {
    let Some(_turn) = privilege::turn()? else {
        return Ok(());
    };
    for threads in ["1", "4"] {
        let target = Workload::of("loop").args([threads, "3000"]).start()?;
        let memtrace = Memtrace::built()?.pid(target.pid()).start()?;
        memtrace.wait_tracing(&[target.pid()])?;
        target.measure_pair(0)?;
        let report = memtrace.stop()?.last_report()?;
        let trust = &report.trust;
        figure::show(&format!(
            "{threads} threads: {:.0} events/s, {} lost",
            trust.events as f64 / 3.0,
            trust.lost_events
        ));
        ensure!(trust.events > 100_000, "only {} events", trust.events);
        ensure!(trust.lost_events == 0, "{} events lost", trust.lost_events);
    }
    Ok(())
}
