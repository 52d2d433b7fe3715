//! CPython's allocator with `--exact`: every block of a build that can be probed, with its domain; nothing but words where
//! the build inlines its allocator.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use memtrace_tests::{
    figure,
    memtrace::Memtrace,
    privilege,
    python::{self, Python},
    report::{Process, Report, Site},
};

const PROGRAM: &str = "domains.py";
/// What is said when the probes that count are in place.
const ATTACHED: &str = "every call is seen";
/// Blocks that the answer itself and a report in between take or give back.
const SLACK: i64 = 40;

/// Traces `python` with `--exact` and waits until it has said `words`.
fn trace_exactly(python: &Python, words: &str) -> Result<Memtrace> {
    let memtrace = Memtrace::built()?
        .pid(python.pid())
        .arg("--exact")
        .start()?;
    memtrace.wait_for(words, |line| line.contains(words))?;
    Ok(memtrace)
}

/// Blocks of the largest site that has this domain and holds between `least` and `most` blocks.
fn site_of<'a>(process: &'a Process, domain: &str, least: u64, most: u64) -> Result<&'a Site> {
    let fits = |site: &&Site| {
        site.domain.as_deref() == Some(domain) && (least..=most).contains(&site.counts.live_blocks)
    };
    process.sites.iter().find(fits).with_context(|| {
        let mut sites: Vec<_> = process
            .sites
            .iter()
            .map(|site| (site.counts.live_blocks, site.domain.clone()))
            .collect();
        sites.sort_unstable();
        sites.reverse();
        sites.truncate(12);
        format!("no {domain} site of {least} to {most} blocks; the largest: {sites:?}")
    })
}

/// How far two reports differ in live blocks. A process that has done nothing yet is in no report.
fn grown(before: &Report, now: &Report, pid: u32) -> Result<i64> {
    let live = |process: &Process| process.counts.live_blocks.cast_signed();
    Ok(live(now.current(pid)?) - before.current(pid).map_or(0, live))
}

/// Does one command between two reports; gives what the interpreter says and what the reports say. Blocks that are freed
/// were known: none is freed a second time when it is handed on to the C library.
fn growth(memtrace: &Memtrace, python: &mut Python, command: &str) -> Result<(i64, i64)> {
    let before = memtrace.report_now()?;
    let told = python.tell(command)?;
    let now = memtrace.report_now()?;
    let unknown = |report: &Report| -> Result<i64> {
        Ok(report.current(python.pid())?.unknown_frees.cast_signed())
    };
    // A trace that has just begun may have nothing to say of a process yet.
    if before.current(python.pid()).is_ok() {
        let new = unknown(&now)? - unknown(&before)?;
        ensure!(new <= SLACK, "`{command}`: {new} unknown frees");
    }
    Ok((told, grown(&before, &now, python.pid())?))
}

fn every_block_of(interpreter: &Path) -> Result<()> {
    let mut python = Python::start(interpreter, PROGRAM, &[])?;
    let memtrace = trace_exactly(&python, ATTACHED)?;
    python.tell("quiet")?;
    let mut furthest = 0;
    // Each kind has a number of its own, by which its site is known.
    for (command, kept) in [
        ("instances 20000", 20_000),
        ("strings 21000", 21_000),
        ("dicts 22000", 44_000),
        ("large 3000", 3000),
        ("churn 500", 0),
        ("handed_over 5000", 0),
    ] {
        let (told, seen) = growth(&memtrace, &mut python, command)?;
        ensure!(told >= kept - 200, "`{command}` has kept {told} blocks");
        furthest = furthest.max((told - seen).abs());
        ensure!(
            (told - seen).abs() <= SLACK,
            "`{command}`: {told} more blocks by the interpreter, {seen} by the reports"
        );
    }
    let (_, seen) = growth(&memtrace, &mut python, "mebibyte 3")?;
    ensure!(
        (6..=6 + SLACK).contains(&seen),
        "{seen} blocks for three bytearrays"
    );
    let report = memtrace.final_report()?;
    ensure!(report.trust.lost_events == 0, "events were lost");
    let process = report.process(python.pid())?;
    ensure!(process.counts.live_blocks > 0);
    let instances = site_of(process, "object", 20_000, 20_010)?;
    ensure!(instances.counts.live_bytes % instances.counts.live_blocks == 0);
    site_of(process, "object", 21_000, 21_010)?;
    // The first dicts come out of the interpreter's own reserve.
    site_of(process, "object", 21_900, 22_010)?;
    let mebibytes: Vec<u64> = process
        .sites
        .iter()
        .filter(|site| site.counts.live_blocks > 0)
        .filter(|site| site.counts.live_bytes / site.counts.live_blocks >= 1 << 20)
        .map(|site| site.counts.live_blocks)
        .collect();
    ensure!(mebibytes == [3], "{mebibytes:?} blocks of 1 MiB");
    for domain in ["raw", "mem", "object"] {
        ensure!(
            process
                .sites
                .iter()
                .any(|site| site.domain.as_deref() == Some(domain)),
            "no site of the {domain} domain"
        );
    }
    ensure!(process.notes.iter().any(|note| note.contains(ATTACHED)));
    figure::show(&format!(
        "{}: {} blocks seen, {furthest} from the interpreter's own count at most",
        interpreter.display(),
        process.counts.allocated_blocks
    ));
    Ok(())
}

