//! One part of a process's live blocks: a private table over layers that related processes share.
//!
//! A fork freezes the private table of the parent into a [`Layer`] that both sides read and nobody writes; each
//! goes on with an empty private table. A block of a layer is hidden by a newer entry of the same address
//! above it: another block, or a tombstone once it is freed. So a fork costs one `Arc` a shard, whatever the
//! number of blocks.
//!
//! Layers go away in two ways.
//! * *Merging.* When the other side has ended, its `Arc` is gone, and this side's next change of the shard
//!   finds the layer its own and pours the smaller of the two tables into the larger.
//! * *Compaction.* A parent that keeps forking long-lived children would grow a long chain. So a fork first takes
//!   in every layer that is less than [`RATIO`] times as large as the table above it, by copying if others still
//!   read it. Hence each layer is at least `RATIO` times as large as the layer on top of it, a chain of `n`
//!   entries has at most `log2(n) + 1` layers, and an entry is copied at most that often in its life: the 10 M
//!   blocks at the bottom are copied only after the process has replaced half of them.

use std::sync::Arc;

use super::{
    block::{Block, Key},
    ledger::Ledger,
    table::{Entry, Table},
};

/// How much larger than the layer above it a layer must be.
const RATIO: usize = 2;

/// A table that nobody changes any more, over an older one.
#[derive(Debug)]
struct Layer {
    table: Table,
    below: Option<Arc<Layer>>,
    /// Its blocks have sites below this one: the length of the site table when it was frozen.
    site_end: u32,
}

#[derive(Debug)]
pub(super) struct Shard {
    own: Table,
    shared: Option<Arc<Layer>>,
}

impl Shard {
    pub(super) fn new(ledger: Arc<Ledger>) -> Self {
        Self {
            own: Table::new(ledger),
            shared: None,
        }
    }

    /// Stores a block; gives back the live one that was there.
    #[inline]
    pub(super) fn insert(&mut self, key: Key, block: Block) -> Option<Block> {
        self.merge_unshared();
        match self.own.insert(key, block) {
            Some(old) => old.live(),
            None => find_in(self.shared.as_ref(), key),
        }
    }

    /// Removes a live block.
    #[inline]
    pub(super) fn remove(&mut self, key: Key) -> Option<Block> {
        self.merge_unshared();
        if self.shared.is_none() {
            return self.own.remove(key);
        }
        let below = find_in(self.shared.as_ref(), key);
        match (self.own.find(key), below) {
            (Some(own), None) => {
                self.own.remove(key);
                own.live()
            }
            (own, Some(below)) => {
                self.own.insert(key, Block::TOMBSTONE);
                own.unwrap_or(below).live()
            }
            (None, None) => None,
        }
    }

    pub(super) fn contains(&self, key: Key) -> bool {
        let own = self.own.find(key).map(Block::live);
        own.unwrap_or_else(|| find_in(self.shared.as_ref(), key))
            .is_some()
    }

    /// The shard as a forked child has it. `site_end` is the length of the parent's site table.
    pub(super) fn fork(&mut self, site_end: u32) -> Self {
        self.compact();
        let empty = self.own.sibling();
        if self.own.len() > 0 {
            let table = std::mem::replace(&mut self.own, empty.sibling());
            let below = self.shared.take();
            self.shared = Some(Arc::new(Layer {
                table,
                below,
                site_end,
            }));
        }
        Self {
            own: empty,
            shared: self.shared.clone(),
        }
    }

    /// Calls `visit` with every live block whose site is not below `first_site`. Layers that hold no such block
    /// are not read: a forked child that asks for its own blocks does not pay for its parent's.
    pub(super) fn for_each(&self, first_site: u32, mut visit: impl FnMut(u64, Block)) {
        let mut above: Vec<&Table> = Vec::new();
        let mut table = &self.own;
        let mut below = self.shared.as_deref();
        loop {
            for Entry { addr, block } in table.iter() {
                if let Some(block) = block.live()
                    && block.site >= first_site
                    && !above
                        .iter()
                        .any(|upper| upper.find(Key::new(addr)).is_some())
                {
                    visit(addr, block);
                }
            }
            let Some(layer) = below.filter(|layer| layer.site_end > first_site) else {
                return;
            };
            above.push(table);
            table = &layer.table;
            below = layer.below.as_deref();
        }
    }

    /// Lets go of the shared layers; `forgotten` gets every live block that they held.
    pub(super) fn forget_shared(&mut self, mut forgotten: impl FnMut(Block)) {
        self.merge_unshared();
        let Some(shared) = self.shared.take() else {
            return;
        };
        let lower = Self {
            own: self.own.sibling(),
            shared: Some(shared),
        };
        lower.for_each(0, |addr, block| {
            if self.own.find(Key::new(addr)).is_none() {
                forgotten(block);
            }
        });
        self.own.retain(|entry| entry.block.live().is_some());
    }

    /// Takes in the topmost layers for as long as no other process reads them.
    #[inline]
    fn merge_unshared(&mut self) {
        while let Some(layer) = self.shared.take_if(|layer| Arc::strong_count(layer) == 1) {
            self.merge(layer);
        }
    }

    fn compact(&mut self) {
        self.merge_unshared();
        while let Some(layer) = self
            .shared
            .take_if(|layer| layer.table.len() < RATIO * self.own.len())
        {
            self.merge(layer);
        }
    }

    /// Makes one table of the private one and the layer directly below it.
    #[cold]
    fn merge(&mut self, layer: Arc<Layer>) {
        match Arc::try_unwrap(layer) {
            Ok(Layer { table, below, .. }) if table.len() > self.own.len() => {
                let upper = std::mem::replace(&mut self.own, table);
                self.shared = below;
                self.cover_with(&upper);
            }
            Ok(Layer { table, below, .. }) => {
                self.shared = below;
                self.underlay(&table);
            }
            Err(layer) => {
                self.shared = layer.below.clone();
                self.underlay(&layer.table);
            }
        }
    }

