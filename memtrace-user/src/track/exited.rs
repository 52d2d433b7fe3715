//! The last states of generations that have ended: the latest in full, older ones as one sum.

use std::collections::VecDeque;

use super::limits::Limits;
use crate::snapshot::{Forgotten, ProcessSnapshot};

#[derive(Debug)]
pub(super) struct Exited {
    kept: VecDeque<ProcessSnapshot>,
    kept_sites: usize,
    forgotten: Forgotten,
    max_kept: usize,
    max_sites: usize,
}

impl Exited {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            kept: VecDeque::new(),
            kept_sites: 0,
            forgotten: Forgotten::default(),
            max_kept: limits.exited,
            max_sites: limits.exited_sites,
        }
    }

    pub(super) fn push(&mut self, last: ProcessSnapshot) {
        self.kept_sites += last.sites.len();
        self.kept.push_back(last);
        while self.kept.len() > self.max_kept || self.kept_sites > self.max_sites {
            let Some(oldest) = self.kept.pop_front() else {
                return;
            };
            self.kept_sites -= oldest.sites.len();
            self.forget(&oldest);
        }
    }

    pub(super) fn kept(&self) -> impl Iterator<Item = &ProcessSnapshot> {
        self.kept.iter()
    }

    pub(super) fn forgotten(&self) -> Forgotten {
        self.forgotten
    }

    /// Bytes that the kept states take.
    pub(super) fn bytes(&self) -> usize {
        self.kept.capacity() * size_of::<ProcessSnapshot>()
            + self.kept_sites * size_of::<crate::snapshot::SiteCounts>()
    }

    fn forget(&mut self, last: &ProcessSnapshot) {
        let sum = &mut self.forgotten;
        sum.processes += 1;
        sum.live_bytes.0 = sum.live_bytes.0.wrapping_add(last.live_bytes.0);
        sum.live_blocks += last.live_blocks;
        sum.allocated_bytes.0 = sum.allocated_bytes.0.wrapping_add(last.allocated_bytes.0);
        sum.allocated_blocks += last.allocated_blocks;
        sum.unknown_frees += last.unknown_frees;
    }
}
