//! `_Py_DebugOffsets`: the offsets that CPython 3.13 and newer publish for debuggers, at the start of `_PyRuntime`.
//!
//! The record names nothing: where in it an offset stands depends on the minor version (`Include/internal/
//! pycore_debug_offsets.h`). All entries are words.

use super::{
    code::LineFormat,
    offsets::{CodeOffsets, FrameOffsets, Layout, StateOffsets},
    version::Version,
};
use memtrace_common::python::{DIRECT, PYTHON_SHIM};

/// Bytes that are read: the largest record known (3.15) has 888.
pub(super) const MAX_SIZE: u64 = 2048;

/// Largest offset that is believed; the largest known, in the interpreter's state, is 7344.
const MAX_OFFSET: u64 = 1 << 20;

/// Where the entries stand.
#[derive(Clone, Copy, Debug)]
struct Positions {
    /// `thread_state.next`; `interp` and `current_frame` follow.
    state: usize,
    /// `thread_state.thread_id`
    thread_id: usize,
    /// `interpreter_frame.previous`; `executable`, `instr_ptr` follow, and after `localsplus` `owner`.
    frame: usize,
    /// `code_object.filename`; `name`, `qualname`, `linetable`, `firstlineno` follow.
    code: usize,
    /// `code_object.co_code_adaptive`
    bytecode: usize,
    /// `unicode_object.asciiobject_size`
    ascii_size: usize,
}

/// `runtime_state.interpreters_head`
const INTERPRETERS: usize = 40;
/// `interpreter_state.next`
const INTERPRETER_NEXT: usize = 64;
/// `interpreter_state.threads_head`
const INTERPRETER_THREADS: usize = 72;

const IN_3_13: Positions = Positions {
    state: 168,
    thread_id: 192,
    frame: 232,
    code: 280,
    bytecode: 344,
    ascii_size: 560,
};
const IN_3_14: Positions = Positions {
    state: 192,
    thread_id: 216,
    frame: 256,
    code: 320,
    bytecode: 384,
    ascii_size: 640,
};
const IN_3_15: Positions = Positions {
    state: 192,
    thread_id: 240,
    frame: 320,
    code: 384,
    bytecode: 448,
    ascii_size: 736,
};

impl Positions {
    /// Of a version; what is newer than all that is known is tried as the newest.
    fn of(version: Version) -> Self {
        match version.minor {
            ..=13 => IN_3_13,
            14 => IN_3_14,
            15.. => IN_3_15,
        }
    }
}

/// The layout that the record `head` tells. None when it is cut or holds what no offset can be.
pub(super) fn layout(version: Version, head: &[u8]) -> Option<Layout> {
    let at = |position: usize| {
        let word = head.get(position..position + 8)?;
        let offset = u64::from_le_bytes(word.try_into().ok()?);
        (offset < MAX_OFFSET).then_some(offset as u32)
    };
    let positions = Positions::of(version);
    let ascii_text = at(positions.ascii_size)?;
    Some(Layout {
        interpreters: at(INTERPRETERS)?,
        current: None,
        interpreter_next: at(INTERPRETER_NEXT)?,
        interpreter_threads: at(INTERPRETER_THREADS)?,
        state: StateOffsets {
            next: at(positions.state)?,
            interpreter: at(positions.state + 8)?,
            frame: at(positions.state + 16)?,
            thread_id: at(positions.thread_id)?,
            frame_link: DIRECT,
        },
        frame: FrameOffsets {
            previous: at(positions.frame)?,
            code: at(positions.frame + 8)?,
            instr: at(positions.frame + 16)?,
            boundary: Some(at(positions.frame + 32)?),
        },
        flags: PYTHON_SHIM,
        code: CodeOffsets {
            filename: at(positions.code)?,
            name: at(positions.code + 8)?,
            qualname: Some(at(positions.code + 16)?),
            line_table: at(positions.code + 24)?,
            first_line: at(positions.code + 32)?,
            bytecode: Some(at(positions.bytecode)?),
            lines: LineFormat::Locations,
            ascii_text,
            // `PyCompactUnicodeObject` adds the length and the address of a copy in UTF-8.
            wide_text: ascii_text + 16,
        },
    })
}
