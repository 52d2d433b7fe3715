//! Sends every stack once.
//!
//! The id is remembered only after the send has succeeded: a stack for which there was no room is sent when it is met
//! again. The memory is an LRU map; an id that falls out costs a second send, nothing else. In front of it stands an array
//! that knows the latest ids at a tenth of the cost.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::{BPF_RB_NO_WAKEUP, bpf_map_def},
    helpers::generated::bpf_ringbuf_output,
};
use memtrace_common::{
    limits::{MAX_FRAMES, RECENT_STACKS},
    stack::StackHeader,
    stats::Stats,
};

use super::walk::Walk;
use crate::maps::{RECENT, SEEN, STACKS};

/// Bytes of the largest record.
const MAX_RECORD: u64 = (size_of::<StackHeader>() + 8 * MAX_FRAMES) as u64;
/// A mask that shows the verifier a bound of the record's size.
const RECORD_MASK: u64 = 0xfff;

const _: () = assert!(MAX_RECORD <= RECORD_MASK);

/// Sends the stack if it has not been sent before, and gives its id.
#[inline(always)]
pub(super) fn send_once(stats: &mut Stats, walk: &mut Walk) -> u64 {
    let id = walk.id();
    stats.walked[(walk.cut_reason() & 15) as usize] += 1;
    stats.frames += u64::from(walk.count());
    let recent = RECENT.get_ptr_mut(id as u32 & (RECENT_STACKS - 1));
    if is_recent(recent, id) {
        return id;
    }
    if SEEN.get_ptr(id).is_some() {
        remember(recent, id);
    } else if send(walk, id) {
        // A failure means that the stack is sent again.
        let _ = SEEN.insert(id, 1, 0);
        remember(recent, id);
        stats.stacks_sent += 1;
    } else {
        stats.stacks_lost += 1;
    }
    id
}

/// Whether `id` was the last with its low bits. Ids that take turns there are found in the LRU map.
#[inline(always)]
fn is_recent(recent: Option<*mut u64>, id: u64) -> bool {
    // SAFETY: the pointer is the map's. Whole words are read and written, so this is some id, or 0, which no stack has.
    recent.is_some_and(|recent| unsafe { recent.read_volatile() } == id)
}

#[inline(always)]
fn remember(recent: Option<*mut u64>, id: u64) {
    if let Some(recent) = recent {
        // SAFETY: as above.
        unsafe { recent.write_volatile(id) };
    }
}

#[inline(always)]
fn send(walk: &mut Walk, id: u64) -> bool {
    let (record, count) = walk.record(id);
    let size = (size_of::<StackHeader>() as u64 + 8 * u64::from(count)) & RECORD_MASK;
    if size > MAX_RECORD {
        return false;
    }
    let ring = (&raw const STACKS)
        .cast::<bpf_map_def>()
        .cast_mut()
        .cast::<c_void>();
    // SAFETY: the record is the tail of a scratch slot, which holds `MAX_RECORD` bytes from there on.
    let error = unsafe {
        bpf_ringbuf_output(
            ring,
            record.cast_mut().cast(),
            size,
            u64::from(BPF_RB_NO_WAKEUP),
        )
    };
    error == 0
}
