//! CPython from outside: which interpreter a process runs, how its frames are reached, and what its code objects are
//! called.
//!
//! ```text
//! object ─► image ──► runtime ─► wire Python ─► probes       where frames are
//!                       │
//! code address ─► code ─┴► book ─► resolve                    what they are called
//!
//! allocator (where it is probed) ─► heard ─┐
//! pools (what is allocated) ───────────────┴► coverage         whether probes on it see every call
//! ```
//!
//! Owns every fact of CPython's versions and every read of its memory. Does not own probes, nor when a process is looked
//! at. Nothing here stops or writes to a process, and nothing that is read is believed: it may change while it is read, or
//! have been made to mislead.

pub mod allocator;
pub mod book;
pub mod code;
mod code_type;
pub mod coverage;
mod debug_offsets;
mod eval;
mod file;
pub mod hooks;
pub mod image;
pub mod lines;
pub mod memory;
pub mod name;
pub mod obituary;
mod offsets;
mod peek;
pub mod pools;
pub mod presence;
mod refusal;
mod release;
pub mod runtime;
pub mod selftest;
mod slots;
pub mod survey;
pub mod text;
pub mod threads;
pub mod version;
pub mod walk;

pub use self::refusal::Refusal;

#[cfg(test)]
mod tests;
