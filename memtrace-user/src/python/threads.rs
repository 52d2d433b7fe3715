//! The interpreters of a process and their threads, by the lists that CPython keeps.
//!
//! The lists are read while the process changes them. What cannot be is an error, after which they are read again.

use std::{collections::HashSet, io};

use super::{memory::Memory, offsets::Layout};

/// Interpreters that are looked at.
pub const MAX_INTERPRETERS: usize = 64;
/// Threads that are looked at, of all interpreters together.
pub const MAX_THREADS: usize = 1024;

/// A thread as an interpreter sees it. One with several interpreters has a state in each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Thread {
    /// Its thread pointer: the base of `fs`. 0 when the state belongs to no thread at the moment.
    pub pointer: u64,
    /// Address of its `PyThreadState`.
    pub state: u64,
    /// Address of the `PyInterpreterState`.
    pub interpreter: u64,
}

/// All threads of a process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Roster {
    /// Its interpreters; 0 before CPython is initialised.
    pub interpreters: usize,
    /// Their threads.
    pub threads: Vec<Thread>,
    /// Whether there are more than [`MAX_INTERPRETERS`] or [`MAX_THREADS`].
    pub is_cut: bool,
}

/// Why the lists are none.
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    /// They lead to where nothing can be read.
    #[error("a thread's state cannot be read")]
    Memory(#[from] io::Error),
    /// They lead back to themselves.
    #[error("the list of threads does not end")]
    Cycle,
    /// A thread in the list of one interpreter says that it belongs to another.
    #[error("a thread's state does not name its interpreter")]
    Foreign,
}

impl Roster {
    /// Reads the lists that begin in the `_PyRuntime` at `runtime`.
    pub(super) fn read(
        memory: &impl Memory,
        layout: &Layout,
        runtime: u64,
    ) -> Result<Self, ListError> {
        let mut roster = Self::default();
        let mut seen = HashSet::new();
        let mut interpreter = field(memory, runtime, layout.interpreters)?;
        while interpreter != 0 {
            if !seen.insert(interpreter) {
                return Err(ListError::Cycle);
            }
            if roster.interpreters == MAX_INTERPRETERS {
                roster.is_cut = true;
                break;
            }
            roster.interpreters += 1;
            roster.read_threads(memory, layout, interpreter, &mut seen)?;
            interpreter = field(memory, interpreter, layout.interpreter_next)?;
        }
        Ok(roster)
    }

    fn read_threads(
        &mut self,
        memory: &impl Memory,
        layout: &Layout,
        interpreter: u64,
        seen: &mut HashSet<u64>,
    ) -> Result<(), ListError> {
        let mut state = field(memory, interpreter, layout.interpreter_threads)?;
        while state != 0 {
            if !seen.insert(state) {
                return Err(ListError::Cycle);
            }
            if self.threads.len() == MAX_THREADS {
                self.is_cut = true;
                break;
            }
            if field(memory, state, layout.state.interpreter)? != interpreter {
                return Err(ListError::Foreign);
            }
            self.threads.push(Thread {
                pointer: field(memory, state, layout.state.thread_id)?,
                state,
                interpreter,
            });
            state = field(memory, state, layout.state.next)?;
        }
        Ok(())
    }
}

fn field(memory: &impl Memory, addr: u64, offset: u32) -> io::Result<u64> {
    memory.word(addr.wrapping_add(offset.into()))
}
