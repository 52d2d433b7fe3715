//! Pythons that mislead, and programs that only look like one: no crash, nothing guessed, every gap with its reason.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use memtrace_tests::{
    figure, interpreters,
    memtrace::Memtrace,
    privilege,
    programs::{self, Link},
    report::{Report, Site},
    script::Script,
};

const VERSIONS: [&str; 6] = ["3.8", "3.9", "3.10", "3.11", "3.12", "3.13"];
const UNREADABLE: &str = "Python frame not readable";
const TOO_DEEP: &str = "deeper than 256 frames";
/// Memory of memtrace that no target may make it exceed: 137 MiB are its tables.
const MAX_RESIDENT: u64 = 400 << 20;

/// Lets a script work while it is traced, and gives the final report.
fn traced(script: &mut Script) -> Result<Report> {
    let memtrace = Memtrace::built()?.pid(script.pid()).start()?;
    memtrace.wait_for("that it shows Python", |line| line.contains("stacks show"))?;
    memtrace.wait_tracing_times(script.pid(), 2)?;
    script.work()?;
    // Names are read a moment after they are met.
    thread::sleep(Duration::from_millis(300));
    let said = memtrace.said();
    ensure!(!said.contains("panicked"), "{said}");
    memtrace.final_report()
}

/// A case of `hostile.py`, as it says.
struct Case {
    name: String,
    size: u64,
    blocks: u64,
}

fn cases(script: &Script) -> Result<Vec<Case>> {
    let lines = script.lines();
    let cases = lines.iter().filter_map(|line| line.strip_prefix("case "));
    cases
        .map(|line| {
            let mut words = line.split(' ');
            let mut word = || words.next().context("a short line");
            Ok(Case {
                name: word()?.to_owned(),
                size: word()?.parse()?,
                blocks: word()?.parse()?,
            })
        })
        .collect()
}

/// What may stand in a stack whose innermost Python frame is misplaced: the functions that were really called.
fn is_true(site: &Site) -> bool {
    site.python().all(|frame| match frame.function.as_str() {
        "" => frame.reason.is_some(),
        name => ["misled", "main", "<module>"].contains(&name),
    })
}

fn judge(case: &Case, site: &Site) -> Result<()> {
    let depth = site.python().count();
    let unnamed = site
        .python()
        .filter(|frame| frame.function.is_empty())
        .count();
    let told = match case.name.as_str() {
        "honest" => site.cut.is_none() && depth == 3 && unnamed == 0,
        "small" | "wild" | "kernel" | "unmapped" | "edge" => {
            site.cut.as_deref() == Some(UNREADABLE) && depth == 0
        }
        // One frame for a frame of the loop before 3.11, so that the cycle ends with the native stack.
        "loop" => depth == 3 || site.cut.as_deref() == Some(TOO_DEEP),
        "wild_code" | "no_code" => site.cut.is_none() && unnamed == 1,
        // What is read there differs; what matters is that nobody takes it for a function.
        "null" | "zeroes" | "askew" => depth == unnamed,
        name => anyhow::bail!("an unknown case: {name}"),
    };
    ensure!(
        told && is_true(site),
        "{}: cut {:?}, {depth} Python frames, {unnamed} unnamed: {:?}",
        case.name,
        site.cut,
        site.python().take(4).collect::<Vec<_>>()
    );
    Ok(())
}

#[test]
fn a_thread_state_that_points_elsewhere() -> Result<()> {
    let Some(_turn) = privilege::turn()? else {
        return Ok(());
    };
    let library = programs::build("mislead", Link::Shared)?;
    for version in VERSIONS {
        let Some(python) = interpreters::pyenv(version)? else {
            continue;
        };
        let mut script = Script::start(&python, "hostile.py", &[&library])?;
        let report = traced(&mut script)?;
        ensure!(script.is_running()?, "{version} has not survived");
        let cases = cases(&script)?;
        ensure!(cases.len() == 12, "{version}: {} cases", cases.len());
        let sites = &report.process(script.pid())?.sites;
        for case in &cases {
            let name = format!("mislead_{}", case.name);
            let mine = sites.iter().filter(|site| {
                let mut frames = site.frames.iter();
                frames.any(|frame| frame.function == name)
            });
            let mine: Vec<&Site> = mine
                .filter(|site| {
                    site.counts.live_blocks > 0 && site.counts.live_bytes % case.size == 0
                })
                .collect();
            let blocks: u64 = mine.iter().map(|site| site.counts.live_blocks).sum();
            ensure!(
                blocks == case.blocks,
                "{version} {}: {blocks} of {} blocks",
                case.name,
                case.blocks
            );
            for site in mine {
                judge(case, site).with_context(|| version.to_owned())?;
            }
        }
    }
    Ok(())
}

