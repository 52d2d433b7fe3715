//! Unwind tables as the probe reads them: rows sorted by address, an index of text pages, and the objects
//! they belong to.
//!
//! A row is one word, so that a search step loads key and rule at once. Rows and pages are written through a
//! memory map by the collector and never change while an object refers to them.

use crate::limits::MAX_SEGMENTS;

/// A row: `rel` in bits 32..64, kind in 28..32, rbp's place in 20..28, the CFA's offset in 0..20.
///
/// * `rel`: first address, relative to the load base, for which the row holds.
/// * rbp's place: signed count of 8-byte words from the CFA; 0 = rbp is unchanged.
/// * CFA's offset: unsigned count of 8-byte words; for [`ROW_CFA_AT_RBP`] the distance below rbp.
#[must_use]
#[inline(always)]
pub const fn row(rel: u32, kind: u8, rbp_words: i8, cfa_words: u32) -> u64 {
    ((rel as u64) << 32)
        | ((kind as u64 & 0xf) << 28)
        | ((rbp_words as u8 as u64) << 20)
        | (cfa_words as u64 & 0xf_ffff)
}

/// First address of a row.
#[must_use]
#[inline(always)]
pub const fn row_rel(row: u64) -> u32 {
    (row >> 32) as u32
}

/// Kind of a row.
#[must_use]
#[inline(always)]
pub const fn row_kind(row: u64) -> u8 {
    ((row >> 28) & 0xf) as u8
}

/// Where rbp was saved, in words from the CFA.
#[must_use]
#[inline(always)]
pub const fn row_rbp_words(row: u64) -> i8 {
    (row >> 20) as u8 as i8
}

/// Offset of the CFA in words.
#[must_use]
#[inline(always)]
pub const fn row_cfa_words(row: u64) -> u32 {
    (row & 0xf_ffff) as u32
}

/// No rule: a gap between functions, or code without unwind information.
pub const ROW_NONE: u8 = 0;
/// CFA = rsp + 8 * cfa.
pub const ROW_RSP: u8 = 1;
/// CFA = rbp + 8 * cfa.
pub const ROW_RBP: u8 = 2;
/// CFA = *(rbp - 8 * cfa), the caller's rbp = *rbp: a realigned stack (gcc keeps both below the frame it aligned).
pub const ROW_CFA_AT_RBP: u8 = 3;
/// CFA = rsp + 8 + ((rip & 15) >= 11 ? 8 : 0): a PLT stub of the classic layout.
pub const ROW_PLT_11: u8 = 4;
/// CFA = rsp + 8 + ((rip & 15) >= 10 ? 8 : 0): a PLT stub with `endbr64`.
pub const ROW_PLT_10: u8 = 5;
/// A signal handler's return: the interrupted registers lie on the stack (x86-64 `ucontext` at rsp).
pub const ROW_SIGNAL: u8 = 6;
/// The outermost frame: its return address is undefined.
pub const ROW_END: u8 = 7;
/// A rule that needs a register or an expression the walk does not follow.
pub const ROW_UNSUPPORTED: u8 = 8;

/// A page index entry: the rows `lo..hi` hold everything that applies in this page of text.
///
/// Row `lo` may begin before the page: it is the one in force at the page's first byte.
#[must_use]
#[inline(always)]
pub const fn page(lo: u32, hi: u32) -> u64 {
    lo as u64 | ((hi as u64) << 32)
}

wire! {
    /// What identifies a mapped file: exactly what `/proc/PID/maps` prints.
    pub struct FileKey (16) {
        /// The kernel's `s_dev`: major << 20 | minor.
        pub dev: u64,
        /// Inode number.
        pub ino: u64,
    }
}

wire! {
    /// An executable segment of an object: file bytes `file_off..file_off+size` are mapped at `rel`.
    pub struct Segment (24) {
        /// Offset in the file.
        pub file_off: u64,
        /// Bytes; 0 in unused entries.
        pub size: u64,
        /// Address relative to the object's load base.
        pub rel: u64,
    }
}

wire! {
    /// An object whose rows are loaded. Value of the map `OBJECTS`, keyed by [`FileKey`].
    pub struct Object (112) {
        /// Number in frame words.
        pub id: u32,
        /// Index of its first page entry.
        pub page_base: u32,
        /// Number of its page entries; 0 = no rows (`reason` says why).
        pub page_count: u32,
        /// A `CUT_*` reason when `page_count` is 0.
        pub reason: u32,
        /// Its executable segments.
        pub segments: [Segment; MAX_SEGMENTS],
    }
}

wire! {
    /// An executable mapping of a process, in a run of mappings sorted by `start`. Entry of the map `MAPPINGS`.
    pub struct Mapping (40) {
        /// First address.
        pub start: u64,
        /// End (exclusive).
        pub end: u64,
        /// `rel = addr - bias`, wrapping.
        pub bias: u64,
        /// Number of the object in frame words; 0 = no object (`page_count` is 0 then).
        pub object: u32,
        /// Index of the object's first page entry.
        pub page_base: u32,
        /// Number of the object's page entries.
        pub page_count: u32,
        /// A `CUT_*` reason when `page_count` is 0.
        pub reason: u32,
    }
}
