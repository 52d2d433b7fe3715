//! Oracles: `nm` for what an object defines, `objdump` for what its code is, the compiler for what it was made from.

mod programs;
mod registers;
mod tools;

use std::{collections::BTreeMap, path::Path};

use memtrace_common::kind;
use proptest::prelude::*;

use self::tools::{Disassembly, defined_functions, library};
use super::{probe_point::Cost, *};

fn discover_in(path: &Path) -> Discovery {
    let image = Image::new(std::fs::File::open(path).unwrap()).unwrap();
    let elf = Elf::read(&image).unwrap();
    discover(&image, &elf)
}

fn found_in(path: &Path) -> Allocator {
    match discover_in(path) {
        Discovery::Found(allocator) => allocator,
        Discovery::Absent(absence) => panic!("{}: {absence}", path.display()),
    }
}

/// The kinds of the C interface, as its manual pages describe the arguments.
const C_KINDS: [(&str, u32); 15] = [
    ("malloc", kind::MALLOC),
    ("valloc", kind::MALLOC),
    ("mallocx", kind::MALLOC),
    ("calloc", kind::CALLOC),
    ("realloc", kind::REALLOC),
    ("rallocx", kind::REALLOC),
    ("reallocarray", kind::REALLOCARRAY),
    ("memalign", kind::MEMALIGN),
    ("aligned_alloc", kind::MEMALIGN),
    ("posix_memalign", kind::POSIX_MEMALIGN),
    ("pvalloc", kind::PVALLOC),
    ("free", kind::FREE),
    ("cfree", kind::FREE),
    ("dallocx", kind::FREE),
    ("sdallocx", kind::FREE),
];

/// The kind that a symbol stands for, if it is a plain C function or a C++ operator.
fn expected_kind(name: &str) -> Option<u32> {
    match name.get(..5) {
        Some("_Znwm" | "_Znam") => Some(kind::MALLOC),
        Some("_ZdlP" | "_ZdaP") => Some(kind::FREE),
        _ => C_KINDS
            .iter()
            .find(|known| known.0 == name)
            .map(|known| known.1),
    }
}

/// Checks an object against `nm` and `objdump`: each function that `nm` lists under a known name is probed with the
/// kind of that name, or else its code calls or jumps to another one of the family.
fn check_against_tools(path: &Path) -> Allocator {
    let allocator = found_in(path);
    let by_rel: BTreeMap<u64, &AllocatorFunction> = allocator
        .functions
        .iter()
        .map(|function| (function.rel, function))
        .collect();
    let disassembly = Disassembly::of(path);
    let mut checked = 0;
    for (name, rel) in defined_functions(path) {
        let Some(expected) = expected_kind(&name) else {
            continue;
        };
        checked += 1;
        match by_rel.get(&rel) {
            Some(function) if expected == kind::FREE => {
                assert!(
                    matches!(function.kind, kind::FREE | kind::FREE_OUTER),
                    "{name}: {function:?}"
                );
            }
            Some(function) => assert_eq!(function.kind, expected, "{name}"),
            None => assert!(
                disassembly.hands_over(&name),
                "{name} is not probed, but hands nothing over"
            ),
        }
    }
    assert!(
        checked >= 4,
        "nm names too few functions of {}",
        path.display()
    );
    for function in &allocator.functions {
        check_point(function, &disassembly);
    }
    allocator
}

/// The point is an instruction of the function, and of a sort that the kernel emulates if that is claimed.
fn check_point(function: &AllocatorFunction, disassembly: &Disassembly) {
    let point = &function.point;
    assert_eq!(
        point.file_off,
        function.file_off + u64::from(point.skipped_bytes)
    );
    let line = disassembly.instruction_at(function.rel + u64::from(point.skipped_bytes));
    let line = line.unwrap_or_else(|| panic!("{function:?} is inside an instruction"));
    let mnemonic = line.split_whitespace().find(|word| *word != "bnd").unwrap();
    let is_emulated =
        ["push", "call", "jmp", "nop"].contains(&mnemonic) || mnemonic.starts_with('j');
    assert_eq!(
        point.cost == Cost::Emulated,
        is_emulated,
        "{}: {line}",
        function.name
    );
}

fn function<'a>(allocator: &'a Allocator, name: &str) -> &'a AllocatorFunction {
    allocator
        .functions
        .iter()
        .find(|function| function.name == name)
        .unwrap_or_else(|| panic!("`{name}` is not probed"))
}

