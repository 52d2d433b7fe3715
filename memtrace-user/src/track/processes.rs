//! Which memory an event belongs to: processes, their generations, and who shares with whom.
//!
//! A process id names one generation at a time. A generation begins with its first event, with a fork or with
//! [`Processes::begin`], and ends with exec, exit, or a sign that the id was given to another process. A child
//! that shares its parent's memory (`vfork`, `posix_spawn`) is no generation of its own: until it begins another
//! program or ends, what it does happens in its parent's memory.

use std::sync::Arc;

use hashbrown::HashMap;

use super::{
    dictionary::Dictionary,
    exited::Exited,
    ledger::Ledger,
    limits::Limits,
    obituaries::End,
    sites::Openings,
    space::{Ledgers, Space},
};
use crate::{
    ids::{Millis, Pid, StackId},
    python::book::Word,
    snapshot::{BlockFilter, ProcessSnapshot},
};

#[derive(Debug)]
pub(super) struct Processes {
    /// Boxed, since the table has room for up to twice as many.
    running: HashMap<Pid, Box<Space>>,
    /// Who lives in whose memory; the owner is always in `running`.
    sharing: HashMap<Pid, Pid>,
    exited: Exited,
    exit_filter: BlockFilter,
    ledgers: Ledgers,
    max_running: usize,
}

impl Processes {
    pub(super) fn new(limits: &Limits, exit_filter: BlockFilter) -> Self {
        Self {
            running: HashMap::new(),
            sharing: HashMap::new(),
            exited: Exited::new(limits),
            exit_filter,
            ledgers: Ledgers {
                blocks: Ledger::new(limits.live_blocks),
                sites: Ledger::new(limits.sites),
                codes: Ledger::new(limits.code_bytes),
                openings: Arc::new(Openings::default()),
            },
            max_running: limits.processes,
        }
    }

    /// The memory that `pid` works in, begun if need be; `None` when there are too many processes.
    #[inline]
    pub(super) fn space(&mut self, pid: Pid, now: Millis) -> Option<&mut Space> {
        let owner = if self.running.contains_key(&pid) {
            pid
        } else {
            self.begin(pid, now)?
        };
        self.running.get_mut(&owner).map(Box::as_mut)
    }

    /// Makes sure that `pid` is known; gives back in whose memory it works. `None` when there are too many
    /// processes.
    pub(super) fn begin(&mut self, pid: Pid, now: Millis) -> Option<Pid> {
        if self.running.contains_key(&pid) {
            return Some(pid);
        }
        if let Some(owner) = self.sharing.get(&pid) {
            return Some(*owner);
        }
        self.admit(pid, Space::new(pid, 0, now, &self.ledgers))?;
        Some(pid)
    }

    /// `parent` has a child. `None` when there are too many processes.
    pub(super) fn fork(
        &mut self,
        parent: Pid,
        child: Pid,
        shares: bool,
        now: Millis,
        dictionary: &mut Dictionary,
    ) -> Option<()> {
        self.end(child, now, dictionary);
        let owner = self.begin(parent, now)?;
        if !shares {
            let parent = self.running.get_mut(&owner)?;
            parent.bind_opened(dictionary);
            let space = parent.fork(child, now, &self.ledgers);
            return self.admit(child, space);
        }
        if self.sharing.len() >= self.max_running {
            return None;
        }
        self.sharing.insert(child, owner);
        Some(())
    }

    /// `pid` begins another program: a new generation with nothing in it. A generation that has not done anything
    /// leaves no trace.
    pub(super) fn exec(
        &mut self,
        pid: Pid,
        now: Millis,
        dictionary: &mut Dictionary,
    ) -> Option<()> {
        let owner = self.begin(pid, now)?;
        let mut exec_count = 1;
        if owner == pid {
            let old = self.running.get(&pid)?;
            exec_count += old.exec_count();
            if old.is_untouched() {
                self.release(pid);
            }
        }
        self.end(pid, now, dictionary);
        self.admit(pid, Space::new(pid, exec_count, now, &self.ledgers))
    }

