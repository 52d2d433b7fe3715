//! Domains of CPython's allocator: which of its three interfaces a block was asked from.
//!
//! A domain travels from the probe to the collector as the first word of the stack, in front of the frames: so blocks of
//! two domains never share a site. The word is that of a Python frame whose code object lies at an address where none can
//! be, in the first page.

use crate::stack::{FRAME_PYTHON, code_of, python_frame};

/// No domain: another allocator than CPython's was called.
pub const NONE: u32 = 0;
/// `PyMem_Raw*`: may be called without the GIL, the C library's allocator underneath.
pub const RAW: u32 = 1;
/// `PyMem_*`: buffers.
pub const MEM: u32 = 2;
/// `PyObject_*`: objects.
pub const OBJECT: u32 = 3;

/// The largest request that CPython serves itself (`SMALL_REQUEST_THRESHOLD`); more it asks from the C library.
pub const LARGEST_POOLED: u64 = 512;

/// The word of a domain; not of [`NONE`].
#[inline(always)]
#[must_use]
pub const fn word(domain: u32) -> u64 {
    python_frame((domain as u64) << 3, 0)
}

/// The domain that a stack's first word stands for; [`NONE`] when it is a frame.
#[must_use]
pub const fn of_word(word: u64) -> u32 {
    let number = code_of(word) >> 3;
    if word & FRAME_PYTHON != 0 && number <= OBJECT as u64 {
        number as u32
    } else {
        NONE
    }
}

const _: () = assert!(of_word(word(RAW)) == RAW && of_word(word(OBJECT)) == OBJECT);
const _: () = assert!(of_word(python_frame(0x7f00_1234_5678, 3)) == NONE);
const _: () = assert!(of_word(crate::stack::frame(0, 8)) == NONE);
