//! How a CPython's data is laid out: the offsets that lead from `_PyRuntime` to threads and frames.
//!
//! The series up to 3.12 are closed, so their offsets are a table that does not change any more (measured from the
//! debug information of 3.8.18, 3.9.18, 3.10.13, 3.11.7 and 3.12.1). Newer ones publish theirs; see
//! [`debug_offsets`]. Neither is believed: see [`selftest`](super::selftest).

use memtrace_common::python::{
    DIRECT, MAX_RECORD, PYTHON_ENTRY_FLAG, PYTHON_FRAME_PER_EVAL, PYTHON_INSTR_BYTES,
    PYTHON_INSTR_UNITS, PYTHON_SHIM, Python,
};

use super::{code::LineFormat, debug_offsets, version::Version};

/// Offsets in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// `_PyRuntime.interpreters.head`
    pub(super) interpreters: u32,
    /// `_PyRuntime.gilstate.tstate_current`; none from 3.12 on.
    pub(super) current: Option<u32>,
    /// `PyInterpreterState.next`
    pub(super) interpreter_next: u32,
    /// `PyInterpreterState.threads.head`
    pub(super) interpreter_threads: u32,
    /// In `PyThreadState`.
    pub(super) state: StateOffsets,
    /// In a frame.
    pub(super) frame: FrameOffsets,
    /// What else the walk must know, as bits of `PYTHON_*`.
    pub(super) flags: u32,
    /// In `PyCodeObject` and `str`.
    pub(super) code: CodeOffsets,
}

/// Offsets in `PyThreadState`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StateOffsets {
    pub(super) next: u32,
    pub(super) interpreter: u32,
    pub(super) thread_id: u32,
    /// `frame`, `cframe` or `current_frame`.
    pub(super) frame: u32,
    /// `current_frame` in the record that `cframe` points to, or [`DIRECT`].
    pub(super) frame_link: u32,
}

/// Offsets in `PyFrameObject` (up to 3.10) or `_PyInterpreterFrame`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FrameOffsets {
    pub(super) previous: u32,
    pub(super) code: u32,
    pub(super) instr: u32,
    pub(super) boundary: Option<u32>,
}

/// Offsets in `PyCodeObject`, and of text in `str`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CodeOffsets {
    pub(super) filename: u32,
    pub(super) name: u32,
    pub(super) qualname: Option<u32>,
    pub(super) first_line: u32,
    pub(super) line_table: u32,
    /// `co_code_adaptive`; none where the bytecode is an object of its own (up to 3.10).
    pub(super) bytecode: Option<u32>,
    pub(super) lines: LineFormat,
    pub(super) ascii_text: u32,
    pub(super) wide_text: u32,
}

impl Layout {
    /// The layout of a version, whose `_PyRuntime` begins with `head` in the file. The error says what is wrong.
    pub(super) fn of(version: Version, head: Option<&[u8]>) -> Result<Self, &'static str> {
        if version.major != 3 {
            return Err("not a CPython 3");
        }
        let layout = match version.minor {
            ..=7 => return Err("older than 3.8"),
            8 => in_3_8(),
            9 => in_3_9(),
            10 => in_3_10(),
            11 => in_3_11(),
            12 => in_3_12(),
            13.. => head
                .and_then(|head| debug_offsets::layout(version, head))
                .ok_or("its debug offsets are missing or damaged")?,
        };
        // What is published may be anything; the walk relies on this.
        layout
            .record()
            .map(|_| layout)
            .ok_or("its frames are laid out in a way that the walk does not follow")
    }

    /// The part of [`Python`] that follows from the layout. None when frames do not fit what the walk reads.
    pub(super) fn record(&self) -> Option<Python> {
        let frame = self.frame;
        let fields = [
            (frame.previous, 8),
            (frame.code, 8),
            (frame.instr, 8),
            (frame.boundary.unwrap_or(frame.code), 1),
        ];
        let start = fields.iter().map(|field| field.0).min()? & !7;
        let end = fields.iter().map(|field| field.0 + field.1).max()?;
        let size = (end - start).next_multiple_of(8);
        let counts = PYTHON_INSTR_BYTES | PYTHON_INSTR_UNITS;
        let instr_align = if self.flags & counts == 0 { 8 } else { 4 };
        let is_aligned = frame.previous.is_multiple_of(8)
            && frame.code.is_multiple_of(8)
            && frame.instr.is_multiple_of(instr_align);
        (is_aligned && size <= MAX_RECORD).then(|| Python {
            flags: self.flags,
            state_thread_id: self.state.thread_id,
            state_frame: self.state.frame,
            frame_link: self.state.frame_link,
            record_start: start,
            record_size: size,
            previous: frame.previous - start,
            code: frame.code - start,
            instr: frame.instr - start,
            boundary: frame.boundary.map_or(0, |boundary| boundary - start),
            bytecode: self.code.bytecode.unwrap_or(0),
            ..Python::default()
        })
    }
}

fn in_3_8() -> Layout {
    Layout {
        interpreters: 32,
        current: Some(1368),
        interpreter_next: 0,
        interpreter_threads: 8,
        state: StateOffsets {
            next: 8,
            interpreter: 16,
            thread_id: 176,
            frame: 24,
            frame_link: DIRECT,
        },
        frame: FrameOffsets {
            previous: 24,
            code: 32,
            instr: 104,
            boundary: None,
        },
        flags: PYTHON_INSTR_BYTES | PYTHON_FRAME_PER_EVAL,
        code: CodeOffsets {
            filename: 104,
            name: 112,
            qualname: None,
            first_line: 40,
            line_table: 120,
            bytecode: None,
            lines: LineFormat::Lnotab,
            ascii_text: 48,
            wide_text: 72,
        },
    }
}

fn in_3_9() -> Layout {
    Layout {
        current: Some(568),
        ..in_3_8()
    }
}

fn in_3_10() -> Layout {
    let older = in_3_9();
    Layout {
        frame: FrameOffsets {
            instr: 96,
            ..older.frame
        },
        flags: PYTHON_INSTR_UNITS | PYTHON_FRAME_PER_EVAL,
        code: CodeOffsets {
            lines: LineFormat::Ranges,
            ..older.code
        },
        ..older
    }
}

fn in_3_11() -> Layout {
    Layout {
        interpreters: 40,
        current: Some(576),
        interpreter_next: 0,
        interpreter_threads: 16,
        state: StateOffsets {
            next: 8,
            interpreter: 16,
            thread_id: 152,
            frame: 56,
            frame_link: 8,
        },
        frame: FrameOffsets {
            previous: 48,
            code: 32,
            instr: 56,
            boundary: Some(68),
        },
        flags: PYTHON_ENTRY_FLAG,
        code: CodeOffsets {
            filename: 112,
            name: 120,
            qualname: Some(128),
            first_line: 72,
            line_table: 136,
            bytecode: Some(184),
            lines: LineFormat::Locations,
            ascii_text: 48,
            wide_text: 72,
        },
    }
}

fn in_3_12() -> Layout {
    let older = in_3_11();
    Layout {
        current: None,
        interpreter_threads: 72,
        state: StateOffsets {
            thread_id: 136,
            frame_link: 0,
            ..older.state
        },
        frame: FrameOffsets {
            previous: 8,
            code: 0,
            instr: 56,
            boundary: Some(70),
        },
        flags: PYTHON_SHIM,
        code: CodeOffsets {
            first_line: 68,
            bytecode: Some(192),
            ascii_text: 40,
            wide_text: 56,
            ..older.code
        },
        ..older
    }
}
