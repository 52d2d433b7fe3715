//! A trial of one process: whether probes on CPython's allocator would see every call.
//!
//! ```text
//! debug hooks? ─► listen ─► scan of the pools ─► some time ─► scan ─► what was heard ─► let go
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
    time::Duration,
};

use super::sink::Ask;
use crate::{
    ids::Pid,
    probe::{Attacher, ProbeSite},
    python::{
        coverage::Coverage,
        hooks,
        pools::{self, Scan},
        version::Version,
    },
    target::object::Object,
};

/// How long the drain's thread is waited for.
const PATIENCE: Duration = Duration::from_secs(5);
/// Rounds of the drain that empty a full ring.
const ROUNDS: usize = 2;

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
        let bytes = pools::pool_bytes(self.version);
        let _links = self.attacher.attach(file.as_fd(), &self.sites, self.pid)?;
        let before = Scan::of_process(self.pid, bytes)?;
        if before.is_empty() {
            return Ok(Finding::NoPools);
        }
        if self.stop.recv_timeout(self.window) != Err(RecvTimeoutError::Timeout) {
            return Ok(Finding::Stopped);
        }
        let now = Scan::of_process(self.pid, bytes)?;
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
        coverage.add(now.changes_since(&before), &heard);
        Ok(Finding::Coverage(Box::new(coverage)))
    }
}
