//! Which processes are traced: by id, name, cgroup, family, command; now and later.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use memtrace_tests::{
    compare::assert_equal_by_site,
    memtrace::{Builder, Memtrace},
    privilege, procfs,
    programs::{self, Link},
    workload::{self, Workload},
};

fn leak(name: &str) -> workload::Builder {
    Workload::of("leak").args(["20", "64"]).named(name)
}

/// Lets the wanted workloads work, and demands that the report has exactly them.
fn traces_exactly(builder: Builder, wanted: &[&Workload]) -> Result<()> {
    let memtrace = builder.start()?;
    let pids: Vec<u32> = wanted.iter().map(|workload| workload.pid()).collect();
    memtrace.wait_tracing(&pids)?;
    wanted.iter().try_for_each(|workload| workload.go())?;
    let told = wanted
        .iter()
        .map(|workload| workload.told())
        .collect::<Result<Vec<_>>>()?;
    let report = memtrace.final_report()?;
    let mut seen = report.pids();
    let mut expected = pids;
    seen.sort_unstable();
    expected.sort_unstable();
    ensure!(seen == expected, "traced {seen:?} instead of {expected:?}");
    told.iter()
        .try_for_each(|told| assert_equal_by_site(told, report.process(told.pid)?))
}

#[test]
fn several_ids() -> Result<()> {
    let Some(_turn) = privilege::turn()? else {
        return Ok(());
    };
    let (a, b, other) = (
        leak("mt-a").start()?,
        leak("mt-b").start()?,
        leak("mt-c").start()?,
    );
    traces_exactly(Memtrace::built()?.pid(a.pid()).pid(b.pid()), &[&a, &b])?;
    ensure!(procfs::is_alive(other.pid()));
    Ok(())
}

#[test]
fn a_name_and_its_versioned_forms() -> Result<()> {
    let Some(_turn) = privilege::turn()? else {
        return Ok(());
    };
    let names = [
        "mtname",
        "mtname3",
        "mtname3.12",
        "mtname-3.12",
        "mtnamed",
        "amtname",
    ];
    let all = names
        .iter()
        .map(|name| leak(name).start())
        .collect::<Result<Vec<_>>>()?;
    let expected: Vec<&Workload> = all.iter().take(4).collect();
    traces_exactly(Memtrace::built()?.args(["-c", "mtname"]), &expected)
}

#[test]
fn a_glob_and_a_second_name() -> Result<()> {
    let Some(_turn) = privilege::turn()? else {
        return Ok(());
    };
    let names = ["mtg-one", "mtg-two", "mtother", "mtg"];
    let all = names
        .iter()
        .map(|name| leak(name).start())
        .collect::<Result<Vec<_>>>()?;
    let expected: Vec<&Workload> = all.iter().take(3).collect();
    traces_exactly(
        Memtrace::built()?.args(["--comm", "mtg-*", "--comm", "mtother"]),
        &expected,
    )
}

/// A cgroup of the second version that is removed again.
struct Cgroup(PathBuf);

impl Cgroup {
    fn new(name: &str) -> Result<Option<Self>> {
        let mounts = fs::read_to_string("/proc/self/mounts")?;
        let root = mounts
            .lines()
            .map(|line| line.split(' ').collect::<Vec<_>>())
            .find(|fields| fields[2] == "cgroup2");
        let Some(root) = root else { return Ok(None) };
        let path = PathBuf::from(root[1]).join(format!("{name}-{}", std::process::id()));
        if fs::create_dir(&path).is_err() {
            return Ok(None);
        }
        Ok(Some(Self(path)))
    }

    fn add(&self, pid: u32) -> Result<()> {
        fs::write(self.0.join("cgroup.procs"), pid.to_string())
            .context("failed to move into the cgroup")
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Only an empty cgroup can be removed, and its last process may still be on its way out.
        let _ = memtrace_tests::wait::until("an empty cgroup", || Ok(fs::remove_dir(&self.0).ok()));
    }
}

#[test]
fn a_cgroup() -> Result<()> {
    let Some(_turn) = privilege::turn()? else {
        return Ok(());
    };
    let Some(group) = Cgroup::new("memtrace-test")? else {
        return privilege::skip("no cgroup of the second version can be made here");
    };
    let (inside, outside) = (leak("mt-inside").start()?, leak("mt-outside").start()?);
    group.add(inside.pid())?;
    traces_exactly(
        Memtrace::built()?
            .arg("--cgroup")
            .arg(group.0.as_os_str().to_owned()),
        &[&inside],
    )?;
    ensure!(procfs::is_alive(outside.pid()));
    Ok(())
}

#[test]
fn all_processes() -> Result<()> {
    let Some(_turn) = privilege::turn()? else {
        return Ok(());
    };
    let all = [leak("mt-all-1").start()?, leak("mt-all-2").start()?];
    let memtrace = Memtrace::built()?.arg("--all").start()?;
    let pids: Vec<u32> = all.iter().map(Workload::pid).collect();
    memtrace.wait_tracing(&pids)?;
    all.iter().try_for_each(Workload::go)?;
    let told = all.iter().map(Workload::told).collect::<Result<Vec<_>>>()?;
    let own = memtrace.pid();
    let report = memtrace.final_report()?;
    ensure!(!report.pids().contains(&own), "memtrace traces itself");
    told.iter()
        .try_for_each(|told| assert_equal_by_site(told, report.process(told.pid)?))
}

