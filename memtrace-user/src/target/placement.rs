//! What to probe in one process: the allocators of all the objects it has mapped.
//!
//! Every allocator counts, not only the one that the dynamic linker resolves `malloc` to. Preloaded allocators and
//! interposers are called by the program, libc's own is called by the interposer and, as `__libc_malloc`, by
//! libc itself; prefixed families are called directly by those who linked them; and a library can be bound to
//! another `malloc` than the program (`RTLD_DEEPBIND`, `-Bsymbolic`, `dlmopen`). The outermost call of a thread is
//! the one that counts, so nothing is counted twice (`allocator/selection.rs`).
//!
//! glibc's dynamic linker contributes the announcement of loaded objects only; `selection` leaves out the
//! `malloc` it exported up to glibc 2.31.

use std::{collections::HashSet, hash::Hash};

use super::allocator::{Allocator, AllocatorFunction};

/// The functions of one file that are probed in a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement<'a, File> {
    /// The file: whatever names it to the caller.
    pub file: File,
    /// What to probe in it.
    pub functions: &'a [AllocatorFunction],
}

/// Lists each file of `mapped` once, in the order of first appearance. A file is mapped several times by one
/// process as a rule, and a probe belongs to a place in the file.
pub fn place<'a, File: Copy + Eq + Hash>(
    mapped: impl IntoIterator<Item = (File, &'a Allocator)>,
) -> Vec<Placement<'a, File>> {
    let mut seen = HashSet::new();
    mapped
        .into_iter()
        .filter(|(file, _)| seen.insert(*file))
        .map(|(file, allocator)| Placement {
            file,
            functions: &allocator.functions,
        })
        .collect()
}