/// `fakepy.c` with other data: how it is compiled, and what is to be said of it.
const FAKES: [(&str, &[&str], &str); 7] = [
    ("wild-offsets", &[], "debug offsets are missing or damaged"),
    (
        "no-cookie",
        &["-DCOOKIE=\"nothing!\""],
        "debug offsets are missing or damaged",
    ),
    (
        "wild-3.12",
        &["-DCOOKIE=\"nothing!\"", "-DVERSION=0x030c01f0"],
        "the self-test failed",
    ),
    (
        "empty-3.8",
        &["-DCOOKIE=\"nothing!\"", "-DVERSION=0x030800f0", "-DFILL=0"],
        "the self-test failed",
    ),
    ("empty-3.13", &["-DFILL=0"], "the self-test failed"),
    (
        "old",
        &["-DVERSION=0x030700f0"],
        "3.7.0: Python frames need 3.8 or newer",
    ),
    (
        "stripped",
        &["-s", "-Wl,--no-export-dynamic"],
        "without symbols",
    ),
];

fn build_fake(folder: &Path, name: &str, flags: &[&str]) -> Result<PathBuf> {
    let program = folder.join(name);
    let mut gcc = Command::new("gcc");
    gcc.args(["-O2", "-g0", "-rdynamic"]).args(flags);
    gcc.arg(programs::sources().join("fakepy.c"));
    let done = gcc.arg("-o").arg(&program).status()?;
    ensure!(done.success(), "gcc refuses {name}");
    Ok(program)
}

#[test]
fn programs_that_only_look_like_a_python() -> Result<()> {
    let Some(_turn) = privilege::turn()? else {
        return Ok(());
    };
    let folder = tempfile::tempdir()?;
    for (name, flags, reason) in FAKES {
        let program = build_fake(folder.path(), name, flags)?;
        let mut fake = Script::run(&mut Command::new(&program))?;
        fake.wait_for("ready")?;
        let memtrace = Memtrace::built()?.pid(fake.pid()).start()?;
        memtrace.wait_for("that it is refused", |line| {
            line.contains("native stacks only") && line.contains(reason)
        })?;
        memtrace.wait_for("that it is traced", |line| line.contains("glibc"))?;
        fake.work()?;
        let report = memtrace.final_report()?;
        let process = report.process(fake.pid())?;
        let runtime = &process.runtime;
        let says = runtime.reason.as_deref().unwrap_or_default();
        ensure!(
            runtime.kind == "cpython" && !runtime.python_stacks && says.contains(reason),
            "{name}: {runtime:?}"
        );
        let site = process.sites.first().context("no site")?;
        ensure!(
            site.counts.live_blocks == 100 && site.cut.is_none() && site.python().count() == 0,
            "{name}: {site:?}"
        );
        ensure!(fake.is_running()?, "{name} has not survived");
    }
    Ok(())
}

