//! What the walk knows of a CPython in a process: how to reach the thread's frames, and how to read one.
//!
//! The collector finds all of it from outside and checks it before it hands it over; the walk follows it without
//! knowing versions. Offsets are bytes.

wire! {
    /// Text of the interpreter's loop, relative to the load base of its object. Empty when `start == end`.
    pub struct EvalRange (8) {
        /// First address.
        pub start: u32,
        /// End (exclusive).
        pub end: u32,
    }
}

wire! {
    /// A CPython. Entry of the map `PYTHONS`; a process refers to it by [`Process::python`](crate::process::Process).
    ///
    /// The way to the innermost frame: `*(thread pointer + slot)` is the thread state; `*(state + state_frame)` the frame,
    /// or with `frame_link` not [`DIRECT`] a record whose word at `frame_link` is the frame.
    pub struct Python (96) {
        /// Object number of the file with the interpreter's loop, as frame words have it.
        pub object: u32,
        /// Bits of `PYTHON_*`.
        pub flags: u32,
        /// Where the loop is: its main part, and the part that the compiler has moved away (`.cold`).
        pub eval: [EvalRange; 2],
        /// Address of the word that holds the thread state of whoever has the GIL; 0 = none (3.12 and newer).
        pub current_addr: u64,
        /// Offset from the thread pointer of the thread's current state, null while it is without the GIL; 0 = none
        /// (before 3.12). Looked at first.
        pub current_slot: i32,
        /// Offset from the thread pointer of the thread's own state, with the GIL and without; 0 = not known.
        pub own_slot: i32,
        /// `PyThreadState.thread_id`: equals the thread pointer.
        pub state_thread_id: u32,
        /// `PyThreadState.frame`, `.cframe` or `.current_frame`.
        pub state_frame: u32,
        /// Offset of the frame in the record that `state_frame` leads to, or [`DIRECT`].
        pub frame_link: u32,
        /// Where the part of a frame that is read begins.
        pub record_start: u32,
        /// Bytes that are read: at most [`MAX_RECORD`].
        pub record_size: u32,
        /// Place of the next outer frame in that part; a multiple of 8, as the next two.
        pub previous: u32,
        /// Place of the code object.
        pub code: u32,
        /// Place of the instruction: a pointer, or with [`PYTHON_INSTR_BYTES`] or [`PYTHON_INSTR_UNITS`] an `i32` count (a
        /// multiple of 4).
        pub instr: u32,
        /// Place of the byte that tells where calls from C begin: `is_entry` (3.11), `owner` (3.12 and newer).
        pub boundary: u32,
        /// Offset of the first instruction in a code object, for instruction pointers.
        pub bytecode: u32,
        /// Bytes of a code object in which the fields lie that a name needs; 0 = freed ones are not copied. Less than
        /// [`MAX_HEAD`](crate::obituary::MAX_HEAD).
        pub code_head: u16,
        /// Offset in a code object of the `str` with the file's name.
        pub code_file: u16,
        /// Of the one with its own name.
        pub code_name: u16,
        /// Of the `bytes` with its lines.
        pub code_lines: u16,
        /// Where the characters of an ASCII `str` begin.
        pub ascii_text: u16,
        /// Where those of another compact `str` begin.
        pub wide_text: u16,
        /// Always 0.
        pub reserved: u32,
    }
}

/// The instruction is a count of bytes (3.8, 3.9).
pub const PYTHON_INSTR_BYTES: u32 = 1;
/// The instruction is a count of code units of 2 bytes (3.10).
pub const PYTHON_INSTR_UNITS: u32 = 2;
/// One frame for each frame of the loop (3.8 to 3.10): nothing is inlined.
pub const PYTHON_FRAME_PER_EVAL: u32 = 4;
/// The frame whose byte at `boundary` is not 0 is the outermost of its loop's frame (3.11).
pub const PYTHON_ENTRY_FLAG: u32 = 8;
/// The frame whose byte at `boundary` is [`OWNER_C_STACK`] or more is no Python frame, but ends those of its loop's frame
/// (3.12 and newer).
pub const PYTHON_SHIM: u32 = 16;
/// The slots are a guess: a state found there counts only if its `thread_id` is the thread pointer.
pub const PYTHON_VERIFY: u32 = 32;
/// There are several interpreters: the state that has the GIL is looked at first (`current_addr`), if it is the thread's.
pub const PYTHON_INTERPRETERS: u32 = 64;

/// `FRAME_OWNED_BY_CSTACK` (3.12, 3.13), `FRAME_OWNED_BY_INTERPRETER` (3.14); what CPython has added is larger.
pub const OWNER_C_STACK: u8 = 3;
/// Value of [`Python::frame_link`] when the state points at the frame itself.
pub const DIRECT: u32 = u32::MAX;
/// Bytes that are read of a frame at most.
pub const MAX_RECORD: u32 = 96;
/// Low bits of a code pointer that are tags (3.14 and newer).
pub const CODE_TAGS: u64 = 7;
