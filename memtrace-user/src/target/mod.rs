//! What runs: the mappings of a process and the files behind them.
//!
//! ```text
//! pid ─► maps (where) ─► store ─► object (what: an open file, its ELF facts)
//!                                      └► allocator (where it is probed)
//! ```
//!
//! Reads /proc and files. Knows nothing of unwind rows, probes or events. Whatever a traced program maps is input
//! that nobody checked: a file that cannot be used is an object with a reason, never an error that ends anything.

pub mod allocator;
pub mod elf;
pub mod image;
pub mod maps;
pub mod object;
pub mod procfs;
pub mod rule;
pub mod store;
pub(crate) mod symbols;
