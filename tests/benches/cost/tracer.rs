//! The tracers that are compared, and how each is put on a process.

use std::{
    ffi::OsString,
    fmt,
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use memtrace_tests::{
    memtrace::{self, Memtrace},
    procfs, wait,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;

use crate::floor::Floor;

/// Where Debian's heaptrack keeps what it preloads.
const HEAPTRACK: &str = "/usr/lib/heaptrack/libheaptrack_preload.so";

/// What is put on the workload. The order is the table's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Tracer {
    /// Nothing at all.
    Nothing,
    /// Empty programs on malloc's and free's best instructions: what the kernel asks for the traps alone.
    Floor,
    /// The binary under test, with every call traced.
    Memtrace,
    /// memleak of libbpf-tools.
    Memleak,
    /// heaptrack, preloaded: no probes, but the program must be started under it.
    Heaptrack,
}

/// A tracer on a process; gone when dropped.
pub(crate) enum Attached {
    /// There is nothing to take off.
    Nothing,
    /// The programs are gone with the value.
    Floor { _floor: Floor },
    /// Stopped as a user would.
    Memtrace(Memtrace),
    /// Stopped as a user would.
    Process(Child),
}

impl fmt::Display for Tracer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Nothing => "nothing",
            Self::Floor => "bare floor",
            Self::Memtrace => "memtrace --exact",
            Self::Memleak => "memleak (libbpf-tools)",
            Self::Heaptrack => "heaptrack",
        })
    }
}

/// The folder with the peers' files.
fn peers() -> Option<PathBuf> {
    std::env::var_os("MEMTRACE_PEERS").map(PathBuf::from)
}

impl Tracer {
    /// Those that are there. The binary under test must be.
    pub(crate) fn available() -> Result<Vec<Self>> {
        memtrace::binary()?;
        let mut all = vec![Self::Nothing, Self::Floor, Self::Memtrace];
        if peers().is_some() {
            all.push(Self::Memleak);
        }
        if PathBuf::from(HEAPTRACK).exists() {
            all.push(Self::Heaptrack);
        }
        Ok(all)
    }

    /// The environment that a program must be started with. `preloads` are the program's own.
    pub(crate) fn environment(self, preloads: &[&str]) -> Result<Vec<(&'static str, OsString)>> {
        let mut objects: Vec<&str> = preloads.to_vec();
        let mut environment = Vec::new();
        if self == Self::Heaptrack {
            objects.insert(0, HEAPTRACK);
            environment.push(("DUMP_HEAPTRACK_OUTPUT", scratch()?));
        }
        environment.push(("LD_PRELOAD", objects.join(":").into()));
        Ok(environment)
    }

    /// Puts it on a running process, and waits until it is at work.
    pub(crate) fn attach(self, pid: u32) -> Result<Attached> {
        match self {
            Self::Nothing | Self::Heaptrack => Ok(Attached::Nothing),
            Self::Floor => Ok(Attached::Floor {
                _floor: Floor::attach(pid)?,
            }),
            Self::Memtrace => {
                let memtrace = Memtrace::built()?
                    .pid(pid)
                    .args(["--exact", "--yes"])
                    .start()?;
                memtrace.wait_tracing(&[pid])?;
                Ok(Attached::Memtrace(memtrace))
            }
            Self::Memleak => attach_memleak(pid),
        }
    }
}

/// A file for heaptrack's recording that goes with this run.
fn scratch() -> Result<OsString> {
    static FOLDER: std::sync::OnceLock<TempDir> = std::sync::OnceLock::new();
    if FOLDER.get().is_none() {
        // Another thread may have been faster; then this folder is removed again.
        let _ = FOLDER.set(TempDir::new()?);
    }
    let folder = FOLDER
        .get()
        .context("no folder for heaptrack's recording")?;
    Ok(folder.path().join("heaptrack.raw").into_os_string())
}

/// memleak wants a newer libc than a stable distribution has: it runs by the loader that was unpacked beside it.
fn attach_memleak(pid: u32) -> Result<Attached> {
    let peers = peers().context("MEMTRACE_PEERS is not set")?;
    let libraries = peers.join("usr/lib/x86_64-linux-gnu");
    let before = procfs::text_of(pid, "libc.so")?;
    let child = Command::new(libraries.join("ld-linux-x86-64.so.2"))
        .arg("--library-path")
        .arg(&libraries)
        .arg(peers.join("usr/sbin/memleak-libbpf"))
        .args(["-p", &pid.to_string(), "3600"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("failed to start memleak")?;
    let attached = Attached::Process(child);
    wait_until_settled(pid, &before)?;
    Ok(attached)
}

/// Waits until probes have appeared in libc's text and none has been added for a while: memleak does not say when it is
/// ready.
fn wait_until_settled(pid: u32, before: &[u8]) -> Result<()> {
    let mut last = before.to_vec();
    let mut since = Instant::now();
    wait::until("probes in libc", || {
        let now = procfs::text_of(pid, "libc.so")?;
        if now != last {
            last = now;
            since = Instant::now();
        }
        thread::sleep(Duration::from_millis(50));
        Ok((last != before && since.elapsed() > Duration::from_millis(700)).then_some(()))
    })
}

impl Drop for Attached {
    fn drop(&mut self) {
        match self {
            Self::Nothing | Self::Floor { .. } => {}
            // Its own drop kills it; the kernel takes the probes out.
            Self::Memtrace(memtrace) => {
                let _ = memtrace.signal(Signal::SIGINT);
                let _ = memtrace.wait_killed();
            }
            Self::Process(child) => {
                let _ = kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT);
                let _ = child.wait();
            }
        }
    }
}
