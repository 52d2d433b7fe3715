//! The allocator programs, loaded in the best form that this kernel takes.
//!
//! Two program sets and three attach levels live in one object. Which of them a kernel takes is found by loading and
//! attaching, never by its version: distributions carry features back, and 6.12 shows the functions of sessions in its
//! types without allowing them to uprobes.

use std::{
    collections::HashMap,
    fmt,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    sync::Mutex,
};

use anyhow::Context as _;
use memtrace_common::{cookie, kind};

use super::{
    btf::KernelTypes,
    sys,
    text::{Replacement, Text, TextError},
};

/// `BPF_TRACE_UPROBE_MULTI` (include/uapi/linux/bpf.h).
pub(super) const ATTACH_MULTI: u32 = 48;
/// `BPF_TRACE_UPROBE_SESSION`
pub(super) const ATTACH_SESSION: u32 = 57;
/// A program that is attached through a perf event has no attach type.
const ATTACH_SINGLE: u32 = 0;

/// How probes are attached, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum AttachLevel {
    /// One link for all functions of a file; the entry decides whether the return is taken (6.13 and newer).
    Session,
    /// One link for all entries of a file, one for all returns (6.6 and newer).
    Multi,
    /// One perf event for each entry and each return.
    Single,
}

impl AttachLevel {
    /// Whether a function may be probed at this level.
    ///
    /// A C++ exception cannot leave a function whose return the kernel has taken: no unwinder gets past the replaced
    /// return address, and the program is ended. Only sessions can let the return of a call go that is bound to fail, so
    /// without them a function that throws is left alone.
    #[must_use]
    pub fn takes(self, cookie: u32) -> bool {
        self == Self::Session || cookie & cookie::THROWS == 0
    }
}

impl fmt::Display for AttachLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Session => "session",
            Self::Multi => "multi",
            Self::Single => "single",
        })
    }
}

/// How stacks are walked, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Unwinder {
    /// In `bpf_loop` (5.17 and newer).
    Loop,
    /// In a chain of tail calls.
    TailCall,
}

impl fmt::Display for Unwinder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Loop => "loop",
            Self::TailCall => "tail-call",
        })
    }
}

impl Unwinder {
    fn program(self) -> &'static str {
        match self {
            Self::Loop => "allocator_loop",
            Self::TailCall => "allocator_tail",
        }
    }
}

/// Loaded programs.
#[derive(Debug)]
pub(super) struct Programs {
    pub(super) level: AttachLevel,
    pub(super) unwinder: Unwinder,
    forms: Forms,
    /// The program that walks on, and the array through which the others call it.
    _walker: Option<(OwnedFd, OwnedFd)>,
}

#[derive(Debug)]
enum Forms {
    Session(OwnedFd),
    Multi {
        entry: OwnedFd,
        at_return: OwnedFd,
    },
    /// Where the kernel has no cookies, one program for each and for each side; loaded when first needed.
    Single {
        text: Box<Text>,
        loaded: Mutex<HashMap<(u32, bool), OwnedFd>>,
    },
}

impl Programs {
    /// Loads the set `unwinder` at `level`.
    pub(super) fn load(
        text: Text,
        types: &KernelTypes,
        level: AttachLevel,
        unwinder: Unwinder,
    ) -> anyhow::Result<Self> {
        let walker = match unwinder {
            Unwinder::Loop => None,
            Unwinder::TailCall => {
                let walker = load_walker(&text, level)?;
                let array = text.tail_calls().try_clone_to_owned()?;
                sys::set_program(array.as_fd(), 0, walker.as_fd())
                    .context("failed to set the walking program")?;
                Some((walker, array))
            }
        };
        let forms = Forms::load(text, types, level, unwinder.program())?;
        Ok(Self {
            level,
            unwinder,
            forms,
            _walker: walker,
        })
    }

    /// The session program.
    pub(super) fn session(&self) -> Option<BorrowedFd<'_>> {
        match &self.forms {
            Forms::Session(program) => Some(program.as_fd()),
            _ => None,
        }
    }

    /// The programs for entries and for returns of a `multi` link.
    pub(super) fn multi(&self) -> Option<(BorrowedFd<'_>, BorrowedFd<'_>)> {
        match &self.forms {
            Forms::Multi { entry, at_return } => Some((entry.as_fd(), at_return.as_fd())),
            _ => None,
        }
    }

    /// How often the kernel has skipped one of the programs.
    pub(super) fn skipped(&self) -> anyhow::Result<u64> {
        let skipped = |program: &OwnedFd| sys::skipped_runs(program.as_fd());
        let sum: Result<u64, _> = match &self.forms {
            Forms::Session(program) => skipped(program),
            Forms::Multi { entry, at_return } => [entry, at_return].into_iter().map(skipped).sum(),
            Forms::Single { loaded, .. } => loaded
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner)
                .values()
                .map(skipped)
                .sum(),
        };
        sum.context("failed to read what the kernel has skipped")
    }

    /// Calls `use_program` with the program for one cookie and side.
    pub(super) fn with_single<T>(
        &self,
        cookie: u32,
        at_return: bool,
        use_program: impl FnOnce(BorrowedFd<'_>) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let Forms::Single { text, loaded } = &self.forms else {
            anyhow::bail!("programs are loaded for level {}", self.level);
        };
        let mut loaded = loaded
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let program = match loaded.entry((cookie, at_return)) {
            std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::hash_map::Entry::Vacant(entry) => entry.insert(load_single(
                text,
                self.unwinder.program(),
                cookie,
                at_return,
            )?),
        };
        use_program(program.as_fd())
    }
}

impl Forms {
    fn load(
        text: Text,
        types: &KernelTypes,
        level: AttachLevel,
        program: &str,
    ) -> anyhow::Result<Self> {
        match level {
            AttachLevel::Session => {
                let is_return = types
                    .function("bpf_session_is_return")
                    .ok_or_else(|| anyhow::anyhow!("the kernel has no uprobe sessions"))?;
                let is_return = Replacement::KernelFunction(is_return);
                Ok(Self::Session(text.load(
                    program,
                    ATTACH_SESSION,
                    Replacement::Cookie,
                    is_return,
                )?))
            }
            AttachLevel::Multi => {
                let side = |side| {
                    text.load(
                        program,
                        ATTACH_MULTI,
                        Replacement::Cookie,
                        Replacement::Constant(side),
                    )
                };
                Ok(Self::Multi {
                    entry: side(0)?,
                    at_return: side(1)?,
                })
            }
            AttachLevel::Single => {
                let first = load_single(&text, program, kind::FREE, false)?;
                let loaded = Mutex::new(HashMap::from([((kind::FREE, false), first)]));
                Ok(Self::Single {
                    text: Box::new(text),
                    loaded,
                })
            }
        }
    }
}

fn load_single(
    text: &Text,
    program: &str,
    cookie: u32,
    at_return: bool,
) -> Result<OwnedFd, TextError> {
    let (cookie, side) = (
        Replacement::Constant(cookie),
        Replacement::Constant(at_return.into()),
    );
    text.load(program, ATTACH_SINGLE, cookie, side)
}

/// The kernel only lets programs of one attach type call each other.
fn load_walker(text: &Text, level: AttachLevel) -> Result<OwnedFd, TextError> {
    let attach_type = match level {
        AttachLevel::Session => ATTACH_SESSION,
        AttachLevel::Multi => ATTACH_MULTI,
        AttachLevel::Single => ATTACH_SINGLE,
    };
    // It asks neither for its place nor for its side.
    text.load(
        "walk_tail",
        attach_type,
        Replacement::Constant(0),
        Replacement::Constant(0),
    )
}
