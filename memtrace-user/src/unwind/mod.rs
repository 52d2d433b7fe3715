//! Unwind tables: from the files that processes map to the rows and pages that the probe walks by.
//!
//! ```text
//! object ─► eh_frame (call frame information) ─┐
//!        └► stack_depth (code without any)  ───┴► rows ─► pages ─► tables ─► the probe's arrays
//! maps + objects ─► mappings ──────────────────────────────────────────────► the probe's mapping list
//! ```
//!
//! Rows and pages belong to an object and are shared by all processes that map it; only the list of mappings is a
//! process's own. Pure but for reading the object's file: the destination is behind a trait.

pub mod eh_frame;
pub mod mappings;
pub mod object_rows;
pub mod pages;
pub mod rows;
pub mod space;
pub mod stack_depth;
pub mod tables;