    /// Programs that `pid` has begun. One that works in another's memory has begun none.
    pub(super) fn exec_count(&self, pid: Pid) -> u32 {
        self.running.get(&pid).map_or(0, |space| space.exec_count())
    }

    /// `pid` has ended; its last state is kept.
    pub(super) fn end(&mut self, pid: Pid, now: Millis, dictionary: &mut Dictionary) {
        if let Some(owner) = self.sharing.remove(&pid)
            && let Some(space) = self.running.get_mut(&owner)
        {
            space.leave(pid);
        }
        if let Some(mut space) = self.release(pid) {
            space.bind_opened(dictionary);
            dictionary.tell(Word::Ended(pid));
            let last = space.freeze(&self.exit_filter, now);
            self.exited.push(ProcessSnapshot {
                exited: true,
                ..last
            });
        }
    }

    /// `pid` is about to free a Python code object. Of no interest in a process of which nothing is known.
    pub(super) fn code_freed(
        &mut self,
        pid: Pid,
        addr: u64,
        end: Option<End>,
        dictionary: &mut Dictionary,
    ) {
        let owner = self.sharing.get(&pid).copied().unwrap_or(pid);
        if let Some(space) = self.running.get_mut(&owner) {
            space.code_freed(addr, end, dictionary);
        }
    }

    /// All stacks have arrived that events so far refer to, but for those that were lost.
    pub(super) fn settle(&mut self, dictionary: &mut Dictionary) {
        for pid in self.ledgers.openings.take() {
            if let Some(space) = self.running.get_mut(&pid) {
                space.settle(dictionary);
            }
        }
    }

    /// A stack has arrived late in a process: its sites begin anew.
    pub(super) fn close_stack(&mut self, pid: Pid, stack: StackId) {
        if let Some(space) = self.running.get_mut(&pid) {
            space.sites.close_stack(stack);
        }
    }

    /// See [`Space::distrust_codes`].
    pub(super) fn distrust_codes(&mut self, since: Millis, dictionary: &mut Dictionary) {
        for space in self.running.values_mut() {
            space.distrust_codes(since, dictionary);
        }
    }

    /// Running processes at `now` by id, then the exited ones that are kept.
    pub(super) fn freeze(&self, filter: &BlockFilter, now: Millis) -> Vec<ProcessSnapshot> {
        let running = self.running.values().map(|space| space.freeze(filter, now));
        let mut frozen: Vec<ProcessSnapshot> = running.collect();
        frozen.sort_unstable_by_key(|process| process.pid);
        frozen.extend(self.exited.kept().cloned());
        frozen
    }

    pub(super) fn exited(&self) -> &Exited {
        &self.exited
    }

    /// Bytes that the processes take, running and exited.
    pub(super) fn memory(&self) -> usize {
        let spaces: usize = self.running.values().map(|space| space.memory()).sum();
        self.ledgers.blocks.bytes() + spaces + self.exited.bytes()
    }

    /// Blocks, sites and bytes of code objects stored for all running processes, as the ledgers have them.
    #[cfg(test)]
    pub(super) fn stored(&self) -> (usize, usize, usize) {
        let ledgers = &self.ledgers;
        (
            ledgers.blocks.entries(),
            ledgers.sites.entries(),
            ledgers.codes.entries(),
        )
    }

    /// Takes a generation in, unless there are too many.
    fn admit(&mut self, pid: Pid, space: Space) -> Option<()> {
        if self.running.len() >= self.max_running {
            return None;
        }
        self.running.insert(pid, Box::new(space));
        Some(())
    }

    /// Takes a generation out. Those who share its memory and outlive it begin anew with their next event: only a
    /// lost event can bring that about, as a parent waits for such a child.
    fn release(&mut self, pid: Pid) -> Option<Box<Space>> {
        let space = self.running.remove(&pid)?;
        self.sharing.retain(|_, owner| *owner != pid);
        Some(space)
    }
}
