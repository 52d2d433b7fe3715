//! The name of a site on every host.
//!
//! A stack id hashes object numbers, which are counted anew in every run. A [`SiteId`] hashes what the numbers stand
//! for. It is the 64-bit FNV-1a hash (offset basis `cbf29ce484222325`, prime `100000001b3`) of, for each frame from
//! the innermost outwards, 16 bytes, a digest and an offset as little-endian 64-bit words; behind the frames one byte, the
//! reason why the stack was cut; behind that, for blocks of one of CPython's domains, the domain's name.
//!
//! | frame | digest | offset |
//! |---|---|---|
//! | native | of the build id or, without one, of the file's name (no folders) and its size as a little-endian 64-bit word; 0 when the object is unknown | in the file; the relative address when the object is unknown |
//! | Python | of the file's name as the code object has it, a 0 byte, the qualified name, a 0 byte | the line; 0 without one |
//! | Python without a name | 0 | all ones |
//! | Python that is the interpreter's own ([`CodeName::is_shim`](crate::python::name::CodeName::is_shim)) | does not count | |
//! | the interpreter's own, in a stack with Python frames | of the function's name without `.cold` and the like | 0 |
//!
//! A digest is an FNV-1a hash too. The interpreter's own frames count only if they are shown when interpreters' frames are
//! folded: named, and no [plumbing](super::is_plumbing). So the id is the same with `--native` and without, does not split
//! a line of Python by how the interpreter happens to execute it, and is the same under another build of the interpreter
//! unless that calls differently named functions.
//!
//! FNV because it can be written out in a line wherever a site must be recognized again. An address at which a
//! stack was cut is left out: it differs from process to process.

use memtrace_common::stack;

