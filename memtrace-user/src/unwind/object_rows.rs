//! Everything the probe needs of one object, built in memory: rows and pages, with indices that count from 0.
//!
//! Owns what is built from what, and the bounds of it. [`tables`](super::tables) puts the result where the probe
//! reads.

use memtrace_common::stack::{CUT_NO_ROW, CUT_TABLE_FULL};

use super::{
    eh_frame::{self, CfiStats},
    pages,
    rows::RowsBuilder,
    stack_depth::{self, DepthStats},
};
use crate::target::object::Object;

/// Bytes of code of one object; the largest known have a quarter of it. Bounds the page index.
const MAX_CODE: u64 = 1 << 30;

/// Rows of one object and their index.
#[derive(Debug, Default)]
pub struct ObjectRows {
    /// Sorted; see [`memtrace_common::unwind::row`].
    pub rows: Vec<u64>,
    /// See [`pages::build`].
    pub pages: Vec<u64>,
    /// What the call frame information gave.
    pub cfi: CfiStats,
    /// What decoding gave for code without any.
    pub depth: DepthStats,
}

impl ObjectRows {
    /// Builds the rows of an object. An error is the `CUT_*` reason why it has none.
    pub fn build(object: &Object) -> Result<Self, u8> {
        let (image, elf) = object.contents().ok_or(CUT_NO_ROW)?;
        let code_end = elf.code_end();
        if code_end > MAX_CODE {
            return Err(CUT_TABLE_FULL);
        }
        let mut builder = RowsBuilder::default();
        let cfi = eh_frame::add_rows(image, elf, &mut builder);
        let depth = stack_depth::add_rows(image, elf, &mut builder);
        let rows = builder.finish();
        log::debug!(
            "{}: {} rows, {cfi:?}, {depth:?}",
            object.path.display(),
            rows.len()
        );
        if rows.is_empty() {
            return Err(CUT_NO_ROW);
        }
        let pages = pages::build(&rows, code_end);
        Ok(Self {
            rows,
            pages,
            cfi,
            depth,
        })
    }

    /// The row in force at `rel`.
    #[must_use]
    pub fn lookup(&self, rel: u32) -> Option<u64> {
        pages::lookup(&self.rows, &self.pages, rel)
    }
}

#[cfg(test)]
mod tests;
