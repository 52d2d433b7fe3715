//! The tracker's state at one moment: frozen, owned, ids only.
//!
//! Made by [`track`](crate::track) on the drain thread, consumed by [`resolve`](crate::resolve) and
//! [`report`](crate::report) elsewhere. Knows no names and no processes beyond their ids.

use std::{collections::HashMap, fmt, sync::Arc, time::Duration};

use memtrace_common::domain;

use memtrace_common::stack::FRAME_PYTHON;

use crate::{
    ids::{BindingId, Bytes, CodeId, Pid, StackId},
    python::name::Gone,
};

/// What was frozen.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Time since the session began.
    pub elapsed: Duration,
    /// Running processes by process id, then the exited ones that are kept in the order in which they ended.
    pub processes: Vec<ProcessSnapshot>,
    /// The stacks that the sites of this snapshot refer to. A site whose stack was lost has no entry.
    pub stacks: HashMap<StackId, Arc<Stack>>,
    /// The bindings that the sites of this snapshot refer to.
    pub bindings: HashMap<BindingId, Arc<Binding>>,
    /// Events applied since the session began.
    pub events: u64,
    /// Distinct stacks received and kept since the session began.
    pub distinct_stacks: u64,
    /// Records that could not be decoded, and records of a kind this build does not know.
    pub malformed: u64,
    /// Events of processes that were not followed because the limit of running processes was reached.
    pub refused_events: u64,
    /// Stacks that were not kept because the limit of the stack dictionary was reached.
    pub dropped_stacks: u64,
    /// Copies of freed Python code objects for which there was no room.
    pub dropped_obituaries: u64,
    /// Times a site could not be bound to the code objects of its Python frames: its stack was lost on its way, or there was
    /// no room.
    pub unbound_sites: u64,
    /// What is left of the exited processes that are no longer in `processes`.
    pub forgotten: Forgotten,
}

impl Snapshot {
    /// The stack of a site with what its Python frames stand for; `None` when the stack was lost.
    #[must_use]
    pub fn bound(&self, site: &SiteCounts) -> Option<Bound<'_>> {
        let stack = self.stacks.get(&site.stack)?;
        let codes = match (site.binding, self.bindings.get(&site.binding)) {
            (_, Some(binding)) => Ok(&*binding.codes),
            (BindingId::DOUBTED, None) => Err(Gone::EventsLost),
            (_, None) => Err(Gone::StackLate),
        };
        Some(Bound { stack, codes })
    }
}

/// The sum of exited processes that were dropped, oldest first, because the limit of kept ones was reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Forgotten {
    /// How many.
    pub processes: u64,
    /// Requested bytes that were live when they ended.
    pub live_bytes: Bytes,
    /// Blocks that were live when they ended.
    pub live_blocks: u64,
    /// Requested bytes they allocated.
    pub allocated_bytes: Bytes,
    /// Blocks they allocated.
    pub allocated_blocks: u64,
    /// Frees of blocks that were not known.
    pub unknown_frees: u64,
}

/// One generation of one process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProcessSnapshot {
    /// Its process id.
    pub pid: Pid,
    /// Programs it has begun since it was first seen: 0 for the first.
    pub exec_count: u32,
    /// Whether it has exited (or begun another program, which ends the generation).
    pub exited: bool,
    /// Requested bytes that are live.
    pub live_bytes: Bytes,
    /// Blocks that are live.
    pub live_blocks: u64,
    /// Of these, blocks inherited from the parent at fork.
    pub inherited_blocks: u64,
    /// Requested bytes allocated since attach.
    pub allocated_bytes: Bytes,
    /// Blocks allocated since attach.
    pub allocated_blocks: u64,
    /// Frees of blocks that were not known: allocated before attach, or their event was lost.
    pub unknown_frees: u64,
    /// Live blocks whose address was handed out again: their free was lost.
    pub superseded_blocks: u64,
    /// Largest `live_bytes` seen.
    pub peak_bytes: Bytes,
    /// When this generation was first seen, since the session began. Tells generations of a reused process id
    /// apart.
    pub begun: Duration,
    /// Blocks that are not followed because the memory limit was reached; not in `live_blocks`, but in
    /// `allocated_blocks`. A folded block stays counted when it is freed.
    pub folded_blocks: u64,
    /// Requested bytes of these.
    pub folded_bytes: Bytes,
    /// Whether blocks of this process, or of the parent it was forked from, were folded: from then on a free of
    /// such a block counts in `unknown_frees`.
    pub frees_uncertain: bool,
    /// Blocks counted under the null stack because the limit of sites was reached.
    pub siteless_blocks: u64,
    /// Per site; the order means nothing.
    pub sites: Vec<SiteCounts>,
}

