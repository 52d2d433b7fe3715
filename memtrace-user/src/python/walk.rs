//! The frames of one thread, read from outside by the very record that the probes walk by.

use std::{collections::HashSet, io};

use memtrace_common::python::{
    CODE_TAGS, DIRECT, MAX_RECORD, OWNER_C_STACK, PYTHON_INSTR_BYTES, PYTHON_INSTR_UNITS,
    PYTHON_SHIM, Python,
};

use super::memory::Memory;

/// Frames that are read, those that are no Python frames among them.
pub const MAX_FRAMES: usize = 256;

/// A Python frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Address of its code object.
    pub code: u64,
    /// Bytes from the first instruction to the one it is at; negative when it has not begun.
    pub lasti: i64,
}

/// The frames of a thread, the innermost first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stack {
    /// Python frames.
    pub frames: Vec<Frame>,
    /// Whether the chain was followed to its end, not only to [`MAX_FRAMES`].
    pub is_whole: bool,
}

/// Why a chain of frames is none.
#[derive(Debug, thiserror::Error)]
pub enum WalkError {
    /// It leads to where nothing can be read.
    #[error("a frame cannot be read")]
    Memory(#[from] io::Error),
    /// It leads back to itself.
    #[error("a chain of frames does not end")]
    Cycle,
}

/// Walks the frames of the thread with the state at `state`.
///
/// # Errors
/// When the chain is none: because the offsets are wrong, or because the thread has moved on.
pub fn walk(memory: &impl Memory, python: &Python, state: u64) -> Result<Stack, WalkError> {
    let mut stack = Stack::default();
    let mut seen = HashSet::new();
    let mut frame = innermost(memory, python, state)?;
    for _ in 0..MAX_FRAMES {
        if frame == 0 {
            stack.is_whole = true;
            break;
        }
        if !seen.insert(frame) {
            return Err(WalkError::Cycle);
        }
        let record = Record::read(memory, python, frame)?;
        if !record.is_shim(python) {
            stack.frames.push(Frame {
                code: record.code(python),
                lasti: record.lasti(python),
            });
        }
        frame = record.word(python.previous);
    }
    Ok(stack)
}

fn innermost(memory: &impl Memory, python: &Python, state: u64) -> io::Result<u64> {
    let found = memory.word(state.wrapping_add(python.state_frame.into()))?;
    match python.frame_link {
        DIRECT => Ok(found),
        _ if found == 0 => Ok(0),
        link => memory.word(found.wrapping_add(link.into())),
    }
}

/// The part of a frame that matters.
struct Record([u8; MAX_RECORD as usize]);

impl Record {
    fn read(memory: &impl Memory, python: &Python, frame: u64) -> io::Result<Self> {
        let mut record = Self([0; MAX_RECORD as usize]);
        let size = python.record_size.min(MAX_RECORD) as usize;
        let start = frame.wrapping_add(python.record_start.into());
        memory.read_into(start, &mut record.0[..size])?;
        Ok(record)
    }

    fn bytes<const SIZE: usize>(&self, at: u32) -> [u8; SIZE] {
        let rest = self.0.get(at as usize..).unwrap_or_default();
        rest.first_chunk().copied().unwrap_or([0; SIZE])
    }

    fn word(&self, at: u32) -> u64 {
        u64::from_le_bytes(self.bytes(at))
    }

    fn is_shim(&self, python: &Python) -> bool {
        let [owner] = self.bytes(python.boundary);
        python.flags & PYTHON_SHIM != 0 && owner >= OWNER_C_STACK
    }

    fn code(&self, python: &Python) -> u64 {
        self.word(python.code) & !CODE_TAGS
    }

    fn lasti(&self, python: &Python) -> i64 {
        let count = i64::from(i32::from_le_bytes(self.bytes(python.instr)));
        if python.flags & PYTHON_INSTR_BYTES != 0 {
            count
        } else if python.flags & PYTHON_INSTR_UNITS != 0 {
            count * 2
        } else {
            let first = self.code(python).wrapping_add(python.bytecode.into());
            self.word(python.instr).wrapping_sub(first).cast_signed()
        }
    }
}