#[test]
fn every_block_of_builds_without_a_profile() -> Result<()> {
    let Some(_turn) = privilege::turn()? else {
        return Ok(());
    };
    let interpreters = python::plain();
    if interpreters.is_empty() {
        return privilege::skip("no pyenv with CPython 3.8 or newer");
    }
    for interpreter in interpreters {
        every_block_of(&interpreter).with_context(|| interpreter.display().to_string())?;
    }
    Ok(())
}

/// What the system's interpreter shows of 3000 large strings.
fn large_strings(exact: bool) -> Result<(i64, Process)> {
    let mut python = Python::start(&python::system(), PROGRAM, &[])?;
    let memtrace = if exact {
        trace_exactly(&python, "inlines it")?
    } else {
        let memtrace = Memtrace::built()?.pid(python.pid()).start()?;
        memtrace.wait_for("Python", |line| line.contains("CPython"))?;
        memtrace
    };
    python.tell("quiet")?;
    let (_, seen) = growth(&memtrace, &mut python, "large 3000")?;
    let report = memtrace.final_report()?;
    Ok((seen, report.process(python.pid())?.clone()))
}

#[test]
fn a_build_that_inlines_its_allocator_is_traced_as_without() -> Result<()> {
    let Some(_turn) = privilege::turn()? else {
        return Ok(());
    };
    let (exact, process) = large_strings(true)?;
    let (plain, _) = large_strings(false)?;
    ensure!(
        exact == plain && (3000..3000 + SLACK).contains(&exact),
        "{exact} blocks with --exact, {plain} without"
    );
    ensure!(process.sites.iter().all(|site| site.domain.is_none()));
    ensure!(
        process.notes.iter().any(|note| note.contains("inlines it")),
        "notes: {:?}",
        process.notes
    );
    Ok(())
}

#[test]
fn without_exact_nothing_is_said_of_domains() -> Result<()> {
    let Some(_turn) = privilege::turn()? else {
        return Ok(());
    };
    let (_, process) = large_strings(false)?;
    ensure!(process.notes.is_empty(), "notes: {:?}", process.notes);
    Ok(())
}

/// pyenv's newest interpreter with this `PYTHONMALLOC`.
fn newest(malloc: &str) -> Result<Option<Python>> {
    let Some(interpreter) = python::plain().pop() else {
        privilege::skip("no pyenv with CPython 3.8 or newer")?;
        return Ok(None);
    };
    Python::start(&interpreter, PROGRAM, &[("PYTHONMALLOC", malloc)]).map(Some)
}

#[test]
fn objects_of_the_c_library_are_counted_once() -> Result<()> {
    let Some(_turn) = privilege::turn()? else {
        return Ok(());
    };
    let Some(mut python) = newest("malloc")? else {
        return Ok(());
    };
    let memtrace = trace_exactly(&python, "CPython")?;
    python.tell("quiet")?;
    let (_, alone) = growth(&memtrace, &mut python, "instances 20000")?;
    ensure!((alone - 20_000).abs() <= SLACK, "{alone} blocks");
    let report = memtrace.final_report()?;
    let process = report.process(python.pid())?;
    ensure!(process.sites.iter().all(|site| site.domain.is_none()));
    ensure!(
        process.notes.iter().any(|note| note.contains("not probed")),
        "notes: {:?}",
        process.notes
    );
    Ok(())
}

/// A process without pools has its domains once another has shown that its file can be probed.
#[test]
fn what_one_process_has_shown_holds_for_its_file() -> Result<()> {
    let Some(_turn) = privilege::turn()? else {
        return Ok(());
    };
    let (Some(shows), Some(mut python)) = (newest("pymalloc")?, newest("malloc")?) else {
        return Ok(());
    };
    let memtrace = Memtrace::built()?
        .pid(python.pid())
        .pid(shows.pid())
        .arg("--exact")
        .start()?;
    let attached = format!("tracing {} ", python.pid());
    memtrace.wait_for("both attached", |line| {
        line.contains(&attached) && line.contains(ATTACHED)
    })?;
    python.tell("quiet")?;
    let (_, seen) = growth(&memtrace, &mut python, "instances 20000")?;
    ensure!((seen - 20_000).abs() <= SLACK, "{seen} blocks");
    let report = memtrace.final_report()?;
    site_of(report.process(python.pid())?, "object", 20_000, 20_010)?;
    Ok(())
}

#[test]
fn debug_hooks_are_left_alone() -> Result<()> {
    let Some(_turn) = privilege::turn()? else {
        return Ok(());
    };
    for malloc in ["debug", "malloc_debug"] {
        let Some(mut python) = newest(malloc)? else {
            return Ok(());
        };
        let memtrace = trace_exactly(&python, "debug hooks")?;
        python.tell("quiet")?;
        python.tell("large 100")?;
        let report = memtrace.final_report()?;
        let process = report.process(python.pid())?;
        ensure!(process.sites.iter().all(|site| site.domain.is_none()));
    }
    Ok(())
}
