//! The CPython in a process: found by looking, tested before it is used.

use std::{fmt, thread::sleep, time::Duration};

use memtrace_common::{
    obituary::MAX_HEAD,
    python::{PYTHON_INTERPRETERS, PYTHON_VERIFY, Python},
};

use super::{
    code::CodeLayout,
    code_type::CodeType,
    image::PythonImage,
    memory::{Memory, ProcessMemory},
    refusal::Refusal,
    selftest::{self, Fault},
    slots::{Observer, Slots},
    threads::{ListError, Roster, Thread},
    version::Version,
};
use crate::{
    ids::{ObjectId, Pid},
    target::{maps, object::Object},
};

/// Looks at the threads of a process, for what shows only now and then.
const MAX_LOOKS: usize = 6;
/// What is waited between two looks.
const PAUSE: Duration = Duration::from_millis(1);

/// A CPython in a process.
#[derive(Clone, Debug)]
pub struct Runtime {
    /// Which.
    pub version: Version,
    /// What the probes walk by.
    pub python: Python,
    /// How its code objects are read.
    pub code: CodeLayout,
    /// Address of the function that frees code objects, after which another one may lie in their place. It is in the
    /// code of the image's file.
    pub code_dealloc: u64,
    /// Its interpreters; 0 when it is not initialised yet.
    pub interpreters: usize,
    /// Their threads, as far as they were looked at.
    pub threads: Vec<Thread>,
    /// Whether threads or interpreters were left out.
    pub is_cut: bool,
    /// Whether nothing could be tested yet: it has just begun. To be looked for again.
    pub provisional: bool,
    /// Which threads the probes can tell frames of.
    pub reach: Reach,
}

/// When a thread's frames can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// At any time.
    Always,
    /// While the thread has the GIL.
    WithGil,
    /// Never.
    Never,
    /// There was no thread to look at, or one that had nothing to show yet; places that are usual are tried.
    Untold,
}

impl fmt::Display for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Always => "frames at any time",
            Self::WithGil => {
                "frames only while a thread has the GIL: its own state is at no fixed distance (libpython was loaded \
                 by the program, or the C library is not glibc)"
            }
            Self::Never => {
                "no frames: threads have their states at no fixed distance (libpython was loaded by the program, or \
                 the C library is not glibc)"
            }
            Self::Untold => "frames where threads usually have their states: none could be looked at yet",
        })
    }
}

/// Why there is no [`Runtime`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfound {
    /// The dynamic linker has not prepared it yet. To be looked for again.
    #[error("CPython is not loaded yet")]
    NotYet,
    /// It is left alone.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

/// Looks for the CPython of `image`, which is what `object` says, in a process that has the file's load base at `bias`.
///
/// Reads the process's memory and takes up to 15 ms, most of it waiting.
///
/// # Errors
/// [`Unfound`]: not there yet, or not one that frames can be told of.
pub fn find(pid: Pid, object: &Object, bias: u64, image: &PythonImage) -> Result<Runtime, Unfound> {
    let look = || find_in(&ProcessMemory(pid), object.id, bias, image);
    match look() {
        // The dynamic linker maps a file as a whole first, then its data over that: what was read may have been other bytes
        // of the file.
        Err(Unfound::Refused(Refusal::SelfTest { .. })) => {
            let data = bias.wrapping_add(image.code_type);
            if is_writable(pid, data) {
                look()
            } else {
                Err(Unfound::NotYet)
            }
        }
        found => found,
    }
}

/// Whether the address lies in memory that the process may write: a file's data, once it is where it belongs. So it is taken
/// to be when the process is gone.
fn is_writable(pid: Pid, addr: u64) -> bool {
    maps::read(pid).map_or(true, |mappings| {
        mappings
            .iter()
            .any(|mapping| (mapping.start..mapping.end).contains(&addr) && mapping.access.write)
    })
}

/// [`find`] in any memory.
///
/// # Errors
/// As [`find`].
pub fn find_in(
    memory: &impl Memory,
    object: ObjectId,
    bias: u64,
    image: &PythonImage,
) -> Result<Runtime, Unfound> {
    let search = Search {
        memory,
        bias,
        image,
    };
    let mut runtime = search.run()?;
    runtime.python.object = object.0;
    Ok(runtime)
}

/// The threads that a CPython has now: pairs of thread pointer and state, for whoever has to look states up.
///
/// # Errors
/// When the lists change while they are read, or are none.
pub fn threads(pid: Pid, bias: u64, image: &PythonImage) -> Result<Roster, ListError> {
    let memory = &ProcessMemory(pid);
    Search {
        memory,
        bias,
        image,
    }
    .list()
}

