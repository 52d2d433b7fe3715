//! The sites of one process: an index for each stack it allocates from, and what it counts.
//!
//! Blocks refer to a site by index. A forked child takes over the parent's sites under the same indices, since
//! the blocks it shares carry them, but opens new sites for its own allocations even from the same stack: so a
//! block's site says whether it was inherited, and the shared block need not. A freeze adds the two up.
//!
//! What the Python frames of a stack stand for changes when the interpreter frees a code object. A site is bound to what
//! they stood for when it was opened. When that ends, the site is closed: it keeps its blocks and its counts, and the
//! next block from the same stack opens another.

use std::{
    mem,
    sync::{Arc, Mutex, PoisonError},
};

use hashbrown::{HashMap, hash_map::Entry};

use super::ledger::Ledger;
use crate::{
    ids::{BindingId, Bytes, Pid, StackId},
    snapshot::SiteCounts,
};

/// Stack of the site that takes what has no site of its own.
const NO_STACK: StackId = StackId(0);

/// The processes with sites that are not bound yet. Shared by all, so that opening a site is the site's own business; the
/// lock is only for the sake of the type, since everyone who has it is owned by one tracker.
#[derive(Debug, Default)]
pub(super) struct Openings(Mutex<Vec<Pid>>);

impl Openings {
    pub(super) fn add(&self, pid: Pid) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(pid);
    }

    pub(super) fn take(&self) -> Vec<Pid> {
        mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[derive(Debug)]
pub(super) struct Sites {
    index: HashMap<StackId, u32>,
    /// `oldest` is not kept here.
    counts: Vec<SiteCounts>,
    /// Sites below this index came from the parent.
    inherited: u32,
    /// Sites that are not bound yet, in the order in which they were opened.
    opened: Vec<u32>,
    pid: Pid,
    openings: Arc<Openings>,
    ledger: Arc<Ledger>,
}

impl Sites {
    pub(super) fn new(pid: Pid, openings: Arc<Openings>, ledger: Arc<Ledger>) -> Self {
        Self::over(Vec::new(), pid, openings, ledger)
    }

    /// Sites for a process that has inherited `counts`. Its first own site is that of [`NO_STACK`].
    fn over(
        mut counts: Vec<SiteCounts>,
        pid: Pid,
        openings: Arc<Openings>,
        ledger: Arc<Ledger>,
    ) -> Self {
        let inherited = counts.len() as u32;
        counts.push(SiteCounts {
            stack: NO_STACK,
            ..SiteCounts::default()
        });
        ledger.add(counts.len());
        let index = HashMap::from_iter([(NO_STACK, inherited)]);
        Self {
            index,
            counts,
            inherited,
            opened: Vec::new(),
            pid,
            openings,
            ledger,
        }
    }

    /// The sites as a forked child has them. None of them is to be bound any more.
    pub(super) fn fork(&self, child: Pid) -> Self {
        let inherit = |site: &SiteCounts| SiteCounts {
            allocated_bytes: Bytes(0),
            allocated_blocks: 0,
            ..*site
        };
        Self::over(
            self.counts.iter().map(inherit).collect(),
            child,
            Arc::clone(&self.openings),
            Arc::clone(&self.ledger),
        )
    }

    /// Whether there are sites that are not bound yet.
    pub(super) fn has_opened(&self) -> bool {
        !self.opened.is_empty()
    }

    /// Sites that are not bound yet.
    pub(super) fn opened(&self) -> &[u32] {
        &self.opened
    }

    /// Says which sites are not bound yet.
    pub(super) fn set_opened(&mut self, opened: Vec<u32>) {
        if self.opened.is_empty() && !opened.is_empty() {
            self.openings.add(self.pid);
        }
        self.opened = opened;
    }

    /// Says what the Python frames of a site's stack stand for.
    pub(super) fn bind(&mut self, site: u32, binding: BindingId) {
        self.counts[site as usize].binding = binding;
    }

    /// Closes a site: the next block from its stack opens another.
    pub(super) fn close(&mut self, site: u32) {
        let stack = self.counts[site as usize].stack;
        if self.index.get(&stack) == Some(&site) {
            self.index.remove(&stack);
        }
    }

    /// Closes the site of a stack.
    pub(super) fn close_stack(&mut self, stack: StackId) {
        if stack != NO_STACK {
            self.index.remove(&stack);
        }
    }

    /// Closes all sites that are bound, and says that it is doubtful what they are bound to.
    pub(super) fn doubt_bound(&mut self, inherited_too: bool) {
        let counts = &mut self.counts;
        let mut doubt = |site: u32| {
            let binding = &mut counts[site as usize].binding;
            let bound = *binding != BindingId::NONE;
            if bound {
                *binding = BindingId::DOUBTED;
            }
            bound
        };
        self.index.retain(|_, site| !doubt(*site));
        if inherited_too {
            (0..self.inherited).for_each(|site| _ = doubt(site));
        }
    }

    pub(super) fn len(&self) -> u32 {
        self.counts.len() as u32
    }

    /// The site of a stack; `None` when it would be a new one and the limit is reached.
    #[inline]
    pub(super) fn of(&mut self, stack: StackId) -> Option<u32> {
        match self.index.entry(stack) {
            Entry::Occupied(place) => Some(*place.get()),
            Entry::Vacant(_) if self.ledger.is_full() => None,
            Entry::Vacant(place) => {
                let site = self.counts.len() as u32;
                self.counts.push(SiteCounts {
                    stack,
                    ..SiteCounts::default()
                });
                self.ledger.add(1);
                if self.opened.is_empty() {
                    self.openings.add(self.pid);
                }
                self.opened.push(site);
                Some(*place.insert(site))
            }
        }
    }

    /// The site for blocks whose stack has none.
    pub(super) fn fallback(&self) -> u32 {
        self.inherited
    }

    /// Sites from this one on are the process's own.
    pub(super) fn first_own(&self) -> u32 {
        self.inherited
    }

    pub(super) fn counts(&self) -> &[SiteCounts] {
        &self.counts
    }

    #[inline]
    pub(super) fn at(&mut self, site: u32) -> &mut SiteCounts {
        &mut self.counts[site as usize]
    }

    /// Bytes allocated for the sites.
    pub(super) fn memory(&self) -> usize {
        self.index.allocation_size()
            + self.counts.capacity() * size_of::<SiteCounts>()
            + self.opened.capacity() * size_of::<u32>()
    }
}

impl Drop for Sites {
    fn drop(&mut self) {
        self.ledger.sub(self.counts.len());
    }
}
