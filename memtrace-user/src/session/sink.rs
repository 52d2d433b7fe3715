//! The tracker as the drain's sink, and what the session asks of it.

use std::time::Duration;

use memtrace_common::event::Event;
use tokio::sync::oneshot;

use crate::{
    drain::{
        decode::{DecodeError, StackRecord},
        pump::Sink,
    },
    ids::{Millis, Pid},
    snapshot::{BlockFilter, Snapshot},
    track::Tracker,
};

/// What the session asks of the drain's thread.
#[derive(Debug)]
pub(super) enum Ask {
    /// The state of everything.
    Freeze {
        /// Which blocks to count.
        filter: BlockFilter,
        /// Where the answer goes.
        answer: oneshot::Sender<Snapshot>,
    },
    /// Nothing more will be heard of a process: it is let go, or its end was lost.
    End(Pid),
}

/// Owns the tracker on the drain's thread.
#[derive(Debug)]
pub(super) struct TrackerSink(pub(super) Tracker);

impl Sink for TrackerSink {
    type Request = Ask;

    fn event(&mut self, event: &Event, now: Millis) {
        self.0.apply(event, now);
    }

    fn stack(&mut self, stack: StackRecord<'_>) {
        self.0.add_stack(&stack.header, stack.frames);
    }

    fn round_ended(&mut self, _drained_until: &dyn Fn() -> Option<Duration>) {
        self.0.settle();
    }

    fn malformed(&mut self, error: DecodeError) {
        log::warn!("a record of the probes is damaged: {error}");
        self.0.count_malformed(1);
    }

    fn answer(&mut self, request: Ask, now: Millis) {
        match request {
            Ask::Freeze { filter, answer } => {
                let snapshot = self.0.freeze(filter, Duration::from_millis(now.0.into()));
                // The session may have given up on it.
                let _ = answer.send(snapshot);
            }
            Ask::End(pid) => self.0.end(pid, now),
        }
    }
}
