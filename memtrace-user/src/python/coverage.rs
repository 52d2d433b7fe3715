//! Whether a build's calls of its allocator go through the functions that can be probed.
//!
//! Compilers that know a program's profile put the fast path of the allocator into its callers, and a probe on the
//! allocator's functions then sees a few blocks, or none. So what was heard at the functions is held against the
//! [pools](super::pools): every block that has come into use between two scans must have been returned by a function in
//! between, and every one that has gone out of use must have been given to one.

use super::pools::{CLASSES, Change};

/// Blocks of one size that must have changed before their share says anything.
const ENOUGH_OF_ONE: u64 = 32;
/// Blocks that must have come into use before all calls are held to be seen.
const ENOUGH: u64 = 200;
/// Sizes among them: which calls are inlined differs from type to type.
const ENOUGH_SIZES: usize = 3;
/// Blocks of a size that must have come into use for it to be one of those.
const FEW: u64 = 8;
/// Per cent of the changed blocks that must have been heard of. Calls that are under way are heard of later.
const LEAST_SHARE: u64 = 95;

/// What was heard at the functions.
#[derive(Clone, Debug, Default)]
pub struct Heard {
    /// Blocks that they returned, in ascending order.
    pub made: Vec<u64>,
    /// Blocks that they were given to free, in ascending order.
    pub freed: Vec<u64>,
}

/// Blocks that have changed, and those of them that were heard of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Share {
    heard: u64,
    all: u64,
}

/// Changed blocks, by size class.
#[derive(Clone, Debug, Default)]
pub struct Coverage {
    made: [Share; CLASSES],
    freed: [Share; CLASSES],
}

/// What the functions of a build show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every call.
    EveryCall,
    /// A part of the calls, or none: the rest is inlined.
    Inlined,
}

impl Coverage {
    /// Takes changes and what was heard while they happened.
    pub fn add(&mut self, changes: impl Iterator<Item = Change>, heard: &Heard) {
        for change in changes {
            let (shares, heard) = if change.is_made {
                (&mut self.made, &heard.made)
            } else {
                (&mut self.freed, &heard.freed)
            };
            let share = &mut shares[change.class % CLASSES];
            share.all += 1;
            share.heard += u64::from(heard.binary_search(&change.start).is_ok());
        }
    }

    /// Adds what another trial has shown.
    pub fn merge(&mut self, other: &Self) {
        let pairs = self.made.iter_mut().zip(&other.made);
        for (share, other) in pairs.chain(self.freed.iter_mut().zip(&other.freed)) {
            share.heard += other.heard;
            share.all += other.all;
        }
    }

    /// What they say; none when too little has changed.
    #[must_use]
    pub fn verdict(&self) -> Option<Verdict> {
        let mut shares = self.made.iter().chain(&self.freed);
        if shares.any(|share| share.all >= ENOUGH_OF_ONE && !share.is_whole()) {
            return Some(Verdict::Inlined);
        }
        let sizes = self.made.iter().filter(|share| share.all >= FEW).count();
        let sum = |shares: &[Share]| {
            shares.iter().fold(Share::default(), |sum, share| Share {
                heard: sum.heard + share.heard,
                all: sum.all + share.all,
            })
        };
        let (made, freed) = (sum(&self.made), sum(&self.freed));
        let enough = made.all >= ENOUGH && sizes >= ENOUGH_SIZES;
        (enough && made.is_whole() && freed.is_whole()).then_some(Verdict::EveryCall)
    }
}

impl Share {
    fn is_whole(self) -> bool {
        self.heard * 100 >= self.all * LEAST_SHARE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `count` blocks of a class that have come into use, of which the first `heard` were heard of.
    fn made(coverage: &mut Coverage, class: usize, count: u64, heard: u64) {
        let changes = (0..count).map(|block| Change {
            start: block,
            class,
            is_made: true,
        });
        let heard = Heard {
            made: (0..heard).collect(),
            freed: Vec::new(),
        };
        coverage.add(changes, &heard);
    }

    #[test]
    fn all_of_many_sizes_is_every_call() {
        let mut coverage = Coverage::default();
        made(&mut coverage, 1, 100, 100);
        made(&mut coverage, 2, 100, 99);
        assert_eq!(coverage.verdict(), None);
        made(&mut coverage, 3, 10, 10);
        assert_eq!(coverage.verdict(), Some(Verdict::EveryCall));
    }

    #[test]
    fn one_size_says_nothing_of_the_others() {
        let mut coverage = Coverage::default();
        made(&mut coverage, 1, 100_000, 100_000);
        assert_eq!(coverage.verdict(), None);
    }

    #[test]
    fn one_size_that_is_not_heard_of_is_enough() {
        let mut coverage = Coverage::default();
        (0..9).for_each(|class| made(&mut coverage, class, 1000, 1000));
        made(&mut coverage, 9, 31, 0);
        assert_ne!(coverage.verdict(), Some(Verdict::Inlined));
        made(&mut coverage, 9, 1, 0);
        assert_eq!(coverage.verdict(), Some(Verdict::Inlined));
    }

    #[test]
    fn unheard_frees_count_too() {
        let mut coverage = Coverage::default();
        (0..9).for_each(|class| made(&mut coverage, class, 1000, 1000));
        assert_eq!(coverage.verdict(), Some(Verdict::EveryCall));
        let ended = (0..40).map(|block| Change {
            start: block,
            class: 1,
            is_made: false,
        });
        coverage.add(ended, &Heard::default());
        assert_eq!(coverage.verdict(), Some(Verdict::Inlined));
    }
}
