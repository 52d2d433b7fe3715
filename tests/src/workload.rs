//! A running workload: started, told to go, asked for its truth, killed on drop.

use std::{
    ffi::OsString,
    fs,
    os::unix::process::CommandExt as _,
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result};
use nix::{
    sys::signal::{Signal, kill, killpg},
    unistd::Pid,
};
use tempfile::TempDir;

use crate::{
    programs::{self, Link},
    truth::{self, Line, Truth},
    wait::Lines,
};

/// A shell in a mount namespace of its own puts the program where nobody else sees it, and becomes it.
const HIDE: &str = r#"mount -t tmpfs hidden /mnt && cp "$0" /mnt/hidden && exec /mnt/hidden "$@""#;

/// What to start.
#[derive(Debug)]
pub struct Builder {
    program: String,
    link: Link,
    args: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    name: Option<String>,
    hidden: bool,
}

/// A workload that runs, and the processes it has started itself: one process group.
#[derive(Debug)]
pub struct Workload {
    child: Child,
    lines: Lines,
    folder: Option<TempDir>,
}

/// What a workload tells at the end of its work.
#[derive(Clone, Debug, PartialEq)]
pub struct Told {
    /// The process.
    pub pid: u32,
    /// Which program of an exec chain.
    pub exec: u32,
    /// What its sites hold.
    pub sites: Truth,
    /// Calls of the allocator since the go.
    pub calls: u64,
    /// Wall time since the go, in seconds.
    pub seconds: f64,
}