fn names(allocator: &Allocator) -> Vec<&str> {
    allocator
        .functions
        .iter()
        .map(|function| function.name.as_str())
        .collect()
}

#[test]
fn glibc() {
    let allocator = check_against_tools(&library("libc.so.6"));
    assert_eq!(allocator.flavour, Flavour::Glibc);
    for name in ["malloc", "calloc", "realloc", "free"] {
        assert_eq!(
            function(&allocator, name).point.cost,
            Cost::Emulated,
            "{name}"
        );
        assert!(function(&allocator, name).point.is_in_place(), "{name}");
    }
}

#[test]
fn musl() {
    let allocator = check_against_tools(Path::new("/lib/x86_64-linux-musl/libc.so"));
    assert_eq!(allocator.flavour, Flavour::Musl);
    assert_eq!(
        function(&allocator, "_dl_debug_state").kind,
        kind::MAPS_CHANGED
    );
}

#[test]
fn jemalloc() {
    let allocator = check_against_tools(&library("libjemalloc.so.2"));
    assert_eq!(allocator.flavour, Flavour::Jemalloc);
    assert!(function(&allocator, "_Znwm").throws);
    assert!(!function(&allocator, "_ZnwmRKSt9nothrow_t").throws);
    assert!(!function(&allocator, "malloc").throws);
    // `operator new` has a fast path of its own, `operator delete` is a jump to `free`.
    assert_eq!(function(&allocator, "_Znwm").kind, kind::MALLOC);
    assert!(!names(&allocator).contains(&"_ZdlPv"));
    assert_eq!(function(&allocator, "free").kind, kind::FREE);
}

#[test]
fn tcmalloc() {
    for file in [
        "libtcmalloc_minimal.so.4",
        "libtcmalloc.so.4",
        "libtcmalloc_minimal_debug.so.4",
    ] {
        let allocator = check_against_tools(&library(file));
        assert_eq!(allocator.flavour, Flavour::Tcmalloc);
        assert_eq!(function(&allocator, "free").kind, kind::FREE);
    }
}

#[test]
fn mimalloc() {
    let allocator = check_against_tools(&library("libmimalloc.so.2"));
    assert_eq!(allocator.flavour, Flavour::Mimalloc);
    for name in ["malloc", "calloc", "realloc"] {
        let point = &function(&allocator, name).point;
        assert_eq!(point.cost, Cost::Emulated, "{name}");
        assert!(!point.is_in_place(), "{name}");
    }
    let frees = |function: &&AllocatorFunction| function.kind != kind::FREE_OUTER;
    assert!(allocator.functions.iter().all(|function| frees(&function)));
}

#[test]
fn the_dynamic_linker_only_announces_objects() {
    let allocator = found_in(Path::new("/lib64/ld-linux-x86-64.so.2"));
    assert_eq!(allocator.flavour, Flavour::Linker);
    assert_eq!(names(&allocator), ["_dl_debug_state"]);
}

#[test]
fn callers_of_malloc_have_no_allocator() {
    for path in [
        library("libstdc++.so.6"),
        library("libm.so.6"),
        std::env::current_exe().unwrap(),
    ] {
        assert_eq!(
            discover_in(&path),
            Discovery::Absent(Absence::Imported),
            "{}",
            path.display()
        );
    }
}

#[test]
fn an_allocator_upon_another_is_an_interposer() {
    let allocator = check_against_tools(&library("libc_malloc_debug.so.0"));
    assert_eq!(allocator.flavour, Flavour::Interposer);
    assert_eq!(function(&allocator, "free").kind, kind::FREE_OUTER);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// A damaged file hides functions; it neither panics nor takes long.
    #[test]
    fn damage_is_survived(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..40),
        in_headers in any::<bool>(),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = std::fs::read(library("libmimalloc.so.2")).unwrap();
        let reach = if in_headers { 0x4000 } else { bytes.len() };
        for (index, value) in changes {
            bytes[index.index(reach)] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        let image = Image::new(file.reopen().unwrap()).unwrap();
        let begin = std::time::Instant::now();
        if let Ok(elf) = Elf::read(&image) {
            let _ = discover(&image, &elf);
        }
        prop_assert!(begin.elapsed().as_secs() < 5);
    }
}
