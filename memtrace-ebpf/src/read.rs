//! The only reads of user and kernel memory, and of the registers at a probe.

use core::{ffi::c_void, mem::MaybeUninit};

use aya_ebpf::{
    bindings::pt_regs,
    helpers::generated::{bpf_probe_read_kernel, bpf_probe_read_user},
};

/// Registers of the traced thread at a uprobe.
#[derive(Clone, Copy)]
pub(crate) struct Registers(*const pt_regs);

macro_rules! register {
    ($($(#[$meta:meta])* $name:ident = $field:ident),* $(,)?) => {
        $($(#[$meta])*
        #[inline(always)]
        pub(crate) fn $name(self) -> u64 {
            // SAFETY: the context of a uprobe is a `pt_regs`, and the verifier checks the access.
            unsafe { (*self.0).$field }
        })*
    };
}

impl Registers {
    /// Takes the context of a uprobe program.
    #[inline(always)]
    pub(crate) fn new(ctx: *mut c_void) -> Self {
        Self(ctx.cast())
    }

    /// The register at `index` of the saved registers (`memtrace_common::cookie`).
    #[inline(always)]
    pub(crate) fn saved(self, index: u32) -> u64 {
        let mut word = 0_u64;
        let place = self.0 as u64 + u64::from(index & 15) * 8;
        // Through the helper: the verifier lets a context be read at constant offsets only.
        // SAFETY: the helper writes 8 bytes to a place of 8 bytes, whatever the address.
        unsafe { bpf_probe_read_kernel((&raw mut word).cast(), 8, place as *const c_void) };
        word
    }

    register! {
        /// First argument.
        arg0 = rdi,
        /// Second argument.
        arg1 = rsi,
        /// Third argument.
        arg2 = rdx,
        /// Return value.
        result = rax,
        /// Stack pointer.
        sp = rsp,
        /// Frame pointer, or whatever the program keeps there.
        bp = rbp,
        /// Program counter; at a return probe the caller's.
        pc = rip,
    }
}

/// Reads one word of the traced process into `word`. `false`, and zero in `word`, when the page is not there or not
/// readable.
///
/// Not an `Option`: the value of a `None` is undefined, and what the compiler makes of that is a stack slot that is read
/// without having been written, which verifiers before 6.3 refuse.
#[inline(always)]
pub(crate) fn user_word(word: &mut u64, addr: u64) -> bool {
    // SAFETY: the helper writes 8 bytes to a place of 8 bytes, whatever the address.
    let error = unsafe { bpf_probe_read_user((&raw mut *word).cast(), 8, addr as *const c_void) };
    error == 0
}

/// Fills `words` from the traced process. `false` when any of it cannot be read.
#[inline(always)]
pub(crate) fn user_words<const N: usize>(words: &mut [u64; N], addr: u64) -> bool {
    // SAFETY: the length is that of the destination.
    let error = unsafe {
        bpf_probe_read_user(
            words.as_mut_ptr().cast(),
            (N * 8) as u32,
            addr as *const c_void,
        )
    };
    error == 0
}

/// Reads a `T` at `base + offset` in the kernel. `None` when it cannot be read.
#[inline(always)]
pub(crate) fn kernel<T: Copy>(base: u64, offset: u32) -> Option<T> {
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: the helper writes as many bytes as the destination has, whatever the address.
    let error = unsafe {
        bpf_probe_read_kernel(
            value.as_mut_ptr().cast(),
            size_of::<T>() as u32,
            base.wrapping_add(u64::from(offset)) as *const c_void,
        )
    };
    // SAFETY: the helper has written all bytes, and every caller reads plain integers or arrays of them.
    (error == 0).then(|| unsafe { value.assume_init() })
}
