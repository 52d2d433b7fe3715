//! Python's frames, in their places between the native ones.
//!
//! A native frame of the interpreter's loop stands for one or more Python frames: up to the one that C code has called.
//! So, when such a frame has been placed, the walk goes on among Python's own frames, one for each step, and returns to the
//! native ones where that call began. The C functions between two loops (`sorted` that calls `__lt__`) keep their place.
//!
//! Knows no versions: what differs between them is in [`Python`](memtrace_common::python::Python).

use core::ffi::c_void;

use aya_ebpf::helpers::generated::{bpf_get_current_task, bpf_probe_read_user};
use memtrace_common::{
    python::{
        CODE_TAGS, DIRECT, MAX_RECORD, OWNER_C_STACK, PYTHON_ENTRY_FLAG, PYTHON_FRAME_PER_EVAL,
        PYTHON_INSTR_BYTES, PYTHON_INSTR_UNITS, PYTHON_INTERPRETERS, PYTHON_SHIM, PYTHON_VERIFY,
    },
    stack::{self, INSTR_BEFORE_FIRST, INSTR_UNKNOWN},
};

use super::walk::{Step, Walk};
use crate::{maps::OFFSETS, read};

/// Words of the buffer for a frame: a power of two, so that a place in it can be masked.
const RECORD_WORDS: usize = 16;

const _: () = assert!(MAX_RECORD as usize <= 8 * RECORD_WORDS);

/// The frames have not been looked for.
const UNKNOWN: u32 = 0;
/// The next step is a native one.
const NATIVE: u32 = 1;
/// The next step is a Python one.
const PYTHON: u32 = 2;
/// The thread has no state that could be found.
const NO_STATE: u32 = 3;

/// Where the walk is among the thread's Python frames.
#[repr(C)]
pub(super) struct Frames {
    /// One of the constants above.
    state: u32,
    reserved: u32,
    /// The next frame; 0 = there are no more.
    next: u64,
    /// The frame that was read last.
    record: [u64; RECORD_WORDS],
}

impl Frames {
    #[inline(always)]
    pub(super) fn begin(&mut self) {
        self.state = UNKNOWN;
    }

    /// Whether the next step is a Python one.
    #[inline(always)]
    pub(super) fn are_next(&self) -> bool {
        self.state == PYTHON
    }

    /// The word at `place` of the frame that was read.
    #[inline(always)]
    fn word(&self, place: u32) -> u64 {
        let index = (place >> 3) as usize & (RECORD_WORDS - 1);
        // SAFETY: the index is masked to the array; volatile keeps the mask that the verifier wants to see.
        unsafe { core::ptr::read_volatile(self.record.as_ptr().add(index)) }
    }

    /// The byte at `place`.
    #[inline(always)]
    fn byte(&self, place: u32) -> u8 {
        (self.word(place) >> (8 * (place & 7))) as u8
    }

    /// The signed 32-bit number at `place`.
    #[inline(always)]
    fn int(&self, place: u32) -> i32 {
        (self.word(place) >> (8 * (place & 4))) as i32
    }
}

/// Whether `addr`, in the walk's mapping, is in the interpreter's loop.
#[inline(always)]
pub(super) fn is_eval(walk: &Walk, addr: u64) -> bool {
    if walk.python.object == 0 || walk.mapping.object != walk.python.object {
        return false;
    }
    let rel = addr.wrapping_sub(walk.mapping.bias) as u32;
    let [main, cold] = walk.python.eval;
    rel.wrapping_sub(main.start) < main.end.wrapping_sub(main.start)
        || rel.wrapping_sub(cold.start) < cold.end.wrapping_sub(cold.start)
}

/// A frame of the loop has been placed, and the walk is at its caller: its Python frames are next.
#[inline(always)]
pub(super) fn enter(walk: &mut Walk) {
    match walk.frames_of_python.state {
        UNKNOWN => walk.frames_of_python.state = find(walk),
        NATIVE => walk.frames_of_python.state = PYTHON,
        _ => {}
    }
    if walk.frames_of_python.state == NO_STATE {
        walk.push(stack::python_frame(0, INSTR_UNKNOWN));
    }
}

/// Finds the thread's innermost frame.
#[inline(always)]
fn find(walk: &mut Walk) -> u32 {
    let state = thread_state(walk);
    if state == 0 {
        return NO_STATE;
    }
    let mut place = state.wrapping_add(u64::from(walk.python.state_frame));
    if walk.python.frame_link != DIRECT {
        let mut link = 0;
        if !read::user_word(&mut link, place) {
            return NO_STATE;
        }
        // The record lies in the frame of the loop that has begun last. Above it: this loop has not begun yet.
        if link >= walk.sp {
            return UNKNOWN;
        }
        place = link.wrapping_add(u64::from(walk.python.frame_link));
    }
    if read::user_word(&mut walk.frames_of_python.next, place) {
        PYTHON
    } else {
        NO_STATE
    }
}

