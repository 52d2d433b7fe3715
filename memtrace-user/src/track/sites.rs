//! The sites of one process: an index for each stack it allocates from, and what it counts.
//!
//! Blocks refer to a site by index. A forked child takes over the parent's sites under the same indices, since
//! the blocks it shares carry them, but opens new sites for its own allocations even from the same stack: so a
//! block's site says whether it was inherited, and the shared block need not. A freeze adds the two up.

use std::sync::Arc;

use hashbrown::{HashMap, hash_map::Entry};

use super::ledger::Ledger;
use crate::{
    ids::{Bytes, StackId},
    snapshot::SiteCounts,
};

/// Stack of the site that takes what has no site of its own.
const NO_STACK: StackId = StackId(0);

#[derive(Debug)]
pub(super) struct Sites {
    index: HashMap<StackId, u32>,
    /// `oldest` is not kept here.
    counts: Vec<SiteCounts>,
    /// Sites below this index came from the parent.
    inherited: u32,
    ledger: Arc<Ledger>,
}

impl Sites {
    pub(super) fn new(ledger: Arc<Ledger>) -> Self {
        Self::over(Vec::new(), ledger)
    }

    /// Sites for a process that has inherited `counts`. Its first own site is that of [`NO_STACK`].
    fn over(mut counts: Vec<SiteCounts>, ledger: Arc<Ledger>) -> Self {
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
            ledger,
        }
    }

    /// The sites as a forked child has them.
    pub(super) fn fork(&self) -> Self {
        let inherit = |site: &SiteCounts| SiteCounts {
            allocated_bytes: Bytes(0),
            allocated_blocks: 0,
            ..*site
        };
        Self::over(
            self.counts.iter().map(inherit).collect(),
            Arc::clone(&self.ledger),
        )
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
        self.index.allocation_size() + self.counts.capacity() * size_of::<SiteCounts>()
    }
}

impl Drop for Sites {
    fn drop(&mut self) {
        self.ledger.sub(self.counts.len());
    }
}
