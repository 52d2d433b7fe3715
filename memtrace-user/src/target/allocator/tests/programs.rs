//! Programs and libraries made on the spot, each with one peculiarity.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use memtrace_common::kind;
use tempfile::TempDir;

use super::{check_against_tools, discover_in, found_in, function, names, tools::run};
use crate::target::allocator::{Absence, Discovery, Flavour};

const USES_MALLOC: &str = "#include <stdlib.h>
int main(void) { void *p = calloc(2, 3); p = realloc(p, 9); free(p); return 0; }";

const USES_NEW: &str = "#include <new>
int main() { int *p = new int; int *q = new int[4]; delete p; delete[] q; return 0; }";

/// Compiles `source` with `compiler` and its arguments.
pub(super) fn compile(dir: &TempDir, compiler: &str, arguments: &[&str], source: &str) -> PathBuf {
    let (input, output) = (dir.path().join("source"), dir.path().join("object"));
    std::fs::write(&input, source).unwrap();
    let language = if compiler == "g++" { "c++" } else { "c" };
    run(Command::new(compiler)
        .args(["-x", language])
        .arg(&input)
        .args(["-x", "none", "-o"])
        .arg(&output)
        .args(arguments));
    output
}

fn strip(path: &Path) {
    run(Command::new("strip").arg(path));
}

