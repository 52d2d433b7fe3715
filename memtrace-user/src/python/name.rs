//! What a code object is called, how a name is read, and why there may be none.

use std::{fmt, sync::Arc};

use super::{
    code::{CodeError, CodeObject},
    obituary::Obituary,
};
use crate::ids::Pid;

/// A code object as it was read.
pub trait CodeName: fmt::Debug + Send + Sync {
    /// Qualified name: `Cache.insert`; the plain one before 3.11.
    fn function(&self) -> &str;

    /// `co_filename`.
    fn file(&self) -> &str;

    /// Line of an instruction (`memtrace_common::stack::instr_of`); `None` when it has none.
    fn line(&self, instr: u32) -> Option<u32>;

    /// Whether its frames are the interpreter's own, which Python never shows.
    fn is_shim(&self) -> bool {
        false
    }

    /// Bytes that keeping it takes, about.
    fn bytes(&self) -> usize;
}

impl CodeName for CodeObject {
    fn function(&self) -> &str {
        &self.name
    }

    fn file(&self) -> &str {
        &self.file
    }

    fn line(&self, instr: u32) -> Option<u32> {
        self.frame_line(instr)
    }

    fn is_shim(&self) -> bool {
        self.head.is_shim()
    }

    fn bytes(&self) -> usize {
        self.size()
    }
}

/// Reads code objects of running processes.
pub trait CodeReader: Send {
    /// Reads the code object at `addr`.
    ///
    /// Must not give anything but what is there: it checks that the object is a code object. Nothing may run in a process
    /// between `exec` and the event that tells of it, so no code object is found there under an address of the former
    /// program.
    ///
    /// # Errors
    /// When it could not be read, or is no code object.
    fn read(&mut self, pid: Pid, addr: u64) -> Result<Arc<dyn CodeName>, ReadError>;

    /// Reads the copy of a code object.
    ///
    /// # Errors
    /// When it is none of a code object.
    fn recall(&mut self, obituary: &Obituary) -> Result<Arc<dyn CodeName>, ReadError>;
}

/// Why a code object could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadError {
    /// Memory could not be read now: worth another try.
    Fault,
    /// What is there is no code object, or a damaged one; worth another try, since it may have been half written.
    Damaged,
    /// Nobody knows how code objects of this process look.
    UnknownRuntime,
}

/// Why a Python frame has no name. A name that may be another's is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Gone {
    /// It will be read.
    NotYet,
    /// It was freed first.
    Freed,
    /// Its process ended, or began another program, first.
    Ended,
    /// More new code objects than could be told of.
    Behind,
    /// Events were lost: its address may have stood for another.
    EventsLost,
    /// The stack arrived so late that its addresses may stand for others.
    StackLate,
    /// The limits of code objects leave no room.
    Full,
    /// See [`ReadError::Fault`].
    Unreadable,
    /// See [`ReadError::Damaged`].
    Damaged,
    /// See [`ReadError::UnknownRuntime`].
    UnknownRuntime,
}

impl From<CodeError> for ReadError {
    fn from(error: CodeError) -> Self {
        match error {
            CodeError::Unreadable(_) => Self::Fault,
            CodeError::NotCode
            | CodeError::Freed
            | CodeError::Changed
            | CodeError::Text(_)
            | CodeError::Layout(_) => Self::Damaged,
        }
    }
}

impl From<ReadError> for Gone {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Fault => Self::Unreadable,
            ReadError::Damaged => Self::Damaged,
            ReadError::UnknownRuntime => Self::UnknownRuntime,
        }
    }
}

impl fmt::Display for Gone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotYet => "code object not read yet",
            Self::Freed => "code object freed before it could be read",
            Self::Ended => "process ended before the code object could be read",
            Self::Behind => "too many new code objects at once",
            Self::EventsLost => "events lost: may be another code object",
            Self::StackLate => "stack arrived late: may be another code object",
            Self::Full => "table of code objects full",
            Self::Unreadable => "code object not readable",
            Self::Damaged => "no code object at its address",
            Self::UnknownRuntime => "runtime of the code object unknown",
        })
    }
}
