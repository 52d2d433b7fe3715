//! The tracker as the drain's sink, and what the session asks of it.

use std::{sync::mpsc, time::Duration};

use memtrace_common::event::Event;
use tokio::sync::oneshot;

use super::{listener::Listener, names::Teller};
use crate::{
    drain::{
        decode::{DecodeError, ObituaryRecord, StackRecord},
        pump::Sink,
    },
    ids::{Millis, Pid},
    python::{coverage::Heard, obituary::Obituary},
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
    /// A process runs the program that it has begun as its so-and-so-many-th, and its exec may not have been seen.
    Exec(Pid, u32),
    /// Ends of Python code objects were lost, none before this time since the session began.
    DistrustCodes {
        /// When none had been lost yet.
        since: Duration,
    },
    /// Listen to a process; answered when it has begun.
    Listen(Pid, mpsc::Sender<()>),
    /// What was heard of a process, up to now. `None` when that was too much.
    Heard(Pid, mpsc::Sender<Option<Heard>>),
    /// Nothing; answered when all that had happened before has been delivered.
    Settle(mpsc::Sender<()>),
}

/// Owns the tracker on the drain's thread.
#[derive(Debug)]
pub(super) struct TrackerSink {
    tracker: Tracker,
    /// Hears of Python code objects.
    teller: Teller,
    listener: Listener,
}

impl TrackerSink {
    /// Nobody is listened to yet.
    pub(super) fn new(tracker: Tracker, teller: Teller) -> Self {
        Self {
            tracker,
            teller,
            listener: Listener::default(),
        }
    }
}

impl Sink for TrackerSink {
    type Request = Ask;

    fn event(&mut self, event: &Event, now: Millis) {
        if !self.listener.takes(event) {
            self.tracker.apply(event, now);
        }
    }

    fn stack(&mut self, stack: StackRecord<'_>) {
        self.tracker.add_stack(&stack.header, stack.frames);
    }

    fn obituary(&mut self, obituary: ObituaryRecord<'_>) {
        let ObituaryRecord {
            header,
            head,
            file,
            name,
            lines,
        } = obituary;
        let obituary = Obituary::new(&header, [head, file, name, lines]);
        self.tracker.add_obituary(obituary);
    }

    fn lacks_obituary(&self, event: &Event) -> bool {
        self.tracker.lacks_obituary(event)
    }

    fn awaits_obituaries(&self) -> bool {
        self.tracker.awaits_obituaries()
    }

    fn round_ended(&mut self, drained_until: &dyn Fn() -> Option<Duration>) {
        self.tracker.settle();
        let words = self.tracker.take_words();
        self.teller.round_ended(words, drained_until);
    }

    fn malformed(&mut self, error: DecodeError) {
        log::warn!("a record of the probes is damaged: {error}");
        self.tracker.count_malformed(1);
    }

    fn answer(&mut self, request: Ask, now: Millis) {
        match request {
            Ask::Freeze { filter, answer } => {
                let snapshot = self
                    .tracker
                    .freeze(filter, Duration::from_millis(now.0.into()));
                // The session may have given up on it.
                let _ = answer.send(snapshot);
            }
            Ask::End(pid) => self.tracker.end(pid, now),
            Ask::Exec(pid, exec_count) => self.tracker.exec(pid, exec_count, now),
            Ask::DistrustCodes { since } => self.tracker.distrust_codes(since),
            // Whoever has asked may have given up.
            Ask::Listen(pid, begun) => {
                self.listener.begin(pid);
                let _ = begun.send(());
            }
            Ask::Heard(pid, answer) => {
                let _ = answer.send(self.listener.end(pid));
            }
            Ask::Settle(done) => {
                let _ = done.send(());
            }
        }
    }
}
