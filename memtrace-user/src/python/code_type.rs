//! What `PyCode_Type` in a process says of code objects: where their fields are, and what frees them.
//!
//! The type lists its fields by name, for the sake of Python's own `code.co_name`; nothing can be nearer to the truth.
//! It must agree with what the version is known for, or the version is not the one it seems.

use std::io;

use super::{code::CodeLayout, memory::Memory, offsets::CodeOffsets};

/// `PyTypeObject.tp_basicsize`
const TP_BASICSIZE: u64 = 32;
/// `PyTypeObject.tp_dealloc`
pub(super) const TP_DEALLOC: u64 = 48;
/// `PyTypeObject.tp_members`
const TP_MEMBERS: u64 = 240;

/// Bytes of a `PyMemberDef`.
const MEMBER_SIZE: usize = 40;
/// `PyMemberDef.offset`
const MEMBER_OFFSET: usize = 16;
/// Members that are looked at; code objects have about 20.
const MAX_MEMBERS: u64 = 64;
/// Longest name that is looked at.
const MAX_NAME: usize = 24;

/// The type in a process.
#[derive(Clone, Copy, Debug)]
pub(super) struct CodeType {
    /// Its address.
    pub(super) addr: u64,
    /// `tp_dealloc`: the function that frees a code object.
    pub(super) dealloc: u64,
}

/// Offsets by name.
#[derive(Debug, Default)]
struct Members {
    filename: Option<u32>,
    name: Option<u32>,
    qualname: Option<u32>,
    first_line: Option<u32>,
    line_table: Option<u32>,
}

impl CodeType {
    pub(super) fn read(memory: &impl Memory, addr: u64) -> io::Result<Self> {
        let dealloc = memory.word(addr.wrapping_add(TP_DEALLOC))?;
        Ok(Self { addr, dealloc })
    }

    /// The layout of its objects. None when it is not the one that the version is known for.
    pub(super) fn layout(
        self,
        memory: &impl Memory,
        known: &CodeOffsets,
    ) -> io::Result<Option<CodeLayout>> {
        let members = self.members(memory)?;
        let size: u64 = memory.word(self.addr.wrapping_add(TP_BASICSIZE))?;
        let agrees = members.filename == Some(known.filename)
            && members.name == Some(known.name)
            && members.qualname == known.qualname
            && members.first_line == Some(known.first_line)
            && members.line_table == Some(known.line_table)
            // The bytecode is the variable part of the object.
            && known.bytecode.is_none_or(|bytecode| u64::from(bytecode) == size);
        Ok(agrees.then_some(CodeLayout {
            code_type: self.addr,
            filename: known.filename,
            name: known.name,
            qualname: known.qualname,
            first_line: known.first_line,
            line_table: known.line_table,
            lines: known.lines,
            ascii_text: known.ascii_text,
            wide_text: known.wide_text,
        }))
    }

    fn members(self, memory: &impl Memory) -> io::Result<Members> {
        let table = memory.word(self.addr.wrapping_add(TP_MEMBERS))?;
        let mut members = Members::default();
        for number in 0..MAX_MEMBERS {
            let member: [u8; MEMBER_SIZE] =
                memory.value(table.wrapping_add(number * MEMBER_SIZE as u64))?;
            let word =
                |at: usize| u64::from_le_bytes(std::array::from_fn(|byte| member[at + byte]));
            if word(0) == 0 {
                break;
            }
            let name: [u8; MAX_NAME] = memory.value(word(0))?;
            let Ok(offset) = u32::try_from(word(MEMBER_OFFSET)) else {
                continue;
            };
            let place = match name.split(|&byte| byte == 0).next().unwrap_or_default() {
                b"co_filename" => &mut members.filename,
                b"co_name" => &mut members.name,
                b"co_qualname" => &mut members.qualname,
                b"co_firstlineno" => &mut members.first_line,
                b"co_lnotab" | b"co_linetable" => &mut members.line_table,
                _ => continue,
            };
            *place = Some(offset);
        }
        Ok(members)
    }
}
