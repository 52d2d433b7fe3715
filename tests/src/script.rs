//! A running Python script of `workloads/python`, or a program that talks as they do: lines to it and from it.

use std::{
    ffi::OsStr,
    io::Write as _,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
};

use anyhow::{Context as _, Result};
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};

use crate::{programs, wait::Lines};

/// It and all that it starts: one process group, killed on drop.
#[derive(Debug)]
pub struct Script {
    child: Child,
    input: ChildStdin,
    lines: Lines,
}

/// The path of a script.
#[must_use]
pub fn path(name: &str) -> PathBuf {
    programs::sources().join("python").join(name)
}

impl Script {
    /// Starts a script and waits until it says `ready`.
    ///
    /// # Errors
    ///
    /// Fails when it cannot be started, or ends before.
    pub fn start<T: AsRef<OsStr>>(python: &Path, script: &str, args: &[T]) -> Result<Self> {
        let mut command = Command::new(python);
        command.arg("-B").arg(path(script)).args(args);
        let script = Self::run(&mut command)?;
        script.wait_for("ready")?;
        Ok(script)
    }

    /// Runs any program.
    ///
    /// # Errors
    ///
    /// Fails when it cannot be started.
    pub fn run(command: &mut Command) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .with_context(|| format!("failed to start {command:?}"))?;
        let input = child.stdin.take().context("no standard input")?;
        let lines = Lines::gather(child.stdout.take().context("no standard output")?);
        Ok(Self {
            child,
            input,
            lines,
        })
    }

    /// The first process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Lets it go on.
    ///
    /// # Errors
    ///
    /// Fails when it is gone.
    pub fn go(&mut self) -> Result<()> {
        Ok(writeln!(self.input, "go")?)
    }

    /// Waits for a line that begins with this word, and gives the first.
    ///
    /// # Errors
    ///
    /// Fails when it does not come.
    pub fn wait_for(&self, word: &str) -> Result<String> {
        self.lines.find(word, |lines| {
            let is_it = |line: &&String| line.split(' ').next() == Some(word);
            lines.iter().find(is_it).cloned()
        })
    }

    /// Waits for a line that begins so, and gives the rest of the first.
    ///
    /// # Errors
    ///
    /// Fails when it does not come.
    pub fn wait_for_line(&self, beginning: &str) -> Result<String> {
        self.lines.find(beginning, |lines| {
            let mut rests = lines.iter().filter_map(|line| line.strip_prefix(beginning));
            rests.next().map(str::to_owned)
        })
    }

    /// Lets it go on, and waits until it says `done`.
    ///
    /// # Errors
    ///
    /// Fails when it ends before.
    pub fn work(&mut self) -> Result<()> {
        self.go()?;
        self.wait_for("done").map(drop)
    }

    /// What it has printed so far.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.lines.so_far()
    }

    /// Whether it still runs.
    ///
    /// # Errors
    ///
    /// Fails when the kernel cannot say.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        // It may be gone already, which is as good.
        let _ = killpg(
            Pid::from_raw(self.child.id().cast_signed()),
            Signal::SIGKILL,
        );
        let _ = self.child.wait();
    }
}
