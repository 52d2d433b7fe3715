//! Where a code object keeps its names.

/// Offsets in `PyCodeObject` and in `str`, and how lines are told: what reading a code object needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CodeLayout {
    /// Address of `PyCode_Type`: a code object's type.
    pub code_type: u64,
    /// `co_filename`
    pub filename: u32,
    /// `co_name`
    pub name: u32,
    /// `co_qualname`; none before 3.11.
    pub qualname: Option<u32>,
    /// `co_firstlineno`
    pub first_line: u32,
    /// `co_lnotab`, `co_linetable`
    pub line_table: u32,
    /// What the line table looks like.
    pub lines: LineFormat,
    /// Where the characters of an ASCII `str` begin; others begin [`CodeLayout::wide_text`] bytes in.
    pub ascii_text: u32,
    /// Where the characters of a compact non-ASCII `str` begin.
    pub wide_text: u32,
}

/// The three forms of line tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineFormat {
    /// `co_lnotab` (3.8, 3.9): pairs of address and line steps (`Objects/lnotab_notes.txt`).
    Lnotab,
    /// 3.10's `co_linetable`: pairs of range and line steps.
    Ranges,
    /// 3.11 and newer: location entries (`Objects/locations.md`, `InternalDocs/code_objects.md`).
    Locations,
}
