//! A Python program that does what it is told, line by line, and answers with a number.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
};

use anyhow::{Context as _, Result};

use crate::{programs, wait::Lines};

/// A running interpreter with one of the programs in `workloads`; killed on drop.
#[derive(Debug)]
pub struct Python {
    child: Child,
    input: ChildStdin,
    lines: Lines,
    answers: usize,
}

/// The system's interpreter, which distributions build with their profile.
#[must_use]
pub fn system() -> PathBuf {
    PathBuf::from("/usr/bin/python3")
}

/// pyenv's interpreters from 3.8 on, which are built without a profile, by their versions.
#[must_use]
pub fn plain() -> Vec<PathBuf> {
    let root = std::env::var_os("PYENV_ROOT").map_or_else(
        || Path::new(&std::env::var_os("HOME").unwrap_or_default()).join(".pyenv"),
        PathBuf::from,
    );
    let minor = |path: &Path| -> Option<u32> {
        let name = path.file_name()?.to_str()?;
        name.strip_prefix("3.")?.split('.').next()?.parse().ok()
    };
    let versions = std::fs::read_dir(root.join("versions"));
    let mut found: Vec<(u32, PathBuf)> = versions
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter_map(|path| Some((minor(&path)?, path.join("bin/python"))))
        .filter(|(minor, path)| *minor >= 8 && path.exists())
        .collect();
    found.sort();
    found.into_iter().map(|(_, path)| path).collect()
}

impl Python {
    /// Starts a program of `workloads` and waits for its first line.
    ///
    /// # Errors
    /// When it cannot be started, or says nothing.
    pub fn start(interpreter: &Path, program: &str, environment: &[(&str, &str)]) -> Result<Self> {
        let mut child = Command::new(interpreter)
            .arg(programs::sources().join(program))
            .env("PYTHONHASHSEED", "0")
            .envs(environment.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("failed to start `{}`", interpreter.display()))?;
        let input = child.stdin.take().context("no standard input")?;
        let lines = Lines::gather(child.stdout.take().context("no standard output")?);
        let mut python = Self {
            child,
            input,
            lines,
            answers: 0,
        };
        python.answer()?;
        Ok(python)
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Gives a command and waits for its answer.
    ///
    /// # Errors
    /// When it has ended, or answers with something else than a number.
    pub fn tell(&mut self, command: &str) -> Result<i64> {
        writeln!(self.input, "{command}")?;
        self.answer()
            .with_context(|| format!("the command `{command}`"))
    }

    fn answer(&mut self) -> Result<i64> {
        let at = self.answers;
        self.answers += 1;
        let line = self
            .lines
            .find("an answer", |lines| lines.get(at).cloned())?;
        Ok(line.trim().parse()?)
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        // It may be gone already, which is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
