//! Code objects: where they keep their names, and reading them.
//!
//! A code object's memory may be freed and used again at any time. So what is read counts only if the object is a living
//! code object before and after, with the same references: these keep the texts and the table alive.

use std::io;

use memtrace_common::{
    obituary::{BYTES_HEAD, LARGE},
    stack::{INSTR_BEFORE_FIRST, INSTR_UNKNOWN},
};

use super::{
    lines::Spans,
    memory::Memory,
    peek::{complete, word},
    text::{self, TextError},
};

/// Characters of a file name that are kept: `PATH_MAX`.
pub const MAX_FILE_CHARS: usize = 4096;
/// Characters of a function name that are kept.
pub const MAX_NAME_CHARS: usize = 1024;
/// Bytes of the largest line table that is read: some hundred thousand lines.
pub const MAX_LINE_TABLE: usize = 1 << 20;
/// From this size on the probes do not copy a line table.
const MAX_COPIED_TABLE: usize = LARGE.lines - BYTES_HEAD;
/// Bytes of a code object that are read. The fields lie within 144 of them.
const MAX_HEAD: usize = 512;

const TYPE: usize = 8;
/// `PyBytesObject`: its size, and where its bytes begin.
const BYTES_SIZE: usize = 16;
const BYTES_DATA: usize = 32;
/// Bytes of a line table that are read at first: most fit.
const TABLE_GUESS: usize = 512;

/// Offsets in `PyCodeObject` and in `str`, and how lines are told: what reading a code object needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CodeLayout {
    /// Address of `PyCode_Type`: a code object's type.
    pub code_type: u64,
    /// `co_filename`
    pub filename: u32,
    /// `co_name`
    pub name: u32,
    /// `co_qualname`; none before 3.11.
    pub qualname: Option<u32>,
    /// `co_firstlineno`
    pub first_line: u32,
    /// `co_lnotab`, `co_linetable`
    pub line_table: u32,
    /// What the line table looks like.
    pub lines: LineFormat,
    /// Where the characters of an ASCII `str` begin; others begin [`CodeLayout::wide_text`] bytes in.
    pub ascii_text: u32,
    /// Where the characters of a compact non-ASCII `str` begin.
    pub wide_text: u32,
}

/// The three forms of line tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineFormat {
    /// `co_lnotab` (3.8, 3.9): pairs of address and line steps (`Objects/lnotab_notes.txt`).
    Lnotab,
    /// 3.10's `co_linetable`: pairs of range and line steps.
    Ranges,
    /// 3.11 and newer: location entries (`Objects/locations.md`, `InternalDocs/code_objects.md`).
    Locations,
}

/// Why there is no code object.
#[derive(Debug, thiserror::Error)]
pub enum CodeError {
    /// The memory is not there, or the process is gone.
    #[error("the code object cannot be read: {0}")]
    Unreadable(#[from] io::Error),
    /// The object is of another type.
    #[error("no code object is there")]
    NotCode,
    /// It was one, and has been freed.
    #[error("the code object has been freed")]
    Freed,
    /// It was freed, or replaced by another, while it was read.
    #[error("the code object changed while it was read")]
    Changed,
    /// A name of it cannot be read.
    #[error(transparent)]
    Text(#[from] TextError),
    /// The layout places a field where none is.
    #[error("the layout of code objects places a field {0} bytes in")]
    Layout(usize),
}

/// Why a code object has no lines but its first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoLines {
    /// More than [`MAX_LINE_TABLE`].
    #[error("its line table is larger than 1 MiB")]
    TooLarge,
    /// It was freed before it could be read, and has more than the probes copy (`memtrace_common::obituary`).
    #[error("it was freed at once, and its line table is larger than 4 KiB")]
    NotCopied,
}

/// The references of a code object. While they are the same, so are its names and lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CodeHead {
    file: u64,
    name: u64,
    line_table: u64,
    first_line: i32,
}

/// What a code object says of itself.
#[derive(Clone, Debug)]
pub struct CodeObject {
    /// Its references, to ask later whether it is still the same.
    pub head: CodeHead,
    /// `co_filename`
    pub file: Box<str>,
    /// The qualified name. Before 3.11 the plain one: there only the function has the qualified one, and a frame does not
    /// lead to its function.
    pub name: Box<str>,
    /// The line at which it begins, decorators included.
    pub first_line: Option<u32>,
    format: LineFormat,
    table: Result<Box<[u8]>, NoLines>,
}

impl CodeLayout {
    /// Offset of the name that is shown.
    #[must_use]
    pub fn shown_name(&self) -> u32 {
        self.qualname.unwrap_or(self.name)
    }

    /// Bytes from a code object's beginning in which everything lies that is read of it.
    #[must_use]
    pub fn head_size(&self) -> usize {
        let fields = [
            TYPE,
            self.filename as usize,
            self.shown_name() as usize,
            self.line_table as usize,
            self.first_line as usize,
        ];
        fields.iter().max().map_or(0, |last| last.saturating_add(8))
    }
}

