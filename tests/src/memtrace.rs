//! The binary under test: started with arguments, watched on standard error, stopped, killed on drop.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::SystemTime,
};

use anyhow::{Context as _, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::{NamedTempFile, TempPath};

use crate::{
    programs,
    report::Report,
    wait::{self, Lines},
};

/// How to start it.
#[derive(Debug)]
pub struct Builder {
    binary: PathBuf,
    args: Vec<OsString>,
    stdout: Stdio,
    interval: String,
}

/// A running memtrace that writes JSON reports to a file of its own.
#[derive(Debug)]
pub struct Memtrace {
    child: Child,
    stderr: Lines,
    stdout: Option<Lines>,
    reports: TempPath,
}

/// What is left of a run.
#[derive(Debug)]
pub struct Outcome {
    /// How it ended.
    pub status: ExitStatus,
    /// What it said.
    pub stderr: String,
    /// What it printed.
    pub stdout: String,
    /// Its reports, in order.
    pub reports: Vec<Report>,
}

/// The binary: `MEMTRACE_BIN`, or the newest that cargo has built.
///
/// # Errors
///
/// Fails when there is none.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("MEMTRACE_BIN") {
        return Ok(PathBuf::from(path));
    }
    let built = |profile: &str| {
        let path = programs::target().join(profile).join("memtrace");
        let time = fs::metadata(&path).and_then(|data| data.modified()).ok()?;
        Some((time, path))
    };
    let newest: Option<(SystemTime, PathBuf)> =
        ["debug", "release"].into_iter().filter_map(built).max();
    newest
        .map(|(_, path)| path)
        .context("memtrace is not built; try: cargo build, or set MEMTRACE_BIN")
}

impl Builder {
    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<T: Into<OsString>>(mut self, args: impl IntoIterator<Item = T>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Selects a process.
    #[must_use]
    pub fn pid(self, pid: u32) -> Self {
        self.arg("-p").arg(pid.to_string())
    }

    /// Where standard output goes, instead of into [`Outcome::stdout`].
    #[must_use]
    pub fn stdout(mut self, stdout: Stdio) -> Self {
        self.stdout = stdout;
        self
    }

    /// Time between JSON reports; without it there is one when asked and one at the end.
    #[must_use]
    pub fn interval(mut self, interval: &str) -> Self {
        self.interval = interval.to_owned();
        self
    }

    /// Starts it with JSON reports to a file of its own.
    ///
    /// # Errors
    ///
    /// Fails when the binary is missing.
    pub fn start(self) -> Result<Memtrace> {
        let reports = NamedTempFile::new()?.into_temp_path();
        let args = ["-i", &self.interval, "--format", "json", "-o"].map(OsString::from);
        let command = self.args;
        let own = Builder {
            args: args.into(),
            ..self
        };
        own.arg(reports.as_os_str().to_owned())
            .args(command)
            .start_plain(reports)
    }

    /// Starts it with exactly the arguments given.
    ///
    /// # Errors
    ///
    /// Fails when the binary is missing.
    pub fn start_bare(self) -> Result<Memtrace> {
        self.start_plain(NamedTempFile::new()?.into_temp_path())
    }

    fn start_plain(self, reports: TempPath) -> Result<Memtrace> {
        let mut child = Command::new(&self.binary)
            .args(&self.args)
            .stdin(Stdio::null())
            .stdout(self.stdout)
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("failed to start `{}`", self.binary.display()))?;
        let stderr = Lines::gather(child.stderr.take().context("no standard error")?);
        let stdout = child.stdout.take().map(Lines::gather);
        Ok(Memtrace {
            child,
            stderr,
            stdout,
            reports,
        })
    }
}

impl Memtrace {
    /// The built binary.
    ///
    /// # Errors
    ///
    /// Fails when there is none.
    pub fn built() -> Result<Builder> {
        Ok(Self::at(&binary()?))
    }

