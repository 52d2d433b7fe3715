//! Waiting for something with an end: what a process has printed so far, and conditions that will hold soon.

use std::{
    io::{BufRead as _, BufReader, Read},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

/// How long anything may take on a busy machine before a test gives up.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// Polls until `ready` gives a value, for at most [`PATIENCE`].
///
/// # Errors
///
/// Fails with `what` when the time is over, and when `ready` fails.
pub fn until<T>(what: &str, ready: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    within(PATIENCE, what, ready)
}

/// Polls until `ready` gives a value, for at most `limit`.
///
/// # Errors
///
/// Fails with `what` when the time is over, and when `ready` fails.
pub fn within<T>(
    limit: Duration,
    what: &str,
    ready: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    poll(limit, Duration::from_millis(5), what, ready)
}

/// Polls without a pause, for what must be seen at once; for at most [`PATIENCE`].
///
/// # Errors
///
/// Fails with `what` when the time is over, and when `ready` fails.
pub fn spin<T>(what: &str, ready: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    poll(PATIENCE, Duration::ZERO, what, ready)
}

fn poll<T>(
    limit: Duration,
    pause: Duration,
    what: &str,
    mut ready: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let began = Instant::now();
    while began.elapsed() < limit {
        if let Some(value) = ready()? {
            return Ok(value);
        }
        if !pause.is_zero() {
            thread::sleep(pause);
        }
    }
    bail!("{what}: not within {limit:?}")
}

/// The lines that a process prints, gathered by a thread of their own.
#[derive(Clone, Debug, Default)]
pub struct Lines {
    state: Arc<(Mutex<State>, Condvar)>,
}

#[derive(Debug, Default)]
struct State {
    lines: Vec<String>,
    ended: bool,
}

impl Lines {
    /// Gathers everything that comes out of `from` until it ends.
    #[must_use]
    pub fn gather(from: impl Read + Send + 'static) -> Self {
        let lines = Self::default();
        let writer = lines.clone();
        thread::spawn(move || {
            for line in BufReader::new(from).lines() {
                let Ok(line) = line else { break };
                writer.lock().lines.push(line);
                writer.state.1.notify_all();
            }
            writer.lock().ended = true;
            writer.state.1.notify_all();
        });
        lines
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What has come so far.
    #[must_use]
    pub fn so_far(&self) -> Vec<String> {
        self.lock().lines.clone()
    }

    /// Waits until `find` gives a value for the lines so far.
    ///
    /// # Errors
    ///
    /// Fails with `what` and all lines when [`PATIENCE`] is over or no more can come.
    pub fn find<T>(&self, what: &str, find: impl Fn(&[String]) -> Option<T>) -> Result<T> {
        let end = Instant::now() + PATIENCE;
        let mut state = self.lock();
        loop {
            if let Some(value) = find(&state.lines) {
                return Ok(value);
            }
            let left = end.saturating_duration_since(Instant::now());
            if state.ended || left.is_zero() {
                let why = if state.ended {
                    "the output ended"
                } else {
                    "no more patience"
                };
                bail!("{what}: {why}; printed so far:\n{}", state.lines.join("\n"));
            }
            state = self
                .state
                .1
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Waits for the end of the output.
    pub fn wait_for_end(&self) {
        let mut state = self.lock();
        while !state.ended {
            state = self
                .state
                .1
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}
