//! Names of code objects, each for the time in which its address stood for it.
//!
//! An address is of a process, and the interpreter gives it to another code object once it is freed. So names belong to
//! *incarnations* ([`CodeId`]), which the tracker numbers. A read of the process's memory knows nothing of
//! incarnations: it finds what is at the address at that moment. The drain tells, in ring order, of new incarnations and
//! of ended ones, and now and then a time *T*: everything that happened before *T* has been told. A name that was read
//! completely at *R* is accepted when a *T* ≥ *R* is told and the incarnation has not ended by then. Before a code
//! object's memory can be reused its end is in the ring, so what was read was the incarnation itself. Otherwise the name
//! is [`Gone`], but for an *obituary*: what the probes have copied of it at its end ([`Word::Copied`]).
//!
//! Nothing here reads memory, has a thread or a clock: the holder asks what to read next ([`CodeBook::next`]), reads, and
//! hands in what came of it ([`CodeBook::hand_in`]). Bounded by [`BookLimits`].

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use super::{
    name::{CodeName, Gone, ReadError},
    obituary::Obituary,
};
use crate::ids::{Bytes, CodeId, Pid};

/// What the drain tells, in ring order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Word {
    /// A code object that was not known is in use.
    New {
        /// Its number.
        id: CodeId,
        /// Whose memory it lies in.
        pid: Pid,
        /// Where.
        addr: u64,
    },
    /// A process has freed its copy of it.
    Freed {
        /// Its number.
        id: CodeId,
        /// The process; a forked child may free what it shares with its parent.
        pid: Pid,
    },
    /// What was copied of it when it was freed. Comes before [`Word::Freed`], or later.
    Copied {
        /// Its number.
        id: CodeId,
        /// The copy.
        obituary: Arc<Obituary>,
    },
    /// The program of a process has ended: its memory is gone.
    Ended(Pid),
    /// Some [`Word::New`] or [`Word::Freed`] could not be told.
    Missed,
    /// Events were lost that may have told of ends.
    Distrust {
        /// They happened after this time.
        since: Duration,
    },
}

/// What a book may hold.
#[derive(Clone, Copy, Debug)]
pub struct BookLimits {
    /// Incarnations, named or gone.
    pub codes: usize,
    /// Bytes of names.
    pub bytes: Bytes,
}

impl Default for BookLimits {
    fn default() -> Self {
        Self {
            codes: 1 << 20,
            bytes: Bytes(128 << 20),
        }
    }
}

/// How a book did so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BookCounts {
    /// Incarnations told of.
    pub told: u64,
    /// Reads that gave a name.
    pub read: u64,
    /// Names accepted.
    pub accepted: u64,
    /// Of these, those from obituaries.
    pub recalled: u64,
    /// Incarnations that will never have a name.
    pub gone: u64,
    /// Of these, those for which there was no room.
    pub full: u64,
}

/// A code object to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errand {
    /// Its number.
    pub id: CodeId,
    /// Whose memory it lies in.
    pub pid: Pid,
    /// Where.
    pub addr: u64,
}

/// When a read that failed is tried again; after the last, the name is gone. Together longer than the longest pause of the
/// drain, so that the end of a process is heard of before its code objects count as unreadable.
const PAUSES: [Duration; 4] = [
    Duration::from_millis(2),
    Duration::from_millis(8),
    Duration::from_millis(32),
    Duration::from_millis(128),
];

/// Bytes that an incarnation takes beside its name: its entry in a table that has just grown, and its places in queues.
const ENTRY_COST: u64 = 192;

#[derive(Debug)]
enum State {
    Unread {
        pid: Pid,
        addr: u64,
        failures: usize,
        due: Duration,
    },
    /// Read completely at `at`; not accepted yet.
    Read {
        pid: Pid,
        name: Arc<dyn CodeName>,
        at: Duration,
    },
    Named {
        name: Arc<dyn CodeName>,
        at: Duration,
    },
    Gone(Gone),
}

impl State {
    /// The process whose memory matters to it.
    fn waits_for(&self) -> Option<Pid> {
        match self {
            Self::Unread { pid, .. } | Self::Read { pid, .. } => Some(*pid),
            Self::Named { .. } | Self::Gone(_) => None,
        }
    }

    /// Whether a copy is of use: there is no name, for a reason that does not put the number in doubt.
    fn takes_copy(&self) -> bool {
        match self {
            Self::Unread { .. } | Self::Read { .. } => true,
            Self::Named { .. } => false,
            Self::Gone(gone) => !matches!(gone, Gone::EventsLost | Gone::Full),
        }
    }
}

