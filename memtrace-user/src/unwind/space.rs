//! Which ranges of a fixed array are taken.
//!
//! Owns numbers only; the array is somebody else's. First fit in the order of addresses: objects are few and large,
//! and those that stay are loaded first.

use std::{collections::BTreeMap, ops::Range};

/// The free ranges of an array.
#[derive(Debug)]
pub struct Space {
    /// Length of each free range by its start. No two of them touch.
    free: BTreeMap<u32, u32>,
}

impl Space {
    /// All of an array of `capacity` entries, free.
    #[must_use]
    pub fn new(capacity: u32) -> Self {
        let whole = (capacity > 0).then_some((0, capacity));
        Self {
            free: whole.into_iter().collect(),
        }
    }

    /// Takes `len` entries, the first that lie together. None when there is no such range. An empty range is
    /// always to be had.
    pub fn take(&mut self, len: u32) -> Option<Range<u32>> {
        if len == 0 {
            return Some(0..0);
        }
        let (&start, &free) = self.free.iter().find(|&(_, &free)| free >= len)?;
        self.free.remove(&start);
        if free > len {
            self.free.insert(start + len, free - len);
        }
        Some(start..start + len)
    }

    /// Gives a range back that [`take`](Self::take) has given.
    pub fn give_back(&mut self, range: Range<u32>) {
        let Range { mut start, mut end } = range;
        if start >= end {
            return;
        }
        if let Some((&before, &len)) = self.free.range(..start).next_back()
            && before + len == start
        {
            self.free.remove(&before);
            start = before;
        }
        if let Some(len) = self.free.remove(&end) {
            end += len;
        }
        self.free.insert(start, end - start);
    }

    /// Entries of the largest range that can be taken.
    #[must_use]
    pub fn largest(&self) -> u32 {
        self.free.values().copied().max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CAPACITY: u32 = 64;

    /// One flag for each entry; the first run of free ones that is long enough is taken.
    struct Model {
        taken: [bool; CAPACITY as usize],
    }

    impl Model {
        fn take(&mut self, len: u32) -> Option<Range<u32>> {
            let start = (0..=CAPACITY.checked_sub(len)?).find(|&start| {
                !self.taken[start as usize..(start + len) as usize].contains(&true)
            })?;
            self.taken[start as usize..(start + len) as usize].fill(true);
            Some(start..start + len)
        }

        fn largest(&self) -> u32 {
            self.taken
                .split(|&taken| taken)
                .map(|free| free.len() as u32)
                .max()
                .unwrap_or(0)
        }
    }

    proptest! {
        #[test]
        fn ranges_are_those_of_the_model(steps in prop::collection::vec((any::<bool>(), 1..20u32, any::<prop::sample::Index>()), 1..200)) {
            let (mut space, mut model) = (Space::new(CAPACITY), Model { taken: [false; CAPACITY as usize] });
            let mut held: Vec<Range<u32>> = Vec::new();
            for (take, len, which) in steps {
                if take || held.is_empty() {
                    let range = space.take(len);
                    prop_assert_eq!(&range, &model.take(len));
                    held.extend(range);
                } else {
                    let range = held.swap_remove(which.index(held.len()));
                    model.taken[range.start as usize..range.end as usize].fill(false);
                    space.give_back(range);
                }
                prop_assert_eq!(space.largest(), model.largest());
            }
            held.into_iter().for_each(|range| space.give_back(range));
            prop_assert_eq!(space.take(CAPACITY), Some(0..CAPACITY), "all free ranges are merged");
        }
    }

    #[test]
    fn nothing_fits_into_no_space() {
        let mut space = Space::new(0);
        assert_eq!(
            (space.take(1), space.take(0), space.largest()),
            (None, Some(0..0), 0)
        );
    }
}
