//! redis-server, with glibc's malloc preloaded, under redis-benchmark.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use memtrace_tests::{procfs, wait};
use tempfile::TempDir;

use crate::tracer::Tracer;

/// Requests of one round: enough to drown the tracer's first moments.
const REQUESTS: u32 = 60_000;
/// Debian's server is linked against jemalloc; a preloaded libc comes first.
const LIBC: &str = "libc.so.6";

/// A server on a socket of its own; killed when dropped.
struct Server {
    process: Child,
    folder: TempDir,
}

impl Server {
    fn start(tracer: Tracer) -> Result<Self> {
        let folder = TempDir::new()?;
        let mut command = Command::new("redis-server");
        command
            .args(["--port", "0", "--save", "", "--unixsocket"])
            .arg(folder.path().join("socket"));
        command
            .arg("--dir")
            .arg(folder.path())
            .stdout(Stdio::null())
            .envs(tracer.environment(&[LIBC])?);
        let process = command
            .spawn()
            .context("failed to start `redis-server`; try: apt-get install redis-server")?;
        let server = Self { process, folder };
        wait::until("redis's socket", || {
            Ok(server.socket().exists().then_some(()))
        })?;
        Ok(server)
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may be gone already, which is as good.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// CPU time of the server for one SET request.
pub(crate) fn cost(tracer: Tracer) -> Result<f64> {
    let server = Server::start(tracer)?;
    // First contact, first growth of tables: not part of the figure.
    load(&server.socket(), REQUESTS / 10)?;
    let _attached = tracer.attach(server.process.id())?;
    load(&server.socket(), 100)?;
    let before = procfs::cpu_time(server.process.id())?;
    load(&server.socket(), REQUESTS)?;
    let used = procfs::cpu_time(server.process.id())? - before;
    Ok(used.as_secs_f64() * 1e9 / f64::from(REQUESTS))
}

fn load(socket: &Path, requests: u32) -> Result<()> {
    let mut command = Command::new("redis-benchmark");
    command.args([
        "-t",
        "set",
        "-d",
        "200",
        "-r",
        "50000",
        "-c",
        "20",
        "-q",
        "-n",
        &requests.to_string(),
        "-s",
    ]);
    let done = command
        .arg(socket)
        .output()
        .context("failed to start `redis-benchmark`")?;
    ensure!(
        done.status.success(),
        "redis-benchmark: {}",
        String::from_utf8_lossy(&done.stderr)
    );
    Ok(())
}
