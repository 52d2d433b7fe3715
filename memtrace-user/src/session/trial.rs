//! A trial of one process: whether probes on CPython's allocator would see every call.
//!
//! ```text
//! debug hooks? ─► listen ─► the pools, again and again ─► what was heard ─► let go
//! ```
//!
//! Nothing that is heard counts: until the answer is known, reports are as they would be without. Runs on a blocking thread
//! and ends early when nobody waits for it any more.

use std::{
    os::fd::AsFd as _,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    time::{Duration, Instant},
};

use super::sink::Ask;
use crate::{
    ids::Pid,
    probe::{Attacher, ProbeSite},
    python::{
        coverage::Coverage,
        hooks,
        pools::{self, Change, Scan},
        version::Version,
    },
    target::object::Object,
};

/// How long the drain's thread is waited for.
const PATIENCE: Duration = Duration::from_secs(5);
/// Rounds of the drain that empty a full ring.
const ROUNDS: usize = 2;

/// Shortest time between two scans. What is made and freed in between is seen by none.
const PAUSE: Duration = Duration::from_millis(20);
/// Scans take a fifth of the time at most.
const PAUSE_PER_SCAN: u32 = 4;
/// Changes that are kept; more prove nothing more.
const MAX_CHANGES: usize = 1 << 16;

/// What a trial has brought.
#[derive(Debug)]
pub(super) enum Finding {
    /// There are no pools: CPython's own allocator is not in use.
    NoPools,
    /// Each block has the debug hooks' bytes in front.
    Hooks,
    /// No debug hooks; the rest was known.
    NoHooks,
    /// What has changed in the pools, and what was heard of it.
    Coverage(Box<Coverage>),
    /// More was heard than can be kept.
    TooMuch,
    /// It could not be done.
    Failed(String),
    /// Nobody waits for it.
    Stopped,
}

/// What a trial needs.
#[derive(Debug)]
pub(super) struct Trial {
    pub(super) pid: Pid,
    pub(super) version: Version,
    pub(super) object: Arc<Object>,
    /// What is listened to.
    pub(super) sites: Arc<[ProbeSite]>,
    /// How long.
    pub(super) window: Duration,
    pub(super) attacher: Attacher,
    pub(super) drain: Sender<Ask>,
    /// Its other end is dropped when nobody waits any more.
    pub(super) stop: Receiver<()>,
}

/// Whether the debug hooks are at work in a process.
pub(super) fn look_for_hooks(pid: Pid) -> Finding {
    match hooks::are_active_in(pid) {
        Ok(true) => Finding::Hooks,
        Ok(false) => Finding::NoHooks,
        Err(error) => Finding::Failed(error.to_string()),
    }
}

impl Trial {
    /// Carries it out.
    pub(super) fn run(self) -> Finding {
        match look_for_hooks(self.pid) {
            Finding::NoHooks => {}
            other => return other,
        }
        let (begun, is_listening) = channel();
        let asked = self.drain.send(Ask::Listen(self.pid, begun));
        if asked.is_err() || is_listening.recv_timeout(PATIENCE).is_err() {
            return Finding::Stopped;
        }
        let finding = self.listen();
        // Also when it has failed: the drain keeps what it hears until it is asked.
        let (answer, _) = channel();
        let _ = self.drain.send(Ask::Heard(self.pid, answer));
        finding.unwrap_or_else(|error| Finding::Failed(format!("{error:#}")))
    }

    fn listen(&self) -> anyhow::Result<Finding> {
        let file = self
            .object
            .file()
            .ok_or_else(|| anyhow::anyhow!("the file is not open"))?;
        let _links = self.attacher.attach(file.as_fd(), &self.sites, self.pid)?;
        let changes = match self.watch()? {
            Ok(changes) => changes,
            Err(finding) => return Ok(finding),
        };
        for _ in 0..ROUNDS {
            let (done, settled) = channel();
            self.drain.send(Ask::Settle(done))?;
            settled.recv_timeout(PATIENCE)?;
        }
        let (answer, heard) = channel();
        self.drain.send(Ask::Heard(self.pid, answer))?;
        let Some(heard) = heard.recv_timeout(PATIENCE)? else {
            return Ok(Finding::TooMuch);
        };
        let mut coverage = Coverage::default();
        coverage.add(changes.into_iter(), &heard);
        Ok(Finding::Coverage(Box::new(coverage)))
    }

    /// What changes in the pools, or what makes that pointless.
    fn watch(&self) -> anyhow::Result<Result<Vec<Change>, Finding>> {
        let bytes = pools::pool_bytes(self.version);
        let end = Instant::now() + self.window;
        let mut changes = Vec::new();
        let mut before = Scan::of_process(self.pid, bytes)?;
        if before.is_empty() {
            return Ok(Err(Finding::NoPools));
        }
        let mut pause = PAUSE;
        while Instant::now() < end && changes.len() < MAX_CHANGES {
            if self.stop.recv_timeout(pause) != Err(RecvTimeoutError::Timeout) {
                return Ok(Err(Finding::Stopped));
            }
            let begun = Instant::now();
            let now = Scan::of_process(self.pid, bytes)?;
            let left = MAX_CHANGES - changes.len();
            changes.extend(now.changes_since(&before).take(left));
            before = now;
            pause = PAUSE.max(begun.elapsed() * PAUSE_PER_SCAN);
        }
        Ok(Ok(changes))
    }
}
