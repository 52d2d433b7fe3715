//! The tracers that are compared, and how a benchmark runs under each.

use std::{ffi::OsString, fmt, path::Path};

use anyhow::{Context as _, Result, ensure};
use memtrace_tests::memtrace::Memtrace;
use tempfile::TempDir;

use crate::program::{self, Program};

/// Every call of libc's allocator, none of CPython's own: what memray traces too.
const LIBC_ONLY: [&str; 1] = ["--yes"];

/// What the benchmark runs under. The order is the table's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Tracer {
    /// Nothing at all.
    Nothing,
    /// The binary under test, attached to the running program.
    Memtrace,
    /// `memray run --native`, which starts the program.
    Memray,
}

/// One run of a benchmark.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    /// CPU time of the program (user and system), in seconds.
    pub(crate) cpu: f64,
    /// Wall time, in seconds.
    pub(crate) wall: f64,
    /// Blocks that the tracer has seen; only memtrace tells.
    pub(crate) blocks: Option<u64>,
}

impl fmt::Display for Tracer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Nothing => "nothing",
            Self::Memtrace => "memtrace, all calls of libc",
            Self::Memray => "memray run --native",
        })
    }
}

impl Tracer {
    /// All of them.
    pub(crate) const ALL: [Self; 3] = [Self::Nothing, Self::Memtrace, Self::Memray];

    /// Runs `arguments` of run.py once.
    pub(crate) fn run(self, python: &Path, arguments: &[OsString]) -> Result<Run> {
        let folder = TempDir::new()?;
        let mut words: Vec<OsString> = Vec::new();
        if self == Self::Memray {
            words.extend(["-m", "memray", "run", "--native", "--quiet", "-o"].map(OsString::from));
            words.push(folder.path().join("recording").into());
        }
        words.push(program::source("run.py").into());
        words.extend_from_slice(arguments);
        let program = Program::start(python, words)?;
        if self != Self::Memtrace {
            return Run::parse(&program.finish()?);
        }
        let pid = program.pid();
        let memtrace = Memtrace::built()?.pid(pid).args(LIBC_ONLY).start()?;
        memtrace.wait_tracing(&[pid])?;
        let run = Run::parse(&program.finish()?)?;
        // Its only target has ended, so it ends by itself.
        let report = memtrace.end()?.last_report()?;
        ensure!(report.trust.lost_events == 0, "memtrace has lost events");
        Ok(Run {
            blocks: Some(report.process(pid)?.counts.allocated_blocks),
            ..run
        })
    }
}

impl Run {
    /// Reads `CPU WALL`, in nanoseconds.
    fn parse(line: &str) -> Result<Self> {
        let (cpu, wall) = line.split_once(' ').with_context(|| format!("`{line}`"))?;
        Ok(Self {
            cpu: cpu.parse::<f64>()? / 1e9,
            wall: wall.parse::<f64>()? / 1e9,
            blocks: None,
        })
    }
}
