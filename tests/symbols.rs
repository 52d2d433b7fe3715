//! Names of frames: with and without debug information, of files that are deleted or that only the target can see.

use std::{collections::BTreeSet, process::Command};

use anyhow::{Context as _, Result, ensure};
use memtrace_tests::{
    compare::describe,
    memtrace::Memtrace,
    privilege,
    programs::{self, Link},
    report::{Frame, Process, Report},
    workload::Workload,
};

/// Traces a workload from go to truth.
fn traced(workload: &Workload) -> Result<Process> {
    let memtrace = Memtrace::built()?.pid(workload.pid()).start()?;
    memtrace.wait_tracing(&[workload.pid()])?;
    workload.go()?;
    workload.told()?;
    Ok(memtrace.final_report()?.process(workload.pid())?.clone())
}

/// The frame of a function, in whichever stack it is.
fn frame<'a>(process: &'a Process, function: &str) -> Result<&'a Frame> {
    let mut frames = process.sites.iter().flat_map(|site| &site.frames);
    frames
        .find(|frame| frame.bare_name() == function)
        .with_context(|| format!("no frame of `{function}`"))
}

/// Whether the leak's frame has the file and line of its source.
fn has_source(process: &Process) -> Result<()> {
    let leak = frame(process, "site_leak")?;
    let file = leak.file.as_deref().unwrap_or_default();
    let source = std::fs::read_to_string(programs::sources().join("leak.c"))?;
    let line = source
        .lines()
        .position(|line| line.contains("malloc(size)"))
        .context("no such line")?
        + 1;
    ensure!(
        file.ends_with("leak.c") && leak.line == Some(u32::try_from(line)?),
        "{file}:{:?}, not {line}",
        leak.line
    );
    Ok(())
}

#[test]
fn debug_information_in_the_file() -> Result<()> {
    let Some(_turn) = privilege::turn()? else {
        return Ok(());
    };
    has_source(&traced(&Workload::of("leak").link(Link::Debug).start()?)?)
}

#[test]
fn debug_information_in_a_file_that_is_named() -> Result<()> {
    let Some(_turn) = privilege::turn()? else {
        return Ok(());
    };
    has_source(&traced(
        &Workload::of("leak").link(Link::DebugLink).start()?,
    )?)
}

/// Debian keeps libc's debug information in files named by build id.
#[test]
fn debug_information_found_by_build_id() -> Result<()> {
    let Some(_turn) = privilege::turn()? else {
        return Ok(());
    };
    let process = traced(&Workload::of("leak").start()?)?;
    let start = frame(&process, "__libc_start_call_main")?;
    ensure!(
        start
            .file
            .as_deref()
            .is_some_and(|file| file.ends_with("libc_start_call_main.h")),
        "{:?}",
        start.file
    );
    ensure!(start.line.is_some(), "no line");
    Ok(())
}

#[test]
fn a_deleted_program() -> Result<()> {
    let Some(_turn) = privilege::turn()? else {
        return Ok(());
    };
    let mut leak = Workload::of("leak").named("mt-deleted").start()?;
    leak.delete_program()?;
    let process = traced(&leak)?;
    frame(&process, "site_leak")?;
    frame(&process, "main")?;
    Ok(())
}

#[test]
fn a_program_in_another_mount_namespace() -> Result<()> {
    let Some(_turn) = privilege::turn()? else {
        return Ok(());
    };
    let leak = Workload::of("leak").hidden().start()?;
    ensure!(
        !std::path::Path::new("/mnt/hidden").exists(),
        "the program is not hidden from this namespace"
    );
    let process = traced(&leak)?;
    ensure!(process.exe == "/mnt/hidden", "{}", process.exe);
    frame(&process, "site_leak")?;
    frame(&process, "main")?;
    Ok(())
}