/// The names of all incarnations.
#[derive(Debug)]
pub struct CodeBook {
    codes: HashMap<CodeId, State>,
    /// Those that are unread, by the time at which they are due.
    unread: BTreeSet<(Duration, CodeId)>,
    /// Those that have been read, in the order of their times; may hold some that have ended since.
    read: VecDeque<(Duration, CodeId)>,
    /// Who waits, by process: an end must not search everything.
    waiting: BTreeSet<(Pid, CodeId)>,
    /// Copies that have not been looked at.
    copies: VecDeque<(CodeId, Arc<Obituary>)>,
    bytes: u64,
    limits: BookLimits,
    counts: BookCounts,
}

impl CodeBook {
    /// An empty book.
    #[must_use]
    pub fn new(limits: BookLimits) -> Self {
        Self {
            codes: HashMap::new(),
            unread: BTreeSet::new(),
            read: VecDeque::new(),
            waiting: BTreeSet::new(),
            copies: VecDeque::new(),
            bytes: 0,
            limits,
            counts: BookCounts::default(),
        }
    }

    /// Takes what the drain tells.
    pub fn tell(&mut self, word: Word) {
        match word {
            Word::New { id, pid, addr } => self.begin(id, pid, addr),
            Word::Freed { id, pid } => {
                if self.codes.get(&id).and_then(State::waits_for) == Some(pid) {
                    self.end(id, Gone::Freed);
                }
            }
            Word::Copied { id, obituary } => self.copies.push_back((id, obituary)),
            Word::Ended(pid) => self.end_process(pid),
            Word::Missed => self.end_waiting(Gone::Behind),
            Word::Distrust { since } => self.distrust(since),
        }
    }

    /// Everything that happened before `until` has been told.
    pub fn drained(&mut self, until: Duration) {
        while let Some(&(at, id)) = self.read.front()
            && at <= until
        {
            self.read.pop_front();
            self.accept(id, at);
        }
    }

    /// The next code object to be read at `now`. It is not given again before it is handed in.
    pub fn next(&mut self, now: Duration) -> Option<Errand> {
        let &(due, id) = self.unread.first().filter(|(due, _)| *due <= now)?;
        self.unread.remove(&(due, id));
        match self.codes.get(&id) {
            Some(&State::Unread { pid, addr, .. }) => Some(Errand { id, pid, addr }),
            _ => None,
        }
    }

    /// What came of a read that ended at `at`.
    pub fn hand_in(
        &mut self,
        id: CodeId,
        outcome: Result<Arc<dyn CodeName>, ReadError>,
        at: Duration,
    ) {
        let Some(&State::Unread {
            pid,
            addr,
            failures,
            ..
        }) = self.codes.get(&id)
        else {
            return;
        };
        match outcome {
            Ok(name) => self.keep(id, pid, name, at),
            Err(error) => match PAUSES.get(failures) {
                Some(pause) if error != ReadError::UnknownRuntime => {
                    let due = at + *pause;
                    let failures = failures + 1;
                    self.unread.insert((due, id));
                    self.codes.insert(
                        id,
                        State::Unread {
                            pid,
                            addr,
                            failures,
                            due,
                        },
                    );
                }
                _ => self.end(id, error.into()),
            },
        }
    }

    /// The next copy that can name its incarnation.
    pub fn next_copy(&mut self) -> Option<(CodeId, Arc<Obituary>)> {
        while let Some((id, obituary)) = self.copies.pop_front() {
            if self.codes.get(&id).is_some_and(State::takes_copy) {
                return Some((id, obituary));
            }
        }
        None
    }

    /// The name that a copy has given at `at`. It was taken when the incarnation ended, so it is right whatever else
    /// was told meanwhile, unless the numbers themselves are in doubt.
    pub fn recall(&mut self, id: CodeId, name: Arc<dyn CodeName>, at: Duration) {
        if !self.codes.get(&id).is_some_and(State::takes_copy) {
            return;
        }
        // Ended, so that it waits for nothing and nothing is counted twice.
        self.end(id, Gone::Freed);
        let bytes = name.bytes() as u64;
        if self.bytes + bytes > self.limits.bytes.0 {
            self.counts.full += 1;
            self.codes.insert(id, State::Gone(Gone::Full));
            return;
        }
        self.bytes += bytes;
        self.counts.gone -= 1;
        self.counts.accepted += 1;
        self.counts.recalled += 1;
        self.codes.insert(id, State::Named { name, at });
    }

