//! What a user gets: formats, intervals, filters, limits.

use std::{collections::BTreeSet, thread, time::Duration};

use anyhow::{Context as _, Result, ensure};
use memtrace_tests::{
    memtrace::{Memtrace, Outcome},
    privilege,
    report::Report,
    workload::Workload,
};

/// Traces a leak of 50 blocks of 64 bytes and gives what memtrace printed with these options.
fn leak_with(args: &[&str]) -> Result<Outcome> {
    let leak = Workload::of("leak").args(["50", "64"]).start()?;
    let memtrace = Memtrace::built()?
        .pid(leak.pid())
        .args(["-i", "3600"])
        .args(args.iter().copied())
        .start_bare()?;
    memtrace.wait_tracing(&[leak.pid()])?;
    leak.go()?;
    leak.told()?;
    thread::sleep(Duration::from_millis(100)); // so that the blocks have an age
    let outcome = memtrace.stop()?;
    ensure!(
        outcome.code() == 0,
        "{args:?}: {}: {}",
        outcome.status,
        outcome.stderr
    );
    Ok(outcome)
}

/// The final report of `every` with these options.
fn every_with(args: &[&str]) -> Result<Report> {
    let every = Workload::of("every").args(["100"]).start()?;
    let memtrace = Memtrace::built()?
        .pid(every.pid())
        .args(args.iter().copied())
        .start()?;
    memtrace.wait_tracing(&[every.pid()])?;
    every.go()?;
    every.told()?;
    memtrace.final_report()
}

#[test]
fn json_has_the_schema_and_the_facts() -> Result<()> {
    let Some(_turn) = privilege::turn()? else {
        return Ok(());
    };
    let outcome = leak_with(&["--format", "json"])?;
    let report = Report::parse(outcome.stdout.lines().last().context("nothing printed")?)?;
    ensure!(
        report.is_final && report.tiers == ["exact"] && report.elapsed_s > 0.0,
        "{report:?}"
    );
    ensure!(
        report.time.len() >= 20 && report.time.contains('T'),
        "not RFC 3339: {}",
        report.time
    );
    let process = report.processes.first().context("no process")?;
    ensure!(
        process.comm == "leak" && process.exe.ends_with("/leak"),
        "{} {}",
        process.comm,
        process.exe
    );
    ensure!(
        process.runtime.kind == "native" && process.state == "running" && process.rss_bytes > 4096,
        "{process:?}"
    );
    let site = process.sites.first().context("no site")?;
    ensure!(
        site.site.len() == 16 && site.site.bytes().all(|byte| byte.is_ascii_hexdigit()),
        "site id `{}`",
        site.site
    );
    ensure!(site.tier == "exact" && site.oldest_s > 0.0, "{site:?}");
    let names: Vec<&str> = site.frames.iter().map(|frame| frame.bare_name()).collect();
    ensure!(
        names.starts_with(&["site_leak", "main"]) && names.ends_with(&["_start"]),
        "{names:?}"
    );
    ensure!(
        site.frames
            .iter()
            .all(|frame| frame.kind == "native" && !frame.module.is_empty()),
        "{:?}",
        site.frames
    );
    ensure!(
        report.trust.events == 50 && report.trust.lost_events == 0,
        "{:?}",
        report.trust
    );
    ensure!(
        report.trust.self_rss_bytes > 0 && report.trust.self_cpu_s > 0.0,
        "{:?}",
        report.trust
    );
    Ok(())
}

#[test]
fn a_site_has_the_same_id_in_every_run() -> Result<()> {
    let Some(_turn) = privilege::turn()? else {
        return Ok(());
    };
    let ids = || -> Result<BTreeSet<String>> {
        let report = every_with(&[])?;
        Ok(report
            .processes
            .iter()
            .flat_map(|process| &process.sites)
            .map(|site| site.site.clone())
            .collect())
    };
    let (one, two) = (ids()?, ids()?);
    ensure!(
        one.len() > 10 && one == two,
        "{} and {} ids, {} in common",
        one.len(),
        two.len(),
        one.intersection(&two).count()
    );
    Ok(())
}

