//! Python code objects that live for microseconds have their names, and no other's.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use memtrace_tests::{
    figure,
    memtrace::Memtrace,
    privilege, programs,
    python_program::PythonProgram,
    report::{Process, Site},
    wait::Lines,
};

/// Functions that `brief.py` makes.
const COUNT: u64 = 5_000;
/// `brief.py`: bytes of the first function's block, and how many more the next one's has.
const FIRST: u64 = 100_000;
const STEP: u64 = 16;

/// A running `brief.py`, killed on drop.
struct Brief {
    child: Child,
    input: ChildStdin,
    lines: Lines,
}

impl Brief {
    fn start(python: &Path) -> Result<Self> {
        let mut child = Command::new(python)
            .arg("-B")
            .arg(programs::sources().join("brief.py"))
            .arg(COUNT.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("failed to start `{}`", python.display()))?;
        let lines = Lines::gather(child.stdout.take().context("no standard output")?);
        let input = child.stdin.take().context("no standard input")?;
        let brief = Self {
            child,
            input,
            lines,
        };
        brief.wait("ready")?;
        Ok(brief)
    }

    fn wait(&self, word: &str) -> Result<()> {
        let said = |lines: &[String]| lines.iter().any(|line| line == word).then_some(());
        self.lines.find(word, said)
    }
}

impl Drop for Brief {
    fn drop(&mut self) {
        // It may be gone already, which is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The system's Python, and those that pyenv has of the series with different layouts.
fn pythons() -> Vec<PathBuf> {
    let root = std::env::var_os("PYENV_ROOT").map(PathBuf::from);
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".pyenv"));
    let versions = root.or(home).map(|root| root.join("versions"));
    let installed = versions.and_then(|versions| fs::read_dir(versions).ok());
    let mut found: Vec<PathBuf> = installed
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            ["3.8.", "3.10.", "3.11.", "3.12.", "3.13."]
                .iter()
                .any(|series| name.starts_with(series))
        })
        .map(|path| path.join("bin/python3"))
        .collect();
    found.sort();
    found.push("/usr/bin/python3".into());
    found
}

/// Waits until a process's allocators and code objects are probed.
fn wait_traced(memtrace: &Memtrace, pid: u32) -> Result<()> {
    memtrace.wait_tracing_times(pid, 2)
}

/// How the sites of `brief.py` are named.
#[derive(Debug, Default)]
struct Names {
    right: u64,
    /// Functions without a name, by the reason.
    gone: BTreeMap<String, u64>,
    wrong: Vec<String>,
}

impl Names {
    fn of(process: &Process) -> Self {
        let mut names = Self::default();
        for site in &process.sites {
            names.add(site);
        }
        names
    }

    fn add(&mut self, site: &Site) {
        let size = site.counts.live_bytes / site.counts.live_blocks.max(1);
        let mut python = site.frames.iter().filter(|frame| frame.kind == "python");
        let Some(innermost) = python.next() else {
            return;
        };
        // A `bytearray` has a byte more than was asked for.
        let serial = size.checked_sub(FIRST + 1).filter(|more| more % STEP == 0);
        let serial = serial.map(|more| more / STEP);
        let Some(serial) = serial.filter(|serial| *serial < COUNT) else {
            return; // the list that keeps them, or what the interpreter needs
        };
        // The function, and the module that has made it.
        let expected = [format!("serial_{serial}"), "<module>".to_owned()];
        let told = [Some(innermost), python.next()];
        for (expected, frame) in expected.iter().zip(told) {
            match frame {
                Some(frame) if frame.function == *expected && frame.line.is_some() => {
                    self.right += 1;
                }
                Some(frame) if frame.function.is_empty() => {
                    let reason = frame.reason.clone().unwrap_or_default();
                    *self.gone.entry(reason).or_default() += 1;
                }
                frame => self.wrong.push(format!("{frame:?} where {expected} is")),
            }
        }
    }
}

/// Python frames with a name, and all.
fn python_frames(process: &Process) -> (usize, usize) {
    let frames = process.sites.iter().flat_map(|site| &site.frames);
    let python: Vec<_> = frames.filter(|frame| frame.kind == "python").collect();
    let named = python.iter().filter(|frame| !frame.function.is_empty());
    (named.count(), python.len())
}

fn names_of_brief(python: &Path, args: &[&str]) -> Result<()> {
    let mut brief = Brief::start(python)?;
    let pid = brief.child.id();
    let memtrace = Memtrace::built()?
        .pid(pid)
        .args(args.iter().map(OsString::from))
        .start()?;
    wait_traced(&memtrace, pid)?;
    brief.input.write_all(b"go\n")?;
    brief.wait("told")?;
    let report = memtrace.final_report()?;
    let names = Names::of(report.process(pid)?);
    let what = format!("{} {args:?}", python.display());
    figure::show(&format!(
        "{what}: {} of {} frames named, {} wrong, without a name {:?}",
        names.right,
        2 * COUNT,
        names.wrong.len(),
        names.gone
    ));
    ensure!(names.wrong.is_empty(), "{what}: {:?}", names.wrong);
    ensure!(
        names.right * 100 >= 2 * COUNT * 99,
        "{what}: {} of {} frames are named; the others: {:?}",
        names.right,
        2 * COUNT,
        names.gone
    );
    Ok(())
}

#[test]
fn functions_that_are_freed_at_once_have_their_names() -> Result<()> {
    let Some(_turn) = privilege::turn()? else {
        return Ok(());
    };
    for python in pythons() {
        names_of_brief(&python, &[])?;
    }
    Ok(())
}

#[test]
fn every_way_to_attach_and_to_walk_has_them() -> Result<()> {
    let Some(_turn) = privilege::turn()? else {
        return Ok(());
    };
    let python = Path::new("/usr/bin/python3");
    for level in ["session", "multi", "single"] {
        for unwinder in ["loop", "tail-call"] {
            names_of_brief(python, &["--attach-level", level, "--unwinder", unwinder])?;
        }
    }
    Ok(())
}

#[test]
fn programs_that_make_and_drop_code_are_named() -> Result<()> {
    let Some(_turn) = privilege::turn()? else {
        return Ok(());
    };
    for python in pythons() {
        for name in ["comprehensions", "imports", "dynamic", "classes"] {
            let Some(mut program) = PythonProgram::start(&python, name)? else {
                continue;
            };
            let pid = program.pid();
            // Only the blocks that the program tells of: a stack through a file that was just loaded is cut, and could be
            // anybody's.
            let memtrace = Memtrace::built()?
                .pid(pid)
                .args(["--min-size", "100000"])
                .start()?;
            wait_traced(&memtrace, pid)?;
            let truth = program.sample()?;
            let report = memtrace.final_report()?;
            let outcome = truth.compare(report.process(pid)?);
            let what = format!("{} {name}", python.display());
            figure::show(&format!("{what}: {outcome}"));
            ensure!(outcome.is_true(), "{what}: {outcome}");
            // Where a stack is too deep, the verdict says that alone: so frames are counted as well.
            let (named, all) = python_frames(report.process(pid)?);
            figure::show(&format!("{what}: {named} of {all} frames named"));
            ensure!(
                named * 100 >= all * 99 && outcome.absent * 100 <= outcome.samples,
                "{what}: {named} of {all} frames named, {outcome}"
            );
        }
    }
    Ok(())
}
