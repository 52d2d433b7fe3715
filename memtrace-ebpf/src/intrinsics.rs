//! Calls that the loader replaces (see `memtrace_common::patch`), and the atomic instructions.

use core::{
    ffi::c_void,
    intrinsics::{AtomicOrdering, atomic_cxchg, atomic_xadd},
};

use memtrace_common::patch;

/// Makes a call to the number `ID`, which the loader replaces before the kernel sees it.
#[inline(always)]
fn patched_call<const ID: u32>(ctx: *mut c_void) -> u64 {
    // SAFETY: this is how helpers are called: the function's address is its number. The loader refuses an object in
    // which one of these numbers is left over.
    let call: unsafe extern "C" fn(*mut c_void) -> u64 =
        unsafe { core::mem::transmute(ID as usize) };
    // SAFETY: what replaces the call takes the context, or nothing.
    unsafe { call(ctx) }
}

/// What is said of the probed function (`memtrace_common::cookie`).
#[inline(always)]
pub(crate) fn cookie(ctx: *mut c_void) -> u32 {
    patched_call::<{ patch::CALL_COOKIE }>(ctx) as u32
}

/// Whether the probe runs at the function's return.
#[inline(always)]
pub(crate) fn is_return(ctx: *mut c_void) -> bool {
    // The kernel function returns a bool: only the low byte is defined.
    patched_call::<{ patch::CALL_IS_RETURN }>(ctx) & 0xff != 0
}

/// Puts `new` where 0 is; says whether 0 was there. Kernels before 5.12 have no such instruction.
#[inline(always)]
pub(crate) fn exchange_zero(place: &mut u64, new: u64) -> bool {
    // SAFETY: the pointer is a reference's, and every place is an 8-byte field of a map's value, which is aligned.
    let (_, exchanged) = unsafe {
        atomic_cxchg::<_, { AtomicOrdering::SeqCst }, { AtomicOrdering::SeqCst }>(
            &raw mut *place,
            0,
            new,
        )
    };
    exchanged
}

/// Adds 1, whoever else does the same. Every kernel has this instruction.
#[inline(always)]
pub(crate) fn count(place: &mut u64) {
    // SAFETY: as above.
    unsafe { atomic_xadd::<_, u64, { AtomicOrdering::Relaxed }>(&raw mut *place, 1) };
}
