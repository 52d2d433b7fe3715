//! A map of bounded weight that forgets what has not been asked for lately.

use std::{collections::HashMap, hash::Hash, mem};

/// Two generations of entries. When the young one has reached half of the limit it becomes the old one, and the
/// former old one is dropped; an entry that is asked for returns to the young one. So the weight held never
/// exceeds the limit by more than one entry, an entry in steady use stays, and nothing is linked or sorted.
#[derive(Debug)]
pub(super) struct Cache<K, V> {
    young: HashMap<K, Entry<V>>,
    old: HashMap<K, Entry<V>>,
    young_weight: usize,
    half_limit: usize,
    counts: CacheCounts,
}

#[derive(Debug)]
struct Entry<V> {
    value: V,
    weight: usize,
}

/// How well a cache did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheCounts {
    /// Questions answered.
    pub hits: u64,
    /// Questions not answered.
    pub misses: u64,
    /// Entries dropped for want of room.
    pub dropped: u64,
}

impl<K: Hash + Eq, V: Clone> Cache<K, V> {
    /// A cache that holds entries up to `limit` in total, in the unit of their weights.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            young: HashMap::new(),
            old: HashMap::new(),
            young_weight: 0,
            half_limit: limit / 2,
            counts: CacheCounts::default(),
        }
    }

    pub(super) fn get(&mut self, key: &K) -> Option<V> {
        if let Some(entry) = self.young.get(key) {
            self.counts.hits += 1;
            return Some(entry.value.clone());
        }
        let Some((key, entry)) = self.old.remove_entry(key) else {
            self.counts.misses += 1;
            return None;
        };
        self.counts.hits += 1;
        let value = entry.value.clone();
        self.put(key, entry);
        Some(value)
    }

    pub(super) fn insert(&mut self, key: K, value: V, weight: usize) {
        self.old.remove(&key);
        self.put(key, Entry { value, weight });
    }

    /// Drops everything.
    pub(super) fn clear(&mut self) {
        self.counts.dropped += (self.young.len() + self.old.len()) as u64;
        self.young.clear();
        self.old.clear();
        self.young_weight = 0;
    }

    pub(super) fn counts(&self) -> CacheCounts {
        self.counts
    }

    fn put(&mut self, key: K, entry: Entry<V>) {
        if self.young_weight + entry.weight > self.half_limit && !self.young.is_empty() {
            self.counts.dropped += self.old.len() as u64;
            self.old = mem::take(&mut self.young);
            self.young_weight = 0;
        }
        self.young_weight += entry.weight;
        if let Some(replaced) = self.young.insert(key, entry) {
            self.young_weight -= replaced.weight;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn answers_are_true_and_weight_is_bounded(steps in prop::collection::vec((0_u8..40, 1_usize..8, any::<bool>()), 0..400)) {
            let mut cache = Cache::new(60);
            let mut truth = HashMap::new();
            for (step, (key, weight, write)) in steps.into_iter().enumerate() {
                if write {
                    cache.insert(key, step, weight);
                    truth.insert(key, step);
                } else if let Some(value) = cache.get(&key) {
                    prop_assert_eq!(Some(&value), truth.get(&key));
                }
                let held: usize = cache.young.values().chain(cache.old.values()).map(|entry| entry.weight).sum();
                prop_assert!(held <= 60);
                let young: usize = cache.young.values().map(|entry| entry.weight).sum();
                prop_assert_eq!(young, cache.young_weight);
            }
        }
    }

    #[test]
    fn entries_in_use_survive_a_stream_of_new_ones() {
        let mut cache = Cache::new(100);
        cache.insert("kept", 1, 1);
        for round in 0..1000 {
            assert_eq!(cache.get(&"kept"), Some(1), "round {round}");
            cache.insert(Box::leak(round.to_string().into_boxed_str()), 0, 1);
        }
        assert_eq!(cache.counts().hits, 1000);
        assert!(cache.counts().dropped > 800);
    }
}
