//! Slots in which stacks are walked: some on each CPU.
//!
//! A walk needs more room than a program's stack has. A program stays on its CPU but may be preempted on kernels that
//! preempt, and the next task may then run a probe on the same CPU. So a slot is taken by exchanging its owner, zero,
//! for the task's id.
//!
//! Kernels before 5.12 have no such instruction, so the tail-call set, which serves them, looks and writes in two steps.
//! Two tasks can meet in between where such a kernel preempts. The id is therefore looked at again when the walk is
//! done: whoever finds another id there, or none, drops the stack.

use memtrace_common::{event::Event, limits::SCRATCH_SLOTS, stats::Stats};

use super::walk::Walk;
use crate::{intrinsics, maps::SCRATCH, read::Registers, thread::ThreadKey};

/// Takes a free slot and sets it up for the stack that `regs` begins. `None` when all are taken. `ATOMIC` needs a kernel
/// that has the instruction.
#[inline(always)]
pub(super) fn take<const ATOMIC: bool>(
    stats: &mut Stats,
    regs: Registers,
    event: &Event,
) -> Option<&'static mut Walk> {
    for index in 0..SCRATCH_SLOTS {
        let Some(slot) = SCRATCH.get_ptr_mut(index) else {
            continue;
        };
        // SAFETY: the pointer is the map's; the value is plain integers.
        let walk = unsafe { &mut *slot };
        if claim::<ATOMIC>(walk, ThreadKey::current().0) {
            walk.begin(regs, event);
            return Some(walk);
        }
    }
    stats.scratch_busy += 1;
    None
}

/// The slot that the running task has taken on this CPU.
#[inline(always)]
pub(super) fn mine() -> Option<&'static mut Walk> {
    let me = ThreadKey::current().0;
    for index in 0..SCRATCH_SLOTS {
        if let Some(slot) = SCRATCH.get_ptr_mut(index) {
            // SAFETY: as above.
            let walk = unsafe { &mut *slot };
            if owner(walk) == me {
                return Some(walk);
            }
        }
    }
    None
}

/// Gives the slot back. `false` when another task has used it in the meantime.
#[inline(always)]
pub(super) fn release(walk: &mut Walk) -> bool {
    let whole = owner(walk) == ThreadKey::current().0;
    if whole {
        set_owner(walk, 0);
    }
    whole
}

/// Makes `me` the owner of a slot that has none.
#[inline(always)]
fn claim<const ATOMIC: bool>(walk: &mut Walk, me: u64) -> bool {
    if owner(walk) != 0 {
        return false;
    }
    if !ATOMIC {
        set_owner(walk, me);
        return true;
    }
    intrinsics::exchange_zero(&mut walk.owner, me)
}

#[inline(always)]
fn owner(walk: &Walk) -> u64 {
    // SAFETY: a read through a reference; volatile, because another task may write it.
    unsafe { core::ptr::read_volatile(&raw const walk.owner) }
}

#[inline(always)]
fn set_owner(walk: &mut Walk, owner: u64) {
    // SAFETY: a write through a reference; volatile, because another task may read it.
    unsafe { core::ptr::write_volatile(&raw mut walk.owner, owner) }
}
