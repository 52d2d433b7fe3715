//! A stack as it travels: a header and one word for each frame, innermost first.
//!
//! The probe places every program counter in its object before it sends it, so a frame means the same in
//! every process that maps the file, stays meaningful when the process is gone, and equal stacks of different
//! processes share one id.

wire! {
    /// Head of a record of the stack ring; `count` words follow.
    pub struct StackHeader (24) {
        /// 64-bit hash of the frames and of `cut`; what events carry.
        pub id: u64,
        /// Program counter at which the walk was cut; 0 when the stack is complete.
        pub cut_addr: u64,
        /// Number of frame words that follow.
        pub count: u16,
        /// One of the `CUT_*` reasons.
        pub cut: u8,
        /// Always 0.
        pub reserved: u8,
        /// Process in which the stack was first seen.
        pub tgid: u32,
    }
}

/// Set in a frame word whose `rel` is the interrupted instruction itself, not a return address.
pub const FRAME_EXACT: u64 = 1 << 62;
/// Set in a frame word that is not a place in an object but a Python frame.
pub const FRAME_PYTHON: u64 = 1 << 63;
/// Bits of a Python frame word that hold the instruction.
pub const INSTR_BITS: u32 = 18;
/// The instruction is unknown, or lies too far into its code for a frame word.
pub const INSTR_UNKNOWN: u32 = (1 << INSTR_BITS) - 1;
/// The frame is being entered: no instruction has run.
pub const INSTR_BEFORE_FIRST: u32 = INSTR_UNKNOWN - 1;
/// Bits of the object's number in a frame word.
pub const OBJECT_BITS: u32 = 24;

/// Makes a frame word: object number in bits 32..56, `rel` below.
#[inline(always)]
#[must_use]
pub const fn frame(object: u32, rel: u32) -> u64 {
    ((object as u64) << 32) | rel as u64
}

/// Makes the word of a Python frame: the code object's address in bits 18..62, of which the lowest three are dropped
/// (objects are 8-byte aligned), below it the instruction in code units of 2 bytes.
#[inline(always)]
#[must_use]
pub const fn python_frame(code: u64, instr: u32) -> u64 {
    let instr = if instr > INSTR_UNKNOWN {
        INSTR_UNKNOWN
    } else {
        instr
    };
    let code = (code >> 3) << INSTR_BITS;
    FRAME_PYTHON | (code & (FRAME_EXACT - 1)) | instr as u64
}

/// Address of the code object of a Python frame word.
#[must_use]
pub const fn code_of(frame: u64) -> u64 {
    ((frame & (FRAME_EXACT - 1)) >> INSTR_BITS) << 3
}

/// Instruction of a Python frame word: code units from the first instruction, [`INSTR_UNKNOWN`] or
/// [`INSTR_BEFORE_FIRST`].
#[must_use]
pub const fn instr_of(frame: u64) -> u32 {
    frame as u32 & INSTR_UNKNOWN
}

/// Object number of a frame word.
#[must_use]
pub const fn object_of(frame: u64) -> u32 {
    ((frame >> 32) & ((1 << OBJECT_BITS) - 1)) as u32
}

/// Address of a frame word relative to its object's load base.
#[must_use]
pub const fn rel_of(frame: u64) -> u32 {
    frame as u32
}

/// The stack is complete: its outermost frame has no caller.
pub const CUT_NONE: u8 = 0;
/// More than [`MAX_FRAMES`](crate::limits::MAX_FRAMES) frames.
pub const CUT_DEPTH: u8 = 1;
/// The program counter lies in no mapping that has a file: generated code, or a wild address.
pub const CUT_NO_MAPPING: u8 = 2;
/// The object's unwind rows are not loaded yet; the collector has been told.
pub const CUT_NOT_LOADED: u8 = 3;
/// The object has no unwind row for this address.
pub const CUT_NO_ROW: u8 = 4;
/// The row needs a register or an expression that the walk does not follow.
pub const CUT_UNSUPPORTED: u8 = 5;
/// The traced stack could not be read.
pub const CUT_READ_FAULT: u8 = 6;
/// The walk did not move outwards: the stack or the rows are damaged.
pub const CUT_STALLED: u8 = 7;
/// The return address belongs to another tracer's return probe.
pub const CUT_TRAMPOLINE: u8 = 8;
/// The unwind tables are full; the object was left out.
pub const CUT_TABLE_FULL: u8 = 9;
/// A Python frame, or the thread state that leads to it, could not be read.
pub const CUT_PYTHON_FAULT: u8 = 10;
/// Number of reasons; per-reason counters are arrays of this length.
pub const CUT_COUNT: usize = 16;
