//! Counts the live blocks of one process for a freeze.

use std::time::Duration;

use super::{block::Block, sites::Sites};
use crate::{
    ids::{Bytes, Millis},
    snapshot::{BlockFilter, ProcessSnapshot, SiteCounts},
};

/// The live blocks of one site that pass the filter.
#[derive(Clone, Copy, Debug)]
struct Count {
    bytes: u64,
    blocks: u64,
    first_birth: Millis,
}

#[derive(Debug)]
pub(super) struct Tally<'a> {
    counts: Vec<Count>,
    sites: &'a Sites,
    /// When the process began: its inherited blocks are as old as it is.
    begun: Millis,
    now: Millis,
    min_size: u64,
    max_size: u64,
    /// Blocks born later are too young; `None` when all are.
    last_birth: Option<Millis>,
}

impl<'a> Tally<'a> {
    pub(super) fn new(sites: &'a Sites, filter: &BlockFilter, begun: Millis, now: Millis) -> Self {
        let none = Count {
            bytes: 0,
            blocks: 0,
            first_birth: Millis(u32::MAX),
        };
        Self {
            counts: vec![none; sites.counts().len()],
            sites,
            begun,
            now,
            min_size: filter.min_size.map_or(0, |min| min.0),
            max_size: filter.max_size.map_or(u64::MAX, |max| max.0),
            last_birth: last_birth(filter.min_age, now),
        }
    }

    #[inline]
    pub(super) fn count(&mut self, block: Block) {
        let inherited = block.site < self.sites.first_own();
        let birth = if inherited { self.begun } else { block.birth };
        let size = block.size();
        if self.is_old_enough(birth) && size >= self.min_size && size <= self.max_size {
            self.add(block.site, size, 1, birth);
        }
    }

    /// Counts all live blocks of the inherited sites below `end`, whatever their size.
    pub(super) fn count_sites_below(&mut self, end: u32) {
        if self.is_old_enough(self.begun) {
            let sites = self.sites;
            for (site, counts) in (0..end).zip(sites.counts()) {
                self.add(site, counts.live_bytes.0, counts.live_blocks, self.begun);
            }
        }
    }

    /// The process's totals with what was counted. Adds up sites of one stack and binding.
    pub(super) fn finish(self, totals: &ProcessSnapshot) -> ProcessSnapshot {
        let inherited = &self.counts[..self.sites.first_own() as usize];
        let mut frozen = ProcessSnapshot {
            live_bytes: Bytes(
                self.counts
                    .iter()
                    .map(|count| count.bytes)
                    .fold(0, u64::wrapping_add),
            ),
            live_blocks: self.counts.iter().map(|count| count.blocks).sum(),
            inherited_blocks: inherited.iter().map(|count| count.blocks).sum(),
            ..totals.clone()
        };
        frozen.sites = self.site_counts().collect();
        if !inherited.is_empty() {
            add_up(&mut frozen.sites);
        }
        frozen
    }

    fn site_counts(&self) -> impl Iterator<Item = SiteCounts> {
        let sites = self.sites.counts().iter().zip(&self.counts);
        let seen = sites.filter(|(site, count)| site.allocated_blocks > 0 || count.blocks > 0);
        seen.map(|(site, count)| SiteCounts {
            live_bytes: Bytes(count.bytes),
            live_blocks: count.blocks,
            oldest: age(count.first_birth, self.now),
            ..*site
        })
    }

    fn is_old_enough(&self, birth: Millis) -> bool {
        self.last_birth.is_some_and(|last| birth <= last)
    }

    #[inline]
    fn add(&mut self, site: u32, bytes: u64, blocks: u64, birth: Millis) {
        let count = &mut self.counts[site as usize];
        count.bytes = count.bytes.wrapping_add(bytes);
        count.blocks += blocks;
        count.first_birth = count.first_birth.min(birth);
    }
}

/// The latest birth of a block that has reached `min_age` at `now`.
fn last_birth(min_age: Duration, now: Millis) -> Option<Millis> {
    if min_age.is_zero() {
        return Some(Millis(u32::MAX));
    }
    let min_age = min_age.as_nanos().div_ceil(1_000_000);
    let last = now.0.checked_sub(u32::try_from(min_age).ok()?)?;
    Some(Millis(last))
}

/// Age of something born at `birth`; zero when it is not born yet, as for a site without live blocks.
fn age(birth: Millis, now: Millis) -> Duration {
    Millis(now.0.saturating_sub(birth.0)).into()
}

/// Makes one entry of all that have one stack and one binding.
fn add_up(sites: &mut Vec<SiteCounts>) {
    sites.sort_unstable_by_key(|site| (site.stack, site.binding));
    sites.dedup_by(|from, into| {
        let same = (from.stack, from.binding) == (into.stack, into.binding);
        if same {
            into.live_bytes.0 = into.live_bytes.0.wrapping_add(from.live_bytes.0);
            into.live_blocks += from.live_blocks;
            into.allocated_bytes.0 = into.allocated_bytes.0.wrapping_add(from.allocated_bytes.0);
            into.allocated_blocks += from.allocated_blocks;
            into.oldest = into.oldest.max(from.oldest);
        }
        same
    });
}