use super::{
    Names, Origin,
    interpreter::{is_plumbing, plain},
    object::Objects,
};
use crate::{
    ids::{CodeId, ObjectId, SiteId},
    python::name::Gone,
    snapshot::Bound,
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

/// What a frame contributes to an id.
struct Part {
    digest: u64,
    offset: u64,
    /// Whether it will always be the same.
    is_final: bool,
}

/// The id of a site, and whether all that it depends on was known, which makes it final. `names`: of the interpreters'
/// own frames.
pub(super) fn site_id(
    bound: Bound<'_>,
    names: &Names,
    objects: &mut Objects<'_>,
    origin: &Origin<'_>,
) -> (SiteId, bool) {
    let mut hash = Fnv::new();
    let mut known = true;
    let is_python = bound.stack.is_python();
    for (frame, code) in bound.frames() {
        let object = ObjectId(stack::object_of(frame));
        let part = match code {
            Some(code) => python(frame, code, origin),
            None if is_python && origin.runtimes.contains(&object) => interpreter(frame, names),
            None => Some(native(frame, object, objects)),
        };
        if let Some(part) = part {
            known &= part.is_final;
            hash = hash
                .add(&part.digest.to_le_bytes())
                .add(&part.offset.to_le_bytes());
        }
    }
    hash = hash.add(&[bound.stack.cut]);
    if let Some(domain) = bound.stack.domain {
        hash = hash.add(domain.to_string().as_bytes());
    }
    (SiteId(hash.0), known)
}

fn native(frame: u64, object: ObjectId, objects: &mut Objects<'_>) -> Part {
    let rel = stack::rel_of(frame);
    let (digest, offset) = match objects.get(object) {
        Some((object, digest)) => (*digest, offset_in(object, rel)),
        None => (0, u64::from(rel)),
    };
    Part {
        digest,
        offset,
        is_final: digest != 0,
    }
}

/// `None` when the frame is not shown.
fn python(frame: u64, code: Result<CodeId, Gone>, origin: &Origin<'_>) -> Option<Part> {
    match code.and_then(|id| origin.codes.name(id)) {
        Ok(name) if name.is_shim() => None,
        Ok(name) => Some(Part {
            digest: Fnv::new()
                .add(name.file().as_bytes())
                .add(&[0])
                .add(name.function().as_bytes())
                .add(&[0])
                .0,
            offset: name.line(stack::instr_of(frame)).unwrap_or(0).into(),
            is_final: true,
        }),
        Err(gone) => Some(Part {
            digest: 0,
            offset: u64::MAX,
            is_final: gone != Gone::NotYet,
        }),
    }
}

/// `None` when the frame is not shown. Of a frame with inlined functions the one that has the code decides: which are
/// inlined is known only where there is debug information.
fn interpreter(frame: u64, names: &Names) -> Option<Part> {
    let functions = names.native(frame).functions.ok()?;
    let name = plain(&functions.last()?.name);
    (!is_plumbing(name)).then(|| Part {
        digest: Fnv::new().add(name.as_bytes()).0,
        offset: 0,
        is_final: true,
    })
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
    use std::{
        collections::{HashMap, HashSet},
        fs::File,
        path::PathBuf,
        sync::Arc,
        time::Duration,
    };

    use memtrace_common::{stack::python_frame, unwind::FileKey};

    use super::*;
    use crate::{
        ids::Pid,
        python::{
            book::{BookLimits, CodeBook, Word},
            name::CodeName,
        },
        resolve::{ResolveOptions, Resolver},
        snapshot::{Domain, Stack},
    };

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
        id_of(objects, &[], frames, Err(Gone::StackLate)).0
    }

    /// The id of frames whose code objects are these, when object 1 is the interpreter.
    fn id_of(
        objects: &HashMap<ObjectId, Arc<Object>>,
        names: &[(&'static str, &'static str, u32)],
        frames: &[u64],
        codes: Result<&[CodeId], Gone>,
    ) -> (SiteId, bool) {
        let stack = Stack {
            frames: frames.into(),
            ..Stack::default()
        };
        let origin = Origin {
            objects,
            codes: &book(names),
            runtimes: &HashSet::from([ObjectId(1)]),
        };
        let bound = Bound {
            stack: &stack,
            codes,
        };
        let mut resolver = Resolver::new(ResolveOptions::default());
        let names = resolver.interpreter_names([bound].iter(), &origin);
        site_id(bound, &names, &mut Objects::new(objects), &origin)
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
            let bound = Bound {
                stack: &stack,
                codes: Ok(&[]),
            };
            let objects = HashMap::new();
            let origin = Origin {
                objects: &objects,
                codes: &book(&[]),
                runtimes: &HashSet::new(),
            };
            site_id(
                bound,
                &Names::default(),
                &mut Objects::new(&objects),
                &origin,
            )
            .0
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

    /// A function of the interpreter's own.
    const SHIM: &str = "shim";

    #[derive(Debug)]
    struct Name(&'static str, &'static str, u32);

    impl CodeName for Name {
        fn function(&self) -> &str {
            self.0
        }

        fn file(&self) -> &str {
            self.1
        }

        fn line(&self, instr: u32) -> Option<u32> {
            Some(self.2 + instr)
        }

        fn is_shim(&self) -> bool {
            self.0 == SHIM
        }

        fn bytes(&self) -> usize {
            1
        }
    }

    /// A book that names the code objects 2, 3, … so.
    fn book(names: &[(&'static str, &'static str, u32)]) -> CodeBook {
        let mut book = CodeBook::new(BookLimits::default());
        for (id, &(function, file, line)) in (2..).map(CodeId).zip(names) {
            let (pid, addr) = (Pid(1), 0x10);
            book.tell(Word::New { id, pid, addr });
            assert!(book.next(Duration::ZERO).is_some());
            let name: Arc<dyn CodeName> = Arc::new(Name(function, file, line));
            book.hand_in(id, Ok(name), Duration::ZERO);
        }
        book.drained(Duration::ZERO);
        book
    }

    #[test]
    fn a_python_frame_is_its_file_name_and_line() {
        let at = |addr, instr| [python_frame(addr, instr), stack::frame(9, 0x10)];
        let id = |name, frames: &[u64]| {
            let (id, known) = id_of(&HashMap::new(), &[name], frames, Ok(&[CodeId(2)]));
            assert!(!known, "object 9 is unknown");
            id
        };
        let truth = id(("C.f", "/a.py", 10), &at(0x1000, 2));
        // Computed from the module's text with Python's integers.
        assert_eq!(truth.to_string(), "fac2609372596472");
        // The same line by another instruction of another code object elsewhere.
        assert_eq!(truth, id(("C.f", "/a.py", 9), &at(0x7000, 3)));
        assert_ne!(truth, id(("C.f", "/a.py", 10), &at(0x1000, 3)));
        assert_ne!(truth, id(("C.g", "/a.py", 10), &at(0x1000, 2)));
        assert_ne!(truth, id(("C.f", "/b.py", 10), &at(0x1000, 2)));
    }

    #[test]
    fn a_frame_that_python_hides_is_not_there() {
        let names = [("f", "/a.py", 1), (SHIM, "/b.py", 1), ("g", "/a.py", 5)];
        let [f, shim, g] = [0x1000, 0x2000, 0x3000].map(|addr| python_frame(addr, 1));
        let codes = [2, 3, 4].map(CodeId);
        let id =
            |frames: &[u64], codes: &[CodeId]| id_of(&HashMap::new(), &names, frames, Ok(codes)).0;
        let [c, _, d] = codes;
        assert_eq!(id(&[f, shim, g], &codes), id(&[f, g], &[c, d]));
        let frame = |word, code| {
            crate::resolve::python::frame(word, Ok(code), &book(&names))
                .map(|frame| frame.functions.unwrap()[0].name.clone())
        };
        assert_eq!(frame(f, c).as_deref(), Some("f"));
        assert_eq!(frame(shim, codes[1]), None);
    }

    #[test]
    fn the_id_of_a_name_that_may_still_come_is_not_final() {
        let frames = [python_frame(0x1000, 1)];
        let known = |codes| id_of(&HashMap::new(), &[], &frames, codes).1;
        assert!(known(Err(Gone::StackLate)) && known(Ok(&[CodeId::FREED])));
        let mut book = book(&[]);
        let (id, pid, addr) = (CodeId(5), Pid(1), 0x10);
        book.tell(Word::New { id, pid, addr });
        let origin = Origin {
            objects: &HashMap::new(),
            codes: &book,
            runtimes: &HashSet::new(),
        };
        assert!(!python(frames[0], Ok(id), &origin).unwrap().is_final);
    }

    #[test]
    fn the_interpreters_own_frames_count_only_in_stacks_with_python_frames_and_by_name() {
        // This test's own program stands for the interpreter; nothing in it is called like CPython's plumbing.
        let objects = HashMap::from([object(1, "/usr/bin/python3", OWN)]);
        let named = first_function(&objects[&ObjectId(1)]);
        let (inner, outer) = (stack::frame(1, named + 1), python_frame(0x1000, 1));
        let id = |frames: &[u64]| {
            let names = [("f", "/a.py", 1)];
            id_of(&objects, &names, frames, Ok(&[CodeId(2)])).0
        };
        let alone = id(&[outer]);
        assert_ne!(id(&[inner, outer]), alone);
        // By name: another place in the same function is the same.
        assert_eq!(
            id(&[inner, outer]),
            id(&[stack::frame(1, named + 2), outer])
        );
        // What has no name is not shown and does not count.
        assert_eq!(id(&[stack::frame(1, 0xfff0_0000), outer]), alone);
        // Without a Python frame it is native code like any other.
        assert_ne!(id(&[inner]), id(&[stack::frame(1, named + 2)]));
    }

    /// Relative address of a function of some size.
    fn first_function(object: &Object) -> u32 {
        use object::{Object as _, ObjectSymbol as _, SymbolKind};
        let bytes = std::fs::read(OWN).unwrap();
        let file = object::File::parse(&*bytes).unwrap();
        let function = file
            .symbols()
            .find(|symbol| symbol.kind() == SymbolKind::Text && symbol.size() > 64)
            .unwrap();
        u32::try_from(function.address() - object.elf.as_ref().unwrap().base).unwrap()
    }
}