/// Overwrites the number of section headers and where they are: some packers leave none.
fn forget_sections(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[0x28..0x30].fill(0);
    bytes[0x3c..0x40].fill(0);
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn static_glibc() {
    let dir = TempDir::new().unwrap();
    for arguments in [&["-static"][..], &["-static-pie"]] {
        let path = compile(&dir, "gcc", arguments, USES_MALLOC);
        assert_eq!(check_against_tools(&path).flavour, Flavour::Glibc);
    }
}

#[test]
fn static_musl() {
    let dir = TempDir::new().unwrap();
    let path = compile(&dir, "musl-gcc", &["-static"], USES_MALLOC);
    let allocator = check_against_tools(&path);
    assert_eq!(allocator.flavour, Flavour::Musl);
    // `free` is a jump to `__libc_free`, which musl itself calls.
    assert!(!names(&allocator).contains(&"free"));
    assert_eq!(function(&allocator, "__libc_free").kind, kind::FREE);
}

#[test]
fn static_cpp_is_probed_in_libc() {
    let dir = TempDir::new().unwrap();
    let path = compile(&dir, "g++", &["-static"], USES_NEW);
    let allocator = check_against_tools(&path);
    assert!(names(&allocator).contains(&"malloc"));
    assert!(
        names(&allocator).iter().all(|name| !name.starts_with("_Z")),
        "{:?}",
        names(&allocator)
    );
}

#[test]
fn stripped_static_programs_say_so() {
    let dir = TempDir::new().unwrap();
    for arguments in [&["-static"][..], &["-static-pie"]] {
        let path = compile(&dir, "gcc", arguments, USES_MALLOC);
        strip(&path);
        assert_eq!(discover_in(&path), Discovery::Absent(Absence::Stripped));
    }
}

#[test]
fn a_program_without_any_allocator_has_an_unknown_one() {
    let dir = TempDir::new().unwrap();
    let source = "void _start(void) { for (;;); }";
    let path = compile(&dir, "gcc", &["-static", "-nostdlib"], source);
    assert_eq!(discover_in(&path), Discovery::Absent(Absence::Unknown));
}

#[test]
fn dynamic_programs_and_libraries_only_import() {
    let dir = TempDir::new().unwrap();
    for (compiler, arguments, source) in [
        ("gcc", &["-fPIE", "-pie"][..], USES_MALLOC),
        ("gcc", &["-no-pie"], USES_MALLOC),
        ("g++", &[], USES_NEW),
        (
            "gcc",
            &["-shared", "-nostdlib", "-fPIC"],
            "int answer(void) { return 42; }",
        ),
    ] {
        let path = compile(&dir, compiler, arguments, source);
        assert_eq!(
            discover_in(&path),
            Discovery::Absent(Absence::Imported),
            "{arguments:?}"
        );
    }
}

#[test]
fn section_headers_are_not_needed() {
    let dir = TempDir::new().unwrap();
    let source = "#include <stddef.h>
        static char heap[99]; void *malloc(size_t n) { return heap + n; } void free(void *p) { heap[0] = !p; }";
    for hash in ["-Wl,--hash-style=gnu", "-Wl,--hash-style=sysv"] {
        let path = compile(
            &dir,
            "gcc",
            &["-O2", "-shared", "-fPIC", "-fno-builtin", hash],
            source,
        );
        let before = found_in(&path);
        strip(&path);
        forget_sections(&path);
        assert_eq!(found_in(&path).functions, before.functions);
        assert_eq!(names(&before).len(), 2);
        assert_eq!(before.flavour, Flavour::Other);
        assert_eq!(function(&before, "free").kind, kind::FREE);
    }
}

#[test]
fn an_interposers_free_is_watched_to_its_end() {
    let dir = TempDir::new().unwrap();
    let source = "#define _GNU_SOURCE
        #include <dlfcn.h>
        #include <stddef.h>
        void *malloc(size_t n) { return ((void *(*)(size_t))dlsym(RTLD_NEXT, \"malloc\"))(n); }
        void free(void *p) { ((void (*)(void *))dlsym(RTLD_NEXT, \"free\"))(p); }";
    let path = compile(&dir, "gcc", &["-O2", "-shared", "-fPIC"], source);
    let allocator = found_in(&path);
    assert_eq!(allocator.flavour, Flavour::Interposer);
    assert_eq!(function(&allocator, "malloc").kind, kind::MALLOC);
    assert_eq!(function(&allocator, "free").kind, kind::FREE_OUTER);
}

#[test]
fn an_interposer_that_passes_the_block_on_is_not_probed_twice() {
    let dir = TempDir::new().unwrap();
    // The first frees what it is given, the second what lies in front of it.
    for (expression, expected) in [("p", None), ("(char *)p - 16", Some(kind::FREE_OUTER))] {
        let source = format!(
            "#include <stddef.h>
            extern void __libc_free(void *); extern void *__libc_malloc(size_t); extern void note(void);
            void note(void) {{ static volatile int count; count++; }}
            void *malloc(size_t n) {{ note(); return (char *)__libc_malloc(n + 16) + 16; }}
            void free(void *p) {{ if (!p) return; note(); __libc_free({expression}); note(); }}"
        );
        let path = compile(
            &dir,
            "gcc",
            &["-O1", "-shared", "-fPIC", "-fno-builtin"],
            &source,
        );
        let allocator = found_in(&path);
        assert_eq!(allocator.flavour, Flavour::Interposer);
        let free = allocator
            .functions
            .iter()
            .find(|function| function.name == "free");
        assert_eq!(free.map(|function| function.kind), expected);
    }
}

#[test]
fn prefixed_families_are_complete_allocators() {
    let dir = TempDir::new().unwrap();
    let family = |prefix: &str| {
        format!(
            "#include <stddef.h>
            static char heap[99]; int {prefix}mallctl(void) {{ return 0; }}
            void *{prefix}malloc(size_t n) {{ return heap + n; }}
            void *{prefix}aligned_alloc(size_t a, size_t n) {{ return heap + n + a; }}
            void {prefix}free(void *p) {{ heap[0] = !p; }}
            void {prefix}sdallocx(void *p, size_t n, int f) {{ {prefix}free(p); }}
            int main(void) {{ {prefix}sdallocx({prefix}malloc(1), 1, 0); return 0; }}"
        )
    };
    for prefix in ["je_", "_rjem_"] {
        let path = compile(&dir, "gcc", &["-O1", "-fno-inline"], &family(prefix));
        let allocator = found_in(&path);
        assert_eq!(allocator.flavour, Flavour::Jemalloc);
        let kind_of = |name: &str| function(&allocator, &format!("{prefix}{name}")).kind;
        assert_eq!(kind_of("malloc"), kind::MALLOC);
        assert_eq!(kind_of("aligned_alloc"), kind::MEMALIGN);
        assert_eq!(kind_of("free"), kind::FREE);
        assert_eq!(
            allocator.functions.len(),
            3,
            "sdallocx hands over: {:?}",
            names(&allocator)
        );
    }
}

#[test]
fn a_private_function_of_the_same_name_is_not_malloc() {
    let dir = TempDir::new().unwrap();
    let source = "__attribute__((noinline)) static long malloc(long a, long b) { return a * b; }
        int main(int c, char **v) { return (int)malloc(c, c); }";
    let path = compile(&dir, "gcc", &["-O1", "-fno-builtin"], source);
    assert_eq!(discover_in(&path), Discovery::Absent(Absence::Imported));
}

/// Replaced operators: what they are made of decides, however they are compiled.
#[test]
fn replaced_operators_that_call_malloc_are_not_probed() {
    let dir = TempDir::new().unwrap();
    let source = "#include <cstdlib>
        #include <new>
        void *operator new(std::size_t n) { void *p = malloc(n ? n : 1); if (!p) throw std::bad_alloc(); return p; }
        void operator delete(void *p) noexcept { if (p) free(p); }
        void operator delete(void *p, std::size_t) noexcept { operator delete(p); }
        int main() { delete new int; return 0; }";
    for arguments in [
        &["-O2"][..],
        &["-O2", "-fno-plt"],
        &["-O2", "-no-pie", "-fcf-protection=full"],
        &["-O2", "-Wl,-z,now"],
        &["-O2", "-static"],
    ] {
        let path = compile(&dir, "g++", arguments, source);
        match discover_in(&path) {
            Discovery::Absent(absence) => assert_eq!(absence, Absence::Imported, "{arguments:?}"),
            Discovery::Found(allocator) => {
                assert!(
                    arguments.contains(&"-static"),
                    "{arguments:?}: {:?}",
                    names(&allocator)
                );
                assert!(names(&allocator).iter().all(|name| !name.starts_with("_Z")));
            }
        }
    }
}

#[test]
fn operators_with_a_header_are_watched_from_inside() {
    let dir = TempDir::new().unwrap();
    let source = "#include <cstdlib>
        void *operator new(std::size_t n) { return static_cast<char *>(malloc(n + 16)) + 16; }
        void operator delete(void *p) noexcept { free(static_cast<char *>(p) - 16); }
        void operator delete(void *p, std::size_t) noexcept { free(static_cast<char *>(p) - 16); }
        int main() { delete new int; return 0; }";
    let path = compile(&dir, "g++", &["-O2"], source);
    assert_eq!(discover_in(&path), Discovery::Absent(Absence::Imported));
}

#[test]
fn operators_with_a_pool_are_watched_from_outside() {
    let dir = TempDir::new().unwrap();
    let source = "#include <cstdlib>
        struct Block { Block *next; } *pool;
        void *operator new(std::size_t n) {
            if (n > 64) return malloc(n);
            if (!pool) return malloc(64);
            Block *block = pool; pool = block->next; return block;
        }
        void operator delete(void *p) noexcept { auto *block = (Block *)p; block->next = pool; pool = block; }
        void operator delete(void *p, std::size_t n) noexcept { if (n > 64) free(p); else operator delete(p); }
        int main() { delete new int; return 0; }";
    let path = compile(&dir, "g++", &["-O2", "-fno-inline"], source);
    let allocator = found_in(&path);
    assert_eq!(function(&allocator, "_Znwm").kind, kind::MALLOC);
    assert_eq!(function(&allocator, "_ZdlPv").kind, kind::FREE);
    // Either way another function takes the block as it came.
    assert_eq!(names(&allocator).len(), 2, "{:?}", names(&allocator));
}