#[test]
fn names_without_end_and_names_that_are_no_text() -> Result<()> {
    let Some(_turn) = privilege::turn()? else {
        return Ok(());
    };
    for version in VERSIONS {
        let Some(python) = interpreters::pyenv(version)? else {
            continue;
        };
        let mut script = Script::start::<&str>(&python, "big_names.py", &[])?;
        let report = traced(&mut script)?;
        let process = report.process(script.pid())?;
        let frames: Vec<(&str, &str)> = process
            .sites
            .iter()
            .filter(|site| site.counts.live_blocks == 20)
            .filter_map(|site| {
                let frame = site.python().next()?;
                Some((frame.function.as_str(), frame.file.as_deref()?))
            })
            .collect();
        let has = |name: &str, name_chars: usize, file: &str, file_chars: usize| {
            frames.iter().any(|(function, path)| {
                function.starts_with(name)
                    && path.starts_with(file)
                    && function.chars().count() == name_chars
                    && path.chars().count() == file_chars
            })
        };
        // Each with the sign of what was left out.
        ensure!(has("xxx", 1025, "short.py", 8), "{version}: {frames:?}");
        ensure!(has("yyy", 1025, "short.py", 8), "{version}: {frames:?}");
        ensure!(has("z", 1, "/long/ppp", 4097), "{version}: {frames:?}");
        ensure!(
            has("\u{fffd}half", 5, "\u{1f40d}.py", 4),
            "{version}: {frames:?}"
        );
        ensure!(
            has("with\nline", 23, "a;b c\n.py", 9),
            "{version}: {frames:?}"
        );
        ensure!(
            report.trust.self_rss_bytes < MAX_RESIDENT,
            "{version}: {:?}",
            report.trust
        );
    }
    Ok(())
}

#[test]
fn ten_thousand_frames_deep() -> Result<()> {
    let Some(_turn) = privilege::turn()? else {
        return Ok(());
    };
    for version in VERSIONS {
        let Some(python) = interpreters::pyenv(version)? else {
            continue;
        };
        let mut script = Script::start(&python, "recursion.py", &["10000"])?;
        let report = traced(&mut script)?;
        let process = report.process(script.pid())?;
        let mut deep = process.sites.iter().filter(|site| site.is_of("innermost"));
        let site = deep
            .find(|site| site.counts.live_bytes > 100 * 4000)
            .with_context(|| format!("{version}: no such site"))?;
        let names: Vec<&str> = site.python().map(|frame| frame.function.as_str()).collect();
        ensure!(
            site.cut.as_deref() == Some(TOO_DEEP),
            "{version}: {:?}",
            site.cut
        );
        ensure!(
            site.frames.len() <= 256,
            "{version}: {} frames",
            site.frames.len()
        );
        let rest = names.iter().skip(1).all(|name| *name == "down");
        // Before 3.11 there are native frames between two Python ones.
        ensure!(names.len() >= 60 && rest, "{version}: {names:?}");
        let lines: BTreeSet<Option<u32>> = site.python().skip(2).map(|frame| frame.line).collect();
        ensure!(lines.len() == 1, "{version}: one call, {lines:?}");
    }
    Ok(())
}

/// Interpreters that come and go; killed and reaped on drop.
#[derive(Default)]
struct Crowd(Vec<Child>);

impl Crowd {
    fn start(&mut self, python: &Path) -> Result<()> {
        let child = Command::new(python)
            .args([
                "-I",
                "-B",
                "-c",
                "kept = [bytes(5000) for _ in range(10_000)]; import json, email",
            ])
            .stdin(Stdio::null())
            .spawn()?;
        self.0.push(child);
        Ok(())
    }
}

