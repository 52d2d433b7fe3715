//! Allocator functions: entry, return, and what they mean.
//!
//! A block's event is emitted at the *return* of the function that made it: the pointer exists, the program has not
//! seen it yet. A free's event is emitted at the *entry*: the allocator cannot have handed the block out again. All
//! events go through one ring buffer, which keeps the order of reservation; so, read in order, an address is never live
//! twice.
//!
//! `realloc` does both inside one call, so it gets two events: the old block is taken out at the entry and comes back
//! if the call fails.

use core::ffi::c_void;

use aya_ebpf::EbpfContext;
use memtrace_common::{
    cookie, domain,
    event::{self, Event},
    kind,
    notice::{self, Notice},
    process::Thread,
    stats::Stats,
};

use super::obituary;
use crate::{
    emit, intrinsics,
    maps::LARGEST_REQUEST,
    read::{self, Registers},
    stack::{self, Walker},
    thread::{self, ThreadKey},
};

/// Tells a session program's entry to skip the return.
const SKIP_RETURN: u64 = 1;
/// Tells a session program's entry to take the return; ignored elsewhere.
const TAKE_RETURN: u64 = 0;

/// Allocator probe whose stacks are walked inside `bpf_loop`.
#[unsafe(link_section = "uprobe/allocator_loop")]
#[unsafe(no_mangle)]
extern "C" fn allocator_loop(ctx: *mut c_void) -> u64 {
    allocator::<stack::Loop>(ctx)
}

/// Allocator probe whose stacks are walked in tail calls.
#[unsafe(link_section = "uprobe/allocator_tail")]
#[unsafe(no_mangle)]
extern "C" fn allocator_tail(ctx: *mut c_void) -> u64 {
    allocator::<stack::TailCalls>(ctx)
}

#[inline(always)]
fn allocator<W: Walker>(ctx: *mut c_void) -> u64 {
    let Some(stats) = emit::stats() else {
        return SKIP_RETURN;
    };
    let cookie = intrinsics::cookie(ctx);
    let kind = cookie::kind(cookie);
    if intrinsics::is_return(ctx) {
        stats.returns[(kind & 15) as usize] += 1;
        if cookie & cookie::TRIAL != 0 {
            on_trial_return(ctx, stats);
        } else {
            on_return::<W>(ctx, stats);
        }
        return TAKE_RETURN;
    }
    stats.entries[(kind & 15) as usize] += 1;
    if cookie & cookie::TRIAL != 0 {
        return on_trial_entry(ctx, stats, cookie);
    }
    on_entry::<W>(ctx, stats, cookie)
}

#[inline(always)]
fn on_entry<W: Walker>(ctx: *mut c_void, stats: &mut Stats, cookie: u32) -> u64 {
    let regs = Registers::new(ctx);
    let key = ThreadKey::current();
    match cookie::kind(cookie) {
        kind::FREE | kind::FREE_THROUGH => on_free::<W>(stats, key, regs, cookie),
        kind::MAPS_CHANGED => on_maps_changed(stats, key),
        kind::CALIBRATE => SKIP_RETURN,
        kind::CODE_FREED => on_code_freed(stats, key, argument(regs, cookie, 0)),
        kind::MALLOC..=kind::PVALLOC | kind::FREE_OUTER | kind::CALIBRATE_RETURN => {
            on_call::<W>(stats, key, regs, cookie)
        }
        _ => {
            stats.unknown_kinds += 1;
            SKIP_RETURN
        }
    }
}

/// A call that only ends a block: its return is not needed.
#[inline(always)]
fn on_free<W: Walker>(stats: &mut Stats, key: ThreadKey, regs: Registers, cookie: u32) -> u64 {
    let addr = argument(regs, cookie, 0);
    if let Some(thread) = key.state()
        && (thread::is_nested(thread, regs.sp()) || is_handed_on(thread, addr))
    {
        stats.nested += 1;
        return SKIP_RETURN;
    }
    emit_addr(stats, key, event::FREE, addr);
    if cookie::kind(cookie) == kind::FREE_THROUGH {
        match key.state_or_new(W::ATOMIC) {
            Some(thread) => {
                thread.sp = 0;
                thread.kind = kind::FREE_THROUGH;
                thread.ptr = addr;
            }
            None => stats.threads_full += 1,
        }
    }
    SKIP_RETURN
}