/// What addr2line says of an address: functions from the innermost inlined one outwards, with file and line.
fn addr2line(program: &str, rel: u64) -> Result<Vec<(String, String, Option<u32>)>> {
    let done = Command::new("addr2line")
        .args(["-f", "-i", "-C", "-e", program, &format!("{rel:#x}")])
        .output()?;
    let text = String::from_utf8(done.stdout)?;
    let lines: Vec<&str> = text.lines().collect();
    let pairs = lines.chunks_exact(2).map(|pair| {
        let place = pair[1].split(" (discriminator").next().unwrap_or_default();
        let (file, line) = place.rsplit_once(':').unwrap_or((place, ""));
        (pair[0].to_owned(), file.to_owned(), line.parse().ok())
    });
    Ok(pairs.collect())
}

#[test]
fn inlined_frames_are_those_of_addr2line() -> Result<()> {
    let Some(_turn) = privilege::turn()? else {
        return Ok(());
    };
    let every = Workload::of("every")
        .link(Link::Debug)
        .args(["20"])
        .start()?;
    let process = traced(&every)?;
    let program = programs::build("every", Link::Debug)?
        .to_string_lossy()
        .into_owned();
    let frames = process
        .sites
        .iter()
        .flat_map(|site| &site.frames)
        .filter(|frame| frame.module == program);
    let frames: Vec<&Frame> = frames.collect();
    ensure!(
        frames.iter().any(|frame| frame.inlined),
        "nothing was inlined: the test shows nothing"
    );
    for group in frames.chunk_by(|a, b| a.offset == b.offset && a.inlined) {
        // A return address stands behind its call.
        let expected = addr2line(&program, group[0].offset - 1)?;
        let seen = group.iter().map(|frame| {
            (
                frame.bare_name().to_owned(),
                frame.file.clone().unwrap_or_default(),
                frame.line,
            )
        });
        let seen: Vec<_> = seen.collect();
        // `_start` has neither file nor line.
        let known = expected.iter().all(|(_, file, _)| file != "??");
        ensure!(
            !known || same_places(&seen, &expected),
            "{}: {seen:?}\naddr2line: {expected:?}",
            describe(group[0])
        );
    }
    Ok(())
}

/// Equal up to the folder in which the compiler ran, which only one of them may print.
fn same_places(a: &[(String, String, Option<u32>)], b: &[(String, String, Option<u32>)]) -> bool {
    let file = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
    a.len() == b.len()
        && a.iter()
            .zip(b)
            .all(|(a, b)| a.0 == b.0 && file(&a.1) == file(&b.1) && a.2 == b.2)
}

/// Runs a program to its end and gives the names of all its frames.
fn names_of(command: &str) -> Result<BTreeSet<String>> {
    let report: Report = Memtrace::built()?
        .args(["--", command])
        .start()?
        .end()?
        .last_report()?;
    let frames = report
        .processes
        .iter()
        .flat_map(|process| &process.sites)
        .flat_map(|site| &site.frames);
    Ok(frames.map(|frame| frame.function.clone()).collect())
}

#[test]
fn rust_and_cpp_names_are_readable() -> Result<()> {
    let Some(_turn) = privilege::turn()? else {
        return Ok(());
    };
    let rust = names_of(&programs::build("rusty", Link::Dynamic)?.to_string_lossy())?;
    ensure!(
        rust.iter()
            .any(|name| name.starts_with("rusty::") || name.starts_with("<rusty::")),
        "{rust:?}"
    );
    let cpp = traced(&Workload::of("new").args(["20"]).start()?)?;
    let site = frame(&cpp, "site_new_aligned")?;
    ensure!(
        site.function == "site_new_aligned(unsigned long)",
        "{}",
        site.function
    );
    let cpp = cpp
        .sites
        .iter()
        .flat_map(|site| &site.frames)
        .map(|frame| frame.function.clone());
    let mangled: Vec<String> = rust
        .into_iter()
        .chain(cpp)
        .filter(|name| name.starts_with("_Z") || name.starts_with("_R"))
        .collect();
    ensure!(mangled.is_empty(), "{mangled:?}");
    Ok(())
}
