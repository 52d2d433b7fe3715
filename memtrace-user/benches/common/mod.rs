//! Traces for the benches: events as bytes, as they lie in the ring.

use memtrace::{
    drain::decode,
    ids::{Bytes, Millis},
    snapshot::BlockFilter,
    track::{Limits, Tracker},
};
use memtrace_common::event::{self, Event};
use zerocopy::IntoBytes as _;

/// Process that allocates.
pub const PID: u32 = 7;
/// Distinct stacks; a large service has some thousands.
const STACKS: u64 = 5_000;

/// Random numbers of which only the spread matters (splitmix64).
#[derive(Debug)]
pub struct Random(pub u64);

impl Random {
    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// The next number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

/// Address of the `n`th block of a heap with a block every 48 bytes.
#[must_use]
pub fn address(n: u64) -> u64 {
    0x7f00_0000_0010 + n * 48
}

/// The allocation of a block.
pub fn alloc(addr: u64, random: &mut Random) -> Event {
    let kind_and_size = Event::pack(event::ALLOC, 16 + random.below(500));
    let stack = 1 + random.below(STACKS).min(random.below(STACKS));
    Event {
        kind_and_size,
        tgid: PID,
        tid: PID,
        addr,
        stack,
    }
}

/// The end of a block.
#[must_use]
pub fn free(addr: u64) -> Event {
    Event {
        kind_and_size: Event::pack(event::FREE, 0),
        tgid: PID,
        tid: PID,
        addr,
        stack: 0,
    }
}

/// The bytes of a trace.
pub fn bytes(events: impl IntoIterator<Item = Event>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for event in events {
        bytes.extend_from_slice(event.as_bytes());
    }
    bytes
}

/// Decodes and applies a trace, as the drain does.
pub fn drain(tracker: &mut Tracker, trace: &[u8]) {
    for record in trace.chunks_exact(size_of::<Event>()) {
        match decode::event(record) {
            Ok(event) => tracker.apply(&event, Millis(1)),
            Err(_) => tracker.count_malformed(1),
        }
    }
}

/// A tracker without limits worth the name.
#[must_use]
pub fn tracker() -> Tracker {
    Tracker::new(Limits::from_memory(Bytes(64 << 30)), BlockFilter::default())
}
