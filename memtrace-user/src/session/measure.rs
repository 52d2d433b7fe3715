//! What a session knows of its targets and of itself, for reports; and what it says while it runs.

use std::{collections::HashMap, io::Write as _, time::Duration};

use memtrace_common::stats::Stats;
use nix::sys::resource::{UsageWho, getrusage};

use super::{command::Command, target::Target, targets::Targets};
use crate::{
    ids::{Bytes, Pid},
    probe::{Calibration, Probes},
    report::{Measured, ProcessFacts},
    target::procfs,
};

/// Says a line on standard error. A reader that is gone does not matter.
pub(super) fn say(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "memtrace: {line}");
}

/// What is known of every process, by id and programs begun. An id may be used again: the latest process stands last.
pub(super) type Facts = HashMap<(Pid, u32), Vec<ProcessFacts>>;

/// What is known of every process, by id and programs begun.
pub(super) fn facts(targets: &mut Targets, command: Option<&mut Command>) -> Facts {
    let mut facts = Facts::new();
    let mut know = |target: &Target| {
        let now = ((target.pid(), target.exec_count), target.facts());
        for (key, former) in target.former.iter().cloned().chain([now]) {
            facts.entry(key).or_default().push(former);
        }
    };
    targets.exited().for_each(&mut know);
    for target in targets.live() {
        if let Some(rss) = procfs::rss(target.pid()) {
            target.rss = rss;
        }
        know(target);
    }
    if let Some(command) = command
        && let Some(status) = command.poll()
    {
        for ((pid, _), facts) in &mut facts {
            if let Some(latest) = facts.last_mut().filter(|_| *pid == command.pid) {
                latest.ended = Some(status.to_string());
            }
        }
    }
    facts
}

/// What the trace has cost so far.
pub(super) fn measured(targets: &mut Targets, probes: &Probes) -> anyhow::Result<Measured> {
    let skipped = probes.skipped()?;
    let stats = targets.maps().stats()?;
    let ended: Duration = targets.exited().map(|target| target.cpu_since).sum();
    let running: Duration = targets
        .live()
        .map(|target| {
            target.measure();
            target.cpu_since
        })
        .sum();
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let time = |time: nix::sys::time::TimeVal| {
        Duration::from_secs(time.tv_sec() as u64) + Duration::from_micros(time.tv_usec() as u64)
    };
    Ok(Measured {
        self_cpu: time(usage.user_time()) + time(usage.system_time()),
        self_rss: procfs::rss(Pid(std::process::id())).unwrap_or(Bytes(0)),
        target_cpu: ended + running,
        target_cost: cost(&stats, probes.calibration()),
        skipped_tracepoints: skipped.tracepoints,
        skipped_probes: skipped.probes,
        refused_objects: targets.refused_objects(),
        stats,
    })
}

/// Hits times what a hit costs here.
fn cost(stats: &Stats, calibration: Calibration) -> Duration {
    let entries: u64 = stats.entries.iter().sum();
    let returns: u64 = stats.returns.iter().sum();
    let nanos = |time: Duration, hits: u64| time.as_nanos() as u64 * hits;
    let at_return = calibration
        .entry_and_return
        .saturating_sub(calibration.entry);
    Duration::from_nanos(nanos(calibration.entry, entries) + nanos(at_return, returns))
}
