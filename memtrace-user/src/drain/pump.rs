//! The drain's thread: empties the rings into a [`Sink`] and answers requests between two rounds.
//!
//! The thread owns the sink, so nothing on the way from a record to the tracker takes a lock. It is not woken by the
//! probes (a wake-up would cost the traced program 5 us); it comes by itself, soon while records arrive, more and more
//! seldom while none do, so that an idle trace costs nothing one can measure.

use std::{
    io,
    os::fd::AsFd as _,
    sync::mpsc::{self, RecvTimeoutError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use memtrace_common::event::{self, Event};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::decode::{self, DecodeError, ObituaryRecord, StackRecord};
use crate::{ids::Millis, probe::Ring};

/// Pause after a round that found records. A 32 MiB ring holds 800 000 events: half a second at the highest rate that
/// programs reach on two CPUs.
const BUSY_PAUSE: Duration = Duration::from_millis(1);
/// Longest pause: what ages are exact to. A request ends a pause at once.
const IDLE_PAUSE: Duration = Duration::from_millis(16);
/// Records of one round; beyond it the clock is read again and requests are looked at.
const ROUND: usize = 1 << 18;

/// What the drain fills.
pub trait Sink: Send + 'static {
    /// What other threads may ask for.
    type Request: Send;

    /// An event, in the order in which events happened. `now` is the time since the session began.
    fn event(&mut self, event: &Event, now: Millis);

    /// A stack, never later than the end of the round that brings the first event which carries its id.
    fn stack(&mut self, stack: StackRecord<'_>);

    /// What was copied of a Python code object that was freed. It comes before the event of the end if
    /// [`Sink::lacks_obituary`] asks for it and it is there; otherwise as long as [`Sink::awaits_obituaries`].
    fn obituary(&mut self, obituary: ObituaryRecord<'_>);

    /// Whether an event is of no use without an obituary that has not come.
    fn lacks_obituary(&self, event: &Event) -> bool;

    /// Whether an obituary is awaited whose event has come.
    fn awaits_obituaries(&self) -> bool;

    /// The end of a round. `drained_until` tells a time since the session began before which every event that was recorded
    /// has been delivered; `None` when more have arrived meanwhile. It asks the kernel, so only who needs it calls it.
    fn round_ended(&mut self, drained_until: &dyn Fn() -> Option<Duration>);

    /// Bytes that are no record.
    fn malformed(&mut self, error: DecodeError);

    /// A request; all that happened before it was made has been delivered, unless records arrive faster than they can
    /// be drained.
    fn answer(&mut self, request: Self::Request, now: Millis);
}

/// A running drain. Dropping it ends the thread.
#[derive(Debug)]
pub struct Drain<S: Sink> {
    requests: mpsc::Sender<S::Request>,
    _thread: JoinHandle<()>,
}

impl<S: Sink> Drain<S> {
    /// Starts the thread. `start` is the session's beginning.
    ///
    /// # Errors
    /// When the system cannot make a thread.
    pub fn spawn(rings: DrainedRings, sink: S, start: Instant) -> io::Result<Self> {
        let (requests, inbox) = mpsc::channel();
        let pump = Pump { rings, sink, start };
        let thread = thread::Builder::new()
            .name("drain".into())
            .spawn(move || pump.run(&inbox))?;
        Ok(Self {
            requests,
            _thread: thread,
        })
    }

    /// Asks the sink. `false` when the thread has ended.
    pub fn request(&self, request: S::Request) -> bool {
        self.requests.send(request).is_ok()
    }

    /// A way to ask from another thread, which keeps the drain running.
    #[must_use]
    pub fn line(&self) -> mpsc::Sender<S::Request> {
        self.requests.clone()
    }
}

/// The rings that the drain empties.
#[expect(missing_debug_implementations, reason = "rings have none")]
pub struct DrainedRings {
    /// Allocator calls and process changes.
    pub events: Ring,
    /// Stacks, each once.
    pub stacks: Ring,
    /// Copies of Python code objects that are freed.
    pub obituaries: Ring,
}

struct Pump<S> {
    rings: DrainedRings,
    sink: S,
    start: Instant,
}

impl<S: Sink> Pump<S> {
    fn run(mut self, inbox: &mpsc::Receiver<S::Request>) {
        let mut pause = BUSY_PAUSE;
        loop {
            let events = self.round();
            pause = next_pause(pause, events);
            match inbox.recv_timeout(pause) {
                Ok(request) => {
                    self.round();
                    let now = self.now();
                    self.sink.answer(request, now);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Empties the rings once, up to [`ROUND`] events; gives their number.
    fn round(&mut self) -> usize {
        let now = self.now();
        // Before the events as well as after them: most stacks are here when the first event comes that carries their id.
        self.stacks();
        self.awaited_obituaries();
        let mut count = 0;
        while count < ROUND
            && let Some(event) = self
                .rings
                .events
                .next()
                .map(|record| decode::event(&record))
        {
            match event {
                Ok(event) => {
                    if event.kind() == event::CODE_FREED {
                        self.prepare_end(&event);
                    }
                    self.sink.event(&event, now);
                }
                Err(error) => self.sink.malformed(error),
            }
            count += 1;
        }
        // After the events: a stack is sent before the first event that carries its id, so it is here by now.
        self.stacks();
        self.awaited_obituaries();
        let (events, start) = (&self.rings.events, self.start);
        self.sink.round_ended(&|| {
            let until = start.elapsed();
            is_empty(events).then_some(until)
        });
        count
    }

    /// Gets what must be there before the end of a code object: the stacks of the events before it, which may have it, and
    /// its obituary. No more obituaries than that, so that they need not be kept when events are behind.
    fn prepare_end(&mut self, event: &Event) {
        self.stacks();
        while self.sink.lacks_obituary(event) && self.next_obituary() {}
    }

    /// Gets the obituaries that were hidden, by one that was being written, when their events came.
    fn awaited_obituaries(&mut self) {
        while self.sink.awaits_obituaries() && self.next_obituary() {}
    }

    /// `false` when there is none.
    fn next_obituary(&mut self) -> bool {
        let Some(record) = self.rings.obituaries.next() else {
            return false;
        };
        match decode::obituary(&record) {
            Ok(obituary) => self.sink.obituary(obituary),
            Err(error) => self.sink.malformed(error),
        }
        true
    }

    fn stacks(&mut self) {
        while let Some(record) = self.rings.stacks.next() {
            match decode::stack(&record) {
                Ok(stack) => self.sink.stack(stack),
                Err(error) => self.sink.malformed(error),
            }
        }
    }

    /// Milliseconds since the session began; stands still after 49 days.
    fn now(&self) -> Millis {
        Millis(u32::try_from(self.start.elapsed().as_millis()).unwrap_or(u32::MAX))
    }
}

/// Whether a ring holds nothing, not even a record that is still being written. A record that is being written hides those
/// behind it, so that [`Ring::next`] finding none does not say this; the kernel's answer compares the two positions
/// (`ringbuf_map_poll_kern`).
fn is_empty(ring: &Ring) -> bool {
    let mut fds = [PollFd::new(ring.as_fd(), PollFlags::POLLIN)];
    matches!(poll(&mut fds, PollTimeout::ZERO), Ok(0))
}

/// No pause while rounds are full, a short one while records arrive, twice the last one while none do.
fn next_pause(last: Duration, events: usize) -> Duration {
    match events {
        ROUND => Duration::ZERO,
        0 => (last * 2).clamp(BUSY_PAUSE, IDLE_PAUSE),
        _ => BUSY_PAUSE,
    }
}
