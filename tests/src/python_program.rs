//! A running program of `workloads/python`: started, told to go, asked for its truth, killed on drop.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;

use crate::{programs, python_truth::PythonTruth, wait::Lines};

/// Names of the programs.
pub const PROGRAMS: [&str; 13] = [
    "callbacks",
    "calls",
    "classes",
    "comprehensions",
    "deep",
    "dynamic",
    "finalizers",
    "generators",
    "greenlets",
    "imports",
    "tasks",
    "threads",
    "waiting",
];

/// A program that runs. `marker.py` says what it does when.
#[derive(Debug)]
pub struct PythonProgram {
    child: Child,
    input: Option<ChildStdin>,
    lines: Lines,
    folder: TempDir,
}

impl PythonProgram {
    /// Starts `workloads/python/NAME.py` and waits until it is ready for the go. None when it says that this interpreter lacks
    /// what it needs.
    ///
    /// # Errors
    ///
    /// Fails when it cannot be started, or ends before it is ready.
    pub fn start(python: &Path, name: &str) -> Result<Option<Self>> {
        let folder = TempDir::new()?;
        let source = programs::sources().join("python").join(name);
        let mut child = Command::new(python)
            .args(["-B", "-W", "ignore"])
            .arg(source.with_extension("py"))
            .arg(truth_file(&folder))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("failed to start `{}`", python.display()))?;
        let output = child.stdout.take().context("no standard output")?;
        let program = Self {
            input: child.stdin.take(),
            child,
            lines: Lines::gather(output),
            folder,
        };
        let is_ready = |lines: &[String]| match lines.first()?.as_str() {
            "ready" => Some(true),
            line => line.starts_with("absent ").then_some(false),
        };
        let ready = program.lines.find("ready", is_ready)?;
        Ok(ready.then_some(program))
    }

    /// The process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Lets it allocate, and waits for its truth. It keeps all blocks until [`PythonProgram::end`].
    ///
    /// # Errors
    ///
    /// Fails when the program does.
    pub fn sample(&mut self) -> Result<PythonTruth> {
        let mut input = self.input.as_ref().context("it has been told to end")?;
        input.write_all(b"go\n")?;
        let told = |lines: &[String]| lines.iter().any(|line| line == "told").then_some(());
        self.lines.find("the truth", told)?;
        PythonTruth::read(&truth_file(&self.folder))
    }

    /// Lets it end, and waits for that.
    ///
    /// # Errors
    ///
    /// Fails when it ends with an error.
    pub fn end(mut self) -> Result<()> {
        drop(self.input.take());
        let status = self.child.wait()?;
        ensure!(status.success(), "the program ended with {status}");
        Ok(())
    }
}

impl Drop for PythonProgram {
    fn drop(&mut self) {
        // It may be gone already, which is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn truth_file(folder: &TempDir) -> PathBuf {
    folder.path().join("truth.json")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn system_python() -> &'static Path {
        Path::new("/usr/bin/python3")
    }

    #[test]
    fn every_program_of_the_folder_is_named() -> Result<()> {
        let mut found = Vec::new();
        for entry in fs::read_dir(programs::sources().join("python"))? {
            let path = entry?.path();
            // The others are programs of single tests.
            let marks =
                |text: &str| text.contains("import marker") || text.contains("from marker import");
            let is_marked = path.is_file() && marks(&fs::read_to_string(&path)?);
            let name = path.file_stem().filter(|_| is_marked);
            found.extend(name.map(|name| name.to_string_lossy().into_owned()));
        }
        found.sort();
        assert_eq!(found, PROGRAMS);
        Ok(())
    }

    #[test]
    fn programs_tell_the_truth_about_themselves() -> Result<()> {
        for name in PROGRAMS {
            let Some(mut program) = PythonProgram::start(system_python(), name)? else {
                println!("{name} lacks something");
                continue;
            };
            let truth = program.sample().context(name)?;
            assert_eq!(truth.pid, program.pid(), "{name}");
            assert!(
                truth.stacks.len() > 10,
                "{name}: {} stacks",
                truth.stacks.len()
            );
            assert_eq!(
                truth.stacks.iter().map(|stack| stack.count).sum::<u64>(),
                truth.samples
            );
            for stack in &truth.stacks {
                // The frames of `marker.py`: one that allocates, then `mark`, unless the program did it itself.
                let innermost = stack.frames.first().context("no frames")?;
                assert!(
                    stack.size % 2 == 1 && innermost.line.is_some(),
                    "{name}: {stack:?}"
                );
            }
            program.end().context(name)?;
        }
        Ok(())
    }
}