/// Address of the running thread's `PyThreadState`; 0 when it has none.
#[inline(always)]
fn thread_state(walk: &Walk) -> u64 {
    // SAFETY: a helper without arguments.
    let task = unsafe { bpf_get_current_task() };
    let Some(thread) = read::kernel::<u64>(task, OFFSETS.load().task_fsbase) else {
        return 0;
    };
    let python = &walk.python;
    let mut state = 0;
    if python.current_slot != 0 {
        read::user_word(&mut state, at_slot(thread, python.current_slot));
    } else if python.flags & PYTHON_INTERPRETERS != 0 && python.current_addr != 0 {
        // Whoever has the GIL: another thread, when this one runs without.
        read::user_word(&mut state, python.current_addr);
        if !is_of(state, python.state_thread_id, thread) {
            state = 0;
        }
    }
    if state == 0 && python.own_slot != 0 {
        read::user_word(&mut state, at_slot(thread, python.own_slot));
    }
    if python.flags & PYTHON_VERIFY != 0 && !is_of(state, python.state_thread_id, thread) {
        return 0;
    }
    state
}

#[inline(always)]
fn at_slot(thread: u64, slot: i32) -> u64 {
    thread.wrapping_add(i64::from(slot) as u64)
}

/// Whether `state` is the state of the thread whose thread pointer is `thread`.
#[inline(always)]
fn is_of(state: u64, thread_id: u32, thread: u64) -> bool {
    let mut owner = 0;
    state != 0
        && read::user_word(&mut owner, state.wrapping_add(u64::from(thread_id)))
        && owner == thread
}

/// Places one Python frame and moves to the next.
#[inline(always)]
pub(super) fn step(walk: &mut Walk) -> Step {
    let frame = walk.frames_of_python.next;
    if frame == 0 {
        // A coroutine library has put this stack together: its first loop has no caller among Python's frames.
        walk.frames_of_python.state = NATIVE;
        return Step::Next;
    }
    if walk.is_full() {
        return walk.cut(stack::CUT_DEPTH, walk.pc);
    }
    if !read_frame(walk, frame) {
        return walk.cut(stack::CUT_PYTHON_FAULT, frame);
    }
    let python = &walk.python;
    let frames = &walk.frames_of_python;
    let boundary = frames.byte(python.boundary);
    let previous = frames.word(python.previous);
    let is_shim = python.flags & PYTHON_SHIM != 0 && boundary >= OWNER_C_STACK;
    let is_last = is_shim
        || python.flags & PYTHON_FRAME_PER_EVAL != 0
        || python.flags & PYTHON_ENTRY_FLAG != 0 && boundary != 0;
    if !is_shim {
        let code = frames.word(python.code) & !CODE_TAGS;
        let word = stack::python_frame(code, instruction(walk, code));
        walk.push(word);
    }
    walk.frames_of_python.next = previous;
    if is_last {
        walk.frames_of_python.state = NATIVE;
    }
    Step::Next
}

/// Reads the part of a frame that matters.
#[inline(always)]
fn read_frame(walk: &mut Walk, frame: u64) -> bool {
    let size = walk.python.record_size & 0x7f;
    if size > MAX_RECORD {
        return false;
    }
    let place = frame.wrapping_add(u64::from(walk.python.record_start));
    // SAFETY: the buffer has room for the size, which has been checked.
    let error = unsafe {
        bpf_probe_read_user(
            walk.frames_of_python.record.as_mut_ptr().cast(),
            size,
            place as *const c_void,
        )
    };
    error == 0
}

/// The instruction of the frame that was read, in code units.
#[inline(always)]
fn instruction(walk: &Walk, code: u64) -> u32 {
    let python = &walk.python;
    let frames = &walk.frames_of_python;
    let counts = python.flags & (PYTHON_INSTR_BYTES | PYTHON_INSTR_UNITS) != 0;
    let bytes = if !counts {
        let first = code.wrapping_add(u64::from(python.bytecode));
        frames.word(python.instr).wrapping_sub(first) as i64
    } else if python.flags & PYTHON_INSTR_UNITS != 0 {
        2 * i64::from(frames.int(python.instr))
    } else {
        i64::from(frames.int(python.instr))
    };
    if bytes < 0 {
        return INSTR_BEFORE_FIRST;
    }
    let units = bytes as u64 >> 1;
    if units >= u64::from(INSTR_BEFORE_FIRST) {
        INSTR_UNKNOWN
    } else {
        units as u32
    }
}