#[test]
fn collapsed_is_one_line_a_stack() -> Result<()> {
    let Some(_turn) = privilege::turn()? else {
        return Ok(());
    };
    let outcome = leak_with(&["--format", "collapsed"])?;
    let line = outcome
        .stdout
        .lines()
        .find(|line| line.contains("site_leak"))
        .context("no such stack")?;
    let (stack, weight) = line.rsplit_once(' ').context("no weight")?;
    ensure!(weight == "3200", "50 blocks of 64 bytes weigh {weight}");
    let frames: Vec<&str> = stack.split(';').collect();
    let of = |name: &str| frames.iter().position(|frame| frame.contains(name));
    ensure!(
        of("_start") < of("main") && of("main") < of("site_leak"),
        "not from the outermost frame inwards: {stack}"
    );
    Ok(())
}

#[test]
fn a_table_shows_the_site_and_the_trust_line() -> Result<()> {
    let Some(_turn) = privilege::turn()? else {
        return Ok(());
    };
    let outcome = leak_with(&["--format", "table"])?;
    ensure!(
        outcome.stdout.contains("site_leak") && outcome.stdout.contains("50"),
        "{}",
        outcome.stdout
    );
    ensure!(
        outcome.stdout.contains("3.1 KiB"),
        "no readable size:\n{}",
        outcome.stdout
    );
    ensure!(
        outcome.stdout.contains("0 lost"),
        "no trust line:\n{}",
        outcome.stdout
    );
    Ok(())
}

#[test]
fn a_report_every_interval_while_the_program_runs() -> Result<()> {
    let Some(_turn) = privilege::turn()? else {
        return Ok(());
    };
    let leak = Workload::of("leak").args(["0", "64", "500"]).start()?;
    let memtrace = Memtrace::built()?
        .pid(leak.pid())
        .args(["-d", "4"])
        .interval("1")
        .start()?;
    memtrace.wait_tracing(&[leak.pid()])?;
    leak.go()?;
    let outcome = memtrace.end()?;
    ensure!(
        outcome.code() == 0,
        "{}: {}",
        outcome.status,
        outcome.stderr
    );
    ensure!(
        outcome.reports.len() >= 3,
        "{} reports in 4 s",
        outcome.reports.len()
    );
    let live = outcome
        .reports
        .iter()
        .filter_map(|report| Some(report.processes.first()?.counts.live_blocks));
    let live: Vec<u64> = live.collect();
    ensure!(live.is_sorted() && live.first() < live.last(), "{live:?}");
    ensure!(
        outcome
            .reports
            .iter()
            .rev()
            .skip(1)
            .all(|report| !report.is_final),
        "only the last report is final"
    );
    outcome.final_report()?;
    Ok(())
}

#[test]
fn a_report_when_asked_by_a_signal() -> Result<()> {
    let Some(_turn) = privilege::turn()? else {
        return Ok(());
    };
    let leak = Workload::of("leak").args(["0", "64", "500"]).start()?;
    let memtrace = Memtrace::built()?.pid(leak.pid()).start()?;
    memtrace.wait_tracing(&[leak.pid()])?;
    leak.go()?;
    thread::sleep(Duration::from_millis(200));
    let first = memtrace.report_now()?.process(leak.pid())?.counts;
    thread::sleep(Duration::from_millis(200));
    let second = memtrace.report_now()?.process(leak.pid())?.counts;
    ensure!(
        0 < first.live_blocks && first.live_blocks < second.live_blocks,
        "{first}, then {second}"
    );
    ensure!(!memtrace.report_now()?.is_final);
    memtrace.final_report()?;
    Ok(())
}

#[test]
fn filters_and_order() -> Result<()> {
    let Some(_turn) = privilege::turn()? else {
        return Ok(());
    };
    let all = every_with(&[])?;
    let total = all.processes[0].counts;
    let top = every_with(&["-n", "2"])?;
    ensure!(
        top.processes[0].sites.len() == 2 && top.processes[0].counts == total,
        "top 2 of {total}"
    );
    let large = every_with(&["--min-size", "4096"])?;
    let sites = large.processes[0]
        .sites
        .iter()
        .filter(|site| site.counts.live_blocks > 0);
    for site in sites {
        ensure!(
            site.counts.live_bytes >= 4096 * site.counts.live_blocks,
            "{}",
            site.counts
        );
    }
    let old = every_with(&["--min-age", "3600"])?;
    ensure!(
        old.processes[0]
            .sites
            .iter()
            .all(|site| site.counts.live_blocks == 0),
        "blocks an hour old"
    );
    Ok(())
}
