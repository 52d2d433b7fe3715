//! What goes wrong around a tracer: targets that die, a tracer that is killed, files that are no programs, full disks,
//! closed pipes, missing rights. Each ends with the documented code and words, and no target is harmed.

use std::{
    fs::{self, File},
    io::Read as _,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Result, ensure};
use memtrace_tests::{
    compare::assert_equal_by_site,
    memtrace::{self, Memtrace},
    privilege, procfs, wait,
    workload::Workload,
};
use nix::sys::signal::Signal;

fn endless() -> Result<Workload> {
    Workload::of("leak").args(["0", "64", "50"]).start()
}

#[test]
fn a_target_killed_during_attach() -> Result<()> {
    let Some(_turn) = privilege::turn()? else {
        return Ok(());
    };
    for delay_ms in [0, 20, 50, 100, 200, 400] {
        let mut target = endless()?;
        target.go()?;
        let memtrace = Memtrace::built()?.pid(target.pid()).start()?;
        thread::sleep(Duration::from_millis(delay_ms));
        target.kill()?;
        let outcome = memtrace.end()?;
        ensure!(
            outcome.code() == 1,
            "killed after {delay_ms} ms: {}: {}",
            outcome.status,
            outcome.stderr
        );
        let named = outcome.stderr.contains(&target.pid().to_string());
        ensure!(
            named,
            "killed after {delay_ms} ms: who is gone is not said: {}",
            outcome.stderr
        );
    }
    Ok(())
}

#[test]
fn a_target_killed_during_trace_keeps_its_last_snapshot() -> Result<()> {
    let Some(_turn) = privilege::turn()? else {
        return Ok(());
    };
    let mut target = endless()?;
    let pid = target.pid();
    let memtrace = Memtrace::built()?.pid(pid).start()?;
    memtrace.wait_tracing(&[pid])?;
    target.go()?;
    thread::sleep(Duration::from_millis(300));
    target.kill()?;
    let outcome = memtrace.end()?;
    ensure!(
        outcome.code() == 1,
        "{}: {}",
        outcome.status,
        outcome.stderr
    );
    let report = outcome.last_report()?;
    let process = report.process(pid)?;
    ensure!(
        process.state == "exited" && process.counts.live_blocks > 10,
        "{} {}",
        process.state,
        process.counts
    );
    let site = &process.sites[0];
    ensure!(
        site.frames[0].bare_name() == "site_leak",
        "names after death: {:?}",
        site.frames[0]
    );
    Ok(())
}

#[test]
fn a_target_killed_during_a_report() -> Result<()> {
    let Some(_turn) = privilege::turn()? else {
        return Ok(());
    };
    for delay_us in [0, 300, 1000, 3000] {
        let mut target = endless()?;
        let memtrace = Memtrace::built()?.pid(target.pid()).start()?;
        memtrace.wait_tracing(&[target.pid()])?;
        target.go()?;
        thread::sleep(Duration::from_millis(100));
        memtrace.signal(Signal::SIGUSR1)?;
        thread::sleep(Duration::from_micros(delay_us));
        target.kill()?;
        let outcome = memtrace.end()?;
        ensure!(
            outcome.code() == 1,
            "{}: {}",
            outcome.status,
            outcome.stderr
        );
        let report = outcome.last_report()?;
        ensure!(
            report.process(target.pid())?.counts.live_blocks > 0,
            "the last snapshot is lost"
        );
    }
    Ok(())
}

