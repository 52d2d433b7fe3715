//! A Python program that says when it is ready, and goes on when it is told to.

use std::{
    ffi::OsStr,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use memtrace_tests::wait::Lines;

/// A running program; killed when dropped.
pub(crate) struct Program {
    process: Child,
    input: ChildStdin,
    lines: Lines,
}

/// The file of a program of this benchmark.
pub(crate) fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("benches/python")
        .join(name)
}

impl Program {
    /// Starts `python` with arguments and waits until it is ready.
    pub(crate) fn start<T: AsRef<OsStr>>(
        python: &Path,
        arguments: impl IntoIterator<Item = T>,
    ) -> Result<Self> {
        let mut process = Command::new(python)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("failed to start `{}`", python.display()))?;
        let program = Self {
            input: process.stdin.take().context("no standard input")?,
            lines: Lines::gather(process.stdout.take().context("no standard output")?),
            process,
        };
        program.wait_for("ready")?;
        Ok(program)
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Waits until it has said this word.
    pub(crate) fn wait_for(&self, word: &str) -> Result<()> {
        self.lines.find(word, |lines| {
            lines.iter().any(|line| line == word).then_some(())
        })
    }

    /// Lets it go on.
    pub(crate) fn go(&mut self) -> Result<()> {
        Ok(self.input.write_all(b"\n")?)
    }

    /// Lets it go on to its end, however long that takes, and gives its last line.
    pub(crate) fn finish(mut self) -> Result<String> {
        self.go()?;
        self.lines.wait_for_end();
        let status = self.process.wait()?;
        ensure!(status.success(), "the program ended with {status}");
        self.lines.so_far().pop().context("it has said nothing")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may be gone already, which is as good.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
