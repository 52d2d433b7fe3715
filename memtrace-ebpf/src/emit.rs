//! Hands records to the rings and counts those for which there was no room.
//!
//! Nothing here wakes the drain: it comes by itself every millisecond. A wake-up at each event would cost the traced
//! program about 5 us.

use aya_ebpf::bindings::BPF_RB_NO_WAKEUP;
use memtrace_common::{event::Event, notice::Notice, stats::Stats};

use crate::maps::{EVENTS, NOTICES, STATS};

/// This CPU's counters.
#[inline(always)]
pub(crate) fn stats() -> Option<&'static mut Stats> {
    // SAFETY: the entry belongs to this CPU. A task that is preempted while it counts may lose one count of
    // another task; no more than that depends on it.
    STATS.get_ptr_mut(0).map(|stats| unsafe { &mut *stats })
}

/// Sends an event. Its kind must be one of `memtrace_common::event`.
#[inline(always)]
pub(crate) fn event(stats: &mut Stats, event: &Event) {
    let kind = (event.kind() & 7) as usize;
    stats.produced[kind] += 1;
    match EVENTS.reserve::<Event>(0) {
        Some(mut slot) => {
            slot.write(*event);
            slot.submit(u64::from(BPF_RB_NO_WAKEUP));
        }
        None => stats.lost[kind] += 1,
    }
}

/// Sends a notice and wakes the session.
#[inline(always)]
pub(crate) fn notice(stats: &mut Stats, notice: &Notice) {
    match NOTICES.reserve::<Notice>(0) {
        Some(mut slot) => {
            slot.write(*notice);
            slot.submit(0);
        }
        None => stats.notices_lost += 1,
    }
}