#[test]
fn what_is_not_there_yet_is_waited_for() -> Result<()> {
    let Some(_turn) = privilege::turn()? else {
        return Ok(());
    };
    let memtrace = Memtrace::built()?.args(["-c", "mt-later"]).start()?;
    memtrace.wait_for("that it waits", |line| {
        line.contains("waiting") && line.contains("--comm mt-later")
    })?;
    let first = leak("mt-later").start()?;
    memtrace.wait_tracing(&[first.pid()])?;
    let second = leak("mt-later").start()?;
    memtrace.wait_tracing(&[second.pid()])?;
    first.go()?;
    second.go()?;
    let told = [first.told()?, second.told()?];
    let report = memtrace.final_report()?;
    told.iter()
        .try_for_each(|told| assert_equal_by_site(told, report.process(told.pid)?))
}

/// A shell that names itself when it has begun, which no exec tells of.
#[test]
fn a_process_that_takes_the_name_is_heard_of() -> Result<()> {
    let Some(_turn) = privilege::turn()? else {
        return Ok(());
    };
    for form in ["raw", "perf"] {
        let memtrace = Memtrace::built()?
            .args(["--comm", "mt-renamed", "--tracepoints", form])
            .start()?;
        memtrace.wait_for("that it waits", |line| line.contains("waiting"))?;
        let mut shell = Command::new("sh")
            .args(["-c", "printf mt-renamed >/proc/$$/comm; read line"])
            .stdin(Stdio::piped())
            .spawn()?;
        // Traced, or found to have no allocator to trace: that depends on the shell.
        let name = format!("{} (mt-renamed)", shell.id());
        let heard = memtrace.wait_for(&name, |line| line.contains(&name));
        shell.kill()?;
        shell.wait()?;
        heard.with_context(|| format!("tracepoints: {form}"))?;
    }
    Ok(())
}

#[test]
fn no_wait_ends_with_1() -> Result<()> {
    let Some(_turn) = privilege::turn()? else {
        return Ok(());
    };
    let outcome = Memtrace::built()?
        .args(["-c", "mt-never", "--no-wait"])
        .start()?
        .end()?;
    ensure!(
        outcome.code() == 1,
        "{}: {}",
        outcome.status,
        outcome.stderr
    );
    ensure!(
        outcome.stderr.contains("mt-never"),
        "what did not match is not named: {}",
        outcome.stderr
    );
    Ok(())
}

#[test]
fn a_command_from_its_first_instruction() -> Result<()> {
    let Some(_turn) = privilege::turn()? else {
        return Ok(());
    };
    let program = programs::build("leak", Link::Dynamic)?;
    let command = [
        program.as_os_str(),
        "30".as_ref(),
        "64".as_ref(),
        "now".as_ref(),
    ];
    let outcome = Memtrace::built()?.arg("--").args(command).start()?.end()?;
    ensure!(
        outcome.stderr.contains("status 7"),
        "the exit status is not told: {}",
        outcome.stderr
    );
    let report = outcome.last_report()?;
    let process = report.processes.last().context("no process")?;
    ensure!(process.state == "exited", "{}", process.state);
    let leaks: u64 = process
        .sites
        .iter()
        .filter(|site| {
            site.frames
                .iter()
                .any(|frame| frame.bare_name() == "site_leak")
        })
        .map(|site| site.counts.live_blocks)
        .sum();
    ensure!(leaks == 30, "{leaks} of 30 blocks");
    Ok(())
}

#[test]
fn a_command_that_does_not_exist() -> Result<()> {
    let Some(_turn) = privilege::turn()? else {
        return Ok(());
    };
    let outcome = Memtrace::built()?
        .args(["--", "/no/such/program"])
        .start()?
        .end()?;
    ensure!([1, 2].contains(&outcome.code()), "{}", outcome.status);
    ensure!(
        outcome.stderr.contains("/no/such/program"),
        "{}",
        outcome.stderr
    );
    Ok(())
}

/// Starts a workload until it has this process id; the kernel is told to hand it out next, but others may be faster.
fn start_as(pid: u32, builder: impl Fn() -> workload::Builder) -> Result<Option<Workload>> {
    for _ in 0..50 {
        fs::write("/proc/sys/kernel/ns_last_pid", (pid - 1).to_string())?;
        let workload = builder().start()?;
        if workload.pid() == pid {
            return Ok(Some(workload));
        }
    }
    Ok(None)
}

#[test]
fn a_process_id_that_is_used_again_is_another_process() -> Result<()> {
    let Some(_turn) = privilege::turn()? else {
        return Ok(());
    };
    let memtrace = Memtrace::built()?.args(["-c", "mt-reuse"]).start()?;
    let mut first = leak("mt-reuse").start()?;
    let pid = first.pid();
    memtrace.wait_tracing(&[pid])?;
    first.go()?;
    let told = first.told()?;
    first.kill()?;
    drop(first);
    // Blocks of another size: what is mixed up shows.
    let Some(second) = start_as(pid, || {
        Workload::of("leak").args(["30", "200"]).named("mt-reuse")
    })?
    else {
        return privilege::skip("somebody else always gets the process id");
    };
    memtrace.wait_tracing_times(pid, 2)?;
    second.go()?;
    let told_again = second.told()?;
    let report = memtrace.final_report()?;
    let generations = report.generations(pid);
    ensure!(generations.len() == 2, "{} generations", generations.len());
    ensure!(
        generations[0].state == "exited" && generations[1].state == "running",
        "{generations:?}"
    );
    assert_equal_by_site(&told, generations[0])?;
    assert_equal_by_site(&told_again, generations[1])
}

#[test]
fn two_hundred_targets_at_once() -> Result<()> {
    let Some(_turn) = privilege::turn()? else {
        return Ok(());
    };
    let all = (0..200)
        .map(|_| leak("mt-many").start())
        .collect::<Result<Vec<_>>>()?;
    let all: Vec<&Workload> = all.iter().collect();
    traces_exactly(Memtrace::built()?.args(["-c", "mt-many"]), &all)
}