    /// The name of an incarnation.
    ///
    /// # Errors
    /// Why it has none.
    pub fn name(&self, id: CodeId) -> Result<Arc<dyn CodeName>, Gone> {
        match (id, self.codes.get(&id)) {
            (_, Some(State::Named { name, .. })) => Ok(Arc::clone(name)),
            (_, Some(State::Gone(gone))) => Err(*gone),
            (_, Some(_)) => Err(Gone::NotYet),
            (CodeId::FREED, None) => Err(Gone::Freed),
            (CodeId::NO_ROOM, None) => Err(Gone::Full),
            (_, None) if self.counts.full > 0 => Err(Gone::Full),
            (_, None) => Err(Gone::Behind),
        }
    }

    /// Whether a name waits to be accepted: whether a time is wanted.
    #[must_use]
    pub fn wants_time(&self) -> bool {
        !self.read.is_empty()
    }

    /// When the next code object is to be read.
    #[must_use]
    pub fn next_due(&self) -> Option<Duration> {
        self.unread.first().map(|(due, _)| *due)
    }

    /// Whether any name may still come.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        !self.waiting.is_empty() || !self.copies.is_empty()
    }

    /// How the book did so far.
    #[must_use]
    pub fn counts(&self) -> BookCounts {
        self.counts
    }

    fn begin(&mut self, id: CodeId, pid: Pid, addr: u64) {
        self.counts.told += 1;
        if self.codes.len() >= self.limits.codes || self.bytes + ENTRY_COST > self.limits.bytes.0 {
            self.counts.full += 1;
            self.counts.gone += 1;
            return;
        }
        self.bytes += ENTRY_COST;
        let due = Duration::ZERO;
        self.unread.insert((due, id));
        self.waiting.insert((pid, id));
        let state = State::Unread {
            pid,
            addr,
            failures: 0,
            due,
        };
        self.codes.insert(id, state);
    }

    fn keep(&mut self, id: CodeId, pid: Pid, name: Arc<dyn CodeName>, at: Duration) {
        self.counts.read += 1;
        let bytes = name.bytes() as u64;
        if self.bytes + bytes > self.limits.bytes.0 {
            self.counts.full += 1;
            self.end(id, Gone::Full);
            return;
        }
        self.bytes += bytes;
        // In order, whoever reads: what is accepted is a beginning of the queue.
        let at = self.read.back().map_or(at, |(last, _)| at.max(*last));
        self.read.push_back((at, id));
        self.codes.insert(id, State::Read { pid, name, at });
    }

    fn accept(&mut self, id: CodeId, read_at: Duration) {
        let Some(state) = self.codes.get_mut(&id) else {
            return;
        };
        if let State::Read { pid, name, at } = state
            && *at == read_at
        {
            self.waiting.remove(&(*pid, id));
            let name = Arc::clone(name);
            *state = State::Named { name, at: read_at };
            self.counts.accepted += 1;
        }
    }

    /// Makes a name that waits, or one that was accepted too early, gone for good.
    fn end(&mut self, id: CodeId, gone: Gone) {
        let Some(state) = self.codes.insert(id, State::Gone(gone)) else {
            return;
        };
        if let Some(pid) = state.waits_for() {
            self.waiting.remove(&(pid, id));
        }
        match state {
            State::Unread { due, .. } => {
                self.unread.remove(&(due, id));
            }
            State::Read { name, .. } | State::Named { name, .. } => {
                self.bytes -= name.bytes() as u64;
            }
            State::Gone(_) => return,
        }
        self.counts.gone += 1;
    }

    fn end_process(&mut self, pid: Pid) {
        let all = (pid, CodeId(0))..=(pid, CodeId(u32::MAX));
        let waiting: Vec<CodeId> = self.waiting.range(all).map(|(_, id)| *id).collect();
        for id in waiting {
            self.end(id, Gone::Ended);
        }
    }

    fn end_waiting(&mut self, gone: Gone) {
        for (_, id) in std::mem::take(&mut self.waiting) {
            self.end(id, gone);
        }
    }

    fn distrust(&mut self, since: Duration) {
        self.end_waiting(Gone::EventsLost);
        self.copies.clear();
        let doubtful = self.codes.iter().filter_map(|(id, state)| match state {
            State::Named { at, .. } if *at > since => Some(*id),
            _ => None,
        });
        for id in doubtful.collect::<Vec<_>>() {
            self.counts.accepted -= 1;
            self.end(id, Gone::EventsLost);
        }
    }
}

#[cfg(test)]
mod tests;
