//! The names that allocators give their functions, and what each says about its object.
//!
//! A table and nothing else: [`lookup`] maps a symbol name to its [`Name`]. What a function takes and
//! returns is its kind (`memtrace_common::kind`).
//!
//! Not listed, because they only wrap a listed function or their arguments fit no kind: `strdup` and its
//! like, mimalloc's `mi_heap_*` (the heap comes first), jemalloc's `xallocx` (grows in place).

use std::{collections::HashMap, sync::LazyLock};

use memtrace_common::kind;

/// What is known about a symbol from its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Name {
    /// A function of the allocator.
    Function(Function),
    /// A function that never returns; code behind its call is not reached.
    NoReturn,
    /// A symbol that only one kind of object has.
    Mark(Mark),
}

/// An allocator function as its name describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Function {
    /// `memtrace_common::kind`.
    pub(super) kind: u32,
    /// Whose name it is.
    pub(super) space: NameSpace,
    /// Whether it throws `std::bad_alloc` when it fails.
    pub(super) throws: bool,
}

/// To whom a name belongs, most familiar first: of several names of one address the first is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum NameSpace {
    /// The C library's names, which any object may define anew.
    C,
    /// `operator new` and `operator delete`.
    Operator,
    /// An allocator's own prefix: only that allocator defines them.
    Prefixed,
    /// `__libc_malloc` and the like: glibc's second names, which some allocators define too.
    Libc,
}

/// What a telltale symbol says about the object that defines it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    /// glibc's libc, shared or static.
    Glibc,
    /// musl.
    Musl,
    /// jemalloc without a prefix.
    Jemalloc,
    /// jemalloc under a prefix.
    PrefixedJemalloc,
    /// gperftools' or Google's tcmalloc.
    Tcmalloc,
    /// mimalloc.
    Mimalloc,
    /// glibc's dynamic linker.
    Linker,
}

/// The C interface, and what jemalloc and tcmalloc add to it.
const C: [(&str, u32); 17] = [
    ("malloc", kind::MALLOC),
    ("calloc", kind::CALLOC),
    ("realloc", kind::REALLOC),
    ("reallocarray", kind::REALLOCARRAY),
    ("free", kind::FREE),
    ("cfree", kind::FREE),
    ("posix_memalign", kind::POSIX_MEMALIGN),
    ("aligned_alloc", kind::MEMALIGN),
    ("memalign", kind::MEMALIGN),
    ("valloc", kind::MALLOC),
    ("pvalloc", kind::PVALLOC),
    ("free_sized", kind::FREE),
    ("free_aligned_sized", kind::FREE),
    ("mallocx", kind::MALLOC),
    ("rallocx", kind::REALLOC),
    ("dallocx", kind::FREE),
    ("sdallocx", kind::FREE),
];

/// Prefixes under which the whole C interface is found: jemalloc's usual ones, Rust's jemalloc, tcmalloc,
/// mimalloc, and glibc's second names.
const PREFIXES: [(&str, NameSpace); 5] = [
    ("je_", NameSpace::Prefixed),
    ("_rjem_", NameSpace::Prefixed),
    ("tc_", NameSpace::Prefixed),
    ("mi_", NameSpace::Prefixed),
    ("__libc_", NameSpace::Libc),
];

/// mimalloc's and tcmalloc's own functions. In mimalloc the size comes first and the alignment behind it.
const OWN: [(&str, u32); 41] = [
    ("mi_malloc_small", kind::MALLOC),
    ("mi_zalloc", kind::MALLOC),
    ("mi_zalloc_small", kind::MALLOC),
    ("mi_mallocn", kind::CALLOC),
    ("mi_malloc_aligned", kind::MALLOC),
    ("mi_malloc_aligned_at", kind::MALLOC),
    ("mi_zalloc_aligned", kind::MALLOC),
    ("mi_zalloc_aligned_at", kind::MALLOC),
    ("mi_calloc_aligned", kind::CALLOC),
    ("mi_calloc_aligned_at", kind::CALLOC),
    ("mi_reallocn", kind::REALLOCARRAY),
    ("mi_reallocf", kind::REALLOC),
    ("mi_rezalloc", kind::REALLOC),
    ("mi_recalloc", kind::REALLOCARRAY),
    ("mi_realloc_aligned", kind::REALLOC),
    ("mi_realloc_aligned_at", kind::REALLOC),
    ("mi_rezalloc_aligned", kind::REALLOC),
    ("mi_rezalloc_aligned_at", kind::REALLOC),
    ("mi_recalloc_aligned", kind::REALLOCARRAY),
    ("mi_recalloc_aligned_at", kind::REALLOCARRAY),
    ("mi_new", kind::MALLOC),
    ("mi_new_nothrow", kind::MALLOC),
    ("mi_new_aligned", kind::MALLOC),
    ("mi_new_aligned_nothrow", kind::MALLOC),
    ("mi_new_n", kind::CALLOC),
    ("mi_new_realloc", kind::REALLOC),
    ("mi_new_reallocn", kind::REALLOCARRAY),
    ("mi_free_size", kind::FREE),
    ("mi_free_size_aligned", kind::FREE),
    ("mi_free_aligned", kind::FREE),
    ("tc_malloc_skip_new_handler", kind::MALLOC),
    ("tc_new", kind::MALLOC),
    ("tc_new_nothrow", kind::MALLOC),
    ("tc_new_aligned", kind::MALLOC),
    ("tc_new_aligned_nothrow", kind::MALLOC),
    ("tc_newarray", kind::MALLOC),
    ("tc_newarray_nothrow", kind::MALLOC),
    ("tc_newarray_aligned", kind::MALLOC),
    ("tc_newarray_aligned_nothrow", kind::MALLOC),
    ("_dl_debug_state", kind::MAPS_CHANGED),
    ("__posix_memalign", kind::POSIX_MEMALIGN),
];

