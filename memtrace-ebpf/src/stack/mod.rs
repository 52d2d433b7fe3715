//! Walks the traced thread's stack to its end by unwind rows, places every frame in its object, and sends each stack once.
//!
//! ```text
//! walk: pc ─► mapping (which object, where) ─► row (rule) ─► caller's pc, sp, bp ─► …
//! ```
//!
//! The walk is one step function. [`Loop`] calls it from `bpf_loop`, [`TailCalls`] a few times in each program of a
//! chain; nothing else differs.

mod intern;
mod mapping;
mod python;
mod row;
mod scratch;
mod walk;

use core::ffi::c_void;

use aya_ebpf::{
    Global,
    helpers::generated::{bpf_loop, bpf_tail_call},
};
use memtrace_common::{
    event::Event,
    limits::{FRAMES_PER_TAIL_CALL, MAX_FRAMES},
    stats::Stats,
};

use self::walk::Step;
pub(crate) use self::walk::Walk;
use crate::{emit, maps::TAIL_CALLS, probes::UprobeContext, read::Registers};

/// A way to repeat the step.
pub(crate) trait Walker {
    /// Whether the kernels that take this set have the atomic exchange (5.12 and newer).
    const ATOMIC: bool;

    /// Walks the stack that `regs` begins and emits `event` with the stack's id, which tells `domain`
    /// (`memtrace_common::domain`) as well. When no scratch slot is free the event goes without a stack.
    fn walk_and_emit(
        ctx: *mut c_void,
        stats: &mut Stats,
        regs: Registers,
        event: Event,
        domain: u32,
    );
}

/// Zero, in read-only memory that is frozen before the programs are loaded: the verifier takes it for a constant, the
/// compiler does not.
#[unsafe(no_mangle)]
static NEVER: Global<u32> = Global::new(0);

/// Steps of a walk: every frame, and between two loops of an interpreter one that places none.
const MAX_STEPS: u32 = 2 * MAX_FRAMES as u32;

/// Steps inside `bpf_loop`.
pub(crate) struct Loop;

/// What the loop's callback gets; a pointer to it is all that `bpf_loop` hands on.
#[repr(C)]
struct LoopContext {
    walk: *mut Walk,
}

impl Walker for Loop {
    const ATOMIC: bool = true;

    #[inline(always)]
    fn walk_and_emit(
        ctx: *mut c_void,
        stats: &mut Stats,
        regs: Registers,
        event: Event,
        domain: u32,
    ) {
        stay_on_the_tasks_stack(ctx);
        let Some(walk) = scratch::take::<{ Self::ATOMIC }>(stats, regs, &event) else {
            emit::event(stats, &event);
            return;
        };
        walk.begin_in(domain);
        let mut context = LoopContext { walk };
        let callback: unsafe extern "C" fn(u32, *mut LoopContext) -> i64 = loop_step;
        // SAFETY: the callback has the form that the helper calls, and the context outlives the call.
        unsafe {
            bpf_loop(
                MAX_STEPS,
                callback as *mut c_void,
                (&raw mut context).cast(),
                0,
            );
        }
        finish(stats, walk);
    }
}

/// Keeps the program on the stack of the task that it interrupts.
///
/// From 6.13 on the kernel gives tracing programs that need 64 bytes of stack or more a stack for each CPU instead,
/// because it never runs one of them twice at once on a CPU (`bpf_enable_priv_stack`, kernel/bpf/verifier.c). For uprobes
/// that does not hold: they run preemptible, and another task that meets the same probe writes over the stack. Seen on
/// 7.2 with PREEMPT(lazy): page faults in the kernel, inside `loop_step`.
///
/// A program that contains a tail call is left where it was. This one is found before the verifier looks at values, and
/// removed when it does, because it knows that [`NEVER`] is 0.
#[inline(always)]
fn stay_on_the_tasks_stack(ctx: *mut c_void) {
    if NEVER.load() != 0 {
        // SAFETY: not reached. A kernel that thinks it may be refuses the program, since there is no array.
        unsafe { bpf_tail_call(ctx, core::ptr::null_mut(), 0) };
    }
}

unsafe extern "C" fn loop_step(_index: u32, context: *mut LoopContext) -> i64 {
    // SAFETY: `bpf_loop` hands on the context it was given, which holds a slot of the scratch map.
    let walk = unsafe { &mut *(*context).walk };
    match walk.step::<true>() {
        Step::Next => 0,
        Step::End => 1,
    }
}

/// Steps in a chain of tail calls.
pub(crate) struct TailCalls;

impl Walker for TailCalls {
    const ATOMIC: bool = false;

    #[inline(always)]
    fn walk_and_emit(
        ctx: *mut c_void,
        stats: &mut Stats,
        regs: Registers,
        event: Event,
        domain: u32,
    ) {
        let Some(walk) = scratch::take::<{ Self::ATOMIC }>(stats, regs, &event) else {
            emit::event(stats, &event);
            return;
        };
        walk.begin_in(domain);
        // SAFETY: the array holds a program of the same type and attach type. A call that fails falls through.
        unsafe { TAIL_CALLS.tail_call(&UprobeContext(ctx), 0) };
        if let Some(walk) = scratch::mine() {
            walk.cut(memtrace_common::stack::CUT_DEPTH, 0);
            finish(stats, walk);
        }
    }
}

/// Walks a few frames of the stack that is being walked and calls itself for the rest.
#[unsafe(link_section = "uprobe/walk_tail")]
#[unsafe(no_mangle)]
extern "C" fn walk_tail(ctx: *mut c_void) -> u64 {
    let (Some(stats), Some(walk)) = (emit::stats(), scratch::mine()) else {
        return 0;
    };
    for _ in 0..FRAMES_PER_TAIL_CALL {
        if let Step::End = walk.step::<false>() {
            finish(stats, walk);
            return 0;
        }
    }
    // SAFETY: as above.
    unsafe { TAIL_CALLS.tail_call(&UprobeContext(ctx), 0) };
    // The kernel allows no more calls: the stack is deeper than the chain.
    walk.cut(memtrace_common::stack::CUT_DEPTH, 0);
    finish(stats, walk);
    0
}

/// Sends the stack if it is new, then the event that waits for its id, and gives the slot back.
#[inline(always)]
fn finish(stats: &mut Stats, walk: &mut Walk) {
    let id = intern::send_once(stats, walk);
    walk.event.stack = if scratch::release(walk) {
        id
    } else {
        // Another task has used the slot meanwhile: its frames are mixed with ours.
        stats.scratch_busy += 1;
        0
    };
    let event = walk.event;
    if event.addr != 0 || event.kind() != memtrace_common::event::ALLOC {
        emit::event(stats, &event);
    }
}
