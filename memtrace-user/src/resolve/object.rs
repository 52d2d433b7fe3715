//! What the resolver needs to know of a mapped file, and who tells it.
//!
//! The objects themselves are kept by [`target`](crate::target); here is only the view of them that names need,
//! so that this folder can be tested with any file.

use std::{collections::HashMap, fs::File, path::PathBuf, sync::Arc};

use memtrace_common::unwind::Segment;

use super::site::digest;
use crate::ids::ObjectId;

/// A mapped file.
#[derive(Clone, Debug)]
pub struct ObjectInfo {
    /// Its path as the process sees it; a display name, perhaps of another mount namespace or deleted.
    pub path: PathBuf,
    /// A descriptor opened while the file was mapped; `None` when it could not be opened.
    pub file: Option<Arc<File>>,
    /// GNU build id.
    pub build_id: Option<Vec<u8>>,
    /// Load base: `rel + base` is the virtual address that the file's own symbols speak of.
    pub base: u64,
    /// Executable segments; they place a `rel` in the file.
    pub segments: Arc<[Segment]>,
}

impl ObjectInfo {
    /// Offset in the file of an address relative to the load base. A return address may lie just behind the
    /// last byte of a segment: the call was the last instruction.
    #[must_use]
    pub fn file_off(&self, rel: u32) -> Option<u64> {
        let rel = u64::from(rel);
        let place = |slack: u64| {
            self.segments
                .iter()
                .filter(|segment| segment.size > 0)
                .find(|segment| (segment.rel..segment.rel + segment.size + slack).contains(&rel))
                .map(|segment| segment.file_off + (rel - segment.rel))
        };
        place(0).or_else(|| place(1))
    }
}

/// Where objects come from.
pub trait ObjectSource {
    /// The object that frame words call `id`, if it is still known.
    fn get(&self, id: ObjectId) -> Option<ObjectInfo>;
}

/// A set of objects held in memory.
impl ObjectSource for HashMap<ObjectId, ObjectInfo> {
    fn get(&self, id: ObjectId) -> Option<ObjectInfo> {
        HashMap::get(self, &id).cloned()
    }
}

/// Asks an [`ObjectSource`] once for each object, and keeps the digests that site ids are made of.
pub(super) struct Objects<'a> {
    source: &'a dyn ObjectSource,
    seen: HashMap<ObjectId, Option<(Arc<ObjectInfo>, u64)>>,
}

impl<'a> Objects<'a> {
    pub(super) fn new(source: &'a dyn ObjectSource) -> Self {
        Self {
            source,
            seen: HashMap::new(),
        }
    }

    /// The object and its [`digest`].
    pub(super) fn get(&mut self, id: ObjectId) -> Option<&(Arc<ObjectInfo>, u64)> {
        let look_up = || {
            let info = self.source.get(id)?;
            let digest = digest(&info);
            Some((Arc::new(info), digest))
        };
        self.seen.entry(id).or_insert_with(look_up).as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(file_off: u64, rel: u64, size: u64) -> Segment {
        Segment {
            file_off,
            size,
            rel,
        }
    }

    #[test]
    fn a_rel_is_placed_by_its_segment_and_the_end_belongs_to_the_last_byte() {
        let info = ObjectInfo {
            path: PathBuf::new(),
            file: None,
            build_id: None,
            base: 0,
            segments: Arc::new([
                segment(0x1000, 0x2000, 0x100),
                segment(0x9000, 0x2100, 0x100),
                segment(0, 0, 0),
            ]),
        };
        assert_eq!(info.file_off(0x2000), Some(0x1000));
        assert_eq!(info.file_off(0x2100), Some(0x9000));
        assert_eq!(info.file_off(0x2200), Some(0x9100));
        assert_eq!(info.file_off(0x2201), None);
        assert_eq!(info.file_off(0), None);
    }
}