/// tcmalloc's names for the operators delete, behind `tc_delete` and `tc_deletearray`.
const TC_DELETE_SUFFIXES: [&str; 6] = [
    "",
    "_sized",
    "_nothrow",
    "_aligned",
    "_sized_aligned",
    "_aligned_nothrow",
];

/// Mangled parameters behind `_Znwm` and `_Znam` (Itanium C++ ABI 5.1).
const NEW_PARAMETERS: [&str; 4] = [
    "",
    "RKSt9nothrow_t",
    "St11align_val_t",
    "St11align_val_tRKSt9nothrow_t",
];

/// Mangled parameters behind `_ZdlPv` and `_ZdaPv`.
const DELETE_PARAMETERS: [&str; 6] = [
    "",
    "m",
    "RKSt9nothrow_t",
    "St11align_val_t",
    "mSt11align_val_t",
    "St11align_val_tRKSt9nothrow_t",
];

/// Telltale symbols. `malloc_info` is glibc's alone; `__dls3` is exported by every shared musl, the other two are
/// in every static program that musl is linked into.
const MARKS: [(&str, Mark); 11] = [
    ("malloc_info", Mark::Glibc),
    ("__dls3", Mark::Musl),
    ("__init_libc", Mark::Musl),
    ("__libc_malloc_impl", Mark::Musl),
    ("mallctl", Mark::Jemalloc),
    ("je_mallctl", Mark::PrefixedJemalloc),
    ("_rjem_mallctl", Mark::PrefixedJemalloc),
    ("tc_version", Mark::Tcmalloc),
    ("MallocExtension_GetStats", Mark::Tcmalloc),
    ("mi_version", Mark::Mimalloc),
    ("_rtld_global", Mark::Linker),
];

/// Functions that end `operator new` when there is no memory.
const NO_RETURN: [&str; 8] = [
    "abort",
    "__assert_fail",
    "__cxa_throw",
    "__cxa_rethrow",
    "__stack_chk_fail",
    "_Unwind_Resume",
    "_ZSt17__throw_bad_allocv",
    "_ZSt9terminatev",
];

/// What `symbol` is known for, if anything.
pub(super) fn lookup(symbol: &[u8]) -> Option<Name> {
    static NAMES: LazyLock<HashMap<Vec<u8>, Name>> = LazyLock::new(all);
    NAMES.get(symbol).copied()
}

/// Whether it is (another name of) an `operator new` that may throw.
fn throws(name: &str) -> bool {
    let news = ["_Znwm", "_Znam", "tc_new", "mi_new"];
    news.iter().any(|new| name.starts_with(new)) && !name.contains("nothrow")
}

fn all() -> HashMap<Vec<u8>, Name> {
    let mut names = HashMap::new();
    let mut add = |name: String, kind: u32, space: NameSpace| {
        let throws = throws(&name);
        let function = Function {
            kind,
            space,
            throws,
        };
        names.insert(name.into_bytes(), Name::Function(function));
    };
    for (name, kind) in C {
        add(name.to_owned(), kind, NameSpace::C);
        for (prefix, space) in PREFIXES {
            add(format!("{prefix}{name}"), kind, space);
        }
    }
    for (name, kind) in OWN {
        add(name.to_owned(), kind, NameSpace::Prefixed);
    }
    for operator in ["_Znwm", "_Znam"] {
        for parameters in NEW_PARAMETERS {
            add(
                format!("{operator}{parameters}"),
                kind::MALLOC,
                NameSpace::Operator,
            );
        }
    }
    for operator in ["_ZdlPv", "_ZdaPv"] {
        for parameters in DELETE_PARAMETERS {
            add(
                format!("{operator}{parameters}"),
                kind::FREE,
                NameSpace::Operator,
            );
        }
    }
    for name in ["tc_delete", "tc_deletearray"] {
        for suffix in TC_DELETE_SUFFIXES {
            add(format!("{name}{suffix}"), kind::FREE, NameSpace::Prefixed);
        }
    }
    // It frees blocks of mimalloc only and leaves others alone; the blocks it frees pass `mi_free`.
    names.remove(b"mi_cfree".as_slice());
    names.extend(MARKS.map(|(name, mark)| (name.as_bytes().to_vec(), Name::Mark(mark))));
    names.extend(NO_RETURN.map(|name| (name.as_bytes().to_vec(), Name::NoReturn)));
    names
}
