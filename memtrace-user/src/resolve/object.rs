//! Where the objects that frames lie in come from.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};

use super::site::digest;
use crate::{
    ids::ObjectId,
    target::{object::Object, store::ObjectStore},
};

/// Knows objects by the numbers that frame words have.
pub trait ObjectSource {
    /// The object that frame words call `id`.
    fn get(&self, id: ObjectId) -> Option<Arc<Object>>;
}

impl ObjectSource for RwLock<ObjectStore> {
    fn get(&self, id: ObjectId) -> Option<Arc<Object>> {
        // Whoever panicked while writing has not left half an object: objects never change.
        let store = self.read().unwrap_or_else(PoisonError::into_inner);
        store.get(id).cloned()
    }
}

impl ObjectSource for HashMap<ObjectId, Arc<Object>> {
    fn get(&self, id: ObjectId) -> Option<Arc<Object>> {
        Self::get(self, &id).cloned()
    }
}

/// Asks a source once for each object, and keeps the digests that site ids are made of.
pub(super) struct Objects<'a> {
    source: &'a dyn ObjectSource,
    seen: HashMap<ObjectId, Option<(Arc<Object>, u64)>>,
}

impl<'a> Objects<'a> {
    pub(super) fn new(source: &'a dyn ObjectSource) -> Self {
        Self {
            source,
            seen: HashMap::new(),
        }
    }

    /// The object and its [`digest`].
    pub(super) fn get(&mut self, id: ObjectId) -> Option<&(Arc<Object>, u64)> {
        let look_up = || {
            let object = self.source.get(id)?;
            let digest = digest(&object);
            Some((object, digest))
        };
        self.seen.entry(id).or_insert_with(look_up).as_ref()
    }
}
