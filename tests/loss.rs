//! A ring that is too small on purpose: what is lost is counted, exactly, and said.

use anyhow::{Result, ensure};
use memtrace_tests::{
    compare::assert_equal_by_site, memtrace::Memtrace, privilege, workload::Workload,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

const BLOCKS: u64 = 300_000;

/// Every call of `leak` is one event and no block is ever freed, so the program's own number of blocks is what the
/// probes have produced.
#[test]
fn what_the_probes_produce_is_consumed_or_counted_as_lost() -> Result<()> {
    let Some(_turn) = privilege::turn()? else {
        return Ok(());
    };
    let leak = Workload::of("leak")
        .args([BLOCKS.to_string().as_str(), "40"])
        .start()?;
    let memtrace = Memtrace::built()?
        .pid(leak.pid())
        .args(["--ring-bytes", "4096"])
        .start()?;
    memtrace.wait_tracing(&[leak.pid()])?;
    leak.go()?;
    let told = leak.told()?;
    let outcome = memtrace.stop()?;
    let report = outcome.final_report()?;
    let trust = &report.trust;
    ensure!(
        trust.lost_events > 0,
        "nothing was lost: the ring is not tiny"
    );
    ensure!(
        trust.events + trust.lost_events == BLOCKS,
        "{} consumed + {} lost is not {BLOCKS}",
        trust.events,
        trust.lost_events
    );
    let process = report.process(leak.pid())?;
    let truth = told.sites[0].1;
    ensure!(
        process.counts.live_blocks + trust.lost_events == truth.live_blocks,
        "{}",
        process.counts
    );
    ensure!(
        process.counts.live_bytes == process.counts.live_blocks * 40,
        "{}",
        process.counts
    );
    ensure!(
        !trust.not_known.is_empty(),
        "what is no longer known is not said"
    );
    Ok(())
}

/// More forks and exits than the notice ring has room for, while memtrace cannot read it. The last child's fork is lost,
/// and the child is found by its parent.
#[test]
fn a_child_whose_notice_is_lost_is_found() -> Result<()> {
    const CHILDREN: &str = "12000";
    let Some(_turn) = privilege::turn()? else {
        return Ok(());
    };
    let flood = Workload::of("flood").args([CHILDREN, "500"]).start()?;
    let memtrace = Memtrace::built()?
        .pid(flood.pid())
        .arg("--follow-children")
        .start()?;
    memtrace.wait_tracing(&[flood.pid()])?;
    let tracer = Pid::from_raw(memtrace.pid().cast_signed());
    kill(tracer, Signal::SIGSTOP)?;
    flood.go()?;
    let family = flood.wait_family(2);
    kill(tracer, Signal::SIGCONT)?;
    let child = family?[1];
    memtrace.wait_tracing(&[child])?;
    flood.go_to(child)?;
    let told = flood.told_by(child, 0, 0)?;
    let report = memtrace.final_report()?;
    assert_equal_by_site(&told, report.process(child)?)?;
    ensure!(
        report
            .trust
            .not_known
            .iter()
            .any(|sentence| sentence.contains("lost notices")),
        "no notice was lost: {:?}",
        report.trust.not_known
    );
    Ok(())
}

#[test]
fn a_table_says_what_is_no_longer_known() -> Result<()> {
    let Some(_turn) = privilege::turn()? else {
        return Ok(());
    };
    let threads = Workload::of("threads").args(["8", "20000"]).start()?;
    let memtrace = Memtrace::built()?
        .pid(threads.pid())
        .args(["--ring-bytes", "4096", "-i", "3600", "--format", "table"])
        .start_bare()?;
    memtrace.wait_tracing(&[threads.pid()])?;
    threads.go()?;
    threads.told()?;
    let outcome = memtrace.stop()?;
    ensure!(
        outcome.code() == 0,
        "{}: {}",
        outcome.status,
        outcome.stderr
    );
    let lost = outcome.stdout.lines().rfind(|line| line.contains("lost"));
    let Some(lost) = lost else {
        anyhow::bail!("no word of the loss:\n{}", outcome.stdout)
    };
    ensure!(
        !lost.contains(" 0 lost"),
        "the trust line says that nothing was lost: {lost}"
    );
    Ok(())
}
