//! What a probed allocator function does with its arguments: a part of the attach [`cookie`](crate::cookie) of every
//! allocator probe.
//!
//! The collector chooses the kind when it finds the symbol; the probe reads its arguments by it.

/// Nothing is attached with this kind; a probe that reads it counts an error.
pub const NONE: u32 = 0;
/// `malloc(size)`, `operator new(size, …)`, `valloc`, `mallocx(size, flags)`.
pub const MALLOC: u32 = 1;
/// `calloc(count, size)`.
pub const CALLOC: u32 = 2;
/// `realloc(old, size)`, `rallocx(old, size, flags)`.
pub const REALLOC: u32 = 3;
/// `reallocarray(old, count, size)`.
pub const REALLOCARRAY: u32 = 4;
/// `memalign(alignment, size)`, `aligned_alloc(alignment, size)`.
pub const MEMALIGN: u32 = 5;
/// `posix_memalign(&out, alignment, size)`: the block is returned through `out`, 0 means success.
pub const POSIX_MEMALIGN: u32 = 6;
/// `pvalloc(size)`: the block is whole pages, the size that counts is the requested one.
pub const PVALLOC: u32 = 7;
/// `free(block)`, `operator delete(block, …)`, `free_sized`, `free_aligned_sized`, `dallocx`, `sdallocx`.
pub const FREE: u32 = 8;
/// `free(block)` of an interposer that calls another allocator inside: its return is watched, so that the
/// inner call does not count.
pub const FREE_OUTER: u32 = 9;
/// The dynamic linker has changed the list of loaded objects (`_dl_debug_state`).
pub const MAPS_CHANGED: u32 = 10;
/// A call that memtrace makes to itself to learn what a probe costs here; produces no event.
pub const CALIBRATE: u32 = 11;
/// Like [`CALIBRATE`], but the return is taken and the stack walked.
pub const CALIBRATE_RETURN: u32 = 12;
/// CPython frees a code object (`PyCode_Type.tp_dealloc`): `code_dealloc(code)`.
pub const CODE_FREED: u32 = 13;
/// `free(block)` of an allocator that hands a block which is not its own on to another's `free`: that call, with the same
/// block, does not count. Its return is not needed.
pub const FREE_THROUGH: u32 = 14;
/// Number of kinds; per-kind counters are arrays of this length.
pub const COUNT: usize = 16;

/// Whether the probe needs the function's return as well as its entry.
#[must_use]
pub const fn takes_return(kind: u32) -> bool {
    matches!(kind, MALLOC..=PVALLOC | FREE_OUTER | CALIBRATE_RETURN)
}