impl Crowd {
    /// Starts so many, one after the other, and kills each: in the dynamic linker, during start-up, at work.
    fn come_and_go(pythons: &[PathBuf], rounds: u64) -> Result<Self> {
        let mut crowd = Self::default();
        for round in 0..rounds {
            crowd.start(&pythons[round as usize % pythons.len()])?;
            thread::sleep(Duration::from_millis(round * 7 % 61));
            if let Some(child) = crowd.0.last_mut() {
                child.kill()?;
                child.wait()?;
            }
        }
        Ok(crowd)
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // It may be gone already, which is as good.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[test]
fn pythons_that_die_while_they_are_read() -> Result<()> {
    const ROUNDS: u64 = 150;
    let Some(_turn) = privilege::turn()? else {
        return Ok(());
    };
    let pythons = [interpreters::pyenv("3.12")?, Some(interpreters::system())];
    let pythons: Vec<PathBuf> = pythons.into_iter().flatten().collect();
    for selector in [["--comm", "python"].as_slice(), &["--python"]] {
        let mut memtrace = Memtrace::built()?.args(selector.iter().copied()).start()?;
        // Others' Pythons may run here, or none.
        thread::sleep(Duration::from_secs(1));
        let crowd = Crowd::come_and_go(&pythons, ROUNDS)?;
        let pids: BTreeSet<u32> = crowd.0.iter().map(Child::id).collect();
        thread::sleep(Duration::from_millis(500));
        let report = memtrace.report_now()?;
        ensure!(
            memtrace.is_running()?,
            "memtrace has ended: {}",
            memtrace.said()
        );
        let said = memtrace.said();
        ensure!(!said.contains("panicked"), "{said}");
        let seen: Vec<_> = report
            .processes
            .iter()
            .filter(|process| pids.contains(&process.pid))
            .collect();
        let with_python = seen
            .iter()
            .filter(|process| process.runtime.python_stacks)
            .count();
        figure::show(&format!(
            "{selector:?}: {} of {ROUNDS} seen, {with_python} with Python stacks, {} names, {} gone, \
             {} MiB, {} s CPU",
            seen.len(),
            report.trust.python_names,
            report.trust.python_names_gone,
            report.trust.self_rss_bytes >> 20,
            report.trust.self_cpu_s
        ));
        ensure!(with_python > 0, "none was found before it died");
        for process in seen {
            ensure!(
                process.state == "exited",
                "{} is {}",
                process.pid,
                process.state
            );
        }
        ensure!(
            report.trust.self_rss_bytes < MAX_RESIDENT,
            "{:?}",
            report.trust
        );
    }
    Ok(())
}

/// Number of the function that a site belongs to, if it is one of `functions.py`.
fn number_of(site: &Site) -> Option<u64> {
    site.python()
        .next()?
        .function
        .strip_prefix('f')?
        .parse()
        .ok()
}

/// Runs `functions.py`; checks every name against the size that goes with it.
fn names_are_never_anothers(python: &Path, args: [&str; 2]) -> Result<()> {
    const FIRST: u64 = 2000;
    /// Head of a `bytes`.
    const HEAD: u64 = 33;
    let began = Instant::now();
    let mut script = Script::start(python, "functions.py", &args)?;
    let report = traced(&mut script)?;
    let mut named = 0;
    let mut gone: BTreeMap<&str, u64> = BTreeMap::new();
    for site in &report.process(script.pid())?.sites {
        if let Some(number) = number_of(site) {
            named += 1;
            let expected = site.counts.allocated_blocks * (FIRST + HEAD + number);
            ensure!(
                site.counts.allocated_bytes == expected,
                "f{number} has the blocks of another: {}",
                site.counts
            );
        } else if let Some(reason) = site
            .python()
            .next()
            .and_then(|frame| frame.reason.as_deref())
        {
            *gone.entry(reason).or_default() += site.counts.allocated_blocks / 3;
        }
    }
    let trust = &report.trust;
    figure::show(&format!(
        "{} {args:?}: {named} named, gone {gone:?}; told {} and {}; {} events, {} lost, {} MiB, {} s CPU of {:?}",
        python.display(),
        trust.python_names,
        trust.python_names_gone,
        trust.events,
        trust.lost_events,
        trust.self_rss_bytes >> 20,
        trust.self_cpu_s,
        began.elapsed()
    ));
    let total: u64 = args[0].parse()?;
    let without: u64 = gone.values().sum();
    ensure!(
        named + without == total,
        "{named} named, {without} without, of {total}"
    );
    // The trust line counts them, but for the few that were freed before their stack had arrived.
    ensure!(
        trust.python_names_gone + total / 100 >= without,
        "{trust:?}"
    );
    ensure!(trust.python_names >= named, "{trust:?}");
    ensure!(
        named > total / 2,
        "only {named} of {total} are named: {gone:?}"
    );
    ensure!(trust.self_rss_bytes < MAX_RESIDENT, "{trust:?}");
    ensure!(
        trust.self_cpu_s < began.elapsed().as_secs_f64(),
        "{trust:?}"
    );
    Ok(())
}

/// Twenty thousand functions at addresses that are used again and again: 64 live at a time, or only one.
#[test]
fn a_name_is_never_anothers() -> Result<()> {
    let Some(_turn) = privilege::turn()? else {
        return Ok(());
    };
    for version in VERSIONS {
        let Some(python) = interpreters::pyenv(version)? else {
            continue;
        };
        for alive in ["64", "1"] {
            names_are_never_anothers(&python, ["20000", alive])
                .with_context(|| format!("{version}, {alive} live at a time"))?;
        }
    }
    Ok(())
}