/// The text of libc and of the dynamic linker is, byte for byte, what it was before.
#[test]
fn memtrace_killed_leaves_no_probe() -> Result<()> {
    let Some(_turn) = privilege::turn()? else {
        return Ok(());
    };
    let target = endless()?;
    let pid = target.pid();
    let (libc, linker) = (
        procfs::text_of(pid, "libc.so")?,
        procfs::text_of(pid, "ld-linux")?,
    );
    let mut memtrace = Memtrace::built()?.pid(pid).start()?;
    memtrace.wait_tracing(&[pid])?;
    target.go()?;
    thread::sleep(Duration::from_millis(100));
    ensure!(
        procfs::text_of(pid, "libc.so")? != libc,
        "no probe is in the text, so this test shows nothing"
    );
    memtrace.signal(Signal::SIGKILL)?;
    memtrace.wait_killed()?;
    wait::until("the kernel to take the probes out", || {
        Ok((procfs::text_of(pid, "libc.so")? == libc
            && procfs::text_of(pid, "ld-linux")? == linker)
            .then_some(()))
    })?;
    let before = procfs::cpu_time(pid)?;
    wait::until("the target to work on", || {
        Ok((procfs::cpu_time(pid)? > before).then_some(()))
    })?;
    ensure!(procfs::is_alive(pid));
    Ok(())
}

#[test]
fn a_child_that_is_not_traced_loses_the_probes_it_was_born_with() -> Result<()> {
    let Some(_turn) = privilege::turn()? else {
        return Ok(());
    };
    let tree = Workload::of("tree").args(["1", "100"]).start()?;
    let clean = procfs::text_of(tree.pid(), "libc.so")?;
    let memtrace = Memtrace::built()?.pid(tree.pid()).start()?;
    memtrace.wait_tracing(&[tree.pid()])?;
    tree.go()?;
    for child in &tree.wait_family(3)?[1..] {
        wait::until("the child's own text to be clean", || {
            Ok((procfs::text_of(*child, "libc.so")? == clean).then_some(()))
        })?;
    }
    ensure!(
        procfs::text_of(tree.pid(), "libc.so")? != clean,
        "the parent has lost its probes too"
    );
    memtrace.final_report()?;
    Ok(())
}

#[test]
fn a_clean_end_leaves_no_probe_either() -> Result<()> {
    let Some(_turn) = privilege::turn()? else {
        return Ok(());
    };
    let target = endless()?;
    let libc = procfs::text_of(target.pid(), "libc.so")?;
    let memtrace = Memtrace::built()?.pid(target.pid()).start()?;
    memtrace.wait_tracing(&[target.pid()])?;
    target.go()?;
    memtrace.final_report()?;
    ensure!(
        procfs::text_of(target.pid(), "libc.so")? == libc,
        "a probe is left"
    );
    Ok(())
}

#[test]
fn a_process_that_does_not_exist() -> Result<()> {
    let Some(_turn) = privilege::turn()? else {
        return Ok(());
    };
    // Above the largest value of kernel.pid_max on 64-bit machines, 2^22.
    let outcome = Memtrace::built()?.pid(4_194_305).start()?.end()?;
    ensure!(
        outcome.code() == 1,
        "{}: {}",
        outcome.status,
        outcome.stderr
    );
    ensure!(outcome.stderr.contains("4194305"), "{}", outcome.stderr);
    Ok(())
}

/// A kernel thread has no mappings: its maps file is empty and its executable link cannot be read.
#[test]
fn a_process_without_readable_maps() -> Result<()> {
    let Some(_turn) = privilege::turn()? else {
        return Ok(());
    };
    let outcome = Memtrace::built()?.pid(2).args(["-d", "2"]).start()?.end()?;
    ensure!(
        [0, 1].contains(&outcome.code()),
        "{}: {}",
        outcome.status,
        outcome.stderr
    );
    ensure!(
        outcome.stderr.contains('2') && !outcome.stderr.contains("panicked"),
        "{}",
        outcome.stderr
    );
    Ok(())
}