    /// Copies every entry of a table that was above the private one.
    fn cover_with(&mut self, upper: &Table) {
        for entry in upper.iter() {
            let key = Key::new(entry.addr);
            if self.shared.is_some() || entry.block.live().is_some() {
                self.own.insert(key, entry.block);
            } else {
                self.own.remove(key);
            }
        }
    }

    /// Copies every entry of a table that was below the private one and is not hidden by it.
    fn underlay(&mut self, lower: &Table) {
        for entry in lower.iter() {
            let key = Key::new(entry.addr);
            if self.own.find(key).is_none() {
                self.own.insert(key, entry.block);
            }
        }
        if self.shared.is_none() {
            self.own.retain(|entry| entry.block.live().is_some());
        }
    }
}

/// The block that a chain of layers shows at an address.
#[inline]
fn find_in(mut layer: Option<&Arc<Layer>>, key: Key) -> Option<Block> {
    while let Some(here) = layer {
        if let Some(block) = here.table.find(key) {
            return block.live();
        }
        layer = here.below.as_ref();
    }
    None
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;
    use crate::ids::Millis;

    /// What is done to one of several related shards.
    #[derive(Clone, Copy, Debug)]
    enum Action {
        Insert(u64),
        Remove(u64),
        Fork,
        Drop,
        Forget,
    }

    fn steps() -> impl Strategy<Value = Vec<(usize, Action)>> {
        let action = prop_oneof![
            12 => (0..ADDRESSES).prop_map(Action::Insert),
            8 => (0..ADDRESSES).prop_map(Action::Remove),
            3 => Just(Action::Fork),
            2 => Just(Action::Drop),
            1 => Just(Action::Forget),
        ];
        prop::collection::vec((any::<usize>(), action), 0..400)
    }

    const ADDRESSES: u64 = 200;
    const MAX_SHARDS: usize = 8;

    /// A shard and the plain map it must equal. Inserted blocks have the sizes 0, 1, 2, …, so that no two are
    /// alike.
    type Pair = (Shard, BTreeMap<u64, u64>);

    fn take_step(pairs: &mut Vec<Pair>, at: usize, action: Action, size: u64) {
        let count = pairs.len();
        let (shard, model) = &mut pairs[at];
        match action {
            Action::Insert(addr) => {
                let old = shard.insert(Key::new(addr), Block::new(size, 0, Millis(0)));
                assert_eq!(old.map(|block| block.size()), model.insert(addr, size));
            }
            Action::Remove(addr) => {
                let old = shard.remove(Key::new(addr));
                assert_eq!(old.map(|block| block.size()), model.remove(&addr));
            }
            Action::Fork if count < MAX_SHARDS => {
                let child = (shard.fork(1), model.clone());
                pairs.push(child);
            }
            Action::Drop if count > 1 => drop(pairs.swap_remove(at)),
            Action::Fork | Action::Drop => {}
            Action::Forget => {
                let mut forgotten = BTreeSet::new();
                shard.forget_shared(|block| assert!(forgotten.insert(block.size())));
                model.retain(|_, size| !forgotten.contains(size));
                assert!(shard.shared.is_none());
            }
        }
    }

    fn check((shard, model): &Pair) {
        let mut content = BTreeMap::new();
        shard.for_each(0, |addr, block| {
            assert_eq!(
                content.insert(addr, block.size()),
                None,
                "visited twice: {addr}"
            );
        });
        assert_eq!(&content, model);
        for addr in 0..ADDRESSES {
            assert_eq!(
                shard.contains(Key::new(addr)),
                model.contains_key(&addr),
                "{addr}"
            );
        }
        let sizes = layer_sizes(shard);
        let grows = sizes.is_sorted_by(|upper, lower| *lower >= upper * RATIO);
        assert!(grows, "{sizes:?}");
    }

    /// Sizes of the layers, topmost first.
    fn layer_sizes(shard: &Shard) -> Vec<usize> {
        let layers = std::iter::successors(shard.shared.as_deref(), |layer| layer.below.as_deref());
        layers.map(|layer| layer.table.len()).collect()
    }

    proptest! {
        #[test]
        fn related_shards_equal_copied_maps(steps in steps()) {
            let ledger = Ledger::new(usize::MAX);
            let mut pairs: Vec<Pair> = vec![(Shard::new(Arc::clone(&ledger)), BTreeMap::new())];
            for (size, (at, action)) in (0..).zip(steps) {
                let at = at % pairs.len();
                take_step(&mut pairs, at, action, size);
                pairs.get(at).into_iter().for_each(check);
            }
            pairs.iter().for_each(check);
            pairs.clear();
            prop_assert_eq!((ledger.entries(), ledger.bytes()), (0, 0));
        }
    }

    #[test]
    fn a_fork_copies_no_block_and_the_end_of_the_child_leaves_one_table() {
        let ledger = Ledger::new(usize::MAX);
        let mut parent = Shard::new(Arc::clone(&ledger));
        for addr in 0..10_000 {
            parent.insert(Key::new(addr), Block::new(addr, 0, Millis(0)));
        }
        let bytes = ledger.bytes();
        let mut child = parent.fork(1);
        child.remove(Key::new(1));
        parent.remove(Key::new(2));
        assert_eq!(ledger.entries(), 10_002);
        assert!(ledger.bytes() < bytes + 1_000);

        drop(child);
        parent.remove(Key::new(3));
        assert!(layer_sizes(&parent).is_empty());
        assert_eq!(ledger.entries(), 9_998);
    }
}
