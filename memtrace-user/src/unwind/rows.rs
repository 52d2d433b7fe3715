//! The rows of one object: for each range of its code, how to find the caller's frame.
//!
//! Owns the rule as a type, the order of rows, and the merging of functions that come in any order and may overlap.
//! What a row's bits mean stands in [`memtrace_common::unwind`].

use std::ops::Range;

use memtrace_common::unwind::{
    ROW_CFA_AT_RBP, ROW_END, ROW_NONE, ROW_PLT_10, ROW_PLT_11, ROW_RBP, ROW_RSP, ROW_SIGNAL,
    ROW_UNSUPPORTED, row,
};

/// How to find the caller's frame from some address on. A row without its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    kind: u8,
    rbp_words: i8,
    cfa_words: u32,
}

impl Rule {
    /// There is no code here, or nothing is known of it.
    pub const NONE: Self = Self::plain(ROW_NONE);
    /// The frame has no caller.
    pub const END: Self = Self::plain(ROW_END);
    /// The frame is a signal handler's return.
    pub const SIGNAL: Self = Self::plain(ROW_SIGNAL);
    /// The rule is known, but not one that the walk follows.
    pub const UNSUPPORTED: Self = Self::plain(ROW_UNSUPPORTED);
    /// A PLT stub of the classic layout.
    pub const PLT_11: Self = Self::plain(ROW_PLT_11);
    /// A PLT stub that begins with `endbr64`.
    pub const PLT_10: Self = Self::plain(ROW_PLT_10);

    const fn plain(kind: u8) -> Self {
        Self {
            kind,
            rbp_words: 0,
            cfa_words: 0,
        }
    }

    /// CFA = rsp + `cfa_off`, rbp saved at CFA + `rbp_off` (0: unchanged). Offsets in bytes.
    /// [`UNSUPPORTED`](Self::UNSUPPORTED) when they do not fit a row.
    #[must_use]
    pub fn from_rsp(cfa_off: i64, rbp_off: i64) -> Self {
        Self::packed(ROW_RSP, cfa_off, rbp_off)
    }

    /// CFA = rbp + `cfa_off`, rbp saved at CFA + `rbp_off` (0: unchanged). As above.
    #[must_use]
    pub fn from_rbp(cfa_off: i64, rbp_off: i64) -> Self {
        Self::packed(ROW_RBP, cfa_off, rbp_off)
    }

    /// CFA = \*(rbp - `distance`), the caller's rbp = \*rbp. As above.
    #[must_use]
    pub fn at_rbp(distance: i64) -> Self {
        Self::packed(ROW_CFA_AT_RBP, distance, 0)
    }

    fn packed(kind: u8, cfa_off: i64, rbp_off: i64) -> Self {
        const MAX_CFA_WORDS: u32 = (1 << 20) - 1;
        let cfa_words = u32::try_from(cfa_off / 8)
            .ok()
            .filter(|&words| words <= MAX_CFA_WORDS);
        let rbp_words = i8::try_from(rbp_off / 8).ok();
        match (cfa_words, rbp_words) {
            (Some(cfa_words), Some(rbp_words)) if cfa_off % 8 == 0 && rbp_off % 8 == 0 => Self {
                kind,
                rbp_words,
                cfa_words,
            },
            _ => Self::UNSUPPORTED,
        }
    }

    /// The row that puts the rule in force at `rel`.
    #[must_use]
    pub fn at(self, rel: u32) -> u64 {
        row(rel, self.kind, self.rbp_words, self.cfa_words)
    }
}

/// Collects the rows of functions in any order and puts them into one sorted list.
#[derive(Debug, Default)]
pub struct RowsBuilder {
    functions: Vec<FunctionRows>,
    rows: Vec<u64>,
}

/// A range of code and its rows, as a range of [`RowsBuilder::rows`].
#[derive(Debug)]
struct FunctionRows {
    code: Range<u32>,
    rows: Range<usize>,
}

impl RowsBuilder {
    /// Begins a function; the rows that follow are its own. An empty range is allowed and adds nothing.
    pub fn begin(&mut self, code: Range<u32>) {
        let at = self.rows.len();
        self.functions.push(FunctionRows { code, rows: at..at });
    }

    /// Adds a row to the function that was begun last. Rows outside of it and rows that go backwards are damage, and
    /// left out.
    pub fn push(&mut self, rel: u32, rule: Rule) {
        let Some(function) = self.functions.last_mut() else {
            return;
        };
        let own = &mut self.rows[function.rows.start..];
        if !function.code.contains(&rel) {
            return;
        }
        match own.last_mut() {
            Some(last) if rel_of(*last) > rel => return,
            // Several rules for one address: the last one holds.
            Some(last) if rel_of(*last) == rel => *last = rule.at(rel),
            _ => self.rows.push(rule.at(rel)),
        }
        function.rows.end = self.rows.len();
    }

    /// Rows collected so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether nothing was collected.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The parts of `code` that no function covers, in order.
    #[must_use]
    pub fn gaps(&mut self, code: Range<u32>) -> Vec<Range<u32>> {
        self.sort();
        let mut gaps = Vec::new();
        let mut from = code.start;
        for function in &self.functions {
            if function.code.start > from {
                gaps.push(from..function.code.start.min(code.end));
            }
            from = from.max(function.code.end);
        }
        gaps.push(from..code.end);
        gaps.retain(|gap| !gap.is_empty());
        gaps
    }

    /// The sorted rows, [`Rule::NONE`] between functions, without a row that repeats the one before it.
    ///
    /// Where functions overlap, the one that begins later wins, and after its end there is nothing: that is what a
    /// binary search among their beginnings finds, which is how every unwinder looks a function up.
    #[must_use]
    pub fn finish(mut self) -> Vec<u64> {
        self.sort();
        let mut out = Vec::with_capacity(self.rows.len() + self.functions.len());
        let ends = self
            .functions
            .iter()
            .skip(1)
            .map(|next| next.code.start)
            .chain([u32::MAX]);
        for (function, next_start) in self.functions.iter().zip(ends) {
            let end = function.code.end.min(next_start);
            for &row in &self.rows[function.rows.clone()] {
                if rel_of(row) < end {
                    push_if_new(&mut out, row);
                }
            }
            if function.code.end < next_start {
                push_if_new(&mut out, Rule::NONE.at(end));
            }
        }
        out
    }

    /// Sorts the functions by their beginnings and keeps the first of several with one beginning.
    fn sort(&mut self) {
        self.functions.retain(|function| !function.code.is_empty());
        self.functions.sort_by_key(|function| function.code.start);
        self.functions.dedup_by_key(|function| function.code.start);
    }
}

fn rel_of(row: u64) -> u32 {
    memtrace_common::unwind::row_rel(row)
}

/// Appends a row unless the same rule is in force already.
fn push_if_new(rows: &mut Vec<u64>, row: u64) {
    let rule_bits = |row: u64| row as u32;
    if rows
        .last()
        .is_none_or(|&last| rule_bits(last) != rule_bits(row))
    {
        rows.push(row);
    }
}

#[cfg(test)]
mod tests;
