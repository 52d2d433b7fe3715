//! The self-test of a runtime: every frame of every thread must be one.
//!
//! What is tested is the record that the probes will walk by. The process goes on meanwhile, so a thread that fails is
//! looked at again; a thread that fails every time condemns the runtime.

use std::{
    collections::{HashMap, HashSet},
    io,
    thread::sleep,
    time::Duration,
};

use memtrace_common::python::Python;

use super::{
    memory::Memory,
    threads::{ListError, Roster, Thread},
    walk::{MAX_FRAMES, WalkError, walk},
};

/// Times that the threads are gone through.
const ATTEMPTS: usize = 8;
/// What is waited before they are gone through again.
const PAUSE: Duration = Duration::from_millis(1);
/// Threads whose frames are walked. Wrong offsets show in the first.
const MAX_WALKED: usize = 256;
/// Frames that are looked at in all; threads that are left then pass.
const MAX_STEPS: usize = 1 << 16;
/// Largest bytecode that is believed; a frame outside of it has another code object.
const MAX_BYTECODE: i64 = 1 << 26;
/// `PyObject.ob_type`
const OB_TYPE: u64 = 8;

/// Why a runtime is not what it seems.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The lists of threads are none.
    #[error("{0}")]
    List(String),
    /// A thread's frames are none.
    #[error("{0}")]
    Frames(String),
    /// What a frame has for its code is none.
    #[error("a frame has no code object")]
    NotCode,
    /// A frame is at no instruction of its code.
    #[error("a frame is outside of its code")]
    Outside,
    /// `PyCode_Type` does not describe the code objects of this version.
    #[error("its code objects are laid out differently")]
    CodeLayout,
    /// `PyCode_Type` names no function that frees code objects.
    #[error("the function that frees code objects is not in the file")]
    Dealloc,
    /// Memory that must be there is not.
    #[error("its data cannot be read")]
    Memory,
}

impl From<ListError> for Fault {
    fn from(error: ListError) -> Self {
        Self::List(error.to_string())
    }
}

impl From<WalkError> for Fault {
    fn from(error: WalkError) -> Self {
        Self::Frames(error.to_string())
    }
}

impl From<io::Error> for Fault {
    fn from(_: io::Error) -> Self {
        Self::Memory
    }
}

/// What the self-test has seen.
#[derive(Clone, Debug, Default)]
pub(super) struct Passed {
    /// The threads, as they were listed last.
    pub(super) roster: Roster,
    /// Frames that were verified; none in a process that has just begun.
    pub(super) frames: usize,
}

/// Tests a runtime: `list` reads its threads.
pub(super) fn run(
    memory: &impl Memory,
    python: &Python,
    code_type: u64,
    list: impl Fn() -> Result<Roster, ListError>,
) -> Result<Passed, Fault> {
    let mut test = Test {
        memory,
        python,
        code_type,
        types: HashMap::new(),
        frames: 0,
        steps: 0,
    };
    let mut passed: HashSet<u64> = HashSet::new();
    let mut fault = Fault::Memory;
    for attempt in 0..ATTEMPTS {
        if test.steps > MAX_STEPS {
            break;
        }
        if attempt > 0 {
            sleep(PAUSE);
        }
        let roster = match list() {
            Ok(roster) => roster,
            Err(error) => {
                fault = error.into();
                continue;
            }
        };
        let mut failed = None;
        for thread in roster.threads.iter().take(MAX_WALKED) {
            if passed.contains(&thread.state) || test.steps > MAX_STEPS {
                continue;
            }
            match test.thread(thread) {
                Ok(()) => drop(passed.insert(thread.state)),
                Err(fault) => failed = Some(fault),
            }
        }
        match failed {
            Some(failed) => fault = failed,
            None => {
                return Ok(Passed {
                    roster,
                    frames: test.frames,
                });
            }
        }
    }
    Err(fault)
}

struct Test<'a, M> {
    memory: &'a M,
    python: &'a Python,
    code_type: u64,
    /// Types of objects, which do not change while a thread is looked at.
    types: HashMap<u64, u64>,
    /// Frames that have passed.
    frames: usize,
    /// Frames that were looked at.
    steps: usize,
}

impl<M: Memory> Test<'_, M> {
    fn thread(&mut self, thread: &Thread) -> Result<(), Fault> {
        let walked = walk(self.memory, self.python, thread.state);
        self.steps += walked
            .as_ref()
            .map_or(MAX_FRAMES, |stack| stack.frames.len());
        let stack = walked?;
        self.types.clear();
        for frame in &stack.frames {
            if self.type_of(frame.code)? != self.code_type {
                return Err(Fault::NotCode);
            }
            // Two units before its beginning: where a frame is before it has begun.
            if !(-4..MAX_BYTECODE).contains(&frame.lasti) {
                return Err(Fault::Outside);
            }
        }
        self.frames += stack.frames.len();
        Ok(())
    }

    fn type_of(&mut self, object: u64) -> io::Result<u64> {
        if let Some(&known) = self.types.get(&object) {
            return Ok(known);
        }
        let found = self.memory.word(object.wrapping_add(OB_TYPE))?;
        self.types.insert(object, found);
        Ok(found)
    }
}