/// Whether `addr` was freed before by the same thread, which has called no other allocator function since: it is being
/// handed on. Once only, because the address may be used again.
#[inline(always)]
fn is_handed_on(thread: &mut Thread, addr: u64) -> bool {
    let handed_on = thread.sp == 0 && thread.kind == kind::FREE_THROUGH && thread.ptr == addr;
    if handed_on {
        thread.kind = kind::NONE;
    }
    handed_on
}

/// A call whose return matters.
#[inline(always)]
fn on_call<W: Walker>(stats: &mut Stats, key: ThreadKey, regs: Registers, cookie: u32) -> u64 {
    let Some(thread) = key.state_or_new(W::ATOMIC) else {
        stats.threads_full += 1;
        return SKIP_RETURN;
    };
    if thread::is_nested(thread, regs.sp()) {
        stats.nested += 1;
        return SKIP_RETURN;
    }
    let (size, ptr) = size_and_pointer(regs, cookie);
    if cookie::kind(cookie) == kind::FREE_OUTER && is_handed_on(thread, ptr) {
        stats.nested += 1;
        return SKIP_RETURN;
    }
    if cookie & cookie::THROWS != 0 && size > LARGEST_REQUEST.load() {
        return SKIP_RETURN;
    }
    let kind = cookie::kind(cookie);
    thread.sp = regs.sp();
    thread.kind = kind;
    thread.domain = cookie::domain(cookie);
    thread.size = size;
    thread.ptr = ptr;
    match kind {
        kind::REALLOC | kind::REALLOCARRAY => emit_addr(stats, key, event::REALLOC_ENTER, ptr),
        kind::FREE_OUTER => emit_addr(stats, key, event::FREE, ptr),
        _ => {}
    }
    TAKE_RETURN
}

/// An argument, wherever the function has put it before the probed instruction.
#[inline(always)]
fn argument(regs: Registers, cookie: u32, index: usize) -> u64 {
    if !cookie::is_in_place(cookie) {
        return regs.saved(cookie::saved_index(cookie, index));
    }
    match index {
        0 => regs.arg0(),
        1 => regs.arg1(),
        _ => regs.arg2(),
    }
}

/// Requested size and pointer argument of a call.
#[inline(always)]
fn size_and_pointer(regs: Registers, cookie: u32) -> (u64, u64) {
    let (a, b, c) = (
        argument(regs, cookie, 0),
        argument(regs, cookie, 1),
        argument(regs, cookie, 2),
    );
    match cookie::kind(cookie) {
        kind::CALLOC => (product(a, b), 0),
        kind::REALLOC => (b, a),
        kind::REALLOCARRAY => (product(b, c), a),
        kind::MEMALIGN => (b, 0),
        kind::POSIX_MEMALIGN => (c, a),
        kind::FREE_OUTER => (0, a),
        _ => (a, 0),
    }
}

/// `count * size` as far as an event can carry it: a larger request, or one that overflows, cannot succeed.
#[inline(always)]
fn product(count: u64, size: u64) -> u64 {
    // Two narrow factors, that is every real call, need no division.
    if (count | size) >> 32 != 0 && count != 0 && size > event::MAX_SIZE / count {
        return event::MAX_SIZE;
    }
    count.wrapping_mul(size)
}

/// An event that has nothing but an address; none for the null pointer.
#[inline(always)]
fn emit_addr(stats: &mut Stats, key: ThreadKey, kind: u8, addr: u64) {
    if addr == 0 {
        return;
    }
    let event = Event {
        kind_and_size: Event::pack(kind, 0),
        tgid: key.tgid(),
        tid: key.tid(),
        addr,
        stack: 0,
    };
    emit::event(stats, &event);
}

