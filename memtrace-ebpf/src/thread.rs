//! What a thread is doing between the entry of an allocator function and its return.
//!
//! The outermost call of a thread counts, those inside it (an interposer that calls libc, `realloc` that calls
//! `malloc`) do not. No depth is counted, because a call may end without returning (`longjmp`, an exception):
//! the stack pointer decides. A call that begins above the outermost call's frame proves that the outermost call is
//! over. One that begins below it, or at the same height (an interposer that ends in a jump, `return real_malloc(n)`),
//! is inside it as long as its return is awaited: then the address of the kernel's trampoline stands where the return
//! address was, until the place is used for something else.

use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use memtrace_common::{limits, process::Thread};

use crate::{
    intrinsics,
    maps::{THREAD_SLOTS, THREADS},
    read,
};

/// Bytes of a page on x86-64.
const PAGE_SIZE: u64 = 4096;

/// `tgid << 32 | tid` of the running thread.
#[derive(Clone, Copy)]
pub(crate) struct ThreadKey(pub(crate) u64);

impl ThreadKey {
    /// The running thread.
    #[inline(always)]
    pub(crate) fn current() -> Self {
        Self(bpf_get_current_pid_tgid())
    }

    /// The process.
    #[inline(always)]
    pub(crate) fn tgid(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// The thread.
    #[inline(always)]
    pub(crate) fn tid(self) -> u32 {
        self.0 as u32
    }

    /// The thread's entry, if it has one.
    #[inline(always)]
    pub(crate) fn state(self) -> Option<&'static mut Thread> {
        if let Some(slot) = self.slot()
            && slot.owner == self.0
        {
            return Some(slot);
        }
        // SAFETY: only the thread itself writes its entry, and it is here, not elsewhere.
        THREADS
            .get_ptr_mut(self.0)
            .map(|thread| unsafe { &mut *thread })
    }

    /// The thread's entry, made if it has none. `None` when the table is full. `atomic`: the kernel has the
    /// exchange; without it no slot can be claimed, and every thread is looked up by hash.
    #[inline(always)]
    pub(crate) fn state_or_new(self, atomic: bool) -> Option<&'static mut Thread> {
        // A thread that was given a hash entry keeps it, even when its slot becomes free: it may be inside a call.
        if let Some(thread) = self.state() {
            return Some(thread);
        }
        // Another thread with the same low bits may try the same.
        if atomic
            && let Some(slot) = self.slot()
            && slot.owner == 0
            && intrinsics::exchange_zero(&mut slot.owner, self.0)
        {
            return Some(slot);
        }
        let empty = Thread {
            owner: self.0,
            sp: 0,
            size: 0,
            ptr: 0,
            kind: 0,
            domain: 0,
            nested: 0,
        };
        // A failure shows in the look-up that follows.
        let _ = THREADS.insert(self.0, empty, 0);
        self.state()
    }

    /// Forgets the thread: it has ended, or runs another program.
    #[inline(always)]
    pub(crate) fn forget(self) {
        if let Some(slot) = self.slot()
            && slot.owner == self.0
        {
            slot.sp = 0;
            // Last: from here on the slot may be claimed.
            // SAFETY: a write through a reference.
            unsafe { core::ptr::write_volatile(&raw mut slot.owner, 0) };
        }
        let _ = THREADS.remove(self.0);
    }

    /// The slot that the thread shares with all whose ids end in the same bits.
    #[inline(always)]
    fn slot(self) -> Option<&'static mut Thread> {
        // SAFETY: but for `owner`, which is a whole word, only the owner reads or writes it.
        THREAD_SLOTS
            .get_ptr_mut(self.tid() & (limits::THREAD_SLOTS - 1))
            .map(|slot| unsafe { &mut *slot })
    }
}

/// Whether a call that begins with stack pointer `sp` is inside the thread's outermost call.
#[inline(always)]
pub(crate) fn is_nested(thread: &Thread, sp: u64) -> bool {
    thread.sp != 0 && sp <= thread.sp && returns_to_trampoline(thread.sp)
}

/// Whether the return address at `sp` is that of the kernel's trampoline (`uprobe_get_trampoline_vaddr`: the start of
/// the page that the kernel maps for stepped instructions).
#[inline(always)]
fn returns_to_trampoline(sp: u64) -> bool {
    let mut addr = 0;
    read::user_word(&mut addr, sp) && addr % PAGE_SIZE == 0
}
