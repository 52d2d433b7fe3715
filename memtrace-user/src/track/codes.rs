//! The Python code objects of one process: which one an address stands for, and which sites rely on it.
//!
//! A code object is known from the first site whose stack has it, to its end. Addresses and numbers are shared with a
//! forked child until one of the two changes them: what the child has inherited is at the same addresses. Who relies on
//! a code object is each process's own, since only a process's own sites take new blocks.

use std::sync::Arc;

use hashbrown::HashMap;

use super::{dictionary::Dictionary, ledger::Ledger};
use crate::ids::{CodeId, Pid};

/// Bytes of a known code object: its entries in two tables that have just grown, and a list.
const CODE_COST: usize = 192;
/// Bytes for each site that relies on one, in a list that has just grown.
const USE_COST: usize = 8;
/// Ends that are remembered while sites wait for their stacks.
const MAX_ENDED: usize = 4096;

/// What ended while sites were waiting for their stacks.
#[derive(Clone, Copy, Debug)]
struct Ended {
    /// Sites below this index were opened before.
    site_end: u32,
    id: CodeId,
}

#[derive(Debug)]
pub(super) struct Codes {
    known: Arc<HashMap<u64, CodeId>>,
    /// Sites by the code objects of their stacks.
    users: HashMap<u64, Vec<u32>>,
    ended: HashMap<u64, Vec<Ended>>,
    ended_count: usize,
    /// Counts bytes as its entries.
    ledger: Arc<Ledger>,
    charged: usize,
}

impl Codes {
    pub(super) fn new(ledger: Arc<Ledger>) -> Self {
        Self {
            known: Arc::default(),
            users: HashMap::new(),
            ended: HashMap::new(),
            ended_count: 0,
            ledger,
            charged: 0,
        }
    }

    /// The code objects as a forked child has them; `None` when there is no room to keep them.
    pub(super) fn fork(&self) -> Option<Self> {
        let mut child = Self::new(Arc::clone(&self.ledger));
        if !child.charge(self.known.len() * CODE_COST) {
            return None;
        }
        child.known = Arc::clone(&self.known);
        child.ended = self.ended.clone();
        child.ended_count = self.ended_count;
        Some(child)
    }

    /// What `addr` stood for when `site` was opened, with `site` relying on it if it still does.
    pub(super) fn at(
        &mut self,
        addr: u64,
        site: u32,
        pid: Pid,
        dictionary: &mut Dictionary,
    ) -> CodeId {
        let ended = self.ended.get(&addr).into_iter().flatten();
        if let Some(ended) = ended.into_iter().find(|ended| site < ended.site_end) {
            return ended.id;
        }
        let id = match self.known.get(&addr).copied() {
            Some(id) => id,
            None if !self.charge(CODE_COST) => return CodeId::NO_ROOM,
            None => {
                let id = dictionary.number(pid, addr);
                Arc::make_mut(&mut self.known).insert(addr, id);
                id
            }
        };
        let relies = self.users.get(&addr).and_then(|sites| sites.last()) == Some(&site);
        if !relies {
            if !self.charge(USE_COST) {
                return CodeId::NO_ROOM;
            }
            self.users.entry(addr).or_default().push(site);
        }
        id
    }

    /// Takes the code object at `addr` out; gives back its number and the sites that rely on it.
    pub(super) fn remove(&mut self, addr: u64) -> Option<(CodeId, Vec<u32>)> {
        if !self.known.contains_key(&addr) {
            return None;
        }
        let id = Arc::make_mut(&mut self.known).remove(&addr)?;
        let users = self.users.remove(&addr).unwrap_or_default();
        self.discharge(CODE_COST + users.len() * USE_COST);
        Some((id, users))
    }

    /// Remembers that what `addr` stood for has ended when there were `site_end` sites. `false` when too much has.
    pub(super) fn remember_end(&mut self, addr: u64, id: CodeId, site_end: u32) -> bool {
        if self.ended_count == MAX_ENDED {
            return false;
        }
        self.ended_count += 1;
        self.ended
            .entry(addr)
            .or_default()
            .push(Ended { site_end, id });
        true
    }

    /// No site waits any more.
    pub(super) fn forget_ends(&mut self) {
        self.ended = HashMap::new();
        self.ended_count = 0;
    }

    /// Forgets everything: any address may stand for another by now.
    pub(super) fn clear(&mut self) {
        self.known = Arc::default();
        self.users = HashMap::new();
        self.forget_ends();
        self.discharge(self.charged);
    }

    /// Bytes that the code objects take at most.
    pub(super) fn memory(&self) -> usize {
        self.charged
    }

    fn charge(&mut self, bytes: usize) -> bool {
        let fits = self.ledger.fits(bytes);
        if fits {
            self.ledger.add(bytes);
            self.charged += bytes;
        }
        fits
    }

    fn discharge(&mut self, bytes: usize) {
        self.ledger.sub(bytes);
        self.charged -= bytes;
    }
}

impl Drop for Codes {
    fn drop(&mut self) {
        self.ledger.sub(self.charged);
    }
}
