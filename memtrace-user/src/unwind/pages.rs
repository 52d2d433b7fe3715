//! The index of text pages over an object's rows, and the search the probe makes through both.
//!
//! A page is 256 bytes of code. Its entry names the few rows that can apply there, so that a search takes three steps
//! instead of sixteen.

use memtrace_common::{
    limits::PAGE_SHIFT,
    unwind::{page, row_rel},
};

/// Builds the index for `code_end` bytes of code. Indices in the entries count from the first row of `rows`.
///
/// Entry `lo..hi`: `lo` is the row in force at the page's first byte (or the first row, when there is none yet), `hi`
/// the first row behind the page.
#[must_use]
pub fn build(rows: &[u64], code_end: u64) -> Vec<u64> {
    let count = code_end.div_ceil(1 << PAGE_SHIFT);
    let mut next = 0;
    (0..count)
        .map(|number| {
            let first = number << PAGE_SHIFT;
            let last = first + (1 << PAGE_SHIFT) - 1;
            let lo = advance(rows, next, first).saturating_sub(1);
            next = advance(rows, next, last);
            page(lo as u32, next as u32)
        })
        .collect()
}

/// Number of rows that begin at or before `rel`, given that `from` of them do.
fn advance(rows: &[u64], from: usize, rel: u64) -> usize {
    let more = rows[from..]
        .iter()
        .take_while(|&&row| u64::from(row_rel(row)) <= rel);
    from + more.count()
}

/// The row in force at `rel`; none outside the index and before the first row. What the probe does, in plain words.
#[must_use]
pub fn lookup(rows: &[u64], pages: &[u64], rel: u32) -> Option<u64> {
    let entry = pages.get((rel >> PAGE_SHIFT) as usize)?;
    let (lo, hi) = (*entry as u32 as usize, (entry >> 32) as usize);
    let candidates = rows.get(lo..hi)?;
    let before = candidates.partition_point(|&row| row_rel(row) <= rel);
    candidates[..before].last().copied()
}

#[cfg(test)]
mod tests {
    use memtrace_common::limits::ROW_SEARCH_STEPS;
    use proptest::prelude::*;

    use super::*;
    use crate::unwind::rows::Rule;

    proptest! {
        #[test]
        fn the_search_finds_what_a_scan_finds(
            rels in prop::collection::btree_set(0u32..3000, 0..400),
            code_end in 0u64..4000,
            rel in 0u32..5000,
        ) {
            let rows: Vec<u64> = rels.iter().map(|&rel| Rule::from_rsp(i64::from(rel) * 8, 0).at(rel)).collect();
            let pages = build(&rows, code_end);
            let scanned = rows.iter().rev().find(|&&row| row_rel(row) <= rel).copied();
            // Behind the code's last page there is nothing.
            let expected = scanned.filter(|_| u64::from(rel) < code_end.next_multiple_of(256));
            prop_assert_eq!(lookup(&rows, &pages, rel), expected);
            for entry in pages {
                let candidates = (entry >> 32) - (entry & 0xffff_ffff);
                prop_assert!(candidates < 1 << ROW_SEARCH_STEPS);
            }
        }
    }
}
