//! Services in Python that leak under load: attached to while they run, the leaking line is the first of the report.

use std::{
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use memtrace_tests::{
    figure,
    http::{self, Load},
    interpreters,
    memtrace::Memtrace,
    privilege, procfs,
    report::{Process, Report, Site},
    script::{self, Script},
    wait,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// How long the leak is watched.
const WATCHED: Duration = Duration::from_secs(12);
/// In this time from attaching on the leak must stand first.
const SOON: Duration = Duration::from_secs(30);
/// What a service's memory may differ by from what it says of itself: heads of objects.
const TOLERANCE: f64 = 0.02;
const CLIENTS: usize = 4;
const WORKERS: usize = 4;

/// What the service says that it holds.
fn told(port: u16) -> Result<u64> {
    let said = http::get(port, "/told")?;
    let bytes = said.split(' ').nth(1).context("no number")?;
    Ok(bytes.trim().parse()?)
}

fn wait_until_up(port: u16) -> Result<()> {
    wait::until("the service", || {
        Ok(http::get(port, "/work").ok().map(drop))
    })
}

/// The line of a script that leaks.
fn leaking_line(service: &str) -> Result<u32> {
    let text = std::fs::read_to_string(script::path(service))?;
    let line = text.lines().position(|line| line.ends_with("# the leak"));
    Ok(u32::try_from(line.context("no leak")?)? + 1)
}

/// Live bytes of the sites whose innermost Python frame is this line, and whether one of them is the first of all.
fn at_line(process: &Process, service: &str, line: u32) -> (u64, bool) {
    let there = process
        .sites
        .iter()
        .filter(|site| is_at(site, service, line));
    let bytes = there.map(|site| site.counts.live_bytes).sum();
    let first = process.sites.first();
    (bytes, first.is_some_and(|site| is_at(site, service, line)))
}

/// Whether the innermost Python frame of a site is at this line.
fn is_at(site: &Site, service: &str, line: u32) -> bool {
    site.python().next().is_some_and(|frame| {
        frame.line == Some(line)
            && frame
                .file
                .as_deref()
                .is_some_and(|file| file.ends_with(service))
    })
}

/// Puts a running service under load, attaches, and compares what the report has at the leaking line with what the
/// service says: how much that has grown between two moments at which nobody asked.
fn leak_is_found(service: &Script, script: &str, port: u16) -> Result<()> {
    let line = leaking_line(script)?;
    wait_until_up(port)?;
    let load = Load::start(port, "/work", CLIENTS);
    thread::sleep(Duration::from_secs(1));
    let attached = Instant::now();
    let memtrace = Memtrace::built()?.pid(service.pid()).start()?;
    memtrace.wait_for("that it shows Python", |line| line.contains("stacks show"))?;
    memtrace.wait_for("that it traces", |line| line.contains("glibc"))?;
    let now = |memtrace: &Memtrace| -> Result<(u64, Report)> {
        load.pause();
        let truth = told(port)?;
        let report = memtrace.report_now()?;
        load.resume();
        Ok((truth, report))
    };
    let (truth_before, before) = now(&memtrace)?;
    thread::sleep(WATCHED);
    let (truth_after, after) = now(&memtrace)?;
    let took = attached.elapsed();
    drop(load);
    let pid = service.pid();
    let (seen_before, _) = at_line(before.process(pid)?, script, line);
    let (seen_after, is_first) = at_line(after.process(pid)?, script, line);
    let (truth, seen) = (truth_after - truth_before, seen_after - seen_before);
    let off = seen as f64 / truth as f64 - 1.0;
    figure::show(&format!(
        "{script}: {truth} bytes leaked, {seen} seen ({:+.2} %), {} requests a second, {took:?} from attaching, \
         {} names, {} gone, {} of {} stacks cut, memtrace {} s CPU",
        100.0 * off,
        truth / 8192 / WATCHED.as_secs(),
        after.trust.python_names,
        after.trust.python_names_gone,
        after.trust.cut_stacks,
        after.trust.stacks,
        after.trust.self_cpu_s
    ));
    ensure!(truth > 100 * 8192, "only {truth} bytes were leaked");
    ensure!(
        is_first,
        "another site is first: {:?}",
        after.process(pid)?.sites.first()
    );
    ensure!(took < SOON, "{took:?}");
    ensure!(
        (-TOLERANCE..TOLERANCE).contains(&off),
        "{truth} bytes leaked, {seen} seen"
    );
    let runtime = &after.process(pid)?.runtime;
    ensure!(
        runtime.kind == "cpython" && runtime.python_stacks,
        "{runtime:?}"
    );
    let last = memtrace.final_report()?;
    ensure!(
        at_line(last.process(pid)?, script, line).1,
        "not in the final report"
    );
    ensure!(last.trust.lost_events == 0, "{:?}", last.trust);
    Ok(())
}

/// Runs a service script with the packages of an environment.
fn serve(bin: &Path, script: &str, port: u16) -> Result<Script> {
    let mut command = Command::new(bin.join("python"));
    command.arg("-B").arg(script::path(script));
    Script::run(command.arg(port.to_string()).stderr(Stdio::null()))
}

#[test]
fn flask_on_pyenv_and_on_the_systems_python() -> Result<()> {
    let Some(_turn) = privilege::turn()? else {
        return Ok(());
    };
    let pythons = [interpreters::pyenv("3.12")?, Some(interpreters::system())];
    for python in pythons.into_iter().flatten() {
        let bin = interpreters::with_packages(&python)?;
        let port = http::free_port()?;
        let service = serve(&bin, "service.py", port)?;
        leak_is_found(&service, "service.py", port)
            .with_context(|| format!("{}", python.display()))?;
    }
    Ok(())
}

#[test]
fn aiohttp() -> Result<()> {
    let Some(_turn) = privilege::turn()? else {
        return Ok(());
    };
    let Some(python) = interpreters::pyenv("3.12")? else {
        return Ok(());
    };
    let bin = interpreters::with_packages(&python)?;
    let port = http::free_port()?;
    let service = serve(&bin, "tasks_service.py", port)?;
    leak_is_found(&service, "tasks_service.py", port)
}

/// The workers of a gunicorn, when there are as many as there should be and none of `former`.
fn workers(master: u32, former: &[u32]) -> Result<Vec<u32>> {
    wait::until("the workers", || {
        let mut found = procfs::children(master)?;
        found.retain(|pid| procfs::is_alive(*pid));
        let is_new = found.iter().all(|pid| !former.contains(pid));
        Ok((found.len() == WORKERS && is_new).then_some(found))
    })
}

/// Every one of these is in the report in this state, with the leak at its line.
fn all_leak(report: &Report, pids: &[u32], state: &str, line: u32) -> Result<u64> {
    let mut sum = 0;
    for pid in pids {
        let process = report.current(*pid)?;
        ensure!(process.state == state, "{pid} is {}", process.state);
        ensure!(
            process.runtime.python_stacks,
            "{pid}: {:?}",
            process.runtime
        );
        let (bytes, is_first) = at_line(process, "service.py", line);
        ensure!(
            bytes > 0,
            "{pid} leaks nothing: {:?}",
            process.sites.first()
        );
        ensure!(is_first, "{pid}: {:?}", process.sites.first());
        sum += bytes;
    }
    Ok(sum)
}

/// Every one of these has ended, and the report still knows where it leaked. Whether anything was live at the end is the
/// program's own affair: an interpreter that ends in order frees what it can.
fn all_have_leaked(report: &Report, pids: &[u32], line: u32) -> Result<()> {
    for pid in pids {
        let process = report.current(*pid)?;
        ensure!(process.state == "exited", "{pid} is {}", process.state);
        ensure!(
            process.runtime.python_stacks,
            "{pid}: {:?}",
            process.runtime
        );
        let allocated: u64 = process
            .sites
            .iter()
            .filter(|site| is_at(site, "service.py", line))
            .map(|site| site.counts.allocated_bytes)
            .sum();
        ensure!(allocated > 0, "{pid} has not leaked");
    }
    Ok(())
}

#[test]
fn gunicorn_and_its_workers_before_and_after_a_reload() -> Result<()> {
    let Some(_turn) = privilege::turn()? else {
        return Ok(());
    };
    let Some(python) = interpreters::pyenv("3.12")? else {
        return Ok(());
    };
    let line = leaking_line("service.py")?;
    let bin = interpreters::with_packages(&python)?;
    let port = http::free_port()?;
    let mut command = Command::new(bin.join("gunicorn"));
    command
        .args(["--workers", &WORKERS.to_string(), "--bind"])
        .arg(format!("127.0.0.1:{port}"))
        .arg("--chdir")
        .arg(script::path(""))
        .arg("service:app")
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stderr(Stdio::null());
    let service = Script::run(&mut command)?;
    let master = service.pid();
    wait_until_up(port)?;
    let old = workers(master, &[])?;
    let load = Load::start(port, "/work", CLIENTS);
    let memtrace = Memtrace::built()?.args(["--comm", "gunicorn"]).start()?;
    memtrace.wait_tracing_times(master, 2)?;
    for pid in &old {
        memtrace.wait_tracing_times(*pid, 2)?;
    }
    thread::sleep(Duration::from_secs(5));
    let first = memtrace.report_now()?;
    let leaked = all_leak(&first, &old, "running", line)?;
    kill(Pid::from_raw(master.cast_signed()), Signal::SIGHUP)?;
    let new = workers(master, &old)?;
    for pid in &new {
        memtrace.wait_tracing_times(*pid, 2)?;
    }
    thread::sleep(Duration::from_secs(5));
    load.pause();
    let last = memtrace.final_report()?;
    figure::show(&format!(
        "gunicorn: {leaked} bytes in the first workers, {} answers, {} without, {} names, {} gone",
        load.answered(),
        load.failed(),
        last.trust.python_names,
        last.trust.python_names_gone
    ));
    all_have_leaked(&last, &old, line)?;
    all_leak(&last, &new, "running", line)?;
    ensure!(last.process(master)?.runtime.python_stacks, "the master");
    ensure!(last.trust.lost_events == 0, "{:?}", last.trust);
    Ok(())
}
