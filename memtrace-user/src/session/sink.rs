//! The tracker as the drain's sink, and what the session asks of it.

use std::time::Duration;

use memtrace_common::event::Event;
use tokio::sync::oneshot;

use crate::{
    drain::{
        decode::{DecodeError, StackRecord},
        pump::Sink,
    },
    snapshot::{BlockFilter, Snapshot},
    track::Tracker,
};

/// What the session asks of the drain's thread.
#[derive(Debug)]
pub(super) struct Freeze {
    /// Which blocks to count.
    pub(super) filter: BlockFilter,
    /// Where the answer goes.
    pub(super) answer: oneshot::Sender<Snapshot>,
}

/// Owns the tracker on the drain's thread.
#[derive(Debug)]
pub(super) struct TrackerSink {
    tracker: Tracker,
    malformed: u64,
}

impl TrackerSink {
    pub(super) fn new(tracker: Tracker) -> Self {
        Self { tracker, malformed: 0 }
    }

    /// The state at `elapsed` since the session began.
    pub(super) fn freeze(&mut self, filter: BlockFilter, elapsed: Duration) -> Snapshot {
        let mut snapshot = self.tracker.freeze(filter, elapsed);
        snapshot.malformed += self.malformed;
        snapshot
    }
}

impl Sink for TrackerSink {
    type Request = Freeze;

    fn event(&mut self, event: &Event, now: u32) {
        self.tracker.apply(event, now);
    }

    fn stack(&mut self, stack: StackRecord<'_>) {
        self.tracker.add_stack(&stack.header, stack.frames);
    }

    fn malformed(&mut self, error: DecodeError) {
        log::warn!("a record of the probes is damaged: {error}");
        self.malformed += 1;
    }

    fn answer(&mut self, request: Freeze, now: u32) {
        let snapshot = self.freeze(request.filter, Duration::from_millis(now.into()));
        // The session may have given up on it.
        let _ = request.answer.send(snapshot);
    }
}