/// Tells the probes what to copy of code objects that are freed; nothing when their layout is beyond what they can.
fn tell_code(python: &mut Python, code: &CodeLayout) {
    let offsets = [
        code.filename,
        code.shown_name(),
        code.line_table,
        code.ascii_text,
        code.wide_text,
    ];
    let fits = offsets.iter().all(|offset| u16::try_from(*offset).is_ok());
    if !fits || code.head_size() >= MAX_HEAD {
        return;
    }
    [
        python.code_file,
        python.code_name,
        python.code_lines,
        python.ascii_text,
        python.wide_text,
    ] = offsets.map(|offset| offset as u16);
    python.code_head = code.head_size() as u16;
}

struct Search<'a, M> {
    memory: &'a M,
    bias: u64,
    image: &'a PythonImage,
}

impl<M: Memory> Search<'_, M> {
    fn run(&self) -> Result<Runtime, Unfound> {
        let code_type = self.code_type()?;
        let code = code_type
            .layout(self.memory, &self.image.layout.code)
            .map_err(|error| self.refused(error.into()))?
            .ok_or_else(|| self.refused(Fault::CodeLayout))?;
        let mut python = self.record()?;
        tell_code(&mut python, &code);
        let passed = selftest::run(self.memory, &python, code_type.addr, || self.list())
            .map_err(|fault| self.refused(fault))?;
        let roster = passed.roster;
        let (slots, reach) = self.slots(&roster);
        python.own_slot = slots.own;
        python.current_slot = slots.current;
        if !slots.is_certain {
            python.flags |= PYTHON_VERIFY;
        }
        if roster.interpreters > 1 {
            python.flags |= PYTHON_INTERPRETERS;
        }
        Ok(Runtime {
            version: self.image.version,
            python,
            code,
            code_dealloc: code_type.dealloc,
            interpreters: roster.interpreters,
            threads: roster.threads,
            is_cut: roster.is_cut,
            provisional: passed.frames == 0,
            reach,
        })
    }

    /// `PyCode_Type`, once the dynamic linker has filled it in.
    fn code_type(&self) -> Result<CodeType, Unfound> {
        let addr = self.bias.wrapping_add(self.image.code_type);
        let found =
            CodeType::read(self.memory, addr).map_err(|error| self.refused(error.into()))?;
        let dealloc = found.dealloc.wrapping_sub(self.bias);
        if self.image.text.iter().any(|text| text.contains(&dealloc)) {
            return Ok(found);
        }
        if self.image.dealloc_in_file == Some(found.dealloc) {
            return Err(Unfound::NotYet);
        }
        Err(self.refused(Fault::Dealloc))
    }

    /// The record but for the slots.
    fn record(&self) -> Result<Python, Unfound> {
        let layout = &self.image.layout;
        let record = layout
            .record()
            .ok_or_else(|| self.refused(Fault::CodeLayout))?;
        let runtime = self.runtime();
        Ok(Python {
            eval: self.image.eval,
            current_addr: layout
                .current
                .map_or(0, |current| runtime.wrapping_add(current.into())),
            ..record
        })
    }

    fn runtime(&self) -> u64 {
        self.bias.wrapping_add(self.image.runtime)
    }

    fn list(&self) -> Result<Roster, ListError> {
        Roster::read(self.memory, &self.image.layout, self.runtime())
    }

    /// Where the threads have their states, by looking several times at whatever threads there are then.
    fn slots(&self, roster: &Roster) -> (Slots, Reach) {
        let guess = self.image.guess;
        let mut observer = Observer::default();
        let mut threads = roster.threads.clone();
        for look in 0..MAX_LOOKS {
            if look > 0 {
                sleep(PAUSE);
                threads = self.list().map_or(threads, |roster| roster.threads);
            }
            observer.look(self.memory, &threads);
            if !observer.is_open(guess) {
                break;
            }
        }
        let mut slots = observer.slots(guess);
        if roster.interpreters > 1 && slots.current == 0 {
            // The own state may be one of another interpreter than the one that runs.
            slots = slots.or_current(guess);
        }
        match slots {
            Slots { own: 0, .. } if observer.threads() < 2 => (guess.slots(), Reach::Untold),
            Slots {
                own: 0, current: 0, ..
            } if self.image.layout.current.is_none() => (slots, Reach::Never),
            Slots { own: 0, .. } => (slots, Reach::WithGil),
            _ => (slots, Reach::Always),
        }
    }

    fn refused(&self, fault: Fault) -> Unfound {
        Unfound::Refused(Refusal::SelfTest {
            version: self.image.version,
            fault,
        })
    }
}
