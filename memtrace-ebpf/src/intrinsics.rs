//! Calls that the loader replaces; see `memtrace_common::patch`.

use core::ffi::c_void;

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