impl CodeHead {
    /// Reads the references of a living code object, in one read.
    ///
    /// # Errors
    /// When there is none, or it cannot be read.
    pub fn read(memory: &impl Memory, addr: u64, layout: &CodeLayout) -> Result<Self, CodeError> {
        let name = layout.shown_name() as usize;
        let size = layout.head_size();
        if size > MAX_HEAD {
            return Err(CodeError::Layout(size - 8));
        }
        let bytes = memory.read(addr, size)?;
        let word = |at| word(&bytes, at).ok_or(CodeError::Layout(at));
        if word(TYPE)? != layout.code_type {
            return Err(CodeError::NotCode);
        }
        if !is_reference_count(word(0)?) {
            return Err(CodeError::Freed);
        }
        Ok(Self {
            file: word(layout.filename as usize)?,
            name: word(name)?,
            line_table: word(layout.line_table as usize)?,
            first_line: (word(layout.first_line as usize)? as u32).cast_signed(),
        })
    }

    /// Whether this is the code that the interpreter runs below an `__init__` whose call it has specialised
    /// (`_Py_InitCleanup`, from 3.12 on): it checks what comes back, and all of it lies before `_co_firsttraceable`, so that
    /// no traceback and no `f_back` ever leads to a frame of it.
    ///
    /// It is a constant that has one `str` for its file and for its name, and no first line. What is compiled begins at line
    /// 1 or behind.
    #[must_use]
    pub fn is_shim(&self) -> bool {
        self.file == self.name && self.first_line == 0
    }
}

/// Whether a word is a reference count. The first word of a freed object is the address of another, or 0. Counts have 32
/// bits, and since 3.14 flags in the highest 16.
fn is_reference_count(word: u64) -> bool {
    word as u32 != 0 && (word >> 32) as u16 == 0
}

impl CodeObject {
    /// Reads the code object at `addr`, in five reads when nothing is large.
    ///
    /// # Errors
    /// When there is none, it cannot be read, or it changes meanwhile.
    pub fn read(memory: &impl Memory, addr: u64, layout: &CodeLayout) -> Result<Self, CodeError> {
        let head = CodeHead::read(memory, addr, layout)?;
        let parts = Self::read_parts(memory, head, layout, false);
        // Whatever came of it: if the object is not the same any more, that is why.
        if CodeHead::read(memory, addr, layout)? != head {
            return Err(CodeError::Changed);
        }
        parts
    }

    /// Reads the code object at `addr` from a copy that does not change, and may lack a large line table.
    ///
    /// # Errors
    /// When there is none, or the copy lacks anything else.
    pub fn read_copy(
        memory: &impl Memory,
        addr: u64,
        layout: &CodeLayout,
    ) -> Result<Self, CodeError> {
        let head = CodeHead::read(memory, addr, layout)?;
        Self::read_parts(memory, head, layout, true)
    }

    fn read_parts(
        memory: &impl Memory,
        head: CodeHead,
        layout: &CodeLayout,
        is_copy: bool,
    ) -> Result<Self, CodeError> {
        Ok(Self {
            head,
            file: text::read(memory, head.file, layout, MAX_FILE_CHARS)?.into(),
            name: text::read(memory, head.name, layout, MAX_NAME_CHARS)?.into(),
            first_line: u32::try_from(head.first_line).ok(),
            format: layout.lines,
            table: read_table(memory, head.line_table, is_copy)?,
        })
    }

    /// The line of an instruction, counted in code units: what `frame.f_lineno` says there. None for an instruction that the
    /// compiler has made up, and when the line table is not known.
    #[must_use]
    pub fn line(&self, instr: u32) -> Option<u32> {
        self.spans()?.line_of(instr)
    }

    /// The line of a frame, from the instruction in its frame word. Where no line is known, it is that of the function: the
    /// frame is being entered, or is before its first instruction that has a line; or the instruction is unknown or made up.
    #[must_use]
    pub fn frame_line(&self, instr: u32) -> Option<u32> {
        match instr {
            INSTR_UNKNOWN | INSTR_BEFORE_FIRST => None,
            instr => self.line(instr),
        }
        .or(self.first_line)
    }

    /// Bytes that keeping it takes.
    #[must_use]
    pub fn size(&self) -> usize {
        let table = self.table.as_ref().map_or(0, |table| table.len());
        size_of::<Self>() + self.file.len() + self.name.len() + table
    }

    /// The whole line table. None when it is not known.
    #[must_use]
    pub fn spans(&self) -> Option<Spans<'_>> {
        let table = self.table.as_ref().ok()?;
        Some(Spans::new(self.format, table, self.head.first_line))
    }

    /// Why lines are not known, if they are not.
    #[must_use]
    pub fn no_lines(&self) -> Option<NoLines> {
        self.table.as_ref().err().copied()
    }
}

/// Reads the `bytes` object at `addr`.
fn read_table(
    memory: &impl Memory,
    addr: u64,
    is_copy: bool,
) -> io::Result<Result<Box<[u8]>, NoLines>> {
    let mut bytes = memory.read_some(addr, BYTES_DATA, TABLE_GUESS)?;
    let size = word(&bytes, BYTES_SIZE).and_then(|size| usize::try_from(size).ok());
    let Some(size) = size.filter(|size| *size <= MAX_LINE_TABLE) else {
        return Ok(Err(NoLines::TooLarge));
    };
    if is_copy && size >= MAX_COPIED_TABLE {
        return Ok(Err(NoLines::NotCopied));
    }
    complete(memory, addr, &mut bytes, BYTES_DATA + size)?;
    Ok(Ok(bytes.split_off(BYTES_DATA).into()))
}

#[cfg(test)]
mod tests;