    /// Another binary, for tests of this helper.
    #[must_use]
    pub fn at(binary: &Path) -> Builder {
        Builder {
            binary: binary.to_owned(),
            args: Vec::new(),
            stdout: Stdio::piped(),
            interval: "3600".to_owned(),
        }
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it has said something on standard error that `is_it` accepts.
    ///
    /// # Errors
    ///
    /// Fails with all that it said when it does not come.
    pub fn wait_for(&self, what: &str, is_it: impl Fn(&str) -> bool) -> Result<String> {
        self.stderr
            .find(what, |lines| lines.iter().find(|line| is_it(line)).cloned())
    }

    /// Waits until all of these processes are traced: `memtrace: tracing PID (COMM)…`.
    ///
    /// # Errors
    ///
    /// Fails with all that it said when one does not come.
    pub fn wait_tracing(&self, pids: &[u32]) -> Result<()> {
        pids.iter()
            .try_for_each(|pid| self.wait_tracing_times(*pid, 1))
    }

    /// Waits until a process was picked up for the `times`-th time: once for every program it has begun.
    ///
    /// # Errors
    ///
    /// Fails with all that it said when it does not come.
    pub fn wait_tracing_times(&self, pid: u32, times: usize) -> Result<()> {
        let words = format!("memtrace: tracing {pid} ");
        self.stderr
            .find(&format!("`{words}` {times} times"), |lines| {
                (lines.iter().filter(|line| line.starts_with(&words)).count() >= times)
                    .then_some(())
            })
    }

    /// All that it has said so far.
    #[must_use]
    pub fn said(&self) -> String {
        self.stderr.so_far().join("\n")
    }

    /// Its reports so far.
    ///
    /// # Errors
    ///
    /// Fails when one has another shape.
    pub fn reports(&self) -> Result<Vec<Report>> {
        let text = fs::read_to_string(&self.reports)?;
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().map(Report::parse).collect()
    }

    /// Asks for a report and waits for it.
    ///
    /// # Errors
    ///
    /// Fails when none comes.
    pub fn report_now(&self) -> Result<Report> {
        let before = self.reports()?.len();
        self.signal(Signal::SIGUSR1)?;
        wait::until("a report after SIGUSR1", || {
            Ok(self.reports()?.into_iter().nth(before))
        })
    }

    /// Sends a signal.
    ///
    /// # Errors
    ///
    /// Fails when it is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill(Pid::from_raw(self.child.id().cast_signed()), signal)?)
    }

    /// Whether it still runs.
    ///
    /// # Errors
    ///
    /// Fails when the kernel cannot say.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Waits until it is gone, however it ends.
    ///
    /// # Errors
    ///
    /// Fails when it does not end.
    pub fn wait_killed(&mut self) -> Result<ExitStatus> {
        wait::until("the end of memtrace", || Ok(self.child.try_wait()?))
    }

    /// Stops it with SIGINT and waits for its end.
    ///
    /// # Errors
    ///
    /// Fails when it does not end or a report has another shape.
    pub fn stop(self) -> Result<Outcome> {
        self.signal(Signal::SIGINT)?;
        self.end()
    }

    /// Stops it, and gives the final report of a run that must have ended well.
    ///
    /// # Errors
    ///
    /// Fails when the exit status is not 0 or there is no final report.
    pub fn final_report(self) -> Result<Report> {
        self.stop()?.final_report()
    }

    /// Waits for its end.
    ///
    /// # Errors
    ///
    /// Fails when it does not end or a report has another shape.
    pub fn end(mut self) -> Result<Outcome> {
        let status = wait::until("the end of memtrace", || Ok(self.child.try_wait()?))
            .with_context(|| format!("it said:\n{}", self.said()))?;
        self.stderr.wait_for_end();
        let stdout = self.stdout.take().map(|lines| {
            lines.wait_for_end();
            lines.so_far().join("\n")
        });
        Ok(Outcome {
            status,
            stderr: self.said(),
            stdout: stdout.unwrap_or_default(),
            reports: self.reports()?,
        })
    }
}

impl Drop for Memtrace {
    fn drop(&mut self) {
        // It may be gone already, which is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Outcome {
    /// The exit code; -1 when it was killed.
    #[must_use]
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or(-1)
    }

    /// The last report of a run that must have ended well.
    ///
    /// # Errors
    ///
    /// Fails when the exit status is not 0 or there is no final report.
    pub fn final_report(self) -> Result<Report> {
        ensure!(
            self.status.success(),
            "memtrace ended with {}:\n{}",
            self.status,
            self.stderr
        );
        self.last_report()
    }

    /// The last report, whatever the exit status.
    ///
    /// # Errors
    ///
    /// Fails when there is no final report.
    pub fn last_report(mut self) -> Result<Report> {
        let last = self
            .reports
            .pop()
            .with_context(|| format!("no report; it said:\n{}", self.stderr))?;
        ensure!(
            last.is_final,
            "the last report is not final; it said:\n{}",
            self.stderr
        );
        Ok(last)
    }
}
