//! Pythons that begin while memtrace watches: commands, exec chains, forks, runtimes loaded late, versions that are too old.

use std::{
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use memtrace_tests::{
    figure, interpreters,
    memtrace::Memtrace,
    privilege,
    programs::{self, Link},
    report::{Process, Report, Site},
    script::{self, Script},
    workload::Workload,
};

/// Blocks that scripts leak at each of their places.
const BLOCKS: u64 = 100;

/// Blocks whose innermost Python frame is this function.
fn live_of(process: &Process, function: &str) -> u64 {
    let mine = process.sites.iter().filter(|site| site.is_of(function));
    mine.map(|site| site.counts.live_blocks).sum()
}

/// Blocks ever made whose innermost Python frame is this function.
fn allocated_by(process: &Process, function: &str) -> u64 {
    let mine = process.sites.iter().filter(|site| site.is_of(function));
    mine.map(|site| site.counts.allocated_blocks).sum()
}

/// Whether a site belongs to the interpreter's loop.
fn is_in_loop(site: &Site) -> bool {
    let mut frames = site.frames.iter();
    frames.any(|frame| frame.function.starts_with("_PyEval_EvalFrame"))
}

/// Stacks of a process that go through the interpreter's loop: those with Python frames, and those without.
fn with_and_without(process: &Process) -> (u64, u64) {
    let sum = |sites: &mut dyn Iterator<Item = &Site>| -> u64 {
        sites.map(|site| site.counts.allocated_blocks).sum()
    };
    let is_python = |site: &&Site| site.python().next().is_some();
    let mut with = process.sites.iter().filter(is_python);
    let without = process.sites.iter().filter(|site| !is_python(site));
    (
        sum(&mut with),
        sum(&mut without.filter(|site| is_in_loop(site))),
    )
}

/// Traces `python startup.py` with these arguments from its first instruction to its end.
fn startup(python: &Path, args: &[&Path]) -> Result<Report> {
    let outcome = Memtrace::built()?
        .arg("--")
        .args([
            python.as_os_str(),
            "-B".as_ref(),
            script::path("startup.py").as_os_str(),
        ])
        .args(args.iter().map(|arg| arg.as_os_str()))
        .start()?
        .end()?;
    ensure!(outcome.stderr.contains("status 0"), "{}", outcome.stderr);
    outcome.last_report()
}

#[test]
fn a_command_from_its_first_instruction() -> Result<()> {
    const RUNS: u32 = 5;
    let Some(_turn) = privilege::turn()? else {
        return Ok(());
    };
    let pythons = [
        interpreters::pyenv("3.8")?,
        interpreters::pyenv("3.12")?,
        interpreters::pyenv("3.13")?,
        Some(interpreters::system()),
    ];
    for python in pythons.into_iter().flatten() {
        let (mut with, mut without, mut early) = (0, 0, 0);
        for _ in 0..RUNS {
            let report = startup(&python, &[])?;
            let process = report.processes.last().context("no process")?;
            ensure!(process.runtime.python_stacks, "{:?}", process.runtime);
            let counts = with_and_without(process);
            with += counts.0;
            without += counts.1;
            early += allocated_by(process, "Early");
            // The last leak of the module: by then all is in place.
            let late = process
                .sites
                .iter()
                .any(|site| site.is_of("<module>") && site.counts.allocated_bytes >= 200 * 7000);
            ensure!(late, "{}: the module's leak is not shown", python.display());
        }
        figure::show(&format!(
            "{}: {without} of {} stacks through the loop without Python frames; {early} of {} early blocks in their class",
            python.display(),
            with + without,
            RUNS * 200
        ));
        ensure!(
            without * 4 < with + without,
            "{}: {without} of {} stacks came too early",
            python.display(),
            with + without
        );
    }
    Ok(())
}

#[test]
fn a_python_that_becomes_another() -> Result<()> {
    let Some(_turn) = privilege::turn()? else {
        return Ok(());
    };
    let (Some(first), Some(second)) = (interpreters::pyenv("3.12")?, interpreters::pyenv("3.9")?)
    else {
        return Ok(());
    };
    let third = interpreters::system();
    let report = startup(&first, &[&second, &third])?;
    let pid = report.processes.first().context("no process")?.pid;
    let generations = report.generations(pid);
    let versions: Vec<&str> = generations
        .iter()
        .filter_map(|process| process.runtime.version.as_deref())
        .collect();
    figure::show(&format!("{versions:?}"));
    ensure!(
        versions.len() >= 3 && versions[versions.len() - 2].starts_with("3.9."),
        "{versions:?}"
    );
    for process in generations
        .iter()
        .filter(|process| process.runtime.version.is_some())
    {
        ensure!(process.runtime.python_stacks, "{:?}", process.runtime);
        let leaks = process
            .sites
            .iter()
            .any(|site| site.is_of("<module>") && site.counts.allocated_bytes >= 200 * 7000);
        ensure!(leaks, "{:?} shows no leak", process.runtime.version);
    }
    Ok(())
}

#[test]
fn children_by_fork_and_by_spawn() -> Result<()> {
    let Some(_turn) = privilege::turn()? else {
        return Ok(());
    };
    let pythons = [
        interpreters::pyenv("3.8")?,
        interpreters::pyenv("3.12")?,
        interpreters::pyenv("3.13")?,
        Some(interpreters::system()),
    ];
    for python in pythons.into_iter().flatten() {
        let mut script = Script::start::<&str>(&python, "forks.py", &[])?;
        let memtrace = Memtrace::built()?
            .pid(script.pid())
            .arg("--follow-children")
            .start()?;
        memtrace.wait_tracing_times(script.pid(), 2)?;
        script.work()?;
        let mut children = Vec::new();
        for kind in ["os.fork", "fork", "spawn"] {
            let pid = script.wait_for_line(&format!("child {kind} "))?;
            children.push((kind, pid.parse()?));
        }
        let report = memtrace.final_report()?;
        let parent = report.process(script.pid())?;
        ensure!(
            live_of(parent, "leak") == BLOCKS,
            "{:?}",
            parent.sites.first()
        );
        for (kind, pid) in children {
            let child = report.current(pid)?;
            ensure!(child.runtime.python_stacks, "{kind}: {:?}", child.runtime);
            let through = |function: &str| -> u64 {
                let sites = child.sites.iter().filter(|site| {
                    site.is_of("leak")
                        && site
                            .python()
                            .nth(1)
                            .is_some_and(|frame| frame.function == function)
                });
                sites.map(|site| site.counts.live_blocks).sum()
            };
            let (own, inherited) = match kind {
                "os.fork" => ("leak_in_fork", BLOCKS),
                "fork" => ("leak_in_process", BLOCKS),
                _ => ("leak_in_process", 0),
            };
            let seen = (through(own), through("leak_in_parent"));
            ensure!(
                seen == (BLOCKS, inherited),
                "{} {kind}: {seen:?} instead of {:?}",
                python.display(),
                (BLOCKS, inherited)
            );
        }
    }
    Ok(())
}

/// Compiles `embed.c` against a libpython.
fn linked(folder: &Path, library: &Path) -> Result<PathBuf> {
    let program = folder.join("embed-linked");
    let path = library.parent().context("no folder")?;
    let done = Command::new("gcc")
        .args(["-O2", "-g0", "-DLINKED", "-o"])
        .arg(&program)
        .arg(programs::sources().join("embed.c"))
        .arg(library)
        .arg(format!("-Wl,-rpath,{}", path.display()))
        .status()?;
    ensure!(done.success(), "gcc refuses to link {}", library.display());
    Ok(program)
}

/// The runtime does not run, or is not even loaded, when memtrace attaches.
#[test]
fn a_runtime_that_starts_after_attach() -> Result<()> {
    let Some(_turn) = privilege::turn()? else {
        return Ok(());
    };
    let loaded = programs::build("embed", Link::Dynamic)?;
    for version in ["3.8", "3.10", "3.11", "3.12", "3.13"] {
        let Some(python) = interpreters::pyenv(version)? else {
            continue;
        };
        let home = python
            .parent()
            .and_then(Path::parent)
            .context("no folder")?;
        let library = interpreters::library(&python, version)?;
        let folder = tempfile::tempdir()?;
        let programs = [
            (linked(folder.path(), &library)?, None),
            (loaded.clone(), Some(&library)),
        ];
        for (program, argument) in programs {
            let mut command = Command::new(&program);
            let mut embed = Script::run(command.args(argument).env("PYTHONHOME", home))?;
            embed.wait_for("ready")?;
            let memtrace = Memtrace::built()?.pid(embed.pid()).start()?;
            memtrace.wait_for("that it traces", |line| line.contains("glibc"))?;
            embed.work()?;
            thread::sleep(Duration::from_millis(300));
            let report = memtrace.final_report()?;
            let process = report.process(embed.pid())?;
            let runtime = &process.runtime;
            ensure!(
                runtime.python_stacks
                    && runtime
                        .version
                        .as_deref()
                        .is_some_and(|found| found.starts_with(version)),
                "{}: {runtime:?}",
                program.display()
            );
            let leaked = live_of(process, "embedded_leak");
            ensure!(
                leaked == BLOCKS,
                "{version} {}: {leaked} blocks: {:?}",
                program.display(),
                process.sites.first()
            );
        }
    }
    Ok(())
}

/// What is too old is said, and its native stacks are there.
#[test]
fn versions_that_are_too_old() -> Result<()> {
    let Some(_turn) = privilege::turn()? else {
        return Ok(());
    };
    for version in ["3.7", "3.6", "2.7"] {
        let Some(python) = interpreters::pyenv(version)? else {
            continue;
        };
        let mut script = Script::start(&python, "old.py", &[""; 0])?;
        let memtrace = Memtrace::built()?.pid(script.pid()).start()?;
        memtrace.wait_for("why there are no Python frames", |line| {
            line.contains("native stacks only")
                && line.contains(version)
                && line.contains("need 3.8")
        })?;
        memtrace.wait_for("that it traces", |line| line.contains("glibc"))?;
        script.work()?;
        let report = memtrace.final_report()?;
        let process = report.process(script.pid())?;
        let runtime = &process.runtime;
        let reason = runtime.reason.as_deref().unwrap_or_default();
        ensure!(
            runtime.kind == "cpython"
                && runtime
                    .version
                    .as_deref()
                    .is_some_and(|found| found.starts_with(version))
                && !runtime.python_stacks
                && reason.contains("need 3.8 or newer"),
            "{runtime:?}"
        );
        let site = process.sites.iter().find(|site| {
            site.counts.live_blocks >= BLOCKS
                && site
                    .frames
                    .iter()
                    .any(|frame| frame.function.contains("PyEval_EvalFrame"))
        });
        let site = site.with_context(|| format!("{version}: no native stack through the loop"))?;
        ensure!(
            site.cut.is_none() && site.python().next().is_none(),
            "{site:?}"
        );
    }
    Ok(())
}

#[test]
fn python_selects_every_python_and_nothing_else() -> Result<()> {
    let Some(_turn) = privilege::turn()? else {
        return Ok(());
    };
    let mut pythons = Vec::new();
    for version in ["2.7", "3.6", "3.7", "3.8", "3.12", "3.13"] {
        if let Some(python) = interpreters::pyenv(version)? {
            pythons.push(Script::start::<&str>(&python, "old.py", &[])?);
        }
    }
    pythons.push(Script::start::<&str>(
        &interpreters::system(),
        "old.py",
        &[],
    )?);
    let embed = Script::run(&mut Command::new(programs::build("embed", Link::Dynamic)?))?;
    embed.wait_for("ready")?;
    let other = Workload::of("leak").args(["5", "64"]).start()?;
    let memtrace = Memtrace::built()?.arg("--python").start()?;
    for python in &pythons {
        memtrace.wait_tracing(&[python.pid()])?;
    }
    // And one that comes later.
    pythons.push(Script::start::<&str>(
        &interpreters::system(),
        "old.py",
        &[],
    )?);
    for python in &mut pythons {
        memtrace.wait_tracing(&[python.pid()])?;
        let (traced, refused) = (
            format!("tracing {} ", python.pid()),
            format!("process {} ", python.pid()),
        );
        memtrace.wait_for("what is known of its Python", |line| {
            line.contains(&traced) && line.contains("CPython")
                || line.contains(&refused) && line.contains("CPython")
        })?;
        python.work()?;
    }
    other.go()?;
    other.told()?;
    let report = memtrace.final_report()?;
    let seen = report.pids();
    for python in &pythons {
        let process = report.process(python.pid())?;
        ensure!(
            process.runtime.kind == "cpython",
            "{} {}: {:?}",
            process.generation,
            process.exe,
            process.runtime
        );
    }
    for stranger in [embed.pid(), other.pid()] {
        ensure!(
            !seen.contains(&stranger),
            "{stranger} is no Python, and traced"
        );
    }
    Ok(())
}
