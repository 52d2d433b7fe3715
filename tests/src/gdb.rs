//! gdb as the oracle for stacks: the program counters of every frame of every thread of a process.

use std::{io::Write as _, process::Command};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

/// One thread as gdb unwinds it.
#[derive(Clone, Debug, Deserialize)]
pub struct Thread {
    /// Thread id.
    pub tid: u32,
    /// Frames from the innermost outwards.
    pub frames: Vec<Frame>,
    /// Why gdb stopped, in its words.
    pub stop: String,
}

/// One frame.
#[derive(Clone, Debug, Deserialize)]
pub struct Frame {
    /// Program counter: of a caller, the return address.
    pub pc: u64,
    /// Function, when gdb knows one.
    pub name: Option<String>,
}

/// Prints one JSON object a thread. Frames that are not on the stack are left out: inlined functions, and callers that gdb
/// makes up for a tail call. The limits are lifted, and frames beyond `main` asked for: a complete stack reaches the first
/// function of its thread.
const SCRIPT: &str = r#"
import gdb, json
gdb.execute("set pagination off")
gdb.execute("set backtrace limit unlimited")
gdb.execute("set backtrace past-main on")
gdb.execute("set backtrace past-entry on")
for thread in gdb.selected_inferior().threads():
    thread.switch()
    frame, frames, stop = gdb.newest_frame(), [], ""
    while frame is not None:
        if frame.type() not in (gdb.INLINE_FRAME, gdb.TAILCALL_FRAME):
            frames.append({"pc": frame.pc(), "name": frame.name()})
        stop = gdb.frame_stop_reason_string(frame.unwind_stop_reason())
        frame = frame.older()
    print("THREAD " + json.dumps({"tid": thread.ptid[1], "frames": frames, "stop": stop}))
"#;

/// Stops a process for a moment and unwinds all its threads.
///
/// # Errors
///
/// Fails when gdb is missing or cannot attach.
pub fn backtraces(pid: u32) -> Result<Vec<Thread>> {
    let mut script = tempfile::Builder::new().suffix(".py").tempfile()?;
    script.write_all(SCRIPT.as_bytes())?;
    let done = Command::new("gdb")
        .args([
            "-nx",
            "-batch",
            "-iex",
            "set debuginfod enabled off",
            "-p",
            &pid.to_string(),
            "-x",
        ])
        .arg(script.path())
        .output()
        .context("failed to run `gdb`; try: apt-get install gdb")?;
    let output = String::from_utf8_lossy(&done.stdout);
    let threads: Vec<Thread> = output
        .lines()
        .filter_map(|line| line.strip_prefix("THREAD "))
        .map(|line| serde_json::from_str(line).with_context(|| format!("gdb's line `{line}`")))
        .collect::<Result<_>>()?;
    ensure!(
        !threads.is_empty(),
        "gdb shows no thread of {pid}: {}",
        String::from_utf8_lossy(&done.stderr)
    );
    Ok(threads)
}
