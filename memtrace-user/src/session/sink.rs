//! The tracker as the drain's sink, and what the session asks of it.

use std::time::Duration;

use memtrace_common::event::Event;
use tokio::sync::oneshot;

use crate::{
    drain::{
        decode::{DecodeError, StackRecord},
        pump::Sink,
    },
    ids::Millis,
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
pub(super) struct TrackerSink(pub(super) Tracker);

impl Sink for TrackerSink {
    type Request = Freeze;

    fn event(&mut self, event: &Event, now: Millis) {
        self.0.apply(event, now);
    }

    fn stack(&mut self, stack: StackRecord<'_>) {
        self.0.add_stack(&stack.header, stack.frames);
    }

    fn malformed(&mut self, error: DecodeError) {
        log::warn!("a record of the probes is damaged: {error}");
        self.0.count_malformed(1);
    }

    fn answer(&mut self, request: Freeze, now: Millis) {
        let snapshot = self
            .0
            .freeze(request.filter, Duration::from_millis(now.0.into()));
        // The session may have given up on it.
        let _ = request.answer.send(snapshot);
    }
}
