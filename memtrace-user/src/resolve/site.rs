//! The name of a site on every host.
//!
//! A stack id hashes object numbers, which are counted anew in every run. A [`SiteId`] hashes what the numbers stand
//! for. It is the 64-bit FNV-1a hash (offset basis `cbf29ce484222325`, prime `100000001b3`) of, for each frame from
//! the innermost outwards, 16 bytes: the object's digest and the frame's offset in the file, both as little-endian
//! 64-bit words; behind the frames one byte, the reason why the stack was cut. The digest is the FNV-1a hash of the
//! build id or, without one, of the file's name (no folders) and its size as a little-endian 64-bit word. A frame whose
//! object is unknown has digest 0, and its relative address in place of the offset.
//!
//! FNV because it can be written out in a line wherever a site must be recognized again. An address at which a
//! stack was cut is left out: it differs from process to process.

use memtrace_common::stack;

use super::object::{ObjectInfo, Objects};
use crate::{
    ids::{ObjectId, SiteId},
    snapshot::Stack,
};

/// 64-bit FNV-1a.
#[derive(Clone, Copy, Debug)]
struct Fnv(u64);

impl Fnv {
    fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    fn add(mut self, bytes: &[u8]) -> Self {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
        self
    }
}

/// The id of a stack that was lost on its way: its blocks are known, their site is not.
pub(super) const LOST: SiteId = SiteId(0);

/// The id of a stack, and whether all its objects were known, which makes the id final.
pub(super) fn site_id(stack: &Stack, objects: &mut Objects<'_>) -> (SiteId, bool) {
    let mut hash = Fnv::new();
    let mut known = true;
    for &frame in &stack.frames {
        let rel = stack::rel_of(frame);
        let object = ObjectId(stack::object_of(frame));
        let (digest, offset) = match objects.get(object) {
            Some((info, digest)) => (
                *digest,
                info.file_off(rel).unwrap_or_else(|| u64::from(rel)),
            ),
            None => (0, u64::from(rel)),
        };
        known &= digest != 0;
        hash = hash.add(&digest.to_le_bytes()).add(&offset.to_le_bytes());
    }
    (SiteId(hash.add(&[stack.cut]).0), known)
}

/// What an object contributes to the ids of its frames.
pub(super) fn digest(info: &ObjectInfo) -> u64 {
    if let Some(build_id) = &info.build_id {
        return Fnv::new().add(build_id).0;
    }
    let name = info.path.file_name().unwrap_or(info.path.as_os_str());
    let size = info
        .file
        .as_ref()
        .and_then(|file| file.metadata().ok())
        .map_or(0, |metadata| metadata.len());
    Fnv::new()
        .add(name.as_encoded_bytes())
        .add(&size.to_le_bytes())
        .0
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, path::PathBuf, sync::Arc};

    use memtrace_common::unwind::Segment;

    use super::*;

    fn object(path: &str, build_id: Option<&[u8]>) -> ObjectInfo {
        ObjectInfo {
            path: PathBuf::from(path),
            file: None,
            build_id: build_id.map(<[u8]>::to_vec),
            base: 0,
            segments: Arc::new([Segment {
                file_off: 0x1000,
                size: 0x1000,
                rel: 0x2000,
            }]),
        }
    }

    fn id(objects: &HashMap<ObjectId, ObjectInfo>, frames: &[u64]) -> SiteId {
        let stack = Stack {
            frames: frames.into(),
            cut: 0,
            cut_addr: 0,
        };
        site_id(&stack, &mut Objects::new(objects)).0
    }

    #[test]
    fn fnv_has_its_published_values() {
        // The test vectors of the FNV page (isthe.com/chongo/tech/comp/fnv).
        assert_eq!(Fnv::new().add(b"").0, 0xcbf2_9ce4_8422_2325);
        assert_eq!(Fnv::new().add(b"a").0, 0xaf63_dc4c_8601_ec8c);
        assert_eq!(Fnv::new().add(b"foobar").0, 0x8594_4171_f739_67e8);
    }

    #[test]
    fn numbers_and_paths_do_not_matter_when_there_is_a_build_id() {
        let here = HashMap::from([(ObjectId(1), object("/usr/lib/libx.so", Some(b"abcd")))]);
        let there = HashMap::from([(ObjectId(9), object("/opt/libx.so", Some(b"abcd")))]);
        assert_eq!(
            id(&here, &[stack::frame(1, 0x2010)]),
            id(&there, &[stack::frame(9, 0x2010)])
        );
        assert_ne!(
            id(&here, &[stack::frame(1, 0x2010)]),
            id(&here, &[stack::frame(1, 0x2011)])
        );
    }

    #[test]
    fn the_order_of_frames_matters() {
        let objects = HashMap::from([
            (ObjectId(1), object("a", None)),
            (ObjectId(2), object("b", None)),
        ]);
        let (inner, outer) = (stack::frame(1, 0x2010), stack::frame(2, 0x2010));
        assert_ne!(id(&objects, &[inner, outer]), id(&objects, &[outer, inner]));
    }

    #[test]
    fn the_id_is_the_documented_one() {
        let objects = HashMap::from([(ObjectId(1), object("/usr/lib/libx.so", Some(b"abcd")))]);
        // Computed from the module's text with Python's integers.
        assert_eq!(
            id(&objects, &[stack::frame(1, 0x2010)]).to_string(),
            "f9ddcf3a5e8992ac"
        );
    }
}
