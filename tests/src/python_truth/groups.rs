//! Sites that do not say everything, against the stacks that they may stand for.
//!
//! Stacks whose differences are cut off or have no name are one site in a report. So such sites and the stacks that agree
//! with all that they say form groups, and each group's sums must be the same.

use std::collections::BTreeMap;

use super::{Outcome, PythonStack, Verdict, verdict};
use crate::report::Site;

/// A site, the reason why it does not say everything, and the stacks that agree with it.
struct Incomplete<'a> {
    site: &'a Site,
    reason: String,
    candidates: Vec<usize>,
}

/// Blocks and their bytes.
#[derive(Default)]
struct Sum {
    blocks: u64,
    bytes: u64,
}

impl Sum {
    fn add(&mut self, blocks: u64, bytes: u64) {
        self.blocks += blocks;
        self.bytes += bytes;
    }
}

/// Adds incomplete sites to the outcome. `open`: how many blocks of each stack no other site has; of those that the
/// sites may stand for, none are left.
pub(super) fn add(
    sites: &[&Site],
    stacks: &[PythonStack],
    open: &mut [u64],
    outcome: &mut Outcome,
) {
    let sites: Vec<Incomplete<'_>> = sites
        .iter()
        .filter_map(|site| Incomplete::of(site, stacks, open))
        .collect();
    let groups = groups(&sites, stacks.len());
    let mut sums: BTreeMap<usize, (Sum, Sum)> = BTreeMap::new();
    for incomplete in &sites {
        let counts = &incomplete.site.counts;
        let (told, _) = sums.entry(groups[incomplete.candidates[0]]).or_default();
        told.add(counts.live_blocks, counts.live_bytes);
    }
    for (number, stack) in stacks.iter().enumerate() {
        if let Some((_, truth)) = sums.get_mut(&groups[number]) {
            let blocks = std::mem::take(&mut open[number]);
            truth.add(blocks, blocks * stack.size);
        }
    }
    for incomplete in sites {
        let (told, truth) = &sums[&groups[incomplete.candidates[0]]];
        let is_right = told.blocks != truth.blocks || told.bytes == truth.bytes;
        let verdict = if is_right {
            Verdict::Missing(incomplete.reason)
        } else {
            Verdict::Wrong(format!(
                "it and its like have {} bytes, not {}",
                told.bytes, truth.bytes
            ))
        };
        outcome.add(incomplete.site, verdict);
    }
    for (told, truth) in sums.into_values() {
        outcome.absent += truth.blocks.saturating_sub(told.blocks);
        outcome.invented += told.blocks.saturating_sub(truth.blocks);
    }
}

impl<'a> Incomplete<'a> {
    /// None when no stack that has blocks left agrees.
    fn of(site: &'a Site, stacks: &[PythonStack], open: &[u64]) -> Option<Self> {
        let mut candidates = Vec::new();
        let mut reason = None;
        for (number, stack) in stacks
            .iter()
            .enumerate()
            .filter(|(number, _)| open[*number] > 0)
        {
            match verdict(site, &stack.frames) {
                Verdict::Missing(why) => {
                    candidates.push(number);
                    reason = Some(why);
                }
                Verdict::Equal => candidates.push(number),
                Verdict::Wrong(_) => {}
            }
        }
        reason.map(|reason| Self {
            site,
            reason,
            candidates,
        })
    }
}

/// For each stack a number that it shares with those which some site may stand for as well.
fn groups(sites: &[Incomplete<'_>], stacks: usize) -> Vec<usize> {
    let mut parents: Vec<usize> = (0..stacks).collect();
    let root = |parents: &[usize], mut stack: usize| {
        while parents[stack] != stack {
            stack = parents[stack];
        }
        stack
    };
    for incomplete in sites {
        let first = root(&parents, incomplete.candidates[0]);
        for &other in &incomplete.candidates {
            let other = root(&parents, other);
            parents[other] = first;
        }
    }
    (0..stacks).map(|stack| root(&parents, stack)).collect()
}