#[inline(always)]
fn on_return<W: Walker>(ctx: *mut c_void, stats: &mut Stats) {
    let regs = Registers::new(ctx);
    let key = ThreadKey::current();
    let Some(thread) = key.state() else {
        stats.stray_returns += 1;
        return;
    };
    // The return address has been popped. Without sessions the returns of nested calls come here too.
    if thread.sp == 0 || regs.sp() != thread.sp + 8 {
        stats.stray_returns += 1;
        return;
    }
    thread.sp = 0;
    if thread.kind == kind::FREE_OUTER {
        return;
    }
    if let Some(event) = finished_call(stats, key, thread, regs.result()) {
        W::walk_and_emit(ctx, stats, regs, event, thread.domain);
    }
}

/// The event of a call that has returned `result`; none when it failed and nothing was taken out before.
#[inline(always)]
fn finished_call(stats: &mut Stats, key: ThreadKey, thread: &Thread, result: u64) -> Option<Event> {
    let reallocates = matches!(thread.kind, kind::REALLOC | kind::REALLOCARRAY) && thread.ptr != 0;
    let addr = match thread.kind {
        kind::POSIX_MEMALIGN if result != 0 => 0,
        kind::POSIX_MEMALIGN => {
            let mut addr = 0;
            if !read::user_word(&mut addr, thread.ptr) {
                stats.result_faults += 1;
            }
            addr
        }
        _ => result,
    };
    if addr == 0 && !reallocates && thread.kind != kind::CALIBRATE_RETURN {
        return None;
    }
    let event_kind = if reallocates {
        event::REALLOC_RETURN
    } else {
        event::ALLOC
    };
    Some(Event {
        kind_and_size: Event::pack(event_kind, thread.size),
        tgid: key.tgid(),
        tid: key.tid(),
        addr,
        stack: 0,
    })
}

/// A function that is only listened to: it does not become the thread's outermost call, so that what it calls counts as if
/// nobody listened. Where the kernel can let a return go, that of a large block is: the call of another allocator inside
/// has a stack to be walked, past a return address that would have been replaced.
#[inline(always)]
fn on_trial_entry(ctx: *mut c_void, stats: &mut Stats, cookie: u32) -> u64 {
    let regs = Registers::new(ctx);
    let freed = match cookie::kind(cookie) {
        kind::FREE | kind::REALLOC => argument(regs, cookie, 0),
        _ => 0,
    };
    emit_addr(stats, ThreadKey::current(), event::TRIAL_FREED, freed);
    let (size, _) = size_and_pointer(regs, cookie);
    if cookie::kind(cookie) == kind::FREE || size > domain::LARGEST_POOLED {
        SKIP_RETURN
    } else {
        TAKE_RETURN
    }
}

#[inline(always)]
fn on_trial_return(ctx: *mut c_void, stats: &mut Stats) {
    let made = Registers::new(ctx).result();
    emit_addr(stats, ThreadKey::current(), event::TRIAL_MADE, made);
}

/// Told in the event ring, so that its place among the allocations is known: what comes later and names this address means
/// another code object. Its obituary comes before it.
#[inline(always)]
fn on_code_freed(stats: &mut Stats, key: ThreadKey, code: u64) -> u64 {
    if code == 0 {
        return SKIP_RETURN;
    }
    let stamp = obituary::send(stats, key, code);
    let event = Event {
        kind_and_size: Event::pack(event::CODE_FREED, u64::from(stamp != 0)),
        tgid: key.tgid(),
        tid: key.tid(),
        addr: code,
        stack: stamp,
    };
    emit::event(stats, &event);
    SKIP_RETURN
}

#[inline(always)]
fn on_maps_changed(stats: &mut Stats, key: ThreadKey) -> u64 {
    emit::notice(
        stats,
        &Notice {
            kind: notice::MAPS_CHANGED,
            tgid: key.tgid(),
            parent: 0,
            flags: 0,
            addr: 0,
            comm: [0; 16],
        },
    );
    SKIP_RETURN
}

/// A uprobe's context, for what wants an [`EbpfContext`].
pub(crate) struct UprobeContext(pub(crate) *mut c_void);

impl EbpfContext for UprobeContext {
    fn as_ptr(&self) -> *mut c_void {
        self.0
    }
}
