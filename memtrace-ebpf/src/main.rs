//! memtrace's probes: what runs in the kernel.
//!
//! ```text
//! allocator function ─► probes/allocator ─► thread ─► stack (walk, mapping, row) ─► emit ─► rings
//! fork, exec, exit   ─► probes/process ──────────────────────────────────────────► emit
//! ```
//!
//! Two sets of programs share every line but one: `*_loop` walks the stack inside `bpf_loop`, `*_tail` in a chain of
//! tail calls for kernels that lack it (before 5.17). The collector loads the set that the kernel takes.

#![no_std]
#![no_main]
#![feature(core_intrinsics)]
#![expect(
    internal_features,
    reason = "core::sync::atomic has no compare_exchange for this target, though the instruction exists"
)]

mod emit;
mod intrinsics;
mod maps;
mod probes;
mod read;
mod stack;
mod thread;

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier refuses a program in which this could be reached.
    loop {}
}

/// The helpers that read user memory are only open to programs under a GPL-compatible licence.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