#[test]
fn mapped_files_that_are_no_elf_or_damaged() -> Result<()> {
    let Some(_turn) = privilege::turn()? else {
        return Ok(());
    };
    let folder = tempfile::tempdir()?;
    let libc = fs::read("/proc/self/exe")?;
    let mut noise = vec![0u8; 8192];
    File::open("/dev/urandom")?.read_exact(&mut noise)?;
    let mut no_headers = libc[..8192].to_vec();
    no_headers[32..64].copy_from_slice(&noise[..32]);
    let mut wild = libc.clone();
    let half = wild.len() / 2;
    wild[half..half + 8192].copy_from_slice(&noise);
    let files = [
        ("libtext.so", b"#!/bin/sh\n".repeat(500)),
        ("libnoise.so", noise),
        ("libcut.so", libc[..5000].to_vec()),
        ("libmalloc.so", no_headers),
        ("libwild.so", wild),
    ];
    let mut paths = Vec::new();
    for (name, bytes) in files {
        fs::write(folder.path().join(name), bytes)?;
        paths.push(folder.path().join(name));
    }
    let target = Workload::of("damaged").args(paths).start()?;
    let memtrace = Memtrace::built()?.pid(target.pid()).start()?;
    memtrace.wait_tracing(&[target.pid()])?;
    target.go()?;
    let told = target.told()?;
    let report = memtrace.final_report()?;
    assert_equal_by_site(&told, report.process(told.pid)?)
}

#[test]
fn no_rights_end_with_3_and_the_command_to_type() -> Result<()> {
    let Some(_turn) = privilege::turn()? else {
        return Ok(());
    };
    // The binary may lie where others cannot read.
    let folder = tempfile::Builder::new()
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .tempdir()?;
    let binary = folder.path().join("memtrace");
    fs::copy(memtrace::binary()?, &binary)?;
    let target = endless()?;
    let done = Command::new("setpriv")
        .args(privilege::NOBODY)
        .arg(&binary)
        .args(["-p", &target.pid().to_string()])
        .output()?;
    let words = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.code() == Some(3), "{}: {words}", done.status);
    ensure!(words.contains("sudo"), "no command to type: {words}");
    Ok(())
}

#[test]
fn a_full_disk() -> Result<()> {
    let Some(_turn) = privilege::turn()? else {
        return Ok(());
    };
    let target = endless()?;
    let args = ["--format", "json", "-o", "/dev/full", "-d", "1"];
    let memtrace = Memtrace::built()?
        .pid(target.pid())
        .args(args)
        .start_bare()?;
    memtrace.wait_tracing(&[target.pid()])?;
    target.go()?;
    let outcome = memtrace.end()?;
    ensure!(
        outcome.code() == 1,
        "{}: {}",
        outcome.status,
        outcome.stderr
    );
    ensure!(
        outcome.stderr.contains("No space left") || outcome.stderr.contains("no space left"),
        "{}",
        outcome.stderr
    );
    ensure!(
        outcome.stderr.contains("/dev/full"),
        "which file is not said: {}",
        outcome.stderr
    );
    ensure!(procfs::is_alive(target.pid()));
    Ok(())
}

#[test]
fn a_closed_pipe_is_no_error() -> Result<()> {
    let Some(_turn) = privilege::turn()? else {
        return Ok(());
    };
    let target = endless()?;
    let (reader, writer) = std::io::pipe()?;
    drop(reader);
    let memtrace = Memtrace::built()?
        .pid(target.pid())
        .args(["-d", "1"])
        .stdout(Stdio::from(writer))
        .start_bare()?;
    memtrace.wait_tracing(&[target.pid()])?;
    target.go()?;
    let outcome = memtrace.end()?;
    ensure!(
        outcome.code() == 0,
        "{}: {}",
        outcome.status,
        outcome.stderr
    );
    ensure!(
        !outcome.stderr.contains("panicked") && !outcome.stderr.contains("roken pipe"),
        "{}",
        outcome.stderr
    );
    Ok(())
}

#[test]
fn wrong_usage_ends_with_2() -> Result<()> {
    let Some(_turn) = privilege::turn()? else {
        return Ok(());
    };
    for args in [
        &["-p", "nonsense"][..],
        &["--no-such-option"],
        &[],
        &["-p", "1", "--format", "nonsense"],
    ] {
        let outcome = Memtrace::built()?
            .args(args.iter().copied())
            .start_bare()?
            .end()?;
        ensure!(
            outcome.code() == 2,
            "{args:?}: {}: {}",
            outcome.status,
            outcome.stderr
        );
    }
    Ok(())
}
