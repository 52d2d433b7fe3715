//! The name of a site on every host.
//!
//! A stack id hashes object numbers, which are counted anew in every run. A [`SiteId`] hashes what the numbers stand
//! for. It is the 64-bit FNV-1a hash (offset basis `cbf29ce484222325`, prime `100000001b3`) of, for each frame from
//! the innermost outwards, 16 bytes: the object's digest and the frame's offset in the file, both as little-endian
//! 64-bit words; behind the frames one byte, the reason why the stack was cut; behind that, for blocks of one of CPython's
//! domains, the domain's name. The digest is the FNV-1a hash of the build id or, without one, of the file's name (no
//! folders) and its size as a little-endian 64-bit word. A frame whose object is unknown has digest 0, and its relative
//! address in place of the offset.
//!
//! FNV because it can be written out in a line wherever a site must be recognized again. An address at which a
//! stack was cut is left out: it differs from process to process.

use memtrace_common::stack;

use super::object::Objects;
use crate::{
    ids::{ObjectId, SiteId},
    snapshot::Stack,
    target::{elf::Elf, image::Image, object::Object},
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
            Some((object, digest)) => (*digest, offset_in(object, rel)),
            None => (0, u64::from(rel)),
        };
        known &= digest != 0;
        hash = hash.add(&digest.to_le_bytes()).add(&offset.to_le_bytes());
    }
    hash = hash.add(&[stack.cut]);
    if let Some(domain) = stack.domain {
        hash = hash.add(domain.to_string().as_bytes());
    }
    (SiteId(hash.0), known)
}

/// What an object contributes to the ids of its frames.
pub(super) fn digest(object: &Object) -> u64 {
    let elf = object.elf.as_ref().ok();
    if let Some(build_id) = elf.and_then(|elf| elf.build_id.as_ref()) {
        return Fnv::new().add(build_id).0;
    }
    let name = object.path.file_name().unwrap_or(object.path.as_os_str());
    let size = object.image.as_ref().map_or(0, Image::size);
    Fnv::new()
        .add(name.as_encoded_bytes())
        .add(&size.to_le_bytes())
        .0
}

/// Offset in the file; the relative address where the file has none.
fn offset_in(object: &Object, rel: u32) -> u64 {
    let file_off = object.elf.as_ref().ok().and_then(|elf| file_off(elf, rel));
    file_off.unwrap_or_else(|| u64::from(rel))
}

/// A return address may lie just behind the last byte of a segment: the call was the last instruction.
fn file_off(elf: &Elf, rel: u32) -> Option<u64> {
    let rel = u64::from(rel);
    let place = |slack: u64| {
        elf.code()
            .find(|segment| (segment.rel..segment.rel + segment.file_size + slack).contains(&rel))
            .map(|segment| segment.file_off + (rel - segment.rel))
    };
    place(0).or_else(|| place(1))
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, fs::File, path::PathBuf, sync::Arc};

    use memtrace_common::unwind::FileKey;

    use super::*;
    use crate::snapshot::Domain;

    const OWN: &str = "/proc/self/exe";

    fn object(id: u32, path: &str, file: &str) -> (ObjectId, Arc<Object>) {
        let (id, file) = (ObjectId(id), File::open(file).unwrap());
        (
            id,
            Arc::new(Object::new(
                id,
                FileKey::default(),
                PathBuf::from(path),
                Ok(file),
            )),
        )
    }

    fn id(objects: &HashMap<ObjectId, Arc<Object>>, frames: &[u64]) -> SiteId {
        let frames = frames.into();
        let stack = Stack {
            frames,
            ..Stack::default()
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
        let here = HashMap::from([object(1, "/usr/lib/libx.so", OWN)]);
        let there = HashMap::from([object(9, "/opt/liby.so", OWN)]);
        let [a, b] = [0x2010, 0x2011];
        assert_eq!(
            id(&here, &[stack::frame(1, a)]),
            id(&there, &[stack::frame(9, a)])
        );
        assert_ne!(
            id(&here, &[stack::frame(1, a)]),
            id(&here, &[stack::frame(1, b)])
        );
    }

    #[test]
    fn without_a_build_id_the_name_and_the_size_count() {
        let objects = HashMap::from([
            object(1, "/usr/lib/table", "/proc/self/maps"),
            object(2, "/opt/table", "/proc/self/maps"),
            object(3, "/opt/chair", "/proc/self/maps"),
        ]);
        let [one, two, three] = [1, 2, 3].map(|object| id(&objects, &[stack::frame(object, 0x10)]));
        assert_eq!(one, two);
        assert_ne!(one, three);
    }

    #[test]
    fn the_order_of_frames_matters() {
        let objects = HashMap::from([object(1, "a", OWN)]);
        let (inner, outer) = (stack::frame(1, 0x2010), stack::frame(1, 0x2020));
        assert_ne!(id(&objects, &[inner, outer]), id(&objects, &[outer, inner]));
    }

    #[test]
    fn domains_are_sites_of_their_own() {
        let id = |domain| {
            let stack = Stack {
                domain,
                frames: [stack::frame(1, 0x1010)].into(),
                ..Stack::default()
            };
            site_id(&stack, &mut Objects::new(&HashMap::new())).0
        };
        // Computed from the module's text with Python's integers.
        assert_eq!(id(Some(Domain::Object)).to_string(), "9b9456d41e3ce77c");
        assert_ne!(id(Some(Domain::Object)), id(Some(Domain::Mem)));
    }

    #[test]
    fn the_id_is_the_documented_one() {
        // A frame of an unknown object; computed from the module's text with Python's integers.
        let site = id(&HashMap::new(), &[stack::frame(1, 0x1010)]);
        assert_eq!(site.to_string(), "744c1369ca9b9adf");
    }

    #[test]
    fn offsets_are_those_of_the_program_headers() {
        use object::{Object as _, ObjectSegment as _, SegmentFlags, elf::PF_X};
        let (_, own) = object(1, OWN, OWN);
        let elf = own.elf.as_ref().unwrap();
        let bytes = std::fs::read(OWN).unwrap();
        let oracle = object::File::parse(&*bytes).unwrap();
        let is_code = |flags| matches!(flags, SegmentFlags::Elf { p_flags } if p_flags & PF_X != 0);
        let code = oracle
            .segments()
            .find(|segment| is_code(segment.flags()))
            .unwrap();
        let rel = u32::try_from(code.address() - elf.base).unwrap();
        let (start, size) = code.file_range();
        assert_eq!(file_off(elf, rel + 5), Some(start + 5));
        assert_eq!(
            file_off(elf, rel + u32::try_from(size).unwrap()),
            Some(start + size)
        );
        assert_eq!(file_off(elf, 0), None);
    }
}