impl Builder {
    /// How the program is linked; dynamically if this is not called.
    #[must_use]
    pub fn link(mut self, link: Link) -> Self {
        self.link = link;
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<T: Into<OsString>>(mut self, args: impl IntoIterator<Item = T>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Preloads a shared object.
    #[must_use]
    pub fn preload(self, object: impl Into<OsString>) -> Self {
        self.environment("LD_PRELOAD", object)
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn environment(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Gives the process this command name, by a copy of the program under that file name.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        self.name = Some(name.to_owned());
        self
    }

    /// Runs a copy that only the process itself can see: on a file system of its own mount namespace.
    #[must_use]
    pub fn hidden(mut self) -> Self {
        self.hidden = true;
        self
    }

    /// Starts the program and waits until it is ready for the go.
    ///
    /// # Errors
    ///
    /// Fails when the program cannot be compiled or started, or ends before it is ready.
    pub fn start(self) -> Result<Workload> {
        let workload = self.spawn()?;
        workload.wait_ready(workload.pid(), 0)?;
        Ok(workload)
    }

    /// Starts the program without waiting for anything.
    ///
    /// # Errors
    ///
    /// Fails when the program cannot be compiled or started.
    pub fn spawn(self) -> Result<Workload> {
        let mut path = programs::build(&self.program, self.link)?;
        let mut folder = None;
        if let Some(name) = &self.name {
            let copy = TempDir::new()?;
            fs::copy(&path, copy.path().join(name))?;
            path = copy.path().join(name);
            folder = Some(copy);
        }
        let mut command = if self.hidden {
            let mut unshare = Command::new("unshare");
            unshare.args(["--mount", "sh", "-c", HIDE]).arg(&path);
            unshare
        } else {
            Command::new(&path)
        };
        command
            .args(&self.args)
            .stdout(Stdio::piped())
            .process_group(0);
        command.envs(self.environment);
        let mut child = command
            .spawn()
            .with_context(|| format!("failed to start `{}`", path.display()))?;
        let stdout = child.stdout.take().context("no standard output")?;
        Ok(Workload {
            child,
            lines: Lines::gather(stdout),
            folder,
        })
    }
}

impl Workload {
    /// A workload of `workloads/NAME.*`.
    #[must_use]
    pub fn of(program: &str) -> Builder {
        Builder {
            program: program.to_owned(),
            link: Link::Dynamic,
            args: Vec::new(),
            environment: Vec::new(),
            name: None,
            hidden: false,
        }
    }

    /// The first process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Removes the copy that [`Builder::named`] has made.
    ///
    /// # Errors
    ///
    /// Fails when there is none.
    pub fn delete_program(&mut self) -> Result<()> {
        let folder = self
            .folder
            .take()
            .context("the program has no file of its own")?;
        Ok(folder.close()?)
    }

    /// Everything printed so far.
    #[must_use]
    pub fn lines(&self) -> Vec<Line> {
        truth::parse(&self.lines.so_far())
    }

    /// Lets the first process go on.
    ///
    /// # Errors
    ///
    /// Fails when the process is gone.
    pub fn go(&self) -> Result<()> {
        self.go_to(self.pid())
    }

    /// Lets one of the processes go on.
    ///
    /// # Errors
    ///
    /// Fails when the process is gone.
    pub fn go_to(&self, pid: u32) -> Result<()> {
        kill(Pid::from_raw(pid.cast_signed()), Signal::SIGUSR1)
            .with_context(|| format!("failed to signal {pid}"))
    }

    /// Waits until program `exec` of process `pid` is ready for its go.
    ///
    /// # Errors
    ///
    /// Fails when it does not come.
    pub fn wait_ready(&self, pid: u32, exec: u32) -> Result<()> {
        let is_ready = |line: &Line| *line == Line::Ready { ready: pid, exec };
        self.lines.find(&format!("ready {pid}"), |lines| {
            truth::parse(lines).iter().any(is_ready).then_some(())
        })
    }

    /// Waits until `count` processes have said that they are ready, the first included, and gives their ids in order.
    ///
    /// # Errors
    ///
    /// Fails when they do not come.
    pub fn wait_family(&self, count: usize) -> Result<Vec<u32>> {
        self.lines.find(&format!("{count} processes"), |lines| {
            let ready = truth::parse(lines)
                .into_iter()
                .filter_map(|line| match line {
                    Line::Ready { ready, .. } => Some(ready),
                    _ => None,
                });
            let pids: Vec<u32> = ready.collect();
            (pids.len() >= count).then_some(pids)
        })
    }

    /// Waits for the truth of the first process.
    ///
    /// # Errors
    ///
    /// Fails when it does not come.
    pub fn told(&self) -> Result<Told> {
        self.told_by(self.pid(), 0, 0)
    }

    /// Waits for the truth that program `exec` of process `pid` tells at the end of its `stage`, all from 0.
    ///
    /// # Errors
    ///
    /// Fails when it does not come.
    pub fn told_by(&self, pid: u32, exec: u32, stage: usize) -> Result<Told> {
        self.lines.find(&format!("the truth of {pid}"), |lines| {
            let (sites, done) = truth::told(&truth::parse(lines), pid, exec, stage)?;
            let Line::Done { calls, ns, .. } = done else {
                return None;
            };
            Some(Told {
                pid,
                exec,
                sites,
                calls,
                seconds: ns as f64 / 1e9,
            })
        })
    }

    /// Lets the loop measure, for the `round`-th time (from 0), and gives nanoseconds a pair.
    ///
    /// # Errors
    ///
    /// Fails when the figure does not come.
    pub fn measure_pair(&self, round: usize) -> Result<f64> {
        self.go()?;
        self.lines.find("ns_per_pair", |lines| {
            let pairs = truth::parse(lines)
                .into_iter()
                .filter_map(|line| match line {
                    Line::Pair { ns_per_pair } => Some(ns_per_pair),
                    _ => None,
                });
            pairs.into_iter().nth(round)
        })
    }

    /// Kills the first process and waits until it is gone.
    ///
    /// # Errors
    ///
    /// Fails when the process cannot be killed.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        // The group, not the process: a tree has children. It may be gone already, which is as good.
        let _ = killpg(
            Pid::from_raw(self.child.id().cast_signed()),
            Signal::SIGKILL,
        );
        let _ = self.child.wait();
    }
}