/// One site's share of a process: a stack and what its Python frames stand for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SiteCounts {
    /// The stack.
    pub stack: StackId,
    /// What its Python frames stood for while the site took blocks.
    pub binding: BindingId,
    /// Requested bytes that are live.
    pub live_bytes: Bytes,
    /// Blocks that are live.
    pub live_blocks: u64,
    /// Requested bytes allocated since attach.
    pub allocated_bytes: Bytes,
    /// Blocks allocated since attach.
    pub allocated_blocks: u64,
    /// Age of the oldest live block; zero when none lives. An inherited block is as old as its process.
    pub oldest: Duration,
}

/// Which live blocks a freeze counts: those that pass every bound.
#[derive(Clone, Copy, Debug, Default)]
pub struct BlockFilter {
    /// Only blocks at least this old.
    pub min_age: Duration,
    /// Only blocks of at least this many bytes.
    pub min_size: Option<Bytes>,
    /// Only blocks of at most this many bytes.
    pub max_size: Option<Bytes>,
}

impl BlockFilter {
    /// Whether the answer depends on a block's size.
    #[must_use]
    pub fn depends_on_size(&self) -> bool {
        self.min_size.is_some() || self.max_size.is_some()
    }
}

/// What the Python frames of a stack stand for in a process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Binding {
    /// The stack.
    pub stack: StackId,
    /// The code object of each of its Python frames, innermost first.
    pub codes: Box<[CodeId]>,
}

/// A stack with what its Python frames stand for.
#[derive(Clone, Copy, Debug)]
pub struct Bound<'a> {
    /// The stack.
    pub stack: &'a Stack,
    /// The code object of each of its Python frames, or why none of them is known.
    pub codes: Result<&'a [CodeId], Gone>,
}

impl<'a> Bound<'a> {
    /// The frame words, innermost first, each Python frame with its code object.
    pub fn frames(self) -> impl Iterator<Item = (u64, Option<Result<CodeId, Gone>>)> + 'a {
        let mut codes = self.codes.unwrap_or_default().iter();
        self.stack.frames.iter().map(move |&frame| {
            let code = (frame & FRAME_PYTHON != 0).then(|| match self.codes {
                Ok(_) => codes.next().copied().ok_or(Gone::StackLate),
                Err(gone) => Err(gone),
            });
            (frame, code)
        })
    }
}

/// Which interface of CPython's allocator was called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Domain {
    /// `PyMem_Raw*`
    Raw,
    /// `PyMem_*`
    Mem,
    /// `PyObject_*`
    Object,
}

impl Domain {
    /// Parts the words of a stack as they travel: the domain, if there is one, and the frames.
    #[must_use]
    pub fn split(words: &[u64]) -> (Option<Self>, &[u64]) {
        let domain = words
            .first()
            .map_or(domain::NONE, |&word| domain::of_word(word));
        let domain = match domain {
            domain::RAW => Self::Raw,
            domain::MEM => Self::Mem,
            domain::OBJECT => Self::Object,
            _ => return (None, words),
        };
        (Some(domain), &words[1..])
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Raw => "raw",
            Self::Mem => "mem",
            Self::Object => "object",
        })
    }
}

impl Stack {
    /// Whether any of its frames is a Python frame.
    #[must_use]
    pub fn is_python(&self) -> bool {
        self.frames.iter().any(|frame| frame & FRAME_PYTHON != 0)
    }
}

/// A stack as it was received.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stack {
    /// Domain of CPython's allocator that was called; `None` = another allocator.
    pub domain: Option<Domain>,
    /// Frame words (`memtrace_common::stack::frame`), innermost first.
    pub frames: Box<[u64]>,
    /// One of `memtrace_common::stack::CUT_*`.
    pub cut: u8,
    /// Program counter at which the walk was cut; 0 when complete.
    pub cut_addr: u64,
}

#[cfg(test)]
mod tests {
    use memtrace_common::stack;

    use super::*;

    #[test]
    fn a_domain_is_taken_off_and_frames_are_not() {
        let frame = stack::frame(3, 0x1000);
        let words = [domain::word(domain::MEM), frame];
        assert_eq!(Domain::split(&words), (Some(Domain::Mem), &[frame][..]));
        let unknown = stack::python_frame(0, stack::INSTR_UNKNOWN);
        for words in [&[frame][..], &[unknown], &[]] {
            assert_eq!(Domain::split(words), (None, words));
        }
    }
}
