//! Hands records to the rings and counts those for which there was no room.
//!
//! Nothing here wakes the drain: it comes by itself every millisecond. A wake-up at each event would cost the traced
//! program about 5 us.

use aya_ebpf::bindings::BPF_RB_NO_WAKEUP;
use memtrace_common::{event::Event, notice::Notice, stats::Stats};

use crate::{
    intrinsics::count,
    maps::{EPOCH, EVENTS, NOTICES, STATS},
};

/// This CPU's counters.
#[inline(always)]
pub(crate) fn stats() -> Option<&'static mut Stats> {
    // SAFETY: the entry belongs to this CPU. Where the kernel preempts, a task that is interrupted between reading a counter
    // and writing it takes back what others have counted meanwhile. So what must be exact, events produced and lost, is
    // counted atomically; the rest only describes.
    STATS.get_ptr_mut(0).map(|stats| unsafe { &mut *stats })
}

/// The epoch of the table of processes.
#[inline(always)]
pub(crate) fn epoch() -> u64 {
    // SAFETY: the pointer is the map's; whole words are read and written.
    EPOCH
        .get_ptr(0)
        .map_or(0, |epoch| unsafe { epoch.read_volatile() })
}

/// Says that the table of processes has changed.
#[inline(always)]
pub(crate) fn raise_epoch() {
    if let Some(epoch) = EPOCH.get_ptr_mut(0) {
        // SAFETY: as above.
        count(unsafe { &mut *epoch });
    }
}

/// Sends an event. Its kind must be one of `memtrace_common::event`.
#[inline(always)]
pub(crate) fn event(stats: &mut Stats, event: &Event) {
    let kind = (event.kind() & 15) as usize;
    count(&mut stats.produced[kind]);
    match EVENTS.reserve::<Event>(0) {
        Some(mut slot) => {
            slot.write(*event);
            slot.submit(u64::from(BPF_RB_NO_WAKEUP));
        }
        None => count(&mut stats.lost[kind]),
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
        None => count(&mut stats.notices_lost),
    }
}
