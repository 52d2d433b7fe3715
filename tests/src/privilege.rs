//! Who may run the tests that attach real probes, and one at a time.

use std::{
    io::Write as _,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use anyhow::{Result, bail};

/// Arguments of setpriv that take every right away.
pub const NOBODY: [&str; 5] = [
    "--reuid=65534",
    "--regid=65534",
    "--clear-groups",
    "--inh-caps=-all",
    "--bounding-set=-all",
];

static TURN: Mutex<()> = Mutex::new(());
static SKIPPED: AtomicU32 = AtomicU32::new(0);

/// The right to trace. Tests that hold it run one after another: each measures a machine of its own.
#[derive(Debug)]
pub struct Turn {
    _guard: MutexGuard<'static, ()>,
}

/// Waits for a turn. `None` when this user may not trace: the test is to return, and is counted as skipped, loudly.
///
/// # Errors
///
/// Fails instead of skipping when `CI` is `true`: there a skipped test is a missing test.
pub fn turn() -> Result<Option<Turn>> {
    if !nix::unistd::geteuid().is_root() {
        return skip("needs root; run it with `cargo xtask test`").map(|()| None);
    }
    Ok(Some(Turn {
        _guard: TURN.lock().unwrap_or_else(PoisonError::into_inner),
    }))
}

/// Counts the running test as skipped and says so past the test runner's capture.
///
/// # Errors
///
/// Fails when `CI` is `true`.
pub fn skip(reason: &str) -> Result<()> {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("?");
    if std::env::var("CI").is_ok_and(|ci| ci == "true") {
        bail!("{test} cannot run in CI: {reason}");
    }
    let count = SKIPPED.fetch_add(1, Ordering::Relaxed) + 1;
    writeln!(
        std::io::stderr(),
        "SKIPPED {test} ({count} so far): {reason}"
    )?;
    Ok(())
}
